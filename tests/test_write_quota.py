"""Laws of the write quota: a shard saves up one second of bytes and of records, and takes no more than it has."""

import pytest

from streamstore import ProvisionedThroughputExceededException, StreamStore
from tests.conftest import Clock, open_store

MIB = 1_048_576
LOW, HIGH = "0", str(2**128 - 1)
"""Explicit hash keys of the first and the last shard."""


def put(store: StreamStore, size_bytes: int, hash_key: str = LOW) -> str:
    """Put a record that counts ``size_bytes``: the data and a partition key of one byte."""
    return store.put_record("s", bytes(size_bytes - 1), "k", explicit_hash_key=hash_key).sequence_number


def refusal(store: StreamStore, size_bytes: int) -> ProvisionedThroughputExceededException:
    with pytest.raises(ProvisionedThroughputExceededException) as caught:
        put(store, size_bytes)
    return caught.value


@pytest.mark.parametrize("kb_per_sec", [128, 512, 1024])
def test_one_second_of_bytes_passes_at_once_and_no_byte_more(store: StreamStore, kb_per_sec: int) -> None:
    store.create_stream("s", write_quota_kb_per_sec=kb_per_sec)
    for _ in range(64):
        put(store, kb_per_sec * 16)
    assert refusal(store, 1).retry_after_ms == 1


@pytest.mark.parametrize("size_bytes", [1_000, 1_024, 1_311])
def test_what_fits_into_one_second_of_bytes_passes_to_the_last_byte(store: StreamStore, size_bytes: int) -> None:
    store.create_stream("s", write_quota_kb_per_sec=128)
    count, left = divmod(128 * 1_024, size_bytes)
    for _ in range(count):
        put(store, size_bytes)
    if left:
        put(store, left)
    refusal(store, 1)


@pytest.mark.parametrize("kb_per_sec", [128, 512, 1024])
def test_the_quota_comes_back_at_its_rate(store: StreamStore, clock: Clock, kb_per_sec: int) -> None:
    store.create_stream("s", write_quota_kb_per_sec=kb_per_sec)
    put(store, kb_per_sec * 1_024)
    for _ in range(20):
        clock.advance(125)
        put(store, kb_per_sec * 128)  # an eighth of a second's worth
        assert refusal(store, 128).retry_after_ms >= 1


def test_a_thousand_records_pass_at_once_and_then_one_each_millisecond(store: StreamStore, clock: Clock) -> None:
    store.create_stream("s", write_quota_kb_per_sec=1024)
    for _ in range(1_000):
        put(store, 1)
    for _ in range(3):
        assert refusal(store, 1).retry_after_ms == 1
        clock.advance(1)
        put(store, 1)
    clock.advance(500)
    for _ in range(500):
        put(store, 1)
    assert refusal(store, 1).retry_after_ms == 1


def test_no_more_than_one_second_is_saved_up(store: StreamStore, clock: Clock) -> None:
    store.create_stream("s", write_quota_kb_per_sec=128)
    put(store, 1)
    clock.advance(3_600_000)
    put(store, 128 * 1_024)
    assert refusal(store, 1).retry_after_ms == 1


def test_the_partition_key_counts_in_utf8_bytes(store: StreamStore) -> None:
    store.create_stream("s", write_quota_kb_per_sec=128)
    for _ in range(64):
        store.put_record("s", bytes(1_024), "\U0001f600" * 256)  # the key has 1,024 bytes too
    assert refusal(store, 1).retry_after_ms == 1


def test_a_record_bigger_than_a_second_passes_an_idle_shard_which_then_waits_until_it_is_paid(
    store: StreamStore, clock: Clock
) -> None:
    store.create_stream("s", write_quota_kb_per_sec=128)
    assert put(store, MIB) == "0"  # eight seconds' worth
    assert refusal(store, MIB).retry_after_ms == 8_000
    assert refusal(store, 128 * 1_024).retry_after_ms == 8_000  # needs the whole second
    assert refusal(store, 64 * 1_024).retry_after_ms == 7_500  # needs half of it
    clock.advance(7_999)
    assert refusal(store, MIB).retry_after_ms == 1
    clock.advance(1)
    assert put(store, MIB) == "1"


def test_a_record_bigger_than_a_second_does_not_pass_while_anything_is_owed(store: StreamStore, clock: Clock) -> None:
    store.create_stream("s", write_quota_kb_per_sec=128)
    put(store, 1)
    assert refusal(store, MIB).retry_after_ms == 1
    clock.advance(1)
    put(store, MIB)


@pytest.mark.parametrize("size_bytes", [1, 100, 1_024, 100_000, 131_072, 131_073, 500_000, MIB])
@pytest.mark.parametrize("kb_per_sec", [128, 512, 1024])
def test_waiting_as_long_as_told_is_enough_and_a_millisecond_less_is_not(
    store: StreamStore, clock: Clock, size_bytes: int, kb_per_sec: int
) -> None:
    store.create_stream("s", write_quota_kb_per_sec=kb_per_sec)
    put(store, MIB)
    retry_after_ms = refusal(store, size_bytes).retry_after_ms
    clock.advance(retry_after_ms - 1)
    assert refusal(store, size_bytes).retry_after_ms == 1
    clock.advance(1)
    put(store, size_bytes)


def test_a_refusal_uses_up_nothing(store: StreamStore, clock: Clock) -> None:
    store.create_stream("s", write_quota_kb_per_sec=128)
    put(store, 128 * 1_024)
    for _ in range(50):
        assert refusal(store, 1_024).retry_after_ms == 8
    clock.advance(8)
    assert put(store, 1_024) == "1"
    assert [record.sequence_number for record in store.read("s", "shard-000000")] == ["0", "1"]


def test_other_shards_and_other_streams_are_not_affected(store: StreamStore) -> None:
    store.create_stream("s", shard_count=2, write_quota_kb_per_sec=128)
    store.create_stream("t", write_quota_kb_per_sec=128)
    put(store, MIB)
    refusal(store, 1)
    assert put(store, MIB, HIGH) == "0"
    assert store.put_record("t", bytes(MIB), "k").sequence_number == "0"


def test_what_is_owed_outlasts_the_process(store: StreamStore, clock: Clock) -> None:
    store.create_stream("s", write_quota_kb_per_sec=128)
    put(store, MIB)
    store.close()
    with open_store(store.path, clock) as reopened:
        assert refusal(reopened, MIB).retry_after_ms == 8_000
        clock.advance(8_000)
        put(reopened, MIB)


def test_a_clock_set_far_back_does_not_block_a_shard(store: StreamStore, clock: Clock) -> None:
    store.create_stream("s", write_quota_kb_per_sec=128)
    put(store, 1_024)
    clock.advance(-3_600_000)
    assert put(store, 128 * 1_024) == "1"
    assert refusal(store, 1).retry_after_ms == 1


def test_a_refusal_names_stream_shard_and_remedy(store: StreamStore) -> None:
    store.create_stream("s", write_quota_kb_per_sec=128)
    put(store, MIB)
    error = refusal(store, MIB)
    assert (error.stream_name, error.shard_id, error.http_status) == ("s", "shard-000000", 400)
    assert str(error) == (
        "Rate exceeded for shard shard-000000 in stream s; retry in 8000 ms, spread the keys over more shards, or "
        "raise the quota."
    )


def test_without_a_quota_nothing_is_refused(store: StreamStore) -> None:
    store.create_stream("s")
    for _ in range(1_100):
        put(store, 1)
    for _ in range(4):
        put(store, MIB)


def test_a_wrong_ordering_number_costs_no_quota(store: StreamStore) -> None:
    store.create_stream("s", write_quota_kb_per_sec=128)
    for _ in range(3):
        with pytest.raises(ValueError, match="sequence_number_for_ordering"):
            store.put_record("s", bytes(MIB), "k", sequence_number_for_ordering="0")
    put(store, MIB)
