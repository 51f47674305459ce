"""Tail: the records of all shards of a stream, as they are stored. What ``StreamStore.tail`` hands out."""

from collections.abc import Callable
from typing import Final

from streamstore.feed import FeedSource, Step
from streamstore.following import Following, Round
from streamstore.model import StreamRecord
from streamstore.watch import CommitWatch

__all__ = ["Patience", "TailSource"]

MS_PER_SECOND: Final = 1_000


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


class TailSource(FeedSource[StreamRecord]):
    """Follows a stream until nobody wants it any more, or until no record came for ``patience``."""

    def __init__(
        self, watch: CommitWatch, following: Following, look: Callable[[Following], Round], patience: Patience
    ) -> None:
        super().__init__(watch)
        self._following = following
        self._look = look
        self._patience = patience

    def take(self) -> StreamRecord | None:
        record = self._following.take()
        if record is not None:
            self._patience.restart()
        return record

    def look(self) -> Step:
        found = self._look(self._following)
        return lambda: None if self._following.accept(found) else found.commit_number

    def patience_s(self) -> float | None:
        return self._patience.left_s()

    def lose_patience(self) -> None:
        self.has_ended = True
