"""What the actions on records do: the operation of the store that each stands for, and its answer on the wire."""

import asyncio
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Generic, NamedTuple, TypeVar

from streamstore import AsyncFeed, AsyncStreamStore, Feed, StreamStore
from streamstore.limits import GET_RECORDS_LIMIT_MAX
from streamstore.model import (
    PutRecordResult,
    PutRecordsEntry,
    PutRecordsResult,
    PutRecordsResultEntry,
    ShardIteratorType,
    SubscribeToShardEvent,
)
from streamstore.validate_reading import parse_shard_iterator_type
from streamstore.wire.arguments import Arguments
from streamstore.wire.members import wire_value
from streamstore.wire.refusal import Refusal

__all__ = [
    "Started",
    "get_records",
    "get_shard_iterator",
    "put_record",
    "put_records",
    "shard_that_throttled",
    "start_put_record",
    "start_put_records",
    "start_subscribe_to_shard",
    "subscribe_to_shard",
]

T = TypeVar("T")
THROTTLED_SHARD: Final = re.compile(r"for shard (\S+) in stream ")


class Started(NamedTuple, Generic[T]):
    """A change that is under way, and how its result is answered."""

    future: "asyncio.Future[T]"
    output_of: Callable[[T], dict[str, object]]

    def output(self) -> dict[str, object]:
        """Return the answer, once the future is done. Raises the error of the commit."""
        return self.output_of(self.future.result())


def put_record(store: StreamStore, arguments: Arguments) -> dict[str, object]:
    return _output_of_put_record(_put(store.put_record, arguments))


def start_put_record(store: AsyncStreamStore, arguments: Arguments) -> "Started[PutRecordResult]":
    return Started(_put(store.submit_record, arguments), _output_of_put_record)


def put_records(store: StreamStore, arguments: Arguments) -> dict[str, object]:
    return _output_of_put_records(store.put_records(arguments.stream_name(), _entries(arguments)), arguments.account_id)


def start_put_records(store: AsyncStreamStore, arguments: Arguments) -> "Started[PutRecordsResult]":
    putting = asyncio.ensure_future(store.put_records(arguments.stream_name(), _entries(arguments)))
    return Started(putting, partial(_output_of_put_records, account_id=arguments.account_id))


def get_shard_iterator(store: StreamStore, arguments: Arguments) -> dict[str, object]:
    _refuse_dry_run(arguments)
    iterator = store.get_shard_iterator(
        arguments.stream_name(),
        arguments.text("ShardId"),
        _iterator_type(arguments, "ShardIteratorType"),
        starting_sequence_number=arguments.text_or_none("StartingSequenceNumber"),
        timestamp=_timestamp(arguments, "ShardIteratorType"),
    )
    return {"ShardIterator": iterator}


def get_records(store: StreamStore, arguments: Arguments) -> dict[str, object]:
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


def subscribe_to_shard(store: StreamStore, arguments: Arguments) -> Feed[SubscribeToShardEvent]:
    return _subscribe(store.subscribe_to_shard, arguments)


def start_subscribe_to_shard(store: AsyncStreamStore, arguments: Arguments) -> AsyncFeed[SubscribeToShardEvent]:
    return _subscribe(store.subscribe_to_shard, arguments)


def _put(put: Callable[..., T], arguments: Arguments) -> T:
    """Put what the arguments say, with an operation of either kind of store."""
    _refuse_dry_run(arguments)
    return put(
        arguments.stream_name(),
        arguments.data("Data"),
        arguments.text("PartitionKey"),
        explicit_hash_key=arguments.text_or_none("ExplicitHashKey"),
        sequence_number_for_ordering=arguments.text_or_none("SequenceNumberForOrdering"),
        idempotency_key=arguments.retry_key,
    )


def _subscribe(subscribe: Callable[..., T], arguments: Arguments) -> T:
    """Subscribe to what the arguments say, with ``subscribe_to_shard`` of either kind of store."""
    _refuse_dry_run(arguments)
    start = arguments.structure("StartingPosition")
    return subscribe(
        arguments.consumer_arn(),
        arguments.text("ShardId"),
        _iterator_type(start, "Type"),
        starting_sequence_number=start.text_or_none("SequenceNumber"),
        timestamp=_timestamp(start, "Type"),
    )


def _output_of_put_record(result: PutRecordResult) -> dict[str, object]:
    return {
        "ShardId": result.shard_id,
        "SequenceNumber": result.sequence_number,
        "EncryptionType": result.encryption_type,
    }


def _output_of_put_records(result: PutRecordsResult, account_id: str) -> dict[str, object]:
    return {
        "FailedRecordCount": result.failed_record_count,
        "Records": [
            {"ShardId": entry.shard_id, "SequenceNumber": entry.sequence_number}
            if entry.error_code is None
            else {"ErrorCode": entry.error_code, "ErrorMessage": f"{_problem(entry)} under account {account_id}."}
            for entry in result.records
        ],
        "EncryptionType": result.encryption_type,
    }


def shard_that_throttled(entry: Mapping[str, object]) -> str:
    """Return the id of the shard whose quota refused an entry of an answer: nothing but its message tells that."""
    match = THROTTLED_SHARD.search(str(entry["ErrorMessage"]))
    assert match is not None
    return match[1]


def _problem(entry: PutRecordsResultEntry) -> str:
    """Return what the service says of an entry that a quota refused: the shard and the stream, not the remedy."""
    return (entry.error_message or "").partition(";")[0]


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


def _timestamp(arguments: Arguments, member: str) -> float | None:
    """Return the time that the type of an iterator asks for. One given with another type is ignored by the service."""
    return arguments.seconds_or_none("Timestamp") if arguments.text(member) == "AT_TIMESTAMP" else None


def _refuse_dry_run(arguments: Arguments) -> None:
    # What is not known here is ignored, but a client that asks for a rehearsal must not find its record stored.
    if arguments.flag("DryRun"):
        raise Refusal("InvalidArgumentException", "DryRun is not answered here; nothing was done.")
