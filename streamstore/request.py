"""A request: one change on its way to the disk, and its answer on its way back to whoever waits for it.

Who waits may be a thread, a future, or a task of an event loop (``aio.py``). Nothing here commits; ``writer.py`` does,
and answers behind the commit.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

from streamstore.errors import StreamStoreError
from streamstore.limits import IN_FLIGHT_BYTES_MAX, IN_FLIGHT_REQUESTS_MAX
from streamstore.receipt import Receipt
from streamstore.sections import Bell, NestingMutex
from streamstore.shards import ShardAppender

__all__ = ["ChainedRequest", "Change", "FutureRequest", "Request", "WaitingRequest", "WakeUps", "Window"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Change = Callable[[ShardAppender], T]
"""What a request does in a transaction. May run more than once, each time in a fresh one."""
WakeUps = dict[object, Callable[[], None]]
"""What to call when all requests of a commit have their answers, once for each key."""


class Request(ABC, Generic[T_co]):
    """One change on its way to the disk, and its answer on its way back. Subclasses know who waits for it."""

    __slots__ = ("change", "error", "is_answered", "payload_bytes", "result")

    def __init__(self, change: Change[T_co], payload_bytes: int) -> None:
        self.change = change
        self.payload_bytes = payload_bytes
        self.result: T_co
        self.error: StreamStoreError | None = None
        self.is_answered = False

    def apply(self, appender: ShardAppender) -> None:
        """Make the change in a transaction. A refusal is kept for the answer."""
        self.error = None
        try:
            self.result = self.change(appender)
        except StreamStoreError as refusal:
            self.error = refusal

    def fail(self, error: StreamStoreError) -> None:
        """Note that the commit failed. A request that was refused anyway keeps its refusal."""
        if self.error is None:
            own = copy.copy(error)  # each waiter raises an error of its own
            own.__cause__ = error.__cause__
            self.error = own

    @abstractmethod
    def answer(self, wake_ups: WakeUps) -> None:
        """Hand over the result, which is durable, or the error. Must not wait.

        Called once, but for lack of memory: behind ``MemoryError`` it is called again.
        """


class WaitingRequest(Request[T_co]):
    """A thread waits for it."""

    __slots__ = ("_bell",)

    def __init__(self, change: Change[T_co], payload_bytes: int) -> None:
        super().__init__(change, payload_bytes)
        self._bell = Bell()

    def wait(self) -> T_co:
        """Return the result once it is durable, or raise what became of it.

        An interrupt ends the waiting, not the request: that is then stored or not, and nobody else notices.
        """
        self.wait_for_answer()
        if self.error is not None:
            try:
                raise self.error
            finally:
                del self  # the error's traceback holds this frame: no cycle
        return self.result

    def wait_for_answer(self) -> None:
        while not self.is_answered:
            self._bell.wait()

    def answer(self, wake_ups: WakeUps) -> None:
        del wake_ups  # each thread is woken for itself
        self.wake()

    def wake(self) -> None:
        """Let who waits go on. Needs no memory."""
        self.is_answered = True
        self._bell.ring()


class ChainedRequest(WaitingRequest[T_co]):
    """A thread waits for it and does nothing else, and wakes the next such thread before it goes on.

    The writer waking all of them at once would have them all wait again, for the interpreter: 1.6 times the time at 64
    threads. Not for the main thread, where a signal handler can end the waiting without the waking.
    """

    __slots__ = ("successor",)

    def __init__(self, change: Change[T_co], payload_bytes: int) -> None:
        super().__init__(change, payload_bytes)
        self.successor: ChainedRequest[object] | None = None

    def wait_for_answer(self) -> None:
        try:
            super().wait_for_answer()
        finally:
            successor, self.successor = self.successor, None
            if successor is not None:
                successor.wake()


class Window:
    """How many requests that no thread waits for, and how many bytes of them, are on their way.

    Who enters and who leaves each count up on their own, in lines without a call, between which Python neither
    interrupts a thread nor lets another one run.
    """

    def __init__(self) -> None:
        self._mutex = NestingMutex()
        self._entered_requests = 0
        self._entered_bytes = 0
        self._left_requests = 0
        self._left_bytes = 0
        self._bell = Bell()
        self._is_awaited = False
        self._closed = False

    def enter(self, request: "FutureRequest[object]") -> None:
        """Wait until there is room for one more. One alone always has room."""
        for _ in self._mutex.taking:
            try:
                while not self._has_room(request.payload_bytes):
                    self._is_awaited = True
                    if not self._has_room(request.payload_bytes):  # who leaves behind this line rings
                        self._bell.wait()
                self.enter_at_once(request)
            finally:
                self._mutex.release()
            break

    def enter_at_once(self, request: "FutureRequest[object]") -> None:
        request.is_inside = True
        self._entered_requests += 1
        self._entered_bytes += request.payload_bytes

    def leave(self, request: "FutureRequest[object]") -> None:
        """Give back the room of the request, if it has any: who is interrupted cannot know."""
        if request.is_inside:
            request.is_inside = False
            self._left_requests += 1
            self._left_bytes += request.payload_bytes

    def ring(self) -> None:
        """Let who waits for room look again."""
        if self._is_awaited:
            self._is_awaited = False
            self._bell.ring()

    def close(self) -> None:
        """Let everybody in: they will be refused behind it."""
        self._closed = True
        self._bell.ring()

    def _has_room(self, payload_bytes: int) -> bool:
        requests = self._entered_requests - self._left_requests
        bytes_after = self._entered_bytes - self._left_bytes + payload_bytes
        return (
            requests == 0 or (requests < IN_FLIGHT_REQUESTS_MAX and bytes_after <= IN_FLIGHT_BYTES_MAX) or self._closed
        )


class FutureRequest(Request[T_co]):
    """A future waits for it. What is on its way like this is bounded by the writer's window."""

    __slots__ = ("_window", "future", "is_inside")

    def __init__(self, change: Change[T_co], payload_bytes: int, window: Window) -> None:
        super().__init__(change, payload_bytes)
        self.future: Receipt[T_co] = Receipt()
        self.is_inside = False
        self._window = window

    def answer(self, wake_ups: WakeUps) -> None:
        wake_ups[self._window] = self._window.ring
        try:
            if self.error is None:
                self.future.settle(self.result)
            else:
                self.future.settle_failure(self.error)
        finally:
            self._window.leave(self)
