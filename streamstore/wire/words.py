"""What AWS says where an argument is wrong in meaning: its documented sentences, for what the store refuses.

The store's own sentence tells more; here it gives way to the one that client programs and their tests look for.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final

from streamstore import InvalidArgumentException, StreamStore
from streamstore.model import HashKeyRange
from streamstore.wire.arguments import Arguments
from streamstore.wire.members import lower_camel
from streamstore.wire.refusal import Refusal

__all__ = ["refusal_in_words"]

Words = Callable[[StreamStore, Arguments, InvalidArgumentException], str | None]
ENTRY: Final = re.compile(r"records\[[0-9]+\]\.")
ARGUMENT: Final = re.compile(r"[a-z]+(?:_[a-z]+)*")


def refusal_in_words(store: StreamStore, arguments: Arguments, error: InvalidArgumentException) -> Refusal:
    """Return the answer to an argument that the store refused."""
    if error.argument == "stream_name" and "ON_DEMAND" in error.constraint:
        stream = _stream(store, arguments)
        return Refusal("ValidationException", f"Request is invalid. {stream} is in On-Demand mode.")
    words = WORDS.get(ENTRY.sub("", error.argument))
    message = None if words is None else words(store, arguments, error)
    if message is None:
        member = ARGUMENT.sub(lambda match: lower_camel(match[0]), error.argument)
        message = error.message.replace(error.argument, member, 1)
    return Refusal("InvalidArgumentException", message)


def _explicit_hash_key(store: StreamStore, arguments: Arguments, error: InvalidArgumentException) -> str:
    del store, arguments
    return (
        "Invalid ExplicitHashKey. ExplicitHashKey must be in the range: [0, 2^128-1]. "
        f"Specified value was {error.value}"
    )


def _ordering(store: StreamStore, arguments: Arguments, error: InvalidArgumentException) -> str:
    return (
        f"ExclusiveMinimumSequenceNumber {error.value} used in PutRecord on {_in_stream(store, arguments)} is invalid."
    )


def _records(store: StreamStore, arguments: Arguments, error: InvalidArgumentException) -> str | None:
    del store, arguments
    return "Records size exceeds 5 MB limit" if "bytes" in error.constraint else None


def _shard_iterator(store: StreamStore, arguments: Arguments, error: InvalidArgumentException) -> str:
    del store, arguments, error
    return "Invalid ShardIterator."


def _starting_sequence_number(store: StreamStore, arguments: Arguments, error: InvalidArgumentException) -> str:
    del store
    given = "no StartingSequenceNumber." if error.value is None else "also a StartingSequenceNumber."
    kind = arguments.text_or_none("ShardIteratorType") or arguments.structure("StartingPosition").text("Type")
    return (
        "Must either specify (1) AT_SEQUENCE_NUMBER or AFTER_SEQUENCE_NUMBER and StartingSequenceNumber or (2) "
        f"TRIM_HORIZON or LATEST and no StartingSequenceNumber. Request specified {kind} and {given}"
    )


def _timestamp(store: StreamStore, arguments: Arguments, error: InvalidArgumentException) -> str | None:
    del store, arguments
    if error.value is None:
        return (
            "Must specify timestampInMillis parameter for iterator of type AT_TIMESTAMP. Current request has no "
            "timestamp parameter."
        )
    return None


def _new_starting_hash_key(store: StreamStore, arguments: Arguments, error: InvalidArgumentException) -> str | None:
    shard_id, stream = arguments.text("ShardToSplit"), _in_stream(store, arguments)
    keys = _keys_of(store, arguments.stream_name(), shard_id)
    if keys is None:
        return None
    return (
        f"NewStartingHashKey {error.value} used in SplitShard() on shard {shard_id} in {stream} is not both greater "
        f"than one plus the shard's StartingHashKey {keys.starting_hash_key} and less than the shard's EndingHashKey "
        f"{keys.ending_hash_key}."
    )


def _adjacent_shard(store: StreamStore, arguments: Arguments, error: InvalidArgumentException) -> str:
    if "open shard" in error.constraint:
        return _closed_shard(store, arguments, error)
    first, second = arguments.text("ShardToMerge"), arguments.text("AdjacentShardToMerge")
    return (
        f"Shards {first} and {second} in {_in_stream(store, arguments)} are not an adjacent pair of shards eligible "
        "for merging"
    )


def _closed_shard(store: StreamStore, arguments: Arguments, error: InvalidArgumentException) -> str:
    return (
        f"Shard {error.value} in {_in_stream(store, arguments)} has already been merged or split, and thus is not "
        "eligible for merging or splitting."
    )


def _retention(store: StreamStore, arguments: Arguments, error: InvalidArgumentException) -> str:
    del error
    asked, dialect = arguments.whole("RetentionPeriodHours"), store.dialect
    if asked < dialect.retention_hours_min:
        return (
            f"Minimum allowed retention period is {dialect.retention_hours_min} hours. Requested retention period "
            f"({asked} hours) is too short."
        )
    if asked > dialect.retention_hours_max:
        return (
            f"Maximum allowed retention period is {dialect.retention_hours_max} hours. Requested retention period "
            f"({asked} hours) is too long."
        )
    name = arguments.stream_name()
    has = store.describe_stream_summary(name).retention_period_hours
    word, other = ("shorter", "Decrease") if asked < has else ("longer", "Increase")
    return (
        f"Requested retention period ({asked} hours) for stream {name} can not be {word} than existing retention "
        f"period ({has} hours). Use {other}RetentionPeriod API."
    )


def _stream(store: StreamStore, arguments: Arguments) -> str:
    return f"Stream {arguments.stream_name()} under account {store.account_id}"


def _in_stream(store: StreamStore, arguments: Arguments) -> str:
    return f"stream {arguments.stream_name()} under account {store.account_id}"


def _keys_of(store: StreamStore, stream_name: str, shard_id: str) -> HashKeyRange | None:
    shards = store.list_shards(stream_name).shards
    return next((shard.hash_key_range for shard in shards if shard.shard_id == shard_id), None)


WORDS: Final[Mapping[str, Words]] = {
    "adjacent_shard_to_merge": _adjacent_shard,
    "explicit_hash_key": _explicit_hash_key,
    "new_starting_hash_key": _new_starting_hash_key,
    "records": _records,
    "retention_period_hours": _retention,
    "sequence_number_for_ordering": _ordering,
    "shard_iterator": _shard_iterator,
    "shard_to_merge": _closed_shard,
    "shard_to_split": _closed_shard,
    "starting_sequence_number": _starting_sequence_number,
    "timestamp": _timestamp,
}
