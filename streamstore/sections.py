"""Sections: what must be given back behind them, whatever ends them, an interrupt or the lack of memory too.

Python raises an interrupt behind any call and at the beginning of any function, and a failing allocation as
``MemoryError`` wherever something is made: also by the call that ends a ``with`` block, and in a generator behind
``contextmanager``, which is then closed who knows when. So what may not be left behind is taken and given back like
this, and nowhere by a ``with``::

    for descriptor in taking(os.open, path, flags):
        try:
            return use(descriptor)
        finally:
            os.close(descriptor)

Nothing comes between a step of an iterator that is written in C and the line behind it, nor into a call of a function
written in C that needs no memory. What else is needed for sure is an assignment.
"""

import _thread
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, ParamSpec, TypeVar

__all__ = ["NO_MEMORY", "Bell", "Mutex", "NestingMutex", "OwnThread", "allocated", "surely", "taking"]

P = ParamSpec("P")
T = TypeVar("T")

NO_MEMORY: Final = (MemoryError, SystemError)
"""What Python raises where there is no memory: ``SystemError`` where it forgets to say so, as in some calls of 3.11."""
RUNG_BY_ANOTHER: Final = (RuntimeError, *NO_MEMORY)
TRY_S: Final = 0.05
_NEVER: Final = object()


def taking(take: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
    """Return what has ``take`` called for each turn of a ``for``: leave that in the first. ``take`` is written in C."""
    return iter(partial(take, *args, **kwargs), _NEVER)


def surely(work: Callable[[], object]) -> None:
    """Call until there is memory for it. Calling ``work`` twice must do no harm; have it in a variable before."""
    while True:
        try:
            work()
            break
        except NO_MEMORY:
            continue


def allocated(make: Callable[[], T]) -> T:
    """Return a new lock. Raises ``MemoryError`` for what is Python's word for it there."""
    try:
        return make()
    except RuntimeError as error:
        raise MemoryError(str(error)) from None


class Mutex:
    """A lock for sections: ``for _ in mutex.taking``, and ``mutex.release()`` in a ``finally`` at once behind it."""

    __slots__ = ("locked", "release", "taking")

    def __init__(self) -> None:
        lock = allocated(threading.Lock)
        self.taking: Final[Iterator[object]] = taking(lock.acquire)
        self.release: Final = lock.release
        self.locked: Final = lock.locked


class NestingMutex:
    """The same, for sections in which a signal handler may begin another one.

    ``trying`` is for who must look around while waiting: it yields False every 50 ms, and True when it is taken.
    """

    __slots__ = ("release", "taking", "trying")

    def __init__(self) -> None:
        lock = allocated(threading.RLock)
        self.taking: Final[Iterator[object]] = taking(lock.acquire)
        self.trying: Final[Iterator[bool]] = taking(lock.acquire, True, TRY_S)
        self.release: Final = lock.release


class Bell:
    """Wakes the one thread that waits for it, now or when it comes. Ringing twice is ringing once.

    Any thread and any signal handler may ring it, without memory.
    """

    __slots__ = ("_silence",)

    def __init__(self) -> None:
        self._silence = allocated(threading.Lock)
        self._silence.acquire()

    def ring(self) -> None:
        if self._silence.locked():
            try:
                self._silence.release()
            except RUNG_BY_ANOTHER:
                pass

    def wait(self) -> None:
        self._silence.acquire()

    def wait_for(self, timeout_s: float | None) -> bool:
        """Return False if nobody has rung in time. None: wait for ever."""
        return self._silence.acquire(timeout=-1 if timeout_s is None else timeout_s)


class OwnThread:
    """A thread that ends when the program does. ``threading.Thread`` waits for ever for one that lacks memory."""

    __slots__ = ("_end", "_is_started", "_work")

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._is_started = False
        self._end = Mutex()
        for _ in self._end.taking:
            break

    def start(self) -> None:
        """Start it, once."""
        for _ in taking(_thread.start_new_thread, self._live, ()):
            self._is_started = True
            break

    def join(self) -> None:
        """Wait for its end. One that was never started has ended."""
        if self._is_started:
            for _ in self._end.taking:
                self._end.release()
                break

    def _live(self) -> None:
        try:
            self._work()
        finally:
            self._end.release()
