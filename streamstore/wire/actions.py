"""The table of all actions: the shape of each one's request, and what answers it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from streamstore import AsyncFeed, AsyncStreamStore, Feed, StreamStore
from streamstore.dialect import Dialect
from streamstore.model import PutRecordResult, PutRecordsResult, SubscribeToShardEvent
from streamstore.wire.arguments import Arguments
from streamstore.wire.inputs import requests_of
from streamstore.wire.record_actions import (
    Started,
    get_records,
    get_shard_iterator,
    put_record,
    put_records,
    start_put_record,
    start_put_records,
    start_subscribe_to_shard,
    subscribe_to_shard,
)
from streamstore.wire.shapes import Structure
from streamstore.wire.side_actions import (
    add_tags_to_stream,
    delete_resource_policy,
    deregister_stream_consumer,
    describe_account_settings,
    describe_stream_consumer,
    disable_enhanced_monitoring,
    enable_enhanced_monitoring,
    list_stream_consumers,
    list_tags_for_resource,
    list_tags_for_stream,
    refused,
    register_stream_consumer,
    remove_tags_from_stream,
    stop_stream_encryption,
    tag_resource,
    untag_resource,
    update_account_settings,
)
from streamstore.wire.stream_actions import (
    create_stream,
    decrease_stream_retention_period,
    delete_stream,
    describe_limits,
    describe_stream,
    describe_stream_summary,
    increase_stream_retention_period,
    list_shards,
    list_streams,
    merge_shards,
    set_write_quota,
    split_shard,
    update_max_record_size,
    update_shard_count,
    update_stream,
    update_stream_mode,
)

__all__ = ["Action", "Output", "StartedOutput", "actions_of"]

Output = Mapping[str, object] | Feed[SubscribeToShardEvent] | None
StartedOutput = Started[PutRecordResult] | Started[PutRecordsResult] | AsyncFeed[SubscribeToShardEvent]


@dataclass(frozen=True, slots=True)
class Action:
    """One action: the shape of its request, and what answers it.

    ``run`` may wait for the disk. ``start`` is given where thousands may wait at once, and waits for nothing.
    """

    name: str
    request: Structure
    run: Callable[[StreamStore, Arguments], Output]
    start: Callable[[AsyncStreamStore, Arguments], StartedOutput] | None


def actions_of(dialect: Dialect) -> Mapping[str, Action]:
    """Return all actions that the service has in a dialect."""
    return {name: Action(name, request, RUN[name], START.get(name)) for name, request in requests_of(dialect).items()}


RUN: Final[Mapping[str, Callable[[StreamStore, Arguments], Output]]] = {
    "AddTagsToStream": add_tags_to_stream,
    "CreateStream": create_stream,
    "DecreaseStreamRetentionPeriod": decrease_stream_retention_period,
    "DeleteResourcePolicy": delete_resource_policy,
    "DeleteStream": delete_stream,
    "DeregisterStreamConsumer": deregister_stream_consumer,
    "DescribeAccountSettings": describe_account_settings,
    "DescribeLimits": describe_limits,
    "DescribeStream": describe_stream,
    "DescribeStreamConsumer": describe_stream_consumer,
    "DescribeStreamSummary": describe_stream_summary,
    "DisableEnhancedMonitoring": disable_enhanced_monitoring,
    "EnableEnhancedMonitoring": enable_enhanced_monitoring,
    "GetRecords": get_records,
    "GetResourcePolicy": refused("ResourceNotFoundException", "No resource has a policy here."),
    "GetShardIterator": get_shard_iterator,
    "IncreaseStreamRetentionPeriod": increase_stream_retention_period,
    "ListShards": list_shards,
    "ListStreamConsumers": list_stream_consumers,
    "ListStreams": list_streams,
    "ListTagsForResource": list_tags_for_resource,
    "ListTagsForStream": list_tags_for_stream,
    "MergeShards": merge_shards,
    "PutRecord": put_record,
    "PutRecords": put_records,
    "PutResourcePolicy": refused("InvalidArgumentException", "Who may come in is not decided by policies here."),
    "RegisterStreamConsumer": register_stream_consumer,
    "RemoveTagsFromStream": remove_tags_from_stream,
    "SetWriteQuota": set_write_quota,
    "SplitShard": split_shard,
    "StartStreamEncryption": refused("KMSNotFoundException", "This store has no keys and encrypts nothing."),
    "StopStreamEncryption": stop_stream_encryption,
    "SubscribeToShard": subscribe_to_shard,
    "TagResource": tag_resource,
    "UntagResource": untag_resource,
    "UpdateAccountSettings": update_account_settings,
    "UpdateMaxRecordSize": update_max_record_size,
    "UpdateShardCount": update_shard_count,
    "UpdateStream": update_stream,
    "UpdateStreamMode": update_stream_mode,
    "UpdateStreamWarmThroughput": refused("InvalidArgumentException", "This store has no throughput to warm up."),
}
START: Final[Mapping[str, Callable[[AsyncStreamStore, Arguments], StartedOutput]]] = {
    "PutRecord": start_put_record,
    "PutRecords": start_put_records,
    "SubscribeToShard": start_subscribe_to_shard,
}
