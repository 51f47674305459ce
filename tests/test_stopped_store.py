"""A store that had to stop says why on every call until it is reopened, and one that is closed says that it is closed.

The table holds every public operation: one that is added to ``StreamStore`` and not here fails the first test.
"""

import asyncio
import contextlib
import errno
import inspect
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Final, NamedTuple
from unittest import mock

import pytest

from streamstore import (
    AsyncStreamStore,
    Feed,
    OutcomeUnknownError,
    StorageError,
    StoreClosedError,
    StreamConsumer,
    StreamRecord,
    StreamStore,
)
from streamstore.check import check_store
from streamstore.engine import Engine
from streamstore.folder import FolderLock
from tests.commits import WAIT_S, failing_commit, in_thread
from tests.conftest import Clock, open_store

SHARD: Final = "shard-000000"
PLANTED: Final = "planted by the test"


class Opened(NamedTuple):
    """A store with what was asked of it before it stopped."""

    store: StreamStore
    iterator: str
    consumer_arn: str
    tail: Feed[StreamRecord]
    consumer: StreamConsumer
    folder: Path


CALLS: dict[str, Callable[[Opened], object]] = {
    "add_tags_to_stream": lambda each: each.store.add_tags_to_stream("s", {"a": "b"}),
    "backup": lambda each: each.store.backup(each.folder / "copy"),
    "consumer": lambda each: each.store.consumer("s", "c"),
    "create_stream": lambda each: each.store.create_stream("t"),
    "decrease_stream_retention_period": lambda each: each.store.decrease_stream_retention_period("s", 2),
    "delete_stream": lambda each: each.store.delete_stream("s", enforce_consumer_deletion=True),
    "deregister_stream_consumer": lambda each: each.store.deregister_stream_consumer("s", "c"),
    "describe_consumer_lag": lambda each: each.store.describe_consumer_lag("s", "c"),
    "describe_consumer_lags": lambda each: each.store.describe_consumer_lags("s"),
    "describe_limits": lambda each: each.store.describe_limits(),
    "describe_stream": lambda each: each.store.describe_stream("s"),
    "describe_stream_consumer": lambda each: each.store.describe_stream_consumer("s", "c"),
    "describe_stream_summary": lambda each: each.store.describe_stream_summary("s"),
    "disable_enhanced_monitoring": lambda each: each.store.disable_enhanced_monitoring("s", ["ALL"]),
    "enable_enhanced_monitoring": lambda each: each.store.enable_enhanced_monitoring("s", ["IncomingBytes"]),
    "get_records": lambda each: each.store.get_records(each.iterator),
    "get_shard_iterator": lambda each: each.store.get_shard_iterator("s", SHARD, "LATEST"),
    "increase_stream_retention_period": lambda each: each.store.increase_stream_retention_period("s", 24),
    "ingest": lambda each: each.store.ingest("s", [(b"wrong", "k")]),
    "list_shards": lambda each: each.store.list_shards("s"),
    "list_stream_consumers": lambda each: each.store.list_stream_consumers("s"),
    "list_streams": lambda each: each.store.list_streams(),
    "list_tags_for_stream": lambda each: each.store.list_tags_for_stream("s"),
    "merge_shards": lambda each: each.store.merge_shards("s", SHARD, "shard-000001"),
    "put_record": lambda each: each.store.put_record("s", b"wrong", "k"),
    "put_records": lambda each: each.store.put_records("s", [(b"wrong", "k")]),
    "read": lambda each: list(each.store.read("s", SHARD)),
    "register_stream_consumer": lambda each: each.store.register_stream_consumer("s", "d"),
    "remove_tags_from_stream": lambda each: each.store.remove_tags_from_stream("s", ["a"]),
    "split_shard": lambda each: each.store.split_shard("s", SHARD, "1000"),
    "storage_info": lambda each: each.store.storage_info(),
    "submit_record": lambda each: each.store.submit_record("s", b"wrong", "k").result(WAIT_S),
    "subscribe_to_shard": lambda each: each.store.subscribe_to_shard(each.consumer_arn, SHARD, "LATEST"),
    "tail": lambda each: each.store.tail("s"),
    "trim": lambda each: each.store.trim(),
    "update_shard_count": lambda each: each.store.update_shard_count("s", 4),
    "update_stream": lambda each: each.store.update_stream("s", retention_hours=1),
    "update_stream_mode": lambda each: each.store.update_stream_mode("s", "ON_DEMAND"),
}
CALLS_OF_WHAT_IS_OPEN: dict[str, Callable[[Opened], object]] = {
    "next of a tail": lambda each: next(each.tail),
    "next of a consumer": lambda each: next(each.consumer),
    "checkpoint": lambda each: each.consumer.checkpoint(),
    "checkpoint_with_records": lambda each: each.consumer.checkpoint_with_records("s", [(b"wrong", "k")]),
}
ALL_CALLS: Final = CALLS | CALLS_OF_WHAT_IS_OPEN
NO_OPERATIONS: Final = {
    "close",  # which works in any state
    "writer",  # and those below: what other rooms of the package call
    "change_of_put_record",
    "change_of_put_records",
    "open_consumer",
    "source_of_subscription",
    "source_of_tail",
    "observe_commits",
    "shard_of_iterator",
    "stream_arn",
    "stream_of_token",
}


@pytest.fixture
def opened(store_path: Path, clock: Clock) -> Generator[Opened]:
    """An open store of the stream "s" with one record in its first shard, and the consumer "c", which has read it."""
    with open_store(store_path, clock) as store:
        store.create_stream("s", shard_count=2, retention_hours=3)
        store.put_record("s", b"before", "k", explicit_hash_key="0")
        consumer = store.consumer("s", "c")
        assert next(consumer).data == b"before"
        yield Opened(
            store,
            store.get_shard_iterator("s", SHARD, "TRIM_HORIZON"),
            store.describe_stream_consumer("s", "c").consumer_arn,
            store.tail("s"),
            consumer,
            store_path.parent,
        )


@contextlib.contextmanager
def stopped(store: StreamStore) -> Generator[None]:
    """Stop the store by a commit whose outcome cannot be found out, and keep it from reopening its file."""

    def refuse(_: FolderLock) -> None:
        raise OSError(errno.EIO, PLANTED)

    with (
        mock.patch.object(FolderLock, "sync_data_file", refuse),
        mock.patch.object(Engine, "_is_panicking", return_value=True),
    ):
        with failing_commit("after"), pytest.raises(OutcomeUnknownError, match=PLANTED):
            store.put_record("s", b"unknown", "k", explicit_hash_key="0")
        yield


def data_of(store: StreamStore) -> list[bytes]:
    return [record.data for shard in store.list_shards("s").shards for record in store.read("s", shard.shard_id)]


def test_the_table_holds_every_operation() -> None:
    public = {name for name, _ in inspect.getmembers(StreamStore, callable) if not name.startswith("_")}
    assert CALLS.keys() == public - NO_OPERATIONS


@pytest.mark.parametrize("name", ALL_CALLS)
def test_a_store_that_had_to_stop_says_why_on_every_call(opened: Opened, name: str) -> None:
    with stopped(opened.store):
        for _ in range(3):
            with pytest.raises(StorageError, match=PLANTED) as told:
                in_thread(lambda: ALL_CALLS[name](opened)).result(WAIT_S)
            assert not isinstance(told.value, (StoreClosedError, OutcomeUnknownError))
    assert data_of_reopened(opened.store) == [b"before", b"unknown", b"after"]


def data_of_reopened(store: StreamStore) -> list[bytes]:
    """Return what the store holds once it can reopen its file, which the next write does."""
    store.put_record("s", b"after", "k", explicit_hash_key="0")
    return data_of(store)


def test_reads_of_a_store_that_had_to_stop_go_on_behind_the_next_write(opened: Opened) -> None:
    with stopped(opened.store), pytest.raises(StorageError):
        data_of(opened.store)
    opened.store.put_record("s", b"after", "k", explicit_hash_key="0")
    assert [record.data for record in opened.store.get_records(opened.iterator).records] == [
        b"before",
        b"unknown",
        b"after",
    ]
    assert [next(opened.tail).data for _ in range(2)] == [b"unknown", b"after"]
    assert [next(opened.consumer).data for _ in range(2)] == [b"unknown", b"after"]
    opened.consumer.checkpoint()


@pytest.mark.parametrize("name", ALL_CALLS)
def test_a_store_that_is_closed_says_so_on_every_call(opened: Opened, name: str) -> None:
    opened.store.close()
    for _ in range(2):
        with pytest.raises(StoreClosedError):
            in_thread(lambda: ALL_CALLS[name](opened)).result(WAIT_S)
    assert check_store(opened.store.path) == []


def test_a_store_that_had_to_stop_can_be_closed_and_opened_again(opened: Opened, clock: Clock) -> None:
    with stopped(opened.store):
        opened.store.close()
    with open_store(opened.store.path, clock) as store:
        assert data_of(store) == [b"before", b"unknown"]
    assert check_store(opened.store.path) == []


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("name", CALLS)
def test_whichever_write_fails_what_is_read_behind_it_is_what_is_in_the_file(
    opened: Opened, clock: Clock, name: str, moment: str
) -> None:
    """In the same store, which has handles, caches and readers open, and in one that is opened anew."""
    with failing_commit("before" if moment == "before" else "after", times=1), contextlib.suppress(StorageError):
        CALLS[name](opened)
    seen = everything(opened.store)
    opened.store.close()
    with open_store(opened.store.path, clock) as reopened:
        assert everything(reopened) == seen
    assert check_store(opened.store.path) == []


def everything(store: StreamStore) -> list[object]:
    seen: list[object] = []
    for name in store.list_streams().stream_names:
        seen += [
            store.describe_stream(name),
            store.describe_stream_summary(name),
            store.list_tags_for_stream(name),
            store.list_stream_consumers(name),
            [list(store.read(name, shard.shard_id)) for shard in store.list_shards(name).shards],
        ]
    return seen


def test_the_operations_of_an_event_loop_say_the_same(opened: Opened) -> None:
    """Those that use the writer directly; all others are those of the table, in a thread."""
    opened.store.close()
    calls: list[Callable[[AsyncStreamStore], Coroutine[object, object, object]]] = [
        lambda store: store.put_record("s", b"wrong", "k"),
        lambda store: store.put_records("s", [(b"wrong", "k")]),
        lambda store: store.list_streams(),
        lambda store: store.consumer("s", "c"),
    ]

    async def call_all() -> None:
        async with AsyncStreamStore(opened.store.path) as store:
            with stopped(store.opened):
                for call in calls:
                    with pytest.raises(StorageError, match=PLANTED):
                        await asyncio.wait_for(call(store), WAIT_S)
            await store.put_record("s", b"after", "k", explicit_hash_key="0")
            await store.close()
            for call in calls:
                with pytest.raises(StoreClosedError):
                    await asyncio.wait_for(call(store), WAIT_S)

    asyncio.run(call_all())
