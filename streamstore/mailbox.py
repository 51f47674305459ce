"""What lies between the tasks of one event loop and the writer: what they submit, and what they are told.

A commit that begins while more comes from the same loop has to take turns with it at the interpreter: it takes four
times as long, and has a fourth of what it could. So while commits are shared, what a loop submits is gathered until
nothing more comes, and given to the writer at once. And each commit wakes a loop once, whatever number of its tasks
were waiting.
"""

import asyncio
import contextlib
from collections import deque
from typing import Final, Protocol, TypeVar

from streamstore.errors import OutcomeUnknownError, StreamStoreError
from streamstore.request import Change, Request, WakeUps
from streamstore.sections import NO_MEMORY
from streamstore.writer import Writer

__all__ = ["LoopBell", "LoopRequest", "Mailbox"]

T_co = TypeVar("T_co", covariant=True)

GATHERED_REQUESTS_MAX: Final = 1_000
GATHERING_S_MAX: Final = 0.01
"""What comes without a pause is given to the writer all the same."""
UNKNOWN: Final = "An interrupt ended the submission; the request is stored or not."


class Delivery(Protocol):
    """What a task waits for."""

    def deliver(self) -> None:
        """Tell the task that waits. Called in the thread of the loop."""
        ...


class Mailbox:
    """The requests and the answers of one event loop. Used in its thread, but for ``add``."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: Final = loop
        self._answered: deque[Delivery] = deque()
        self._gathered: list[tuple[LoopRequest[object], Writer]] = []
        self._seen = 0  # how many were gathered when it was looked last
        self._gathering_until_s = 0.0
        self._looking: asyncio.Handle | None = None

    def submit(self, request: "LoopRequest[object]", writer: Writer) -> None:
        """Give the request to the writer, now or soon, behind those submitted before it. Raises what it raises now."""
        if self._looking is None and not writer.is_crowded:
            writer.submit(request)
            return
        writer.refuse_to_submit()
        if self._looking is None:
            self._looking = self.loop.call_soon(self._look)
            self._gathering_until_s = self.loop.time() + GATHERING_S_MAX
        self._gathered.append((request, writer))
        if len(self._gathered) >= GATHERED_REQUESTS_MAX:
            self.flush()

    def flush(self) -> None:
        """Give the writer what was gathered; what it refuses is told to its task."""
        gathered, self._gathered = self._gathered, []
        self._seen = 0
        try:
            for request, writer in gathered:
                _give(request, writer)
        except BaseException:
            for request, _ in gathered:
                request.give_up(OutcomeUnknownError(UNKNOWN))
            raise

    def add(self, delivery: Delivery, wake_ups: WakeUps) -> None:
        """Let a commit, in any thread, tell a task."""
        self._answered.append(delivery)
        wake_ups[self] = self._wake_loop

    def _look(self) -> None:
        """Called in each turn of the loop while something is gathered."""
        self._looking = None
        if len(self._gathered) > self._seen and self.loop.time() < self._gathering_until_s:
            self._seen = len(self._gathered)
            with contextlib.suppress(*NO_MEMORY):
                self._looking = self.loop.call_soon(self._look)
                return
        self.flush()

    def _wake_loop(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        while self._answered:
            self._answered.popleft().deliver()


def _give(request: "LoopRequest[object]", writer: Writer) -> None:
    while True:
        try:
            writer.submit(request)
            return
        except NO_MEMORY:  # it was not taken
            continue
        except StreamStoreError as error:
            request.give_up(error)
            return


class LoopRequest(Request[T_co]):
    """A task of an event loop waits for it."""

    __slots__ = ("_mailbox", "future")

    def __init__(self, change: Change[T_co], payload_bytes: int, mailbox: Mailbox) -> None:
        super().__init__(change, payload_bytes)
        self.future: asyncio.Future[T_co] = mailbox.loop.create_future()
        self._mailbox = mailbox

    def answer(self, wake_ups: WakeUps) -> None:
        self._mailbox.add(self, wake_ups)

    def deliver(self) -> None:
        """In the thread of the loop. A waiter who was cancelled gets nothing; the change is made all the same."""
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)

    def give_up(self, error: StreamStoreError) -> None:
        """Tell the task that the writer does not have the request, or may not. In the thread of the loop."""
        if not self.future.done():
            self.future.set_exception(error)


class LoopBell:
    """A task that waits for a commit."""

    def __init__(self) -> None:
        self._mailbox: Mailbox | None = None
        self._rung: asyncio.Future[None] | None = None

    def set(self, mailbox: Mailbox) -> None:
        """Let whoever wakes this from now on end the next wait."""
        self._rung = mailbox.loop.create_future()
        self._mailbox = mailbox

    def wake(self, wake_ups: WakeUps) -> None:
        if self._mailbox is not None:
            self._mailbox.add(self, wake_ups)

    def deliver(self) -> None:
        if self._rung is not None and not self._rung.done():
            self._rung.set_result(None)

    async def wait(self, timeout_s: float | None) -> bool:
        """Return True when it is woken, False if it was not in time."""
        assert self._rung is not None
        done, _ = await asyncio.wait((self._rung,), timeout=timeout_s)
        return bool(done)
