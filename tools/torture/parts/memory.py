"""Memory: any allocation in an operation fails, of Python, LMDB or the C library, alone or with those behind it."""

from typing import Final

from tools.torture.allocations import Allocations
from tools.torture.calls import lacks_gcc
from tools.torture.operations import OPERATIONS, Operation
from tools.torture.part import Amount, Ordeal, Part
from tools.torture.trials import Places, Trials, in_child, spread
from tools.torture.truth import Fault

__all__ = ["PART"]

KINDS: Final = {"1 allocation": 1, "3 allocations": 3, "20 allocations": 20}
"""How many fail in a row. Behind 32 that fail while one error is made, Python ends the process itself."""


class _FailingAllocations(Fault):
    """Allocations fail. A call that says no more than that there is no memory has told nothing of its outcome."""

    def __init__(self, library: Allocations, place: int, times: int) -> None:
        self._library = library
        self._place = place
        self._times = times
        self.count = 0

    def may_raise(self, error: BaseException) -> bool:
        # Python has two more words for it: where it forgets to set an error, and where it asks an object for its path.
        return isinstance(error, (MemoryError, SystemError)) or "os.PathLike" in str(error)

    def begin(self) -> None:
        self._library.arm(self._place, times=self._times)

    def end(self) -> None:
        self.count = self._library.disarm()


def _run(ordeal: Ordeal) -> None:
    library = Allocations.in_front()
    trials = Trials(ordeal)
    counts = {operation: _count(ordeal, trials, operation, library) for operation in OPERATIONS}
    ordeal.set("allocations", sum(counts.values()))
    numbers = ordeal.places({operation.name: count for operation, count in counts.items()})
    places = [Places(operation, kind, numbers[operation.name]) for operation in OPERATIONS for kind in KINDS]
    trials.run(spread(ordeal, places), lambda trial: _FailingAllocations(library, trial.place, times=KINDS[trial.kind]))


def _count(ordeal: Ordeal, trials: Trials, operation: Operation, library: Allocations) -> int:
    def count() -> int:
        fault = _FailingAllocations(library, 0, 0)
        trials.make(operation, ordeal.memory_folder / f"count {operation.name}", fault)
        return fault.count

    return in_child(count)


PART: Final = Part(
    name="memory",
    what=(
        "Lets any allocation fail, alone or with those behind it, in every operation, also beside other threads: no "
        "call hangs, what is told of the outcome is so, the next call works, and nothing is left open."
    ),
    unit="failing allocations",
    sizes={"ci": Amount(cases=500), "release": Amount()},
    run=_run,
    lacks=lacks_gcc,
    needs="allocations",
)
