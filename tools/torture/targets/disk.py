"""The decoders of what lies in the file: each value behind a checksum that matches, and as it is."""

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final, TypeVar, cast

import msgpack

from streamstore import databases, disk_format
from streamstore.databases import (
    CONSUMERS_DATABASE,
    COUNTERS_DATABASE,
    FORMAT_DATABASE,
    IDEMPOTENCY_KEYS_DATABASE,
    LOSSES_DATABASE,
    POSITIONS_DATABASE,
    STREAMS_DATABASE,
    DamagedValueError,
)
from streamstore.disk_format import DIALECT_KEY, SECRET_KEY, VERSION_KEY, RecordFormat, record_key
from streamstore.model import (
    FirstPut,
    HashKeyRange,
    Record,
    ShardCounter,
    StoredConsumer,
    StoredShard,
    StoredStream,
    StreamNumber,
)
from streamstore.remains import ENTRY_DATABASES, Remains
from tools.torture.targets.target import BrokenLawError, Pieces, Target, written

__all__ = ["TARGETS"]

T = TypeVar("T")
Entry = tuple[bytes, bytes]

AS_IT_IS, SEALED, EDITED = range(3)
CHECKSUM: Final = struct.Struct(">I")
NUMBER: Final = StreamNumber(1)
TIME_MS: Final = 1_700_000_000_000
ALL: Final = HashKeyRange(0, 2**128 - 1)
STREAM: Final = StoredStream(
    name="s",
    number=NUMBER,
    creation_ms=TIME_MS,
    retention_hours=24,
    write_quota_kb_per_sec=1_024,
    shards={
        0: StoredShard(ALL, next_sequence_at_close=7, created_ms=TIME_MS, closed_ms=TIME_MS + 1),
        1: StoredShard(ALL, (0,), 7, created_ms=TIME_MS + 1),
    },
    next_shard_index=2,
    tags=(("key", "value"),),
    resized_ms=(TIME_MS + 1,),
    shard_level_metrics=("OutgoingBytes", "IteratorAgeMilliseconds"),
)
CONSUMER: Final = StoredConsumer(NUMBER, "c", TIME_MS, 3)
RECORD: Final = (TIME_MS, "key", b"data")
FORMAT_VALUES: Final[dict[bytes, int | str | bytes]] = {
    VERSION_KEY: 1,
    DIALECT_KEY: "yandex",
    SECRET_KEY: bytes(32),
}


def _sealed(database: bytes, key: bytes, payload: bytes) -> bytes:
    """Return the payload behind the checksum that it has there: what follows that must hold by itself."""
    return CHECKSUM.pack(zlib.crc32(payload, zlib.crc32(database + b"/" + key))) + payload


def _value_target(
    name: str,
    database: bytes,
    decode: Callable[[bytes, bytes], T],
    encode: Callable[[bytes, T], bytes],
    seeds: Sequence[Entry],
) -> Target:
    """Return the target of a decoder of keys and values: a value that is decoded must encode back to the same."""

    sound = seeds[0][1][CHECKSUM.size :]

    def look(data: bytes) -> None:
        key, value = _entry(Pieces(data), database, sound)
        try:
            decoded = decode(key, value)
        except DamagedValueError:
            return
        again = decode(key, encode(key, decoded))
        if again != decoded:
            raise BrokenLawError(f"{decoded} came back as {again}")

    return Target(
        name,
        look,
        lambda: [
            written(form, key) + (value[CHECKSUM.size :] if form == SEALED else b"")
            for key, value in seeds
            for form in (SEALED, EDITED)
        ],
    )


def _entry(pieces: Pieces, database: bytes, sound: bytes) -> Entry:
    """Return a key and its value: as it is, behind a checksum that matches, or made of a sound one."""
    form, key = pieces.number() % 3, pieces.piece()
    if form == AS_IT_IS:
        return key, pieces.rest()
    return key, _sealed(database, key, pieces.rest() if form == SEALED else _edited(sound, pieces))


def _edited(payload: bytes, pieces: Pieces) -> bytes:
    """Return msgpack some of whose values are others."""
    try:
        value: list[object] = [msgpack.unpackb(payload)]
    except ValueError:
        return pieces.rest()
    while (place := pieces.number()) != 0:
        nodes = list(_nodes(value))
        items, index = nodes[place % len(nodes)]
        items[index] = pieces.value()
    return msgpack.packb(value[0], use_bin_type=True)


def _nodes(items: list[object]) -> Iterator[tuple[list[object], int]]:
    for index, item in enumerate(items):
        yield items, index
        if isinstance(item, list):
            yield from _nodes(cast("list[object]", item))


def _stream(key: bytes, value: bytes) -> StoredStream:
    return disk_format.decode_stream(key, value)


def _decode_counter(key: bytes, value: bytes) -> ShardCounter:
    return disk_format.decode_counter(*disk_format.parse_counter_key(key), value)


def _encode_counter(key: bytes, counter: ShardCounter) -> bytes:
    return disk_format.encode_counter(*disk_format.parse_counter_key(key), counter)


def _decode_format(key: bytes, value: bytes) -> int | str | bytes:
    for decode in (disk_format.decode_format_int, disk_format.decode_format_str):
        with suppress(DamagedValueError):
            return decode(key, value)
    return disk_format.decode_format_bytes(key, value)


def _encode_loss(key: bytes, loss: tuple[StreamNumber, int, range]) -> bytes:
    number, shard_index, numbers = loss
    if disk_format.loss_key(number, shard_index, numbers.start) != key:
        raise BrokenLawError(f"{loss} has another key")
    return disk_format.encode_loss(key, numbers.stop)


def _decode_position(key: bytes, value: bytes) -> int:
    if disk_format.position_key(*disk_format.parse_position_key(key)) != key:
        raise BrokenLawError("the position has another key")
    return disk_format.decode_position(key, value)


def _look_at_record(data: bytes) -> None:
    pieces = Pieces(data)
    is_edited, key = pieces.number() % 2, pieces.piece()
    payload = _edited(msgpack.packb(RECORD, use_bin_type=True), pieces) if is_edited else pieces.rest()
    address = disk_format.counter_key(NUMBER, 0)
    checksum = CHECKSUM.pack(zlib.crc32(payload, zlib.crc32(key, zlib.crc32(address))))
    record_format = RecordFormat(NUMBER, 0)
    try:
        record = record_format.decode(key, checksum + payload)
    except DamagedValueError:
        return
    _check_same(record, record_format.decode(key, _encoded(record_format, key, record)))


def _look_at_run(data: bytes) -> None:
    """A run of records, the values cut from one input: it ends in front of the first that is damaged."""
    pieces = Pieces(data)
    record_format = RecordFormat(NUMBER, 0)
    sound = pieces.number() % 4
    items = record_format.encode_run([RECORD] * sound, 5)
    items.append((record_key(5 + sound), pieces.rest()))
    records, damage = record_format.decode_run(items, 5, bytes_max=1_000)
    if len(records) != sound or damage is None:
        raise BrokenLawError(f"{len(records)} records of {sound}, and {damage!r}")


def _encoded(record_format: RecordFormat, key: bytes, record: Record) -> bytes:
    return record_format.encode(key, record.arrival_ms, record.partition_key, record.data)


def _record_seeds() -> Sequence[bytes]:
    key = record_key(7)
    payload = RecordFormat(NUMBER, 0).encode(key, *RECORD)[CHECKSUM.size :]
    return [written(0, key) + payload, written(1, key)]


def _look_at_names(data: bytes) -> None:
    """The keys, and the names of databases: what is understood must be written the same way."""
    with suppress(DamagedValueError):
        _check_same(disk_format.counter_key(*disk_format.parse_counter_key(data)), data)
    with suppress(DamagedValueError):
        _check_same(disk_format.position_key(*disk_format.parse_position_key(data)), data)
    if len(data) >= len(TIME_KEY):
        _check_same(disk_format.idempotency_time_key(*disk_format.split_idempotency_time_key(data)), data)
    address = databases.parse_records_database(data)
    if address is not None:
        RecordFormat(*address)
        _check_same(databases.records_database(*address), data)


def _look_at_remains(data: bytes) -> None:
    """Whatever a page holds, looked at without knowing what it is; and the sum of several such."""
    pieces = Pieces(data)
    remains, others = Remains(), Remains()
    for remains_of_one in (remains, others):
        database = ENTRY_DATABASES[pieces.number() % len(ENTRY_DATABASES)]
        key, payload = pieces.piece(), pieces.piece()
        remains_of_one.add_whatever_it_is(key, _sealed(database, key, payload))
    remains.fill_up(others)
    remains.shard_addresses()
    remains.numbers_given_out()


def _remains_seeds() -> Sequence[bytes]:
    entries = [
        (STREAMS_DATABASE, b"s", disk_format.encode_stream(STREAM)),
        (POSITIONS_DATABASE, POSITION_KEY, disk_format.encode_position(POSITION_KEY, 5)),
        (IDEMPOTENCY_KEYS_DATABASE, PUT_KEY, disk_format.encode_first_put(PUT_KEY, PUT)),
    ]
    return [
        written(ENTRY_DATABASES.index(database), key, value[CHECKSUM.size :]) * 2 for database, key, value in entries
    ]


def _check_same(value: object, other: object) -> None:
    if value != other:
        raise BrokenLawError(f"{value!r} is not {other!r}")


COUNTER_KEY: Final = disk_format.counter_key(NUMBER, 0)
COUNTER: Final = ShardCounter(3, 9, TIME_MS, 1, 2)
CONSUMER_KEY: Final = disk_format.consumer_key(NUMBER, "c")
POSITION_KEY: Final = disk_format.position_key(NUMBER, "c", 0)
PUT_KEY: Final = disk_format.idempotency_key_key(NUMBER, "once")
TIME_KEY: Final = disk_format.idempotency_time_key(PUT_KEY, TIME_MS)
PUT: Final = FirstPut(0, 5, TIME_MS)
LOSS_KEY: Final = disk_format.loss_key(NUMBER, 0, 5)

TARGETS: Final = (
    Target("record", _look_at_record, _record_seeds),
    Target("run-of-records", _look_at_run, lambda: [b"\3", b"\2" + bytes(30)]),
    _value_target(
        "stream",
        STREAMS_DATABASE,
        _stream,
        lambda _key, stream: disk_format.encode_stream(stream),
        [(b"s", disk_format.encode_stream(STREAM))],
    )._replace(ci_executions=6_000),
    _value_target(
        "counter",
        COUNTERS_DATABASE,
        _decode_counter,
        _encode_counter,
        [(COUNTER_KEY, _encode_counter(COUNTER_KEY, COUNTER))],
    ),
    _value_target(
        "consumer",
        CONSUMERS_DATABASE,
        disk_format.decode_consumer,
        lambda _key, consumer: disk_format.encode_consumer(consumer),
        [(CONSUMER_KEY, disk_format.encode_consumer(CONSUMER))],
    ),
    _value_target(
        "position",
        POSITIONS_DATABASE,
        _decode_position,
        disk_format.encode_position,
        [(POSITION_KEY, disk_format.encode_position(POSITION_KEY, 5))],
    ),
    _value_target(
        "first-put",
        IDEMPOTENCY_KEYS_DATABASE,
        disk_format.decode_first_put,
        disk_format.encode_first_put,
        [(PUT_KEY, disk_format.encode_first_put(PUT_KEY, PUT))],
    ),
    _value_target(
        "loss",
        LOSSES_DATABASE,
        disk_format.decode_loss,
        _encode_loss,
        [(LOSS_KEY, disk_format.encode_loss(LOSS_KEY, 9))],
    ),
    _value_target(
        "format",
        FORMAT_DATABASE,
        _decode_format,
        disk_format.encode_format_value,
        [(key, disk_format.encode_format_value(key, value)) for key, value in FORMAT_VALUES.items()],
    ),
    Target(
        "names",
        _look_at_names,
        lambda: [COUNTER_KEY, POSITION_KEY, TIME_KEY, b"records/12/3"],
    ),
    Target("remains", _look_at_remains, _remains_seeds, bytes_max=1_024),
)
