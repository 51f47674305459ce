"""Laws of the read quota: five calls and 2 MB in a second for each shard of a stream that asks for it, exactly."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamstore import (
    ExpiredIteratorException,
    InvalidArgumentException,
    ProvisionedThroughputExceededException,
    ResourceNotFoundException,
    StreamStore,
)
from streamstore.limits import SHARDS_PER_STORE_MAX
from streamstore.model import StreamNumber
from streamstore.read_quota import ReadQuotas
from tests.commits import WAIT_S
from tests.conftest import Clock, open_store

SHARD = "shard-000000"
MIB = 2**20
PAGE_BYTES = 10 * MIB


@pytest.fixture
def stream(store: StreamStore) -> StreamStore:
    """A store with the stream "s" of two empty shards that have a read quota."""
    store.create_stream("s", shard_count=2, read_quota=True)
    return store


def oldest(store: StreamStore, name: str = "s", shard_id: str = SHARD) -> str:
    return store.get_shard_iterator(name, shard_id, "TRIM_HORIZON")


def put_bytes(store: StreamStore, total_bytes: int, name: str = "s") -> None:
    """Put so many bytes of data and keys into the first shard, in records of at most 1 MiB."""
    while total_bytes:
        record_bytes = min(total_bytes, MIB)
        store.put_record(name, bytes(record_bytes - 1), "k", explicit_hash_key="0")
        total_bytes -= record_bytes


def get(store: StreamStore, iterator: str) -> int:
    return len(store.get_records(iterator).records)


def refusal(store: StreamStore, iterator: str) -> ProvisionedThroughputExceededException:
    with pytest.raises(ProvisionedThroughputExceededException) as caught:
        store.get_records(iterator)
    return caught.value


# Calls


def test_five_calls_in_a_second_pass_and_the_sixth_waits_for_the_first_to_be_a_second_ago(
    stream: StreamStore, clock: Clock
) -> None:
    iterator = oldest(stream)
    for _ in range(5):
        get(stream, iterator)
        clock.advance(100)
    assert refusal(stream, iterator).retry_after_ms == 500
    clock.advance(499)
    assert refusal(stream, iterator).retry_after_ms == 1
    clock.advance(1)
    get(stream, iterator)
    assert refusal(stream, iterator).retry_after_ms == 100  # the second is a second ago then
    clock.advance(100)
    get(stream, iterator)


def test_a_call_each_200_ms_is_never_refused(stream: StreamStore, clock: Clock) -> None:
    iterator = oldest(stream)
    for _ in range(100):
        get(stream, iterator)
        clock.advance(200)


def test_an_idle_shard_saves_nothing_up(stream: StreamStore, clock: Clock) -> None:
    get(stream, oldest(stream))
    clock.advance(3_600_000)
    iterator = oldest(stream)
    for _ in range(5):
        get(stream, iterator)
    assert refusal(stream, iterator).retry_after_ms == 1_000


def test_a_refused_call_is_not_counted(stream: StreamStore, clock: Clock) -> None:
    iterator = oldest(stream)
    for _ in range(5):
        get(stream, iterator)
    for _ in range(50):
        assert refusal(stream, iterator).retry_after_ms == 1_000
    clock.advance(1_000)
    for _ in range(5):
        get(stream, iterator)


def test_a_call_refused_for_its_arguments_or_its_age_is_not_counted(stream: StreamStore, clock: Clock) -> None:
    old = oldest(stream)
    clock.advance(300_000)
    iterator = oldest(stream)
    for _ in range(10):
        with pytest.raises(ExpiredIteratorException):
            stream.get_records(old)
        with pytest.raises(InvalidArgumentException):
            stream.get_records(iterator, limit=0)
    for _ in range(5):
        get(stream, iterator)
    refusal(stream, iterator)


# Bytes


@pytest.mark.parametrize(
    ("returned_bytes", "owed_ms"),
    [(1, 1), (2_097, 1), (2_098, 2), (MIB, 500), (2 * MIB, 1_000), (2 * MIB + 1, 1_001), (PAGE_BYTES, 5_000)],
)
def test_what_a_call_returns_is_owed_and_paid_off_at_2_mb_a_second(
    stream: StreamStore, clock: Clock, returned_bytes: int, owed_ms: int
) -> None:
    put_bytes(stream, returned_bytes)
    iterator = oldest(stream)
    assert get(stream, iterator) == -(-returned_bytes // MIB)
    assert refusal(stream, iterator).retry_after_ms == owed_ms
    clock.advance(owed_ms - 1)
    assert refusal(stream, iterator).retry_after_ms == 1
    clock.advance(1)
    assert get(stream, iterator) == -(-returned_bytes // MIB)


def test_partition_keys_are_owed_in_utf8_bytes_too(stream: StreamStore) -> None:
    for _ in range(1_024):
        stream.put_record("s", bytes(1_024), "\U0001f600" * 256, explicit_hash_key="0")
    iterator = oldest(stream)
    assert get(stream, iterator) == 1_024
    assert refusal(stream, iterator).retry_after_ms == 1_000


def test_only_what_the_limit_lets_return_is_owed(stream: StreamStore) -> None:
    put_bytes(stream, 4 * MIB)
    iterator = oldest(stream)
    assert len(stream.get_records(iterator, limit=1).records) == 1
    assert refusal(stream, iterator).retry_after_ms == 500


def test_the_longer_of_both_waits_is_told(stream: StreamStore, clock: Clock) -> None:
    iterator = oldest(stream)
    for _ in range(4):
        get(stream, iterator)
    put_bytes(stream, 3 * MIB)
    get(stream, iterator)
    assert refusal(stream, iterator).retry_after_ms == 1_500
    clock.advance(10_000)
    put_bytes(stream, 1)
    newest = stream.get_shard_iterator("s", SHARD, "AT_SEQUENCE_NUMBER", starting_sequence_number="3")
    for _ in range(5):
        get(stream, newest)
        clock.advance(1)
    assert refusal(stream, newest).retry_after_ms == 995


# Whom it concerns


def test_other_shards_and_other_streams_are_not_throttled(stream: StreamStore) -> None:
    stream.create_stream("t", read_quota=True)
    put_bytes(stream, 1)
    get(stream, oldest(stream))
    refusal(stream, oldest(stream))
    for _ in range(5):
        get(stream, oldest(stream, shard_id="shard-000001"))
        get(stream, oldest(stream, "t"))


def test_a_stream_that_does_not_ask_for_it_is_not_throttled(store: StreamStore) -> None:
    store.create_stream("s")
    put_bytes(store, MIB)
    iterator = oldest(store)
    for _ in range(50):
        assert get(store, iterator) == 1


def test_iterating_in_the_process_is_not_throttled_and_owes_nothing(stream: StreamStore) -> None:
    put_bytes(stream, PAGE_BYTES)
    for _ in range(10):
        assert len(list(stream.read("s", SHARD))) == 10
    get(stream, oldest(stream))
    refusal(stream, oldest(stream))
    assert len(list(stream.read("s", SHARD))) == 10


def test_a_stream_of_the_same_name_owes_nothing_for_the_one_before(stream: StreamStore) -> None:
    put_bytes(stream, 1)
    get(stream, oldest(stream))
    refusal(stream, oldest(stream))
    stream.delete_stream("s")
    stream.create_stream("s", read_quota=True)
    get(stream, oldest(stream))


def test_a_deleted_stream_is_not_found_rather_than_throttled(stream: StreamStore) -> None:
    put_bytes(stream, 1)
    iterator = oldest(stream)
    get(stream, iterator)
    stream.delete_stream("s")
    with pytest.raises(ResourceNotFoundException):
        stream.get_records(iterator)


def test_each_open_store_counts_for_itself_and_a_store_for_reading_only_too(stream: StreamStore, clock: Clock) -> None:
    put_bytes(stream, 1)
    get(stream, oldest(stream))
    stream.close()
    with open_store(stream.path, clock, read_only=True) as reader:
        before = (stream.path / "data.mdb").read_bytes()
        get(reader, oldest(reader))
        assert refusal(reader, oldest(reader)).retry_after_ms == 1
        assert (stream.path / "data.mdb").read_bytes() == before


def test_a_refusal_names_stream_shard_and_remedy(stream: StreamStore) -> None:
    put_bytes(stream, PAGE_BYTES)
    iterator = oldest(stream)
    get(stream, iterator)
    error = refusal(stream, iterator)
    assert (error.stream_name, error.shard_id, error.http_status) == ("s", SHARD, 400)
    assert str(error) == (
        f"Rate exceeded for shard {SHARD} in stream s; retry in 5000 ms, read less often, or share what one reader has "
        "read."
    )


# The clock and threads


@pytest.mark.parametrize("back_ms", [3_600_000, 10_000, 5_001])
def test_a_clock_set_far_back_makes_nobody_wait(stream: StreamStore, clock: Clock, back_ms: int) -> None:
    put_bytes(stream, 1)
    get(stream, oldest(stream))
    clock.advance(-back_ms)
    get(stream, oldest(stream))
    assert refusal(stream, oldest(stream)).retry_after_ms == 1


@pytest.mark.parametrize("back_ms", [0, 1, 1_000, 4_999, 5_000])
def test_a_clock_set_back_a_little_makes_nobody_wait_longer_than_six_seconds(
    stream: StreamStore, clock: Clock, back_ms: int
) -> None:
    iterator = oldest(stream)
    for _ in range(5):
        get(stream, iterator)
    clock.advance(-back_ms)
    assert refusal(stream, iterator).retry_after_ms == 1_000 + back_ms


def let_through(store: StreamStore, iterator: str, thread_count: int) -> int:
    """Let many threads read at once, and return how many were not refused."""
    barrier = threading.Barrier(thread_count)

    def read() -> bool:
        barrier.wait(WAIT_S)
        try:
            store.get_records(iterator)
        except ProvisionedThroughputExceededException:
            return False
        return True

    with ThreadPoolExecutor(thread_count) as pool:
        futures = [pool.submit(read) for _ in range(thread_count)]
        return sum(future.result(WAIT_S) for future in futures)


def test_of_many_threads_at_once_five_are_let_through_and_one_if_it_returns_anything(
    stream: StreamStore, clock: Clock
) -> None:
    for _ in range(5):
        assert let_through(stream, oldest(stream), 16) == 5
        clock.advance(1_000)
    put_bytes(stream, MIB)
    for _ in range(5):
        assert let_through(stream, oldest(stream), 16) == 1
        clock.advance(500)


def test_threads_that_take_at_the_same_time_never_take_the_same_call() -> None:
    quotas, shards = ReadQuotas(), [(StreamNumber(1), index) for index in range(300)]

    def take_of_each() -> int:
        return sum(quotas.take(shard, returned_bytes=0, now_ms=0) == 0 for _ in range(5) for shard in shards)

    switch_interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that a thread loses its turn in the middle of a call
    try:
        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(take_of_each) for _ in range(4)]
            assert sum(future.result(WAIT_S) for future in futures) == 5 * len(shards)
    finally:
        sys.setswitchinterval(switch_interval_s)


# The rule itself

FIRST = (StreamNumber(1), 0)


def test_no_more_shards_are_remembered_than_a_store_holds() -> None:
    quotas = ReadQuotas()
    for index in range(SHARDS_PER_STORE_MAX):
        assert quotas.take((StreamNumber(1), index), returned_bytes=PAGE_BYTES, now_ms=0) == 0
    assert quotas.take(FIRST, returned_bytes=PAGE_BYTES, now_ms=5_000) == 0  # read last now
    assert quotas.take((StreamNumber(2), 0), returned_bytes=PAGE_BYTES, now_ms=5_000) == 0
    assert quotas.wait_ms(FIRST, now_ms=5_000) == 5_000
    assert quotas.wait_ms((StreamNumber(1), 1), now_ms=0) == 0  # forgotten
    assert quotas.wait_ms((StreamNumber(1), 2), now_ms=0) == 5_000


def test_asking_how_long_to_wait_changes_nothing() -> None:
    quotas = ReadQuotas()
    for _ in range(10):
        assert quotas.wait_ms(FIRST, now_ms=0) == 0
    for _ in range(5):
        assert quotas.take(FIRST, returned_bytes=0, now_ms=0) == 0
    for _ in range(10):
        assert quotas.wait_ms(FIRST, now_ms=0) == 1_000


Call = tuple[int, int]
"""When a call was let through, or how long after the one before it is tried; and what it returns, in bytes."""
tries: st.SearchStrategy[list[Call]] = st.lists(
    st.tuples(st.sampled_from([0, 1, 50, 199, 200, 999, 3_000]), st.just(0) | st.integers(0, 3 * MIB))
)


def may_pass(passed: list[Call], now_ms: int) -> bool:
    """The rule in one sentence each: fewer than five in the last second, and the last is paid for at 2 MB/s."""
    fewer_than_five = sum(time_ms > now_ms - 1_000 for time_ms, _ in passed) < 5
    return fewer_than_five and all((now_ms - time_ms) * 2 * MIB >= size * 1_000 for time_ms, size in passed[-1:])


@given(tries)
def test_in_any_second_at_most_five_calls_pass_and_none_before_the_last_is_paid(drawn: list[Call]) -> None:
    quotas, now_ms, passed = ReadQuotas(), 0, list[Call]()
    for step_ms, returned_bytes in drawn:
        now_ms += step_ms
        wait_ms = quotas.take(FIRST, returned_bytes=returned_bytes, now_ms=now_ms)
        assert (wait_ms == 0) == may_pass(passed, now_ms)
        if wait_ms == 0:
            passed.append((now_ms, returned_bytes))
        else:
            assert may_pass(passed, now_ms + wait_ms)
            assert not may_pass(passed, now_ms + wait_ms - 1)
