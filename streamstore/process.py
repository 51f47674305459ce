"""What one process must know of its own engines: who reads, which stores are open, what a fork must find quiet.

Everything here holds locks of ``threading`` only. It never touches a file or LMDB.
"""

import os
import threading
import weakref
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from streamstore.errors import StorageError, StoreLockedError
from streamstore.folder import StoreFolder

if TYPE_CHECKING:
    from streamstore.engine import Engine

__all__ = ["NESTED_CALL", "ReaderGate", "open_engines"]

T = TypeVar("T")

NESTED_CALL: Final = (
    "A signal handler, finalizer or callback called the store while the same thread was at work in it; nothing was "
    "done. Let the handler set a flag, or call from another thread."
)


class _OwnState(threading.local):
    """What each thread knows of itself."""

    lock: AbstractContextManager[bool] | None = None
    reading: bool = False


class ReaderGate:
    """Lets any number of threads read, or one thread work while nobody reads.

    Each thread reads under a lock of its own, which costs next to nothing. A lock is held by nothing but a ``with`` of
    the lock itself, and the gate is shut by an assignment, so that an interrupt at any line leaves nothing locked.
    """

    def __init__(self) -> None:
        self._own = _OwnState()
        self._locks: weakref.WeakSet[AbstractContextManager[bool]] = weakref.WeakSet()
        self._shutting = threading.RLock()
        self._shut_ident: int | None = None

    def read(self, look: Callable[[], T]) -> T:
        """Return the result of ``look``, called while the gate is open."""
        own = self._own
        if own.reading:  # in a signal handler: the read that it interrupted keeps the gate open
            return look()
        lock = own.lock or self._register(own)
        while True:
            with lock:
                if self._shut_ident is None:
                    own.reading = True
                    try:
                        return look()
                    finally:
                        own.reading = False
            if self._shut_ident == threading.get_ident():
                raise StorageError(NESTED_CALL)
            with self._shutting:
                pass  # wait until the gate is open again

    def is_reading_here(self) -> bool:
        return self._own.reading

    @contextmanager
    def none(self) -> Generator[None]:
        """Wait until no other thread reads, and keep all of them waiting."""
        with self._shutting:
            shut_ident = self._shut_ident
            self._shut_ident = threading.get_ident()
            try:
                for lock in self._registered():
                    with lock:
                        pass  # whoever takes it from now on finds the gate shut
                yield
            finally:
                self._shut_ident = shut_ident

    def _register(self, own: _OwnState) -> AbstractContextManager[bool]:
        lock = threading.RLock()
        self._locks.add(lock)
        own.lock = lock
        return lock

    def _registered(self) -> list[AbstractContextManager[bool]]:
        # No lock keeps others from registering: a signal handler may interrupt that, and wait for who wants it.
        while True:
            try:
                return list(self._locks)
            except RuntimeError:
                pass  # the set changed on the way


class _OpenEngines:
    """The engines of this process: LMDB forbids two on one file, and a fork must find them quiet."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # held while a store is being opened: a fork must not see half of one
        self._engines: weakref.WeakValueDictionary[tuple[int, int], Engine] = weakref.WeakValueDictionary()
        self._quiet = ExitStack()
        os.register_at_fork(
            before=self._before_fork, after_in_parent=self._after_in_parent, after_in_child=self._after_in_child
        )

    @contextmanager
    def opening(self, engine: "Engine", folder: StoreFolder) -> Generator[None]:
        with self._lock:
            identity = folder.identity()
            if identity in self._engines:
                raise StoreLockedError(
                    f"{folder.path} is open in this process already; share that StreamStore between the threads, or "
                    "close it first."
                )
            yield
            engine.identity = identity
            self._engines[identity] = engine

    def forget(self, engine: "Engine") -> None:
        # Without the lock: the thread that opens a store may be waiting, in a signal handler, for this one to close.
        # Nobody takes the place of an engine that is still here.
        if engine.identity is not None and self._engines.get(engine.identity) is engine:
            self._engines.pop(engine.identity, None)

    def _before_fork(self) -> None:
        self._quiet.enter_context(self._lock)
        for engine in list(self._engines.values()):
            self._quiet.enter_context(engine.quiesce())

    def _after_in_parent(self) -> None:
        self._quiet.pop_all().close()

    def _after_in_child(self) -> None:
        for engine in list(self._engines.values()):
            engine.abandon()
        self._engines.clear()
        self._quiet.pop_all().close()


open_engines: Final = _OpenEngines()
