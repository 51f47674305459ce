"""Alternating rounds: every contender in every round, in a new order each time, so that noise falls on all alike."""

import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cases import Case
from benchmarks.contenders import Contender

__all__ = ["Measurement", "measure"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """Records per second of each contender, one figure a round."""

    case: Case
    rates_per_s: dict[str, list[float]]

    def ratios(self, name: str) -> list[float]:
        """Return the speed of the contender over that of the baseline, round by round."""
        baseline = self.rates_per_s[self.case.baseline]
        return [rate / base for rate, base in zip(self.rates_per_s[name], baseline, strict=True)]

    def ratio(self) -> float:
        return statistics.median(self.ratios(self.case.contender))

    def reaches_bar(self) -> bool:
        return self.ratio() >= self.case.bar


def measure(case: Case, folder: Path, *, rounds: int, puts_per_round: int) -> Measurement:
    """Run the case in ``folder``. One round more comes first and is thrown away: it warms files and caches."""
    data = random.Random(0).randbytes(case.payload_bytes)
    order = random.Random(1)
    contenders: dict[str, Contender] = {}
    rates_per_s: dict[str, list[float]] = {name: [] for name in case.contenders}
    try:
        for index, (name, open_contender) in enumerate(case.contenders.items()):
            path = folder / str(index)
            path.mkdir()
            contenders[name] = open_contender(path)
        for round_index in range(rounds + 1):
            for name in order.sample(list(contenders), len(contenders)):
                rate = _rate_per_s(contenders[name], data, puts_per_round)
                if round_index > 0:
                    rates_per_s[name].append(rate)
        for name, contender in contenders.items():
            stored = contender.count()
            assert stored == (rounds + 1) * puts_per_round, f"{name} kept {stored} records"
    finally:
        for contender in contenders.values():
            contender.close()
    return Measurement(case, rates_per_s)


def _rate_per_s(contender: Contender, data: bytes, puts: int) -> float:
    start_s = time.perf_counter()
    for _ in range(puts):
        contender.put(data)
    return puts / (time.perf_counter() - start_s)
