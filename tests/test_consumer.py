"""Durable consumers: each goes on behind its last checkpoint, whatever crashed, and nobody takes another's place."""

import asyncio
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamstore import (
    AsyncStreamStore,
    ConsumerLag,
    InvalidArgumentException,
    ProvisionedThroughputExceededException,
    ResourceInUseException,
    ResourceNotFoundException,
    StoreFullError,
    StreamConsumer,
    StreamStore,
)
from streamstore.check import check_store
from tests.commits import WAIT_S, failing_commit, in_thread, last_commit
from tests.conftest import Clock, open_store
from tests.damage import behind_the_back_of

HOUR_MS = 3_600_000
LAST = 2**128 - 1
SHARD = "shard-000000"


@pytest.fixture
def stream(store: StreamStore) -> StreamStore:
    """A store with the stream "s" of one shard and the records "0" to "9" in it."""
    store.create_stream("s", retention_hours=1)
    put(store, range(10))
    return store


def put(store: StreamStore, numbers: range, stream_name: str = "s") -> None:
    store.put_records(stream_name, [(b"%d" % number, f"k{number}") for number in numbers])


def opened(store: StreamStore, name: str = "c") -> StreamConsumer:
    """Open a consumer whose iteration ends when there is nothing more to read."""
    return store.consumer("s", name, idle_timeout_seconds=0)


def numbers(records: Iterator[object]) -> list[int]:
    return [int(getattr(record, "data")) for record in records]  # noqa: B009 # of any kind of record


def taken(consumer: StreamConsumer, count: int) -> list[int]:
    return numbers(islice(consumer, count))


def stored(store: StreamStore, stream_name: str) -> list[int]:
    shards = store.list_shards(stream_name).shards
    return sorted(number for shard in shards for number in numbers(store.read(stream_name, shard.shard_id)))


def test_a_consumer_goes_on_behind_its_last_checkpoint(stream: StreamStore) -> None:
    first = opened(stream)
    assert taken(first, 4) == [0, 1, 2, 3]
    first.checkpoint()
    assert taken(first, 3) == [4, 5, 6]
    assert numbers(opened(stream)) == [4, 5, 6, 7, 8, 9]


def test_a_checkpoint_survives_reopening_the_store(store_path: Path, clock: Clock) -> None:
    with open_store(store_path, clock) as store:
        store.create_stream("s")
        put(store, range(10))
        consumer = opened(store)
        assert len(taken(consumer, 7)) == 7
        consumer.checkpoint()
    with open_store(store_path, clock) as store:
        assert numbers(opened(store)) == [7, 8, 9]
    assert check_store(store_path) == []


def test_consumers_do_not_touch_each_other(stream: StreamStore) -> None:
    consumers = [opened(stream, f"c{number}") for number in range(50)]
    for number, consumer in enumerate(consumers[:10]):
        taken(consumer, number)
        consumer.checkpoint()
    for number in range(10):
        assert numbers(opened(stream, f"c{number}")) == list(range(number, 10))
    assert numbers(opened(stream, "c49")) == list(range(10))


@pytest.mark.parametrize(
    ("start", "expected"), [("TRIM_HORIZON", [0, 1, 2]), ("LATEST", [2]), ("AT_TIMESTAMP", [1, 2])]
)
def test_a_new_consumer_starts_where_it_asks_and_keeps_that(
    store: StreamStore, clock: Clock, start: str, expected: list[int]
) -> None:
    store.create_stream("s")
    put(store, range(1))
    clock.advance(1_000)
    timestamp = clock() / 1000 if start == "AT_TIMESTAMP" else None
    put(store, range(1, 2))
    store.consumer("s", "c", starting_position=start, timestamp=timestamp)  # type: ignore[arg-type]
    put(store, range(2, 3))
    # It crashed before its first checkpoint; what the next opening asks for comes too late.
    again = store.consumer("s", "c", starting_position="LATEST", idle_timeout_seconds=0)
    assert numbers(again) == expected


def test_a_registered_consumer_starts_where_its_first_opening_asks(stream: StreamStore) -> None:
    stream.register_stream_consumer("s", "c")
    assert numbers(stream.consumer("s", "c", starting_position="LATEST", idle_timeout_seconds=0)) == []
    put(stream, range(10, 11))
    assert numbers(opened(stream)) == [10]


def test_a_checkpoint_counts_what_was_handed_out_not_what_was_read_ahead(stream: StreamStore) -> None:
    consumer = opened(stream)
    consumer.checkpoint()
    assert numbers(opened(stream)) == list(range(10))
    consumer = opened(stream)
    assert next(consumer).sequence_number == "0"
    consumer.checkpoint()
    assert numbers(opened(stream)) == list(range(1, 10))


def test_a_checkpoint_that_has_nothing_new_commits_nothing(stream: StreamStore) -> None:
    consumer = opened(stream)
    taken(consumer, 3)
    consumer.checkpoint()
    before = last_commit(stream)
    consumer.checkpoint()
    assert last_commit(stream) == before


def test_the_last_who_opened_a_consumer_owns_it(stream: StreamStore) -> None:
    first, second = opened(stream), opened(stream)
    taken(first, 5)
    taken(second, 2)
    for _ in range(2):
        with pytest.raises(ResourceInUseException, match="opened by somebody else"):
            first.checkpoint()
        with pytest.raises(ResourceInUseException):
            first.checkpoint_with_records("s", [(b"99", "k")])
    second.checkpoint()
    assert numbers(opened(stream)) == list(range(2, 10)), "neither the place nor the record of the first was stored"


def test_a_checkpoint_of_a_deleted_consumer_or_stream_is_refused(stream: StreamStore) -> None:
    deregistered, orphan = opened(stream, "a"), opened(stream, "b")
    taken(deregistered, 1)
    taken(orphan, 1)
    stream.deregister_stream_consumer("s", "a")
    with pytest.raises(ResourceNotFoundException):
        deregistered.checkpoint()
    stream.delete_stream("s", enforce_consumer_deletion=True)
    with pytest.raises(ResourceNotFoundException):
        orphan.checkpoint()
    stream.create_stream("s")
    opened(stream, "b")
    with pytest.raises(ResourceNotFoundException):
        orphan.checkpoint()
    stream.delete_stream("s", enforce_consumer_deletion=True)


def test_a_consumer_keeps_its_stream_from_being_deleted(stream: StreamStore) -> None:
    opened(stream)
    with pytest.raises(ResourceInUseException):
        stream.delete_stream("s")


def test_a_deregistered_consumer_starts_anew(stream: StreamStore) -> None:
    consumer = opened(stream)
    taken(consumer, 5)
    consumer.checkpoint()
    stream.deregister_stream_consumer("s", "c")
    assert numbers(opened(stream)) == list(range(10))


@pytest.mark.parametrize("name", ["", "a b", "a\0", "é", "x" * 129, None, 5])
def test_a_name_that_is_none_is_refused_and_nothing_changes(stream: StreamStore, name: object) -> None:
    before = last_commit(stream)
    for call in (
        lambda: stream.consumer("s", name),  # type: ignore[arg-type]
        lambda: stream.describe_consumer_lag("s", name),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidArgumentException) as refusal:
            call()
        assert refusal.value.argument == "consumer_name"
    assert last_commit(stream) == before


def test_a_consumer_follows_every_resharding(stream: StreamStore) -> None:
    handed: list[int] = []
    for step, count in enumerate((3, 2, 5, 1)):
        consumer = opened(stream)
        handed += taken(consumer, 7)
        consumer.checkpoint()
        stream.update_shard_count("s", count)
        put(stream, range(10 + 5 * step, 15 + 5 * step))
    handed += numbers(opened(stream))
    assert sorted(handed) == list(range(30))


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.sampled_from([None, 1, 2, 3])), max_size=12))
def test_at_least_once_from_the_last_checkpoint_on_however_often_it_dies(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, bool, int | None]]
) -> None:
    path = tmp_path_factory.mktemp("consumer") / "store"
    with open_store(path, Clock()) as store:
        store.create_stream("s", shard_count=2)
        done: set[int] = set()
        for step, (count, checkpoints, shard_count) in enumerate(steps):
            put(store, range(5 * step, 5 * step + 5))
            if shard_count is not None:
                store.update_shard_count("s", shard_count)
            consumer = opened(store)
            handed = taken(consumer, count)
            assert not done & set(handed), "what is behind a checkpoint never comes again"
            if checkpoints:
                consumer.checkpoint()
                done |= set(handed)
        assert sorted(done | set(numbers(opened(store)))) == list(range(5 * len(steps)))
    assert check_store(path) == []


def test_positions_of_expired_shards_are_forgotten(stream: StreamStore, store_path: Path, clock: Clock) -> None:
    consumer = opened(stream)
    taken(consumer, 10)
    consumer.checkpoint()
    stream.split_shard("s", SHARD, str(LAST // 2))
    clock.advance(HOUR_MS + 1)
    stream.trim()
    put(stream, range(10, 20))
    consumer = opened(stream)
    assert sorted(numbers(consumer)) == list(range(10, 20))
    consumer.checkpoint()
    assert numbers(opened(stream)) == []
    stream.close()
    with behind_the_back_of(store_path) as raw:
        assert [key[-1] for key, _ in raw.items(b"positions")] == [1, 2], "of the children only"


def test_the_lag_counts_what_is_stored_behind_the_checkpoint_and_not_expired(stream: StreamStore, clock: Clock) -> None:
    consumer = opened(stream)
    assert stream.describe_consumer_lag("s", "c") == ConsumerLag(10, 1, {SHARD: 10})
    taken(consumer, 4)
    assert stream.describe_consumer_lag("s", "c").record_count == 10
    consumer.checkpoint()
    clock.advance(2_000)
    put(stream, range(10, 11))
    assert stream.describe_consumer_lag("s", "c") == ConsumerLag(7, 2_000, {SHARD: 7})
    clock.advance(HOUR_MS - 1_000)
    assert stream.describe_consumer_lag("s", "c") == ConsumerLag(1, 1, {SHARD: 1})
    numbers(consumer)
    consumer.checkpoint()
    assert stream.describe_consumer_lag("s", "c") == ConsumerLag(0, 0, {SHARD: 0})
    with pytest.raises(ResourceNotFoundException):
        stream.describe_consumer_lag("s", "unknown")


def doubled(consumer: StreamConsumer, count: int) -> None:
    """Turn so many records into their doubles, each together with its checkpoint."""
    for record in islice(consumer, count):
        consumer.checkpoint_with_records("doubles", [(b"%d" % (2 * int(record.data)), record.partition_key)])


def test_records_stored_with_their_checkpoint_are_stored_exactly_once(stream: StreamStore) -> None:
    stream.create_stream("doubles", shard_count=2)
    for count in (3, 0, 2, 4):
        consumer = opened(stream)
        doubled(consumer, count)
        next(consumer, None)  # handed out, and then it dies
    doubled(opened(stream), 100)
    assert stored(stream, "doubles") == [2 * number for number in range(10)]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_checkpoint_with_records_is_stored_whole_or_not_at_all(stream: StreamStore, moment: str) -> None:
    stream.create_stream("doubles")
    consumer = opened(stream)
    with failing_commit(moment, times=1):  # type: ignore[arg-type]
        try:
            doubled(consumer, 1)
        except StoreFullError:
            assert moment == "before"
    doubled(opened(stream), 100)
    assert stored(stream, "doubles") == [2 * number for number in range(10)]


def test_records_that_a_quota_refuses_leave_the_checkpoint_where_it_was(stream: StreamStore, clock: Clock) -> None:
    stream.create_stream("doubles", shard_count=2, write_quota_kb_per_sec=128)
    consumer = opened(stream)
    taken(consumer, 4)
    large = [(bytes(60_000), "k", "0"), (bytes(60_000), "k", str(LAST)), (bytes(100_000), "k", str(LAST))]
    with pytest.raises(ProvisionedThroughputExceededException):
        consumer.checkpoint_with_records("doubles", large)
    assert [*stream.read("doubles", SHARD)] == []
    assert numbers(opened(stream)) == list(range(10))
    clock.advance(1)
    consumer = opened(stream)
    taken(consumer, 4)
    result = consumer.checkpoint_with_records("doubles", large[:2])  # the refused call has cost no quota
    assert result.failed_record_count == 0
    assert numbers(opened(stream)) == [4, 5, 6, 7, 8, 9]


def test_records_that_are_refused_leave_the_checkpoint_where_it_was(stream: StreamStore) -> None:
    consumer = opened(stream)
    taken(consumer, 4)
    calls: list[tuple[str, list[tuple[bytes, str]]]] = [("unknown", [(b"", "k")]), ("s", [(b"", "")]), ("s", [])]
    for stream_name, records in calls:
        with pytest.raises((ResourceNotFoundException, InvalidArgumentException)):
            consumer.checkpoint_with_records(stream_name, records)
    assert numbers(opened(stream)) == list(range(10))


def test_a_waiting_consumer_wakes_for_the_next_record(stream: StreamStore) -> None:
    with stream.consumer("s", "c", starting_position="LATEST") as consumer:
        waiting = in_thread(lambda: next(consumer))
        put(stream, range(10, 11))
        assert waiting.result(WAIT_S).data == b"10"


def test_a_store_open_for_reading_has_no_consumer_to_give(store_path: Path, clock: Clock) -> None:
    with open_store(store_path, clock) as store:
        store.create_stream("s")
        put(store, range(3))
        opened(store)
    with open_store(store_path, clock, read_only=True) as store:
        with pytest.raises(InvalidArgumentException) as refusal:
            store.consumer("s", "c")
        assert refusal.value.argument == "read_only"
        assert store.describe_consumer_lag("s", "c").record_count == 3


def test_a_consumer_of_an_event_loop_makes_the_same_checkpoints(store_path: Path, clock: Clock) -> None:
    async def consume() -> None:
        async with AsyncStreamStore(store_path, sync="off", clock=clock) as store:
            await store.create_stream("s")
            await store.create_stream("doubles")
            await store.put_records("s", [(b"%d" % number, "k") for number in range(10)])
            consumer = await store.consumer("s", "c", idle_timeout_seconds=0)
            async for record in consumer:
                if record.data == b"3":
                    await consumer.checkpoint()
                if record.data == b"6":
                    result = await consumer.checkpoint_with_records("doubles", [(b"12", "k")])
                    assert result.records[0].sequence_number == "0"
                    break
            again = await store.consumer("s", "c", idle_timeout_seconds=0)
            assert [int(record.data) async for record in again] == [7, 8, 9]
            with pytest.raises(ResourceInUseException):
                await consumer.checkpoint_with_records("doubles", [(b"12", "k")])
            assert (await store.describe_consumer_lag("s", "c")).record_count == 3

    asyncio.run(asyncio.wait_for(consume(), WAIT_S))
    assert check_store(store_path) == []


def test_each_refusal_of_a_checkpoint_can_be_repeated(stream: StreamStore) -> None:
    """A refused checkpoint leaves the consumer as it was: the next one that is allowed stores all of it."""
    consumer = opened(stream)
    taken(consumer, 4)
    call: Callable[[], None] = consumer.checkpoint
    with failing_commit("before"), pytest.raises(StoreFullError):
        call()
    call()
    assert numbers(opened(stream)) == [4, 5, 6, 7, 8, 9]
