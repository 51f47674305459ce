"""The writer: one commit at a time. Requests in, one commit for all who wait, answers out.

Requests are applied in the order of submission, and a request is answered only when the transaction that holds it
is durable. A request that is refused takes nothing from its neighbours in the same commit.
"""

import contextlib
import copy
import os
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from streamstore.engine import Engine, RepairNeededError, WriteTransaction
from streamstore.errors import OutcomeUnknownError, StorageError, StoreClosedError, StreamStoreError
from streamstore.process import NESTED_CALL
from streamstore.shards import ShardAppender

__all__ = ["Request", "Writer"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# What one commit may hold: enough to share the device flush, little enough for LMDB's list of dirty pages.
COMMIT_REQUESTS_MAX: Final = 10_000
COMMIT_BYTES_MAX: Final = 32 * 1_048_576


class Request(Generic[T_co]):
    """One change that somebody waits for. ``apply`` may run more than once, each time in a fresh transaction."""

    __slots__ = ("_answered", "_apply", "_error", "_result", "payload_bytes")

    def __init__(self, apply: Callable[[ShardAppender], T_co], payload_bytes: int) -> None:
        self.payload_bytes = payload_bytes
        self._apply = apply
        self._result: T_co
        self._error: StreamStoreError | None = None
        self._answered = threading.Lock()
        self._answered.acquire()

    def wait(self) -> T_co:
        """Return the result once it is durable, or raise what became of it.

        An interrupt ends the waiting, not the request: that is then stored or not, and nobody else notices.
        """
        self._answered.acquire()
        if self._error is not None:
            try:
                raise self._error
            finally:
                del self  # the error's traceback holds this frame: no cycle
        return self._result

    def apply(self, appender: ShardAppender) -> None:
        """Apply the request in a transaction. A refusal is kept for the answer."""
        self._error = None
        try:
            self._result = self._apply(appender)
        except StreamStoreError as refusal:
            self._error = refusal

    def answer(self) -> None:
        self._answered.release()

    def fail(self, error: StreamStoreError) -> None:
        """Answer that the commit failed. A request that was refused anyway keeps its refusal."""
        if self._error is None:
            self._error = copy.copy(error)  # each waiter raises an error of its own
            self._error.__cause__ = error.__cause__
        self._answered.release()


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
        self._queue: queue.SimpleQueue[Request[object] | None] = queue.SimpleQueue()
        self._accepting = True
        self._ended = False
        self._closes_engine_at_end = False
        self._turn = threading.Lock()  # held by who commits
        self._turn_ident: int | None = None
        self._crowded = False  # the last commit was shared: wait for the next one rather than go ahead alone
        self._thread = threading.Thread(target=self._run, name="streamstore-writer", daemon=True)
        self._thread.start()

    def execute(self, apply: Callable[[ShardAppender], T], *, payload_bytes: int) -> T:
        """Return the result of ``apply`` when it is durable. Its payload counts towards the size of a commit."""
        request = Request(apply, payload_bytes)
        if self._crowded or self._turn.locked() or not self._queue.empty() or not self._commit_alone(request):
            self._submit(request)
        return request.wait()

    def execute_on_writer_thread(self, apply: Callable[[ShardAppender], T]) -> T:
        """Like ``execute``, for a change whose commit an interrupt must not reach: it may close handles."""
        request = Request(apply, payload_bytes=0)
        self._submit(request)
        return request.wait()

    def close(self) -> None:
        """Commit and answer what was accepted, then close the engine. Does nothing in a forked child.

        Called by a signal handler inside a commit of the same thread, it leaves the rest to the end of that commit.
        """
        if self._pid != os.getpid():
            return
        self._accepting = False
        self._queue.put(None)
        if self._turn_ident == threading.get_ident():
            return
        if threading.current_thread() is self._thread:  # a finalizer may run on any thread
            self._closes_engine_at_end = True
            return
        self._thread.join()
        self._engine.close()

    def _submit(self, request: Request[T]) -> None:
        # The writer thread may have to wait for this thread to end what it is doing.
        if self._turn_ident == threading.get_ident() or self._engine.is_at_work_here():
            raise StorageError(NESTED_CALL)
        self._engine.refuse_unusable(even_if_failed=True)  # in a forked child nobody would answer
        if not self._accepting:
            raise _closed()
        self._queue.put(request)
        if self._ended:
            self._refuse_rest()

    def _commit_alone(self, request: Request[T]) -> bool:
        """Commit the request on this thread. False: the writer thread must do it, nothing was stored."""
        ident = threading.get_ident()
        with self._turn:
            self._turn_ident = ident
            try:
                if not self._accepting:
                    return False
                self._commit([request], self._engine.write_unrepaired)
            except RepairNeededError:
                return False
            finally:
                self._turn_ident = None
        if not self._accepting:
            with contextlib.suppress(StorageError):  # the record is stored whatever becomes of the closing
                self.close()  # as a signal handler wished meanwhile
        return True

    def _run(self) -> None:
        try:
            while (first := self._queue.get()) is not None:
                with self._turn:
                    batch = self._batch_of(first)
                    self._commit(batch, self._engine.write)
                self._crowded = len(batch) > 1
                del first, batch  # they hold on to payloads, and to stores that nobody uses any more
        finally:
            self._ended = True
            self._refuse_rest()
            if self._closes_engine_at_end:
                self._engine.close()

    def _refuse_rest(self) -> None:
        """Answer what came too late: behind the end, or while the thread ended."""
        with contextlib.suppress(queue.Empty):
            while True:
                request = self._queue.get_nowait()
                if request is not None:
                    request.fail(_closed())

    def _batch_of(self, first: Request[object]) -> list[Request[object]]:
        """Return the request with those that wait behind it and fit into the same commit."""
        batch = [first]
        payload_bytes = first.payload_bytes
        while len(batch) < COMMIT_REQUESTS_MAX and payload_bytes < COMMIT_BYTES_MAX and not self._queue.empty():
            request = self._queue.get()  # does not wait: nobody else takes from the queue
            if request is None:
                self._queue.put(None)  # for the loop
                break
            batch.append(request)
            payload_bytes += request.payload_bytes
        return batch

    def _commit(
        self, batch: Sequence[Request[object]], write: Callable[[Callable[[WriteTransaction], None]], None]
    ) -> None:
        """Store the requests of the batch and answer each: the only way into the file."""

        def apply_all(transaction: WriteTransaction) -> None:
            appender = self._begin(transaction)
            for request in batch:
                request.apply(appender)
            appender.flush()

        try:
            write(apply_all)
        except StreamStoreError as error:
            _fail_all(batch, error)
        except RepairNeededError:
            raise
        except Exception as error:
            failure = StorageError(f"The writer failed: {error!r}; nothing was stored.")
            failure.__cause__ = error
            _fail_all(batch, failure)
        except BaseException:
            _fail_all(batch, OutcomeUnknownError("An interrupt ended the commit; the request is stored or not."))
            raise
        else:
            for request in batch:
                request.answer()


def _closed() -> StoreClosedError:
    return StoreClosedError("The store is closed; nothing was stored. Open it again.")


def _fail_all(batch: Sequence[Request[object]], error: StreamStoreError) -> None:
    for request in batch:
        request.fail(error)
