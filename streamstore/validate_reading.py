"""Raw arguments in, typed values out: where a reading starts, and which shards are listed. See ``validate.py``."""

from datetime import datetime
from typing import Final, TypeGuard, get_args

from streamstore.errors import InvalidArgumentException
from streamstore.limits import IDLE_TIMEOUT_SECONDS_MAX, SEQUENCE_NUMBER_MAX, TIMESTAMP_AHEAD_MS_MAX
from streamstore.model import ShardFilter, ShardFilterType, ShardIteratorType, TailStart
from streamstore.validate import is_int, parse_sequence_number, parse_shard_id, refuse_beside

MS_PER_SECOND: Final = 1_000
SHARD_ITERATOR_TYPES: Final[tuple[str, ...]] = get_args(ShardIteratorType)
SHARD_FILTER_TYPES: Final[tuple[str, ...]] = get_args(ShardFilterType)
TAIL_STARTS: Final[tuple[str, ...]] = get_args(TailStart)


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
    refuse_beside("next_token", argument, value)


def _require_only_if(argument: str, value: object, *, wanted: bool, kind: str) -> None:
    if (value is not None) != wanted:
        raise InvalidArgumentException(
            argument=argument, value=value, constraint=f"{'' if wanted else 'not '}be given with {kind}"
        )


def _is_shard_iterator_type(value: object) -> TypeGuard[ShardIteratorType]:
    return isinstance(value, str) and value in SHARD_ITERATOR_TYPES


def _is_shard_filter_type(value: object) -> TypeGuard[ShardFilterType]:
    return isinstance(value, str) and value in SHARD_FILTER_TYPES


def _is_tail_start(value: object) -> TypeGuard[TailStart]:
    return isinstance(value, str) and value in TAIL_STARTS
