"""What the actions on streams and shards do: the operation of the store that each stands for, and its answer."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from streamstore import ResourceNotFoundException, StreamStore
from streamstore.dialect import YANDEX
from streamstore.limits import (
    DESCRIBE_STREAM_LIMIT_DEFAULT,
    LIST_SHARDS_LIMIT_DEFAULT,
    LIST_STREAMS_LIMIT_DEFAULT,
    RECORD_DATA_BYTES_MAX,
)
from streamstore.model import ShardFilter, StreamMode
from streamstore.validate_reading import parse_shard_filter_type
from streamstore.validate_settings import parse_stream_mode
from streamstore.wire.arguments import Arguments
from streamstore.wire.members import moment_of, wire_value
from streamstore.wire.refusal import Refusal

__all__ = [
    "create_stream",
    "decrease_stream_retention_period",
    "delete_stream",
    "describe_limits",
    "describe_stream",
    "describe_stream_summary",
    "increase_stream_retention_period",
    "list_shards",
    "list_streams",
    "merge_shards",
    "set_write_quota",
    "split_shard",
    "update_max_record_size",
    "update_shard_count",
    "update_stream",
    "update_stream_mode",
]

ON_DEMAND_SHARDS: Final = 4  # AWS: what a new stream in that mode has
RECORD_KIB_MAX: Final = RECORD_DATA_BYTES_MAX // 1024


def create_stream(store: StreamStore, arguments: Arguments) -> None:
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


def delete_stream(store: StreamStore, arguments: Arguments) -> None:
    store.delete_stream(arguments.stream_name(), enforce_consumer_deletion=arguments.flag("EnforceConsumerDeletion"))


def describe_stream(store: StreamStore, arguments: Arguments) -> dict[str, object]:
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
        "EnhancedMonitoring": [{"ShardLevelMetrics": list(stream.enhanced_monitoring)}],
        "EncryptionType": stream.encryption_type,
    }
    return {"StreamDescription": description | _quota(store, stream.write_quota_kb_per_sec)}


def describe_stream_summary(store: StreamStore, arguments: Arguments) -> dict[str, object]:
    stream = store.describe_stream_summary(arguments.stream_name())
    summary: dict[str, object] = {
        "StreamName": stream.stream_name,
        "StreamARN": store.stream_arn(stream.stream_name),
        "StreamStatus": stream.stream_status,
        "StreamModeDetails": {"StreamMode": stream.stream_mode},
        "RetentionPeriodHours": stream.retention_period_hours,
        "StreamCreationTimestamp": moment_of(stream.stream_creation_timestamp),
        "EnhancedMonitoring": [{"ShardLevelMetrics": list(stream.enhanced_monitoring)}],
        "EncryptionType": stream.encryption_type,
        "OpenShardCount": stream.open_shard_count,
        "ConsumerCount": stream.consumer_count,
    }
    return {"StreamDescriptionSummary": summary | _quota(store, stream.write_quota_kb_per_sec)}


def list_streams(store: StreamStore, arguments: Arguments) -> dict[str, object]:
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
                "StreamARN": store.stream_arn(stream.stream_name),
                "StreamStatus": stream.stream_status,
                "StreamModeDetails": {"StreamMode": stream.stream_mode},
                "StreamCreationTimestamp": moment_of(stream.stream_creation_timestamp),
            }
            for stream in page.stream_summaries
        ],
    }
    return output if page.next_token is None else {**output, "NextToken": page.next_token}


def list_shards(store: StreamStore, arguments: Arguments) -> dict[str, object]:
    name, token = arguments.stream_name_or_none(), arguments.text_or_none("NextToken")
    if name is None and token is None:
        raise Refusal("InvalidArgumentException", "Either NextToken or StreamName should be provided.")
    if name is not None and token is not None:
        if store.dialect is YANDEX:
            raise Refusal("InvalidParameterCombination", "StreamName and NextToken can not be provided together")
        member = "StreamName" if arguments.has("StreamName") else "StreamARN"
        raise Refusal("InvalidArgumentException", f"NextToken and {member} cannot be provided together.")
    page = store.list_shards(
        name,
        next_token=token,
        exclusive_start_shard_id=arguments.text_or_none("ExclusiveStartShardId"),
        max_results=arguments.whole("MaxResults", LIST_SHARDS_LIMIT_DEFAULT),
        shard_filter=_shard_filter(arguments),
    )
    shards = {"Shards": wire_value(page.shards)}
    return shards if page.next_token is None else {**shards, "NextToken": page.next_token}


def split_shard(store: StreamStore, arguments: Arguments) -> None:
    with _resharding(store):
        store.split_shard(arguments.stream_name(), arguments.text("ShardToSplit"), arguments.text("NewStartingHashKey"))


def merge_shards(store: StreamStore, arguments: Arguments) -> None:
    with _resharding(store):
        store.merge_shards(
            arguments.stream_name(), arguments.text("ShardToMerge"), arguments.text("AdjacentShardToMerge")
        )


def update_shard_count(store: StreamStore, arguments: Arguments) -> dict[str, object]:
    result = store.update_shard_count(arguments.stream_name(), arguments.whole("TargetShardCount"))
    return {
        "StreamName": result.stream_name,
        "StreamARN": store.stream_arn(result.stream_name),
        "CurrentShardCount": result.current_shard_count,
        "TargetShardCount": result.target_shard_count,
    }


def increase_stream_retention_period(store: StreamStore, arguments: Arguments) -> None:
    if not _has_retention(store, arguments):
        store.increase_stream_retention_period(arguments.stream_name(), arguments.whole("RetentionPeriodHours"))


def decrease_stream_retention_period(store: StreamStore, arguments: Arguments) -> None:
    if not _has_retention(store, arguments):
        store.decrease_stream_retention_period(arguments.stream_name(), arguments.whole("RetentionPeriodHours"))


def update_stream_mode(store: StreamStore, arguments: Arguments) -> None:
    store.update_stream_mode(arguments.stream_name(), _mode(arguments))


def update_stream(store: StreamStore, arguments: Arguments) -> dict[str, object]:
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


def set_write_quota(store: StreamStore, arguments: Arguments) -> None:
    store.update_stream(
        arguments.stream_name(), write_quota_kb_per_sec=arguments.whole_or_none("WriteQuotaKbPerSec") or None
    )


def update_max_record_size(store: StreamStore, arguments: Arguments) -> None:
    store.describe_stream_summary(arguments.stream_name())  # which must exist
    _refuse_large_records(arguments)


def describe_limits(store: StreamStore, arguments: Arguments) -> dict[str, object]:
    del arguments
    limits = store.describe_limits()
    return {
        "ShardLimit": limits.shard_limit,
        "OpenShardCount": limits.open_shard_count,
        "OnDemandStreamCount": limits.on_demand_stream_count,
        "OnDemandStreamCountLimit": limits.on_demand_stream_count_limit,
    }


@contextmanager
def _resharding(store: StreamStore) -> Generator[None]:
    """Say of a shard that is not there what AWS says where one is split or merged: other words than elsewhere."""
    try:
        yield
    except ResourceNotFoundException as error:
        if store.dialect is YANDEX or not error.resource.startswith("Shard "):
            raise
        shard = error.resource.removeprefix("Shard ")
        message = f"Could not find shard {shard} under account {store.account_id}."
        raise Refusal("ResourceNotFoundException", message) from error


def _has_retention(store: StreamStore, arguments: Arguments) -> bool:
    """Tell whether there is nothing to change, which AWS lets pass and YDB refuses."""
    if store.dialect is YANDEX:
        return False
    stream = store.describe_stream_summary(arguments.stream_name())
    return stream.retention_period_hours == arguments.whole("RetentionPeriodHours")


def _mode(arguments: Arguments) -> StreamMode:
    return parse_stream_mode(arguments.structure("StreamModeDetails").text("StreamMode"))


def _shard_filter(arguments: Arguments) -> ShardFilter | None:
    if not arguments.has("ShardFilter"):
        return None
    asked = arguments.structure("ShardFilter")
    return ShardFilter(
        parse_shard_filter_type(asked.text("Type")), asked.text_or_none("ShardId"), asked.seconds_or_none("Timestamp")
    )


def _quota(store: StreamStore, write_quota_kb_per_sec: int | None) -> dict[str, object]:
    """Only Yandex's streams have a quota to choose. 0 is none."""
    return {"WriteQuotaKbPerSec": write_quota_kb_per_sec or 0} if store.dialect is YANDEX else {}


def _refuse_large_records(arguments: Arguments) -> None:
    kib = arguments.whole("MaxRecordSizeInKiB", RECORD_KIB_MAX)
    if kib > RECORD_KIB_MAX:
        raise Refusal("InvalidArgumentException", f"A record has at most {RECORD_KIB_MAX} KiB here, not {kib} KiB.")
