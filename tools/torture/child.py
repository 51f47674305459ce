"""Runs one part in a process of its own: ``python -m tools.torture.child PART ...``.

A line of JSON for each second of progress, and one at the end with the result.
"""

import argparse
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tools.torture.part import SIZES, Amount, Ordeal, Result, Size, run_part
from tools.torture.parts import PARTS
from tools.torture.processes import EARLY_END

PROGRESS_S = 1.0


class Options(argparse.Namespace):
    """The command line."""

    part: str
    seed: int
    folder: Path
    size: Size
    count: int | None
    seconds: float | None
    first: int
    behind: str | None
    only: int | None
    plant: str | None
    first_finding_ends: bool


class Progress:
    """Prints how far the part is, now and then."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def show(self, done: int, total: int | None) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + PROGRESS_S
            sys.stdout.write(f"done {done} {'' if total is None else total}\n")
            sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--size", choices=SIZES, required=True)
    parser.add_argument("--count", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--behind")
    parser.add_argument("--only", type=int)
    parser.add_argument("--plant")
    parser.add_argument("--first-finding-ends", action="store_true")
    options = parser.parse_args(namespace=Options())
    with TemporaryDirectory(prefix=f"streamstore-{options.part}-", dir=options.folder) as folder:
        ordeal = Ordeal(
            options.part,
            seed=options.seed,
            amount=Amount(options.count, options.seconds),
            folder=Path(folder),
            size=options.size,
            plant=options.plant,
            first=options.first,
            only=options.only,
            behind=None if options.behind is None else Result.from_json(options.behind),
            first_finding_ends=options.first_finding_ends,
            on_progress=Progress().show,
        )
        for number in (EARLY_END, signal.SIGINT):  # a part that is interrupted itself does not lose what it has done
            signal.signal(number, lambda _number, _frame: ordeal.end())
        result = run_part(PARTS[options.part], ordeal)
    sys.stdout.write(f"result {result.to_json()}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
