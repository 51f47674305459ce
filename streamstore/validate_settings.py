"""Raw arguments in, typed values out: what a store and a stream are set to. See ``validate.py``."""

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final, TypeGuard, get_args

from streamstore.dialect import DIALECTS, Dialect
from streamstore.errors import InvalidArgumentException
from streamstore.limits import (
    ACCOUNT_ID_DIGITS,
    IDEMPOTENCY_WINDOW_SECONDS_MAX,
    REGION_CHARACTERS_MAX,
    SHARD_LEVEL_METRICS_PER_CALL_MAX,
    SHARDS_PER_STORE_MAX,
    TAG_KEY_CHARACTERS_MAX,
    TAG_KEY_PREFIX_RESERVED,
    TAG_VALUE_CHARACTERS_MAX,
    TAGS_PER_CALL_MAX,
    WRITE_QUOTA_KB_PER_SEC_CHOICES,
)
from streamstore.model import (
    SHARD_LEVEL_METRICS,
    STREAM_MODES,
    ShardLevelMetric,
    StreamMode,
    StreamSettings,
    StreamUpdate,
    SyncMode,
)
from streamstore.validate import encodes_to_utf8, is_int, parse_bool, parse_stream_name, parse_whole_number

# [0-9], because \d matches the digits of every script. Always used with fullmatch.
ACCOUNT_ID_PATTERN: Final = re.compile(rf"[0-9]{{{ACCOUNT_ID_DIGITS}}}")
REGION_PATTERN: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
MS_PER_SECOND: Final = 1_000
SYNC_MODES: Final[tuple[str, ...]] = get_args(SyncMode)


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
        and encodes_to_utf8(value)
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
    if isinstance(value, str) and len(value) <= TAG_VALUE_CHARACTERS_MAX and encodes_to_utf8(value):
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


def _is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    return isinstance(value, Mapping)


def _is_collection(value: object) -> TypeGuard[Collection[object]]:
    return isinstance(value, Collection) and not isinstance(value, (str, bytes, bytearray, memoryview, Mapping))


def _is_path(value: object) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(value, (str, os.PathLike))


def _is_sync_mode(value: object) -> TypeGuard[SyncMode]:
    return isinstance(value, str) and value in SYNC_MODES
