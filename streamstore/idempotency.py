"""Idempotency keys inside a transaction: look up, remember, forget a bounded bite at a time.

A key is written in the transaction of its record, by ``ShardAppender`` and nobody else, so a put that is made again
after an unknown outcome finds either both or neither.

All streams share two databases. A database for each stream would be dropped at once with it, but with three times as
many named databases LMDB takes 2 to 5 us longer to begin any transaction; clearing a stream of a million keys takes a
second, in the one commit that deletes it.
"""

from collections.abc import Iterator
from itertools import chain, islice, takewhile
from typing import Final

from streamstore.databases import IDEMPOTENCY_KEYS_DATABASE, IDEMPOTENCY_TIMES_DATABASE, DamagedValueError
from streamstore.disk_format import (
    decode_first_put,
    encode_first_put,
    idempotency_key_key,
    idempotency_start,
    idempotency_time_key,
    split_idempotency_time_key,
)
from streamstore.errors import StoreFormatError
from streamstore.model import FirstPut, StoredStream, StreamNumber
from streamstore.transaction import ReadTransaction, WriteTransaction

__all__ = ["StreamKeys", "clear_idempotency_keys", "forget_expired_keys"]

# How many expired keys a commit deletes: more than it adds, and few enough that nobody waits for it.
FORGET_KEYS_MIN: Final = 32
FORGET_KEYS_PER_KEY: Final = 2


class StreamKeys:
    """The keys of one stream that one transaction asks for and adds. Nothing is written before ``save``."""

    __slots__ = ("_added", "_last_sent_ms", "_loaded", "_outdated", "_repeated", "_stream", "_transaction")

    def __init__(self, transaction: WriteTransaction, stream: StoredStream) -> None:
        self._transaction = transaction
        self._stream = stream
        self._loaded: dict[str, FirstPut | None] = {}
        self._added: dict[str, FirstPut] = {}
        self._outdated: list[bytes] = []
        self._repeated = False
        self._last_sent_ms: int  # whoever makes this asks for a key at once

    def load(self, key: str, *, now_ms: int) -> FirstPut | None:
        """Return the newest put that was stored with the key, forgotten or not.

        A damaged entry is refused, and so is a key that it may have been, until it is forgotten.
        """
        self._last_sent_ms = now_ms
        if key not in self._loaded:
            self._loaded[key] = _load_first_put(self._transaction, self._stream, key)
        return self._loaded[key]

    def first_put(self, key: str, *, now_ms: int) -> FirstPut | None:
        """Return the put that answers one with this key, or None if it must be stored."""
        put = self.load(key, now_ms=now_ms)
        if put is None or abs(now_ms - put.sent_ms) >= self._stream.idempotency_window_ms:
            return None
        self._repeated = True
        return put

    def add(self, key: str, put: FirstPut) -> None:
        """Remember the put: its record is in this transaction, or it would be refused."""
        forgotten = self.load(key, now_ms=put.sent_ms)
        if forgotten is not None:
            self._outdated.append(
                idempotency_time_key(idempotency_key_key(self._stream.number, key), forgotten.sent_ms)
            )
        self._loaded[key] = self._added[key] = put

    def save(self) -> None:
        """Write what was added, and forget some of what has expired."""
        keys_max = FORGET_KEYS_MIN + FORGET_KEYS_PER_KEY * len(self._added)
        forget_expired_keys(self._transaction, self._stream, now_ms=self._last_sent_ms, keys_max=keys_max)
        for time_key in self._outdated:
            self._transaction.delete(IDEMPOTENCY_TIMES_DATABASE, time_key)
        if self._added:
            self._save_added()
        if self._repeated:
            self._transaction.commit_anyway()  # nobody is told that a record is stored before it is on disk

    def _save_added(self) -> None:
        items = sorted((idempotency_key_key(self._stream.number, key), put) for key, put in self._added.items())
        times = sorted((idempotency_time_key(key, put.sent_ms), b"") for key, put in items)
        self._transaction.put_all(IDEMPOTENCY_TIMES_DATABASE, times)
        self._transaction.put_all(IDEMPOTENCY_KEYS_DATABASE, [(key, encode_first_put(key, put)) for key, put in items])


def forget_expired_keys(transaction: WriteTransaction, stream: StoredStream, *, now_ms: int, keys_max: int) -> int:
    """Delete keys that are a window away from ``now_ms``, at most ``keys_max``, and return how many.

    The oldest first; then those of a time to come, which only a clock that was set back makes.
    """
    window_ms = stream.idempotency_window_ms
    start, stop = idempotency_start(stream.number), idempotency_start(stream.number + 1)
    expired = chain(
        _time_keys(transaction, start, idempotency_start(stream.number, now_ms - window_ms + 1)),
        _time_keys(transaction, idempotency_start(stream.number, now_ms + window_ms), stop),
    )
    forgotten = list(islice(expired, keys_max))
    for time_key in forgotten:
        key, sent_ms = split_idempotency_time_key(time_key)
        if not _was_sent_at_another_time(transaction, key, sent_ms):
            transaction.delete(IDEMPOTENCY_KEYS_DATABASE, key)
        transaction.delete(IDEMPOTENCY_TIMES_DATABASE, time_key)
    return len(forgotten)


def clear_idempotency_keys(transaction: WriteTransaction, stream_number: StreamNumber) -> None:
    """Delete all keys of a stream."""
    start, stop = idempotency_start(stream_number), idempotency_start(stream_number + 1)
    for database in (IDEMPOTENCY_KEYS_DATABASE, IDEMPOTENCY_TIMES_DATABASE):
        transaction.delete_before(database, stop, start=start)


def _time_keys(transaction: ReadTransaction, start: bytes, stop: bytes) -> Iterator[bytes]:
    keys = (key for key, _ in transaction.items_from(IDEMPOTENCY_TIMES_DATABASE, start))
    return takewhile(lambda key: key < stop, keys)


def _was_sent_at_another_time(transaction: ReadTransaction, key: bytes, sent_ms: int) -> bool:
    """Tell whether the time is damaged: it would have the key forgotten before its own."""
    try:
        value = transaction.get(IDEMPOTENCY_KEYS_DATABASE, key)
        return value is not None and decode_first_put(key, value).sent_ms != sent_ms
    except (DamagedValueError, StoreFormatError):
        return False  # that the key is damaged keeps nobody from forgetting it


def _load_first_put(transaction: ReadTransaction, stream: StoredStream, idempotency_key: str) -> FirstPut | None:
    key = idempotency_key_key(stream.number, idempotency_key)
    value = transaction.get(IDEMPOTENCY_KEYS_DATABASE, key)
    try:
        return None if value is None else decode_first_put(key, value)
    except DamagedValueError as error:
        raise StoreFormatError(
            f"What {stream.name} remembers of the idempotency key {idempotency_key!r} is damaged: {error}. Nothing was "
            "stored."
        ) from error
