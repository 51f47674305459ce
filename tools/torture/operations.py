"""Every public operation of a store, as a call that can be made again and again on copies of one store.

The clock stands still, so each time it returns the same and leaves the same in the file, byte for byte.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from streamstore import StreamStore

__all__ = ["AFTER", "BESIDE", "NOW_MS", "OPERATIONS", "SHARD", "Operation", "Stage", "make_template", "open_store"]

NOW_MS: Final = 1_700_000_000_000
LONG_AGO_MS: Final = NOW_MS - 30 * 3_600_000
S: Final = "s"
SHARD: Final = "shard-000000"
OLD: Final = "old"
AFTER: Final = "after"
BESIDE: Final = "beside"
"""Streams that no operation touches: for the puts behind it, and for those of another thread."""
RECORDS: Final = 8
EXPIRED_RECORDS: Final = 100

Call = Callable[[], object]


class Stage:
    """One store, and what an operation needs of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store: StreamStore | None = None

    def open(self) -> StreamStore:
        self.store = open_store(self.path)
        return self.store

    def close(self) -> None:
        if self.store is not None:
            self.store.close()


class Operation(NamedTuple):
    """An operation of the service."""

    name: str
    ready: Callable[[Stage], Call]
    """Does what comes before it, and returns the call."""
    closes: bool = False
    is_new: bool = False
    """Whether there is no store yet."""
    commits: Callable[[Stage], Call] | None = None
    """For one that may end half done: the same, with a commit for each state in which it can end."""


def open_store(path: Path, *, now_ms: int = NOW_MS) -> StreamStore:
    return StreamStore(path, clock=lambda: now_ms, allow_network_filesystem=True)


def make_template(path: Path) -> None:
    """Make the store of which each case gets a copy."""
    with open_store(path, now_ms=LONG_AGO_MS) as store:
        for name in (AFTER, BESIDE):
            store.create_stream(name, retention_hours=24)
        store.create_stream(OLD, shard_count=2, retention_hours=12)
        expired = [(b"expired", str(number), None, f"key {number}") for number in range(EXPIRED_RECORDS)]
        store.put_records(OLD, expired)
    with open_store(path) as store:
        store.put_record(OLD, b"young", "0")
        store.register_stream_consumer(OLD, "reader")
        store.create_stream(S, shard_count=2, retention_hours=12, tags={"team": "a", "stage": "test"})
        for number in range(RECORDS):
            store.put_record(S, _payload(number), str(number), idempotency_key=f"key {number}")
        with store.consumer(S, "reader", idle_timeout_seconds=0) as consumer:
            next(consumer)
            consumer.checkpoint()


def _payload(number: int) -> bytes:
    """Return the data of a record; some need pages of their own."""
    return b"%d " % number + b"x" * (number % 4 * 1_500)


def _entries() -> list[tuple[bytes, str]]:
    return [(b"entry " + _payload(number), str(number)) for number in range(RECORDS)]


def _on(call: Callable[[StreamStore], object]) -> Callable[[Stage], Call]:
    """Return what opens the store and then makes the call on it."""

    def ready(stage: Stage) -> Call:
        store = stage.open()
        return lambda: call(store)

    return ready


def _put_in_company(stage: Stage) -> Call:
    """A put that another thread commits, as it does where many put."""
    store = stage.open()
    setattr(vars(store)["_writer"], "_crowded", True)  # noqa: B010
    return lambda: store.put_record(S, b"put", "key")


def _ingest_one_by_one(store: StreamStore) -> None:
    for entry in _entries():
        store.ingest(S, [entry])


def _checkpoint(stage: Stage) -> Call:
    consumer = stage.open().consumer(S, "reader", idle_timeout_seconds=0)
    next(consumer)
    return consumer.checkpoint


def _checkpoint_with_records(stage: Stage) -> Call:
    consumer = stage.open().consumer(S, "reader", idle_timeout_seconds=0)
    next(consumer)
    return lambda: consumer.checkpoint_with_records(S, _entries())


def _open_consumer(store: StreamStore) -> None:
    store.consumer(S, "reader", idle_timeout_seconds=0)


def _consume(stage: Stage) -> Call:
    consumer = stage.open().consumer(S, "reader", idle_timeout_seconds=0)
    return lambda: [record.data for record in consumer]


def _tail(store: StreamStore) -> object:
    with store.tail(S, starting_position="TRIM_HORIZON", idle_timeout_seconds=0) as records:
        return [record.data for record in records]


def _subscribe(store: StreamStore) -> object:
    arn = store.describe_stream_consumer(S, "reader").consumer_arn
    with store.subscribe_to_shard(arn, SHARD, "TRIM_HORIZON") as events:
        return next(events).records


def _disable_enhanced_monitoring(stage: Stage) -> Call:
    store = stage.open()
    store.enable_enhanced_monitoring(S, ["ALL"])
    return lambda: store.disable_enhanced_monitoring(S, ["IncomingBytes"])


def _get_records(store: StreamStore) -> object:
    return store.get_records(store.get_shard_iterator(S, SHARD, "TRIM_HORIZON"))


def _describe(store: StreamStore) -> object:
    return (
        store.describe_stream(S),
        store.describe_stream_summary(S),
        store.describe_limits(),
        store.describe_consumer_lag(S, "reader"),
    )


def _list(store: StreamStore) -> object:
    return (
        store.list_streams(limit=2),
        store.list_shards(S),
        store.list_tags_for_stream(S),
        store.list_stream_consumers(OLD),
    )


def _open_and_read(stage: Stage) -> Call:
    return lambda: [record.data for record in stage.open().read(S, SHARD)]


def _create(stage: Stage) -> Call:
    return lambda: stage.open().list_streams().stream_names


def _close(stage: Stage) -> Call:
    stage.open()
    return stage.close


MIDDLE: Final = str(2**126)
OPERATIONS: Final = (
    Operation("put_record", _on(lambda store: store.put_record(S, b"put", "key"))),
    Operation("put_record in company", _put_in_company),
    Operation("put_record again", _on(lambda store: store.put_record(S, b"put", "key", idempotency_key="key 1"))),
    Operation("put_records", _on(lambda store: store.put_records(S, _entries()))),
    Operation("submit_record", _on(lambda store: store.submit_record(S, b"put", "key").result())),
    Operation("ingest", _on(lambda store: store.ingest(S, _entries())), commits=_on(_ingest_one_by_one)),
    Operation("get_records", _on(_get_records)),
    Operation("read", _on(lambda store: list(store.read(S, SHARD)))),
    Operation("open", _open_and_read),
    Operation("create", _create, is_new=True),
    Operation("close", _close, closes=True),
    Operation("tail", _on(_tail)),
    Operation("consumer", _on(_open_consumer)),
    Operation("consume", _consume),
    Operation("subscribe_to_shard", _on(_subscribe)),
    Operation("checkpoint", _checkpoint),
    Operation("checkpoint_with_records", _checkpoint_with_records),
    Operation("create_stream", _on(lambda store: store.create_stream("new", shard_count=3))),
    Operation("delete_stream", _on(lambda store: store.delete_stream(OLD, enforce_consumer_deletion=True))),
    Operation("split_shard", _on(lambda store: store.split_shard(S, SHARD, MIDDLE))),
    Operation("merge_shards", _on(lambda store: store.merge_shards(S, SHARD, "shard-000001"))),
    Operation("update_shard_count", _on(lambda store: store.update_shard_count(S, 5))),
    Operation("update_stream", _on(lambda store: store.update_stream(S, write_quota_kb_per_sec=128, shard_count=3))),
    Operation("update_stream_mode", _on(lambda store: store.update_stream_mode(S, "ON_DEMAND"))),
    Operation("enable_enhanced_monitoring", _on(lambda store: store.enable_enhanced_monitoring(S, ["ALL"]))),
    Operation("disable_enhanced_monitoring", _disable_enhanced_monitoring),
    Operation(
        "increase_stream_retention_period",
        _on(lambda store: store.increase_stream_retention_period(OLD, 24)),
        commits=_on(lambda store: store.increase_stream_retention_period(OLD, 24)),
    ),
    Operation("decrease_stream_retention_period", _on(lambda store: store.decrease_stream_retention_period(S, 1))),
    Operation("trim", _on(lambda store: store.trim()), commits=_on(lambda store: store.trim())),
    Operation("add_tags_to_stream", _on(lambda store: store.add_tags_to_stream(S, {"owner": "b"}))),
    Operation("remove_tags_from_stream", _on(lambda store: store.remove_tags_from_stream(S, ["team"]))),
    Operation("register_stream_consumer", _on(lambda store: store.register_stream_consumer(S, "second"))),
    Operation("deregister_stream_consumer", _on(lambda store: store.deregister_stream_consumer(OLD, "reader"))),
    Operation("describe", _on(_describe)),
    Operation("list", _on(_list)),
)
