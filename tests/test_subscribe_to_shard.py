"""Laws of subscribe_to_shard: one shard as events, a sign of life when there is none, one subscription a consumer."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from streamstore import (
    AsyncStreamStore,
    Feed,
    InvalidArgumentException,
    ResourceInUseException,
    ResourceNotFoundException,
    ShardIteratorType,
    StoreClosedError,
    StreamStore,
    SubscribeToShardEvent,
)
from streamstore import subscribe as subscribe_module
from streamstore import watch as watch_module
from tests.commits import WAIT_S, in_thread
from tests.conftest import Clock, open_store
from tests.test_aio import run
from tests.test_tail import is_waiting, until

SHARD: Final = "shard-000000"
ALIVE_MS: Final = 300_000
HEARTBEAT_MS: Final = 5_000
TAKEOVER_MS: Final = 5_000
Events = Feed[SubscribeToShardEvent]


@pytest.fixture(autouse=True)
def no_looking_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "LOOK_ANYWAY_MS", 3_600_000)


@pytest.fixture
def arn(store: StreamStore) -> str:
    store.create_stream("s", retention_hours=1)
    return store.register_stream_consumer("s", "fan-out").consumer_arn


def put(store: StreamStore, number: int) -> int:
    return int(store.put_record("s", b"%d" % number, "key").sequence_number)


def datas(event: SubscribeToShardEvent) -> list[int]:
    return [int(record.data) for record in event.records]


def commit_nothing(store: StreamStore) -> None:
    """Wake whoever waits, with no record for it: then it looks at the clock."""
    until(lambda: is_waiting(store))
    store.create_stream("other")
    store.delete_stream("other")


def test_an_event_brings_what_is_stored_and_where_it_goes_on(store: StreamStore, arn: str, clock: Clock) -> None:
    for number in range(3):
        put(store, number)
        clock.advance(10)
    event = next(store.subscribe_to_shard(arn, SHARD, "TRIM_HORIZON"))
    assert list(event.records) == list(store.read("s", SHARD))
    assert (event.continuation_sequence_number, event.millis_behind_latest, event.child_shards) == ("2", 0, ())


def test_events_come_as_records_are_stored(store: StreamStore, arn: str) -> None:
    put(store, 0)
    feed = store.subscribe_to_shard(arn, SHARD, "LATEST")
    for number in range(1, 30):
        taking = in_thread(lambda: next(feed))
        if number % 3 == 0:
            until(lambda: is_waiting(store))
        put(store, number)
        event = taking.result(WAIT_S)
        assert (datas(event), event.continuation_sequence_number) == ([number], str(number))


@pytest.mark.parametrize(
    ("kind", "sequence_number", "after_ms", "expected"),
    [
        ("TRIM_HORIZON", None, None, [0, 1, 2, 3, 4]),
        ("AT_SEQUENCE_NUMBER", "2", None, [2, 3, 4]),
        ("AFTER_SEQUENCE_NUMBER", "2", None, [3, 4]),
        ("AT_TIMESTAMP", None, 15, [2, 3, 4]),
        ("LATEST", None, None, [9]),
    ],
)
def test_it_starts_where_an_iterator_would(
    store: StreamStore,
    arn: str,
    clock: Clock,
    kind: ShardIteratorType,
    sequence_number: str | None,
    after_ms: int | None,
    expected: list[int],
) -> None:
    start_ms = clock()
    for number in range(5):
        put(store, number)
        clock.advance(10)
    time_s = None if after_ms is None else (start_ms + after_ms) / 1000
    feed = store.subscribe_to_shard(arn, SHARD, kind, starting_sequence_number=sequence_number, timestamp=time_s)
    if kind == "LATEST":
        put(store, 9)
    assert datas(next(feed)) == expected


def test_the_continuation_goes_on_behind_the_last_record(store: StreamStore, arn: str, clock: Clock) -> None:
    for number in range(2_500):
        if number % 500 == 0:
            store.put_records("s", [(b"%d" % each, "key") for each in range(number, number + 500)])
    taken: list[int] = []
    continuation = "0"
    kind: ShardIteratorType = "AT_SEQUENCE_NUMBER"
    while len(taken) < 2_500:
        event = next(store.subscribe_to_shard(arn, SHARD, kind, starting_sequence_number=continuation))
        taken += datas(event)
        assert event.continuation_sequence_number is not None
        continuation, kind = event.continuation_sequence_number, "AFTER_SEQUENCE_NUMBER"
        clock.advance(TAKEOVER_MS)
    assert taken == list(range(2_500))


@pytest.fixture
def commits_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but a commit ends the waiting: so a feed knows the time by the clock of the store alone."""
    wait = watch_module.CommitBell.wait

    def wait_for_ever(bell: watch_module.CommitBell, timeout_s: float | None) -> bool:
        del timeout_s
        return wait(bell, None)

    monkeypatch.setattr(watch_module.CommitBell, "wait", wait_for_ever)


@pytest.mark.usefixtures("commits_wake")
def test_a_sign_of_life_comes_when_nothing_was_stored_for_5_seconds(store: StreamStore, arn: str, clock: Clock) -> None:
    for number in range(3):
        put(store, number)
    feed = store.subscribe_to_shard(arn, SHARD, "LATEST")
    for _ in range(3):
        taking = in_thread(lambda: next(feed))
        until(lambda: is_waiting(store))
        clock.advance(HEARTBEAT_MS - 1)
        commit_nothing(store)
        until(lambda: is_waiting(store))
        assert not taking.done()
        clock.advance(1)
        commit_nothing(store)
        assert taking.result(WAIT_S) == SubscribeToShardEvent([], "2", 0)


def test_a_sign_of_life_needs_no_commit(store: StreamStore, arn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscribe_module, "SUBSCRIPTION_HEARTBEAT_MS", 20)
    feed = store.subscribe_to_shard(arn, SHARD, "TRIM_HORIZON")
    assert [next(feed) for _ in range(3)] == [SubscribeToShardEvent([], "0", 0)] * 3
    put(store, 7)
    assert datas(next(feed)) == [7]


def test_it_ends_when_it_has_lived_for_300_seconds(store: StreamStore, arn: str, clock: Clock) -> None:
    feed = store.subscribe_to_shard(arn, SHARD, "TRIM_HORIZON")
    clock.advance(ALIVE_MS - 1)
    put(store, 0)
    assert datas(next(feed)) == [0]
    put(store, 1)
    clock.advance(1)
    assert list(feed) == []


def test_it_ends_while_it_waits_when_its_time_is_over(store: StreamStore, arn: str, clock: Clock) -> None:
    feed = store.subscribe_to_shard(arn, SHARD, "TRIM_HORIZON")
    ending = in_thread(lambda: list(feed))
    until(lambda: is_waiting(store))
    clock.advance(ALIVE_MS)
    commit_nothing(store)
    assert all(not event.records for event in ending.result(WAIT_S))


@pytest.mark.parametrize("waits", [False, True])
def test_it_ends_with_a_closed_shard_and_tells_its_children(store: StreamStore, arn: str, waits: bool) -> None:
    put(store, 0)
    feed = store.subscribe_to_shard(arn, SHARD, "TRIM_HORIZON")
    assert datas(next(feed)) == [0]
    taking = in_thread(lambda: list(feed)) if waits else None
    if waits:
        until(lambda: is_waiting(store))
    store.split_shard("s", SHARD, str(2**127))
    (event,) = list(feed) if taking is None else taking.result(WAIT_S)
    iterator = store.get_shard_iterator("s", SHARD, "TRIM_HORIZON")
    children = store.get_records(iterator).child_shards
    assert [child.shard_id for child in children] == ["shard-000001", "shard-000002"]
    assert event == SubscribeToShardEvent([], None, 0, children)


def test_again_within_5_seconds_it_is_refused_and_the_first_goes_on(store: StreamStore, arn: str, clock: Clock) -> None:
    feed = store.subscribe_to_shard(arn, SHARD, "TRIM_HORIZON")
    clock.advance(TAKEOVER_MS - 1)
    with pytest.raises(ResourceInUseException):
        store.subscribe_to_shard(arn, SHARD, "TRIM_HORIZON")
    put(store, 0)
    assert datas(next(feed)) == [0]


def test_again_after_5_seconds_it_takes_over_and_the_first_ends(store: StreamStore, arn: str, clock: Clock) -> None:
    first = store.subscribe_to_shard(arn, SHARD, "TRIM_HORIZON")
    ending = in_thread(lambda: list(first))
    until(lambda: is_waiting(store))
    clock.advance(TAKEOVER_MS)
    second = store.subscribe_to_shard(arn, SHARD, "TRIM_HORIZON")
    assert all(not event.records for event in ending.result(WAIT_S))
    put(store, 0)
    assert list(first) == []
    assert datas(next(second)) == [0]


def test_consumers_and_shards_do_not_disturb_each_other(store: StreamStore, arn: str) -> None:
    other_arn = store.register_stream_consumer("s", "other").consumer_arn
    store.split_shard("s", SHARD, str(2**127))
    feeds: list[Events] = [
        store.subscribe_to_shard(each, shard_id, "TRIM_HORIZON")
        for each in (arn, other_arn)
        for shard_id in ("shard-000001", "shard-000002")
    ]
    shard_id = store.put_record("s", b"5", "key").shard_id
    fed = feeds[0::2] if shard_id == "shard-000001" else feeds[1::2]
    assert [datas(next(feed)) for feed in fed] == [[5], [5]]


Refusal = Callable[[StreamStore, str], object]
REFUSALS: Final[list[tuple[Refusal, type[Exception]]]] = [
    (lambda store, _: store.subscribe_to_shard("s", SHARD, "LATEST"), InvalidArgumentException),
    (lambda store, _: store.subscribe_to_shard("s/consumer/none:1", SHARD, "LATEST"), ResourceNotFoundException),
    (lambda store, arn: store.subscribe_to_shard(arn + "1", SHARD, "LATEST"), ResourceNotFoundException),
    (lambda store, arn: store.subscribe_to_shard("t" + arn[1:], SHARD, "LATEST"), ResourceNotFoundException),
    (lambda store, arn: store.subscribe_to_shard(arn, "shard-000009", "LATEST"), ResourceNotFoundException),
    (lambda store, arn: store.subscribe_to_shard(arn, SHARD, "AT_TIMESTAMP"), InvalidArgumentException),
    (lambda store, arn: store.subscribe_to_shard(arn, SHARD, "LATEST", timestamp=1), InvalidArgumentException),
]


@pytest.mark.parametrize(("call", "error"), REFUSALS)
def test_what_cannot_be_subscribed_to_is_refused_at_once_and_takes_nobodys_place(
    store: StreamStore, arn: str, call: Refusal, error: type[Exception]
) -> None:
    with pytest.raises(error):
        call(store, arn)
    store.subscribe_to_shard(arn, SHARD, "LATEST")


def test_it_ends_with_its_consumer_its_stream_and_its_store(store: StreamStore, arn: str, clock: Clock) -> None:
    feed = store.subscribe_to_shard(arn, SHARD, "LATEST")
    ending = in_thread(lambda: next(feed))
    until(lambda: is_waiting(store))
    store.deregister_stream_consumer(consumer_arn=arn)
    with pytest.raises(ResourceNotFoundException):
        ending.result(WAIT_S)
    clock.advance(60_000)
    again = store.register_stream_consumer("s", "fan-out").consumer_arn
    assert again != arn
    feed = store.subscribe_to_shard(again, SHARD, "LATEST")
    store.delete_stream("s", enforce_consumer_deletion=True)
    with pytest.raises(ResourceNotFoundException):
        next(feed)
    store.close()
    with pytest.raises(StoreClosedError):
        next(feed)


def test_awaited_it_is_the_same(store_path: Path, clock: Clock) -> None:
    with open_store(store_path, clock) as store:
        store.create_stream("s")
        arn = store.register_stream_consumer("s", "fan-out").consumer_arn

    async def scenario() -> None:
        async with AsyncStreamStore(store_path, sync="off", clock=clock) as store:
            feed = store.subscribe_to_shard(arn, SHARD, "LATEST")
            for number in range(10):
                taking = asyncio.create_task(anext(feed))
                await asyncio.sleep(0)
                await store.put_record("s", b"%d" % number, "key")
                assert datas(await taking) == [number]
            clock.advance(TAKEOVER_MS)
            taking = asyncio.create_task(anext(feed))
            while not is_waiting(store.opened):
                await asyncio.sleep(0.001)
            store.subscribe_to_shard(arn, SHARD, "LATEST")
            with pytest.raises(StopAsyncIteration):
                await asyncio.wait_for(taking, WAIT_S)

    run(scenario())
