"""A KeyboardInterrupt at every step of a call at which a signal can raise one, one call after the other."""

import sys
from collections.abc import Callable, Generator

from tests.commits import WAIT_S, in_thread
from tests.test_signals import BreakIn, trace_instructions

__all__ = ["interrupted_everywhere"]


class _Interrupter(BreakIn):
    def _handle(self) -> None:
        raise KeyboardInterrupt


def interrupted_everywhere(call: Callable[[], object]) -> Generator[BaseException | None]:
    """Interrupt the call at its first step, at its second step, and so on; yield how each call ended.

    The last call is not interrupted any more. A call that hangs fails.
    """
    step = 1
    while True:
        interrupter = _Interrupter(step, lambda: None)
        yield in_thread(lambda: _traced(call, interrupter)).result(WAIT_S)  # noqa: B023 - waited for
        if interrupter.steps_left > 0:
            break
        step += 1
    assert step > 10, "the trace function saw nothing"


def _traced(call: Callable[[], object], trace: BreakIn) -> BaseException | None:
    trace_instructions(trace)
    try:
        call()
    except BaseException as error:
        return error
    finally:
        sys.settrace(None)
    return None
