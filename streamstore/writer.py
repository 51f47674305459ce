"""The writer thread: the only one that writes. Requests in, one commit for all who wait, answers out.

Requests are applied in the order of submission, and a request is answered only when the transaction that holds it
is durable. A request that is refused takes nothing from its neighbours in the same commit.
"""

import copy
import os
import queue
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from streamstore.engine import Engine, WriteTransaction
from streamstore.errors import StorageError, StoreClosedError, StreamStoreError
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
    """Owns the writer thread from construction to ``close``, and closes the engine at its end."""

    def __init__(self, engine: Engine, begin: Callable[[WriteTransaction], ShardAppender]) -> None:
        self._engine = engine
        self._begin = begin
        self._pid = os.getpid()
        self._queue: queue.SimpleQueue[Request[object] | None] = queue.SimpleQueue()
        self._accepting = True
        self._accepting_lock = threading.Lock()
        self._close_error: StorageError | None = None
        self._thread = threading.Thread(target=self._run, name="streamstore-writer", daemon=True)
        self._thread.start()

    def execute(self, apply: Callable[[ShardAppender], T], *, payload_bytes: int = 0) -> T:
        """Return the result of ``apply`` when it is durable. Its payload counts towards the size of a commit."""
        request = Request(apply, payload_bytes)
        with self._accepting_lock:
            if not self._accepting:
                raise StoreClosedError("The store is closed; nothing was stored. Open it again.")
            self._queue.put(request)
        return request.wait()

    def close(self) -> None:
        """Commit and answer what was accepted, then close the engine. Does nothing in a forked child."""
        if self._pid != os.getpid():
            return
        with self._accepting_lock:
            if self._accepting:
                self._accepting = False
                self._queue.put(None)
        if threading.current_thread() is not self._thread:  # a finalizer may run on any thread
            self._thread.join()
            if self._close_error is not None:
                raise self._close_error

    def _run(self) -> None:
        try:
            while batch := self._next_batch():
                self._commit(batch)
        finally:
            try:
                self._engine.close()
            except StorageError as error:
                self._close_error = error

    def _next_batch(self) -> list[Request[object]]:
        """Wait for a request, and take those behind it that fit into the same commit. Empty: nothing comes any more."""
        batch: list[Request[object]] = []
        payload_bytes = 0
        while len(batch) < COMMIT_REQUESTS_MAX and payload_bytes < COMMIT_BYTES_MAX:
            try:
                request = self._queue.get(block=not batch)
            except queue.Empty:
                break
            if request is None:
                if batch:
                    self._queue.put(None)  # it is the last: nothing was accepted behind it
                break
            batch.append(request)
            payload_bytes += request.payload_bytes
        return batch

    def _commit(self, batch: list[Request[object]]) -> None:
        def apply_all(transaction: WriteTransaction) -> None:
            appender = self._begin(transaction)
            for request in batch:
                request.apply(appender)
            appender.flush()

        try:
            self._engine.write(apply_all)
        except StreamStoreError as error:
            _fail_all(batch, error)
        except BaseException as error:
            failure = StorageError(f"The writer failed: {error!r}; nothing was stored.")
            failure.__cause__ = error
            _fail_all(batch, failure)
        else:
            for request in batch:
                request.answer()


def _fail_all(batch: list[Request[object]], error: StreamStoreError) -> None:
    for request in batch:
        request.fail(error)
