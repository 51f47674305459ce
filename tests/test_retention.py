"""Retention: what is older is never read, its space is used again, and no put waits long for that."""

import os
import random
from pathlib import Path

import pytest

from streamstore import ResourceNotFoundException, StoreFullError, StreamStore, TrimResult
from streamstore.disk_format import counter_key, decode_counter, record_key
from streamstore.model import ShardCounter, StreamNumber
from tests.commits import failing_commit, last_commit
from tests.conftest import Clock, open_store
from tests.damage import behind_the_back_of

HOUR_MS = 3_600_000
LAST = 2**128 - 1
SHARD, SECOND_SHARD, THIRD_SHARD = "shard-000000", "shard-000001", "shard-000002"
BITE = 32 + 2  # what one put deletes of its own shard, at most


@pytest.fixture
def stream(store: StreamStore) -> StreamStore:
    """A store with the stream "s" of one shard, which keeps its records for an hour."""
    store.create_stream("s", retention_hours=1)
    return store


def put(store: StreamStore, count: int, *, hash_key: str = "0") -> None:
    store.put_records("s", [(b"%d" % number, "k", hash_key) for number in range(count)])


def numbers(store: StreamStore, shard_id: str = SHARD) -> list[int]:
    return [int(record.sequence_number) for record in store.read("s", shard_id)]


def counters_on_disk(path: Path) -> list[ShardCounter]:
    with behind_the_back_of(path) as raw:
        items = raw.items(b"counters")
    keys = [counter_key(StreamNumber(1), index) for index in range(len(items))]
    assert [key for key, _ in items] == keys
    return [decode_counter(StreamNumber(1), index, value) for index, (_, value) in enumerate(items)]


def test_a_record_is_read_up_to_the_millisecond_of_its_retention(stream: StreamStore, clock: Clock) -> None:
    put(stream, 1)
    iterator = stream.get_shard_iterator("s", SHARD, "TRIM_HORIZON")
    clock.advance(HOUR_MS)
    assert numbers(stream) == [0]
    iterator = stream.get_shard_iterator("s", SHARD, "TRIM_HORIZON")
    assert len(stream.get_records(iterator).records) == 1
    clock.advance(1)
    assert numbers(stream) == []
    assert stream.get_records(iterator).records == []


def test_every_kind_of_iterator_below_the_horizon_moves_up_to_it(stream: StreamStore, clock: Clock) -> None:
    start_ms = clock()
    for _ in range(10):
        put(stream, 1)
        clock.advance(HOUR_MS // 10)
    clock.advance(HOUR_MS // 2)  # records 0 to 4 are gone
    iterators = [
        stream.get_shard_iterator("s", SHARD, "TRIM_HORIZON"),
        stream.get_shard_iterator("s", SHARD, "AT_SEQUENCE_NUMBER", starting_sequence_number="2"),
        stream.get_shard_iterator("s", SHARD, "AFTER_SEQUENCE_NUMBER", starting_sequence_number="3"),
        stream.get_shard_iterator("s", SHARD, "AT_TIMESTAMP", timestamp=start_ms / 1000),
        stream.get_shard_iterator("s", SHARD, "AT_TIMESTAMP", timestamp=0),
    ]
    for iterator in iterators:
        assert [record.sequence_number for record in stream.get_records(iterator).records] == list("56789")
    assert stream.list_shards("s").shards[0].sequence_number_range.starting_sequence_number == "5"
    stream.trim()
    for iterator in iterators:
        assert [record.sequence_number for record in stream.get_records(iterator).records] == list("56789")


def test_an_iterator_whose_records_all_expired_goes_on_with_the_next_put(stream: StreamStore, clock: Clock) -> None:
    put(stream, 5)
    clock.advance(HOUR_MS + 1)
    page = stream.get_records(stream.get_shard_iterator("s", SHARD, "TRIM_HORIZON"))
    assert (page.records, page.millis_behind_latest) == ([], 0)
    put(stream, 1)
    assert page.next_shard_iterator is not None
    assert [record.sequence_number for record in stream.get_records(page.next_shard_iterator).records] == ["5"]


def test_numbers_go_on_behind_what_was_trimmed(stream: StreamStore, clock: Clock) -> None:
    put(stream, 5)
    clock.advance(HOUR_MS + 1)
    assert stream.trim() == TrimResult(record_count=5, shard_count=0)
    assert stream.trim() == TrimResult(record_count=0, shard_count=0)
    assert stream.put_record("s", b"", "k").sequence_number == "5"
    assert numbers(stream) == [5]


def test_a_put_deletes_a_bounded_bite_of_what_expired(store_path: Path, clock: Clock) -> None:
    with open_store(store_path, clock) as store:
        store.create_stream("s", retention_hours=1)
        for _ in range(4):
            put(store, 500)
        clock.advance(HOUR_MS + 1)
        store.put_record("s", b"", "k")
        assert numbers(store) == [2_000]
    assert counters_on_disk(store_path)[0].first_sequence == BITE


def test_puts_delete_nothing_before_the_millisecond_that_it_expires_in(store_path: Path, clock: Clock) -> None:
    """Neither of their own shard nor of another, whose turn comes with each second put."""
    with open_store(store_path, clock) as store:
        store.create_stream("s", shard_count=2, retention_hours=1)
        put(store, 3)
        put(store, 3, hash_key=str(LAST))
        clock.advance(HOUR_MS)
        for _ in range(2):
            store.put_record("s", b"", "k", explicit_hash_key="0")
    assert [counter.first_sequence for counter in counters_on_disk(store_path)] == [0, 0]
    clock.advance(1)
    with open_store(store_path, clock) as store:
        for _ in range(2):
            store.put_record("s", b"", "k", explicit_hash_key="0")
    assert [counter.first_sequence for counter in counters_on_disk(store_path)] == [3, 3]


def test_steady_puts_delete_faster_than_they_store(store_path: Path, clock: Clock) -> None:
    with open_store(store_path, clock) as store:
        store.create_stream("s", retention_hours=1)
        for _ in range(4):
            put(store, 500)
        clock.advance(HOUR_MS + 1)
        for _ in range(2_000 // BITE + 1):
            store.put_record("s", b"", "k")
        assert len(numbers(store)) == 2_000 // BITE + 1
    assert counters_on_disk(store_path)[0].first_sequence == 2_000


def test_puts_trim_the_closed_shards_and_the_quiet_ones_of_their_stream_too(store_path: Path, clock: Clock) -> None:
    with open_store(store_path, clock) as store:
        store.create_stream("s", shard_count=2, retention_hours=1)
        put(store, 20)
        put(store, 20, hash_key=str(LAST))
        store.split_shard("s", SHARD, "5")
        put(store, 20, hash_key="5")
        clock.advance(HOUR_MS + 1)
        for _ in range(4):
            store.put_record("s", b"", "k", explicit_hash_key="0")
    closed, quiet, written, quiet_child = counters_on_disk(store_path)
    assert (closed.first_sequence, closed.next_sequence) == (20, 20)
    assert (quiet.first_sequence, quiet.next_sequence) == (20, 20)
    assert (quiet_child.first_sequence, quiet_child.next_sequence) == (40, 40)
    assert (written.first_sequence, written.next_sequence) == (20, 24)


def test_a_closed_shard_disappears_when_its_last_record_could_have_expired(stream: StreamStore, clock: Clock) -> None:
    put(stream, 3)
    stream.split_shard("s", SHARD, "5")
    iterator = stream.get_shard_iterator("s", SHARD, "TRIM_HORIZON")
    clock.advance(HOUR_MS)
    iterator = stream.get_shard_iterator("s", SHARD, "TRIM_HORIZON")
    assert [shard.shard_id for shard in stream.list_shards("s").shards] == [SHARD, SECOND_SHARD, THIRD_SHARD]
    clock.advance(1)
    shards = stream.list_shards("s").shards
    assert [shard.shard_id for shard in shards] == [SECOND_SHARD, THIRD_SHARD]
    assert {shard.parent_shard_id for shard in shards} == {SHARD}
    for call in (
        lambda: stream.get_records(iterator),
        lambda: stream.get_shard_iterator("s", SHARD, "TRIM_HORIZON"),
        lambda: list(stream.read("s", SHARD)),
        lambda: stream.split_shard("s", SHARD, "7"),
        lambda: stream.list_shards("s", exclusive_start_shard_id=SHARD),
    ):
        with pytest.raises(ResourceNotFoundException):
            call()
    assert stream.trim() == TrimResult(record_count=3, shard_count=1)
    stream.split_shard("s", SECOND_SHARD, "3")
    assert "shard-000003" in {shard.shard_id for shard in stream.list_shards("s").shards}, "indexes are not used again"


def test_a_closed_shard_outlives_its_last_record_wherever_the_clock_was(stream: StreamStore, clock: Clock) -> None:
    put(stream, 1)
    clock.advance(-5_000)
    stream.split_shard("s", SHARD, "5")
    clock.advance(HOUR_MS + 5_000)
    assert numbers(stream) == [0]
    clock.advance(1)
    assert SHARD not in [shard.shard_id for shard in stream.list_shards("s").shards]


def test_the_numbers_shown_of_a_closed_shard_never_start_behind_their_end(stream: StreamStore, clock: Clock) -> None:
    put(stream, 3)
    clock.advance(HOUR_MS)
    stream.split_shard("s", SHARD, "5")
    clock.advance(1)
    shown = stream.list_shards("s").shards[0].sequence_number_range
    assert (shown.starting_sequence_number, shown.ending_sequence_number) == ("2", "2")
    assert numbers(stream) == []


def test_a_parent_never_outlives_its_children(stream: StreamStore, clock: Clock) -> None:
    stream.split_shard("s", SHARD, "5")
    clock.advance(-5_000)
    stream.merge_shards("s", SECOND_SHARD, THIRD_SHARD)
    clock.advance(HOUR_MS + 1)
    for parent in (SHARD, SECOND_SHARD, THIRD_SHARD):
        page = stream.get_records(stream.get_shard_iterator("s", parent, "TRIM_HORIZON"))
        assert page.child_shards != ()


def test_resharding_for_ever_does_not_fill_the_store_with_closed_shards(
    store_path: Path, store: StreamStore, clock: Clock
) -> None:
    store.create_stream("s", retention_hours=1)
    for step in range(60):
        store.update_shard_count("s", 1 + step % 4)
        put(store, 10)
        clock.advance(HOUR_MS // 2)
    assert len(store.list_shards("s").shards) < 20
    store.close()
    assert len(counters_on_disk_of_any(store_path)) < 30


def counters_on_disk_of_any(path: Path) -> list[bytes]:
    with behind_the_back_of(path) as raw:
        return [key for key, _ in raw.items(b"counters")]


def test_trimming_goes_in_bites_of_a_thousand_so_that_puts_get_in_between(stream: StreamStore, clock: Clock) -> None:
    for _ in range(5):
        put(stream, 500)
    clock.advance(HOUR_MS + 1)
    before = last_commit(stream)
    assert stream.trim("s").record_count == 2_500
    assert last_commit(stream) - before == 3


def test_trim_leaves_other_streams_and_younger_records_alone(store: StreamStore, clock: Clock) -> None:
    for name, hours in (("s", 1), ("t", 2)):
        store.create_stream(name, retention_hours=hours)
        store.put_record(name, b"old", "k")
    clock.advance(HOUR_MS + 1)
    store.put_record("t", b"young", "k")
    assert store.trim("t").record_count == 0
    assert store.trim().record_count == 1
    assert [record.data for record in store.read("t", SHARD)] == [b"old", b"young"]
    with pytest.raises(ResourceNotFoundException):
        store.trim("unknown")


def test_a_trim_whose_commit_fails_deletes_nothing(stream: StreamStore, clock: Clock) -> None:
    put(stream, 10)
    clock.advance(HOUR_MS + 1)
    with failing_commit("before"), pytest.raises(StoreFullError):
        stream.trim()
    clock.advance(-1)  # looked at a millisecond earlier, nothing had expired, and so nothing may be missing
    assert numbers(stream) == list(range(10))


def test_a_put_that_fails_trims_nothing(stream: StreamStore, clock: Clock) -> None:
    put(stream, 10)
    clock.advance(HOUR_MS + 1)
    with failing_commit("before"), pytest.raises(StoreFullError):
        stream.put_record("s", b"", "k")
    clock.advance(-1)
    assert numbers(stream) == list(range(10))
    clock.advance(1)
    assert stream.put_record("s", b"", "k").sequence_number == "10"


def test_a_damaged_record_is_trimmed_with_its_neighbours(store_path: Path, clock: Clock) -> None:
    with open_store(store_path, clock) as store:
        store.create_stream("s", retention_hours=1)
        put(store, 10)
    with behind_the_back_of(store_path) as raw:
        for sequence in (0, 4):
            raw.flip_last_bit(b"records/1/0", record_key(sequence))
    clock.advance(HOUR_MS + 1)
    with open_store(store_path, clock) as store:
        assert numbers(store) == []
        store.put_record("s", b"", "k")
        assert numbers(store) == [10]
    assert counters_on_disk(store_path)[0].first_sequence == 10


def test_a_put_does_not_fail_for_the_damage_of_another_shard(store_path: Path, clock: Clock) -> None:
    with open_store(store_path, clock) as store:
        store.create_stream("s", shard_count=2, retention_hours=1)
        put(store, 3)
        put(store, 3, hash_key=str(LAST))
    with behind_the_back_of(store_path) as raw:
        raw.flip_last_bit(b"counters", counter_key(StreamNumber(1), 1))
    clock.advance(HOUR_MS + 1)
    with open_store(store_path, clock) as store:
        for _ in range(3):
            store.put_record("s", b"", "k", explicit_hash_key="0")
        assert numbers(store) == [3, 4, 5]


def test_a_reader_of_an_old_page_goes_on_while_its_records_are_trimmed(stream: StreamStore, clock: Clock) -> None:
    for _ in range(3):
        put(stream, 500)
        clock.advance(HOUR_MS // 4)
    reading = stream.read("s", SHARD)
    first = next(reading)
    clock.advance(HOUR_MS // 2 + 1)
    assert stream.trim().record_count == 1_000
    rest = [int(record.sequence_number) for record in reading]
    assert int(first.sequence_number) == 0
    assert rest == sorted(rest)
    assert rest[-500:] == list(range(1_000, 1_500))


# Small records take more than their bytes in any store: 1.6 is what the benchmark allows a fresh one.
@pytest.mark.parametrize(("record_bytes", "count", "bound"), [(100, 500, 1.6), (1_000, 100, 1.5), (20_000, 10, 1.5)])
def test_the_file_stays_flat_through_twenty_windows_of_retention(
    store_path: Path, clock: Clock, record_bytes: int, count: int, bound: float
) -> None:
    """At steady load, 100 commits a window, over four shards."""
    data = random.Random(1)
    with open_store(store_path, clock) as store:
        store.create_stream("s", shard_count=4, retention_hours=1)
        sizes: list[int] = []
        for window in range(20):
            for step in range(100):
                clock.advance(HOUR_MS // 100)
                keys = [f"{window}/{step}/{number}" for number in range(count)]
                store.put_records("s", [(data.randbytes(record_bytes), key) for key in keys])
            sizes.append(os.path.getsize(store_path / "data.mdb"))
        live = [record for shard in store.list_shards("s").shards for record in store.read("s", shard.shard_id)]
        live_bytes = sum(len(record.data) + len(record.partition_key) for record in live)
    assert 100 * count <= len(live) <= 101 * count
    assert sizes[-1] <= bound * live_bytes, f"{sizes[-1] / live_bytes:.2f} of the live data: {sizes}"
    assert sizes[-1] <= 1.1 * sizes[2], sizes


def test_a_dropped_stream_and_a_dropped_shard_return_their_pages(store_path: Path, clock: Clock) -> None:
    sizes: list[int] = []
    with open_store(store_path, clock) as store:
        for _ in range(12):
            store.create_stream("s", retention_hours=1)
            store.put_records("s", [(bytes(10_000), "k")] * 300)
            store.split_shard("s", SHARD, str(LAST // 2))
            store.put_records("s", [(bytes(10_000), "k")] * 300)
            clock.advance(HOUR_MS + 1)
            store.trim()
            store.delete_stream("s")
            sizes.append(os.path.getsize(store_path / "data.mdb"))
    assert sizes[-1] <= 1.1 * sizes[2], sizes
