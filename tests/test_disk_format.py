"""Laws of the disk format: what is read is what was written, or ``DamagedValueError``."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple, cast
from unittest import mock
from zlib import crc32

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamstore import HashKeyRange, Record
from streamstore.databases import DamagedValueError, parse_records_database, records_database
from streamstore.disk_format import (
    NEXT_STREAM_NUMBER_KEY,
    SECRET_KEY,
    SHARD_COUNT_KEY,
    VERSION_KEY,
    RecordFormat,
    consumer_key,
    counter_key,
    decode_consumer,
    decode_counter,
    decode_first_put,
    decode_format_bytes,
    decode_format_int,
    decode_format_str,
    decode_position,
    decode_stream,
    encode_consumer,
    encode_counter,
    encode_first_put,
    encode_format_value,
    encode_position,
    encode_stream,
    idempotency_key_key,
    idempotency_start,
    idempotency_time_key,
    parse_position_key,
    position_key,
    positions_prefix,
    record_key,
    sequence_of_record_key,
    split_idempotency_time_key,
    stream_key,
    stream_number_of_idempotency_key,
)
from streamstore.model import (
    SHARD_LEVEL_METRICS,
    STREAM_MODES,
    FirstPut,
    ShardCounter,
    StoredConsumer,
    StoredShard,
    StoredStream,
    StreamNumber,
)

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
stream_numbers = u32.map(StreamNumber)
hash_keys = st.integers(0, 2**128 - 1)
texts = st.text(st.characters(codec="utf-8"))
keys = u64.map(record_key)

counters = st.builds(ShardCounter, u64, u64, u64, u64, u64)
shards = st.builds(
    StoredShard,
    st.builds(HashKeyRange, hash_keys, hash_keys),
    st.lists(u32, max_size=2).map(tuple),
    u64,
    st.one_of(st.none(), u64),
    u64,
    st.one_of(st.none(), u64),
)
streams = st.builds(
    StoredStream,
    name=st.from_regex(r"[a-zA-Z][a-zA-Z0-9-]{0,127}", fullmatch=True),
    number=stream_numbers,
    creation_ms=u64,
    retention_hours=st.integers(1, 24),
    write_quota_kb_per_sec=st.one_of(st.none(), st.sampled_from([128, 512, 1024])),
    shards=st.dictionaries(u32, shards, max_size=4),
    next_shard_index=u32,
    has_read_quota=st.booleans(),
    mode=st.sampled_from(STREAM_MODES),
    idempotency_window_ms=u64,
    tags=st.lists(st.tuples(texts, texts)).map(tuple),
    resized_ms=st.lists(u64).map(tuple),
    shard_level_metrics=st.one_of(
        st.just(("ALL",)),
        st.sets(st.sampled_from(SHARD_LEVEL_METRICS[:-1])).map(
            lambda metrics: tuple(metric for metric in SHARD_LEVEL_METRICS if metric in metrics)
        ),
    ),
)
consumer_names = st.from_regex(r"[a-zA-Z0-9_.-]{1,128}", fullmatch=True)
consumers = st.builds(StoredConsumer, stream_numbers, consumer_names, u64, u64)

STREAM = StoredStream(
    name="clicks",
    number=StreamNumber(7),
    creation_ms=1_700_000_000_000,
    retention_hours=24,
    write_quota_kb_per_sec=128,
    shards={
        0: StoredShard(HashKeyRange(0, 2**127 - 1), next_sequence_at_close=9, closed_ms=1_700_000_000_001),
        2: StoredShard(HashKeyRange(2**127, 2**128 - 1), parent_indexes=(0, 1), first_sequence=3),
    },
    next_shard_index=3,
    tags=(("team", "ключ"),),
)
CONSUMER = StoredConsumer(StreamNumber(7), "billing", 1_700_000_000_000, epoch=3)
POSITION_KEY = position_key(StreamNumber(7), "billing", 1)


class Sealed(NamedTuple):
    """A value as it lies on disk, and what reads it."""

    kind: str
    value: bytes
    decode: Callable[[bytes], object]


SEALED = [
    Sealed("int", encode_format_value(VERSION_KEY, 1), partial(decode_format_int, VERSION_KEY)),
    Sealed("str", encode_format_value(b"dialect", "yandex"), partial(decode_format_str, b"dialect")),
    Sealed("bytes", encode_format_value(SECRET_KEY, b"s" * 32), partial(decode_format_bytes, SECRET_KEY)),
    Sealed("stream", encode_stream(STREAM), partial(decode_stream, b"clicks")),
    Sealed(
        "counter",
        encode_counter(StreamNumber(7), 1, ShardCounter(1, 2, 3, 4, 5)),
        partial(decode_counter, StreamNumber(7), 1),
    ),
    Sealed("consumer", encode_consumer(CONSUMER), partial(decode_consumer, consumer_key(StreamNumber(7), "billing"))),
    Sealed("position", encode_position(POSITION_KEY, 300), partial(decode_position, POSITION_KEY)),
    Sealed(
        "first put",
        encode_first_put(idempotency_key_key(StreamNumber(7), "once"), FirstPut(1, 2, 3)),
        partial(decode_first_put, idempotency_key_key(StreamNumber(7), "once")),
    ),
    Sealed(
        "record",
        RecordFormat(StreamNumber(7), 1).encode(record_key(5), 1_700_000_000_000, "ключ", b"data"),
        partial(RecordFormat(StreamNumber(7), 1).decode, record_key(5)),
    ),
]


def kind_of(sealed: Sealed) -> str:
    return sealed.kind


every_kind = pytest.mark.parametrize("sealed", SEALED, ids=kind_of)


@given(u64, texts, st.binary())
def test_format_values_read_as_written(number: int, text: str, data: bytes) -> None:
    assert decode_format_int(SHARD_COUNT_KEY, encode_format_value(SHARD_COUNT_KEY, number)) == number
    assert decode_format_str(b"dialect", encode_format_value(b"dialect", text)) == text
    assert decode_format_bytes(SECRET_KEY, encode_format_value(SECRET_KEY, data)) == data


@given(streams)
def test_a_stream_reads_as_written(stream: StoredStream) -> None:
    assert decode_stream(stream_key(stream.name), encode_stream(stream)) == stream


@given(stream_numbers, u32, counters)
def test_a_counter_reads_as_written(stream_number: StreamNumber, shard_index: int, counter: ShardCounter) -> None:
    assert decode_counter(stream_number, shard_index, encode_counter(stream_number, shard_index, counter)) == counter


@given(stream_numbers, u32, u64, u64, texts, st.binary(max_size=10_000))
def test_a_record_reads_as_written(
    stream_number: StreamNumber, shard_index: int, sequence: int, arrival_ms: int, partition_key: str, data: bytes
) -> None:
    key = record_key(sequence)
    value = RecordFormat(stream_number, shard_index).encode(key, arrival_ms, partition_key, data)
    record = RecordFormat(stream_number, shard_index).decode(key, value)
    assert record == Record(str(sequence), partition_key, data, arrival_ms)


@given(stream_numbers, texts, st.builds(FirstPut, u32, u64, u64))
def test_a_first_put_reads_as_written(stream_number: StreamNumber, text: str, put: FirstPut) -> None:
    key = idempotency_key_key(stream_number, text)
    assert decode_first_put(key, encode_first_put(key, put)) == put
    assert stream_number_of_idempotency_key(key) == stream_number
    assert split_idempotency_time_key(idempotency_time_key(key, put.sent_ms)) == (key, put.sent_ms)


@given(stream_numbers, stream_numbers, texts, u64, st.integers(-(2**65), 2**65))
def test_idempotency_keys_lie_by_stream_and_their_times_by_time(
    stream_number: StreamNumber, other: StreamNumber, text: str, sent_ms: int, start_ms: int
) -> None:
    key = idempotency_key_key(stream_number, text)
    time_key = idempotency_time_key(key, sent_ms)
    assert (idempotency_start(other) < key) == (idempotency_start(other) < time_key) == (other <= stream_number)
    if start_ms < 2**64:
        assert (idempotency_start(stream_number, start_ms) < time_key) == (start_ms <= sent_ms)


@given(u64, u64)
def test_the_order_of_record_keys_is_the_order_of_sequences(left: int, right: int) -> None:
    assert (record_key(left) < record_key(right)) == (left < right)
    assert sequence_of_record_key(record_key(left)) == left


@given(st.tuples(stream_numbers, u32), st.tuples(stream_numbers, u32))
def test_no_two_shards_share_a_database_or_a_counter(
    left: tuple[StreamNumber, int], right: tuple[StreamNumber, int]
) -> None:
    assert (records_database(*left) == records_database(*right)) == (left == right)
    assert (counter_key(*left) == counter_key(*right)) == (left == right)


@every_kind
def test_every_flipped_bit_is_detected(sealed: Sealed) -> None:
    for position in range(len(sealed.value)):
        for bit in range(8):
            damaged = bytearray(sealed.value)
            damaged[position] ^= 1 << bit
            with pytest.raises(DamagedValueError):
                sealed.decode(bytes(damaged))


@every_kind
def test_every_replaced_byte_is_detected(sealed: Sealed) -> None:
    for position, byte in enumerate(sealed.value):
        for other in set(range(256)) - {byte}:
            with pytest.raises(DamagedValueError):
                sealed.decode(sealed.value[:position] + bytes([other]) + sealed.value[position + 1 :])


@every_kind
def test_every_truncation_and_extension_is_detected(sealed: Sealed) -> None:
    for length in range(len(sealed.value)):
        with pytest.raises(DamagedValueError):
            sealed.decode(sealed.value[:length])
    for byte in range(256):
        with pytest.raises(DamagedValueError):
            sealed.decode(sealed.value + bytes([byte]))


@given(st.binary(min_size=1_000, max_size=5_000), st.data())
def test_damage_in_a_large_record_is_detected(data: bytes, choose: st.DataObject) -> None:
    record_format = RecordFormat(StreamNumber(1), 0)
    value = bytearray(record_format.encode(record_key(0), 1, "k", data))
    first = choose.draw(st.integers(0, len(value) - 1))
    garbage = choose.draw(st.binary(min_size=1, max_size=4))  # CRC-32 finds every burst of up to 32 bits
    before = bytes(value)
    value[first : first + len(garbage)] = garbage[: len(value) - first]
    if bytes(value) != before:
        with pytest.raises(DamagedValueError):
            record_format.decode(record_key(0), bytes(value))


@given(st.tuples(stream_numbers, u32, u64), st.tuples(stream_numbers, u32, u64))
def test_a_record_moved_to_another_key_or_shard_is_detected(
    written: tuple[StreamNumber, int, int], read: tuple[StreamNumber, int, int]
) -> None:
    value = RecordFormat(*written[:2]).encode(record_key(written[2]), 1, "k", b"data")
    if written != read:
        with pytest.raises(DamagedValueError):
            RecordFormat(*read[:2]).decode(record_key(read[2]), value)


def test_a_value_moved_to_another_key_is_detected() -> None:
    with pytest.raises(DamagedValueError):
        decode_format_int(NEXT_STREAM_NUMBER_KEY, encode_format_value(SHARD_COUNT_KEY, 1))
    with pytest.raises(DamagedValueError):
        decode_stream(b"clacks", encode_stream(STREAM))
    with pytest.raises(DamagedValueError):
        decode_consumer(consumer_key(StreamNumber(8), "billing"), encode_consumer(CONSUMER))
    with pytest.raises(DamagedValueError):
        decode_position(position_key(StreamNumber(7), "billing", 2), encode_position(POSITION_KEY, 0))
    counter = encode_counter(StreamNumber(7), 1, ShardCounter())
    keys = [idempotency_key_key(StreamNumber(7), text) for text in ("once", "twice")]
    with pytest.raises(DamagedValueError):
        decode_first_put(keys[1], encode_first_put(keys[0], FirstPut(0, 0, 0)))
    for stream_number, shard_index in ((StreamNumber(7), 0), (StreamNumber(8), 1)):
        with pytest.raises(DamagedValueError):
            decode_counter(stream_number, shard_index, counter)


@given(st.binary(max_size=200))
def test_hostile_bytes_raise_nothing_but_damaged_value_error(value: bytes) -> None:
    for sealed in SEALED:
        with pytest.raises(DamagedValueError):
            sealed.decode(value)


msgpack_values: st.SearchStrategy[object] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), texts, st.binary()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(texts, inner)),
)


@given(st.one_of(st.binary(), msgpack_values.map(msgpack.packb)))
def test_hostile_bytes_under_a_right_checksum_raise_nothing_but_damaged_value_error(payload: bytes) -> None:
    """Only a mistaken writer makes these, and then decoding must still not crash."""
    decoders: list[tuple[bytes, Callable[[bytes], object]]] = [
        (b"format/version", partial(decode_format_int, b"version")),
        (b"format/dialect", partial(decode_format_str, b"dialect")),
        (b"format/secret", partial(decode_format_bytes, b"secret")),
        (b"streams/clicks", partial(decode_stream, b"clicks")),
        (b"counters/" + bytes(8), partial(decode_counter, StreamNumber(0), 0)),
        (
            b"consumers/" + consumer_key(StreamNumber(7), "c"),
            partial(decode_consumer, consumer_key(StreamNumber(7), "c")),
        ),
        (b"positions/" + POSITION_KEY, partial(decode_position, POSITION_KEY)),
        (b"idempotency_keys/" + bytes(20), partial(decode_first_put, bytes(20))),
        (bytes(16), partial(RecordFormat(StreamNumber(0), 0).decode, bytes(8))),
    ]
    for address, decode in decoders:
        with suppress(DamagedValueError):
            decode(crc32(address + payload).to_bytes(4, "big") + payload)


@pytest.mark.parametrize("length", [0, 15, 17])
def test_a_hash_key_of_another_length_is_damage(length: int) -> None:
    """As a number it would be out of range, or in it by chance."""
    fields = cast("list[list[list[object]]]", msgpack.unpackb(encode_stream(STREAM)[4:]))
    fields[4][0][1] = b"\xff" * length
    payload = msgpack.packb(fields, use_bin_type=True)
    key = stream_key(STREAM.name)
    with pytest.raises(DamagedValueError, match=f"{length} bytes where the 16 of a hash key belong"):
        decode_stream(key, crc32(b"streams/" + key + payload).to_bytes(4, "big") + payload)


@pytest.mark.parametrize(
    "metrics",
    [
        *(["IncomingByte"], ["ALL", "ALL"], ["IncomingBytes", "ALL"], ["IncomingRecords", "IncomingBytes"]),
        *([1], [["ALL"]], "ALL", None, {"ALL": 1}),
    ],
    ids=str,
)
def test_what_are_no_metrics_of_shards_is_damage(metrics: object) -> None:
    fields = cast("list[list[object]]", msgpack.unpackb(encode_stream(STREAM)[4:]))
    fields[6].append(metrics)
    told = "no metrics of shards where they belong" if isinstance(metrics, list) else "where a list belongs"
    assert told in refused_as(fields)


@pytest.mark.parametrize("count", [4, 7])
def test_settings_of_another_number_are_damage(count: int) -> None:
    fields = cast("list[list[object]]", msgpack.unpackb(encode_stream(STREAM)[4:]))
    fields[6] = [*fields[6], ["ALL"], None][:count]
    assert refused_as(fields) == f"it holds {count} fields where 6 belong"


def refused_as(fields: object) -> str:
    """Return how a stream of these fields, behind a checksum that matches, is refused."""
    payload = msgpack.packb(fields, use_bin_type=True)
    key = stream_key(STREAM.name)
    with pytest.raises(DamagedValueError) as damage:
        decode_stream(key, crc32(b"streams/" + key + payload).to_bytes(4, "big") + payload)
    return str(damage.value)


@pytest.mark.parametrize(
    "name", [b"records/02/3", b"records/2/03", b"records/00/0", b"records/4294967296/0", b"records/0/9999999999"]
)
def test_a_name_that_no_database_of_records_has_is_none(name: bytes) -> None:
    """A flipped bit makes 02 of 12: who took that for 2 would look for the records of one shard in another."""
    assert parse_records_database(name) is None


@given(stream_numbers, u32)
def test_the_name_of_a_database_of_records_reads_as_written(stream_number: StreamNumber, shard_index: int) -> None:
    assert parse_records_database(records_database(stream_number, shard_index)) == (stream_number, shard_index)


@pytest.mark.parametrize("error", [TypeError, OverflowError, RecursionError, MemoryError, ValueError])
def test_whatever_msgpack_raises_is_damaged_value_error(error: type[Exception]) -> None:
    with (
        mock.patch.object(msgpack, "unpackb", side_effect=error),
        pytest.raises(DamagedValueError, match="not msgpack"),
    ):
        decode_format_int(VERSION_KEY, encode_format_value(VERSION_KEY, 1))


@given(consumers)
def test_a_consumer_reads_as_written(consumer: StoredConsumer) -> None:
    assert decode_consumer(consumer_key(consumer.stream_number, consumer.name), encode_consumer(consumer)) == consumer


@given(stream_numbers, consumer_names, u32, u64)
def test_a_position_and_its_key_read_as_written(
    stream_number: StreamNumber, consumer_name: str, shard_index: int, sequence: int
) -> None:
    key = position_key(stream_number, consumer_name, shard_index)
    assert decode_position(key, encode_position(key, sequence)) == sequence
    assert parse_position_key(key) == (stream_number, consumer_name, shard_index)


@given(stream_numbers, consumer_names, consumer_names, u32)
def test_the_positions_of_one_consumer_begin_like_those_of_no_other(
    stream_number: StreamNumber, consumer_name: str, other_name: str, shard_index: int
) -> None:
    key = position_key(stream_number, other_name, shard_index)
    assert key.startswith(positions_prefix(stream_number, consumer_name)) == (consumer_name == other_name)


@pytest.mark.parametrize("key", [b"", b"\0\0\0\7", b"\0\0\0\7\0\0\0\0\1", b"\0\0\0\7name\1\0\0\0\1"])
def test_what_is_no_key_of_a_position_is_damage(key: bytes) -> None:
    with pytest.raises(DamagedValueError, match="is no key"):
        parse_position_key(key)


@given(st.binary(max_size=20))
def test_hostile_keys_raise_nothing_but_damaged_value_error(key: bytes) -> None:
    payload = encode_consumer(CONSUMER)[4:]
    with suppress(DamagedValueError):
        decode_consumer(key, crc32(b"consumers/" + key + payload).to_bytes(4, "big") + payload)
    with suppress(DamagedValueError):
        parse_position_key(key)


def test_a_stream_name_that_is_not_utf8_is_damage() -> None:
    payload = encode_stream(STREAM)[4:]
    with pytest.raises(DamagedValueError, match="UTF-8"):
        decode_stream(b"\xff", crc32(b"streams/\xff" + payload).to_bytes(4, "big") + payload)
