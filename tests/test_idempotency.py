"""Laws of idempotency keys: a put that is made again is stored once, for as long as the stream remembers its key."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamstore import (
    InvalidArgumentException,
    OutcomeUnknownError,
    ProvisionedThroughputExceededException,
    PutRecordResult,
    PutRecordsEntry,
    StoreFormatError,
    StoreFullError,
    StreamStore,
)
from streamstore.check import check_store
from streamstore.databases import IDEMPOTENCY_KEYS_DATABASE, IDEMPOTENCY_TIMES_DATABASE
from streamstore.disk_format import idempotency_key_key
from streamstore.engine import Engine
from streamstore.environment import NAMED_DATABASES_MAX
from streamstore.idempotency import FORGET_KEYS_MIN, FORGET_KEYS_PER_KEY
from streamstore.library import LMDB_LIB_VERSION
from streamstore.limits import SHARDS_PER_STORE_MAX
from streamstore.model import EntryLike, StreamNumber, TrimResult
from streamstore.request import WaitingRequest
from streamstore.transaction import ReadTransaction
from tests.children import code, run
from tests.commits import WAIT_S, Moment, failing_commit, held_commits, in_thread, last_commit
from tests.conftest import Clock, open_store
from tests.damage import behind_the_back_of

WINDOW_MS: Final = 300_000
SHARD: Final = "shard-000000"
FIRST: Final = PutRecordResult(SHARD, "0")
keys_drawn = st.text(st.characters(codec="utf-8"), min_size=1, max_size=3) | st.just("\U0001f600" * 128)


@pytest.fixture
def stream(store: StreamStore) -> StreamStore:
    """A store with the stream "s" of one shard."""
    store.create_stream("s")
    return store


def put(store: StreamStore, key: str | None, data: bytes = b"data", partition_key: str = "k") -> PutRecordResult:
    return store.put_record("s", data, partition_key, idempotency_key=key)


def stored(store: StreamStore, stream_name: str = "s") -> list[bytes]:
    shards = store.list_shards(stream_name).shards
    return [record.data for shard in shards for record in store.read(stream_name, shard.shard_id)]


def remembered(path: Path) -> tuple[int, int]:
    """Return how many keys and how many times lie in the file of a closed store."""
    with behind_the_back_of(path) as raw:
        return len(raw.items(IDEMPOTENCY_KEYS_DATABASE)), len(raw.items(IDEMPOTENCY_TIMES_DATABASE))


# Once


def test_a_repeated_key_stores_nothing_and_returns_the_first_answer(stream: StreamStore) -> None:
    assert put(stream, "order 1") == FIRST
    assert put(stream, "order 2") == PutRecordResult(SHARD, "1")
    assert put(stream, "order 1") == FIRST
    assert put(stream, None) == put(stream, None)._replace(sequence_number="2")
    assert len(stored(stream)) == 4


def test_other_data_under_a_repeated_key_are_not_stored(store: StreamStore) -> None:
    store.create_stream("s", shard_count=2)
    first = put(store, "once", b"first", "a")
    assert put(store, "once", b"second", "k") == first
    assert stored(store) == [b"first"]


def test_keys_of_different_streams_have_nothing_to_do_with_each_other(stream: StreamStore) -> None:
    stream.create_stream("t")
    put(stream, None)
    assert put(stream, "once") == PutRecordResult(SHARD, "1")
    assert stream.put_record("t", b"", "k", idempotency_key="once") == FIRST


@given(keys=st.lists(keys_drawn, max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_keys_each_is_stored_once(store: StreamStore, keys: list[str]) -> None:
    name = f"s-{len(store.list_streams(limit=10_000).stream_names)}"
    store.create_stream(name)
    for _ in range(2):
        numbers = [store.put_record(name, key.encode(), "k", idempotency_key=key).sequence_number for key in keys]
        assert numbers == [str(list(dict.fromkeys(keys)).index(key)) for key in keys]
    assert stored(store, name) == [key.encode() for key in dict.fromkeys(keys)]


@pytest.mark.parametrize("key", ["", "k" * 129, "\ud800", b"k", 5, True, ["k"]], ids=repr)
def test_what_is_no_idempotency_key_is_refused_and_nothing_stored(stream: StreamStore, key: object) -> None:
    with pytest.raises(InvalidArgumentException, match="be None or a str of 1 to 128 characters") as refusal:
        put(stream, key)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert refusal.value.argument == "idempotency_key"
    with pytest.raises(InvalidArgumentException) as refusal:
        stream.put_records("s", [(b"", "k"), (b"", "k", None, key)])  # type: ignore[list-item] # pyright: ignore[reportArgumentType]
    assert refusal.value.argument == "records[1].idempotency_key"
    assert stored(stream) == []


def test_a_key_of_a_str_subclass_is_the_text_that_it_holds(stream: StreamStore) -> None:
    class Sly(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            raise AssertionError("asked")

        def __hash__(self) -> int:
            raise AssertionError("asked")

    assert put(stream, Sly("once")) == put(stream, "once") == FIRST


def test_the_first_answer_does_not_ask_for_the_ordering_of_the_second(stream: StreamStore) -> None:
    put(stream, "once")
    assert stream.put_record("s", b"", "k", sequence_number_for_ordering="9", idempotency_key="once") == FIRST


# Many at once


def test_entries_of_one_call_with_one_key_are_one_record(stream: StreamStore) -> None:
    entries: list[EntryLike] = [
        (b"0", "k", None, "once"),
        PutRecordsEntry(b"1", "k", idempotency_key="once"),
        (b"2", "k"),
        PutRecordsEntry(b"3", "k", None, None),
        (b"4", "k", "7", "twice"),
    ]
    numbers = ["0", "0", "1", "2", "3"]
    for _ in range(2):
        result = stream.put_records("s", entries)
        assert result.failed_record_count == 0
        assert [entry.sequence_number for entry in result.records] == numbers
        numbers = ["0", "0", "4", "5", "3"]
    assert stored(stream) == [b"0", b"2", b"3", b"4", b"2", b"3"]


def test_requests_with_one_key_in_one_commit_get_one_answer(stream: StreamStore) -> None:
    with held_commits() as held:
        ahead = in_thread(lambda: put(stream, None))
        held.wait_for_one()
        futures = [stream.submit_record("s", b"%d" % number, "k", idempotency_key="once") for number in range(5)]
        commits_before = last_commit(stream)
        held.let_go()
        assert {future.result(WAIT_S) for future in futures} == {PutRecordResult(SHARD, "1")}
        assert ahead.result(WAIT_S) == FIRST
    assert last_commit(stream) == commits_before + 2
    assert stored(stream) == [b"data", b"0"]


def test_threads_that_put_the_same_keys_at_once_store_each_once(stream: StreamStore) -> None:
    start = threading.Barrier(8)

    def produce() -> list[PutRecordResult]:
        start.wait(WAIT_S)
        return [put(stream, str(number), b"%d" % number) for number in range(50)]

    producers = [in_thread(produce) for _ in range(8)]
    answers = [producer.result(WAIT_S) for producer in producers]
    assert all(each == answers[0] for each in answers)
    assert stored(stream) == [b"%d" % number for number in range(50)]


def test_ingest_stores_each_key_once_and_counts_the_repeated_ones_as_stored(stream: StreamStore) -> None:
    entries = [(b"%d" % number, "k", None, f"order {number % 30}") for number in range(100)]
    result = stream.ingest("s", entries)
    assert (result.record_count, result.shard_ids) == (100, frozenset({SHARD}))
    assert stream.ingest("s", iter(entries)) == result
    assert stored(stream) == [b"%d" % number for number in range(30)]


def test_what_ingest_sends_again_for_the_quota_keeps_its_key(
    store: StreamStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create_stream("s", write_quota_kb_per_sec=128)

    def sleep(seconds: float) -> None:
        clock.advance(round(seconds * 1_000))

    monkeypatch.setattr("time.sleep", sleep)
    entries = [(bytes(50_000), "k", None, str(number)) for number in range(10)]
    assert store.ingest("s", entries).record_count == 10
    assert [put(store, str(number)).sequence_number for number in range(10)] == [str(number) for number in range(10)]
    assert len(stored(store)) == 10


# What a refusal leaves


def test_a_throttled_put_leaves_no_key_behind(store: StreamStore, clock: Clock) -> None:
    store.create_stream("s", write_quota_kb_per_sec=128)
    put(store, None, bytes(131_000))
    with pytest.raises(ProvisionedThroughputExceededException):
        put(store, "once", bytes(1_000))
    result = store.put_records("s", [(bytes(1_000), "k", None, "twice")])
    assert result.failed_record_count == 1
    clock.advance(2_000)
    assert put(store, "once") == PutRecordResult(SHARD, "1")
    assert put(store, "twice") == PutRecordResult(SHARD, "2")


def test_the_first_answer_is_given_and_nothing_charged_when_the_quota_is_used_up(
    store: StreamStore, clock: Clock
) -> None:
    store.create_stream("s", write_quota_kb_per_sec=128)
    assert put(store, "once", bytes(131_000)) == FIRST
    for _ in range(10):
        assert put(store, "once", bytes(131_000)) == FIRST
    result = store.put_records("s", [(bytes(1_000), "k"), (b"", "k", None, "once"), (b"", "k", None, "other")])
    assert [entry.sequence_number for entry in result.records] == [None, "0", None]
    clock.advance(1_000)
    assert put(store, "other", bytes(131_000)) == PutRecordResult(SHARD, "1")


def test_a_put_refused_for_its_ordering_leaves_no_key_behind(stream: StreamStore) -> None:
    with pytest.raises(InvalidArgumentException):
        stream.put_record("s", b"", "k", sequence_number_for_ordering="0", idempotency_key="once")
    assert put(stream, "once") == FIRST
    assert len(stored(stream)) == 1


def test_a_damaged_key_refuses_the_call_before_any_record_is_numbered(store_path: Path, clock: Clock) -> None:
    with open_store(store_path, clock) as store:
        store.create_stream("s")
        put(store, "once")
    key = idempotency_key_key(StreamNumber(1), "once")
    with behind_the_back_of(store_path) as raw:
        raw.flip_last_bit(IDEMPOTENCY_KEYS_DATABASE, key)
    with open_store(store_path, clock) as store:
        with pytest.raises(StoreFormatError, match=r"'once' is damaged: .*Nothing was stored"):
            put(store, "once")
        with pytest.raises(StoreFormatError):
            store.put_records("s", [(b"", "k"), (b"", "k", None, "other"), (b"", "k", None, "once")])
        assert len(stored(store)) == 1
        assert store.put_record("s", b"", "k") == PutRecordResult(SHARD, "1")
        clock.advance(WINDOW_MS)
        assert store.trim().idempotency_key_count == 1  # damage too goes when its time has come
        assert put(store, "once") == PutRecordResult(SHARD, "2")
    assert check_store(store_path) == []


# For how long


def test_a_key_counts_to_the_last_millisecond_of_the_window_and_no_longer(store: StreamStore, clock: Clock) -> None:
    store.create_stream("s", idempotency_window_seconds=7)
    assert put(store, "once") == FIRST
    clock.advance(6_999)
    assert put(store, "once") == FIRST  # and a repetition does not begin the window anew
    clock.advance(1)
    assert put(store, "once") == PutRecordResult(SHARD, "1")
    clock.advance(6_999)
    assert put(store, "once") == PutRecordResult(SHARD, "1")


def test_the_window_is_300_seconds_unless_the_stream_says_otherwise(stream: StreamStore, clock: Clock) -> None:
    put(stream, "once")
    clock.advance(WINDOW_MS - 1)
    assert put(stream, "once") == FIRST
    clock.advance(1)
    assert put(stream, "once") != FIRST


def test_a_clock_set_back_by_less_than_the_window_forgets_nothing(stream: StreamStore, clock: Clock) -> None:
    put(stream, "once")
    clock.advance(-WINDOW_MS + 1)
    assert put(stream, "once") == FIRST
    stream.trim()
    assert put(stream, "once") == FIRST


@pytest.mark.parametrize("trimmed", [False, True])
def test_a_key_of_a_time_to_come_does_not_live_until_then(stream: StreamStore, clock: Clock, *, trimmed: bool) -> None:
    clock.advance(1_000 * WINDOW_MS)
    put(stream, "once")
    clock.advance(-WINDOW_MS)
    if trimmed:
        assert stream.trim().idempotency_key_count == 1
    assert put(stream, "once") == PutRecordResult(SHARD, "1")
    clock.advance(WINDOW_MS - 1)
    assert put(stream, "once") == PutRecordResult(SHARD, "1")


def test_puts_of_other_keys_forget_neither_early_nor_too_few(store: StreamStore, clock: Clock) -> None:
    store.create_stream("s", idempotency_window_seconds=1)
    for number in range(200):
        put(store, str(number))
        clock.advance(5)
    store.close()
    assert remembered(store.path) == (200, 200)  # the oldest was put 995 ms before the newest
    with open_store(store.path, clock) as again:
        clock.advance(500)
        again.put_records("s", [(b"", "k", None, f"new {number}") for number in range(10)])
    gone = 101  # those of the first 500 ms
    assert remembered(store.path) == (200 - min(gone, FORGET_KEYS_MIN + 10 * FORGET_KEYS_PER_KEY) + 10,) * 2


def test_no_commit_deletes_more_than_a_bite(stream: StreamStore, clock: Clock) -> None:
    stream.put_records("s", [(b"", "k", None, str(number)) for number in range(500)])
    clock.advance(WINDOW_MS)
    put(stream, "new")
    stream.close()
    left = 500 - FORGET_KEYS_MIN - FORGET_KEYS_PER_KEY + 1
    assert remembered(stream.path) == (left, left)


def test_a_key_put_again_before_its_old_time_is_deleted_has_the_new_time_only(
    stream: StreamStore, clock: Clock
) -> None:
    stream.put_records("s", [(b"", "k", None, str(number)) for number in range(500)])
    clock.advance(WINDOW_MS)
    assert [put(stream, str(number)).sequence_number for number in range(3)] == ["500", "501", "502"]
    stream.trim()
    assert [put(stream, str(number)).sequence_number for number in range(3)] == ["500", "501", "502"]
    stream.close()
    assert remembered(stream.path) == (3, 3)


def test_expired_keys_run_out_while_new_ones_are_put(store: StreamStore, clock: Clock) -> None:
    store.create_stream("s", idempotency_window_seconds=1)
    for number in range(300):
        put(store, str(number))
        clock.advance(100)
    store.close()
    assert remembered(store.path) == (10, 10)


def test_trim_deletes_every_expired_key_and_tells_how_many(stream: StreamStore, clock: Clock) -> None:
    for first in range(0, 2_500, 500):
        stream.put_records("s", [(b"", "k", None, str(first + number)) for number in range(500)])
    clock.advance(1)
    put(stream, "young")
    clock.advance(WINDOW_MS - 1)
    assert stream.trim("s").idempotency_key_count == 2_500
    assert stream.trim().idempotency_key_count == 0
    stream.close()
    assert remembered(stream.path) == (1, 1)


def test_a_stream_takes_its_keys_with_it_and_no_others(stream: StreamStore) -> None:
    stream.create_stream("t")
    stream.create_stream("u")
    for name in "stu":
        for number in range(100):
            stream.put_record(name, b"", "k", idempotency_key=str(number))
    stream.delete_stream("t")
    stream.create_stream("t")
    assert stream.put_record("t", b"", "k", idempotency_key="0") == FIRST
    assert len(stored(stream, "t")) == 1
    assert put(stream, "99") == stream.put_record("u", b"", "k", idempotency_key="99") == PutRecordResult(SHARD, "99")
    stream.close()
    assert remembered(stream.path) == (201, 201)


def test_a_store_without_keys_has_no_databases_for_them(stream: StreamStore) -> None:
    put(stream, None)
    stream.trim()
    stream.close()
    engine = Engine(stream.path, initial=None, read_only=True, sync="full")
    engine.open()
    try:
        databases = engine.read(ReadTransaction.databases)
    finally:
        engine.close()
    assert [name for name in databases if name.startswith(b"idempotency")] == []


def test_all_named_databases_of_a_full_store_can_be_open_at_once() -> None:
    of_the_store = {"format", "streams", "counters", "recoveries", "consumers", "positions"}
    of_keys = {"idempotency_keys", "idempotency_times"}
    assert SHARDS_PER_STORE_MAX + len(of_the_store | of_keys) <= NAMED_DATABASES_MAX


# Across reopening, resharding and failures


def test_a_key_is_remembered_across_reopening(store_path: Path, clock: Clock) -> None:
    for _ in range(3):
        with open_store(store_path, clock) as store:
            if not store.list_streams().stream_names:
                store.create_stream("s")
            assert put(store, "once") == FIRST
    assert check_store(store_path) == []


def test_a_key_is_remembered_by_every_process_that_has_the_store_open(stream: StreamStore) -> None:
    put_there = code(
        "import sys; from streamstore import StreamStore, library\n"
        "library.LMDB_LIB_VERSION = int(sys.argv[3])\n"
        "with StreamStore(sys.argv[1], sync='off', clock=lambda: int(sys.argv[2])) as store:\n"
        "    for key in sys.argv[4:]: print(store.put_record('s', b'there', 'k', idempotency_key=key).sequence_number)",
        stream.path,
        1_700_000_000_000,
        LMDB_LIB_VERSION,
    )
    assert put(stream, "here") == FIRST
    assert run([*put_there, "here", "there"]).split() == ["0", "1"]
    assert put(stream, "there") == PutRecordResult(SHARD, "1")
    assert stored(stream) == [b"data", b"there"]


def test_a_key_answers_with_the_parent_shard_after_a_reshard(stream: StreamStore) -> None:
    put(stream, "once")
    stream.split_shard("s", SHARD, str(2**127))
    assert put(stream, "once") == FIRST
    child = put(stream, "new")
    stream.merge_shards("s", "shard-000001", "shard-000002")
    stream.update_shard_count("s", 5)
    assert [put(stream, "once"), put(stream, "new")] == [FIRST, child]
    assert len(stored(stream)) == 2


def test_trim_deletes_keys_before_the_shard_that_they_name(store: StreamStore, clock: Clock) -> None:
    store.create_stream("s", retention_hours=1, idempotency_window_seconds=3_600)
    put(store, "once")
    store.split_shard("s", SHARD, str(2**127))
    clock.advance(3_600_000)
    assert store.trim("s") == TrimResult(0, 0, 1)
    clock.advance(1)
    assert store.trim("s") == TrimResult(1, 1, 0)


def test_a_key_that_outlives_its_shard_is_forgotten_like_any_other(store: StreamStore, clock: Clock) -> None:
    store.create_stream("s", retention_hours=1, idempotency_window_seconds=3_600)
    put(store, "once", partition_key="a")
    store.split_shard("s", SHARD, str(2**127))
    clock.advance(3_600_001)
    store.merge_shards("s", "shard-000001", "shard-000002")  # which drops the first shard
    assert put(store, "once", partition_key="a") == PutRecordResult("shard-000003", "2")
    assert put(store, "once", partition_key="a") == PutRecordResult("shard-000003", "2")


def test_a_put_that_is_made_again_after_a_failed_commit_is_stored_once(stream: StreamStore) -> None:
    with failing_commit("before", times=1), pytest.raises(StoreFullError):
        put(stream, "lost")
    assert put(stream, "lost") == FIRST
    with failing_commit("after", times=1) as failed:
        assert put(stream, "kept") == PutRecordResult(SHARD, "1")
    assert failed == ["after"]
    assert put(stream, "kept") == PutRecordResult(SHARD, "1")
    assert len(stored(stream)) == 2


@contextmanager
def outcome_unknown(moment: Moment) -> Generator[None]:
    """Make the next commit fail, before or after LMDB has carried it out, and the finding out of that too."""

    def fail(engine: Engine, evidence: object, error: BaseException) -> bool:
        del engine, evidence
        raise OutcomeUnknownError("planted by the test") from error

    with failing_commit(moment, times=1), mock.patch.object(Engine, "_find_out_stored", fail):
        yield


@pytest.mark.parametrize("batch", [False, True])
def test_a_put_of_unknown_outcome_may_be_made_again_with_its_key(stream: StreamStore, *, batch: bool) -> None:
    def put_either_way(key: str) -> str | None:
        if not batch:
            return put(stream, key).sequence_number
        return stream.put_records("s", [(b"data", "k", None, key)]).records[0].sequence_number

    with outcome_unknown("after"), pytest.raises(OutcomeUnknownError):
        put_either_way("stored")
    assert put_either_way("stored") == "0"
    with outcome_unknown("before"), pytest.raises(OutcomeUnknownError):
        put_either_way("not stored")
    assert put_either_way("not stored") == "1"
    assert len(stored(stream)) == 2


def test_a_repeated_put_waits_for_a_commit_of_its_own(stream: StreamStore) -> None:
    """Another process may have been killed before the first answer was on disk."""
    put(stream, "once")
    before = last_commit(stream)
    assert put(stream, "once") == FIRST
    assert last_commit(stream) == before + 1


def test_a_repeated_put_proves_nothing_for_its_neighbours(stream: StreamStore) -> None:
    """That the first answer is in the file is no evidence that a failed commit took place."""
    put(stream, "once")
    change = WaitingRequest(lambda appender: appender.flush().put(b"new", b"key", b"value"), payload_bytes=0)
    with held_commits() as held:
        ahead = in_thread(lambda: put(stream, "ahead"))
        held.wait_for_one()
        stream.writer().submit(change)
        repeated = stream.submit_record("s", b"", "k", idempotency_key="once")
        with failing_commit("before") as failed:
            held.let_go()
            with pytest.raises(StoreFullError):
                repeated.result(WAIT_S)
    assert failed == ["before"]
    assert ahead.result(WAIT_S) == PutRecordResult(SHARD, "1")
    with pytest.raises(StoreFullError):
        change.wait()
