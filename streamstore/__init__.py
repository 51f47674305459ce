"""streamstore: a durable embedded storage engine for data streams.

>>> import tempfile
>>> from streamstore import StreamStore
>>> with StreamStore(tempfile.mkdtemp()) as store:
...     store.create_stream("clicks", shard_count=4)
...     put = store.put_record("clicks", b"hello", partition_key="user1")
...     [record.data for record in store.read("clicks", put.shard_id)]
[b'hello']
"""

from streamstore.aio import AsyncFeed, AsyncStreamConsumer, AsyncStreamStore
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
    Consumer,
    ConsumerDescription,
    ConsumerLag,
    GetRecordsResult,
    HashKeyRange,
    IngestResult,
    ListShardsResult,
    ListStreamConsumersResult,
    ListStreamsResult,
    PutRecordResult,
    PutRecordsEntry,
    PutRecordsResult,
    PutRecordsResultEntry,
    Record,
    SequenceNumberRange,
    Shard,
    ShardIteratorType,
    StreamDescription,
    StreamRecord,
    SyncMode,
    TrimResult,
    UpdateShardCountResult,
)
from streamstore.store import StreamStore

__all__ = [
    "AsyncFeed",
    "AsyncStreamConsumer",
    "AsyncStreamStore",
    "ChildShard",
    "Consumer",
    "ConsumerDescription",
    "ConsumerLag",
    "CorruptRecordError",
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
    "SequenceNumberRange",
    "Shard",
    "ShardIteratorType",
    "StorageError",
    "StoreClosedError",
    "StoreForkedError",
    "StoreFormatError",
    "StoreFullError",
    "StoreLockedError",
    "StoreNotFoundError",
    "StreamConsumer",
    "StreamDescription",
    "StreamRecord",
    "StreamStore",
    "StreamStoreError",
    "SyncMode",
    "TrimResult",
    "UpdateShardCountResult",
]
