"""The runner: ``python -m benchmarks [CASE ...]``."""

import argparse
import os
import sqlite3
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Final

import lmdb

from benchmarks.cases import CASES, Case
from benchmarks.measure import Measurement, measure
from streamstore.folder import filesystem_of

MEMORY_FILESYSTEMS: Final = ("tmpfs", "ramfs")


def main() -> int:
    """Run the chosen cases and print them. Returns 1 if ``--check`` is given and a case misses its bar."""
    options = _parse_options()
    filesystem = filesystem_of(options.folder, Path("/proc/self/mountinfo").read_text())
    if filesystem in MEMORY_FILESYSTEMS:
        print(
            f"{options.folder} is on {filesystem}, where nothing is durable: give --folder on a disk.", file=sys.stderr
        )
        return 2
    lmdb_version = ".".join(map(str, lmdb.version()))
    print(f"{filesystem}, {os.cpu_count()} CPUs, LMDB {lmdb_version}, SQLite {sqlite3.sqlite_version}")
    missed = 0
    for case in CASES:
        if options.cases and case.name not in options.cases:
            continue
        with tempfile.TemporaryDirectory(prefix="streamstore-benchmark-", dir=options.folder) as folder:
            measurement = measure(case, Path(folder), rounds=options.rounds, puts_per_round=options.puts)
        print(_report(measurement))
        missed += not measurement.reaches_bar()
    return 1 if options.check and missed else 0


def _parse_options() -> argparse.Namespace:
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Side-by-side measurements.")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"which to run, of: {', '.join(names)}; default all")
    parser.add_argument("--rounds", type=int, default=25, help="rounds, each with every contender (default 25)")
    parser.add_argument("--puts", type=int, default=400, help="puts of each contender a round (default 400)")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to measure (default: here); on a disk")
    parser.add_argument("--check", action="store_true", help="exit 1 if a case misses its bar")
    options = parser.parse_args()
    unknown = set(options.cases) - set(names)
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    if options.rounds < 1 or options.puts < 1:
        parser.error("--rounds and --puts must be at least 1")
    return options


def _report(measurement: Measurement) -> str:
    case = measurement.case
    rounds = len(measurement.rates_per_s[case.baseline])
    lines = [
        "",
        f"{case.name}: {_conditions(case)}; {rounds} alternating rounds",
        f"durability: {case.durability}",
        f"{'':18}{'records/s':>12}{'us/record':>12}{'speed / ' + case.baseline:>26}{'quartiles':>16}",
    ]
    for name, rates in measurement.rates_per_s.items():
        median = statistics.median(rates)
        ratios = measurement.ratios(name)
        low, high = _quartiles(ratios)
        ratio = statistics.median(ratios)
        lines.append(f"{name:18}{median:12,.0f}{1e6 / median:12,.0f}{ratio:26.2f}{f'{low:.2f}-{high:.2f}':>16}")
    verdict = "reached" if measurement.reaches_bar() else "MISSED"
    lines.append(f"bar: {case.contender} at least {case.bar} of {case.baseline}: {verdict} ({measurement.ratio():.3f})")
    return "\n".join(lines)


def _conditions(case: Case) -> str:
    producers = "1 producer" if case.producers == 1 else f"{case.producers} producers"
    return f"payload {case.payload_bytes:,} bytes, batch of {case.batch_records}, {producers}"


def _quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4)
    return low, high


if __name__ == "__main__":
    sys.exit(main())
