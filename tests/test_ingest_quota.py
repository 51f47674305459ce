"""Laws of ingest into a stream with a write quota: it waits as long as it must, and no shard has a gap or a swap."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import pytest

from streamstore import (
    InvalidArgumentException,
    ProvisionedThroughputExceededException,
    StoreFullError,
    StreamStore,
)
from streamstore.model import NewRecord
from streamstore.shards import PutOutcome, ShardAppender
from tests.commits import WAIT_S, failing_commit, in_thread
from tests.conftest import Clock

Entry = tuple[bytes, str]
KB = 1_024
SHARDS = ["shard-000000", "shard-000001"]


class PlantedError(Exception):
    pass


class Sleeps:
    """What ingest slept, by which the clock has moved on."""

    def __init__(self, clock: Clock) -> None:
        self.ms: list[int] = []
        self.before_each: Callable[[], None] = lambda: None
        self._clock = clock

    def __call__(self, seconds: float) -> None:
        self.before_each()
        self.ms.append(round(seconds * 1_000))
        self._clock.advance(self.ms[-1])


@pytest.fixture
def sleeps(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Sleeps:
    sleeps = Sleeps(clock)
    monkeypatch.setattr(time, "sleep", sleeps)
    return sleeps


@pytest.fixture
def slow(store: StreamStore) -> StreamStore:
    """A store whose stream "s" of two shards lets 128 KB/s into each."""
    store.create_stream("s", shard_count=2, write_quota_kb_per_sec=128)
    return store


def entries(count: int, size: int, *, keys: str = "a") -> list[Entry]:
    """Return entries that each count ``size`` bytes, their keys taken in turn."""
    return [((b"%d" % number).ljust(size - 1), keys[number % len(keys)]) for number in range(count)]


def stored(store: StreamStore, shard_id: str) -> list[bytes]:
    records = list(store.read("s", shard_id))
    assert [record.sequence_number for record in records] == [str(index) for index in range(len(records))]
    return [record.data for record in records]


def assert_stored_without_gaps(store: StreamStore, given: list[Entry]) -> int:
    """Return how many are stored; in each shard they are the first ones of those that belong there."""
    count = 0
    for shard_id, key in zip(SHARDS, "ak", strict=True):
        own = stored(store, shard_id)
        assert own == [data for data, each in given if each == key][: len(own)]
        count += len(own)
    return count


def test_it_waits_for_the_quota_no_longer_than_it_must(slow: StreamStore, sleeps: Sleeps) -> None:
    given = entries(320, 4 * KB)  # ten seconds' worth, of which one passes at once
    assert slow.ingest("s", given).record_count == 320
    assert stored(slow, SHARDS[0]) == [data for data, _ in given]
    assert 9_000 <= sum(sleeps.ms) <= 9_100


def test_a_shard_that_waits_keeps_its_order_and_so_does_one_that_need_not(slow: StreamStore, sleeps: Sleeps) -> None:
    given = entries(400, 4 * KB, keys="aaak")
    assert slow.ingest("s", iter(given)).record_count == 400
    assert assert_stored_without_gaps(slow, given) == 400
    assert sleeps.ms


def test_a_small_record_does_not_overtake_a_large_one_that_waits(
    slow: StreamStore, sleeps: Sleeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = threading.Event()
    put_all = ShardAppender.put_all

    def put_and_tell(appender: ShardAppender, stream_name: str, records: Sequence[NewRecord]) -> list[PutOutcome]:
        outcomes = put_all(appender, stream_name, records)
        if any(isinstance(outcome, ProvisionedThroughputExceededException) for outcome in outcomes):
            refused.set()
        return outcomes

    def produce() -> Iterator[Entry]:
        yield from large
        assert refused.wait(WAIT_S)
        yield from small  # which the quota would let in

    large, small = entries(2, 100 * KB), entries(30, 2)
    monkeypatch.setattr(ShardAppender, "put_all", put_and_tell)
    slow.ingest("s", produce())
    assert stored(slow, SHARDS[0]) == [data for data, _ in (*large, *small)]
    assert sleeps.ms


def test_records_that_waited_carry_the_time_when_they_were_let_in(
    slow: StreamStore, sleeps: Sleeps, clock: Clock
) -> None:
    start_ms = clock()
    slow.ingest("s", entries(3, 128 * KB))
    arrivals = [record.arrival_ms - start_ms for record in slow.read("s", SHARDS[0])]
    assert arrivals == [0, 1_000, 2_000]
    assert sleeps.ms == [1_000, 1_000]


def test_it_counts_each_record_once_however_often_it_waited(slow: StreamStore, sleeps: Sleeps) -> None:
    totals: list[int] = []
    for key in "ak":
        slow.put_records("s", [(bytes(128 * KB - 1), key)])  # so that nothing of the first batch passes
    result = slow.ingest(
        "s", entries(200, 4 * KB, keys="ak"), on_stored=lambda total: totals.append(total.record_count)
    )
    assert (result.record_count, result.data_bytes) == (200, 200 * (4 * KB - 1))
    assert totals[0] > 0
    assert totals == sorted(set(totals))
    assert totals[-1] == 200
    assert sleeps.ms


def test_what_waited_is_sent_again_before_the_producer_is_asked_for_more(slow: StreamStore, sleeps: Sleeps) -> None:
    stored_before = 0

    def look() -> None:
        nonlocal stored_before
        stored_before = len(stored(slow, SHARDS[0]))

    def produce() -> Iterator[Entry]:
        given = iter(entries(3_000, 64 * KB))
        while not sleeps.ms:
            yield next(given)
        deadline = time.monotonic() + WAIT_S
        while len(stored(slow, SHARDS[0])) == stored_before:
            assert time.monotonic() < deadline, "what waited is not stored"

    sleeps.before_each = look
    in_thread(lambda: slow.ingest("s", produce())).result(WAIT_S)


def test_what_is_in_front_of_a_bad_entry_waits_for_the_quota_and_is_stored(slow: StreamStore, sleeps: Sleeps) -> None:
    given = entries(100, 4 * KB)
    with pytest.raises(InvalidArgumentException) as refusal:
        slow.ingest("s", chain(given, [(b"", "")], entries(5, KB)))
    assert refusal.value.argument == "records[100].partition_key"
    assert refusal.value.__notes__ == ["The first 100 records are stored."]
    assert stored(slow, SHARDS[0]) == [data for data, _ in given]
    assert sleeps.ms


@pytest.mark.parametrize("error", [KeyboardInterrupt, PlantedError])
@pytest.mark.parametrize("sleep", [1, 2, 3])
def test_who_breaks_off_the_waiting_for_a_quota_wants_no_more_of_it(
    slow: StreamStore, sleeps: Sleeps, error: type[BaseException], sleep: int
) -> None:
    def break_off() -> None:
        if len(sleeps.ms) == sleep - 1:
            sleeps.before_each = lambda: None
            raise error

    sleeps.before_each = break_off
    given = entries(2_000, 4 * KB, keys="aaak")
    with pytest.raises(error) as caught:
        slow.ingest("s", given)
    count = assert_stored_without_gaps(slow, given)
    assert caught.value.__notes__ == [f"The first {count:,} records are stored."]
    assert len(sleeps.ms) == sleep - 1


def test_a_callback_that_raises_loses_no_record_that_waits(slow: StreamStore, sleeps: Sleeps) -> None:
    def fail(_: object) -> None:
        raise PlantedError

    made: list[Entry] = []

    def produce() -> Iterator[Entry]:
        for each in entries(5_000, 32 * KB, keys="aaak"):
            made.append(each)
            yield each

    with pytest.raises(PlantedError) as caught:
        slow.ingest("s", produce(), on_stored=fail)
    assert assert_stored_without_gaps(slow, made) == len(made) < 5_000
    assert caught.value.__notes__ == [f"The first {len(made):,} records are stored."]
    assert sleeps.ms


def test_a_commit_that_fails_behind_the_waiting_leaves_no_gap(slow: StreamStore, sleeps: Sleeps) -> None:
    given = entries(300, 4 * KB, keys="aaak")
    with failing_commit("before", after=4), pytest.raises(StoreFullError) as caught:
        slow.ingest("s", given)
    count = assert_stored_without_gaps(slow, given)
    assert 0 < count < 300
    assert caught.value.__notes__ == [f"The first {count:,} records are stored."]
    assert sleeps.ms
