"""Results as a table for a terminal, as JSON, and as the table of the README."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from tools.torture.part import Finding, Result

__all__ = [
    "Facts",
    "Row",
    "facts_of",
    "for_saving",
    "format_findings",
    "format_table",
    "from_json",
    "put_into_readme",
    "replace_rows",
    "to_json",
    "to_markdown",
]

Facts = Mapping[str, Mapping[str, str]]
"""When it was run, on what machine, and with which versions: ``run``, ``machine``, ``versions``."""
TABLE_BEGIN: Final = "<!-- The table of tools/torture/results.json: python -m tools.torture --save writes both. -->"
TRACEBACK: Final = re.compile(r"(?: Traceback \(most recent call last\):| at)\s+File \"")
TABLE_END: Final = "<!-- The end of the table. -->"


class Row(NamedTuple):
    """What became of a part, and where and when that was."""

    facts: Facts
    result: Result


def format_table(results: Sequence[Result]) -> str:
    """Return a line for each part: what was done, skipped and found."""
    width = 2 + max((len(result.part) for result in results), default=len("part"))
    lines = [f"{'part':{width}}{'done':>22}{'skipped':>10}{'found':>8}{'seconds':>10}  figures"]
    for result in results:
        done = _done(result)
        lines.append(
            f"{result.part:{width}}{done:>22}{sum(result.skipped.values()):>10,}{len(result.findings):>8,}"
            f"{result.seconds:>10,.0f}  {_figures(result)}"
        )
    return "\n".join(lines)


def format_findings(result: Result) -> str:
    """Return what was found and skipped, with the command that makes a finding again."""
    lines = [f"SKIPPED {result.part}: {count:,}: {reason}" for reason, count in result.skipped.items()]
    for case, sentence in result.findings:
        again = f"python -m tools.torture {result.part} --seed {result.seed}" + (f" --only {case}" if case >= 0 else "")
        lines.append(f"FOUND {result.part}: {sentence}\n      again: {again}")
    return "\n".join(lines)


def to_json(rows: Sequence[Row]) -> str:
    """Return everything that was counted and measured, each part with where and when."""
    parts = [{**row.facts, "result": json.loads(row.result.to_json())} for row in rows]
    return json.dumps({"parts": parts}, indent=1) + "\n"


def from_json(text: str) -> list[Row]:
    rows: list[Row] = []
    for facts in json.loads(text)["parts"]:
        result = Result.from_json(json.dumps(facts.pop("result")))
        rows.append(Row(facts, result))
    return rows


def for_saving(row: Row) -> Row:
    """Return the row with nothing of a traceback but how it ends: in between, it names places of this machine."""
    findings = (Finding(case, _without_traceback(sentence)) for case, sentence in row.result.findings)
    return Row(row.facts, replace(row.result, findings=tuple(findings)))


def replace_rows(saved: Sequence[Row], new: Sequence[Row], order: Iterable[str]) -> list[Row]:
    """Return the rows of the parts in their order: the new ones, and of the others what was saved."""
    by_part = {row.result.part: row for row in (*saved, *new)}
    return [by_part[part] for part in order if part in by_part]


def facts_of(facts: Facts, behind: Row | None) -> Facts:
    """Return the facts of a run that goes on from another, if it does: the seed is that of both, the rest is named."""
    if behind is None:
        return facts
    before = behind.facts["run"]
    run = {name: ", ".join(dict.fromkeys((*before[name].split(", "), value))) for name, value in facts["run"].items()}
    return {**facts, "run": {**run, "seed": before["seed"]}}


def to_markdown(rows: Sequence[Row]) -> str:
    """Return the table that the README shows."""
    lines = ["| Part | Done | Found | Skipped | Figures | Run |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row.result.part} | {_done(row.result)} | {len(row.result.findings):,} "
        f"| {_skipped(row.result)} | {_figures(row.result)} | {_told(row.facts['run'])} |"
        for row in rows
    ]
    places = dict.fromkeys(_told({**row.facts["machine"], **row.facts["versions"]}) for row in rows)
    return "\n".join([*lines, "", *(f"On {place}." for place in places)]) + "\n"


def put_into_readme(readme: str, rows: Sequence[Row]) -> str:
    """Return the README with the table of these rows in place of the one that it shows."""
    before, begin, rest = readme.partition(TABLE_BEGIN)
    _, end, behind = rest.partition(TABLE_END)
    assert begin
    assert end
    return f"{before}{begin}\n{to_markdown(rows)}{end}{behind}"


def _done(result: Result) -> str:
    """Return how much was done; and how much was to be, where that is more."""
    all_of_it = "" if result.total in (None, result.done) else f" of {result.total:,}"
    return f"{result.done:,}{all_of_it} {result.unit}"


def _skipped(result: Result) -> str:
    return ", ".join(f"{count:,}: {reason}" for reason, count in result.skipped.items()) or "0"


def _told(facts: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def _figures(result: Result) -> str:
    return ", ".join(f"{value:,.10g} {name}" for name, value in result.figures.items())


def _without_traceback(sentence: str) -> str:
    start, *traceback = TRACEBACK.split(sentence, 1)
    _, line_break, last = sentence.rstrip().rpartition("\n")
    return f"{start} {last}" if traceback and line_break and not last.startswith(" ") else start
