"""Interrupts: a KeyboardInterrupt at any step of an operation at which Python runs signal handlers."""

import _weakrefset
import dis
import functools
import inspect
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Final

from tools.torture.operations import OPERATIONS, Operation
from tools.torture.part import Amount, Ordeal, Part
from tools.torture.trials import Places, Trials, in_child, spread
from tools.torture.truth import Fault

if TYPE_CHECKING:
    from _typeshed import TraceFunction

__all__ = ["PART"]

KIND: Final = "interrupt"
OURS: Final = str(Path(__file__).parent.parent)
CALLBACKS_OF_REFERENCES: Final = (weakref.__file__, _weakrefset.__file__)
"""Python forgets what is raised in one: it has no caller. Raised by a trace function, it has killed Python once."""
HANDLED_BEHIND: Final = frozenset(
    dis.opmap[name] for name in ("CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD", "RESUME") if name in dis.opmap
)
"""Where Python looks for signals, and some more: behind the call of a function of Python it need not look."""


class _Interrupt(Fault):
    """A trace function that stands in for a signal: it raises at one step of the thread, in any module."""

    def __init__(self, place: int) -> None:
        self.steps = 0
        self._place = place
        self._before: dict[FrameType, int] = {}  # the instruction before the current one

    def may_raise(self, error: BaseException) -> bool:
        return isinstance(error, KeyboardInterrupt)

    def begin(self) -> None:
        frame = inspect.currentframe()
        assert frame is not None
        frame.f_trace_opcodes = True  # Python 3.12 traces instructions once a frame has asked for them
        sys.settrace(self._trace)

    def end(self) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: object) -> "TraceFunction | None":
        if event == "call":
            if frame.f_code.co_filename.startswith(OURS) or _is_callback_of_reference(frame.f_code):
                return None
            frame.f_trace = self._trace  # Python 3.13 asks for it before the next line
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
            self._before[frame] = frame.f_lasti
        elif event == "opcode":
            before = self._before.get(frame, -1)
            self._before[frame] = frame.f_lasti
            if before >= 0 and _is_handled_between(frame.f_code, before, frame.f_lasti):
                self.steps += 1
                if self.steps == self._place:
                    raise KeyboardInterrupt
        elif event == "exception":  # which goes on to its handler at once
            self._before[frame] = -1
        elif event == "return":
            self._before.pop(frame, None)
        return self._trace


def _is_callback_of_reference(code: CodeType) -> bool:
    return code.co_filename in CALLBACKS_OF_REFERENCES and "<locals>" in code.co_qualname


@functools.cache
def _is_handled_between(code: CodeType, before: int, now: int) -> bool:
    """Tell whether Python may run a signal handler between two instructions, so that its error looks like the next's.

    It is an error of the instruction before. Where that ends a block, the next one is in another: such a place is left
    out, and the last one inside the call stands for it.
    """
    handlers = _handlers(code)
    return code.co_code[before] in HANDLED_BEHIND and handlers.get(before) == handlers.get(now)


@functools.cache
def _handlers(code: CodeType) -> dict[int, int]:
    """Return where an error of each instruction goes on: what is not in it leaves the function."""
    handlers: dict[int, int] = {}
    numbers = _numbers(code.co_exceptiontable)
    for start in numbers:
        length, target, _ = next(numbers), next(numbers), next(numbers)
        handlers.update(dict.fromkeys(range(2 * start, 2 * (start + length)), target))
    return handlers


def _numbers(table: bytes) -> Iterator[int]:
    """Iterate over the numbers of a table, six bits in a byte, the highest first; bit 6 tells that another follows."""
    number = 0
    for byte in table:
        number = number << 6 | byte & 0x3F
        if not byte & 0x40:
            yield number
            number = 0


def _run(ordeal: Ordeal) -> None:
    trials = Trials(ordeal)
    counts = {operation: _count(ordeal, trials, operation) for operation in OPERATIONS}
    ordeal.set("steps", sum(counts.values()))
    numbers = ordeal.places({operation.name: count for operation, count in counts.items()})
    places = [Places(operation, KIND, numbers[operation.name]) for operation in OPERATIONS]
    trials.run(spread(ordeal, places), lambda trial: _Interrupt(trial.place))


def _count(ordeal: Ordeal, trials: Trials, operation: Operation) -> int:
    def count() -> int:
        fault = _Interrupt(0)
        trials.make(operation, ordeal.memory_folder / f"count {operation.name}", fault)
        return fault.steps

    return in_child(count)


PART: Final = Part(
    name="interrupts",
    what=(
        "Raises KeyboardInterrupt at any step of any operation at which Python runs signal handlers, also beside other "
        "threads: no call hangs, what is told of the outcome is so, the next call works, and nothing is left open."
    ),
    unit="interrupts",
    sizes={"ci": Amount(cases=500), "release": Amount()},
    run=_run,
)
