"""What one process must know of its own engines: who reads, which stores are open, what a fork must find quiet.

Everything here holds locks of ``threading`` only. It never touches a file or LMDB.
"""

import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from streamstore.errors import StorageError, StoreLockedError
from streamstore.folder import StoreFolder
from streamstore.sections import NestingMutex

if TYPE_CHECKING:
    from streamstore.engine import Engine

__all__ = ["NESTED_CALL", "ReaderGate", "open_engines"]

T = TypeVar("T")

NESTED_CALL: Final = (
    "A signal handler, finalizer or callback called the store while the same thread was at work in it; nothing was "
    "done. Let the handler set a flag, or call from another thread."
)


class _Reader:
    """What a gate knows of a thread."""

    __slots__ = ("__weakref__", "is_reading", "mutex")

    def __init__(self) -> None:
        self.is_reading = False
        self.mutex = NestingMutex()


class _Own(threading.local):
    """What each thread knows of itself."""

    reader: _Reader | None = None


class ReaderGate:
    """Lets any number of threads read, or one thread work while nobody reads.

    Each thread reads in a section of its own, which costs next to nothing, and the gate is shut by an assignment, so
    whatever ends a reading or a shutting leaves nothing locked.
    """

    def __init__(self) -> None:
        self._own = _Own()
        self._readers: weakref.WeakSet[_Reader] = weakref.WeakSet()
        self._shutting = NestingMutex()
        self._shut_ident: int | None = None
        self._shut_times = 0

    def read(self, look: Callable[[], T]) -> T:
        """Return the result of ``look``, called while the gate is open."""
        own = self._own
        reader = own.reader or self._register(own)
        if reader.is_reading:  # in a signal handler: the read that it interrupted keeps the gate open
            return look()
        mutex = reader.mutex
        while True:
            for _ in mutex.taking:
                try:
                    if self._shut_ident is None:
                        reader.is_reading = True
                        result = look()
                        return result  # noqa: RET504 - in two lines: what a tracer raises behind the call is inside too
                finally:
                    reader.is_reading = False
                    mutex.release()
                break
            if self._shut_ident == threading.get_ident():
                raise StorageError(NESTED_CALL)
            for _ in self._shutting.taking:  # which waits until the gate is open again
                self._shutting.release()
                break

    def is_reading_here(self) -> bool:
        reader = self._own.reader
        return reader is not None and reader.is_reading

    def refuse_to_wait_inside(self) -> None:
        """Refuse a signal handler inside a read to wait for somebody who waits for the end of that read."""
        if self._shut_ident is not None and self.is_reading_here():
            raise StorageError(NESTED_CALL)

    def alone(self, work: Callable[[], T]) -> T:
        """Return the result of ``work``, called while no other thread reads; all of them wait for its end."""
        ident = threading.get_ident()
        for _ in self._shutting.taking:
            self._shut_times += 1
            self._shut_ident = ident
            try:
                self._wait_for_readers()
                result = work()
                return result  # noqa: RET504 - as above
            finally:
                self._shut_times -= 1
                if self._shut_times == 0:
                    self._shut_ident = None
                self._shutting.release()
        raise AssertionError

    def shut(self) -> None:
        """Begin what ``open`` ends: for a fork, whose end no block has."""
        ident = threading.get_ident()
        for _ in self._shutting.taking:
            self._shut_times += 1
            self._shut_ident = ident
            break
        self._wait_for_readers()

    def open(self) -> None:
        self._shut_times -= 1
        if self._shut_times == 0:
            self._shut_ident = None
        self._shutting.release()

    def _wait_for_readers(self) -> None:
        for reader in self._registered():
            for _ in reader.mutex.taking:  # whoever takes it from now on finds the gate shut
                reader.mutex.release()
                break

    def _register(self, own: _Own) -> _Reader:
        reader = _Reader()
        self._readers.add(reader)
        own.reader = reader
        return reader

    def _registered(self) -> list[_Reader]:
        # No lock keeps others from registering: a signal handler may interrupt that, and wait for who wants it.
        while True:
            try:
                return list(self._readers)
            except RuntimeError:
                pass  # the set changed on the way


class _OpenEngines:
    """The engines of this process: LMDB forbids two on one file, and a fork must find them quiet."""

    def __init__(self) -> None:
        self._mutex = NestingMutex()  # held while a store is being opened: a fork must not see half of one
        self._engines: weakref.WeakValueDictionary[tuple[int, int], Engine] = weakref.WeakValueDictionary()
        self._quiet: list[Callable[[], None]] = []
        os.register_at_fork(
            before=self._before_fork, after_in_parent=self._after_in_parent, after_in_child=self._after_in_child
        )

    def open(self, engine: "Engine", folder: StoreFolder, open_it: Callable[[], None]) -> None:
        """Have the engine opened, and remember it. What fails behind the opening is for the caller to close."""
        for _ in self._mutex.taking:
            try:
                identity = folder.identity()
                if identity in self._engines:
                    raise StoreLockedError(
                        f"{folder.path} is open in this process already; share that StreamStore between the threads, "
                        "or close it first."
                    )
                open_it()
                engine.identity = identity
                self._engines[identity] = engine
            finally:
                self._mutex.release()
            break

    def forget(self, engine: "Engine") -> None:
        # Without the lock: the thread that opens a store may be waiting, in a signal handler, for this one to close.
        # Nobody takes the place of an engine that is still here.
        if engine.identity is not None and self._engines.get(engine.identity) is engine:
            self._engines.pop(engine.identity, None)

    def _before_fork(self) -> None:
        for _ in self._mutex.taking:
            break
        self._quiet.append(self._mutex.release)
        for engine in list(self._engines.values()):
            engine.quiesce()
            self._quiet.append(engine.go_on)

    def _after_in_parent(self) -> None:
        while self._quiet:
            self._quiet.pop()()

    def _after_in_child(self) -> None:
        for engine in list(self._engines.values()):
            engine.abandon()
        self._engines.clear()
        self._after_in_parent()


open_engines: Final = _OpenEngines()
