"""Raw arguments in, typed values out. Pure: reads no clock and no store.

Each function refuses with ``InvalidArgumentException``, whose ``constraint`` completes "must ...".
Sources: the PutRecord document for put_record, the Kinesis model for the rest.
"""

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeGuard, get_args

from streamstore.dialect import DIALECTS, Dialect
from streamstore.errors import InvalidArgumentException
from streamstore.limits import (
    ACCOUNT_ID_DIGITS,
    ARN_CHARACTERS_MAX,
    CONSUMER_NAME_CHARACTERS_MAX,
    HASH_KEY_MAX,
    IDEMPOTENCY_KEY_CHARACTERS_MAX,
    IDEMPOTENCY_WINDOW_SECONDS_MAX,
    IDLE_TIMEOUT_SECONDS_MAX,
    PARTITION_KEY_CHARACTERS_MAX,
    PUT_RECORDS_BYTES_MAX,
    PUT_RECORDS_ENTRIES_MAX,
    RECORD_DATA_BYTES_MAX,
    REGION_CHARACTERS_MAX,
    SEQUENCE_NUMBER_DIGITS_MAX,
    SEQUENCE_NUMBER_MAX,
    SHARD_ID_CHARACTERS_MAX,
    SHARD_LEVEL_METRICS_PER_CALL_MAX,
    SHARDS_PER_STORE_MAX,
    STREAM_NAME_CHARACTERS_MAX,
    TAG_KEY_CHARACTERS_MAX,
    TAG_KEY_PREFIX_RESERVED,
    TAG_VALUE_CHARACTERS_MAX,
    TAGS_PER_CALL_MAX,
    TIMESTAMP_AHEAD_MS_MAX,
    WRITE_QUOTA_KB_PER_SEC_CHOICES,
)
from streamstore.model import (
    SHARD_LEVEL_METRICS,
    STREAM_MODES,
    NewRecord,
    ShardFilter,
    ShardFilterType,
    ShardIteratorType,
    ShardLevelMetric,
    StreamMode,
    StreamSettings,
    StreamUpdate,
    SyncMode,
    TailStart,
    bytes_of_record,
    new_named_tuple,
)
from streamstore.routing import hash_key_of_partition_key

# [0-9], because \d matches the digits of every script. Always used with fullmatch.
HASH_KEY_PATTERN: Final = re.compile(r"0|([1-9][0-9]{0,38})")
SEQUENCE_NUMBER_PATTERN: Final = re.compile(rf"0|([1-9][0-9]{{0,{SEQUENCE_NUMBER_DIGITS_MAX - 1}}})")
SHARD_ID_PATTERN: Final = re.compile(r"[a-zA-Z0-9_.-]+")
ACCOUNT_ID_PATTERN: Final = re.compile(rf"[0-9]{{{ACCOUNT_ID_DIGITS}}}")
REGION_PATTERN: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
CONSUMER_NAME_PATTERN: Final = re.compile(r"[a-zA-Z0-9_.-]+")
CONSUMER_ARN_PATTERN: Final = re.compile(rf"(?:.*/)?([^/]+)/consumer/({CONSUMER_NAME_PATTERN.pattern}):[0-9]+")

PARTITION_KEYS_REMEMBERED: Final = 16_384
_hash_keys: Final[dict[str, int]] = {}
STREAM_NAMES_REMEMBERED: Final = 1_024
MS_PER_SECOND: Final = 1_000

SHARD_ITERATOR_TYPES: Final[tuple[str, ...]] = get_args(ShardIteratorType)
SHARD_FILTER_TYPES: Final[tuple[str, ...]] = get_args(ShardFilterType)
TAIL_STARTS: Final[tuple[str, ...]] = get_args(TailStart)
SYNC_MODES: Final[tuple[str, ...]] = get_args(SyncMode)


def parse_new_record(
    data: object,
    partition_key: object,
    explicit_hash_key: object,
    sequence_number_for_ordering: object,
    sent_ms: int,
    idempotency_key: object = None,
) -> NewRecord:
    """Return what put_record may store, with the hash key that decides its shard."""
    record_data = data if type(data) is bytes and len(data) <= RECORD_DATA_BYTES_MAX else parse_data(data)
    # The exact type, because the memory must not ask a foreign class whether two keys are equal.
    if type(partition_key) is str:
        key, hash_key = partition_key, _hash_keys.get(partition_key)
        if hash_key is None:
            hash_key = _hash_key_of_valid(partition_key)
    else:
        key = parse_partition_key(partition_key)
        hash_key = hash_key_of_partition_key(key)
    if explicit_hash_key is not None:
        hash_key = parse_hash_key("explicit_hash_key", explicit_hash_key)
    ordering = None
    if sequence_number_for_ordering is not None:
        ordering = parse_sequence_number("sequence_number_for_ordering", sequence_number_for_ordering)
    once = None if idempotency_key is None else parse_idempotency_key(idempotency_key)
    return new_named_tuple(NewRecord, (key, record_data, hash_key, ordering, sent_ms, once))


def parse_entries(records: object, *, sent_ms: int) -> tuple[list[NewRecord], int]:
    """Return what put_records may store, and its bytes of data and keys.

    A bad entry refuses them all, and the error names it: ``records[3].data``.
    """
    if not _is_sequence(records) or not 1 <= len(records) <= PUT_RECORDS_ENTRIES_MAX:
        raise InvalidArgumentException(
            argument="records",
            value=f"{len(records)} entries" if _is_sequence(records) else type(records).__name__,
            constraint=f"be a sequence of 1 to {PUT_RECORDS_ENTRIES_MAX} entries",
        )
    new_records = [parse_entry(entry, index, sent_ms=sent_ms) for index, entry in enumerate(records)]
    total_bytes = sum(map(bytes_of_record, new_records))
    if total_bytes > PUT_RECORDS_BYTES_MAX:
        raise InvalidArgumentException(
            argument="records",
            value=f"{len(new_records)} entries of {total_bytes:,} bytes",
            constraint=f"hold at most {PUT_RECORDS_BYTES_MAX:,} bytes of data and partition keys together",
        )
    return new_records, total_bytes


def parse_iterable(argument: str, value: object) -> Iterable[object]:
    if _is_iterable(value):
        return value
    raise InvalidArgumentException(argument=argument, value=type(value), constraint="be an iterable of entries")


def parse_entry(entry: object, index: int, *, sent_ms: int) -> NewRecord:
    """Return the record of a ``PutRecordsEntry`` or of a tuple like it."""
    try:
        if _is_tuple(entry):
            if len(entry) == 2:
                data, partition_key = entry
                return parse_new_record(data, partition_key, None, None, sent_ms)
            if len(entry) == 3:
                data, partition_key, explicit_hash_key = entry
                return parse_new_record(data, partition_key, explicit_hash_key, None, sent_ms)
            if len(entry) == 4:
                data, partition_key, explicit_hash_key, idempotency_key = entry
                return parse_new_record(data, partition_key, explicit_hash_key, None, sent_ms, idempotency_key)
        raise InvalidArgumentException(
            argument="", value=type(entry).__name__, constraint="be a PutRecordsEntry or a tuple like it"
        )
    except InvalidArgumentException as error:
        raise InvalidArgumentException(
            argument=f"records[{index}]{error.argument and '.'}{error.argument}",
            value=error.value,
            constraint=error.constraint,
        ) from None


def parse_stream_name(argument: str, value: object, dialect: Dialect) -> str:
    if isinstance(value, str):
        name = value if type(value) is str else str.__str__(value)  # a StrEnum's member, say
        if _is_stream_name(name, dialect.stream_name_pattern):
            return name
    raise InvalidArgumentException(
        argument=argument,
        value=value,
        constraint=f"be a str of 1 to {STREAM_NAME_CHARACTERS_MAX} characters: {dialect.stream_name_rule}",
    )


@lru_cache(maxsize=STREAM_NAMES_REMEMBERED)
def _is_stream_name(name: str, pattern: re.Pattern[str]) -> bool:
    return len(name) <= STREAM_NAME_CHARACTERS_MAX and pattern.fullmatch(name) is not None


def parse_data(value: object) -> bytes:
    """Return the payload as bytes of its own, so that a caller's later change cannot reach it."""
    try:
        view = memoryview(value)  # type: ignore[arg-type] # not a buffer: TypeError
    except (TypeError, ValueError, BufferError):  # no buffer, a released one, one that cannot be had now
        view = None
    if view is None or view.nbytes > RECORD_DATA_BYTES_MAX:
        raise InvalidArgumentException(
            argument="data",
            value=value,
            constraint=f"be a bytes-like object of 0 to {RECORD_DATA_BYTES_MAX:,} bytes",
        )
    return view.tobytes()


def parse_partition_key(value: object) -> str:
    if isinstance(value, str) and 1 <= len(value) <= PARTITION_KEY_CHARACTERS_MAX and _encodes_to_utf8(value):
        return value
    raise InvalidArgumentException(
        argument="partition_key",
        value=value,
        constraint=f"be a str of 1 to {PARTITION_KEY_CHARACTERS_MAX} characters without lone surrogates",
    )


def parse_idempotency_key(value: object) -> str:
    if isinstance(value, str) and 1 <= len(value) <= IDEMPOTENCY_KEY_CHARACTERS_MAX and _encodes_to_utf8(value):
        return value if type(value) is str else str.__str__(value)  # keys are compared: by no foreign class
    raise InvalidArgumentException(
        argument="idempotency_key",
        value=value,
        constraint=f"be None or a str of 1 to {IDEMPOTENCY_KEY_CHARACTERS_MAX} characters without lone surrogates",
    )


def parse_hash_key(argument: str, value: object) -> int:
    if isinstance(value, str) and HASH_KEY_PATTERN.fullmatch(value):
        hash_key = int(value)
        if hash_key <= HASH_KEY_MAX:
            return hash_key
    raise InvalidArgumentException(
        argument=argument,
        value=value,
        constraint="be a decimal number as str, without sign or leading zeros, in [0, 2^128-1]",
    )


def parse_sequence_number(argument: str, value: object) -> int:
    if isinstance(value, str) and SEQUENCE_NUMBER_PATTERN.fullmatch(value):
        return int(value)
    raise InvalidArgumentException(
        argument=argument,
        value=value,
        constraint=(
            "be a sequence number: a decimal number as str, without sign or leading zeros, "
            f"of at most {SEQUENCE_NUMBER_DIGITS_MAX} digits"
        ),
    )


def parse_shard_id(argument: str, value: object) -> str:
    if isinstance(value, str) and len(value) <= SHARD_ID_CHARACTERS_MAX and SHARD_ID_PATTERN.fullmatch(value):
        return value
    raise InvalidArgumentException(
        argument=argument,
        value=value,
        constraint=f"be a str of 1 to {SHARD_ID_CHARACTERS_MAX} letters, digits, '_', '.' and '-'",
    )


def parse_shard_iterator_type(argument: str, value: object) -> ShardIteratorType:
    if _is_shard_iterator_type(value):
        return value
    raise InvalidArgumentException(
        argument=argument,
        value=value,
        constraint=f"be one of {', '.join(SHARD_ITERATOR_TYPES)}",
    )


def parse_shard_filter_type(value: object) -> ShardFilterType:
    if _is_shard_filter_type(value):
        return value
    raise InvalidArgumentException(
        argument="shard_filter.type", value=value, constraint=f"be one of {', '.join(SHARD_FILTER_TYPES)}"
    )


def parse_timestamp(value: object, *, now_ms: int, argument: str = "timestamp") -> int:
    """Return an aware datetime, or seconds since 1970 as int or float, as milliseconds."""
    seconds = value.timestamp() if isinstance(value, datetime) and value.utcoffset() is not None else value
    if (is_int(seconds) or isinstance(seconds, float)) and 0 <= seconds * 1000 <= now_ms + TIMESTAMP_AHEAD_MS_MAX:
        return round(seconds * 1000)
    raise InvalidArgumentException(
        argument=argument,
        value=value,
        constraint=(
            "be an aware datetime or seconds since 1970 UTC, not before 1970 and not in the future; "
            f"now is {now_ms / 1000:.3f}"
        ),
    )


def parse_whole_number(argument: str, value: object, *, first: int, last: int) -> int:
    """Return an int in [first, last]; True and False are no numbers here."""
    if is_int(value) and first <= value <= last:
        return value
    raise InvalidArgumentException(
        argument=argument, value=value, constraint=f"be a whole number from {first:,} to {last:,}"
    )


def parse_iterator_start(
    kind: ShardIteratorType, starting_sequence_number: object, timestamp: object, *, now_ms: int
) -> tuple[int, int]:
    """Return the first sequence and the earliest arrival that an iterator of this type asks for."""
    wants_number = kind in ("AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER")
    _require_only_if("starting_sequence_number", starting_sequence_number, wanted=wants_number, kind=kind)
    _require_only_if("timestamp", timestamp, wanted=kind == "AT_TIMESTAMP", kind=kind)
    if kind == "AT_TIMESTAMP":
        return 0, parse_timestamp(timestamp, now_ms=now_ms)
    if wants_number:
        number = parse_position("starting_sequence_number", starting_sequence_number)
        return min(number + (kind == "AFTER_SEQUENCE_NUMBER"), SEQUENCE_NUMBER_MAX), 0
    return 0, 0


def parse_tail_start(starting_position: object, timestamp: object, *, now_ms: int) -> tuple[TailStart, int]:
    """Return where a tail starts, and the earliest arrival that it asks for."""
    if not _is_tail_start(starting_position):
        raise InvalidArgumentException(
            argument="starting_position",
            value=starting_position,
            constraint=f"be one of {', '.join(TAIL_STARTS)}, because a number is a place in one shard only",
        )
    _, not_before_ms = parse_iterator_start(starting_position, None, timestamp, now_ms=now_ms)
    return starting_position, not_before_ms


def parse_idle_timeout_ms(value: object) -> int | None:
    if value is None:
        return None
    if (is_int(value) or isinstance(value, float)) and 0 <= value <= IDLE_TIMEOUT_SECONDS_MAX:
        return round(value * MS_PER_SECOND)
    raise InvalidArgumentException(
        argument="idle_timeout_seconds",
        value=value,
        constraint=f"be None (wait for ever) or seconds from 0 to {IDLE_TIMEOUT_SECONDS_MAX:,}",
    )


def parse_position(argument: str, value: object) -> int:
    """Return the number of a place in a shard. Those that no shard reaches are places behind every record."""
    return min(parse_sequence_number(argument, value), SEQUENCE_NUMBER_MAX)


def parse_exclusive_start(value: object) -> str | None:
    return None if value is None else parse_shard_id("exclusive_start_shard_id", value)


def parse_shard_filter(value: object, *, now_ms: int) -> tuple[ShardFilterType, str | None, int]:
    """Return the type of a filter, the shard that it starts behind, and its time in milliseconds, 0 if it has none."""
    if value is None:
        return "FROM_TRIM_HORIZON", None, 0
    if not isinstance(value, ShardFilter):
        raise InvalidArgumentException(argument="shard_filter", value=value, constraint="be a ShardFilter")
    kind = parse_shard_filter_type(value.type)
    wants_time = kind in ("AT_TIMESTAMP", "FROM_TIMESTAMP")
    _require_only_if("shard_filter.shard_id", value.shard_id, wanted=kind == "AFTER_SHARD_ID", kind=kind)
    _require_only_if("shard_filter.timestamp", value.timestamp, wanted=wants_time, kind=kind)
    after_shard_id, time_ms = None, 0
    if value.shard_id is not None:
        after_shard_id = parse_shard_id("shard_filter.shard_id", value.shard_id)
    if wants_time:
        time_ms = parse_timestamp(value.timestamp, now_ms=now_ms, argument="shard_filter.timestamp")
    return kind, after_shard_id, time_ms


def refuse_two_starts(exclusive_start_shard_id: object, shard_filter_shard_id: object) -> None:
    if exclusive_start_shard_id is not None and shard_filter_shard_id is not None:
        raise InvalidArgumentException(
            argument="exclusive_start_shard_id",
            value=exclusive_start_shard_id,
            constraint="not be given together with shard_filter.shard_id: either says where to start",
        )


def refuse_beside_next_token(argument: str, value: object) -> None:
    _refuse_beside("next_token", argument, value)


def parse_consumer_name(value: object) -> str:
    if _is_consumer_name(value):
        return value
    raise InvalidArgumentException(
        argument="consumer_name",
        value=value,
        constraint=f"be a str of 1 to {CONSUMER_NAME_CHARACTERS_MAX} letters, digits, '_', '.' and '-'",
    )


def parse_consumer_address(
    stream_name: object, consumer_name: object, consumer_arn: object, dialect: Dialect
) -> tuple[str, str]:
    """Return the names of a stream and of its consumer, as they were given, or as the consumer's ARN says."""
    if consumer_arn is None:
        return parse_stream_name("stream_name", stream_name, dialect), parse_consumer_name(consumer_name)
    _refuse_beside("consumer_arn", "stream_name", stream_name)
    _refuse_beside("consumer_arn", "consumer_name", consumer_name)
    return parse_consumer_arn(consumer_arn, dialect)[1:]


def parse_consumer_arn(value: object, dialect: Dialect) -> tuple[str, str, str]:
    """Return the ARN of a consumer, and the names of the stream and the consumer in it."""
    if isinstance(value, str) and len(value) <= ARN_CHARACTERS_MAX:
        match = CONSUMER_ARN_PATTERN.fullmatch(value)
        if match and _is_stream_name(match[1], dialect.stream_name_pattern) and _is_consumer_name(match[2]):
            return value, match[1], match[2]
    raise InvalidArgumentException(
        argument="consumer_arn",
        value=value,
        constraint="be the ARN of a consumer, a str that ends in <stream name>/consumer/<consumer name>:<seconds>",
    )


def parse_path(value: object) -> Path:
    if _is_path(value):
        text = os.fsdecode(value)
        if "\0" not in text:
            return Path(text)
    raise InvalidArgumentException(
        argument="path", value=value, constraint="be the path of a folder, as str or os.PathLike"
    )


def parse_dialect(value: object) -> Dialect | None:
    """Return the dialect of that name; None for None, which leaves it to the store."""
    if value is None:
        return None
    if isinstance(value, str) and value in DIALECTS:
        return DIALECTS[value]
    raise InvalidArgumentException(
        argument="dialect", value=value, constraint=f"be one of {', '.join(DIALECTS)}, or None for what the store has"
    )


def parse_account_id(value: object) -> str:
    if isinstance(value, str) and ACCOUNT_ID_PATTERN.fullmatch(value):
        return value
    raise InvalidArgumentException(
        argument="account_id", value=value, constraint=f"be a str of {ACCOUNT_ID_DIGITS} digits"
    )


def parse_region(value: object) -> str:
    if isinstance(value, str) and len(value) <= REGION_CHARACTERS_MAX and REGION_PATTERN.fullmatch(value):
        return value
    raise InvalidArgumentException(
        argument="region",
        value=value,
        constraint=(
            f"be a str of 1 to {REGION_CHARACTERS_MAX} characters: lowercase letters and digits, in parts that "
            "single hyphens join"
        ),
    )


def parse_stream_settings(
    stream_name: object,
    *,
    shard_count: object,
    retention_hours: object,
    write_quota_kb_per_sec: object,
    read_quota: object,
    idempotency_window_seconds: object,
    stream_mode: object,
    tags: object,
    dialect: Dialect,
) -> StreamSettings:
    return StreamSettings(
        name=parse_stream_name("stream_name", stream_name, dialect),
        shard_count=_parse_shard_count(shard_count),
        retention_hours=(
            dialect.retention_hours_default
            if retention_hours is None
            else parse_retention("retention_hours", retention_hours, dialect)
        ),
        write_quota_kb_per_sec=_parse_write_quota(write_quota_kb_per_sec),
        has_read_quota=parse_bool("read_quota", read_quota),
        idempotency_window_ms=MS_PER_SECOND
        * parse_whole_number(
            "idempotency_window_seconds", idempotency_window_seconds, first=1, last=IDEMPOTENCY_WINDOW_SECONDS_MAX
        ),
        mode=parse_stream_mode(stream_mode),
        tags=() if tags is None else parse_tags(tags, fewest=0),
    )


def parse_stream_update(
    *,
    shard_count: object,
    write_quota_kb_per_sec: object,
    retention_hours: object,
    read_quota: object,
    dialect: Dialect,
) -> StreamUpdate:
    return StreamUpdate(
        shard_count=None if shard_count is None else parse_target_shard_count("shard_count", shard_count),
        retention_hours=(
            None if retention_hours is None else parse_retention("retention_hours", retention_hours, dialect)
        ),
        write_quota_kb_per_sec=(
            "keep"
            if isinstance(write_quota_kb_per_sec, str) and write_quota_kb_per_sec == "keep"
            else _parse_write_quota(write_quota_kb_per_sec)
        ),
        has_read_quota=None if read_quota is None else parse_bool("read_quota", read_quota),
    )


def parse_target_shard_count(argument: str, value: object) -> int:
    return parse_whole_number(argument, value, first=1, last=SHARDS_PER_STORE_MAX)


def parse_retention(argument: str, value: object, dialect: Dialect) -> int:
    """Return hours."""
    return parse_whole_number(argument, value, first=dialect.retention_hours_min, last=dialect.retention_hours_max)


def parse_stream_mode(value: object) -> StreamMode:
    for mode in STREAM_MODES:
        if isinstance(value, str) and value == mode:
            return mode
    raise InvalidArgumentException(
        argument="stream_mode", value=value, constraint=f"be one of {', '.join(STREAM_MODES)}"
    )


def parse_tags(value: object, *, fewest: int) -> tuple[tuple[str, str], ...]:
    """Return keys and values in bytewise order of the keys. The argument is called ``tags``."""
    if not _is_mapping(value) or not fewest <= len(value) <= TAGS_PER_CALL_MAX:
        raise InvalidArgumentException(
            argument="tags",
            value=f"{len(value)} tags" if _is_mapping(value) else value,
            constraint=f"be a mapping of {fewest} to {TAGS_PER_CALL_MAX} keys to values",
        )
    return tuple(sorted((_parse_key_of("tags", key), _parse_tag_value(value[key])) for key in value))


def parse_tag_keys(value: object) -> frozenset[str]:
    keys = _parse_collection("tag_keys", value, most=TAGS_PER_CALL_MAX, of="keys")
    return frozenset(_parse_key_of("tag_keys", key) for key in keys)


def parse_shard_level_metrics(value: object) -> frozenset[ShardLevelMetric]:
    metrics = _parse_collection("shard_level_metrics", value, most=SHARD_LEVEL_METRICS_PER_CALL_MAX, of="metrics")
    return frozenset(_parse_shard_level_metric(metric) for metric in metrics)


def parse_exclusive_start_tag_key(value: object) -> str:
    return "" if value is None else _parse_tag_key("exclusive_start_tag_key", value, "be")


def parse_sync_mode(value: object) -> SyncMode:
    if _is_sync_mode(value):
        return value
    raise InvalidArgumentException(argument="sync", value=value, constraint=f"be one of {', '.join(SYNC_MODES)}")


def parse_bool(argument: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise InvalidArgumentException(argument=argument, value=value, constraint="be True or False")


def is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _refuse_beside(other_argument: str, argument: str, value: object) -> None:
    if value is not None:
        raise InvalidArgumentException(
            argument=argument, value=value, constraint=f"not be given together with {other_argument}"
        )


def _require_only_if(argument: str, value: object, *, wanted: bool, kind: str) -> None:
    if (value is not None) != wanted:
        raise InvalidArgumentException(
            argument=argument, value=value, constraint=f"{'' if wanted else 'not '}be given with {kind}"
        )


def _parse_shard_count(value: object) -> int:
    # No upper bound here: too many shards is LimitExceededException, and the store knows how many it has.
    if is_int(value) and value >= 1:
        return value
    raise InvalidArgumentException(argument="shard_count", value=value, constraint="be a whole number of at least 1")


def _parse_write_quota(value: object) -> int | None:
    if value is None or (is_int(value) and value in WRITE_QUOTA_KB_PER_SEC_CHOICES):
        return value
    raise InvalidArgumentException(
        argument="write_quota_kb_per_sec",
        value=value,
        constraint=f"be None (no quota) or one of {WRITE_QUOTA_KB_PER_SEC_CHOICES}",
    )


def _hash_key_of_valid(partition_key: str) -> int:
    """Prove the key and hash it. Keys come again and again, and this is half of what a put costs before its commit."""
    hash_key = hash_key_of_partition_key(parse_partition_key(partition_key))
    if len(_hash_keys) >= PARTITION_KEYS_REMEMBERED:
        _hash_keys.clear()  # for keys that never come again, lru_cache would cost more than the hashing
    _hash_keys[partition_key] = hash_key
    return hash_key


def _parse_collection(argument: str, value: object, *, most: int, of: str) -> Collection[object]:
    if _is_collection(value) and 1 <= len(value) <= most:
        return value
    raise InvalidArgumentException(
        argument=argument,
        value=f"{len(value)} {of}" if _is_collection(value) else value,
        constraint=f"be a collection of 1 to {most} {of}",
    )


def _parse_key_of(argument: str, value: object) -> str:
    return _parse_tag_key(argument, value, "have keys, each")


def _parse_tag_key(argument: str, value: object, verb: str) -> str:
    if (
        isinstance(value, str)
        and 1 <= len(value) <= TAG_KEY_CHARACTERS_MAX
        and not value.lower().startswith(TAG_KEY_PREFIX_RESERVED)
        and _encodes_to_utf8(value)
    ):
        return str.__str__(value)
    raise InvalidArgumentException(
        argument=argument,
        value=value,
        constraint=(
            f"{verb} a str of 1 to {TAG_KEY_CHARACTERS_MAX} characters without lone surrogates, not "
            f"beginning with {TAG_KEY_PREFIX_RESERVED}"
        ),
    )


def _parse_tag_value(value: object) -> str:
    if isinstance(value, str) and len(value) <= TAG_VALUE_CHARACTERS_MAX and _encodes_to_utf8(value):
        return str.__str__(value)
    raise InvalidArgumentException(
        argument="tags",
        value=value,
        constraint=(f"have values, each a str of 0 to {TAG_VALUE_CHARACTERS_MAX} characters without lone surrogates"),
    )


def _parse_shard_level_metric(value: object) -> ShardLevelMetric:
    for metric in SHARD_LEVEL_METRICS:
        if isinstance(value, str) and value == metric:
            return metric
    raise InvalidArgumentException(
        argument="shard_level_metrics", value=value, constraint=f"hold nothing but {', '.join(SHARD_LEVEL_METRICS)}"
    )


def _encodes_to_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_consumer_name(value: object) -> TypeGuard[str]:
    return (
        isinstance(value, str)
        and len(value) <= CONSUMER_NAME_CHARACTERS_MAX
        and CONSUMER_NAME_PATTERN.fullmatch(value) is not None
    )


def _is_shard_iterator_type(value: object) -> TypeGuard[ShardIteratorType]:
    return isinstance(value, str) and value in SHARD_ITERATOR_TYPES


def _is_shard_filter_type(value: object) -> TypeGuard[ShardFilterType]:
    return isinstance(value, str) and value in SHARD_FILTER_TYPES


def _is_tail_start(value: object) -> TypeGuard[TailStart]:
    return isinstance(value, str) and value in TAIL_STARTS


def _is_sequence(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, memoryview))


def _is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    return isinstance(value, Mapping)


def _is_collection(value: object) -> TypeGuard[Collection[object]]:
    return isinstance(value, Collection) and not isinstance(value, (str, bytes, bytearray, memoryview, Mapping))


def _is_iterable(value: object) -> TypeGuard[Iterable[object]]:
    return isinstance(value, Iterable)


def _is_tuple(value: object) -> TypeGuard[tuple[object, ...]]:
    return isinstance(value, tuple)


def _is_path(value: object) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(value, (str, os.PathLike))


def _is_sync_mode(value: object) -> TypeGuard[SyncMode]:
    return isinstance(value, str) and value in SYNC_MODES
