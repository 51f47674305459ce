"""What each action does: the operation of the store that it stands for, and its answer as the wire writes it.

One function for each action, in the order of the service's document. What has no meaning for a store on one machine
is refused, and the refusal says why.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from streamstore import AsyncFeed, AsyncStreamStore, Feed, StreamStore
from streamstore.dialect import YANDEX, Dialect
from streamstore.limits import (
    DESCRIBE_STREAM_LIMIT_DEFAULT,
    GET_RECORDS_LIMIT_MAX,
    LIST_SHARDS_LIMIT_DEFAULT,
    LIST_STREAM_CONSUMERS_LIMIT_DEFAULT,
    LIST_STREAMS_LIMIT_DEFAULT,
    LIST_TAGS_LIMIT_MAX,
    RECORD_DATA_BYTES_MAX,
)
from streamstore.model import (
    PutRecordResult,
    PutRecordsEntry,
    PutRecordsResult,
    ShardFilter,
    ShardIteratorType,
    StreamMode,
    SubscribeToShardEvent,
)
from streamstore.validate import parse_shard_filter_type, parse_shard_iterator_type, parse_stream_mode
from streamstore.wire.arguments import Arguments
from streamstore.wire.inputs import requests_of
from streamstore.wire.members import moment_of, wire_value
from streamstore.wire.refusal import Refusal
from streamstore.wire.shapes import Structure

__all__ = ["Action", "actions_of"]

Output = Mapping[str, object] | Feed[SubscribeToShardEvent] | None
AwaitedOutput = Mapping[str, object] | AsyncFeed[SubscribeToShardEvent] | None


@dataclass(frozen=True, slots=True)
class Action:
    """One action: the shape of its request, and what answers it.

    ``run`` may wait for the disk. ``await_`` is given where thousands may wait at once, and uses no thread.
    """

    name: str
    request: Structure
    run: Callable[[StreamStore, Arguments], Output]
    await_: Callable[[AsyncStreamStore, Arguments], Awaitable[AwaitedOutput]] | None


def actions_of(dialect: Dialect) -> Mapping[str, Action]:
    """Return all actions that the service has in a dialect."""
    return {name: Action(name, request, RUN[name], AWAIT.get(name)) for name, request in requests_of(dialect).items()}


def put_record(store: StreamStore, arguments: Arguments) -> Output:
    _refuse_dry_run(arguments)
    return _output_of_put_record(
        store.put_record(
            arguments.stream_name(),
            arguments.data("Data"),
            arguments.text("PartitionKey"),
            explicit_hash_key=arguments.text_or_none("ExplicitHashKey"),
            sequence_number_for_ordering=arguments.text_or_none("SequenceNumberForOrdering"),
            idempotency_key=arguments.retry_key,
        )
    )


async def await_put_record(store: AsyncStreamStore, arguments: Arguments) -> AwaitedOutput:
    _refuse_dry_run(arguments)
    return _output_of_put_record(
        await store.put_record(
            arguments.stream_name(),
            arguments.data("Data"),
            arguments.text("PartitionKey"),
            explicit_hash_key=arguments.text_or_none("ExplicitHashKey"),
            sequence_number_for_ordering=arguments.text_or_none("SequenceNumberForOrdering"),
            idempotency_key=arguments.retry_key,
        )
    )


def put_records(store: StreamStore, arguments: Arguments) -> Output:
    return _output_of_put_records(store.put_records(arguments.stream_name(), _entries(arguments)))


async def await_put_records(store: AsyncStreamStore, arguments: Arguments) -> AwaitedOutput:
    return _output_of_put_records(await store.put_records(arguments.stream_name(), _entries(arguments)))


def get_shard_iterator(store: StreamStore, arguments: Arguments) -> Output:
    _refuse_dry_run(arguments)
    iterator = store.get_shard_iterator(
        arguments.stream_name(),
        arguments.text("ShardId"),
        _iterator_type(arguments, "ShardIteratorType"),
        starting_sequence_number=arguments.text_or_none("StartingSequenceNumber"),
        timestamp=arguments.seconds_or_none("Timestamp"),
    )
    return {"ShardIterator": iterator}


def get_records(store: StreamStore, arguments: Arguments) -> Output:
    _refuse_dry_run(arguments)
    page = store.get_records(arguments.text("ShardIterator"), limit=arguments.whole("Limit", GET_RECORDS_LIMIT_MAX))
    output: dict[str, object] = {
        "Records": wire_value(page.records),
        "MillisBehindLatest": page.millis_behind_latest,
    }
    if page.next_shard_iterator is not None:
        output["NextShardIterator"] = page.next_shard_iterator
    if page.child_shards:
        output["ChildShards"] = wire_value(page.child_shards)
    return output


def create_stream(store: StreamStore, arguments: Arguments) -> Output:
    _refuse_large_records(arguments)
    mode = _mode(arguments) if arguments.has("StreamModeDetails") else "PROVISIONED"
    if store.dialect is not YANDEX and mode == "PROVISIONED" and not arguments.has("ShardCount"):
        raise Refusal("ValidationException", "ShardCount must be given for a stream in PROVISIONED mode.")
    store.create_stream(
        arguments.stream_name(),
        shard_count=arguments.whole("ShardCount", ON_DEMAND_SHARDS if mode == "ON_DEMAND" else 1),
        retention_hours=arguments.whole_or_none("RetentionPeriodHours"),
        write_quota_kb_per_sec=arguments.whole_or_none("WriteQuotaKbPerSec") or None,
        stream_mode=mode,
        tags=arguments.pairs("Tags"),
    )
    return None


def delete_stream(store: StreamStore, arguments: Arguments) -> Output:
    store.delete_stream(arguments.stream_name(), enforce_consumer_deletion=arguments.flag("EnforceConsumerDeletion"))
    return None


def describe_stream(store: StreamStore, arguments: Arguments) -> Output:
    stream = store.describe_stream(
        arguments.stream_name(),
        limit=arguments.whole("Limit", DESCRIBE_STREAM_LIMIT_DEFAULT),
        exclusive_start_shard_id=arguments.text_or_none("ExclusiveStartShardId"),
    )
    description: dict[str, object] = {
        "StreamName": stream.stream_name,
        "StreamARN": stream.stream_arn,
        "StreamStatus": stream.stream_status,
        "StreamModeDetails": {"StreamMode": stream.stream_mode},
        "Shards": wire_value(stream.shards),
        "HasMoreShards": stream.has_more_shards,
        "RetentionPeriodHours": stream.retention_period_hours,
        "StreamCreationTimestamp": moment_of(stream.stream_creation_timestamp),
        "EnhancedMonitoring": NO_ENHANCED_MONITORING,
        "EncryptionType": stream.encryption_type,
    }
    return {"StreamDescription": description | _quota(store, stream.write_quota_kb_per_sec)}


def describe_stream_summary(store: StreamStore, arguments: Arguments) -> Output:
    stream = store.describe_stream_summary(arguments.stream_name())
    summary: dict[str, object] = {
        "StreamName": stream.stream_name,
        "StreamARN": _arn_of(store, stream.stream_name),
        "StreamStatus": stream.stream_status,
        "StreamModeDetails": {"StreamMode": stream.stream_mode},
        "RetentionPeriodHours": stream.retention_period_hours,
        "StreamCreationTimestamp": moment_of(stream.stream_creation_timestamp),
        "EnhancedMonitoring": NO_ENHANCED_MONITORING,
        "EncryptionType": stream.encryption_type,
        "OpenShardCount": stream.open_shard_count,
        "ConsumerCount": stream.consumer_count,
    }
    return {"StreamDescriptionSummary": summary | _quota(store, stream.write_quota_kb_per_sec)}


def list_streams(store: StreamStore, arguments: Arguments) -> Output:
    page = store.list_streams(
        limit=arguments.whole("Limit", LIST_STREAMS_LIMIT_DEFAULT),
        exclusive_start_stream_name=arguments.text_or_none("ExclusiveStartStreamName"),
        next_token=arguments.text_or_none("NextToken"),
    )
    output: dict[str, object] = {
        "StreamNames": list(page.stream_names),
        "HasMoreStreams": page.has_more_streams,
        "StreamSummaries": [
            {
                "StreamName": stream.stream_name,
                "StreamARN": _arn_of(store, stream.stream_name),
                "StreamStatus": stream.stream_status,
                "StreamModeDetails": {"StreamMode": stream.stream_mode},
                "StreamCreationTimestamp": moment_of(stream.stream_creation_timestamp),
            }
            for stream in page.stream_summaries
        ],
    }
    return output if page.next_token is None else {**output, "NextToken": page.next_token}


def list_shards(store: StreamStore, arguments: Arguments) -> Output:
    name, token = arguments.stream_name_or_none(), arguments.text_or_none("NextToken")
    if name is None and token is None:
        raise Refusal("InvalidArgumentException", "Either NextToken or StreamName should be provided.")
    if name is not None and token is not None:
        if store.dialect is YANDEX:
            raise Refusal("InvalidParameterCombination", "StreamName and NextToken can not be provided together")
        raise Refusal("InvalidArgumentException", "NextToken and StreamName cannot be provided together.")
    page = store.list_shards(
        name,
        next_token=token,
        exclusive_start_shard_id=arguments.text_or_none("ExclusiveStartShardId"),
        max_results=arguments.whole("MaxResults", LIST_SHARDS_LIMIT_DEFAULT),
        shard_filter=_shard_filter(arguments),
    )
    shards = {"Shards": wire_value(page.shards)}
    return shards if page.next_token is None else {**shards, "NextToken": page.next_token}


def split_shard(store: StreamStore, arguments: Arguments) -> Output:
    store.split_shard(arguments.stream_name(), arguments.text("ShardToSplit"), arguments.text("NewStartingHashKey"))
    return None


def merge_shards(store: StreamStore, arguments: Arguments) -> Output:
    store.merge_shards(arguments.stream_name(), arguments.text("ShardToMerge"), arguments.text("AdjacentShardToMerge"))
    return None


def update_shard_count(store: StreamStore, arguments: Arguments) -> Output:
    result = store.update_shard_count(arguments.stream_name(), arguments.whole("TargetShardCount"))
    return {
        "StreamName": result.stream_name,
        "StreamARN": _arn_of(store, result.stream_name),
        "CurrentShardCount": result.current_shard_count,
        "TargetShardCount": result.target_shard_count,
    }


def increase_stream_retention_period(store: StreamStore, arguments: Arguments) -> Output:
    store.increase_stream_retention_period(arguments.stream_name(), arguments.whole("RetentionPeriodHours"))
    return None


def decrease_stream_retention_period(store: StreamStore, arguments: Arguments) -> Output:
    store.decrease_stream_retention_period(arguments.stream_name(), arguments.whole("RetentionPeriodHours"))
    return None


def update_stream_mode(store: StreamStore, arguments: Arguments) -> Output:
    store.update_stream_mode(arguments.stream_name(), _mode(arguments))
    return None


def update_stream(store: StreamStore, arguments: Arguments) -> Output:
    """Change a stream, in the words of Yandex's document or in those of YDB, which calls the shard count otherwise."""
    shard_count = arguments.whole_or_none("ShardCount") or arguments.whole_or_none("TargetShardCount")
    quota = arguments.whole_or_none("WriteQuotaKbPerSec")
    result = store.update_stream(
        arguments.stream_name(),
        shard_count=shard_count or None,
        write_quota_kb_per_sec="keep" if quota is None else quota or None,
        retention_hours=arguments.whole_or_none("RetentionPeriodHours"),
    )
    output: dict[str, object] = {
        "StreamName": result.stream_name,
        "ShardCount": result.shard_count,
        "RetentionPeriodHours": result.retention_period_hours,
    }
    return output | _quota(store, result.write_quota_kb_per_sec)


def set_write_quota(store: StreamStore, arguments: Arguments) -> Output:
    store.update_stream(
        arguments.stream_name(), write_quota_kb_per_sec=arguments.whole_or_none("WriteQuotaKbPerSec") or None
    )
    return None


def add_tags_to_stream(store: StreamStore, arguments: Arguments) -> Output:
    store.add_tags_to_stream(arguments.stream_name(), arguments.pairs("Tags") or {})
    return None


def remove_tags_from_stream(store: StreamStore, arguments: Arguments) -> Output:
    store.remove_tags_from_stream(arguments.stream_name(), arguments.texts("TagKeys"))
    return None


def list_tags_for_stream(store: StreamStore, arguments: Arguments) -> Output:
    page = store.list_tags_for_stream(
        arguments.stream_name(),
        exclusive_start_tag_key=arguments.text_or_none("ExclusiveStartTagKey"),
        limit=arguments.whole("Limit", LIST_TAGS_LIMIT_MAX),
    )
    return {"Tags": wire_value(page.tags), "HasMoreTags": page.has_more_tags}


def tag_resource(store: StreamStore, arguments: Arguments) -> Output:
    store.add_tags_to_stream(_tagged_stream(arguments), arguments.pairs("Tags") or {})
    return None


def untag_resource(store: StreamStore, arguments: Arguments) -> Output:
    store.remove_tags_from_stream(_tagged_stream(arguments), arguments.texts("TagKeys"))
    return None


def list_tags_for_resource(store: StreamStore, arguments: Arguments) -> Output:
    return {"Tags": wire_value(store.list_tags_for_stream(_tagged_stream(arguments)).tags)}


def register_stream_consumer(store: StreamStore, arguments: Arguments) -> Output:
    if arguments.pairs("Tags"):
        raise Refusal("InvalidArgumentException", "This store keeps tags of streams, not of consumers.")
    consumer = store.register_stream_consumer(arguments.stream_name(), arguments.text("ConsumerName"))
    return {"Consumer": wire_value(consumer)}


def describe_stream_consumer(store: StreamStore, arguments: Arguments) -> Output:
    stream_name, consumer_name, arn = _consumer_address(arguments)
    consumer = store.describe_stream_consumer(stream_name, consumer_name, consumer_arn=arn)
    return {"ConsumerDescription": wire_value(consumer)}


def list_stream_consumers(store: StreamStore, arguments: Arguments) -> Output:
    page = store.list_stream_consumers(
        arguments.stream_name(),
        next_token=arguments.text_or_none("NextToken"),
        max_results=arguments.whole("MaxResults", LIST_STREAM_CONSUMERS_LIMIT_DEFAULT),
    )
    consumers = {"Consumers": wire_value(page.consumers)}
    return consumers if page.next_token is None else {**consumers, "NextToken": page.next_token}


def deregister_stream_consumer(store: StreamStore, arguments: Arguments) -> Output:
    stream_name, consumer_name, arn = _consumer_address(arguments)
    store.deregister_stream_consumer(stream_name, consumer_name, consumer_arn=arn)
    return None


def subscribe_to_shard(store: StreamStore, arguments: Arguments) -> Output:
    _refuse_dry_run(arguments)
    start = arguments.structure("StartingPosition")
    return store.subscribe_to_shard(
        _consumer_arn(arguments),
        arguments.text("ShardId"),
        _iterator_type(start, "Type"),
        starting_sequence_number=start.text_or_none("SequenceNumber"),
        timestamp=start.seconds_or_none("Timestamp"),
    )


async def await_subscribe_to_shard(store: AsyncStreamStore, arguments: Arguments) -> AwaitedOutput:
    _refuse_dry_run(arguments)
    start = arguments.structure("StartingPosition")
    return store.subscribe_to_shard(
        _consumer_arn(arguments),
        arguments.text("ShardId"),
        _iterator_type(start, "Type"),
        starting_sequence_number=start.text_or_none("SequenceNumber"),
        timestamp=start.seconds_or_none("Timestamp"),
    )


def describe_limits(store: StreamStore, arguments: Arguments) -> Output:
    del arguments
    limits = store.describe_limits()
    return {
        "ShardLimit": limits.shard_limit,
        "OpenShardCount": limits.open_shard_count,
        "OnDemandStreamCount": limits.on_demand_stream_count,
        "OnDemandStreamCountLimit": limits.on_demand_stream_count_limit,
    }


def describe_account_settings(store: StreamStore, arguments: Arguments) -> Output:
    del store, arguments
    return {"MinimumThroughputBillingCommitment": {"Status": "DISABLED"}}


def update_account_settings(store: StreamStore, arguments: Arguments) -> Output:
    if arguments.structure("MinimumThroughputBillingCommitment").text("Status") == "ENABLED":
        raise Refusal("InvalidArgumentException", "Nobody is billed here, so there is no commitment to make.")
    return describe_account_settings(store, arguments)


def update_max_record_size(store: StreamStore, arguments: Arguments) -> Output:
    _require_stream(store, arguments)
    _refuse_large_records(arguments)
    return None


def disable_enhanced_monitoring(store: StreamStore, arguments: Arguments) -> Output:
    """There is none, so it is disabled."""
    name = _require_stream(store, arguments)
    return {
        "StreamName": name,
        "StreamARN": _arn_of(store, name),
        "CurrentShardLevelMetrics": [],
        "DesiredShardLevelMetrics": [],
    }


def stop_stream_encryption(store: StreamStore, arguments: Arguments) -> Output:
    """Nothing is encrypted, so it is stopped."""
    _require_stream(store, arguments)
    return None


def _refused(error_name: str, message: str) -> Callable[[StreamStore, Arguments], NoReturn]:
    """Return the answer to what has no meaning here: the action is known, and its stream is looked for first."""

    def refuse(store: StreamStore, arguments: Arguments) -> NoReturn:
        _require_stream(store, arguments)
        if store.dialect is YANDEX:
            raise Refusal("InvalidAction", f"Method is not implemented yet. {message}")
        raise Refusal(error_name, message)

    return refuse


def _require_stream(store: StreamStore, arguments: Arguments) -> str:
    """Return the name of the stream that the request or its resource's ARN names, which must exist."""
    name = arguments.stream_name() if arguments.stream_name_or_none() else _tagged_stream(arguments)
    return store.describe_stream_summary(name).stream_name


def _output_of_put_record(result: PutRecordResult) -> dict[str, object]:
    return {
        "ShardId": result.shard_id,
        "SequenceNumber": result.sequence_number,
        "EncryptionType": result.encryption_type,
    }


def _output_of_put_records(result: PutRecordsResult) -> dict[str, object]:
    return {
        "FailedRecordCount": result.failed_record_count,
        "Records": [
            {"ShardId": entry.shard_id, "SequenceNumber": entry.sequence_number}
            if entry.error_code is None
            else {"ErrorCode": entry.error_code, "ErrorMessage": entry.error_message}
            for entry in result.records
        ],
        "EncryptionType": result.encryption_type,
    }


def _entries(arguments: Arguments) -> list[PutRecordsEntry]:
    """Return the entries of a request. Each is made once, however often the whole request comes."""
    _refuse_dry_run(arguments)
    key = arguments.retry_key
    return [
        PutRecordsEntry(
            entry.data("Data"),
            entry.text("PartitionKey"),
            entry.text_or_none("ExplicitHashKey"),
            None if key is None else f"{key}.{index}",
        )
        for index, entry in enumerate(arguments.structures("Records"))
    ]


def _iterator_type(arguments: Arguments, member: str) -> ShardIteratorType:
    return parse_shard_iterator_type(member, arguments.text(member))


def _mode(arguments: Arguments) -> StreamMode:
    return parse_stream_mode(arguments.structure("StreamModeDetails").text("StreamMode"))


def _shard_filter(arguments: Arguments) -> ShardFilter | None:
    if not arguments.has("ShardFilter"):
        return None
    asked = arguments.structure("ShardFilter")
    return ShardFilter(
        parse_shard_filter_type(asked.text("Type")), asked.text_or_none("ShardId"), asked.seconds_or_none("Timestamp")
    )


def _consumer_address(arguments: Arguments) -> tuple[str | None, str | None, str | None]:
    """Return the names of a stream and of its consumer, or the ARN of the consumer."""
    arn = arguments.arn_or_none("Consumer")
    if arn is None and not (arguments.stream_name_or_none() and arguments.has("ConsumerName")):
        raise Refusal("InvalidArgumentException", "Either ConsumerARN, or StreamARN and ConsumerName must be given.")
    if arn is not None:
        return None, None, arn
    return arguments.stream_name(), arguments.text("ConsumerName"), None


def _consumer_arn(arguments: Arguments) -> str:
    arn = arguments.arn_or_none("Consumer")
    assert arn is not None
    return arn


def _tagged_stream(arguments: Arguments) -> str:
    arn = arguments.text("ResourceARN")
    if "/consumer/" in arn:
        raise Refusal("InvalidArgumentException", "This store keeps tags and policies of streams, not of consumers.")
    return arguments.stream_of_arn(arn)


def _arn_of(store: StreamStore, stream_name: str) -> str:
    return store.dialect.stream_arn(stream_name, region=store.region, account_id=store.account_id)


def _quota(store: StreamStore, write_quota_kb_per_sec: int | None) -> dict[str, object]:
    """Only Yandex's streams have a quota to choose. 0 is none."""
    return {"WriteQuotaKbPerSec": write_quota_kb_per_sec or 0} if store.dialect is YANDEX else {}


def _refuse_dry_run(arguments: Arguments) -> None:
    # What is not known here is ignored, but a client that asks for a rehearsal must not find its record stored.
    if arguments.flag("DryRun"):
        raise Refusal("InvalidArgumentException", "DryRun is not answered here; nothing was done.")


def _refuse_large_records(arguments: Arguments) -> None:
    kib = arguments.whole("MaxRecordSizeInKiB", RECORD_KIB_MAX)
    if kib > RECORD_KIB_MAX:
        raise Refusal("InvalidArgumentException", f"A record has at most {RECORD_KIB_MAX} KiB here, not {kib} KiB.")


ON_DEMAND_SHARDS: Final = 4  # AWS: what a new stream in that mode has
RECORD_KIB_MAX: Final = RECORD_DATA_BYTES_MAX // 1024
NO_ENHANCED_MONITORING: Final = [{"ShardLevelMetrics": list[str]()}]

RUN: Final[Mapping[str, Callable[[StreamStore, Arguments], Output]]] = {
    "AddTagsToStream": add_tags_to_stream,
    "CreateStream": create_stream,
    "DecreaseStreamRetentionPeriod": decrease_stream_retention_period,
    "DeleteResourcePolicy": _refused("ResourceNotFoundException", "No resource has a policy here."),
    "DeleteStream": delete_stream,
    "DeregisterStreamConsumer": deregister_stream_consumer,
    "DescribeAccountSettings": describe_account_settings,
    "DescribeLimits": describe_limits,
    "DescribeStream": describe_stream,
    "DescribeStreamConsumer": describe_stream_consumer,
    "DescribeStreamSummary": describe_stream_summary,
    "DisableEnhancedMonitoring": disable_enhanced_monitoring,
    "EnableEnhancedMonitoring": _refused("InvalidArgumentException", "This store has no metrics of single shards."),
    "GetRecords": get_records,
    "GetResourcePolicy": _refused("ResourceNotFoundException", "No resource has a policy here."),
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
    "PutResourcePolicy": _refused("InvalidArgumentException", "Who may come in is not decided by policies here."),
    "RegisterStreamConsumer": register_stream_consumer,
    "RemoveTagsFromStream": remove_tags_from_stream,
    "SetWriteQuota": set_write_quota,
    "SplitShard": split_shard,
    "StartStreamEncryption": _refused("KMSNotFoundException", "This store has no keys and encrypts nothing."),
    "StopStreamEncryption": stop_stream_encryption,
    "SubscribeToShard": subscribe_to_shard,
    "TagResource": tag_resource,
    "UntagResource": untag_resource,
    "UpdateAccountSettings": update_account_settings,
    "UpdateMaxRecordSize": update_max_record_size,
    "UpdateShardCount": update_shard_count,
    "UpdateStream": update_stream,
    "UpdateStreamMode": update_stream_mode,
    "UpdateStreamWarmThroughput": _refused("InvalidArgumentException", "This store has no throughput to warm up."),
}
AWAIT: Final[Mapping[str, Callable[[AsyncStreamStore, Arguments], Awaitable[AwaitedOutput]]]] = {
    "PutRecord": await_put_record,
    "PutRecords": await_put_records,
    "SubscribeToShard": await_subscribe_to_shard,
}
