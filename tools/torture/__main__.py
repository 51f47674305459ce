"""The runner: ``python -m tools.torture [PART ...]``. Ctrl-C ends it early, and what was done until then counts.

``--continue`` goes on where the saved runs of the parts have ended, with their seeds: so a release may take more hours
than a machine has in one go.
"""

import argparse
import contextlib
import datetime
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final

from benchmarks.machine import describe_machine, describe_versions
from tools.torture.part import SIZES, Amount, Part, Result, Size
from tools.torture.parts import PARTS
from tools.torture.processes import NO_CASE, PROJECT, EarlyEnd, Task, run_in_process
from tools.torture.report import (
    Row,
    facts_of,
    for_saving,
    format_findings,
    format_table,
    from_json,
    put_into_readme,
    replace_rows,
    to_json,
)

SAVED: Final = Path(__file__).with_name("results.json")
README: Final = PROJECT / "README.md"
TELL_S: Final = 10.0
LISTEN_S: Final = 1.0
VERSIONS_TOLD: Final = ("Python", "LMDB", "py-lmdb", "msgpack")
LONGEST_FIRST: Final = ("power-loss", "alarms", "damage", "malformed", "io-faults")
"""The parts that take longest. They begin before the others, so that none is at work alone at last."""


class Options(argparse.Namespace):
    """The command line."""

    parts: list[str]
    size: Size
    count: int | None
    seconds: float | None
    seed: int
    only: int | None
    plant: str | None
    folder: Path
    jobs: int
    json: Path | None
    save: bool
    continues: bool


def main() -> int:
    """Run the parts and print what was found. Returns 1 if a promise did not hold."""
    options = _parse_options()
    parts = [PARTS[name] for name in options.parts or PARTS]
    behind = {row.result.part: row for row in _saved()} if options.continues else {}
    versions = describe_versions()
    facts = {
        "run": {
            "seed": str(options.seed),
            "commit": _commit(),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        },
        "machine": describe_machine(options.folder),
        "versions": {name: versions[name] for name in VERSIONS_TOLD},
    }
    for of_one_kind in facts.values():
        print(", ".join(f"{name} {value}" for name, value in of_one_kind.items()))
    early_end = EarlyEnd()
    with _ended_by_ctrl_c(early_end), ThreadPoolExecutor(options.jobs) as pool:
        running = {
            part.name: pool.submit(_run, part, options, early_end, behind.get(part.name))
            for part in _longest_first(parts)
        }
        while wait(running.values(), timeout=LISTEN_S).not_done:
            pass  # a signal that comes just as a wait begins does not end it, and is heard at its end
        results = [result for part in parts if (result := running[part.name].result()) is not None]
    print(f"\n{format_table(results)}")
    for result in results:
        if told := format_findings(result):
            print(told)
    rows = [Row(facts_of(facts, behind.get(result.part)), result) for result in results]
    if options.json is not None:
        options.json.write_text(to_json(rows))
    if options.save:
        saved = [row for row in rows if not any(finding.case == NO_CASE for finding in row.result.findings)]
        _save([for_saving(row) for row in saved])
    found = sum(len(result.findings) for result in results)
    skipped = sum(sum(result.skipped.values()) for result in results)
    print(f"\n{found:,} found, {skipped:,} skipped")
    return 1 if found else 0


def _longest_first(parts: list[Part]) -> list[Part]:
    """Return them in the order in which they begin."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    return sorted(parts, key=lambda part: places.get(part.name, len(places)))


@contextlib.contextmanager
def _ended_by_ctrl_c(early_end: EarlyEnd) -> Generator[None]:
    previous = signal.signal(signal.SIGINT, lambda _number, _frame: early_end.ask())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _save(rows: list[Row]) -> None:
    """Put these parts, and no others, in place of what was saved of them. One that broke off has no figures."""
    rows = replace_rows(_saved(), rows, PARTS)
    SAVED.write_text(to_json(rows))
    README.write_text(put_into_readme(README.read_text(), rows))


def _saved() -> list[Row]:
    return from_json(SAVED.read_text()) if SAVED.exists() else []


def _commit() -> str:
    """Return which source this is."""
    git = ["git", "-C", os.fspath(PROJECT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    changes = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "*.py", "*.c"], check=False)
    return head.stdout.strip() + (" changed" if changes.returncode else "")


def _run(part: Part, options: Options, early_end: EarlyEnd, behind: Row | None) -> Result | None:
    """Do the part, or what is left of it. None: nothing was, or an early end was asked for before it began."""
    amount = _amount(part.sizes[options.size], options)
    if behind is not None:
        total = amount.cases or behind.result.total
        if total is not None and behind.result.done >= total:
            print(f"{part.name}: all {total:,} {part.unit} were done before", flush=True)
            return None
        amount = amount._replace(cases=None if amount.cases is None else amount.cases - behind.result.done)
    if early_end.was_asked_for:
        return None
    task = Task(
        part,
        options.seed if behind is None else behind.result.seed,
        amount,
        options.folder.absolute(),
        size=options.size,
        plant=options.plant,
        only=options.only,
        behind=None if behind is None else behind.result,
    )
    print(f"{part.name}: begins" + ("" if behind is None else f" with case {behind.result.done:,}"), flush=True)
    result = run_in_process(task, _teller(part.name), early_end)
    verdict = f"{len(result.findings):,} FOUND" if result.findings else "nothing found"
    print(f"{part.name}: {result.done:,} {part.unit} in {result.seconds:,.0f} s, {verdict}", flush=True)
    return result


def _amount(default: Amount, options: Options) -> Amount:
    if options.count is None and options.seconds is None:
        return default
    return Amount(options.count, options.seconds)


def _teller(name: str) -> Callable[[int, int | None], None]:
    """Return what tells how far a part is, now and then."""
    lock = threading.Lock()
    told_s = time.monotonic()

    def tell(done: int, total: int | None) -> None:
        nonlocal told_s
        with lock:
            if time.monotonic() - told_s < TELL_S:
                return
            told_s = time.monotonic()
        print(f"{name}: {done:,}{'' if total is None else f' of {total:,}'}", flush=True)

    return tell


def _parse_options() -> Options:
    parser = argparse.ArgumentParser(prog="python -m tools.torture", description="What a store survives, counted.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of: {', '.join(PARTS)}; default: all")
    parser.add_argument("--size", choices=SIZES, default="ci", help="how much of each part (default ci)")
    parser.add_argument("--count", type=int, help="so many cases of each part instead")
    parser.add_argument("--seconds", type=float, help="as many cases as fit so many seconds instead")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32), help="what was printed")
    parser.add_argument("--only", type=int, metavar="CASE", help="this case alone, with the seed that found it")
    parser.add_argument("--plant", metavar="FAULT", help="plant a fault of tools/torture/plants.py")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to work (default: here); on a disk")
    parser.add_argument("--jobs", type=int, default=1, help="how many parts run at a time (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE")
    parser.add_argument("--save", action="store_true", help=f"these parts into {SAVED.name} and {README.name}")
    parser.add_argument("--continue", action="store_true", dest="continues", help="go on where the saved runs ended")
    options = parser.parse_args(namespace=Options())
    unknown = set(options.parts) - PARTS.keys()
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if options.jobs < 1:
        parser.error("--jobs must be at least 1")
    if options.save and (options.plant is not None or options.only is not None):
        parser.error("--save is for whole parts of the engine as it is")
    if options.continues and (options.plant is not None or options.only is not None):
        parser.error("--continue is for runs that were saved, of the engine as it is")
    return options


if __name__ == "__main__":
    sys.exit(main())
