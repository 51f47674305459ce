"""Splitting, merging, resizing: open shards tile the hash keys, parents and children stay linked, order stays."""

import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamstore import (
    ChildShard,
    HashKeyRange,
    InvalidArgumentException,
    LimitExceededException,
    ResourceNotFoundException,
    SequenceNumberRange,
    Shard,
    StreamStore,
    UpdateShardCountResult,
)
from streamstore.check import check_store
from streamstore.routing import hash_key_of_partition_key
from tests.commits import WAIT_S, failing_commit, in_thread
from tests.conftest import Clock, open_store

LAST = 2**128 - 1
HALF = LAST // 2
FIRST_SHARD, SECOND_SHARD, THIRD_SHARD = "shard-000000", "shard-000001", "shard-000002"


@pytest.fixture
def stream(store: StreamStore) -> StreamStore:
    """A store with the stream "s" of one shard and the records "0", "1", "2" in it."""
    store.create_stream("s")
    for number in range(3):
        store.put_record("s", b"%d" % number, "k")
    return store


def shards_of(store: StreamStore) -> dict[str, Shard]:
    return {shard.shard_id: shard for shard in store.list_shards("s").shards}


def is_open(shard: Shard) -> bool:
    return shard.sequence_number_range.ending_sequence_number is None


def open_ranges(store: StreamStore) -> list[HashKeyRange]:
    ranges = [shard.hash_key_range for shard in shards_of(store).values() if is_open(shard)]
    return sorted(ranges, key=lambda hash_key_range: hash_key_range.starting_hash_key)


def equal_ranges(count: int) -> list[HashKeyRange]:
    starts = [index * (LAST // count) for index in range(count)]
    return [HashKeyRange(start, end - 1) for start, end in zip(starts, [*starts[1:], LAST + 1], strict=True)]


def in_lineage_order(store: StreamStore) -> Iterator[Shard]:
    """Yield each shard behind its parents."""
    yield from sorted(shards_of(store).values(), key=lambda shard: shard.shard_id)


def test_a_split_closes_the_parent_and_opens_two_children_behind_it(stream: StreamStore) -> None:
    stream.split_shard("s", FIRST_SHARD, str(HALF))
    assert shards_of(stream) == {
        FIRST_SHARD: Shard(FIRST_SHARD, HashKeyRange(0, LAST), SequenceNumberRange("0", "2")),
        SECOND_SHARD: Shard(SECOND_SHARD, HashKeyRange(0, HALF - 1), SequenceNumberRange("3"), FIRST_SHARD),
        THIRD_SHARD: Shard(THIRD_SHARD, HashKeyRange(HALF, LAST), SequenceNumberRange("3"), FIRST_SHARD),
    }
    assert stream.put_record("s", b"3", "k", explicit_hash_key=str(HALF - 1))[:2] == (SECOND_SHARD, "3")
    assert stream.put_record("s", b"4", "k", explicit_hash_key=str(HALF))[:2] == (THIRD_SHARD, "3")


def test_a_merge_closes_both_parents_and_opens_one_child_behind_both(stream: StreamStore) -> None:
    stream.split_shard("s", FIRST_SHARD, str(HALF))
    stream.put_record("s", b"3", "k", explicit_hash_key="0")
    stream.merge_shards("s", SECOND_SHARD, THIRD_SHARD)
    child = "shard-000003"
    assert shards_of(stream)[child] == Shard(
        child, HashKeyRange(0, LAST), SequenceNumberRange("4"), SECOND_SHARD, THIRD_SHARD
    )
    # The one that stayed empty ends with the number that it would have started with.
    assert shards_of(stream)[THIRD_SHARD].sequence_number_range == SequenceNumberRange("3", "3")
    assert stream.put_record("s", b"4", "k")[:2] == (child, "4")


def test_a_closed_shard_stays_readable_and_ends_with_its_children(stream: StreamStore) -> None:
    before = stream.get_shard_iterator("s", FIRST_SHARD, "TRIM_HORIZON")
    stream.split_shard("s", FIRST_SHARD, str(HALF))
    children = (
        ChildShard(SECOND_SHARD, (FIRST_SHARD,), HashKeyRange(0, HALF - 1)),
        ChildShard(THIRD_SHARD, (FIRST_SHARD,), HashKeyRange(HALF, LAST)),
    )
    page = stream.get_records(before, limit=2)
    assert [record.data for record in page.records] == [b"0", b"1"]
    assert page.child_shards == ()
    assert page.next_shard_iterator is not None
    page = stream.get_records(page.next_shard_iterator)
    assert [record.data for record in page.records] == [b"2"]
    assert (page.next_shard_iterator, page.child_shards, page.millis_behind_latest) == (None, children, 0)
    for start in ("AFTER_SEQUENCE_NUMBER", "AT_SEQUENCE_NUMBER"):
        behind = stream.get_shard_iterator("s", FIRST_SHARD, start, starting_sequence_number="77")
        assert stream.get_records(behind).child_shards == children
    latest = stream.get_shard_iterator("s", FIRST_SHARD, "LATEST")
    assert stream.get_records(latest).child_shards == children
    assert [record.data for record in stream.read("s", FIRST_SHARD)] == [b"0", b"1", b"2"]


def test_the_child_of_a_merge_names_both_parents_at_the_end_of_each(stream: StreamStore) -> None:
    stream.split_shard("s", FIRST_SHARD, str(HALF))
    stream.merge_shards("s", SECOND_SHARD, THIRD_SHARD)
    for parent in (SECOND_SHARD, THIRD_SHARD):
        page = stream.get_records(stream.get_shard_iterator("s", parent, "TRIM_HORIZON"))
        assert page.child_shards == (ChildShard("shard-000003", (SECOND_SHARD, THIRD_SHARD), HashKeyRange(0, LAST)),)


@pytest.mark.parametrize("hash_key", ["0", str(LAST + 1), "-1", "", "01"])
def test_a_split_needs_a_hash_key_inside_the_shard(stream: StreamStore, hash_key: str) -> None:
    with pytest.raises(InvalidArgumentException) as refusal:
        stream.split_shard("s", FIRST_SHARD, hash_key)
    assert refusal.value.argument == "new_starting_hash_key"
    assert list(shards_of(stream)) == [FIRST_SHARD]


@pytest.mark.parametrize("hash_key", [1, LAST])
def test_a_split_leaves_each_child_at_least_one_hash_key(stream: StreamStore, hash_key: int) -> None:
    stream.split_shard("s", FIRST_SHARD, str(hash_key))
    assert open_ranges(stream) == [HashKeyRange(0, hash_key - 1), HashKeyRange(hash_key, LAST)]


def test_a_shard_of_one_hash_key_cannot_be_split(stream: StreamStore) -> None:
    stream.split_shard("s", FIRST_SHARD, "1")
    for hash_key in ("0", "1"):
        with pytest.raises(InvalidArgumentException):
            stream.split_shard("s", SECOND_SHARD, hash_key)


def test_shards_that_do_not_touch_in_this_order_are_not_merged(store: StreamStore) -> None:
    store.create_stream("s", shard_count=3)
    for pair in ((FIRST_SHARD, THIRD_SHARD), (SECOND_SHARD, FIRST_SHARD), (FIRST_SHARD, FIRST_SHARD)):
        with pytest.raises(InvalidArgumentException) as refusal:
            store.merge_shards("s", *pair)
        assert refusal.value.argument == "adjacent_shard_to_merge"
    assert len(shards_of(store)) == 3


def test_a_closed_shard_is_neither_split_nor_merged_again(stream: StreamStore) -> None:
    stream.split_shard("s", FIRST_SHARD, str(HALF))
    stream.split_shard("s", SECOND_SHARD, "5")
    stream.split_shard("s", THIRD_SHARD, str(LAST))
    before = shards_of(stream)
    calls: list[tuple[Callable[[], None], str]] = [
        (lambda: stream.split_shard("s", FIRST_SHARD, str(HALF)), "shard_to_split"),
        (lambda: stream.merge_shards("s", SECOND_SHARD, THIRD_SHARD), "shard_to_merge"),
        (lambda: stream.merge_shards("s", "shard-000004", THIRD_SHARD), "adjacent_shard_to_merge"),
    ]
    for call, argument in calls:
        with pytest.raises(InvalidArgumentException) as refusal:
            call()
        assert refusal.value.argument == argument
    assert shards_of(stream) == before


def test_resharding_of_what_does_not_exist_is_refused(stream: StreamStore) -> None:
    for call in (
        lambda: stream.split_shard("t", FIRST_SHARD, "5"),
        lambda: stream.split_shard("s", SECOND_SHARD, "5"),
        lambda: stream.merge_shards("s", FIRST_SHARD, SECOND_SHARD),
        lambda: stream.update_shard_count("t", 2),
    ):
        with pytest.raises(ResourceNotFoundException):
            call()


@pytest.mark.parametrize("target", [0, -1, True, 1.0, "2", None, 4_001])
def test_a_target_that_is_no_number_of_shards_is_refused(stream: StreamStore, target: object) -> None:
    with pytest.raises(InvalidArgumentException) as refusal:
        stream.update_shard_count("s", target)  # type: ignore[arg-type]
    assert refusal.value.argument == "target_shard_count"


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_an_updated_shard_count_leaves_equal_shards_that_descend_from_the_old_ones(
    tmp_path_factory: pytest.TempPathFactory, first: int, second: int, third: int
) -> None:
    path = tmp_path_factory.mktemp("resize") / "store"
    with open_store(path, Clock()) as store:
        store.create_stream("s", shard_count=first)
        for target, before in ((second, first), (third, second)):
            old = shards_of(store)
            assert store.update_shard_count("s", target) == UpdateShardCountResult("s", before, target)
            assert open_ranges(store) == equal_ranges(target)
            kept = {shard_id for shard_id, shard in shards_of(store).items() if is_open(shard)} & old.keys()
            same = [shard for shard in old.values() if is_open(shard) and shard.hash_key_range in equal_ranges(target)]
            assert kept == {shard.shard_id for shard in same}, "a shard that has its range stays open"
        shards = shards_of(store)
        for shard in in_lineage_order(store):
            parents = [shards[name] for name in (shard.parent_shard_id, shard.adjacent_parent_shard_id) if name]
            assert all(parent.shard_id < shard.shard_id and not is_open(parent) for parent in parents)
            assert bool(parents) == (shard.shard_id >= f"shard-{first:06d}")
    assert check_store(path) == []


def test_the_records_of_a_partition_key_keep_their_order_across_resharding(store: StreamStore) -> None:
    store.create_stream("s", shard_count=2)
    keys = [f"user{number}" for number in range(20)]
    for step, target in enumerate((3, 1, 4, 2, 5)):
        for key in keys:
            store.put_record("s", b"%d" % step, key)
        store.update_shard_count("s", target)
    steps: dict[str, list[tuple[bytes, int]]] = {key: [] for key in keys}
    for shard in in_lineage_order(store):
        for record in store.read("s", shard.shard_id):
            steps[record.partition_key].append((record.data, int(record.sequence_number)))
            assert hash_key_of_partition_key(record.partition_key) in shard.hash_key_range
    for found in steps.values():
        assert [data for data, _ in found] == [b"0", b"1", b"2", b"3", b"4"]
        assert [number for _, number in found] == sorted({number for _, number in found})


def test_a_child_accepts_a_number_of_its_parent_for_ordering(stream: StreamStore) -> None:
    stream.split_shard("s", FIRST_SHARD, str(HALF))
    assert stream.put_record("s", b"3", "k", sequence_number_for_ordering="2").sequence_number == "3"
    with pytest.raises(InvalidArgumentException):
        stream.put_record("s", b"4", "k", sequence_number_for_ordering="4")


def test_arrival_times_do_not_go_back_from_parent_to_child(stream: StreamStore, clock: Clock) -> None:
    last_ms = clock()
    clock.advance(-5_000)
    stream.split_shard("s", FIRST_SHARD, str(HALF))
    put = stream.put_record("s", b"3", "k")
    assert next(stream.read("s", put.shard_id)).arrival_ms == last_ms


def test_a_reshard_whose_commit_fails_changes_nothing(stream: StreamStore) -> None:
    before = shards_of(stream)
    for call in (
        lambda: stream.split_shard("s", FIRST_SHARD, str(HALF)),
        lambda: stream.update_shard_count("s", 3),
    ):
        with failing_commit("before"), pytest.raises(Exception, match="nothing was stored"):
            call()
        assert shards_of(stream) == before
    assert stream.put_record("s", b"3", "k")[:2] == (FIRST_SHARD, "3")


def test_more_shards_than_a_store_holds_are_refused_and_nothing_changes(store: StreamStore) -> None:
    store.create_stream("s")
    store.create_stream("t", shard_count=3_998)
    with pytest.raises(LimitExceededException):
        store.split_shard("s", FIRST_SHARD, str(HALF))
    with pytest.raises(LimitExceededException):
        store.update_shard_count("s", 2)
    assert list(shards_of(store)) == [FIRST_SHARD]
    store.delete_stream("t")
    store.update_shard_count("s", 2)


def test_puts_that_race_a_reshard_land_in_the_shard_that_has_their_hash_key(store: StreamStore) -> None:
    store.create_stream("s", shard_count=2)
    done = threading.Event()

    def put_until_done(producer: int) -> list[tuple[str, str, str]]:
        puts: list[tuple[str, str, str]] = []
        while not done.is_set():
            key = f"{producer}-{len(puts)}"
            put = store.put_record("s", key.encode(), key)
            puts.append((put.shard_id, put.sequence_number, key))
        return puts

    producers = [in_thread(partial(put_until_done, number)) for number in range(4)]
    for step in range(30):
        store.update_shard_count("s", 1 + step % 4)
    done.set()
    puts = [put for producer in producers for put in producer.result(WAIT_S)]
    stored: list[tuple[str, str, str]] = []
    for shard in in_lineage_order(store):
        for record in store.read("s", shard.shard_id):
            stored.append((shard.shard_id, record.sequence_number, record.partition_key))
            assert hash_key_of_partition_key(record.partition_key) in shard.hash_key_range
    assert sorted(stored) == sorted(puts)
    for producer in range(4):
        mine = [int(key.partition("-")[2]) for _, _, key in stored if key.startswith(f"{producer}-")]
        assert sorted(mine) == list(range(len(mine)))
