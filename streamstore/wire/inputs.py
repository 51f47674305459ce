"""The shape of each action's request, as data. The rules are those of ``limits.py``, ``dialect.py``, ``validate.py``.

Source: the Kinesis model of botocore; UpdateStream and SetWriteQuota: the Yandex documents. Members that mean nothing
to a store of one machine (``StreamId``) are not named here, which is why they are ignored.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from streamstore.dialect import YANDEX, Dialect
from streamstore.limits import (
    ARN_CHARACTERS_MAX,
    CONSUMER_NAME_CHARACTERS_MAX,
    GET_RECORDS_LIMIT_MAX,
    LIST_LIMIT_MAX,
    LIST_TAGS_LIMIT_MAX,
    PARTITION_KEY_CHARACTERS_MAX,
    PUT_RECORDS_ENTRIES_MAX,
    RECORD_DATA_BYTES_MAX,
    SHARD_ID_CHARACTERS_MAX,
    SHARD_LEVEL_METRICS_PER_CALL_MAX,
    STREAM_NAME_CHARACTERS_MAX,
    TAG_KEY_CHARACTERS_MAX,
    TAG_VALUE_CHARACTERS_MAX,
    TAGS_PER_CALL_MAX,
    TOKEN_CHARACTERS_MAX,
)
from streamstore.model import SHARD_LEVEL_METRICS, STREAM_MODES
from streamstore.validate import HASH_KEY_PATTERN, SEQUENCE_NUMBER_PATTERN, SHARD_ID_PATTERN
from streamstore.validate_consumers import CONSUMER_NAME_PATTERN
from streamstore.validate_reading import SHARD_FILTER_TYPES, SHARD_ITERATOR_TYPES
from streamstore.wire.shapes import Blob, Flag, ListOf, MapOf, Member, Shape, Structure, Text, Time, Whole

__all__ = ["requests_of"]

SHARD_ID: Final = Text(1, SHARD_ID_CHARACTERS_MAX, SHARD_ID_PATTERN)
HASH_KEY: Final = Text(pattern=HASH_KEY_PATTERN)
SEQUENCE_NUMBER: Final = Text(pattern=SEQUENCE_NUMBER_PATTERN)
TOKEN: Final = Text(1, TOKEN_CHARACTERS_MAX)
PAGING_TOKEN: Final = Text(1, 1_048_576)
PARTITION_KEY: Final = Text(1, PARTITION_KEY_CHARACTERS_MAX)
DATA: Final = Blob(RECORD_DATA_BYTES_MAX)
PAGE_SIZE: Final = Whole(1, LIST_LIMIT_MAX)
RECORDS_LIMIT: Final = Whole(1, GET_RECORDS_LIMIT_MAX)
AT_LEAST_ONE: Final = Whole(1)
NOT_NEGATIVE: Final = Whole(0)
ANY_WHOLE: Final = Whole()
ANY_TEXT: Final = Text()
CONSUMER_NAME: Final = Text(1, CONSUMER_NAME_CHARACTERS_MAX, CONSUMER_NAME_PATTERN)
TAG_KEY: Final = Text(1, TAG_KEY_CHARACTERS_MAX)
TAGS: Final = MapOf(TAG_KEY, Text(0, TAG_VALUE_CHARACTERS_MAX), 1, 200)
TAG_KEYS: Final = ListOf(TAG_KEY, 1, TAGS_PER_CALL_MAX)
ENCRYPTION_TYPE: Final = Text(choices=("NONE", "KMS"))
KEY_ID: Final = Text(1, 2_048)
RECORD_SIZE: Final = Whole(1_024, 10_240)

# Members that name a stream, a consumer or either: one of them is needed. YDB spells ARN as Arn.
STREAM: Final = ("StreamName", "StreamARN", "StreamArn")
STREAM_ARN: Final = ("StreamARN", "StreamArn")
CONSUMER_ARN: Final = ("ConsumerARN", "ConsumerArn")
RESOURCE_ARN: Final = ("ResourceARN",)

AWS_STREAM_ARN: Final = re.compile(r"arn:aws.*:kinesis:.*:[0-9]{12}:stream/\S+")
AWS_CONSUMER_ARN: Final = re.compile(
    r"^(arn):aws.*:kinesis:.*:[0-9]{12}:.*stream\/[a-zA-Z0-9_.-]+\/consumer\/[a-zA-Z0-9_.-]+:[0-9]+"
)
AWS_RESOURCE_ARN: Final = re.compile(r"arn:aws.*:kinesis:.*:[0-9]{12}:.*stream/\S+")


def _structure(required: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None) -> Structure:
    members: dict[str, Member] = {name: Member(shape, required=True) for name, shape in required.items()}
    members.update({name: Member(shape) for name, shape in (optional or {}).items()})
    return Structure(members)


STREAM_MODE_DETAILS: Final = _structure({"StreamMode": Text(choices=STREAM_MODES)})
SHARD_FILTER: Final = _structure({"Type": Text(choices=SHARD_FILTER_TYPES)}, {"ShardId": SHARD_ID, "Timestamp": Time()})
STARTING_POSITION: Final = _structure(
    {"Type": Text(choices=SHARD_ITERATOR_TYPES)}, {"SequenceNumber": SEQUENCE_NUMBER, "Timestamp": Time()}
)
ENTRY: Final = _structure({"Data": DATA, "PartitionKey": PARTITION_KEY}, {"ExplicitHashKey": HASH_KEY})
BILLING_COMMITMENT: Final = _structure({"Status": Text(choices=("ENABLED", "DISABLED"))})


@dataclass(frozen=True, slots=True)
class _Request:
    """A request: the members that name what it is about, of which one is needed, and the rest."""

    named_by: tuple[str, ...] = ()
    required: Mapping[str, Shape] = field(default_factory=dict[str, Shape])
    optional: Mapping[str, Shape] = field(default_factory=dict[str, Shape])
    may_be_nameless: bool = False

    def shape(self, names: Mapping[str, Shape]) -> Structure:
        members: dict[str, Member] = {name: Member(names[name]) for name in self.named_by}
        members.update(_structure(self.required, self.optional).members)
        return Structure(members, () if self.may_be_nameless else self.named_by)


RETENTION: Final[Mapping[str, Shape]] = {"RetentionPeriodHours": ANY_WHOLE}
MONITORING: Final[Mapping[str, Shape]] = {
    "ShardLevelMetrics": ListOf(Text(choices=SHARD_LEVEL_METRICS), 1, SHARD_LEVEL_METRICS_PER_CALL_MAX)
}
ENCRYPTION: Final[Mapping[str, Shape]] = {"EncryptionType": ENCRYPTION_TYPE, "KeyId": KEY_ID}
DRY_RUN: Final[Mapping[str, Shape]] = {"DryRun": Flag()}
CREATION: Final[Mapping[str, Shape]] = {
    "ShardCount": AT_LEAST_ONE,
    "StreamModeDetails": STREAM_MODE_DETAILS,
    "Tags": TAGS,
    "WarmThroughputMiBps": NOT_NEGATIVE,
    "MaxRecordSizeInKiB": RECORD_SIZE,
}
QUOTA: Final[Mapping[str, Shape]] = {"WriteQuotaKbPerSec": ANY_WHOLE}

REQUESTS: Final[Mapping[str, _Request]] = {
    "AddTagsToStream": _Request(STREAM, {"Tags": TAGS}),
    "CreateStream": _Request(("StreamName",), optional=CREATION),
    "DecreaseStreamRetentionPeriod": _Request(STREAM, RETENTION),
    "DeleteResourcePolicy": _Request(RESOURCE_ARN),
    "DeleteStream": _Request(STREAM, optional={"EnforceConsumerDeletion": Flag()}),
    "DeregisterStreamConsumer": _Request(
        (*CONSUMER_ARN, *STREAM_ARN), optional={"ConsumerName": CONSUMER_NAME}, may_be_nameless=True
    ),
    "DescribeAccountSettings": _Request(),
    "DescribeLimits": _Request(),
    "DescribeStream": _Request(STREAM, optional={"Limit": PAGE_SIZE, "ExclusiveStartShardId": SHARD_ID}),
    "DescribeStreamConsumer": _Request(
        (*CONSUMER_ARN, *STREAM_ARN), optional={"ConsumerName": CONSUMER_NAME}, may_be_nameless=True
    ),
    "DescribeStreamSummary": _Request(STREAM),
    "DisableEnhancedMonitoring": _Request(STREAM, MONITORING),
    "EnableEnhancedMonitoring": _Request(STREAM, MONITORING),
    "GetRecords": _Request(
        STREAM_ARN, {"ShardIterator": TOKEN}, {"Limit": RECORDS_LIMIT, **DRY_RUN}, may_be_nameless=True
    ),
    "GetResourcePolicy": _Request(RESOURCE_ARN),
    "GetShardIterator": _Request(
        STREAM,
        {"ShardId": SHARD_ID, "ShardIteratorType": Text(choices=SHARD_ITERATOR_TYPES)},
        {"StartingSequenceNumber": SEQUENCE_NUMBER, "Timestamp": Time(), **DRY_RUN},
    ),
    "IncreaseStreamRetentionPeriod": _Request(STREAM, RETENTION),
    "ListShards": _Request(
        STREAM,
        optional={
            "NextToken": PAGING_TOKEN,
            "ExclusiveStartShardId": SHARD_ID,
            "MaxResults": PAGE_SIZE,
            "StreamCreationTimestamp": Time(),
            "ShardFilter": SHARD_FILTER,
        },
        may_be_nameless=True,
    ),
    "ListStreamConsumers": _Request(
        STREAM_ARN,
        optional={"NextToken": PAGING_TOKEN, "MaxResults": PAGE_SIZE, "StreamCreationTimestamp": Time()},
    ),
    "ListStreams": _Request(
        ("ExclusiveStartStreamName",), optional={"Limit": PAGE_SIZE, "NextToken": PAGING_TOKEN}, may_be_nameless=True
    ),
    "ListTagsForResource": _Request(RESOURCE_ARN),
    "ListTagsForStream": _Request(
        STREAM, optional={"ExclusiveStartTagKey": TAG_KEY, "Limit": Whole(1, LIST_TAGS_LIMIT_MAX)}
    ),
    "MergeShards": _Request(STREAM, {"ShardToMerge": SHARD_ID, "AdjacentShardToMerge": SHARD_ID}),
    "PutRecord": _Request(
        STREAM,
        {"Data": DATA, "PartitionKey": PARTITION_KEY},
        {"ExplicitHashKey": HASH_KEY, "SequenceNumberForOrdering": SEQUENCE_NUMBER, **DRY_RUN},
    ),
    "PutRecords": _Request(STREAM, {"Records": ListOf(ENTRY, 1, PUT_RECORDS_ENTRIES_MAX)}, DRY_RUN),
    "PutResourcePolicy": _Request(RESOURCE_ARN, {"Policy": ANY_TEXT}),
    "RegisterStreamConsumer": _Request(STREAM_ARN, {"ConsumerName": CONSUMER_NAME}, {"Tags": TAGS}),
    "RemoveTagsFromStream": _Request(STREAM, {"TagKeys": TAG_KEYS}),
    "SplitShard": _Request(STREAM, {"ShardToSplit": SHARD_ID, "NewStartingHashKey": HASH_KEY}),
    "StartStreamEncryption": _Request(STREAM, ENCRYPTION),
    "StopStreamEncryption": _Request(STREAM, ENCRYPTION),
    "SubscribeToShard": _Request(CONSUMER_ARN, {"ShardId": SHARD_ID, "StartingPosition": STARTING_POSITION}, DRY_RUN),
    "TagResource": _Request(RESOURCE_ARN, {"Tags": TAGS}),
    "UntagResource": _Request(RESOURCE_ARN, {"TagKeys": TAG_KEYS}),
    "UpdateAccountSettings": _Request(required={"MinimumThroughputBillingCommitment": BILLING_COMMITMENT}),
    "UpdateMaxRecordSize": _Request(STREAM_ARN, {"MaxRecordSizeInKiB": RECORD_SIZE}),
    "UpdateShardCount": _Request(
        STREAM, {"TargetShardCount": AT_LEAST_ONE, "ScalingType": Text(choices=("UNIFORM_SCALING",))}
    ),
    "UpdateStreamMode": _Request(
        STREAM_ARN, {"StreamModeDetails": STREAM_MODE_DETAILS}, {"WarmThroughputMiBps": NOT_NEGATIVE}
    ),
    "UpdateStreamWarmThroughput": _Request(STREAM, {"WarmThroughputMiBps": NOT_NEGATIVE}),
}
REQUESTS_OF_YANDEX: Final[Mapping[str, _Request]] = {
    "CreateStream": _Request(
        ("StreamName",), optional={**CREATION, **QUOTA, **RETENTION, "RetentionStorageMegabytes": ANY_WHOLE}
    ),
    "SetWriteQuota": _Request(STREAM, QUOTA),
    "UpdateStream": _Request(
        STREAM, optional={"ShardCount": ANY_WHOLE, "TargetShardCount": ANY_WHOLE, **QUOTA, **RETENTION}
    ),
}


def requests_of(dialect: Dialect) -> Mapping[str, Structure]:
    """Return the shape of the request of each action that the service has in a dialect."""
    is_yandex = dialect is YANDEX
    # A path in front of a name, which Yandex's own clients send, is taken off before the name is looked at.
    stream_name = (
        Text(1, ARN_CHARACTERS_MAX) if is_yandex else Text(1, STREAM_NAME_CHARACTERS_MAX, dialect.stream_name_pattern)
    )
    patterns = {STREAM_ARN: AWS_STREAM_ARN, CONSUMER_ARN: AWS_CONSUMER_ARN, RESOURCE_ARN: AWS_RESOURCE_ARN}
    names: dict[str, Shape] = {"StreamName": stream_name, "ExclusiveStartStreamName": stream_name}
    for members, pattern in patterns.items():
        arn = Text(1, ARN_CHARACTERS_MAX, None if is_yandex else pattern)
        names.update(dict.fromkeys(members, arn))
    requests = {**REQUESTS, **REQUESTS_OF_YANDEX} if is_yandex else REQUESTS
    return {action: request.shape(names) for action, request in requests.items()}
