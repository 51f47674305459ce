"""Pins format version 1: these bytes are on other people's disks. Never edit an expected value here.

The literals were computed from the documented format with ``struct``, ``zlib.crc32``, ``blake2b`` and ``msgpack``
alone; the last test reads a whole store in that way.
"""

import struct
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

import msgpack
import pytest

from streamstore import HashKeyRange, Record, StoreFormatError
from streamstore.databases import records_database
from streamstore.disk_format import (
    RecordFormat,
    consumer_key,
    counter_key,
    decode_consumer,
    decode_counter,
    decode_first_put,
    decode_loss,
    decode_position,
    decode_stream,
    encode_consumer,
    encode_counter,
    encode_first_put,
    encode_format_value,
    encode_loss,
    encode_position,
    encode_stream,
    idempotency_key_key,
    idempotency_time_key,
    loss_key,
    position_key,
    record_key,
    stream_key,
)
from streamstore.model import FirstPut, ShardCounter, StoredConsumer, StoredShard, StoredStream, StreamNumber
from tests.conftest import Clock, open_store
from tests.damage import behind_the_back_of

NUMBER = StreamNumber(1)
MIDDLE = (2**128 - 1) // 2

STREAM = StoredStream(
    name="clicks",
    number=NUMBER,
    creation_ms=1_700_000_000_000,
    retention_hours=24,
    write_quota_kb_per_sec=128,
    shards={
        0: StoredShard(HashKeyRange(0, MIDDLE - 1), created_ms=1_700_000_000_000),
        1: StoredShard(HashKeyRange(MIDDLE, 2**128 - 1), created_ms=1_700_000_000_000),
    },
    next_shard_index=2,
)
STREAM_BYTES = bytes.fromhex(
    "54530b02"  # CRC-32 over b"streams/clicks" and what follows
    "9701cf0000018bcfe5680018cc80"  # [1, 1700000000000, 24, 128,
    "92"  # [[start, end, [], 0, nil, 0, 1700000000000, nil],
    "98c41000000000000000000000000000000000c4107ffffffffffffffffffffffffffffffe9000c000cf0000018bcfe56800c0"
    "98c4107fffffffffffffffffffffffffffffffc410ffffffffffffffffffffffffffffffff9000c001cf0000018bcfe56800c0"
    "02"  # [start, end, [], 0, nil, 1, 1700000000000, nil]], 2,
    "95c2ab50524f564953494f4e4544ce000493e09090"  # [false, "PROVISIONED", 300000, [], []]]
)
MONITORED_STREAM = replace(STREAM, shard_level_metrics=("IncomingBytes", "ReadProvisionedThroughputExceeded"))
MONITORED_STREAM_BYTES = bytes.fromhex(
    "5d91b7a1"  # CRC-32 over b"streams/clicks" and what follows
    + STREAM_BYTES[4:].hex().removesuffix("95c2ab50524f564953494f4e4544ce000493e09090")  # as above, but for
    + "96c2ab50524f564953494f4e4544ce000493e09090"  # [false, "PROVISIONED", 300000, [], [],
    + "92ad496e636f6d696e674279746573"  # ["IncomingBytes",
    + "d921"
    + b"ReadProvisionedThroughputExceeded".hex()  # "ReadProvisionedThroughputExceeded"]]
)
FIRST_STREAM_BYTES = bytes.fromhex(
    "0e4f1465"  # CRC-32 over b"streams/clicks" and what follows
    "9501cf0000018bcfe5680018cc80"  # [1, 1700000000000, 24, 128,
    "92"  # [
    "95c41000000000000000000000000000000000c4107ffffffffffffffffffffffffffffffe9000c0"  # [start, end, [], 0, nil],
    "95c4107fffffffffffffffffffffffffffffffc410ffffffffffffffffffffffffffffffff9000c0"  # [start, end, [], 0, nil]]]
)
COUNTER = ShardCounter(
    first_sequence=0,
    next_sequence=2,
    last_arrival_ms=1_700_000_000_005,
    quota_bytes_full_at_ns=1_700_000_000_000_000,
    quota_records_full_at_ns=1_700_000_000_001_000,
)
COUNTER_BYTES = bytes.fromhex(
    "08aec344"  # CRC-32 over b"counters/", the key, and what follows
    "000000000000000000000000000000020000018bcfe5680500060a24181e400000060a24181e43e8"
)
CONSUMER = StoredConsumer(NUMBER, "billing", 1_700_000_000_000, epoch=3)
CONSUMER_BYTES = bytes.fromhex(
    "e2401aba"  # CRC-32 over b"consumers/", the key, and what follows
    "92cf0000018bcfe5680003"  # [1700000000000, 3]
)
POSITION_BYTES = bytes.fromhex(
    "c95f1cdd"  # CRC-32 over b"positions/", the key, and what follows
    "0000000000000102"
)
RECORD = Record("258", "ключ", b"\x00\xffdata", 1_700_000_000_005)
RECORD_BYTES = bytes.fromhex(
    "91288d82"  # CRC-32 over stream number, shard index, sequence, and what follows
    "93cf0000018bcfe56805a8d0bad0bbd18ed187c40600ff64617461"  # [1700000000005, "ключ", 00ff64617461]
)
IDEMPOTENCY_KEY = bytes.fromhex("00000001dc18c87726af8db3eee36640248c9a70")  # 1, BLAKE2b of "заказ 1"
IDEMPOTENCY_TIME = bytes.fromhex("000000010000018bcfe56805dc18c87726af8db3eee36640248c9a70")
FIRST_PUT = FirstPut(shard_index=1, sequence=258, sent_ms=1_700_000_000_005)
FIRST_PUT_BYTES = bytes.fromhex(
    "3b414f3d"  # CRC-32 over b"idempotency_keys/", the key, and what follows
    "0000000100000000000001020000018bcfe56805"
)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (b"version", 1, "f04ea3c301"),
        (b"dialect", "yandex", "4dab6e57a679616e646578"),
        (b"dialect", "aws", "39a128f3a3617773"),
        (b"next_stream_number", 2, "a1444a2902"),
        (b"shard_count", 2, "d71ff8ce02"),
        (b"secret", bytes(range(32)), "7b4120b2c420" + bytes(range(32)).hex()),
    ],
)
def test_format_values_keep_their_bytes(key: bytes, value: int | str | bytes, expected: str) -> None:
    assert encode_format_value(key, value).hex() == expected


def test_keys_and_database_names_keep_their_bytes() -> None:
    assert stream_key("clicks") == b"clicks"
    assert counter_key(NUMBER, 1).hex() == "0000000100000001"
    assert consumer_key(NUMBER, "billing").hex() == "0000000162696c6c696e67"
    assert position_key(NUMBER, "billing", 2).hex() == "0000000162696c6c696e670000000002"
    assert record_key(258).hex() == "0000000000000102"
    assert records_database(StreamNumber(12), 34) == b"records/12/34"


def test_a_stream_keeps_its_bytes() -> None:
    assert encode_stream(STREAM) == STREAM_BYTES
    assert decode_stream(b"clicks", STREAM_BYTES) == STREAM


def test_a_stream_whose_shards_are_monitored_keeps_its_bytes_and_one_that_was_has_those_of_before() -> None:
    assert encode_stream(MONITORED_STREAM) == MONITORED_STREAM_BYTES
    assert decode_stream(b"clicks", MONITORED_STREAM_BYTES) == MONITORED_STREAM
    assert encode_stream(replace(MONITORED_STREAM, shard_level_metrics=())) == STREAM_BYTES


def test_a_stream_of_the_first_stores_of_this_version_reads_on() -> None:
    assert decode_stream(b"clicks", FIRST_STREAM_BYTES) == STREAM


def test_a_counter_keeps_its_bytes() -> None:
    assert encode_counter(NUMBER, 1, COUNTER) == COUNTER_BYTES
    assert decode_counter(NUMBER, 1, COUNTER_BYTES) == COUNTER


def test_a_consumer_keeps_its_bytes() -> None:
    assert encode_consumer(CONSUMER) == CONSUMER_BYTES
    assert decode_consumer(consumer_key(NUMBER, "billing"), CONSUMER_BYTES) == CONSUMER


def test_a_position_keeps_its_bytes() -> None:
    key = position_key(NUMBER, "billing", 2)
    assert encode_position(key, 258) == POSITION_BYTES
    assert decode_position(key, POSITION_BYTES) == 258


def test_a_record_keeps_its_bytes() -> None:
    record_format = RecordFormat(NUMBER, 1)
    assert record_format.encode(record_key(258), RECORD.arrival_ms, RECORD.partition_key, RECORD.data) == RECORD_BYTES
    assert record_format.decode(record_key(258), RECORD_BYTES) == RECORD


def test_an_idempotency_key_and_its_time_keep_their_bytes() -> None:
    assert idempotency_key_key(NUMBER, "заказ 1") == IDEMPOTENCY_KEY
    assert idempotency_time_key(IDEMPOTENCY_KEY, FIRST_PUT.sent_ms) == IDEMPOTENCY_TIME
    assert encode_first_put(IDEMPOTENCY_KEY, FIRST_PUT) == FIRST_PUT_BYTES
    assert decode_first_put(IDEMPOTENCY_KEY, FIRST_PUT_BYTES) == FIRST_PUT


def test_a_known_loss_keeps_its_bytes() -> None:
    key = loss_key(NUMBER, 2, 258)
    assert key.hex() == "00000001000000020000000000000102"
    # CRC-32 over b"losses/", the key, and what follows
    assert encode_loss(key, 300).hex() == "69496260000000000000012c"
    assert decode_loss(key, encode_loss(key, 300)) == (NUMBER, 2, range(258, 300))


def unsealed(address: bytes, value: bytes) -> bytes:
    assert value[:4] == struct.pack(">I", crc32(address + value[4:]))
    return value[4:]


def test_a_whole_store_reads_by_the_documented_format_alone(store_path: Path, clock: Clock) -> None:
    with open_store(store_path, clock) as store:
        store.create_stream("clicks", shard_count=2, write_quota_kb_per_sec=128)
        clock.advance(5)
        store.put_record("clicks", b"first", "k")  # MD5 of "k": the upper half
        store.put_record("clicks", b"\x00\xff", "ключ", idempotency_key="заказ 1")
        store.register_stream_consumer("clicks", "billing")
    with behind_the_back_of(store_path) as raw:
        format_values = {key: msgpack.unpackb(unsealed(b"format/" + key, value)) for key, value in raw.items(b"format")}
        secret = format_values.pop(b"secret")
        assert isinstance(secret, bytes)
        assert len(secret) == 32
        assert format_values == {b"version": 1, b"dialect": "yandex", b"next_stream_number": 2, b"shard_count": 2}

        assert raw.items(b"streams") == [(b"clicks", STREAM_BYTES)]

        counters = {
            struct.unpack(">II", key): struct.unpack(">QQQQQ", unsealed(b"counters/" + key, value))
            for key, value in raw.items(b"counters")
        }
        bytes_cost_ns = 6 * 1_000_000_000 // 131_072 + 10 * 1_000_000_000 // 131_072
        now_ns = 1_700_000_000_005_000_000
        assert counters == {
            (1, 0): (0, 0, 0, 0, 0),
            (1, 1): (0, 2, 1_700_000_000_005, now_ns + bytes_cost_ns, now_ns + 2_000_000),
        }

        consumers = [
            (key.hex(), msgpack.unpackb(unsealed(b"consumers/" + key, value))) for key, value in raw.items(b"consumers")
        ]
        assert consumers == [("0000000162696c6c696e67", [1_700_000_000_005, 0])]

        records = [
            (key.hex(), msgpack.unpackb(unsealed(struct.pack(">II", 1, 1) + key, value)))
            for key, value in raw.items(b"records/1/1")
        ]
        assert records == [
            ("0000000000000000", [1_700_000_000_005, "k", b"first"]),
            ("0000000000000001", [1_700_000_000_005, "ключ", b"\x00\xff"]),
        ]

        number, digest = struct.pack(">I", 1), blake2b("заказ 1".encode(), digest_size=16).digest()
        ((key, value),) = raw.items(b"idempotency_keys")
        assert key == number + digest
        assert struct.unpack(">IQQ", unsealed(b"idempotency_keys/" + key, value)) == (1, 1, 1_700_000_000_005)
        assert raw.items(b"idempotency_times") == [(number + struct.pack(">Q", 1_700_000_000_005) + digest, b"")]


def test_a_store_of_another_format_version_is_refused_and_left_alone(store_path: Path, clock: Clock) -> None:
    open_store(store_path, clock).close()
    with behind_the_back_of(store_path) as raw:
        raw.put(b"format", b"version", encode_format_value(b"version", 2))
    before = (store_path / "data.mdb").read_bytes()
    with pytest.raises(StoreFormatError, match="format version 2; this version of streamstore reads 1"):
        open_store(store_path, clock)
    assert (store_path / "data.mdb").read_bytes() == before


def test_a_store_of_an_unknown_dialect_is_refused_and_left_alone(store_path: Path, clock: Clock) -> None:
    open_store(store_path, clock).close()
    with behind_the_back_of(store_path) as raw:
        raw.put(b"format", b"dialect", encode_format_value(b"dialect", "klingon"))
    before = (store_path / "data.mdb").read_bytes()
    with pytest.raises(StoreFormatError, match="'klingon', which this version does not know"):
        open_store(store_path, clock)
    assert (store_path / "data.mdb").read_bytes() == before


@pytest.mark.parametrize("key", [b"version", b"dialect", b"secret"])
def test_a_store_whose_format_entry_is_missing_or_damaged_is_refused(
    store_path: Path, clock: Clock, key: bytes
) -> None:
    open_store(store_path, clock).close()
    with behind_the_back_of(store_path) as raw:
        raw.flip_last_bit(b"format", key)
    with pytest.raises(StoreFormatError, match="damaged"):
        open_store(store_path, clock)
    with behind_the_back_of(store_path) as raw:
        raw.delete(b"format", key)
    with pytest.raises(StoreFormatError, match="not a streamstore"):
        open_store(store_path, clock)
