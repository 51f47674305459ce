"""Alternating rounds: every contender in every round, in a new order each time, so that noise falls on all alike."""

import random
import statistics
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.cases import Bar, Case, Row
from benchmarks.competitors import reason_left_out
from benchmarks.payloads import WrongDataError
from benchmarks.trials import Setup, Trial

__all__ = ["Measurement", "Verdict", "measure", "quartiles"]

ORDER_SEED: Final = 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a bar. ``values`` are its ratios or figures, one a round; empty if a row of it was left out."""

    bar: Bar
    values: list[float]

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    @property
    def is_reached(self) -> bool:
        return self.median is not None and self.bar.is_reached(self.median)


@dataclass(frozen=True, slots=True)
class Measurement:
    """The figures of each row, one a round. ``left_out`` says why rows have none. ``records`` are those of a turn."""

    case: Case
    figures: dict[str, list[float]]
    records: dict[str, int]
    left_out: dict[str, str]

    @property
    def rounds(self) -> int:
        return max(map(len, self.figures.values()), default=0)

    def ratios(self, name: str, baseline: str) -> list[float]:
        """Return the figure of one row over that of another, round by round; nothing if one was left out."""
        if name not in self.figures or baseline not in self.figures:
            return []
        return [value / base for value, base in zip(self.figures[name], self.figures[baseline], strict=True)]

    def verdicts(self) -> list[Verdict]:
        return [
            Verdict(
                bar,
                self.figures.get(bar.contender, [])
                if bar.baseline is None
                else self.ratios(bar.contender, bar.baseline),
            )
            for bar in self.case.bars
        ]


def measure(case: Case, folder: Path, library: Path, *, rounds: int, records_max: int | None = None) -> Measurement:
    """Run the case in ``folder``. One round more comes first and is thrown away: it warms files and caches.

    ``library`` holds what the cases of one run share. ``records_max`` caps the records of a turn, for a smoke run.
    Raises ``WrongDataError`` if a contender has lost or changed a record.
    """
    order = random.Random(ORDER_SEED)
    left_out = {row.name: reason for row in case.rows if (reason := reason_left_out(row.kind)) is not None}
    rows = [row for row in case.rows if row.name not in left_out]
    setups = {row.name: _setup(case, row, folder, library, records_max) for row in rows}
    figures: dict[str, list[float]] = {row.name: [] for row in rows}
    trials: dict[str, Trial] = {}
    with ExitStack() as opened:
        for row in rows:
            setups[row.name].path.mkdir()
            trials[row.name] = row.start(setups[row.name])
            opened.callback(trials[row.name].close)
        for round_index in range(0 if case.once else -1, 1 if case.once else rounds):
            for name in order.sample(list(trials), len(trials)):
                figure = trials[name].turn()
                if round_index >= 0:
                    figures[name].append(figure)
        for name, trial in trials.items():
            try:
                trial.finish()
            except WrongDataError as error:
                raise WrongDataError(f"{case.name}, {name}: {error}") from error
    return Measurement(case, figures, {name: setup.records for name, setup in setups.items()}, left_out)


def _setup(case: Case, row: Row, folder: Path, library: Path, records_max: int | None) -> Setup:
    records = row.records if records_max is None else min(records_max, row.records)
    return Setup(
        path=folder / str(case.rows.index(row)),
        library=library,
        payload_bytes=case.payload_bytes,
        records=max(records // row.producers, 1) * row.producers,
        producers=row.producers,
        records_max=records_max,
    )


def quartiles(values: list[float]) -> tuple[float, float]:
    """Return the first and the third quartile, of a single value the value."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high
