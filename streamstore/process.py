"""What one process must know of its own engines: who reads, which stores are open, what a fork must find quiet.

Everything here holds locks of ``threading`` only. It never touches a file or LMDB.
"""

import os
import threading
import weakref
from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from streamstore.errors import StoreLockedError
from streamstore.folder import StoreFolder

if TYPE_CHECKING:
    from streamstore.engine import Engine

__all__ = ["ReaderGate", "open_engines"]


class ReaderGate:
    """Lets any number of threads read, or one thread work while nobody reads.

    Each thread reads under a lock of its own, which costs next to nothing, and which an interrupt cannot leak.
    """

    def __init__(self) -> None:
        self._own = threading.local()
        self._registering = threading.RLock()
        self._locks: weakref.WeakSet[AbstractContextManager[bool]] = weakref.WeakSet()

    def reading(self) -> AbstractContextManager[bool]:
        lock: AbstractContextManager[bool] | None = getattr(self._own, "lock", None)
        if lock is None:
            with self._registering:
                lock = threading.RLock()  # a signal handler may read, or close the store, while its thread reads
                self._locks.add(lock)
                self._own.lock = lock
        return lock

    @contextmanager
    def none(self) -> Generator[None]:
        """Wait until no thread reads, and keep all of them waiting."""
        with self._registering, ExitStack() as stack:
            for lock in list(self._locks):
                stack.enter_context(lock)
            yield


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
            self._engines[identity] = engine

    def forget(self, engine: "Engine") -> None:
        # Without the lock: the thread that opens a store may be waiting, in a signal handler, for this one to close.
        for identity, known in list(self._engines.items()):
            if known is engine:
                self._engines.pop(identity, None)

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
