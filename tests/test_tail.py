"""Laws of tail: what is stored comes out, soon, once, and in order; whoever waits can be stopped and costs nothing."""

import _thread
import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, cast

import pytest

from streamstore import (
    AsyncFeed,
    AsyncStreamStore,
    CorruptRecordError,
    InvalidArgumentException,
    ResourceNotFoundException,
    StorageError,
    StoreClosedError,
    StreamStore,
)
from streamstore import watch as watch_module
from streamstore.check import check_store
from streamstore.databases import records_database
from streamstore.disk_format import record_key
from streamstore.feed import Feed
from streamstore.model import StreamNumber, StreamRecord, TailStart
from streamstore.watch import CommitWatch
from tests.children import code, command, next_line, started, tell
from tests.commits import WAIT_S, in_thread
from tests.conftest import Clock, open_store
from tests.damage import behind_the_back_of
from tests.interrupts import interrupted_everywhere
from tests.test_aio import run
from tests.test_signals import break_in_everywhere

HOUR_MS: Final = 3_600_000
NEVER_MS: Final = HOUR_MS


@pytest.fixture(autouse=True)
def no_looking_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a lost wake-up is one."""
    monkeypatch.setattr(watch_module, "LOOK_ANYWAY_MS", NEVER_MS)


@pytest.fixture
def stream(store: StreamStore) -> StreamStore:
    store.create_stream("s", shard_count=3, retention_hours=1)
    return store


@pytest.fixture
def async_path(store_path: Path, clock: Clock) -> Iterator[Path]:
    with open_store(store_path, clock) as store:
        store.create_stream("s", shard_count=3, retention_hours=1)
    yield store_path
    assert check_store(store_path) == []


def opened(path: Path, clock: Clock) -> AsyncStreamStore:
    return AsyncStreamStore(path, sync="off", clock=clock)


def put(store: StreamStore, number: int) -> int:
    store.put_record("s", b"%d" % number, f"key {number}")
    return number


def numbers(records: list[StreamRecord]) -> list[int]:
    return sorted(int(record.data) for record in records)


def all_of(store: StreamStore, start: TailStart = "TRIM_HORIZON", *, timestamp: object = None) -> list[StreamRecord]:
    return list(store.tail("s", starting_position=start, timestamp=timestamp, idle_timeout_seconds=0))


def waiters(store: StreamStore) -> int:
    watch = cast(CommitWatch, vars(store)["_watch"])
    return len(cast(dict[object, int], vars(watch)["_waiters"]))


def is_waiting(store: StreamStore) -> bool:
    return waiters(store) > 0


def until(is_so: Callable[[], bool]) -> None:
    for _ in range(WAIT_S * 1_000):
        if is_so():
            return
        time.sleep(0.001)
    raise AssertionError("it never was")


# Where it starts and how it ends


def test_it_hands_out_all_that_is_stored_as_it_was_put(stream: StreamStore, clock: Clock) -> None:
    result = stream.put_record("s", b"data", "key")
    (record,) = all_of(stream)
    assert record == (result.shard_id, result.sequence_number, "key", b"data", clock())
    (stored,) = stream.read("s", result.shard_id)
    assert record[1:] == stored
    assert record.approximate_arrival_timestamp == stored.approximate_arrival_timestamp
    assert record.encryption_type == stored.encryption_type == "NONE"


def test_the_latest_is_behind_what_is_stored_when_it_is_asked_for(stream: StreamStore) -> None:
    put(stream, 0)
    feed = stream.tail("s", idle_timeout_seconds=0)
    expected = [put(stream, number) for number in range(1, 10)]
    assert numbers(list(feed)) == expected


def test_a_time_is_where_it_starts_in_every_shard(stream: StreamStore, clock: Clock) -> None:
    for number in range(10):
        put(stream, number)
    clock.advance(1_000)
    expected = [put(stream, number) for number in range(10, 20)]
    assert numbers(all_of(stream, "AT_TIMESTAMP", timestamp=clock() / 1000)) == expected


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("stream_name", "not a name"),
        ("stream_name", 5),
        ("starting_position", "AT_SEQUENCE_NUMBER"),
        ("starting_position", None),
        ("timestamp", 0),
        ("idle_timeout_seconds", -1),
        ("idle_timeout_seconds", True),
        ("idle_timeout_seconds", float("nan")),
        ("idle_timeout_seconds", float("inf")),
    ],
)
def test_a_bad_argument_is_named_before_anything_is_waited_for(
    stream: StreamStore, argument: str, value: object
) -> None:
    arguments: dict[str, object] = {"stream_name": "s", argument: value}
    with pytest.raises(InvalidArgumentException) as refusal:
        stream.tail(**arguments)  # type: ignore[arg-type]
    assert refusal.value.argument == argument


def test_a_stream_that_does_not_exist_is_refused_at_once(store: StreamStore) -> None:
    with pytest.raises(ResourceNotFoundException):
        store.tail("s")


def test_it_ends_when_no_record_came_for_so_long(stream: StreamStore) -> None:
    feed = stream.tail("s", idle_timeout_seconds=0.05)
    put(stream, 0)
    assert numbers(list(feed)) == [0]
    put(stream, 1)
    assert list(feed) == []  # what has ended has ended


def test_commits_that_bring_no_record_do_not_keep_it_from_ending(stream: StreamStore, clock: Clock) -> None:
    """By the clock of the store, so that a busy store is as good as an idle one."""
    feed = stream.tail("s", idle_timeout_seconds=1_000)
    ending = in_thread(lambda: list(feed))
    for number in range(20):
        until(lambda: ending.done() or is_waiting(stream))
        assert not ending.done(), number
        clock.advance(30_000)  # which leaves more to wait than any machine takes for this
        stream.create_stream(f"t{number}")
    clock.advance(400_000)
    stream.create_stream("last")
    assert ending.result(WAIT_S) == []


def test_records_that_expire_before_their_turn_are_passed_over(stream: StreamStore, clock: Clock) -> None:
    feed = stream.tail("s", starting_position="TRIM_HORIZON", idle_timeout_seconds=0)
    for number in range(10):
        put(stream, number)
    clock.advance(HOUR_MS + 1)
    stream.trim()
    expected = [put(stream, number) for number in range(10, 20)]
    assert numbers(list(feed)) == expected


def test_a_reader_of_a_read_only_store_is_woken_too(tmp_path: Path) -> None:
    reader = """
import sys
from streamstore import StreamStore
with StreamStore(sys.argv[1], read_only=True) as store:
    feed = store.tail("s")
    print("ready", flush=True)
    for record in feed:
        print(record.data.decode(), flush=True)
"""
    with StreamStore(tmp_path / "store") as store:
        store.create_stream("s")
        with started(code(reader, tmp_path / "store")) as other:
            assert next_line(other) == "ready"
            for number in range(5):
                put(store, number)
                assert next_line(other) == str(number)


# Waiting


def test_a_record_put_while_it_waits_comes_out(stream: StreamStore) -> None:
    feed = stream.tail("s")
    for number in range(100):
        taking = in_thread(lambda: next(feed))
        if number % 10 == 0:
            until(lambda: is_waiting(stream))
        put(stream, number)
        assert int(taking.result(WAIT_S).data) == number


def test_a_record_of_another_process_comes_out(store: StreamStore, store_path: Path) -> None:
    store.create_stream("s")
    feed = store.tail("s")
    with started(command("echo_puts", store_path)) as other:
        assert next_line(other) == "open"
        for number in range(20):
            taking = in_thread(lambda: next(feed))
            tell(other, str(number))
            assert int(taking.result(WAIT_S).data) == number


def test_many_tails_at_once_each_get_everything_through_resharding(stream: StreamStore) -> None:
    feeds = [stream.tail("s") for _ in range(20)]
    takings = [in_thread(lambda feed=feed: [next(feed) for _ in range(200)]) for feed in feeds]  # type: ignore[misc]
    for number in range(200):
        put(stream, number)
        if number % 40 == 20:
            stream.update_shard_count("s", 1 + number // 40)
    for taking in takings:
        assert numbers(taking.result(WAIT_S)) == list(range(200))


def test_children_that_come_while_it_waits_are_followed(stream: StreamStore) -> None:
    feed = stream.tail("s")
    taking = in_thread(lambda: [next(feed) for _ in range(30)])
    for round_ in range(3):
        until(lambda: is_waiting(stream))
        stream.update_shard_count("s", 2 + 3 * round_)
        for number in range(10 * round_, 10 * round_ + 10):
            put(stream, number)
    assert numbers(taking.result(WAIT_S)) == list(range(30))


def test_waiting_takes_no_processor_time(stream: StreamStore) -> None:
    feeds = [stream.tail("s") for _ in range(10)]
    ends = [in_thread(lambda feed=feed: list(feed)) for feed in feeds]  # type: ignore[misc]
    until(lambda: waiters(stream) == 10)
    before_s = time.process_time()
    time.sleep(1)
    assert time.process_time() - before_s < 0.02
    for feed, end in zip(feeds, ends, strict=True):
        feed.close()
        assert end.result(WAIT_S) == []


# Stopping


def test_closing_it_from_another_thread_ends_the_waiting(stream: StreamStore) -> None:
    with stream.tail("s") as feed:
        ending = in_thread(lambda: list(feed))
        until(lambda: is_waiting(stream))
    assert ending.result(WAIT_S) == []
    put(stream, 0)
    assert list(feed) == []
    assert not is_waiting(stream)


def test_closing_the_store_ends_the_waiting_with_its_error(stream: StreamStore) -> None:
    feed = stream.tail("s")
    ending = in_thread(lambda: next(feed))
    until(lambda: is_waiting(stream))
    stream.close()
    with pytest.raises(StoreClosedError):
        ending.result(WAIT_S)
    with pytest.raises(StoreClosedError):
        next(feed)


def test_deleting_the_stream_ends_the_waiting_with_its_error(stream: StreamStore) -> None:
    feed = stream.tail("s")
    ending = in_thread(lambda: next(feed))
    until(lambda: is_waiting(stream))
    stream.delete_stream("s")
    stream.create_stream("s")
    with pytest.raises(ResourceNotFoundException):
        ending.result(WAIT_S)


def test_a_feed_that_gets_no_thread_to_wait_with_says_so_and_waits_when_there_is_one(
    stream: StreamStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    feed = stream.tail("s")
    monkeypatch.setattr("_thread.start_new_thread", start)
    with pytest.raises(StorageError, match="Cannot start a thread"):
        next(feed)
    monkeypatch.undo()
    waiting = in_thread(lambda: next(feed))
    until(lambda: is_waiting(stream))
    put(stream, 1)
    assert waiting.result(WAIT_S).data == b"1"


def until_blocked(stream: StreamStore) -> None:
    """Wait until another thread is blocked in a feed.

    It says so just before. A signal in between is one that Python sees only when the thread looks up.
    """
    until(lambda: is_waiting(stream))
    time.sleep(0.1)


def test_a_signal_ends_the_waiting_of_the_main_thread_and_loses_nothing(stream: StreamStore) -> None:
    feed = stream.tail("s")

    def interrupt() -> None:
        until_blocked(stream)
        os.kill(os.getpid(), signal.SIGINT)

    for number in range(3):
        interrupting = in_thread(interrupt)
        with pytest.raises(KeyboardInterrupt):
            next(feed)
        interrupting.result(WAIT_S)
        assert not is_waiting(stream)
        put(stream, number)
        assert int(next(feed).data) == number


def test_a_signal_that_wakes_nobody_ends_the_waiting_of_the_main_thread_too(stream: StreamStore) -> None:
    """So is one that comes while the thread falls asleep: Python sees it when the thread wakes."""
    feed = stream.tail("s")

    def interrupt() -> None:
        until_blocked(stream)
        _thread.interrupt_main()
        try:
            until(lambda: not is_waiting(stream))
        except AssertionError:
            feed.close()  # which wakes it
            raise

    interrupting = in_thread(interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(feed)
    interrupting.result(WAIT_S)
    put(stream, 1)
    assert next(feed).data == b"1"


def test_the_main_thread_waits_as_long_as_it_may(stream: StreamStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "SIGNALS_S", 0.01)
    begun_s = time.monotonic()
    assert list(stream.tail("s", idle_timeout_seconds=0.105)) == []
    assert time.monotonic() - begun_s >= 0.105

    def put_meanwhile() -> None:
        until_blocked(stream)
        put(stream, 1)

    putting = in_thread(put_meanwhile)
    assert next(stream.tail("s")).data == b"1"
    putting.result(WAIT_S)


def test_a_signal_handler_may_close_it_while_its_thread_waits(stream: StreamStore) -> None:
    feed = stream.tail("s")

    def close(*_: object) -> None:
        feed.close()

    previous = signal.signal(signal.SIGUSR1, close)
    try:
        main = threading.main_thread().ident or 0

        def send() -> None:
            until_blocked(stream)
            signal.pthread_kill(main, signal.SIGUSR1)

        sending = in_thread(send)
        assert list(feed) == []
        sending.result(WAIT_S)
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_an_interrupted_program_ends_at_once(tmp_path: Path) -> None:
    program = """
import sys
from streamstore import StreamStore
store = StreamStore(sys.argv[1])
feed = store.tail("s")
print("ready", flush=True)
try:
    for record in feed: print(record.data.decode(), flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    with StreamStore(tmp_path / "store") as store:
        store.create_stream("s")
        with started(code(program, tmp_path / "store")) as other:
            assert next_line(other) == "ready"
            put(store, 7)
            assert next_line(other) == "7"
            other.send_signal(signal.SIGINT)
            assert next_line(other) == "interrupted"
            assert other.wait(WAIT_S) == 0


def test_an_interrupt_anywhere_leaves_a_tail_that_goes_on_in_order(stream: StreamStore) -> None:
    """What is lost at most is the record that was being handed out."""
    for number in range(5):
        put(stream, number)

    def take_all() -> None:
        taken.append(numbers(list(feed)))

    taken: list[list[int]] = []
    errors: list[BaseException] = []  # which hold on to what a call that was ended like this has left taken
    feed = stream.tail("s", starting_position="TRIM_HORIZON", idle_timeout_seconds=0)
    for error in interrupted_everywhere(take_all):
        if error is not None:
            errors.append(error)
            left = numbers(list(feed))
            assert len(left) == len(set(left))
        feed = stream.tail("s", starting_position="TRIM_HORIZON", idle_timeout_seconds=0)
    assert taken[-1] == list(range(5))
    in_thread(stream.close).result(WAIT_S)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["tail", "store", "put"])
def test_a_handler_may_do_anything_anywhere_in_a_tail(tmp_path: Path, what: str) -> None:
    store = StreamStore(tmp_path / "store", sync="off", allow_network_filesystem=True)
    store.create_stream("s")
    put(store, 0)
    feeds: list[Feed[StreamRecord]] = []

    def open_and_take() -> list[StreamRecord]:
        start: TailStart = "LATEST" if what == "put" else "TRIM_HORIZON"  # or each put makes the next call longer
        feeds.append(store.tail("s", starting_position=start, idle_timeout_seconds=0.001))
        with feeds[-1] as feed:
            return list(feed)

    def handle() -> None:
        if what == "store":
            store.close()
        elif what == "put":
            put(store, 1)
        elif feeds:
            feeds[-1].close()

    for broken in break_in_everywhere(open_and_take, handle):
        assert isinstance(broken.error, (StoreClosedError, type(None)))
        assert broken.handler_error is None or what == "put"
        if what == "store":
            store = StreamStore(tmp_path / "store", sync="off", allow_network_filesystem=True)
    store.close()


# Damage


def test_a_damaged_record_is_told_and_passed(store_path: Path, clock: Clock) -> None:
    with open_store(store_path, clock) as store:
        store.create_stream("s")
        for number in range(5):
            put(store, number)
    with behind_the_back_of(store_path) as raw:
        raw.flip_last_bit(records_database(StreamNumber(1), 0), record_key(2))
    with open_store(store_path, clock) as store:
        feed = store.tail("s", starting_position="TRIM_HORIZON", idle_timeout_seconds=0)
        assert [int(next(feed).data) for _ in range(2)] == [0, 1]
        with pytest.raises(CorruptRecordError) as told:
            next(feed)
        assert told.value.sequence_number == "2"
        assert numbers(list(feed)) == [3, 4]


# Awaited


def test_awaited_it_hands_out_what_is_stored_and_what_comes(async_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        async with opened(async_path, clock) as store:
            await store.put_record("s", b"0", "key")
            feed = store.tail("s", starting_position="TRIM_HORIZON")
            assert int((await anext(feed)).data) == 0
            for number in range(1, 50):
                taking = asyncio.create_task(anext(feed))
                await asyncio.sleep(0)
                await store.put_record("s", b"%d" % number, f"key {number}")
                assert int((await taking).data) == number

    run(scenario())


def test_awaited_many_tails_get_everything_and_share_their_wake_ups(async_path: Path, clock: Clock) -> None:
    async def take(store: AsyncStreamStore, count: int) -> list[StreamRecord]:
        feed = store.tail("s")
        ready.append(feed)
        return [await anext(feed) for _ in range(count)]

    ready: list[object] = []

    async def scenario() -> None:
        threads_before = threading.active_count()
        async with opened(async_path, clock) as store:
            tasks = [asyncio.create_task(take(store, 30)) for _ in range(50)]
            while len(ready) < 50:
                await asyncio.sleep(0)
            for number in range(30):
                await store.put_record("s", b"%d" % number, f"key {number}")
                if number == 10:
                    await store.update_shard_count("s", 5)
            for task in tasks:
                assert numbers(await task) == list(range(30))
            assert threading.active_count() - threads_before < 50

    run(scenario())


def test_cancelling_who_awaits_loses_nothing(async_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        async with opened(async_path, clock) as store:
            feed = store.tail("s")
            for number in range(30):
                taking = asyncio.create_task(anext(feed))
                for _ in range(number):
                    await asyncio.sleep(0)
                taking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await taking
                await store.put_record("s", b"%d" % number, f"key {number}")
                assert int((await anext(feed)).data) == number
            assert not is_waiting(store.opened)

    run(scenario())


def test_awaited_it_ends_by_patience_by_closing_and_with_its_store(async_path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        async with opened(async_path, clock) as store:
            assert [record async for record in store.tail("s", idle_timeout_seconds=0.02)] == []
            async with store.tail("s") as feed:
                ending = asyncio.create_task(listed(feed))
                while not is_waiting(store.opened):
                    await asyncio.sleep(0.001)
            assert await ending == []
            ending = asyncio.create_task(listed(store.tail("s")))
            while not is_waiting(store.opened):
                await asyncio.sleep(0.001)
            await store.close()
            with pytest.raises(StoreClosedError):
                await ending

    run(scenario())


def test_a_loop_that_ends_while_its_tails_wait_harms_nobody(async_path: Path, clock: Clock) -> None:
    store = opened(async_path, clock)

    async def wait_in_vain() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.02):
                await anext(store.tail("s"))

    async def put_and_take() -> int:
        feed = store.tail("s")
        await store.put_record("s", b"1", "key")
        return int((await anext(feed)).data)

    run(store.__aenter__())
    run(wait_in_vain())
    assert run(put_and_take()) == 1
    run(store.close())


async def listed(feed: AsyncFeed[StreamRecord]) -> list[StreamRecord]:
    return [record async for record in feed]
