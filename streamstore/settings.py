"""What a stream is set to, changed inside a transaction: retention, quotas, mode, metrics and tags.

Nothing here is done before its refusals, and an entry that stays the same is not saved: it needs no commit.
"""

from dataclasses import replace

from streamstore.dialect import Dialect
from streamstore.errors import InvalidArgumentException, LimitExceededException
from streamstore.limits import TAGS_PER_STREAM_MAX
from streamstore.model import (
    SHARD_LEVEL_METRICS,
    ShardLevelMetric,
    StoredStream,
    StreamMode,
    StreamUpdate,
    UpdateStreamResult,
)
from streamstore.reshard import resize_stream
from streamstore.streams import refuse_another_on_demand, save_stream
from streamstore.transaction import WriteTransaction

__all__ = [
    "add_tags",
    "decrease_retention",
    "disable_metrics",
    "enable_metrics",
    "increase_retention",
    "remove_tags",
    "update_mode",
    "update_stream",
]


def update_stream(
    transaction: WriteTransaction,
    stream: StoredStream,
    update: StreamUpdate,
    *,
    dialect: Dialect,
    now_ms: int,
    shard_limit: int,
) -> UpdateStreamResult:
    """Change what the update names, the shards last, in one save."""
    updated = replace(
        stream,
        retention_hours=stream.retention_hours if update.retention_hours is None else update.retention_hours,
        write_quota_kb_per_sec=(
            stream.write_quota_kb_per_sec if update.write_quota_kb_per_sec == "keep" else update.write_quota_kb_per_sec
        ),
        has_read_quota=stream.has_read_quota if update.has_read_quota is None else update.has_read_quota,
    )
    shard_count = updated.open_shard_count
    if update.shard_count is None:
        _save_if_changed(transaction, stream, updated)
    else:
        shard_count = update.shard_count
        resize_stream(
            transaction,
            updated,
            shard_count,
            argument="shard_count",
            dialect=dialect,
            now_ms=now_ms,
            shard_limit=shard_limit,
        )
    return UpdateStreamResult(
        stream_name=stream.name,
        shard_count=shard_count,
        write_quota_kb_per_sec=updated.write_quota_kb_per_sec,
        retention_period_hours=updated.retention_hours,
    )


def increase_retention(transaction: WriteTransaction, stream: StoredStream, retention_hours: int) -> None:
    if retention_hours <= stream.retention_hours:
        raise InvalidArgumentException(
            argument="retention_period_hours",
            value=retention_hours,
            constraint=(
                f"be more than the {stream.retention_hours} hours that {stream.name} has; "
                "see decrease_stream_retention_period"
            ),
        )
    save_stream(transaction, replace(stream, retention_hours=retention_hours))


def decrease_retention(transaction: WriteTransaction, stream: StoredStream, retention_hours: int) -> None:
    if retention_hours >= stream.retention_hours:
        raise InvalidArgumentException(
            argument="retention_period_hours",
            value=retention_hours,
            constraint=(
                f"be less than the {stream.retention_hours} hours that {stream.name} has; "
                "see increase_stream_retention_period"
            ),
        )
    save_stream(transaction, replace(stream, retention_hours=retention_hours))


def update_mode(transaction: WriteTransaction, stream: StoredStream, mode: StreamMode) -> None:
    if mode != stream.mode:
        if mode == "ON_DEMAND":
            refuse_another_on_demand(transaction)
        save_stream(transaction, replace(stream, mode=mode))


def enable_metrics(
    transaction: WriteTransaction, stream: StoredStream, asked: frozenset[ShardLevelMetric]
) -> StoredStream:
    """Show these metrics of each shard too, and return the stream as it is now."""
    return _with_metrics(transaction, stream, asked.union(stream.shard_level_metrics))


def disable_metrics(
    transaction: WriteTransaction, stream: StoredStream, asked: frozenset[ShardLevelMetric]
) -> StoredStream:
    """Show these metrics of the shards no longer, and return the stream as it is now."""
    if "ALL" in asked:
        return _with_metrics(transaction, stream, frozenset())
    shown = SHARD_LEVEL_METRICS if "ALL" in stream.shard_level_metrics else stream.shard_level_metrics
    return _with_metrics(transaction, stream, frozenset(shown) - asked - {"ALL"})


def add_tags(transaction: WriteTransaction, stream: StoredStream, tags: tuple[tuple[str, str], ...]) -> None:
    """Add tags; one whose key is there already gets the new value."""
    merged = dict(stream.tags) | dict(tags)
    if len(merged) > TAGS_PER_STREAM_MAX:
        raise LimitExceededException(
            limit=f"{TAGS_PER_STREAM_MAX} tags per stream",
            remedy=f"{stream.name} has {len(stream.tags)}: remove some with remove_tags_from_stream",
        )
    _save_if_changed(transaction, stream, replace(stream, tags=tuple(sorted(merged.items()))))


def remove_tags(transaction: WriteTransaction, stream: StoredStream, tag_keys: frozenset[str]) -> None:
    """Remove the tags with these keys; keys that the stream does not have are none to remove."""
    kept = tuple((key, value) for key, value in stream.tags if key not in tag_keys)
    _save_if_changed(transaction, stream, replace(stream, tags=kept))


def _with_metrics(
    transaction: WriteTransaction, stream: StoredStream, shown: frozenset[ShardLevelMetric]
) -> StoredStream:
    metrics: tuple[ShardLevelMetric, ...] = tuple(metric for metric in SHARD_LEVEL_METRICS if metric in shown)
    changed = replace(stream, shard_level_metrics=("ALL",) if "ALL" in shown else metrics)
    _save_if_changed(transaction, stream, changed)
    return changed


def _save_if_changed(transaction: WriteTransaction, stream: StoredStream, changed: StoredStream) -> None:
    if changed != stream:
        save_stream(transaction, changed)
