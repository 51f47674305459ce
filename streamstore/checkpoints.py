"""The positions of durable consumers inside a transaction: where each goes on in each shard.

A consumer belongs to whoever opened it last: each opening counts up its epoch, and a checkpoint of an earlier one is
refused. So two processes that both believe to be the consumer cannot take each other's place.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from streamstore.consumers import ensure_consumer, iterate_consumers, load_consumer, save_consumer
from streamstore.databases import POSITIONS_DATABASE, DamagedValueError
from streamstore.dialect import Dialect
from streamstore.disk_format import decode_position, encode_position, parse_position_key, position_key, positions_prefix
from streamstore.errors import ResourceInUseException, StoreFormatError
from streamstore.model import ConsumerLag, StoredConsumer, StoredStream
from streamstore.reading import ShardReader
from streamstore.transaction import ReadTransaction, WriteTransaction

__all__ = [
    "OpenedConsumer",
    "lag_of_consumer",
    "lags_of_consumers",
    "open_consumer",
    "positions_at",
    "refuse_taken_over",
    "save_positions",
]

Positions = Mapping[int, int]
"""For each shard index the number of the next record. A shard that is missing starts with its first record."""


class OpenedConsumer(NamedTuple):
    """A consumer as its opening has left it."""

    stream: StoredStream
    consumer: StoredConsumer
    positions: dict[int, int]


def open_consumer(
    transaction: WriteTransaction,
    stream: StoredStream,
    consumer_name: str,
    first_positions: Callable[[ReadTransaction, StoredStream], Positions],
    *,
    now_ms: int,
) -> OpenedConsumer:
    """Take over a consumer; one that is opened for the first time starts at ``first_positions``."""
    consumer = ensure_consumer(transaction, stream, consumer_name, now_ms=now_ms)
    if consumer.epoch == 0:  # nobody has opened it yet
        save_positions(transaction, consumer, {}, first_positions(transaction, stream))
    consumer = replace(consumer, epoch=consumer.epoch + 1)
    save_consumer(transaction, consumer)
    return OpenedConsumer(stream, consumer, load_positions(transaction, consumer))


def refuse_taken_over(transaction: ReadTransaction, stream: StoredStream, consumer: StoredConsumer) -> None:
    """Refuse who has opened the consumer if somebody else has opened it since."""
    if load_consumer(transaction, stream, consumer.name).epoch != consumer.epoch:
        raise ResourceInUseException(
            resource=f"Consumer {consumer.name} of stream {stream.name}",
            problem="was opened by somebody else since",
            remedy="stop here, or open it again to take it back",
        )


def load_positions(transaction: ReadTransaction, consumer: StoredConsumer) -> dict[int, int]:
    prefix = positions_prefix(consumer.stream_number, consumer.name)
    try:
        return {
            parse_position_key(key)[2]: decode_position(key, value)
            for key, value in transaction.items_that_begin_with(POSITIONS_DATABASE, prefix)
        }
    except DamagedValueError as error:
        raise StoreFormatError(f"A position of consumer {consumer.name} is damaged: {error}.") from error


def save_positions(
    transaction: WriteTransaction, consumer: StoredConsumer, before: Positions, positions: Positions
) -> None:
    """Write what differs between the stored positions and the new ones."""
    for shard_index in before.keys() - positions.keys():  # of shards that have expired
        transaction.delete(POSITIONS_DATABASE, position_key(consumer.stream_number, consumer.name, shard_index))
    for shard_index, sequence in positions.items():
        if before.get(shard_index) != sequence:
            key = position_key(consumer.stream_number, consumer.name, shard_index)
            transaction.put(POSITIONS_DATABASE, key, encode_position(key, sequence))


def positions_at(transaction: ReadTransaction, stream: StoredStream, time_ms: int) -> dict[int, int]:
    """Return for each shard the first record that arrived at or after a time."""
    positions: dict[int, int] = {}
    for shard_index in stream.shards:
        reader = ShardReader(transaction, stream.number, shard_index, str(shard_index))
        counter = reader.counter()
        positions[shard_index] = reader.first_not_before(time_ms, counter.first_sequence, counter.next_sequence)
    return positions


def lags_of_consumers(
    transaction: ReadTransaction, stream: StoredStream, *, dialect: Dialect, now_ms: int
) -> dict[str, ConsumerLag]:
    """Count for each consumer that keeps a place; who is only registered was never opened, and has none."""
    return {
        consumer.name: lag_of_consumer(transaction, stream, consumer.name, dialect=dialect, now_ms=now_ms)
        for consumer in iterate_consumers(transaction, stream, "")
        if consumer.epoch > 0
    }


def lag_of_consumer(
    transaction: ReadTransaction, stream: StoredStream, consumer_name: str, *, dialect: Dialect, now_ms: int
) -> ConsumerLag:
    """Count the records between the stored positions and the newest record."""
    positions = load_positions(transaction, load_consumer(transaction, stream, consumer_name))
    records_by_shard: dict[str, int] = {}
    behind_ms = 0
    for shard_index, shard in stream.shards.items():
        if stream.has_expired(shard, now_ms):
            continue
        shard_id = dialect.shard_id(shard_index)
        reader = ShardReader(transaction, stream.number, shard_index, shard_id)
        oldest = reader.first_unexpired(now_ms - stream.retention_ms)
        start = max(positions.get(shard_index, shard.first_sequence), oldest)
        counter = reader.counter()
        records_by_shard[shard_id] = max(0, counter.next_sequence - start)
        next_record = reader.first_sound(start, counter.next_sequence)
        if next_record is not None:
            behind_ms = max(behind_ms, 1, counter.last_arrival_ms - next_record.arrival_ms)
    return ConsumerLag(sum(records_by_shard.values()), behind_ms, records_by_shard)
