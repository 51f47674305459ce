"""The writer: one commit at a time. Requests in, one commit for all who wait, answers out.

Requests are applied in the order of submission, and a request is answered only when the transaction that holds it
is durable. A request that is refused takes nothing from its neighbours in the same commit.
"""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final, NamedTuple, TypeVar

from streamstore.engine import Engine, RepairNeededError
from streamstore.errors import OutcomeUnknownError, StorageError, StoreClosedError, StreamStoreError
from streamstore.library import no_thread
from streamstore.model import CommitReport
from streamstore.process import NESTED_CALL
from streamstore.request import ChainedRequest, Change, FutureRequest, Request, WaitingRequest, WakeUps, Window
from streamstore.sections import NO_MEMORY, Bell, Mutex, OwnThread
from streamstore.shards import ShardAppender
from streamstore.transaction import ReadersInTheWayError, WriteTransaction

__all__ = ["CommitObserver", "Writer"]

T = TypeVar("T")

# What one commit may hold: enough to share the device flush, little enough for LMDB's list of dirty pages.
COMMIT_REQUESTS_MAX: Final = 10_000
COMMIT_BYTES_MAX: Final = 32 * 1_048_576
CLOSED: Final = "The store is closed; nothing was stored. Open it again."


class CommitObserver(NamedTuple):
    """Somebody who counts commits. ``tell`` is called by who commits, behind the answers; it must not fail or wait."""

    tell: Callable[[CommitReport], None]
    clock_s: Callable[[], float]


class Writer:
    """Commits requests from construction to ``close``, which closes the engine too.

    The writer thread commits for all who wait. A caller who finds nobody else writing or waiting commits its own
    request, and only that, on its own thread: two thread switches cost it a quarter of a durable put. So an interrupt,
    which Python raises in the main thread at any line, can never reach the commit of somebody else.

    A signal handler or finalizer may call any method while its thread is inside another one, so no lock is held here
    but the turn, and who holds that is known.
    """

    def __init__(self, engine: Engine, begin: Callable[[WriteTransaction], ShardAppender]) -> None:
        self._engine = engine
        self._begin = begin
        self._pid = os.getpid()
        self._requests: deque[Request[object]] = deque()  # taken from by who has the turn only
        self._idle = False
        self._bell = Bell()  # rung when the thread may be idle
        self._window = Window()
        self._accepting = True
        self._ended = False
        self._closes_engine_at_end = False
        self._turn = Mutex()  # held by who commits
        self._turn_ident: int | None = None
        self._main_ident = threading.main_thread().ident
        self._thread_ident: int | None = None
        self._observer: CommitObserver | None = None
        self._crowded = False  # the last commit was shared: wait for the next one rather than go ahead alone
        self._batch: list[Request[object]] = []  # of the thread
        self._wake_ups: WakeUps = {}  # of who has the turn
        self._thread = OwnThread(self._run)

    def start(self) -> None:
        """Start the thread. ``close`` ends it, also when an interrupt ended this."""
        try:
            self._thread.start()
        except RuntimeError as error:
            raise no_thread(error) from error

    def observe(self, observer: CommitObserver) -> None:
        """Tell the observer of each commit from now on, and nobody else any more."""
        self._observer = observer

    def execute(self, change: Change[T], *, payload_bytes: int) -> T:
        """Return the result of ``change`` when it is durable. Its payload counts towards the size of a commit."""
        request: WaitingRequest[T] = (
            WaitingRequest(change, payload_bytes)
            if threading.get_ident() == self._main_ident
            else ChainedRequest(change, payload_bytes)
        )
        if self._crowded or self._turn.locked() or self._requests or not self._commit_alone(request):
            self.submit(request)
        return request.wait()

    def execute_on_writer_thread(self, change: Change[T]) -> T:
        """Like ``execute``, for a change whose commit an interrupt must not reach: it may close handles."""
        request = WaitingRequest(change, payload_bytes=0)
        self.submit(request)
        return request.wait()

    def submit_for_future(self, change: Change[T], *, payload_bytes: int) -> Future[T]:
        """Like ``submit``; waits here while too much is on its way already, unless called by a callback."""
        ident = threading.get_ident()
        self._refuse_to_wait_for_nobody(ident)
        request = FutureRequest(change, payload_bytes, self._window)
        try:
            if ident == self._thread_ident:  # which makes the room
                self._window.enter_at_once(request)
            else:
                self._window.enter(request)
            self._enqueue(request)
        except BaseException:
            self._window.leave(request)
            self._window.ring()
            raise
        return request.future

    def submit(self, request: Request[T]) -> None:
        """Let the writer thread commit the request, behind those submitted before it."""
        ident = threading.get_ident()
        if ident == self._thread_ident and isinstance(request, WaitingRequest):
            raise StorageError(NESTED_CALL)
        self._refuse_to_wait_for_nobody(ident)
        self._enqueue(request)

    @property
    def is_crowded(self) -> bool:
        """Whether the last commit was shared."""
        return self._crowded

    def refuse_to_submit(self) -> None:
        """Raise what ``submit`` would raise now."""
        self._refuse_to_wait_for_nobody(threading.get_ident())
        if not self._accepting:
            raise StoreClosedError(CLOSED)

    def _refuse_to_wait_for_nobody(self, ident: int) -> None:
        # The writer thread may have to wait for this thread to end what it is doing.
        if ident == self._turn_ident or self._engine.is_at_work_here():
            raise StorageError(NESTED_CALL)
        self._engine.refuse_unusable(even_if_failed=True)  # in a forked child nobody would answer

    def _enqueue(self, request: Request[T]) -> None:
        if not self._accepting:
            raise StoreClosedError(CLOSED)
        self._requests.append(request)
        if self._idle:
            self._bell.ring()
        if self._ended and self._withdraw(request):
            raise StoreClosedError(CLOSED)

    def _withdraw(self, request: Request[T]) -> bool:
        """Take back a request that nobody has taken."""
        try:
            self._requests.remove(request)
        except ValueError:
            return False
        return True

    def close(self) -> None:
        """Commit and answer what was accepted, then close the engine. Does nothing in a forked child.

        Called by a signal handler inside a commit of the same thread, it leaves the rest to the end of that commit.
        """
        if self._pid != os.getpid():
            return
        self._accepting = False
        self._bell.ring()
        ident = threading.get_ident()
        if self._turn_ident == ident:
            return
        if self._thread_ident == ident:  # a finalizer may run on any thread
            self._closes_engine_at_end = True
            return
        self._thread.join()
        self._engine.close()

    def _commit_alone(self, request: Request[T]) -> bool:
        """Commit the request on this thread. False: the writer thread must do it, nothing was stored."""
        ident = threading.get_ident()
        batch: list[Request[object]] = [request]
        for _ in self._turn.taking:
            self._turn_ident = ident
            try:
                if not self._accepting:
                    return False
                self._commit(batch, self._engine.write_unrepaired)
            except (RepairNeededError, ReadersInTheWayError):
                return False
            finally:
                self._turn_ident = None
                self._turn.release()
            break
        if not self._accepting:
            with contextlib.suppress(StorageError):  # the record is stored whatever becomes of the closing
                self.close()  # as a signal handler wished meanwhile
        return True

    def _run(self) -> None:
        try:
            while True:
                try:
                    self._work()
                    break
                except NO_MEMORY:  # there will be some again, and they wait
                    continue
        finally:
            self._accepting = False
            self._ended = True
            self._thread_ident = None  # the next thread may get the same

    def _work(self) -> None:
        """All that the thread does. Behind a lack of memory this is called again, and goes on where it was."""
        self._thread_ident = threading.get_ident()
        while self._wait_for_requests():
            self._commit_next()
        self._ended = True
        self._window.close()
        self._refuse_rest()
        if self._closes_engine_at_end:
            self._engine.close()

    def _commit_next(self) -> None:
        for _ in self._turn.taking:
            try:
                self._fill_batch()
                self._commit(self._batch, self._engine.write)
            finally:
                self._turn.release()
            break

    def _wait_for_requests(self) -> bool:
        """Return True when there are requests, False when there are none and no more will be accepted."""
        while not self._requests and not self._batch:
            if not self._accepting:
                return False
            self._idle = True
            if not self._requests and self._accepting:  # who comes behind this line sees that we are idle
                self._bell.wait()
            self._idle = False
        return True

    def _fill_batch(self) -> None:
        """Take the requests that wait and fit into one commit, with those that were taken."""
        batch = self._batch
        payload_bytes = sum(request.payload_bytes for request in batch)
        while self._requests and len(batch) < COMMIT_REQUESTS_MAX and payload_bytes < COMMIT_BYTES_MAX:
            try:
                request = self._requests.popleft()
            except IndexError:
                break  # it was withdrawn
            while True:
                try:
                    batch.append(request)
                    break
                except NO_MEMORY:
                    continue
            payload_bytes += request.payload_bytes
        self._crowded = len(batch) > 1

    def _refuse_rest(self) -> None:
        """Answer what came too late, while the thread ended."""
        closed = StoreClosedError(CLOSED)
        while self._requests or self._batch:
            self._fill_batch()
            self._answer_all(self._batch, closed)
            self._batch.clear()

    def _commit(
        self, batch: list[Request[object]], write: Callable[[Callable[[WriteTransaction], None]], None]
    ) -> None:
        """Store the requests of the batch, answer each, and empty it: the only way into the file.

        ``MemoryError``: nothing was done yet.
        """
        counted = (0, 0)

        def apply_all(transaction: WriteTransaction) -> None:
            nonlocal counted
            appender = self._begin(transaction)
            if batch is self._batch:
                self._fill_batch()  # who came while another process was writing shares the commit too
            for request in batch:
                request.apply(appender)
            appender.flush()
            counted = (appender.records_put, appender.records_throttled)

        observer = self._observer
        begun_s = 0.0 if observer is None else observer.clock_s()
        failure: BaseException | None = None
        try:
            write(apply_all)
        except (RepairNeededError, ReadersInTheWayError):
            raise
        except BaseException as error:
            failure = error
        while True:
            try:
                self._answer_all(batch, failure)
                break
            except NO_MEMORY:  # they wait for it, and it is told at some time
                continue
        try:
            if observer is not None and failure is None:
                observer.tell(_report(batch, *counted, seconds=observer.clock_s() - begun_s))
        except NO_MEMORY:
            pass
        finally:
            batch.clear()  # it holds on to payloads, and to stores that nobody uses any more
        if failure is not None and not isinstance(failure, Exception):
            raise failure

    def _answer_all(self, batch: Sequence[Request[object]], failure: BaseException | None) -> None:
        """Tell all what became of the commit. Behind a lack of memory this is called again, and does the rest."""
        if failure is not None:
            error = self._error_of(failure)
            for request in batch:
                request.fail(error)
        first: ChainedRequest[object] | None = None
        for request in reversed(batch):
            if isinstance(request, ChainedRequest):
                request.successor, first = first, request
        for request in batch:
            if not isinstance(request, ChainedRequest):
                self._answer(request)
        self._wake_up()
        if first is not None:
            first.wake()

    def _answer(self, request: Request[object]) -> None:
        if not request.is_answered:
            request.answer(self._wake_ups)
            request.is_answered = True

    def _wake_up(self) -> None:
        while self._wake_ups:
            key = next(iter(self._wake_ups))
            self._wake_ups[key]()
            del self._wake_ups[key]

    def _error_of(self, failure: BaseException) -> StreamStoreError:
        """Return what those are told whose commit ended like this."""
        if isinstance(failure, StreamStoreError):
            return failure
        if self._engine.is_outcome_open or not isinstance(failure, Exception):
            error: StorageError = OutcomeUnknownError(f"{failure!r} ended the commit; the request is stored or not.")
        else:
            error = StorageError(f"The writer failed: {failure!r}; nothing was stored.")
        error.__cause__ = failure
        return error


def _report(batch: Sequence[Request[object]], records: int, records_throttled: int, *, seconds: float) -> CommitReport:
    payload_bytes = sum(request.payload_bytes for request in batch if request.error is None)
    return CommitReport(len(batch), records, records_throttled, payload_bytes, seconds)
