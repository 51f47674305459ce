"""Hazards: what LMDB is known to do to whoever trusts it, each brought about, in a child with little patience."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tools.torture import plants
from tools.torture.calls import lacks_gcc
from tools.torture.hazards import HAZARDS, Case
from tools.torture.part import Amount, Ordeal, Part
from tools.torture.worker import Ended, run_in_child

__all__ = ["PART"]

ASLEEP_S: Final = 1.0
"""No case waits for so long: one that sleeps longer hangs."""
CASES: Final = tuple((row, name, case) for row, cases in HAZARDS.items() for name, case in cases.items())


def _run(ordeal: Ordeal) -> None:
    for number in ordeal.cases(len(CASES)):
        row, name, case = CASES[number]
        path = ordeal.memory_folder / f"{number}" / "store"
        path.parent.mkdir()
        told = run_in_child(_work_of(case, path, ordeal.plant), asleep_s=ASLEEP_S)
        for sentence in [told.sentence] if isinstance(told, Ended) else told:
            ordeal.found(number, f"{row}, {name}: {sentence}")
        shutil.rmtree(path.parent)
    ordeal.set("rows of the table", len(HAZARDS))


def _work_of(case: Case, path: Path, plant: str | None) -> Callable[[], list[str]]:
    def work() -> list[str]:
        plants.plant(plant)
        return list(case(path))

    return work


PART: Final = Part(
    name="hazards",
    what="Brings about each hazard that LMDB is known for: a typed error or the defence, at once, no hang, no signal.",
    unit="cases",
    sizes={"ci": Amount(), "release": Amount()},
    run=_run,
    lacks=lacks_gcc,
    needs="calls",
)
