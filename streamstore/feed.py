"""Feed: an iterator that waits for what is stored next, and what it asks of its source.

A source knows what to read and when it is over; a feed knows how a thread waits. How a task of an event loop waits is
in ``aio.py``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, Generic, Self, TypeVar

from streamstore.request import WakeUps
from streamstore.watch import CommitBell, CommitWaiter, CommitWatch

__all__ = ["Feed", "FeedSource", "Patience", "Step"]

MS_PER_SECOND: Final = 1_000
T_co = TypeVar("T_co", covariant=True)
Step = Callable[[], int | None]
"""Takes over what a look has found; returns None, or the number of the commit behind which to look again."""


class Patience:
    """How long to wait on, by the clock of the store. None: for ever."""

    def __init__(self, limit_ms: int | None, clock: Callable[[], int]) -> None:
        self._limit_ms = limit_ms
        self._clock = clock
        self._since_ms: int | None = None

    def restart(self) -> None:
        self._since_ms = None

    def left_s(self) -> float | None:
        """Return the seconds that are left; the first call since a restart begins to count."""
        if self._limit_ms is None:
            return None
        now_ms = self._clock()
        if self._since_ms is None or now_ms < self._since_ms:  # a clock that is set back must not make it longer
            self._since_ms = now_ms
        return max(0, self._since_ms + self._limit_ms - now_ms) / MS_PER_SECOND


class FeedSource(ABC, Generic[T_co]):
    """What a feed hands out. One thread or task asks; ``end`` may be called by any."""

    def __init__(self, watch: CommitWatch) -> None:
        self.watch = watch
        self.has_ended = False
        self._waiter: CommitWaiter | None = None

    @abstractmethod
    def take(self) -> T_co | None:
        """Return what comes next, or None: then look."""

    @abstractmethod
    def look(self) -> Step:
        """Read what there is. Changes nothing before the step is called, so the result may be thrown away."""

    @abstractmethod
    def patience_s(self) -> float | None:
        """Return how long to wait now; None: for ever."""

    @abstractmethod
    def lose_patience(self) -> None:
        """Called when nothing was committed for so long."""

    def attend(self, waiter: CommitWaiter) -> None:
        """Say who waits, so that ``end`` can wake it."""
        self._waiter = waiter

    def end(self) -> None:
        """Hand out nothing more, and end the waiting. Any thread or signal handler may call it at any time."""
        self.has_ended = True
        wake_ups: WakeUps = {}
        if self._waiter is not None:
            self._waiter.wake(wake_ups)
        for wake_up in wake_ups.values():
            wake_up()


class Feed(Generic[T_co]):
    """An iterator over what is stored already and what will be, which waits for it. Use it as a context manager.

    One thread iterates. ``close`` ends the iteration at once, and may be called by any thread and by a signal handler;
    an interrupt ends the waiting too, and the iteration may go on behind it with nothing lost. A store that is closed
    ends it with ``StoreClosedError``.
    """

    def __init__(self, source: FeedSource[T_co]) -> None:
        self._source = source
        self._bell = CommitBell()
        source.attend(self._bell)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T_co:
        source = self._source
        while not source.has_ended:
            item = source.take()
            if item is not None:
                return item
            if not source.has_ended:
                take_over = source.look()
                seen = take_over()
                if seen is not None:
                    self._wait_behind(seen)
        raise StopIteration

    def close(self) -> None:
        """End the iteration, and the waiting. Further calls do nothing."""
        self._source.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _wait_behind(self, commit_number: int) -> None:
        patience_s = self._source.patience_s()
        if patience_s is not None and patience_s <= 0:
            self._source.lose_patience()
            return
        watch = self._source.watch
        try:
            watch.wake_behind(commit_number, self._bell)
            if not self._source.has_ended and not self._bell.wait(patience_s):
                self._source.lose_patience()
        finally:
            watch.forget(self._bell)
