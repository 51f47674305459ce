"""check_store finds each kind of damage that it promises to find, and says nothing about a sound store."""

import ast
import inspect
import re
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path

import pytest

import streamstore.check
from streamstore import HashKeyRange, StoreNotFoundError, StreamStore
from streamstore.check import check_store
from streamstore.databases import IDEMPOTENCY_KEYS_DATABASE, IDEMPOTENCY_TIMES_DATABASE
from streamstore.disk_format import (
    NEXT_STREAM_NUMBER_KEY,
    SHARD_COUNT_KEY,
    RecordFormat,
    consumer_key,
    counter_key,
    decode_counter,
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
)
from streamstore.model import FirstPut, ShardCounter, StoredConsumer, StoredShard, StoredStream, StreamNumber
from tests.conftest import Clock, open_store
from tests.damage import RawStore, behind_the_back_of

RECORDS = b"records/1/0"
NUMBER = StreamNumber(1)
SHARD = "Shard 0 of s"


@pytest.fixture
def path(store_path: Path, clock: Clock) -> Path:
    """A closed store with the streams "s" (one shard, three records, one a millisecond) and "t" (two shards).

    The last record of "s" was put with the idempotency key "once", and "s" has the consumer "c".
    """
    with open_store(store_path, clock) as store:
        store.create_stream("s")
        store.create_stream("t", shard_count=2)
        for idempotency_key in (None, None, "once"):
            clock.advance(1)
            store.put_record("s", b"data", "k", idempotency_key=idempotency_key)
        store.register_stream_consumer("s", "c")
    assert check_store(store_path) == []
    return store_path


def change_counter(raw: RawStore, change: Callable[[ShardCounter], ShardCounter]) -> None:
    key = counter_key(NUMBER, 0)
    counter = change(decode_counter(NUMBER, 0, raw.get(b"counters", key)))
    raw.put(b"counters", key, encode_counter(NUMBER, 0, counter))


def change_stream(raw: RawStore, name: str, change: Callable[[StoredStream], StoredStream]) -> None:
    stream = change(decode_stream(name.encode(), raw.get(b"streams", name.encode())))
    raw.put(b"streams", name.encode(), encode_stream(stream))


def change_shard(raw: RawStore, change: Callable[[StoredShard], StoredShard]) -> None:
    change_stream(raw, "s", lambda stream: replace(stream, shards={0: change(stream.shards[0])}))


def with_ranges(*ranges: HashKeyRange) -> Callable[[StoredStream], StoredStream]:
    return lambda stream: replace(stream, shards=dict(enumerate(map(StoredShard, ranges))))


def put_record(raw: RawStore, sequence: int, arrival_ms: int) -> None:
    value = RecordFormat(NUMBER, 0).encode(record_key(sequence), arrival_ms, "k", b"data")
    raw.put(RECORDS, record_key(sequence), value)


def put_consumer(raw: RawStore, stream_number: int, name: str) -> None:
    consumer = StoredConsumer(StreamNumber(stream_number), name, START_MS)
    raw.put(b"consumers", consumer_key(consumer.stream_number, name), encode_consumer(consumer))


def put_position(raw: RawStore, stream_number: int, name: str, shard_index: int) -> None:
    key = position_key(StreamNumber(stream_number), name, shard_index)
    raw.put(b"positions", key, encode_position(key, 0))


def put_loss(raw: RawStore, stream_number: int, start: int, stop: int) -> None:
    key = loss_key(StreamNumber(stream_number), 0, start)
    raw.put(b"losses", key, encode_loss(key, stop))


def put_two_losses_for_one(raw: RawStore) -> None:
    put_loss(raw, 1, 0, 1)
    put_loss(raw, 1, 1, 2)


START_MS = 1_700_000_000_000
ONCE = idempotency_key_key(NUMBER, "once")
TIME_OF_ONCE = idempotency_time_key(ONCE, START_MS + 3)


def put_first(raw: RawStore, key: bytes, shard_index: int, sequence: int) -> None:
    put = FirstPut(shard_index, sequence, START_MS + 3)
    raw.put(IDEMPOTENCY_KEYS_DATABASE, key, encode_first_put(key, put))


DAMAGES: list[tuple[Callable[[RawStore], None], str]] = [
    (lambda raw: raw.flip_last_bit(b"streams", b"s"), r"The entry of stream b's' is damaged: "),
    (
        lambda raw: change_stream(raw, "t", with_ranges(HashKeyRange(0, 9), HashKeyRange(11, 2**128 - 1))),
        r"The open shards of t do not tile the hash keys at 10\.",
    ),
    (
        lambda raw: change_stream(raw, "t", with_ranges(HashKeyRange(0, 9), HashKeyRange(9, 2**128 - 1))),
        r"The open shards of t do not tile the hash keys at 10\.",
    ),
    (
        lambda raw: change_stream(raw, "t", with_ranges(HashKeyRange(0, 9), HashKeyRange(10, 2**128 - 2))),
        r"The open shards of t do not reach the last hash key\.",
    ),
    (
        lambda raw: raw.delete(b"counters", counter_key(NUMBER, 0)),
        r"Shard 0 of s could not be checked to its end\. The counter of shard 0 is damaged: it is missing",
    ),
    (
        lambda raw: raw.flip_last_bit(b"counters", counter_key(NUMBER, 0)),
        r"Shard 0 of s could not be checked to its end\. The counter of shard 0 is damaged: ",
    ),
    (lambda raw: raw.flip_last_bit(RECORDS, record_key(1)), rf"Record 1 of {SHARD} is damaged: its checksum"),
    (lambda raw: raw.delete(RECORDS, record_key(1)), rf"Record 1 of {SHARD} is damaged: it is missing\."),
    (lambda raw: raw.delete(RECORDS, record_key(2)), rf"Record 2 of {SHARD} is damaged: it is missing\."),
    (
        lambda raw: put_record(raw, 1, START_MS + 9),
        rf"Record 2 of {SHARD} arrived before the one in front of it\.",
    ),
    (
        lambda raw: change_counter(raw, lambda counter: counter._replace(last_arrival_ms=START_MS + 2)),
        rf"{SHARD} has a record that arrived after its counter's last arrival\.",
    ),
    (lambda raw: put_record(raw, 3, START_MS + 3), rf"{SHARD} holds a record 3 that its counter does not know\."),
    (
        lambda raw: change_counter(raw, lambda counter: counter._replace(first_sequence=1)),
        rf"{SHARD} holds a record 0 that its counter does not know\.",
    ),
    (lambda raw: raw.put(RECORDS, b"odd", b"v"), rf"{SHARD} holds a record \d+ that its counter does not know\."),
    (lambda raw: raw.put(RECORDS, bytes(3), b"v"), rf"{SHARD} holds a record 0 that its counter does not know\."),
    (lambda raw: raw.put(b"records/9/0", record_key(0), b""), r"The database records/9/0 belongs to no stream\."),
    (lambda raw: raw.put(b"records/1/1", record_key(0), b""), r"The database records/1/1 belongs to no stream\."),
    (lambda raw: raw.put(b"what is this", b"k", b"v"), r"The database what is this belongs to no stream\."),
    (
        lambda raw: raw.put(b"counters", counter_key(NUMBER, 1), encode_counter(NUMBER, 1, ShardCounter())),
        r"The counter b'.*' belongs to no stream\.",
    ),
    (lambda raw: raw.put(b"counters", b"odd", b"v"), r"The counter b'odd' belongs to no stream\."),
    (
        lambda raw: raw.put(b"format", SHARD_COUNT_KEY, encode_format_value(SHARD_COUNT_KEY, 4)),
        r"The store counts 4 shards, its streams have another number\.",
    ),
    (
        lambda raw: raw.put(b"format", NEXT_STREAM_NUMBER_KEY, encode_format_value(NEXT_STREAM_NUMBER_KEY, 2)),
        r"Stream t has number 2, which a new stream would get too\.",
    ),
    (
        lambda raw: change_stream(raw, "t", lambda stream: replace(stream, number=NUMBER)),
        r"Two streams have the same number\.",
    ),
    (
        lambda raw: change_stream(raw, "s", lambda stream: replace(stream, next_shard_index=0)),
        rf"{SHARD} has an index that a new shard would get too\.",
    ),
    (
        lambda raw: change_shard(raw, lambda shard: replace(shard, closed_ms=START_MS)),
        rf"{SHARD} is half closed\.",
    ),
    (
        lambda raw: change_shard(raw, lambda shard: replace(shard, parent_indexes=(7,))),
        rf"{SHARD} has a parent 7 that came after it\.",
    ),
    (
        lambda raw: change_shard(raw, lambda shard: replace(shard, parent_indexes=(0,))),
        rf"{SHARD} does not start behind the last number of its parent 0\.",
    ),
    (
        lambda raw: change_shard(raw, lambda shard: replace(shard, next_sequence_at_close=2, closed_ms=START_MS)),
        rf"{SHARD} was closed at 2, but its counter stands at 3\.",
    ),
    (
        lambda raw: change_shard(raw, lambda shard: replace(shard, first_sequence=1)),
        rf"{SHARD} counts from 0 to 3, and began at 1\.",
    ),
    (
        lambda raw: change_stream(raw, "s", lambda stream: replace(stream, tags=(("b", ""), ("a", "")))),
        r"The tags of s are not in the order of their keys, one for each\.",
    ),
    (
        lambda raw: change_stream(raw, "s", lambda stream: replace(stream, tags=(("a", "1"), ("a", "2")))),
        r"The tags of s are not in the order of their keys, one for each\.",
    ),
    (lambda raw: put_consumer(raw, 9, "c"), r"The consumer b'.*c' belongs to no stream\."),
    (
        lambda raw: raw.flip_last_bit(b"consumers", consumer_key(NUMBER, "c")),
        r"The entry of consumer b'.*c' is damaged: ",
    ),
    (lambda raw: raw.put(b"consumers", b"odd", b"v"), r"The entry of consumer b'odd' is damaged: "),
    (lambda raw: put_position(raw, 1, "d", 0), r"The position b'.*d.*' belongs to no consumer\."),
    (lambda raw: put_position(raw, 2, "c", 0), r"The position b'.*c.*' belongs to no consumer\."),
    (lambda raw: put_position(raw, 1, "c", 1), r"The position b'.*c.*' is one in a shard that never was\."),
    (lambda raw: raw.put(b"positions", position_key(NUMBER, "c", 0), b""), r"The position b'.*' is damaged: "),
    (lambda raw: raw.put(b"positions", b"odd", encode_position(b"odd", 1)), r"The position b'odd' is damaged: "),
    (
        lambda raw: put_first(raw, idempotency_key_key(StreamNumber(9), "k"), 0, 0),
        "The idempotency key 0{7}9.{32} belongs to no stream",
    ),
    (lambda raw: raw.put(IDEMPOTENCY_KEYS_DATABASE, b"odd", b"v"), "The idempotency key 6f6464 belongs to no stream"),
    (lambda raw: raw.flip_last_bit(IDEMPOTENCY_KEYS_DATABASE, ONCE), rf"The idempotency key {ONCE.hex()} is damaged: "),
    (
        lambda raw: put_first(raw, ONCE, 0, 3),
        rf"The idempotency key {ONCE.hex()} names record 3 of shard 0, which s has not given out\.",
    ),
    (
        lambda raw: put_first(raw, ONCE, 1, 0),
        rf"The idempotency key {ONCE.hex()} names record 0 of shard 1, which s has not given out\.",
    ),
    (
        lambda raw: raw.delete(IDEMPOTENCY_TIMES_DATABASE, TIME_OF_ONCE),
        rf"The idempotency key {ONCE.hex()} has no time, so it would never be deleted\.",
    ),
    (
        lambda raw: raw.delete(IDEMPOTENCY_KEYS_DATABASE, ONCE),
        rf"The idempotency time {TIME_OF_ONCE.hex()} is not that of a key\.",
    ),
    (
        lambda raw: raw.put(IDEMPOTENCY_TIMES_DATABASE, idempotency_time_key(ONCE, 0), b""),
        rf"The idempotency time {idempotency_time_key(ONCE, 0).hex()} is not that of a key\.",
    ),
    (
        lambda raw: raw.put(IDEMPOTENCY_TIMES_DATABASE, TIME_OF_ONCE, b"v"),
        rf"The idempotency time {TIME_OF_ONCE.hex()} is not that of a key\.",
    ),
    (
        lambda raw: raw.put(IDEMPOTENCY_TIMES_DATABASE, b"odd", b""),
        r"The idempotency time 6f6464 is not that of a key\.",
    ),
    (lambda raw: put_loss(raw, 9, 0, 3), r"The loss 0{7}9.* belongs to no stream\."),
    (lambda raw: put_loss(raw, 1, 1, 3), r"The loss 0{7}1.* is one of a record that is there\."),
    (lambda raw: put_loss(raw, 1, 3, 4), r"The loss 0{7}1.* is one of numbers that its shard does not have\."),
    (lambda raw: put_loss(raw, 1, 2, 2), r"The loss 0{7}1.* is one of numbers that its shard does not have\."),
    (
        put_two_losses_for_one,
        r"The loss 0{7}1.* is one with the loss in front of it\.",
    ),
    (lambda raw: raw.put(b"losses", loss_key(NUMBER, 0, 1), b""), r"The loss 0{7}1.* is damaged: "),
    (lambda raw: raw.put(b"losses", b"odd", b"v"), r"The loss 6f6464 is damaged: "),
    (lambda raw: raw.flip_last_bit(b"format", SHARD_COUNT_KEY), r"The store is damaged: "),
    (lambda raw: raw.delete(b"format", NEXT_STREAM_NUMBER_KEY), r"The store is damaged: b'next_stream_number' is miss"),
    (lambda raw: raw.flip_last_bit(b"format", b"version"), r"The store is damaged: .*format/version"),
    (lambda raw: raw.flip_last_bit(b"format", b"dialect"), r"The store is damaged: .*format/dialect"),
    (
        lambda raw: raw.put(b"format", b"dialect", encode_format_value(b"dialect", "klingon")),
        r"The store has the dialect klingon, which nobody knows\.",
    ),
    (lambda raw: raw.flip_last_bit(b"format", b"secret"), r"The store is damaged: .*format/secret"),
]


@pytest.mark.parametrize(("damage", "sentence"), DAMAGES, ids=[sentence for _, sentence in DAMAGES])
def test_each_kind_of_damage_is_found_and_told_in_a_sentence(
    path: Path, damage: Callable[[RawStore], None], sentence: str
) -> None:
    with behind_the_back_of(path) as raw:
        damage(raw)
    problems = check_store(path)
    assert any(re.match(sentence, problem) for problem in problems), problems
    assert all(problem.endswith(".") for problem in problems)


def sentences_in_the_source() -> Generator[str]:
    """Yield the constant parts of every sentence that check.py itself can say."""
    for node in ast.walk(ast.parse(inspect.getsource(streamstore.check))):
        if isinstance(node, ast.Yield) and isinstance(node.value, (ast.JoinedStr, ast.Constant)):
            values = node.value.values if isinstance(node.value, ast.JoinedStr) else [node.value]
            parts = [value.value for value in values if isinstance(value, ast.Constant)]
            yield max((part for part in parts if isinstance(part, str)), key=len)


def test_every_sentence_of_check_is_produced_above() -> None:
    patterns = " ".join(sentence.replace("\\", "") for _, sentence in DAMAGES)
    said = list(sentences_in_the_source())
    assert len(said) >= 12
    assert [sentence for sentence in said if sentence.strip() not in patterns] == []


def test_every_damaged_record_is_named_not_only_the_first(path: Path) -> None:
    with behind_the_back_of(path) as raw:
        raw.flip_last_bit(RECORDS, record_key(0))
        raw.delete(RECORDS, record_key(2))
    assert [problem.split(" is damaged")[0] for problem in check_store(path)] == [
        f"Record 0 of {SHARD}",
        f"Record 2 of {SHARD}",
    ]


def test_arrival_times_are_compared_across_a_damaged_record(path: Path) -> None:
    with behind_the_back_of(path) as raw:
        put_record(raw, 0, START_MS + 9)
        raw.delete(RECORDS, record_key(1))
    assert f"Record 2 of {SHARD} arrived before the one in front of it." in check_store(path)


def test_a_sound_store_has_no_problems_whatever_was_done_to_it(store: StreamStore, clock: Clock) -> None:
    store.create_stream("s", shard_count=2, write_quota_kb_per_sec=128)
    for key in "kabe":
        clock.advance(-1)
        store.put_record("s", b"", key)
    store.delete_stream("s")
    store.create_stream("s", shard_count=3)
    store.put_record("s", b"", "k")
    store.close()
    assert check_store(store.path) == []


def test_checking_changes_nothing(path: Path) -> None:
    before = (path / "data.mdb").read_bytes()
    check_store(path)
    assert (path / "data.mdb").read_bytes() == before


def test_where_there_is_no_store_there_is_nothing_to_check(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        check_store(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
