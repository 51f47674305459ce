"""Laws of the receipt: a ``concurrent.futures.Future`` in every respect, wherever looking and settling meet.

They meet at every single bytecode here: one of the two is stopped there, and the other runs.
"""

import asyncio
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, InvalidStateError, as_completed, wait
from queue import SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING

import pytest

from streamstore.receipt import Receipt

if TYPE_CHECKING:
    from _typeshed import TraceFunction

WAIT_S = 30.0
BLOCKED_S = 0.002
LATE_S = 0.2
Look = Callable[[Receipt[int]], object]


def be_called(receipt: Receipt[int]) -> int:
    results: SimpleQueue[int] = SimpleQueue()
    receipt.add_done_callback(lambda future: results.put(future.result(0)))
    return results.get(timeout=WAIT_S)


def await_wrapped(receipt: Receipt[int]) -> int:
    async def wrapped() -> int:
        return await asyncio.wait_for(asyncio.wrap_future(receipt), WAIT_S)

    return asyncio.run(wrapped())


def result(receipt: Receipt[int]) -> int:
    return receipt.result(WAIT_S)


def no_exception(receipt: Receipt[int]) -> bool:
    return receipt.exception(WAIT_S) is None


def wait_for_first(receipt: Receipt[int]) -> bool:
    return wait([receipt], WAIT_S, FIRST_COMPLETED).done == {receipt}


def wait_for_all_of_two(receipt: Receipt[int]) -> bool:
    """Must not take the receipt, settled while it is looked at, for both."""
    other: Receipt[int] = Receipt()
    timer = threading.Timer(2 * BLOCKED_S, other.settle, [1])
    timer.start()
    waited = wait([receipt, other], WAIT_S, ALL_COMPLETED)
    timer.join()
    return waited.done == {receipt, other}


def take_completed(receipt: Receipt[int]) -> list[int]:
    return [future.result(0) for future in as_completed([receipt], WAIT_S)]


LOOKS: list[tuple[Look, object]] = [
    (result, 7),
    (no_exception, True),
    (wait_for_first, True),
    (wait_for_all_of_two, True),
    (take_completed, [7]),
    (be_called, 7),
]
every_look = pytest.mark.parametrize(("look", "seen"), LOOKS)


def at_bytecode(number: int, call: Callable[[], object], meanwhile: Callable[[], object]) -> object:
    """Return what ``call`` returns, ``meanwhile`` having run before its bytecode of that number, if it has so many."""
    left = number

    def trace(frame: FrameType, event: str, argument: object) -> "TraceFunction":
        nonlocal left
        del argument
        frame.f_trace_opcodes = frame.f_code.co_filename.endswith(("receipt.py", "_base.py"))
        if event == "opcode":
            left -= 1
            if left == -1:
                meanwhile()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return call()
    finally:
        sys.settrace(before)


def in_thread(call: Callable[[], object]) -> threading.Thread:
    """Run it in another thread, to its end or to where it must wait for this one."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(BLOCKED_S)
    return thread


@every_look
def test_who_looks_after_the_settling_sees_the_result(look: Look, seen: object) -> None:
    receipt: Receipt[int] = Receipt()
    receipt.settle(7)
    assert look(receipt) == seen
    assert (receipt.done(), receipt.running(), receipt.cancelled(), receipt.cancel()) == (True, False, False, False)
    assert "finished returned int" in repr(receipt)
    assert await_wrapped(receipt) == 7


@every_look
def test_who_looks_during_the_settling_sees_the_result(look: Look, seen: object) -> None:
    number = 0
    while look_at_bytecode(number, look, seen):
        number += 1
    assert number > 5


def look_at_bytecode(number: int, look: Look, seen: object) -> bool:
    """Tell whether the settling has so many."""
    receipt: Receipt[int] = Receipt()
    found: list[object] = []
    lookers: list[threading.Thread] = []
    at_bytecode(
        number, lambda: receipt.settle(7), lambda: lookers.append(in_thread(lambda: found.append(look(receipt))))
    )
    for looker in lookers:
        looker.join(WAIT_S)
    assert found == [seen] * len(lookers)
    return bool(lookers)


@every_look
def test_who_is_looking_when_it_is_settled_sees_the_result(look: Look, seen: object) -> None:
    number = 0
    while settle_at_bytecode(number, look, seen):
        number += 1
    assert number > 20


def settle_at_bytecode(number: int, look: Look, seen: object) -> bool:
    """Tell whether the look has so many before it waits."""
    receipt: Receipt[int] = Receipt()
    once = threading.Semaphore(1)
    settlers: list[threading.Thread] = []

    def settle() -> None:
        if once.acquire(blocking=False):
            receipt.settle(7)

    late = threading.Timer(LATE_S, settle)
    late.start()
    assert at_bytecode(number, lambda: look(receipt), lambda: settlers.append(in_thread(settle))) == seen
    is_before_waiting = not late.finished.is_set()
    late.cancel()
    late.join()
    assert receipt.result(WAIT_S) == 7
    return is_before_waiting


def test_who_waits_is_woken() -> None:
    receipt: Receipt[int] = Receipt()
    found: SimpleQueue[bool] = SimpleQueue()

    def wait_and_compare(look: Look, seen: object) -> None:
        found.put(look(receipt) == seen)

    looks = [*LOOKS, (await_wrapped, 7)]
    for look, seen in looks:
        threading.Thread(target=wait_and_compare, args=(look, seen), daemon=True).start()
    assert "pending" in repr(receipt)
    assert not receipt.done()
    receipt.settle(7)
    assert [found.get(timeout=WAIT_S) for _ in looks] == [True] * len(looks)


def test_nobody_waits_longer_than_asked() -> None:
    receipt: Receipt[int] = Receipt()
    with pytest.raises(TimeoutError):
        receipt.result(0.001)
    assert wait([receipt], 0.001).not_done == {receipt}


@pytest.mark.parametrize("is_looked_at", [True, False])
def test_what_is_settled_stays(is_looked_at: bool) -> None:
    receipt: Receipt[int] = Receipt()
    assert not (is_looked_at and receipt.done())
    receipt.settle(7)
    with pytest.raises(InvalidStateError):
        receipt.set_result(8)
    with pytest.raises(InvalidStateError):
        receipt.set_exception(KeyError())
    assert receipt.result(0) == 7


def test_an_error_is_raised_to_all_who_look() -> None:
    receipt: Receipt[int] = Receipt()
    called = threading.Event()

    def note(future: Future[int]) -> None:
        assert isinstance(future.exception(0), KeyError)
        called.set()

    receipt.add_done_callback(note)
    receipt.set_exception(KeyError("k"))
    assert called.is_set()
    assert wait([receipt], 0).done == {receipt}
    with pytest.raises(KeyError):
        receipt.result(0)
    with pytest.raises(KeyError):
        await_wrapped(receipt)
    receipt.settle(7)  # which may come again, and changes nothing
    with pytest.raises(KeyError):
        receipt.result(0)


def test_it_has_no_attribute_that_a_future_has_not() -> None:
    receipt: Receipt[int] = Receipt()
    assert not hasattr(receipt, "colour")
