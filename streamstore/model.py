"""The nouns: what requests and results are made of. Values only; nothing here reads or decides.

What is made for every record (``Record``, ``PutRecordResult``, ``NewRecord``, ``ShardCounter``) is a named tuple, the
rest frozen slotted dataclasses: building one of those takes five times as long.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple, NewType, Protocol, TypeVar, cast, get_args

from streamstore.limits import IDEMPOTENCY_WINDOW_MS_DEFAULT

__all__ = [
    "SHARD_LEVEL_METRICS",
    "STREAM_MODES",
    "ChildShard",
    "CommitReport",
    "Consumer",
    "ConsumerDescription",
    "ConsumerLag",
    "DescribeLimitsResult",
    "DialectName",
    "EncryptionType",
    "EnhancedMonitoringResult",
    "EntryLike",
    "FirstPut",
    "GetRecordsResult",
    "HashKeyRange",
    "IngestResult",
    "ListShardsResult",
    "ListStreamConsumersResult",
    "ListStreamsResult",
    "ListTagsForStreamResult",
    "NewRecord",
    "PutRecordResult",
    "PutRecordsEntry",
    "PutRecordsResult",
    "PutRecordsResultEntry",
    "Record",
    "SequenceNumberRange",
    "Shard",
    "ShardCounter",
    "ShardFilter",
    "ShardFilterType",
    "ShardIteratorType",
    "ShardLevelMetric",
    "StorageInfo",
    "StoredConsumer",
    "StoredShard",
    "StoredStream",
    "StreamDescription",
    "StreamDescriptionSummary",
    "StreamMode",
    "StreamNumber",
    "StreamRecord",
    "StreamSettings",
    "StreamSummary",
    "StreamUpdate",
    "SubscribeToShardEvent",
    "SyncMode",
    "Tag",
    "TailStart",
    "TimeSpan",
    "TrimResult",
    "UpdateShardCountResult",
    "UpdateStreamResult",
    "bytes_of_record",
    "datetime_of_ms",
    "new_named_tuple",
]

MS_PER_HOUR: Final = 3_600_000
TIME_MS_MAX: Final = 2**64 - 1  # eight bytes in a token
NamedTupleT = TypeVar("NamedTupleT", bound=tuple[object, ...])

StreamNumber = NewType("StreamNumber", int)
"""Identifies a stream on disk. Never reused, so a recreated stream shares nothing with the old one."""

EncryptionType = Literal["NONE"]
StreamStatus = Literal["ACTIVE"]
ConsumerStatus = Literal["ACTIVE"]
StreamMode = Literal["PROVISIONED", "ON_DEMAND"]
RECORDS_DATABASE_PREFIX: Final = b"records/"
"""With it begin the names of the databases whose values are never written over."""
STREAM_MODES: Final[tuple[StreamMode, ...]] = get_args(StreamMode)
ShardLevelMetric = Literal[
    "IncomingBytes",
    "OutgoingRecords",
    "IncomingRecords",
    "OutgoingBytes",
    "WriteProvisionedThroughputExceeded",
    "ReadProvisionedThroughputExceeded",
    "IteratorAgeMilliseconds",
    "ALL",
]
"""What can be counted of each shard; ``ALL`` is every other one."""
SHARD_LEVEL_METRICS: Final[tuple[ShardLevelMetric, ...]] = get_args(ShardLevelMetric)
SyncMode = Literal["full", "normal", "off"]
DialectName = Literal["yandex", "aws"]
TailStart = Literal["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"]
ShardIteratorType = Literal["AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER", "TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"]
ShardFilterType = Literal[
    "AFTER_SHARD_ID", "AT_TRIM_HORIZON", "FROM_TRIM_HORIZON", "AT_LATEST", "AT_TIMESTAMP", "FROM_TIMESTAMP"
]


class PutRecordResult(NamedTuple):
    """Where a record was stored. ``sequence_number`` is decimal text, counting from "0" in each shard."""

    shard_id: str
    sequence_number: str
    encryption_type: EncryptionType = "NONE"


class PutRecordsEntry(NamedTuple):
    """One record of ``put_records`` and ``ingest``. A plain tuple of its first two, three or all fields is as good."""

    data: bytes | bytearray | memoryview
    partition_key: str
    explicit_hash_key: str | None = None
    idempotency_key: str | None = None


EntryLike = (
    PutRecordsEntry | tuple[bytes, str] | tuple[bytes, str, str | None] | tuple[bytes, str, str | None, str | None]
)
"""What ``put_records`` and ``ingest`` take for a record."""


class PutRecordsResultEntry(NamedTuple):
    """What became of one entry: stored at a place, or not stored for the reason given."""

    shard_id: str | None
    sequence_number: str | None
    error_code: str | None = None
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class PutRecordsResult:
    """What became of the entries, in the order of the request."""

    failed_record_count: int
    records: list[PutRecordsResultEntry]
    encryption_type: EncryptionType = "NONE"


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What ``ingest`` has stored: how many records, their bytes of data, and the ids of the shards they went to.

    An entry whose idempotency key is remembered counts as stored, in the shard of the first put with that key.
    """

    record_count: int
    data_bytes: int
    shard_ids: frozenset[str]


class Record(NamedTuple):
    """One stored record. ``arrival_ms`` is its arrival time in milliseconds since 1970 UTC."""

    sequence_number: str
    partition_key: str
    data: bytes
    arrival_ms: int

    @property
    def approximate_arrival_timestamp(self) -> datetime:
        return datetime_of_ms(self.arrival_ms)

    @property
    def encryption_type(self) -> EncryptionType:
        return "NONE"


class StreamRecord(NamedTuple):
    """One stored record and the shard that it is in, as ``tail`` hands it out. Otherwise like ``Record``."""

    shard_id: str
    sequence_number: str
    partition_key: str
    data: bytes
    arrival_ms: int

    @property
    def approximate_arrival_timestamp(self) -> datetime:
        return datetime_of_ms(self.arrival_ms)

    @property
    def encryption_type(self) -> EncryptionType:
        return "NONE"


@dataclass(frozen=True, slots=True)
class HashKeyRange:
    """The hash keys of a shard, both ends inclusive, each 0 to 2**128 - 1."""

    starting_hash_key: int
    ending_hash_key: int

    def __contains__(self, hash_key: int) -> bool:
        return self.starting_hash_key <= hash_key <= self.ending_hash_key


@dataclass(frozen=True, slots=True)
class SequenceNumberRange:
    """The sequence numbers of a shard. ``ending_sequence_number`` is None while the shard is open."""

    starting_sequence_number: str
    ending_sequence_number: str | None = None


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard as ``describe_stream`` and ``list_shards`` show it."""

    shard_id: str
    hash_key_range: HashKeyRange
    sequence_number_range: SequenceNumberRange
    parent_shard_id: str | None = None
    adjacent_parent_shard_id: str | None = None


@dataclass(frozen=True, slots=True)
class ShardFilter:
    """Which shards ``list_shards`` shows. Those that have expired are never shown.

    ``AFTER_SHARD_ID``: those behind ``shard_id``. ``AT_LATEST``: the open ones. ``AT_TRIM_HORIZON``: those that were
    open at the trim horizon, which is the creation of a stream younger than its retention. ``FROM_TRIM_HORIZON``: all.
    ``AT_TIMESTAMP``: those created at or before ``timestamp`` that are open, or were closed at or after it.
    ``FROM_TIMESTAMP``: those that are open, or were closed at or after it. ``timestamp`` is an aware datetime or
    seconds since 1970. Source: ShardFilter of Kinesis.
    """

    type: ShardFilterType
    shard_id: str | None = None
    timestamp: datetime | float | None = None


@dataclass(frozen=True, slots=True)
class ChildShard:
    """A shard that continues a closed one."""

    shard_id: str
    parent_shards: tuple[str, ...]
    hash_key_range: HashKeyRange


@dataclass(frozen=True, slots=True)
class GetRecordsResult:
    """One page of a shard.

    ``next_shard_iterator`` continues behind the last record, or at the same place when there was none. It is
    None, and ``child_shards`` is filled, only at the end of a closed shard.
    ``millis_behind_latest`` is 0 exactly when the page reaches the newest record, otherwise the time from
    the page's last record to the newest one, at least 1.
    """

    records: Sequence[Record]
    next_shard_iterator: str | None
    millis_behind_latest: int
    child_shards: tuple[ChildShard, ...] = ()


@dataclass(frozen=True, slots=True)
class SubscribeToShardEvent:
    """What a subscription has to say: records in order, or none as a sign of life.

    ``continuation_sequence_number`` is where another subscription goes on: with AFTER_SEQUENCE_NUMBER behind the last
    record; with AT_SEQUENCE_NUMBER it hands out that one again. While a shard has had no record at all it is "0", and
    only AT_SEQUENCE_NUMBER is right. It is None, and ``child_shards`` is filled, only at the end of a closed shard.
    ``millis_behind_latest`` is that of ``GetRecordsResult``.
    """

    records: Sequence[Record]
    continuation_sequence_number: str | None
    millis_behind_latest: int
    child_shards: tuple[ChildShard, ...] = ()


class NewRecord(NamedTuple):
    """A validated record on its way in. ``hash_key`` decides its shard, ``sent_ms`` is when the caller sent it.

    ``sequence_number_for_ordering``, if given, must be a number that the target shard has passed. A record whose
    ``idempotency_key`` the stream remembers is not stored.
    """

    partition_key: str
    data: bytes
    hash_key: int
    sequence_number_for_ordering: int | None
    sent_ms: int
    idempotency_key: str | None = None


class FirstPut(NamedTuple):
    """Where the first put with an idempotency key was stored, and when it was sent."""

    shard_index: int
    sequence: int
    sent_ms: int


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """Milliseconds since 1970, both ends inclusive. The largest is later than any time."""

    first_ms: int = 0
    last_ms: int = TIME_MS_MAX


@dataclass(frozen=True, slots=True)
class StoredShard:
    """A shard as the stream's entry keeps it.

    ``parent_indexes`` holds none, one (split) or two (merge) indexes, whose shards may have expired since.
    ``first_sequence`` is the number of its first record ever. ``next_sequence_at_close`` and ``closed_ms`` are None
    while the shard is open; afterwards the number that its next record would have had, and a time that no record
    of the shard arrived after.
    """

    hash_key_range: HashKeyRange
    parent_indexes: tuple[int, ...] = ()
    first_sequence: int = 0
    next_sequence_at_close: int | None = None
    created_ms: int = 0
    closed_ms: int | None = None

    @property
    def ending_sequence(self) -> int | None:
        """The last number that belongs to a closed shard: one that stayed empty has its first number to itself."""
        if self.next_sequence_at_close is None:
            return None
        return max(self.next_sequence_at_close - 1, self.first_sequence)

    def was_open_in(self, span: TimeSpan) -> bool:
        """Tell whether it was open at any time of the span. It was at those when it was created and closed, too."""
        return self.created_ms <= span.last_ms and (self.closed_ms is None or self.closed_ms >= span.first_ms)


@dataclass(frozen=True, slots=True)
class StoredStream:
    """A stream as the store keeps it. ``shards`` maps indexes, in rising order and never reused, to shards.

    ``idempotency_window_ms`` is how long an idempotency key is remembered. ``resized_ms`` holds when its shard count
    was updated within the last day, where the dialect bounds that. ``shard_level_metrics`` are in the order of
    ``SHARD_LEVEL_METRICS``, each once, and "ALL" alone.
    """

    name: str
    number: StreamNumber
    creation_ms: int
    retention_hours: int
    write_quota_kb_per_sec: int | None
    shards: Mapping[int, StoredShard]
    next_shard_index: int
    has_read_quota: bool = False
    mode: StreamMode = "PROVISIONED"
    idempotency_window_ms: int = IDEMPOTENCY_WINDOW_MS_DEFAULT
    tags: tuple[tuple[str, str], ...] = ()
    resized_ms: tuple[int, ...] = ()
    shard_level_metrics: tuple[ShardLevelMetric, ...] = ()

    @property
    def retention_ms(self) -> int:
        return self.retention_hours * MS_PER_HOUR

    def trim_horizon_ms(self, now_ms: int) -> int:
        """Return the time of the oldest records that it may have."""
        return max(now_ms - self.retention_ms, self.creation_ms)

    @property
    def open_shard_count(self) -> int:
        return sum(shard.next_sequence_at_close is None for shard in self.shards.values())

    def has_expired(self, shard: StoredShard, now_ms: int) -> bool:
        """Tell whether all records of a closed shard are older than the retention. Then the shard is no more."""
        return shard.closed_ms is not None and shard.closed_ms + self.retention_ms < now_ms

    def expired_indexes(self, now_ms: int) -> list[int]:
        return [index for index, shard in self.shards.items() if self.has_expired(shard, now_ms)]


@dataclass(frozen=True, slots=True)
class StoredConsumer:
    """A consumer as the store keeps it. ``epoch`` counts who has taken it over, from 0, so that the last one wins."""

    stream_number: StreamNumber
    name: str
    creation_ms: int
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """What a caller asks of a new stream, validated."""

    name: str
    shard_count: int
    retention_hours: int
    write_quota_kb_per_sec: int | None
    has_read_quota: bool
    idempotency_window_ms: int
    mode: StreamMode = "PROVISIONED"
    tags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class StreamUpdate:
    """What a caller asks to change of a stream, validated. None, and "keep" for the quota, leave as it is."""

    shard_count: int | None
    retention_hours: int | None
    write_quota_kb_per_sec: int | Literal["keep"] | None
    has_read_quota: bool | None


class ShardCounter(NamedTuple):
    """The per-shard counter, read and written in the transaction of the records that it numbers.

    The shard holds exactly the records ``first_sequence`` to ``next_sequence - 1``. The two ``_full_at_ns`` times are
    when the shard's quota of bytes and of records is whole again; 0 if it never was touched.
    """

    first_sequence: int = 0
    next_sequence: int = 0
    last_arrival_ms: int = 0
    quota_bytes_full_at_ns: int = 0
    quota_records_full_at_ns: int = 0


@dataclass(frozen=True, slots=True)
class StreamDescription:
    """A stream as ``describe_stream`` shows it, with one page of its shards.

    ``stream_arn`` is an ARN in the dialect "aws", and the name of the stream in "yandex". ``enhanced_monitoring`` are
    the metrics that are shown of each of its shards.
    """

    stream_name: str
    stream_arn: str
    stream_status: StreamStatus
    stream_creation_timestamp: datetime
    retention_period_hours: int
    write_quota_kb_per_sec: int | None
    shards: tuple[Shard, ...]
    has_more_shards: bool
    encryption_type: EncryptionType = "NONE"
    stream_mode: StreamMode = "PROVISIONED"
    enhanced_monitoring: tuple[ShardLevelMetric, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamDescriptionSummary:
    """A stream as ``describe_stream_summary`` shows it: what it is set to, and its shards and consumers counted."""

    stream_name: str
    stream_status: StreamStatus
    stream_mode: StreamMode
    stream_creation_timestamp: datetime
    retention_period_hours: int
    write_quota_kb_per_sec: int | None
    read_quota: bool
    idempotency_window_seconds: int
    open_shard_count: int
    consumer_count: int
    encryption_type: EncryptionType = "NONE"
    enhanced_monitoring: tuple[ShardLevelMetric, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamSummary:
    """A stream as ``list_streams`` shows it."""

    stream_name: str
    stream_status: StreamStatus
    stream_mode: StreamMode
    stream_creation_timestamp: datetime


@dataclass(frozen=True, slots=True)
class ListStreamsResult:
    """One page of streams in bytewise order of their names; ``next_token`` is None on the last page."""

    stream_names: tuple[str, ...]
    has_more_streams: bool
    next_token: str | None
    stream_summaries: tuple[StreamSummary, ...]


@dataclass(frozen=True, slots=True)
class ListShardsResult:
    """One page of shards in the order of their ids; ``next_token`` is None on the last page."""

    shards: tuple[Shard, ...]
    next_token: str | None


@dataclass(frozen=True, slots=True)
class Consumer:
    """A consumer registered with a stream. One that is registered again under its name has another ARN."""

    consumer_name: str
    consumer_arn: str
    consumer_status: ConsumerStatus
    consumer_creation_timestamp: datetime


@dataclass(frozen=True, slots=True)
class ConsumerDescription:
    """A consumer as ``describe_stream_consumer`` shows it, with the ARN of its stream."""

    consumer_name: str
    consumer_arn: str
    consumer_status: ConsumerStatus
    consumer_creation_timestamp: datetime
    stream_arn: str


@dataclass(frozen=True, slots=True)
class ListStreamConsumersResult:
    """One page of consumers in bytewise order of their names; ``next_token`` is None on the last page."""

    consumers: tuple[Consumer, ...]
    next_token: str | None


@dataclass(frozen=True, slots=True)
class ConsumerLag:
    """What a durable consumer has still to read behind its last checkpoint.

    ``millis_behind_latest`` is the time from its next record to the newest one of that shard, at least 1, of the shard
    where this is longest; 0 when there is nothing to read. ``records_by_shard`` maps shard ids to numbers of records.
    """

    record_count: int
    millis_behind_latest: int
    records_by_shard: Mapping[str, int]


class CommitReport(NamedTuple):
    """What one commit has stored, and how long it took from its first change until it was durable.

    ``payload_bytes`` counts what its requests brought with them; a put of many counts whole, though its shard may have
    had no quota left for a part.
    """

    requests: int
    records: int
    records_throttled: int
    payload_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class StorageInfo:
    """The file of a store, and who reads it.

    ``map_bytes`` is the address space that the file may grow into before it is mapped anew. ``reader_slots_used`` is
    how many threads of all processes have ever read at the same time.
    """

    file_bytes: int
    map_bytes: int
    reader_slots_used: int


@dataclass(frozen=True, slots=True)
class UpdateShardCountResult:
    """How many open shards the stream had, and how many it has now."""

    stream_name: str
    current_shard_count: int
    target_shard_count: int


@dataclass(frozen=True, slots=True)
class UpdateStreamResult:
    """What the stream is set to now, whether the update named it or not. ``shard_count`` counts the open shards."""

    stream_name: str
    shard_count: int
    write_quota_kb_per_sec: int | None
    retention_period_hours: int


@dataclass(frozen=True, slots=True)
class EnhancedMonitoringResult:
    """The metrics that were shown of each shard of the stream before the call, and those that are from now on."""

    stream_name: str
    stream_arn: str
    current_shard_level_metrics: tuple[ShardLevelMetric, ...]
    desired_shard_level_metrics: tuple[ShardLevelMetric, ...]


@dataclass(frozen=True, slots=True)
class DescribeLimitsResult:
    """How many shards, expired and closed ones too, and on-demand streams the store may hold, and how many it has."""

    shard_limit: int
    open_shard_count: int
    on_demand_stream_count: int
    on_demand_stream_count_limit: int


@dataclass(frozen=True, slots=True)
class Tag:
    """A label of a stream: a key and its value, which may be empty."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class ListTagsForStreamResult:
    """One page of tags in bytewise order of their keys."""

    tags: tuple[Tag, ...]
    has_more_tags: bool


@dataclass(frozen=True, slots=True)
class TrimResult:
    """What ``trim`` has deleted: how many expired records, expired shards, and forgotten idempotency keys."""

    record_count: int
    shard_count: int
    idempotency_key_count: int = 0


class _NewNamedTuple(Protocol):
    def __call__(self, cls: type[NamedTupleT], fields: tuple[object, ...], /) -> NamedTupleT: ...


new_named_tuple: Final = cast(
    _NewNamedTuple,
    tuple.__new__,  # pyright: ignore[reportUnknownMemberType]
)
"""What a named tuple's own constructor calls, at half the price. Nothing checks number and types of the fields."""


def bytes_of_record(record: NewRecord | Record | StreamRecord) -> int:
    """Return the bytes of its data and partition key, which is what limits and quotas count."""
    key = record.partition_key
    return len(record.data) + (len(key) if key.isascii() else len(key.encode()))


def datetime_of_ms(time_ms: int) -> datetime:
    """Return milliseconds since 1970 as an aware UTC datetime, exact to the millisecond."""
    seconds, milliseconds = divmod(time_ms, 1000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=milliseconds * 1000)
