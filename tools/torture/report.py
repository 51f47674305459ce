"""Results as a table for a terminal, as JSON, and as the table of the README."""

import json
from collections.abc import Mapping, Sequence

from tools.torture.part import Result

__all__ = ["format_findings", "format_table", "from_json", "to_json", "to_markdown"]


def format_table(results: Sequence[Result]) -> str:
    """Return a line for each part: what was done, skipped and found."""
    width = 2 + max(len(result.part) for result in results)
    lines = [f"{'part':{width}}{'done':>22}{'skipped':>10}{'found':>8}{'seconds':>10}  figures"]
    for result in results:
        done = f"{result.done:,} {result.unit}"
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


def to_json(results: Sequence[Result], facts: Mapping[str, Mapping[str, str]]) -> str:
    """Return all of it, with the date, the machine and the versions."""
    parts = [json.loads(result.to_json()) for result in results]
    return json.dumps({**facts, "parts": parts}, indent=1) + "\n"


def from_json(text: str) -> list[Result]:
    return [Result.from_json(json.dumps(part)) for part in json.loads(text)["parts"]]


def to_markdown(text: str) -> str:
    """Return the table that the README shows, from saved JSON."""
    facts = json.loads(text)
    lines = ["| Part | Done | Skipped | Found | Figures | Seed |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {result.part} | {result.done:,} {result.unit} | {sum(result.skipped.values()):,} "
        f"| {len(result.findings):,} | {_figures(result)} | {result.seed} |"
        for result in from_json(text)
    ]
    told = {**facts["run"], **facts["machine"], **facts["versions"]}
    lines += ["", ", ".join(f"{name} {value}" for name, value in told.items()) + "."]
    return "\n".join(lines) + "\n"


def _figures(result: Result) -> str:
    return ", ".join(f"{value:,.10g} {name}" for name, value in result.figures.items())
