"""I/O faults: any call that touches the store fails, once or from then on, in every operation."""

import errno
import shutil
from typing import Final, NamedTuple

from tools.torture import calls
from tools.torture.calls import EVERY_KIND, FOR_EVER, Calls, Kind, lacks_gcc
from tools.torture.operations import OPERATIONS, Operation
from tools.torture.part import Amount, Ordeal, Part
from tools.torture.trials import Places, Trials, in_child, spread
from tools.torture.truth import Fault

__all__ = ["PART"]


class _Kind(NamedTuple):
    """How a call fails, and how many do."""

    fault: calls.Fault
    error: int = errno.EIO
    times: int = 1
    struck: frozenset[Kind] = EVERY_KIND
    """Which calls it strikes."""

    @property
    def may_hide_outcome(self) -> bool:
        """Tell whether an operation may be unable to find out what became of it: more fails than its commit."""
        return self.times > (2 if self.fault is calls.Fault.FAILED_THEN_REFUSED else 1)


WRITES: Final = frozenset({Kind.WRITE})

KINDS: Final = {
    "EIO": _Kind(calls.Fault.REFUSED),
    "ENOSPC": _Kind(calls.Fault.REFUSED, errno.ENOSPC),
    "a call cut short": _Kind(calls.Fault.SHORT),
    "EIO behind the call": _Kind(calls.Fault.FAILED_AFTERWARDS),
    "EIO twice": _Kind(calls.Fault.REFUSED, times=2),
    "EIO behind the call twice": _Kind(calls.Fault.FAILED_AFTERWARDS, times=2),
    "EIO from then on": _Kind(calls.Fault.REFUSED, times=FOR_EVER),
    "ENOSPC from then on": _Kind(calls.Fault.REFUSED, errno.ENOSPC, FOR_EVER),
    "calls cut short from then on": _Kind(calls.Fault.SHORT, times=FOR_EVER),
    "EIO behind the calls from then on": _Kind(calls.Fault.FAILED_AFTERWARDS, times=FOR_EVER),
    "EIO behind a write and in the next": _Kind(calls.Fault.FAILED_THEN_REFUSED, times=2, struck=WRITES),
    "EIO behind a write and in those from then on": _Kind(
        calls.Fault.FAILED_THEN_REFUSED, times=FOR_EVER, struck=WRITES
    ),
}


class _FailingCall(Fault):
    """A call fails, and perhaps those behind it."""

    def __init__(self, library: Calls, kind: _Kind, place: int) -> None:
        self._library = library
        self._kind = kind
        self._place = place
        self.stays = kind.times == FOR_EVER
        self.may_hide_outcome = kind.may_hide_outcome

    def begin(self) -> None:
        kind = self._kind
        self._library.arm(self._place, kind.fault, kinds=kind.struck, error=kind.error, times=kind.times)

    def end(self) -> None:
        self._library.disarm()


class _Count(Fault):
    """Counts calls."""

    def __init__(self, library: Calls, kinds: frozenset[Kind]) -> None:
        self._library = library
        self._kinds = kinds
        self.count = 0

    def begin(self) -> None:
        self._library.arm(0, calls.Fault.NONE, kinds=self._kinds)

    def end(self) -> None:
        self.count = self._library.disarm()


def _run(ordeal: Ordeal) -> None:
    library = Calls.in_front()
    library.watch(ordeal.memory_folder)
    trials = Trials(ordeal)
    places: list[Places] = []
    for operation in OPERATIONS:
        counts = {kinds: _count(ordeal, trials, operation, library, kinds) for kinds in (EVERY_KIND, WRITES)}
        places += [Places(operation, name, counts[kind.struck]) for name, kind in KINDS.items()]
        ordeal.add("calls", counts[EVERY_KIND])
        ordeal.add("writes", counts[WRITES])
    trials.run(spread(ordeal, places), lambda trial: _FailingCall(library, KINDS[trial.kind], trial.place))


def _count(ordeal: Ordeal, trials: Trials, operation: Operation, library: Calls, kinds: frozenset[Kind]) -> int:
    def count() -> int:
        fault = _Count(library, kinds)
        path = ordeal.memory_folder / f"count {operation.name}"
        trials.make(operation, path, fault)
        shutil.rmtree(path)
        return fault.count

    return in_child(count)


PART: Final = Part(
    name="io-faults",
    what=(
        "Lets any call on the files of a store fail, once or from then on, in every operation: a typed error, a true "
        "word about what is stored, and a store that goes on when the fault is gone."
    ),
    unit="faults",
    sizes={"ci": Amount(cases=2_000), "release": Amount()},
    run=_run,
    lacks=lacks_gcc,
    needs="calls",
)
