"""What bytes mean: every key and value in the file. The sole importer of msgpack.

Format version 1, all integers big-endian. Every value is *sealed*, in the sense of ``databases.py``.

======================== =========================== ===================================================
named database           key                         payload
======================== =========================== ===================================================
``format``               name in ASCII               msgpack: the keys are listed below
``streams``              stream name in UTF-8        msgpack: see ``encode_stream``
``counters``             stream number u32,          first sequence u64, next sequence u64, last arrival ms
                         shard index u32             u64, quota of bytes full at ns u64, of records u64
``records/<number>/<i>`` sequence u64                msgpack: [arrival ms, partition key, data]
``consumers``            stream number u32, name     msgpack: [creation ms, epoch]
``positions``            stream number u32, name,    sequence u64
                         zero byte, shard index u32
``idempotency_keys``     stream number u32, digest   shard index u32, sequence u64, sent ms u64
``idempotency_times``    stream number u32, sent ms  not sealed, empty: the sent ms in ``idempotency_keys``
                         u64, digest                 proves it
``losses``               stream number u32,          sequence u64: the numbers from the key's to the one in front
                         shard index u32,            of this are known to be lost; in salvaged stores only
                         sequence u64
``recoveries``           ``last``, ``change``        not sealed: marks that the engine knows its commits by
======================== =========================== ===================================================

The digest of an idempotency key is the BLAKE2b of 16 bytes of its UTF-8: a key of LMDB has 511 bytes at most.

The address of a record is (stream number u32, shard index u32, sequence u64). This module knows bytes, not
operations, and never touches LMDB.
"""

import struct
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Final, cast

import msgpack

from streamstore.databases import (
    CONSUMERS_DATABASE,
    COUNTERS_DATABASE,
    FORMAT_DATABASE,
    IDEMPOTENCY_KEYS_DATABASE,
    LOSSES_DATABASE,
    POSITIONS_DATABASE,
    STREAMS_DATABASE,
    DamagedValueError,
    crc32,
    seal,
    unseal,
)
from streamstore.limits import IDEMPOTENCY_WINDOW_MS_DEFAULT
from streamstore.model import (
    SHARD_LEVEL_METRICS,
    STREAM_MODES,
    FirstPut,
    HashKeyRange,
    Record,
    ShardCounter,
    ShardLevelMetric,
    StoredConsumer,
    StoredShard,
    StoredStream,
    StreamMode,
    StreamNumber,
    new_named_tuple,
)

FORMAT_VERSION: Final = 1
STORE_SECRET_BYTES: Final = 32

# Keys of the format database.
VERSION_KEY: Final = b"version"  # int: FORMAT_VERSION
DIALECT_KEY: Final = b"dialect"  # str: a name in dialect.DIALECTS
SECRET_KEY: Final = b"secret"  # bytes: signs the tokens
NEXT_STREAM_NUMBER_KEY: Final = b"next_stream_number"  # int: the number of the next stream
SHARD_COUNT_KEY: Final = b"shard_count"  # int: shards of all streams

_CRC: Final = struct.Struct(">I")
_SHARD_KEY: Final = struct.Struct(">II")
_RECORD_KEY: Final = struct.Struct(">Q")
_POSITION: Final = struct.Struct(">Q")
_LOSS_KEY: Final = struct.Struct(">IIQ")
_LOSS: Final = struct.Struct(">Q")
_INDEX: Final = struct.Struct(">I")
_COUNTER: Final = struct.Struct(">QQQQQ")
_STREAM_PREFIX: Final = struct.Struct(">I")
_TIME_PREFIX: Final = struct.Struct(">IQ")
_FIRST_PUT: Final = struct.Struct(">IQQ")
_DIGEST_BYTES: Final = 16
_TIME_MS_MAX: Final = 2**64 - 1
_HASH_KEY_BYTES: Final = 16
_END_OF_NAME: Final = b"\0"
_FIRST_FIELDS: Final = 5
_SETTINGS_WITHOUT_METRICS: Final = 5
_FIRST_SETTINGS: Final[list[object]] = [False, "PROVISIONED", IDEMPOTENCY_WINDOW_MS_DEFAULT, [], []]
# Whatever it returns is proven by what is done with it.
_unpack_fields: Final = cast(Callable[[bytes], Iterable[object]], msgpack.unpackb)
_CRC_BYTES: Final = _CRC.size


def counter_key(stream_number: StreamNumber, shard_index: int) -> bytes:
    return _SHARD_KEY.pack(stream_number, shard_index)


def parse_counter_key(key: bytes) -> tuple[StreamNumber, int]:
    """Return stream number and shard index."""
    if len(key) != _SHARD_KEY.size:
        raise DamagedValueError(f"{key!r} is no key of a counter")
    stream_number, shard_index = _SHARD_KEY.unpack(key)
    return StreamNumber(stream_number), shard_index


def record_key(sequence: int) -> bytes:
    return _RECORD_KEY.pack(sequence)


def sequence_of_record_key(key: bytes) -> int:
    return int.from_bytes(key, "big")


def encode_format_value(key: bytes, value: int | str | bytes) -> bytes:
    return seal(FORMAT_DATABASE, key, _pack(value))


def decode_format_int(key: bytes, value: bytes) -> int:
    return _expect_int(_decode_format_value(key, value))


def decode_format_str(key: bytes, value: bytes) -> str:
    return _expect_str(_decode_format_value(key, value))


def decode_format_bytes(key: bytes, value: bytes) -> bytes:
    return _expect_bytes(_decode_format_value(key, value))


def stream_key(stream_name: str) -> bytes:
    return stream_name.encode()


def encode_stream(stream: StoredStream) -> bytes:
    """Seal ``[number, creation ms, retention hours, quota KB/s or nil, shards, next shard index, settings]``.

    A shard is ``[starting hash key, ending hash key, parent indexes, first sequence, next sequence at close or
    nil, index, created ms, closed ms or nil]``; a hash key is 16 bytes. The settings are ``[has read quota, mode,
    idempotency window ms, [[tag key, tag value], ...], [resized ms, ...]]``, and behind these ``[shard level metric,
    ...]``, unless there is none.

    The first stores of this version have five fields in a stream and five in a shard, whose index is its place.
    """
    payload = _pack(
        [
            stream.number,
            stream.creation_ms,
            stream.retention_hours,
            stream.write_quota_kb_per_sec,
            [
                [
                    shard.hash_key_range.starting_hash_key.to_bytes(_HASH_KEY_BYTES, "big"),
                    shard.hash_key_range.ending_hash_key.to_bytes(_HASH_KEY_BYTES, "big"),
                    list(shard.parent_indexes),
                    shard.first_sequence,
                    shard.next_sequence_at_close,
                    shard_index,
                    shard.created_ms,
                    shard.closed_ms,
                ]
                for shard_index, shard in stream.shards.items()
            ],
            stream.next_shard_index,
            [
                stream.has_read_quota,
                stream.mode,
                stream.idempotency_window_ms,
                [list(tag) for tag in stream.tags],
                list(stream.resized_ms),
                *([list(stream.shard_level_metrics)] if stream.shard_level_metrics else []),
            ],
        ]
    )
    return seal(STREAMS_DATABASE, stream_key(stream.name), payload)


def decode_stream(key: bytes, value: bytes) -> StoredStream:
    fields = _expect_list(_unpack(unseal(STREAMS_DATABASE, key, value)))
    if len(fields) == _FIRST_FIELDS:
        fields += [len(_expect_list(fields[-1])), _FIRST_SETTINGS]
    number, creation_ms, retention_hours, write_quota_kb_per_sec, shards, next_shard_index, settings = _expect_list(
        fields, length=_FIRST_FIELDS + 2
    )
    setting_fields = _expect_list(settings)
    if len(setting_fields) == _SETTINGS_WITHOUT_METRICS:
        setting_fields = [*setting_fields, list[object]()]
    has_read_quota, mode, idempotency_window_ms, tags, resized_ms, metrics = _expect_list(
        setting_fields, length=_SETTINGS_WITHOUT_METRICS + 1
    )
    return StoredStream(
        name=_decode_name(key),
        number=StreamNumber(_expect_int(number)),
        creation_ms=_expect_int(creation_ms),
        retention_hours=_expect_int(retention_hours),
        write_quota_kb_per_sec=_expect_int_or_none(write_quota_kb_per_sec),
        shards=dict(
            _decode_shard(shard, place, created_ms=_expect_int(creation_ms))
            for place, shard in enumerate(_expect_list(shards))
        ),
        next_shard_index=_expect_int(next_shard_index),
        has_read_quota=_expect_bool(has_read_quota),
        mode=_expect_mode(mode),
        idempotency_window_ms=_expect_int(idempotency_window_ms),
        tags=tuple(_decode_tag(tag) for tag in _expect_list(tags)),
        resized_ms=tuple(_expect_int(time_ms) for time_ms in _expect_list(resized_ms)),
        shard_level_metrics=_expect_metrics(metrics),
    )


def encode_counter(stream_number: StreamNumber, shard_index: int, counter: ShardCounter) -> bytes:
    payload = _COUNTER.pack(
        counter.first_sequence,
        counter.next_sequence,
        counter.last_arrival_ms,
        counter.quota_bytes_full_at_ns,
        counter.quota_records_full_at_ns,
    )
    return seal(COUNTERS_DATABASE, counter_key(stream_number, shard_index), payload)


def decode_counter(stream_number: StreamNumber, shard_index: int, value: bytes) -> ShardCounter:
    payload = unseal(COUNTERS_DATABASE, counter_key(stream_number, shard_index), value)
    if len(payload) != _COUNTER.size:
        raise DamagedValueError(f"a counter has {len(payload)} bytes")
    return ShardCounter(*_COUNTER.unpack(payload))


def consumer_key(stream_number: StreamNumber, consumer_name: str) -> bytes:
    """Return the key of a consumer; of an empty name: what the keys of all consumers of the stream begin with."""
    return _INDEX.pack(stream_number) + consumer_name.encode()


def encode_consumer(consumer: StoredConsumer) -> bytes:
    key = consumer_key(consumer.stream_number, consumer.name)
    return seal(CONSUMERS_DATABASE, key, _pack([consumer.creation_ms, consumer.epoch]))


def decode_consumer(key: bytes, value: bytes) -> StoredConsumer:
    payload = unseal(CONSUMERS_DATABASE, key, value)
    creation_ms, epoch = _expect_list(_unpack(payload), length=2)
    return StoredConsumer(*_decode_consumer_key(key), creation_ms=_expect_int(creation_ms), epoch=_expect_int(epoch))


def positions_prefix(stream_number: StreamNumber, consumer_name: str) -> bytes:
    """Return what the keys of the consumer's positions begin with, and no other key does: no name has a zero byte."""
    return consumer_key(stream_number, consumer_name) + _END_OF_NAME


def position_key(stream_number: StreamNumber, consumer_name: str, shard_index: int) -> bytes:
    return positions_prefix(stream_number, consumer_name) + _INDEX.pack(shard_index)


def parse_position_key(key: bytes) -> tuple[StreamNumber, str, int]:
    """Return stream number, consumer name and shard index."""
    start, shard_index = key[: -_INDEX.size], key[-_INDEX.size :]
    if not start.endswith(_END_OF_NAME):
        raise DamagedValueError(f"{key!r} is no key of a position")
    return (*_decode_consumer_key(start.removesuffix(_END_OF_NAME)), int.from_bytes(shard_index, "big"))


def encode_position(key: bytes, sequence: int) -> bytes:
    return seal(POSITIONS_DATABASE, key, _POSITION.pack(sequence))


def decode_position(key: bytes, value: bytes) -> int:
    payload = unseal(POSITIONS_DATABASE, key, value)
    if len(payload) != _POSITION.size:
        raise DamagedValueError(f"a position has {len(payload)} bytes")
    return int.from_bytes(payload, "big")


def loss_key(stream_number: StreamNumber, shard_index: int, first_sequence: int) -> bytes:
    return _LOSS_KEY.pack(stream_number, shard_index, first_sequence)


def encode_loss(key: bytes, stop: int) -> bytes:
    return seal(LOSSES_DATABASE, key, _LOSS.pack(stop))


def decode_loss(key: bytes, value: bytes) -> tuple[StreamNumber, int, range]:
    """Return stream number, shard index and the numbers that are lost."""
    payload = unseal(LOSSES_DATABASE, key, value)
    if len(key) != _LOSS_KEY.size or len(payload) != _LOSS.size:
        raise DamagedValueError(f"a loss has {len(key)} and {len(payload)} bytes")
    stream_number, shard_index, first_sequence = _LOSS_KEY.unpack(key)
    (stop,) = _LOSS.unpack(payload)
    return StreamNumber(stream_number), shard_index, range(first_sequence, stop)


def idempotency_key_key(stream_number: StreamNumber, idempotency_key: str) -> bytes:
    digest = blake2b(idempotency_key.encode(), digest_size=_DIGEST_BYTES, usedforsecurity=False).digest()
    return _STREAM_PREFIX.pack(stream_number) + digest


def idempotency_time_key(key: bytes, sent_ms: int) -> bytes:
    """Return the key in the database of times for one in the database of idempotency keys."""
    return key[: _STREAM_PREFIX.size] + sent_ms.to_bytes(8, "big") + key[_STREAM_PREFIX.size :]


def split_idempotency_time_key(time_key: bytes) -> tuple[bytes, int]:
    """Return the key in the database of idempotency keys, and the sent ms."""
    number, sent_ms = time_key[: _STREAM_PREFIX.size], time_key[_STREAM_PREFIX.size : _TIME_PREFIX.size]
    return number + time_key[_TIME_PREFIX.size :], int.from_bytes(sent_ms, "big")


def idempotency_start(stream_number: int, first_sent_ms: int | None = None) -> bytes:
    """Return what comes in front of a stream's keys, or of its times from ``first_sent_ms`` on, and behind all others.

    Times that no clock shows stand for the first or the last that it could.
    """
    if first_sent_ms is None:
        return _STREAM_PREFIX.pack(stream_number)
    return _TIME_PREFIX.pack(stream_number, min(max(first_sent_ms, 0), _TIME_MS_MAX))


def stream_number_of_idempotency_key(key: bytes) -> StreamNumber:
    return StreamNumber(int.from_bytes(key[: _STREAM_PREFIX.size], "big"))


def encode_first_put(key: bytes, put: FirstPut) -> bytes:
    return seal(IDEMPOTENCY_KEYS_DATABASE, key, _FIRST_PUT.pack(*put))


def decode_first_put(key: bytes, value: bytes) -> FirstPut:
    payload = unseal(IDEMPOTENCY_KEYS_DATABASE, key, value)
    if len(payload) != _FIRST_PUT.size:
        raise DamagedValueError(f"a first put has {len(payload)} bytes")
    return FirstPut(*_FIRST_PUT.unpack(payload))


class RecordFormat:
    """Encodes and decodes the records of one shard.

    The checksum runs over the shard, the key (the sequence) and the payload; the shard's part of it is
    computed once, here.
    """

    __slots__ = ("_pack", "_shard_crc")

    def __init__(self, stream_number: StreamNumber, shard_index: int) -> None:
        self._shard_crc = crc32(_SHARD_KEY.pack(stream_number, shard_index))
        self._pack: Callable[[object], bytes] = msgpack.Packer(use_bin_type=True).pack

    def encode(self, key: bytes, arrival_ms: int, partition_key: str, data: bytes) -> bytes:
        ((_, value),) = self.encode_run([(arrival_ms, partition_key, data)], sequence_of_record_key(key))
        return value

    def encode_run(self, records: Iterable[tuple[int, str, bytes]], first_sequence: int) -> list[tuple[bytes, bytes]]:
        """Return the items of records (arrival ms, partition key, data) that count up from ``first_sequence``.

        In one loop, like ``decode_run``: every call in it is paid for every record.
        """
        shard_crc = self._shard_crc
        pack, pack_key, pack_crc, checksum = self._pack, _RECORD_KEY.pack, _CRC.pack, crc32
        items: list[tuple[bytes, bytes]] = []
        for sequence, record in enumerate(records, first_sequence):
            key = pack_key(sequence)
            payload = pack(record)
            items.append((key, pack_crc(checksum(payload, checksum(key, shard_crc))) + payload))
        return items

    def decode(self, key: bytes, value: bytes) -> Record:
        """Return one record, or raise ``DamagedValueError``."""
        if len(key) != _RECORD_KEY.size:
            raise DamagedValueError("its key is not one of a record")
        records, damage = self.decode_run([(key, value)], sequence_of_record_key(key), bytes_max=len(value))
        if damage is not None:
            raise damage
        return records[0]

    def decode_run(
        self, items: Iterable[tuple[bytes, bytes]], first_sequence: int, *, bytes_max: int
    ) -> tuple[list[Record], DamagedValueError | None]:
        """Return the records of items whose keys must count up from ``first_sequence``, and what ended them early.

        They end in front of the first that is not what was written there, with the error that says why, and in front of
        the first that would make more than ``bytes_max`` of data and keys.
        """
        shard_crc = self._shard_crc
        pack_key, stored_crc, checksum, unpack, new = (
            _RECORD_KEY.pack,
            _CRC.unpack_from,
            crc32,
            _unpack_fields,
            new_named_tuple,
        )
        records: list[Record] = []
        append = records.append
        bytes_left = bytes_max
        sequence = first_sequence
        for key, value in items:
            if key != pack_key(sequence):
                return records, DamagedValueError("it is missing")
            payload = value[_CRC_BYTES:]
            if len(value) < _CRC_BYTES or checksum(payload, checksum(key, shard_crc)) != stored_crc(value)[0]:
                return records, DamagedValueError("its checksum does not match")
            try:
                arrival_ms, partition_key, data = unpack(payload)
            except Exception as error:
                return records, DamagedValueError(f"it is not a record: {type(error).__name__}")
            if type(arrival_ms) is not int or type(partition_key) is not str or type(data) is not bytes:
                return records, DamagedValueError("its fields are not those of a record")
            bytes_left -= len(data) + len(partition_key if partition_key.isascii() else partition_key.encode())
            if bytes_left < 0:
                break
            append(new(Record, (str(sequence), partition_key, data, arrival_ms)))
            sequence += 1
        return records, None


def _decode_format_value(key: bytes, value: bytes) -> object:
    return _unpack(unseal(FORMAT_DATABASE, key, value))


def _decode_name(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise DamagedValueError(f"a name is not UTF-8: {key!r}") from None


def _decode_consumer_key(key: bytes) -> tuple[StreamNumber, str]:
    if len(key) <= _INDEX.size:
        raise DamagedValueError(f"{key!r} is no key of a consumer")
    return StreamNumber(int.from_bytes(key[: _INDEX.size], "big")), _decode_name(key[_INDEX.size :])


def _decode_shard(shard: object, place: int, *, created_ms: int) -> tuple[int, StoredShard]:
    fields = _expect_list(shard)
    if len(fields) == _FIRST_FIELDS:
        fields = [*fields, place, created_ms, None]
    start, end, parent_indexes, first_sequence, next_sequence_at_close, index, created, closed_ms = _expect_list(
        fields, length=_FIRST_FIELDS + 3
    )
    return _expect_int(index), StoredShard(
        hash_key_range=HashKeyRange(_expect_hash_key(start), _expect_hash_key(end)),
        parent_indexes=tuple(_expect_int(index) for index in _expect_list(parent_indexes)),
        first_sequence=_expect_int(first_sequence),
        next_sequence_at_close=_expect_int_or_none(next_sequence_at_close),
        created_ms=_expect_int(created),
        closed_ms=_expect_int_or_none(closed_ms),
    )


def _decode_tag(tag: object) -> tuple[str, str]:
    key, value = _expect_list(tag, length=2)
    return _expect_str(key), _expect_str(value)


def _pack(value: object) -> bytes:
    return msgpack.packb(value, use_bin_type=True)


def _unpack(payload: bytes) -> object:
    try:
        return msgpack.unpackb(payload)
    except Exception as error:
        # Hostile bytes make msgpack raise more than its documented errors (TypeError, OverflowError, ...).
        raise DamagedValueError(f"it is not msgpack: {type(error).__name__}") from error


def _expect_int(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise DamagedValueError(f"it holds a {type(value).__name__} where an int belongs")


def _expect_int_or_none(value: object) -> int | None:
    return None if value is None else _expect_int(value)


def _expect_bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise DamagedValueError(f"it holds a {type(value).__name__} where a bool belongs")


def _expect_mode(value: object) -> StreamMode:
    for mode in STREAM_MODES:
        if value == mode:
            return mode
    raise DamagedValueError("it holds no mode of a stream where one belongs")


def _expect_metrics(value: object) -> tuple[ShardLevelMetric, ...]:
    names = _expect_list(value)
    metrics: list[ShardLevelMetric] = [metric for metric in SHARD_LEVEL_METRICS if metric in names]
    if metrics == names and ("ALL" not in metrics or len(metrics) == 1):
        return tuple(metrics)
    raise DamagedValueError("it holds no metrics of shards where they belong")


def _expect_str(value: object) -> str:
    if isinstance(value, str):
        return value
    raise DamagedValueError(f"it holds a {type(value).__name__} where a str belongs")


def _expect_bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    raise DamagedValueError(f"it holds a {type(value).__name__} where bytes belong")


def _expect_hash_key(value: object) -> int:
    encoded = _expect_bytes(value)
    if len(encoded) == _HASH_KEY_BYTES:
        return int.from_bytes(encoded, "big")
    raise DamagedValueError(f"it holds {len(encoded)} bytes where the {_HASH_KEY_BYTES} of a hash key belong")


def _expect_list(value: object, *, length: int | None = None) -> list[object]:
    if isinstance(value, list):
        items = cast(list[object], value)
        if length is None or len(items) == length:
            return items
        raise DamagedValueError(f"it holds {len(items)} fields where {length} belong")
    raise DamagedValueError(f"it holds a {type(value).__name__} where a list belongs")
