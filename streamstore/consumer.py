"""Durable consumers: a tail whose place is kept in the store. What ``StreamStore.consumer`` hands out.

A checkpoint is a request like a put: it is durable when it returns, and shares its commit with whoever writes then.
"""

from collections.abc import Callable, Sequence

from streamstore.checkpoints import OpenedConsumer, refuse_taken_over, save_positions
from streamstore.errors import ResourceNotFoundException
from streamstore.feed import Feed
from streamstore.following import Following
from streamstore.model import EntryLike, NewRecord, PutRecordsResult, StreamRecord
from streamstore.shards import PutOutcome, ShardAppender, result_of_put_records
from streamstore.tail import TailSource

__all__ = ["Checkpoint", "ConsumerPlace", "StreamConsumer"]

Parse = Callable[[object, object], tuple[str, Sequence[NewRecord], int]]
"""Validates a stream name and entries of put_records; returns them with the bytes of their payload."""


class ConsumerPlace:
    """Where an opened consumer is, and how much of that is stored."""

    def __init__(self, opened: OpenedConsumer, following: Following, parse: Parse) -> None:
        self.stream_name = opened.stream.name
        self.consumer = opened.consumer
        self.stored_positions = opened.positions
        self._following = following
        self._parse = parse

    def checkpoint(self) -> "Checkpoint":
        """Return the change that stores where the consumer is now."""
        return Checkpoint(self, self._following.positions())

    def checkpoint_with_records(self, stream_name: object, records: object) -> "Checkpoint":
        """Return the change that stores where the consumer is now, and with it records of a stream."""
        target_name, new_records, payload_bytes = self._parse(stream_name, records)
        return Checkpoint(
            self,
            self._following.positions(),
            put=lambda appender: appender.put_all_or_none(target_name, new_records),
            payload_bytes=payload_bytes,
        )


class Checkpoint:
    """The change that a checkpoint makes. All or nothing, the records too."""

    def __init__(
        self,
        place: ConsumerPlace,
        positions: dict[int, int],
        *,
        put: Callable[[ShardAppender], list[PutOutcome]] = lambda _: [],
        payload_bytes: int = 0,
    ) -> None:
        self.payload_bytes = payload_bytes
        self._place = place
        self._positions = positions
        self._put = put

    def __call__(self, appender: ShardAppender) -> list[PutOutcome]:
        place = self._place
        stream = appender.stream(place.stream_name)
        if stream.number != place.consumer.stream_number:
            raise ResourceNotFoundException(
                resource=f"The stream {place.stream_name} of this consumer",
                remedy="it was deleted, and another one has its name: open the consumer again",
            )
        refuse_taken_over(appender.transaction, stream, place.consumer)
        outcomes = self._put(appender)
        save_positions(appender.flush(), place.consumer, place.stored_positions, self._positions)
        return outcomes

    def confirm(self) -> None:
        """Remember what is stored, when the change is durable."""
        self._place.stored_positions = self._positions


class StreamConsumer(Feed[StreamRecord]):
    """A tail whose place is kept in the store, by ``checkpoint``. Made by ``StreamStore.consumer``.

    One thread iterates and makes the checkpoints. Whoever opens the consumer next, after a crash too, goes on behind
    the last checkpoint. So each record is handed out at least once, and what comes of it is stored exactly once if
    ``checkpoint_with_records`` stores it.
    """

    def __init__(
        self, source: TailSource, place: ConsumerPlace, execute: Callable[[Checkpoint], list[PutOutcome]]
    ) -> None:
        super().__init__(source)
        self._place = place
        self._execute = execute

    def checkpoint(self) -> None:
        """Store that every record which was handed out is done with. Durable when it returns.

        Raises ``ResourceInUseException`` (somebody else has opened the consumer since), ``ResourceNotFoundException``
        (the consumer or its stream was deleted), and the storage errors of ``StreamStore.put_record``. Then the
        checkpoint before stands; after ``OutcomeUnknownError`` the one or the other.
        """
        checkpoint = self._place.checkpoint()
        self._execute(checkpoint)
        checkpoint.confirm()

    def checkpoint_with_records(self, stream_name: str, records: Sequence[EntryLike]) -> PutRecordsResult:
        """Store a checkpoint and 1 to 500 records of any stream of this store in one commit: all of it or nothing.

        ``records``: as in ``StreamStore.put_records``. Whoever turns records of one stream into records of another like
        this does so exactly once, whatever crashes.

        Raises what ``checkpoint`` and ``put_records`` raise, and ``ProvisionedThroughputExceededException`` when the
        quota of one shard has no room. Then nothing is stored; after ``OutcomeUnknownError`` all of it or nothing.
        """
        checkpoint = self._place.checkpoint_with_records(stream_name, records)
        outcomes = self._execute(checkpoint)
        checkpoint.confirm()
        return result_of_put_records(outcomes)
