"""The control plane inside a transaction: find, create, delete and list streams.

Every function takes the transaction that it works in; none commits, and none changes anything before all its
refusals are behind it.
"""

import secrets
from collections.abc import Iterator
from itertools import cycle
from typing import Final

from streamstore.consumers import delete_consumers, refuse_consumers
from streamstore.databases import (
    COUNTERS_DATABASE,
    FORMAT_DATABASE,
    STREAMS_DATABASE,
    DamagedValueError,
    Databases,
    records_database,
)
from streamstore.dialect import DIALECTS, Dialect
from streamstore.disk_format import (
    DIALECT_KEY,
    FORMAT_VERSION,
    NEXT_STREAM_NUMBER_KEY,
    SECRET_KEY,
    SHARD_COUNT_KEY,
    STORE_SECRET_BYTES,
    VERSION_KEY,
    RecordFormat,
    counter_key,
    decode_counter,
    decode_format_bytes,
    decode_format_int,
    decode_format_str,
    decode_stream,
    encode_counter,
    encode_format_value,
    encode_stream,
    stream_key,
)
from streamstore.errors import (
    LimitExceededException,
    ResourceInUseException,
    ResourceNotFoundException,
    ShardsAsked,
    StoreFormatError,
)
from streamstore.idempotency import clear_idempotency_keys
from streamstore.limits import ON_DEMAND_STREAMS_PER_STORE_MAX, SHARDS_PER_STORE_MAX
from streamstore.losses import delete_losses
from streamstore.model import ShardCounter, StoredShard, StoredStream, StreamNumber, StreamSettings
from streamstore.routing import ShardRouter, slice_hash_keys
from streamstore.transaction import ReadTransaction, WriteTransaction

__all__ = [
    "KnownShard",
    "KnownStream",
    "StreamCatalog",
    "add_to_shard_count",
    "create_stream",
    "databases_of",
    "delete_stream",
    "drop_shard",
    "initial_databases",
    "iterate_streams",
    "load_counter",
    "load_format",
    "load_format_int",
    "refuse_another_on_demand",
    "save_counter",
    "save_stream",
    "shard_index_of",
]


class KnownShard:
    """What a shard's records need that never changes; made once for each shard that is written to.

    It remembers too when the oldest record arrived, as retention found it: that of ``oldest_sequence``, in front of
    which all are damaged; None while it is still to be found.
    """

    __slots__ = (
        "counter_key",
        "database",
        "format",
        "oldest_arrival_ms",
        "oldest_sequence",
        "shard_id",
        "shard_index",
        "stream_number",
    )

    def __init__(self, stream_number: StreamNumber, shard_index: int, dialect: Dialect) -> None:
        self.stream_number = stream_number
        self.shard_index = shard_index
        self.shard_id = dialect.shard_id(shard_index)
        self.database = records_database(stream_number, shard_index)
        self.counter_key = counter_key(stream_number, shard_index)
        self.format = RecordFormat(stream_number, shard_index)
        self.oldest_sequence = -1
        self.oldest_arrival_ms: int | None = None

    def may_have_expired(self, horizon_ms: int) -> bool:
        """Tell whether a record may have arrived before ``horizon_ms``. Whoever trims meanwhile makes that less so."""
        return self.oldest_arrival_ms is None or self.oldest_arrival_ms < horizon_ms


class KnownStream:
    """A decoded stream with the router of its open shards."""

    __slots__ = ("_shards", "_turn", "router", "stored")

    def __init__(self, stored: StoredStream) -> None:
        self.stored = stored
        self.router = ShardRouter(stored.shards)
        self._shards: dict[int, KnownShard] = {}
        self._turn = cycle(stored.shards)

    def next_shard_index(self) -> int:
        """Return the index of each shard in turn, the closed ones too."""
        return next(self._turn)

    def shard(self, shard_index: int, dialect: Dialect) -> KnownShard:
        shard = self._shards.get(shard_index)
        if shard is None:
            shard = self._shards[shard_index] = KnownShard(self.stored.number, shard_index, dialect)
        return shard


class StreamCatalog:
    """Loads streams, and decodes an entry again only when its bytes have changed.

    The bytes are read in the caller's transaction every time, so what it returns is never older than that.
    """

    def __init__(self) -> None:
        self._decoded: dict[str, tuple[bytes, KnownStream]] = {}
        self.monitored: Final[set[str]] = set()
        """The streams that have metrics of their shards enabled, as each was loaded last."""

    def load(self, transaction: ReadTransaction, stream_name: str) -> KnownStream:
        key = stream_key(stream_name)
        value = transaction.get(STREAMS_DATABASE, key)
        if value is None:
            self._decoded.pop(stream_name, None)
            self.monitored.discard(stream_name)
            raise ResourceNotFoundException(
                resource=f"Stream {stream_name}", remedy="create it with create_stream, or see list_streams"
            )
        known = self._decoded.get(stream_name)
        if known is not None and known[0] == value:
            return known[1]
        stream = KnownStream(_decode(key, value))
        self._decoded[stream_name] = (value, stream)
        if stream.stored.shard_level_metrics:
            self.monitored.add(stream_name)
        else:
            self.monitored.discard(stream_name)
        return stream


def initial_databases(dialect: Dialect) -> Databases:
    """Return what a new store contains. The secret signs its tokens."""
    format_values: dict[bytes, int | str | bytes] = {
        VERSION_KEY: FORMAT_VERSION,
        DIALECT_KEY: dialect.name,
        SECRET_KEY: secrets.token_bytes(STORE_SECRET_BYTES),
        NEXT_STREAM_NUMBER_KEY: 1,
        SHARD_COUNT_KEY: 0,
    }
    return {
        FORMAT_DATABASE: {key: encode_format_value(key, value) for key, value in format_values.items()},
        STREAMS_DATABASE: {},
        COUNTERS_DATABASE: {},
    }


def load_format(transaction: ReadTransaction) -> tuple[Dialect, bytes]:
    """Return the dialect and the secret of the store, or refuse what is none of this version."""
    values = {key: transaction.get(FORMAT_DATABASE, key) for key in (VERSION_KEY, DIALECT_KEY, SECRET_KEY)}
    version, dialect, secret = values.values()
    if version is None or dialect is None or secret is None:
        raise StoreFormatError("The file is an LMDB environment, but not a streamstore; nothing was changed.")
    try:
        version_number = decode_format_int(VERSION_KEY, version)
        if version_number != FORMAT_VERSION:
            raise StoreFormatError(
                f"The store has format version {version_number}; this version of streamstore reads {FORMAT_VERSION}. "
                "Open it with the version that wrote it."
            )
        dialect_name = decode_format_str(DIALECT_KEY, dialect)
        if dialect_name not in DIALECTS:
            raise StoreFormatError(f"The store has the dialect {dialect_name!r}, which this version does not know.")
        return DIALECTS[dialect_name], decode_format_bytes(SECRET_KEY, secret)
    except DamagedValueError as error:
        raise StoreFormatError(f"The store is damaged: {error}.") from error


def shard_index_of(stream: StoredStream, shard_id: str, dialect: Dialect, *, now_ms: int) -> int:
    """Return the index of one of the stream's shards. Only the exact id will do: "shard-0000001" is none."""
    match = dialect.shard_id_pattern.fullmatch(shard_id)
    shard_index = int(match[1]) if match else stream.next_shard_index
    shard = stream.shards.get(shard_index)
    if shard is None or stream.has_expired(shard, now_ms) or dialect.shard_id(shard_index) != shard_id:
        raise ResourceNotFoundException(
            resource=f"Shard {shard_id} in stream {stream.name}", remedy="see list_shards for those that do"
        )
    return shard_index


def create_stream(
    transaction: WriteTransaction, settings: StreamSettings, *, now_ms: int, dialect: Dialect, shard_limit: int
) -> None:
    key = stream_key(settings.name)
    if transaction.get(STREAMS_DATABASE, key) is not None:
        raise ResourceInUseException(
            resource=f"Stream {settings.name}", remedy="use it, delete it first, or choose another name"
        )
    if settings.mode == "ON_DEMAND":
        refuse_another_on_demand(transaction)
    count = settings.shard_count
    add_to_shard_count(transaction, count, open_count=count, shard_limit=shard_limit)
    number = StreamNumber(load_format_int(transaction, NEXT_STREAM_NUMBER_KEY))
    stream = StoredStream(
        name=settings.name,
        number=number,
        creation_ms=now_ms,
        retention_hours=settings.retention_hours,
        write_quota_kb_per_sec=settings.write_quota_kb_per_sec,
        shards={
            shard_index: StoredShard(hash_key_range, created_ms=now_ms)
            for shard_index, hash_key_range in enumerate(slice_hash_keys(settings.shard_count, dialect))
        },
        next_shard_index=settings.shard_count,
        has_read_quota=settings.has_read_quota,
        mode=settings.mode,
        idempotency_window_ms=settings.idempotency_window_ms,
        tags=settings.tags,
    )
    for shard_index in stream.shards:
        save_counter(transaction, number, shard_index, ShardCounter())
    _save_format_int(transaction, NEXT_STREAM_NUMBER_KEY, number + 1)
    save_stream(transaction, stream)


def delete_stream(transaction: WriteTransaction, stream: StoredStream, *, enforce_consumer_deletion: bool) -> None:
    if enforce_consumer_deletion:
        delete_consumers(transaction, stream)
    else:
        refuse_consumers(transaction, stream)
    for shard_index in stream.shards:
        drop_shard(transaction, stream.number, shard_index)
    clear_idempotency_keys(transaction, stream.number)
    transaction.delete(STREAMS_DATABASE, stream_key(stream.name))


def databases_of(stream: StoredStream) -> list[bytes]:
    """Return the names of the databases that are dropped with the stream."""
    return [records_database(stream.number, shard_index) for shard_index in stream.shards]


def drop_shard(transaction: WriteTransaction, stream_number: StreamNumber, shard_index: int) -> None:
    """Remove what the file holds of a shard. The stream's entry is the caller's. Only on the writer thread."""
    transaction.drop(records_database(stream_number, shard_index))
    transaction.delete(COUNTERS_DATABASE, counter_key(stream_number, shard_index))
    delete_losses(transaction, stream_number, shard_index)
    add_to_shard_count(transaction, -1)


def add_to_shard_count(
    transaction: WriteTransaction, count: int, *, open_count: int = 0, shard_limit: int = SHARDS_PER_STORE_MAX
) -> None:
    """Count shards that come or go, by which ``open_count`` more are open.

    Refuses, with nothing changed, more than a store holds, and more open ones than ``shard_limit``.
    """
    shards_before = load_format_int(transaction, SHARD_COUNT_KEY)
    if shards_before + count > SHARDS_PER_STORE_MAX:
        raise LimitExceededException(
            limit=f"{SHARDS_PER_STORE_MAX} shards per store",
            remedy=(
                f"{shards_before} exist: ask for at most {SHARDS_PER_STORE_MAX - shards_before} more, delete streams, "
                "or use a second store"
            ),
        )
    if open_count > 0 and shards_before + open_count > shard_limit:  # or else no need to count the open ones
        _refuse_more_open_shards(transaction, open_count, shard_limit)
    _save_format_int(transaction, SHARD_COUNT_KEY, shards_before + count)


def _refuse_more_open_shards(transaction: ReadTransaction, count: int, shard_limit: int) -> None:
    open_before = sum(stream.open_shard_count for stream in iterate_streams(transaction, ""))
    if open_before + count > shard_limit:
        raise LimitExceededException(
            limit=f"{shard_limit} open shards, which the store was opened with",
            remedy=f"{open_before} are open: merge shards, delete streams, or open it with a higher shard_limit",
            shards_asked=ShardsAsked(open_before, shard_limit, count),
        )


def save_stream(transaction: WriteTransaction, stream: StoredStream) -> None:
    transaction.put(STREAMS_DATABASE, stream_key(stream.name), encode_stream(stream))


def load_counter(transaction: ReadTransaction, stream_number: StreamNumber, shard_index: int) -> ShardCounter:
    """Return the counter of a shard that the stream's entry names."""
    value = transaction.get(COUNTERS_DATABASE, counter_key(stream_number, shard_index))
    try:
        if value is None:
            raise DamagedValueError("it is missing")
        return decode_counter(stream_number, shard_index, value)
    except DamagedValueError as error:
        raise StoreFormatError(
            f"The counter of shard {shard_index} is damaged: {error}. Nothing was stored."
        ) from error


def save_counter(
    transaction: WriteTransaction, stream_number: StreamNumber, shard_index: int, counter: ShardCounter
) -> None:
    transaction.put(
        COUNTERS_DATABASE,
        counter_key(stream_number, shard_index),
        encode_counter(stream_number, shard_index, counter),
    )


def refuse_another_on_demand(transaction: ReadTransaction) -> None:
    on_demand_count = sum(stream.mode == "ON_DEMAND" for stream in iterate_streams(transaction, ""))
    if on_demand_count >= ON_DEMAND_STREAMS_PER_STORE_MAX:
        raise LimitExceededException(
            limit=f"{ON_DEMAND_STREAMS_PER_STORE_MAX} streams in ON_DEMAND mode per store",
            remedy="update the mode of one to PROVISIONED, delete one, or use a second store",
        )


def iterate_streams(transaction: ReadTransaction, after: str) -> Iterator[StoredStream]:
    """Yield the streams with names greater than ``after`` in bytewise order."""
    for key, value in transaction.items_from(STREAMS_DATABASE, stream_key(after)):
        if key != stream_key(after):
            yield _decode(key, value)


def load_format_int(transaction: ReadTransaction, key: bytes) -> int:
    value = transaction.get(FORMAT_DATABASE, key)
    try:
        if value is None:
            raise DamagedValueError(f"{key!r} is missing from the format database")
        return decode_format_int(key, value)
    except DamagedValueError as error:
        raise StoreFormatError(f"The store is damaged: {error}.") from error


def _save_format_int(transaction: WriteTransaction, key: bytes, value: int) -> None:
    transaction.put(FORMAT_DATABASE, key, encode_format_value(key, value))


def _decode(key: bytes, value: bytes) -> StoredStream:
    try:
        return decode_stream(key, value)
    except DamagedValueError as error:
        raise StoreFormatError(f"The entry of stream {key!r} is damaged: {error}.") from error
