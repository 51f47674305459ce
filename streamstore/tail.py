"""Tail: the records of all shards of a stream, as they are stored. What ``StreamStore.tail`` hands out."""

from collections.abc import Callable

from streamstore.feed import FeedSource, Patience, Step
from streamstore.following import Following, Round
from streamstore.model import StreamRecord
from streamstore.watch import CommitWatch

__all__ = ["TailSource"]


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
