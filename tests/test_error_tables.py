"""The tables of declared errors: each error of each operation that can happen on one machine is raised here.

What cannot, and why: access, encryption and internal failures have no service behind them here; nobody limits how often
the control plane is called, so a limit is one of size; a stream is active as soon as it exists, so none is in use while
it is being changed. A violated shape, on the wire a ``ValidationException``, is an ``InvalidArgumentException`` here.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamstore import (
    ExpiredIteratorException,
    ExpiredNextTokenException,
    InvalidArgumentException,
    LimitExceededException,
    ProvisionedThroughputExceededException,
    RequestError,
    ResourceInUseException,
    ResourceNotFoundException,
    StreamStore,
)
from streamstore.check import check_store
from tests.conftest import Clock, open_store

SHARD, SECOND_SHARD, UNKNOWN_SHARD = "shardId-000000000000", "shardId-000000000001", "shardId-000000000099"
Call = Callable[[StreamStore, Clock], object]


@pytest.fixture
def service(store_path: Path, clock: Clock) -> Iterator[StreamStore]:
    """An AWS store: "s" with 2 shards, a write and a read quota and the consumer "c"; "full" with all there may be."""
    store = open_store(store_path, clock, dialect="aws")
    store.create_stream("s", shard_count=2, write_quota_kb_per_sec=128, read_quota=True)
    store.register_stream_consumer("s", "c")
    store.create_stream("full", tags={f"key{number}": "" for number in range(50)})
    for number in range(20):
        store.register_stream_consumer("full", f"c{number}")
    yield store
    store.close()
    assert check_store(store_path) == []


def arn(store: StreamStore) -> str:
    return store.describe_stream_consumer("s", "c").consumer_arn


def expired_iterator(store: StreamStore, clock: Clock) -> str:
    iterator = store.get_shard_iterator("s", SHARD, "LATEST")
    clock.advance(300_000)
    return iterator


def after_five_minutes(token: str | None, clock: Clock) -> str:
    assert token is not None
    clock.advance(300_000)
    return token


def of_deleted_stream(store: StreamStore) -> str:
    iterator = store.get_shard_iterator("s", SHARD, "LATEST")
    store.delete_stream("s", enforce_consumer_deletion=True)
    return iterator


def read_too_often(store: StreamStore) -> None:
    iterator = store.get_shard_iterator("s", SHARD, "LATEST")
    for _ in range(6):
        store.get_records(iterator)


def put_too_much(store: StreamStore) -> None:
    for _ in range(2):
        store.put_record("s", bytes(131_072), "k", explicit_hash_key="0")


def all_put_too_much(store: StreamStore) -> None:
    """Raise the error of the last entry, as who puts a batch would."""
    result = store.put_records("s", [(bytes(131_072), "k", "0")] * 2)
    assert result.failed_record_count == 1
    assert result.records[1].error_code == ProvisionedThroughputExceededException.__name__
    raise ProvisionedThroughputExceededException(stream_name="s", shard_id=SHARD, retry_after_ms=1)


def resize_too_often(store: StreamStore) -> None:
    for step in range(11):
        store.update_shard_count("s", 1 + step % 2)


def subscribe_twice(store: StreamStore) -> None:
    for _ in range(2):
        store.subscribe_to_shard(arn(store), SHARD, "LATEST")


def split_in_a_full_store(store: StreamStore) -> None:
    store.create_stream("many", shard_count=3_997)
    store.split_shard("s", SHARD, "1000")


NOT_FOUND, INVALID = ResourceNotFoundException, InvalidArgumentException
IN_USE, LIMIT, THROTTLED = ResourceInUseException, LimitExceededException, ProvisionedThroughputExceededException
TABLE: list[tuple[str, type[RequestError], Call]] = [
    ("PutRecord", NOT_FOUND, lambda store, _: store.put_record("t", b"", "k")),
    ("PutRecord", INVALID, lambda store, _: store.put_record("s", b"", "")),
    ("PutRecord", THROTTLED, lambda store, _: put_too_much(store)),
    ("PutRecords", NOT_FOUND, lambda store, _: store.put_records("t", [(b"", "k")])),
    ("PutRecords", INVALID, lambda store, _: store.put_records("s", [])),
    ("PutRecords", THROTTLED, lambda store, _: all_put_too_much(store)),
    ("GetShardIterator", NOT_FOUND, lambda store, _: store.get_shard_iterator("s", UNKNOWN_SHARD, "LATEST")),
    ("GetShardIterator", INVALID, lambda store, _: store.get_shard_iterator("s", SHARD, "AT_TIMESTAMP")),
    ("GetRecords", NOT_FOUND, lambda store, _: store.get_records(of_deleted_stream(store))),
    ("GetRecords", INVALID, lambda store, _: store.get_records("x")),
    ("GetRecords", THROTTLED, lambda store, _: read_too_often(store)),
    ("GetRecords", ExpiredIteratorException, lambda store, clock: store.get_records(expired_iterator(store, clock))),
    ("ListShards", NOT_FOUND, lambda store, _: store.list_shards("t")),
    ("ListShards", INVALID, lambda store, _: store.list_shards()),
    (
        "ListShards",
        ExpiredNextTokenException,
        lambda store, clock: store.list_shards(
            next_token=after_five_minutes(store.list_shards("s", max_results=1).next_token, clock)
        ),
    ),
    ("ListStreams", INVALID, lambda store, _: store.list_streams(limit=0)),
    (
        "ListStreams",
        ExpiredNextTokenException,
        lambda store, clock: store.list_streams(
            next_token=after_five_minutes(store.list_streams(limit=1).next_token, clock)
        ),
    ),
    ("CreateStream", IN_USE, lambda store, _: store.create_stream("s")),
    ("CreateStream", LIMIT, lambda store, _: store.create_stream("t", shard_count=4_000)),
    ("CreateStream", INVALID, lambda store, _: store.create_stream("t", shard_count=0)),
    ("DeleteStream", NOT_FOUND, lambda store, _: store.delete_stream("t")),
    ("DeleteStream", IN_USE, lambda store, _: store.delete_stream("s")),
    ("DeleteStream", INVALID, lambda store, _: store.delete_stream("a b")),
    ("DescribeStream", NOT_FOUND, lambda store, _: store.describe_stream("t")),
    ("DescribeStream", INVALID, lambda store, _: store.describe_stream("s", limit=0)),
    ("DescribeStreamSummary", NOT_FOUND, lambda store, _: store.describe_stream_summary("t")),
    ("DescribeStreamSummary", INVALID, lambda store, _: store.describe_stream_summary("")),
    ("IncreaseStreamRetentionPeriod", NOT_FOUND, lambda store, _: store.increase_stream_retention_period("t", 48)),
    ("IncreaseStreamRetentionPeriod", INVALID, lambda store, _: store.increase_stream_retention_period("s", 24)),
    ("DecreaseStreamRetentionPeriod", NOT_FOUND, lambda store, _: store.decrease_stream_retention_period("t", 24)),
    ("DecreaseStreamRetentionPeriod", INVALID, lambda store, _: store.decrease_stream_retention_period("s", 24)),
    ("SplitShard", NOT_FOUND, lambda store, _: store.split_shard("s", UNKNOWN_SHARD, "5")),
    ("SplitShard", INVALID, lambda store, _: store.split_shard("s", SHARD, "0")),
    ("SplitShard", LIMIT, lambda store, _: split_in_a_full_store(store)),
    ("MergeShards", NOT_FOUND, lambda store, _: store.merge_shards("s", SHARD, UNKNOWN_SHARD)),
    ("MergeShards", INVALID, lambda store, _: store.merge_shards("s", SECOND_SHARD, SHARD)),
    ("UpdateShardCount", NOT_FOUND, lambda store, _: store.update_shard_count("t", 2)),
    ("UpdateShardCount", INVALID, lambda store, _: store.update_shard_count("s", 5)),
    ("UpdateShardCount", LIMIT, lambda store, _: resize_too_often(store)),
    ("AddTagsToStream", NOT_FOUND, lambda store, _: store.add_tags_to_stream("t", {"k": "v"})),
    ("AddTagsToStream", INVALID, lambda store, _: store.add_tags_to_stream("s", {"aws:k": "v"})),
    ("AddTagsToStream", LIMIT, lambda store, _: store.add_tags_to_stream("full", {"one": "more"})),
    ("RemoveTagsFromStream", NOT_FOUND, lambda store, _: store.remove_tags_from_stream("t", ["k"])),
    ("RemoveTagsFromStream", INVALID, lambda store, _: store.remove_tags_from_stream("s", [])),
    ("ListTagsForStream", NOT_FOUND, lambda store, _: store.list_tags_for_stream("t")),
    ("ListTagsForStream", INVALID, lambda store, _: store.list_tags_for_stream("s", limit=51)),
    ("RegisterStreamConsumer", NOT_FOUND, lambda store, _: store.register_stream_consumer("t", "d")),
    ("RegisterStreamConsumer", INVALID, lambda store, _: store.register_stream_consumer("s", "a b")),
    ("RegisterStreamConsumer", IN_USE, lambda store, _: store.register_stream_consumer("s", "c")),
    ("RegisterStreamConsumer", LIMIT, lambda store, _: store.register_stream_consumer("full", "one-more")),
    ("DescribeStreamConsumer", NOT_FOUND, lambda store, _: store.describe_stream_consumer("s", "unknown")),
    ("DescribeStreamConsumer", INVALID, lambda store, _: store.describe_stream_consumer(consumer_arn="x")),
    ("ListStreamConsumers", NOT_FOUND, lambda store, _: store.list_stream_consumers("t")),
    ("ListStreamConsumers", INVALID, lambda store, _: store.list_stream_consumers("s", max_results=0)),
    (
        "ListStreamConsumers",
        ExpiredNextTokenException,
        lambda store, clock: store.list_stream_consumers(
            "full", next_token=after_five_minutes(store.list_stream_consumers("full", max_results=1).next_token, clock)
        ),
    ),
    ("DeregisterStreamConsumer", NOT_FOUND, lambda store, _: store.deregister_stream_consumer("s", "unknown")),
    ("DeregisterStreamConsumer", INVALID, lambda store, _: store.deregister_stream_consumer("s")),
    ("SubscribeToShard", NOT_FOUND, lambda store, _: store.subscribe_to_shard(arn(store), UNKNOWN_SHARD, "LATEST")),
    ("SubscribeToShard", INVALID, lambda store, _: store.subscribe_to_shard(arn(store), SHARD, "AT_TIMESTAMP")),
    ("SubscribeToShard", IN_USE, lambda store, _: subscribe_twice(store)),
    ("UpdateStreamMode", NOT_FOUND, lambda store, _: store.update_stream_mode("t", "ON_DEMAND")),
    ("UpdateStreamMode", INVALID, lambda store, _: store.update_stream_mode("s", "on demand")),  # type: ignore[arg-type]
    ("EnableEnhancedMonitoring", NOT_FOUND, lambda store, _: store.enable_enhanced_monitoring("t", ["ALL"])),
    ("EnableEnhancedMonitoring", INVALID, lambda store, _: store.enable_enhanced_monitoring("s", [])),
    ("DisableEnhancedMonitoring", NOT_FOUND, lambda store, _: store.disable_enhanced_monitoring("t", ["ALL"])),
    ("DisableEnhancedMonitoring", INVALID, lambda store, _: store.disable_enhanced_monitoring("s", [])),
    ("UpdateStream", NOT_FOUND, lambda store, _: store.update_stream("t", shard_count=2)),
    ("UpdateStream", INVALID, lambda store, _: store.update_stream("s", shard_count=0)),
]


@pytest.mark.parametrize(
    ("action", "error", "call"), TABLE, ids=[f"{action}-{error.__name__}" for action, error, _ in TABLE]
)
def test_every_declared_error_of_every_operation_is_raised(
    service: StreamStore, clock: Clock, action: str, error: type[RequestError], call: Call
) -> None:
    with pytest.raises(error) as refusal:
        call(service, clock)
    assert type(refusal.value) is error, action
    assert refusal.value.http_status == 400
    assert str(refusal.value).endswith(".")
