"""streamstore: a durable embedded storage engine for data streams.

>>> import tempfile
>>> from streamstore import StreamStore
>>> with StreamStore(tempfile.mkdtemp()) as store:
...     store.create_stream("clicks", shard_count=4)
...     put = store.put_record("clicks", b"hello", partition_key="user1")
...     [record.data for record in store.read("clicks", put.shard_id)]
[b'hello']
"""

from importlib import import_module
from typing import TYPE_CHECKING

from streamstore.check import check_store, check_store_apart
from streamstore.consumer import StreamConsumer
from streamstore.errors import (
    CorruptRecordError,
    ExpiredIteratorException,
    ExpiredNextTokenException,
    InvalidArgumentException,
    LimitExceededException,
    OutcomeUnknownError,
    ProvisionedThroughputExceededException,
    RequestError,
    ResourceInUseException,
    ResourceNotFoundException,
    StorageError,
    StoreClosedError,
    StoreForkedError,
    StoreFormatError,
    StoreFullError,
    StoreLockedError,
    StoreNotFoundError,
    StreamStoreError,
)
from streamstore.feed import Feed
from streamstore.model import (
    ChildShard,
    CommitReport,
    Consumer,
    ConsumerDescription,
    ConsumerLag,
    DescribeLimitsResult,
    DialectName,
    EnhancedMonitoringResult,
    GetRecordsResult,
    HashKeyRange,
    IngestResult,
    ListShardsResult,
    ListStreamConsumersResult,
    ListStreamsResult,
    ListTagsForStreamResult,
    PutRecordResult,
    PutRecordsEntry,
    PutRecordsResult,
    PutRecordsResultEntry,
    Record,
    SequenceNumberRange,
    Shard,
    ShardFilter,
    ShardFilterType,
    ShardIteratorType,
    ShardLevelMetric,
    StorageInfo,
    StreamDescription,
    StreamDescriptionSummary,
    StreamMode,
    StreamRecord,
    StreamSummary,
    SubscribeToShardEvent,
    SyncMode,
    Tag,
    TrimResult,
    UpdateShardCountResult,
    UpdateStreamResult,
)
from streamstore.salvage import LostRecords, SalvageResult, salvage_store
from streamstore.store import StreamStore

if TYPE_CHECKING:
    from streamstore.aio import AsyncFeed, AsyncStreamConsumer, AsyncStreamStore
else:

    def __getattr__(name: str) -> object:
        """Import what tasks use when it is asked for: asyncio takes as long to import as half of the rest."""
        if name not in ("AsyncFeed", "AsyncStreamConsumer", "AsyncStreamStore"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module("streamstore.aio"), name)


__all__ = [
    "AsyncFeed",
    "AsyncStreamConsumer",
    "AsyncStreamStore",
    "ChildShard",
    "CommitReport",
    "Consumer",
    "ConsumerDescription",
    "ConsumerLag",
    "CorruptRecordError",
    "DescribeLimitsResult",
    "DialectName",
    "EnhancedMonitoringResult",
    "ExpiredIteratorException",
    "ExpiredNextTokenException",
    "Feed",
    "GetRecordsResult",
    "HashKeyRange",
    "IngestResult",
    "InvalidArgumentException",
    "LimitExceededException",
    "ListShardsResult",
    "ListStreamConsumersResult",
    "ListStreamsResult",
    "ListTagsForStreamResult",
    "LostRecords",
    "OutcomeUnknownError",
    "ProvisionedThroughputExceededException",
    "PutRecordResult",
    "PutRecordsEntry",
    "PutRecordsResult",
    "PutRecordsResultEntry",
    "Record",
    "RequestError",
    "ResourceInUseException",
    "ResourceNotFoundException",
    "SalvageResult",
    "SequenceNumberRange",
    "Shard",
    "ShardFilter",
    "ShardFilterType",
    "ShardIteratorType",
    "ShardLevelMetric",
    "StorageError",
    "StorageInfo",
    "StoreClosedError",
    "StoreForkedError",
    "StoreFormatError",
    "StoreFullError",
    "StoreLockedError",
    "StoreNotFoundError",
    "StreamConsumer",
    "StreamDescription",
    "StreamDescriptionSummary",
    "StreamMode",
    "StreamRecord",
    "StreamStore",
    "StreamStoreError",
    "StreamSummary",
    "SubscribeToShardEvent",
    "SyncMode",
    "Tag",
    "TrimResult",
    "UpdateShardCountResult",
    "UpdateStreamResult",
    "check_store",
    "check_store_apart",
    "salvage_store",
]
