"""The registry of consumers inside a transaction: register, find, list and delete those of a stream.

A stream's entry says nothing of its consumers; they are the keys that begin with its number. Deleting a consumer
deletes its positions too, in the same transaction.
"""

from collections.abc import Iterator
from itertools import takewhile

from streamstore.databases import CONSUMERS_DATABASE, POSITIONS_DATABASE, DamagedValueError
from streamstore.dialect import Dialect
from streamstore.disk_format import consumer_key, decode_consumer, encode_consumer, positions_prefix
from streamstore.errors import (
    LimitExceededException,
    ResourceInUseException,
    ResourceNotFoundException,
    StoreFormatError,
)
from streamstore.model import StoredConsumer, StoredStream
from streamstore.transaction import ReadTransaction, WriteTransaction

__all__ = [
    "count_consumers",
    "delete_consumer",
    "delete_consumers",
    "ensure_consumer",
    "find_consumer",
    "iterate_consumers",
    "load_consumer",
    "refuse_consumers",
    "register_consumer",
    "save_consumer",
]


def find_consumer(transaction: ReadTransaction, stream: StoredStream, consumer_name: str) -> StoredConsumer | None:
    key = consumer_key(stream.number, consumer_name)
    value = transaction.get(CONSUMERS_DATABASE, key)
    return None if value is None else _decode(key, value)


def load_consumer(transaction: ReadTransaction, stream: StoredStream, consumer_name: str) -> StoredConsumer:
    consumer = find_consumer(transaction, stream, consumer_name)
    if consumer is None:
        raise ResourceNotFoundException(
            resource=f"Consumer {consumer_name} of stream {stream.name}",
            remedy="register it with register_stream_consumer, or see list_stream_consumers",
        )
    return consumer


def save_consumer(transaction: WriteTransaction, consumer: StoredConsumer) -> None:
    key = consumer_key(consumer.stream_number, consumer.name)
    transaction.put(CONSUMERS_DATABASE, key, encode_consumer(consumer))


def register_consumer(
    transaction: WriteTransaction, stream: StoredStream, consumer_name: str, *, dialect: Dialect, now_ms: int
) -> StoredConsumer:
    """Add a consumer. Refuses a name that is taken, and more consumers than a stream may have registered."""
    if find_consumer(transaction, stream, consumer_name) is not None:
        raise ResourceInUseException(
            resource=f"Consumer {consumer_name} of stream {stream.name}",
            remedy="use it, deregister it first, or choose another name",
        )
    if count_consumers(transaction, stream) >= dialect.consumers_per_stream_max:
        raise LimitExceededException(
            limit=f"{dialect.consumers_per_stream_max} consumers per stream",
            remedy=f"deregister one of stream {stream.name} first",
        )
    return ensure_consumer(transaction, stream, consumer_name, now_ms=now_ms)


def ensure_consumer(
    transaction: WriteTransaction, stream: StoredStream, consumer_name: str, *, now_ms: int
) -> StoredConsumer:
    """Return the consumer of this name, a new one if there is none. Knows no limit."""
    consumer = find_consumer(transaction, stream, consumer_name)
    if consumer is None:
        consumer = StoredConsumer(stream.number, consumer_name, creation_ms=now_ms)
        save_consumer(transaction, consumer)
    return consumer


def iterate_consumers(
    transaction: ReadTransaction, stream: StoredStream, after_consumer_name: str
) -> Iterator[StoredConsumer]:
    """Yield the consumers with names greater than ``after_consumer_name`` in bytewise order."""
    prefix, after = consumer_key(stream.number, ""), consumer_key(stream.number, after_consumer_name)
    for key, value in transaction.items_that_begin_with(CONSUMERS_DATABASE, prefix, after=after):
        yield _decode(key, value)


def count_consumers(transaction: ReadTransaction, stream: StoredStream) -> int:
    return sum(1 for _ in transaction.items_that_begin_with(CONSUMERS_DATABASE, consumer_key(stream.number, "")))


def delete_consumer(transaction: WriteTransaction, stream: StoredStream, consumer_name: str) -> None:
    """Delete a consumer with its positions. Refuses one that does not exist."""
    load_consumer(transaction, stream, consumer_name)
    _delete_all(transaction, POSITIONS_DATABASE, positions_prefix(stream.number, consumer_name))
    transaction.delete(CONSUMERS_DATABASE, consumer_key(stream.number, consumer_name))


def delete_consumers(transaction: WriteTransaction, stream: StoredStream) -> None:
    """Delete all consumers of a stream with their positions."""
    _delete_all(transaction, POSITIONS_DATABASE, consumer_key(stream.number, ""))
    _delete_all(transaction, CONSUMERS_DATABASE, consumer_key(stream.number, ""))


def refuse_consumers(transaction: ReadTransaction, stream: StoredStream) -> None:
    """Refuse to delete a stream that has consumers."""
    consumer_count = count_consumers(transaction, stream)
    if consumer_count:
        raise ResourceInUseException(
            resource=f"Stream {stream.name}",
            problem=f"has consumers, {consumer_count} of them",
            remedy="deregister them first, or pass enforce_consumer_deletion=True",
        )


def _delete_all(transaction: WriteTransaction, database: bytes, prefix: bytes) -> None:
    """Delete all keys that begin with the prefix, damaged or not."""
    keys = (key for key, _ in transaction.items_from(database, prefix))
    for key in list(takewhile(lambda key: key.startswith(prefix), keys)):
        transaction.delete(database, key)


def _decode(key: bytes, value: bytes) -> StoredConsumer:
    try:
        return decode_consumer(key, value)
    except DamagedValueError as error:
        raise StoreFormatError(f"The entry of consumer {key!r} is damaged: {error}.") from error
