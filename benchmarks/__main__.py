"""The runner: ``python -m benchmarks [CASE ...]``."""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.cases import CASES, Case
from benchmarks.machine import MEMORY_FILESYSTEMS, describe_machine, describe_versions, filesystem_under
from benchmarks.measure import Measurement, measure
from benchmarks.payloads import WrongDataError
from benchmarks.plot import to_svg
from benchmarks.report import format_table, to_json

SAVED_JSON: Final = Path(__file__).with_name("results.json")
SAVED_SVG: Final = Path(__file__).with_name("results.svg")


class Options(argparse.Namespace):
    """The command line."""

    cases: list[str]
    long: bool
    rounds: int
    records: int | None
    folder: Path
    check: bool
    json: Path | None
    svg: Path | None
    save: bool


def main() -> int:
    """Run the chosen cases and print them. Returns 1 if a contender lost or changed a record; with ``--check`` also
    if a bar is missed or could not be measured.
    """
    options = _parse_options()
    filesystem = filesystem_under(options.folder)
    if filesystem in MEMORY_FILESYSTEMS:
        print(
            f"{options.folder} is on {filesystem}, where nothing is durable: give --folder on a disk.", file=sys.stderr
        )
        return 2
    machine, versions = describe_machine(options.folder), describe_versions()
    for facts in (machine, versions):
        print(", ".join(f"{name} {value}" for name, value in facts.items()))
    try:
        measurements = _measure_all(_chosen_cases(options), options)
    except WrongDataError as error:
        print(f"WRONG DATA: {error}", file=sys.stderr)
        return 1
    for path in _paths(options.json, SAVED_JSON, save=options.save):
        path.write_text(to_json(measurements, machine=machine, versions=versions))
    for path in _paths(options.svg, SAVED_SVG, save=options.save):
        path.write_text(to_svg(measurements, machine=machine, versions=versions))
    missed = sum(not verdict.is_reached for measurement in measurements for verdict in measurement.verdicts())
    if missed:
        print(f"\n{missed} bars MISSED or not measured")
    return 1 if options.check and missed else 0


def _measure_all(cases: Sequence[Case], options: Options) -> list[Measurement]:
    measurements: list[Measurement] = []
    with tempfile.TemporaryDirectory(prefix="streamstore-benchmark-", dir=options.folder) as top:
        library = Path(top, "library")
        library.mkdir()
        for case in cases:
            start_s = time.monotonic()
            with tempfile.TemporaryDirectory(dir=top) as folder:
                measurement = measure(case, Path(folder), library, rounds=options.rounds, records_max=options.records)
            print(format_table(measurement), f"  took {time.monotonic() - start_s:.0f} s", sep="\n", flush=True)
            measurements.append(measurement)
    return measurements


def _parse_options() -> Options:
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Side-by-side measurements.")
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help=f"which to run, of: {', '.join(names)}; default: all but the long ones"
    )
    parser.add_argument("--long", action="store_true", help="also the cases that take minutes and 2 GB each")
    parser.add_argument("--rounds", type=int, default=15, help="rounds, each with every contender (default 15)")
    parser.add_argument("--records", type=int, help="at most so many records a turn and in a store; for a smoke run")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to measure (default: here); on a disk")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed or could not be measured")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the measurements into FILE")
    parser.add_argument("--save", action="store_true", help=f"write {SAVED_JSON.name} and {SAVED_SVG.name} beside this")
    options = parser.parse_args(namespace=Options())
    unknown = set(options.cases) - set(names)
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    if options.rounds < 1 or (options.records is not None and options.records < 1):
        parser.error("--rounds and --records must be at least 1")
    return options


def _chosen_cases(options: Options) -> list[Case]:
    if options.cases:
        return [case for case in CASES if case.name in options.cases]
    return [case for case in CASES if options.long or not case.long]


def _paths(asked: Path | None, saved: Path, *, save: bool) -> list[Path]:
    return [path for path in (asked, saved if save else None) if path is not None]


if __name__ == "__main__":
    sys.exit(main())
