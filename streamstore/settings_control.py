"""The control plane of what a stream is set to: quotas, mode, retention, metrics and tags."""

from collections.abc import Callable, Collection, Mapping
from typing import Literal

from streamstore.control import StreamControl
from streamstore.limits import LIST_TAGS_LIMIT_MAX
from streamstore.model import (
    EnhancedMonitoringResult,
    ListTagsForStreamResult,
    ShardLevelMetric,
    StoredStream,
    StreamMode,
    Tag,
    UpdateStreamResult,
)
from streamstore.settings import (
    add_tags,
    decrease_retention,
    disable_metrics,
    enable_metrics,
    increase_retention,
    remove_tags,
    update_mode,
    update_stream,
)
from streamstore.transaction import WriteTransaction
from streamstore.validate import parse_stream_name, parse_whole_number
from streamstore.validate_settings import (
    parse_exclusive_start_tag_key,
    parse_retention,
    parse_shard_level_metrics,
    parse_stream_mode,
    parse_stream_update,
    parse_tag_keys,
    parse_tags,
)

__all__ = ["SettingsControl"]


class SettingsControl(StreamControl):
    """The operations on the settings of a stream. What each does is said in its own docstring."""

    def update_stream(
        self,
        stream_name: str,
        *,
        shard_count: int | None = None,
        write_quota_kb_per_sec: int | Literal["keep"] | None = "keep",
        retention_hours: int | None = None,
        read_quota: bool | None = None,
    ) -> UpdateStreamResult:
        """Change what a stream is set to, in one commit, and return what it is now. Source: UpdateStream of Yandex.

        The arguments are those of ``create_stream``; what is not given stays as it is. ``shard_count`` reshapes the
        stream as ``update_shard_count`` does, ``retention_hours`` as the two operations for it do. A quota of None is
        no quota.

        Raises, with nothing changed: ``InvalidArgumentException``, ``ResourceNotFoundException``,
        ``LimitExceededException`` (more than 4,000 shards in the store), and the storage errors of ``put_record``.
        """
        now_ms = self._clock()
        name = parse_stream_name("stream_name", stream_name, self._dialect)
        update = parse_stream_update(
            shard_count=shard_count,
            write_quota_kb_per_sec=write_quota_kb_per_sec,
            retention_hours=retention_hours,
            read_quota=read_quota,
            dialect=self._dialect,
        )
        self._forget_expired_before(name, update.retention_hours)
        return self._change_stream(
            name,
            lambda transaction, stream: update_stream(
                transaction, stream, update, dialect=self._dialect, now_ms=now_ms, shard_limit=self._shard_limit
            ),
        )

    def update_stream_mode(self, stream_name: str, stream_mode: StreamMode) -> None:
        """Set the mode of a stream, "PROVISIONED" or "ON_DEMAND". Source: UpdateStreamMode.

        The shards of an on-demand stream are the store's: splitting, merging and resizing it is refused. This store
        leaves them as they are.

        Raises, with nothing changed: ``InvalidArgumentException``, ``ResourceNotFoundException``,
        ``LimitExceededException`` (more than 50 on-demand streams), and the storage errors of ``put_record``.
        """
        name = parse_stream_name("stream_name", stream_name, self._dialect)
        mode = parse_stream_mode(stream_mode)
        self._change_stream(name, lambda transaction, stream: update_mode(transaction, stream, mode))

    def enable_enhanced_monitoring(
        self, stream_name: str, shard_level_metrics: Collection[ShardLevelMetric]
    ) -> EnhancedMonitoringResult:
        """Let servers show these metrics of each shard of a stream, beside those that they show.

        ``shard_level_metrics``: 1 to 7 of "IncomingBytes", "IncomingRecords", "OutgoingBytes", "OutgoingRecords",
        "WriteProvisionedThroughputExceeded", "ReadProvisionedThroughputExceeded", "IteratorAgeMilliseconds", and "ALL"
        for every one. The store keeps them with the stream; it is ``streamstore serve`` that counts. Source:
        EnableEnhancedMonitoring.

        Raises, with nothing changed: ``InvalidArgumentException``, ``ResourceNotFoundException``, and the storage
        errors of ``put_record``.
        """
        return self._change_metrics(stream_name, shard_level_metrics, enable_metrics)

    def disable_enhanced_monitoring(
        self, stream_name: str, shard_level_metrics: Collection[ShardLevelMetric]
    ) -> EnhancedMonitoringResult:
        """Let servers show these metrics of the shards of a stream no longer; those they do not show are ignored.

        The arguments, and what it raises, are those of ``enable_enhanced_monitoring``; "ALL" leaves none.
        """
        return self._change_metrics(stream_name, shard_level_metrics, disable_metrics)

    def _change_metrics(
        self,
        stream_name: object,
        shard_level_metrics: object,
        change: Callable[[WriteTransaction, StoredStream, frozenset[ShardLevelMetric]], StoredStream],
    ) -> EnhancedMonitoringResult:
        name = parse_stream_name("stream_name", stream_name, self._dialect)
        asked = parse_shard_level_metrics(shard_level_metrics)
        before, now = self._change_stream(
            name, lambda transaction, stream: (stream, change(transaction, stream, asked))
        )
        return EnhancedMonitoringResult(
            stream_name=name,
            stream_arn=self.stream_arn(name),
            current_shard_level_metrics=before.shard_level_metrics,
            desired_shard_level_metrics=now.shard_level_metrics,
        )

    def increase_stream_retention_period(self, stream_name: str, retention_period_hours: int) -> None:
        """Keep records longer, up to 24 hours, in the dialect "aws" 8,760. Source: IncreaseStreamRetentionPeriod.

        What has expired stays so: it is deleted first, in bites as ``trim`` does it.

        Raises, with nothing changed: ``InvalidArgumentException``, ``ResourceNotFoundException``, and the storage
        errors of ``put_record``.
        """
        name = parse_stream_name("stream_name", stream_name, self._dialect)
        hours = parse_retention("retention_period_hours", retention_period_hours, self._dialect)
        self._forget_expired_before(name, hours)
        self._change_stream(name, lambda transaction, stream: increase_retention(transaction, stream, hours))

    def decrease_stream_retention_period(self, stream_name: str, retention_period_hours: int) -> None:
        """Keep records less long, 1 hour or more, in the dialect "aws" 24. Source: DecreaseStreamRetentionPeriod.

        What is older than that can no longer be read when the call returns, and is deleted in time.

        Raises, with nothing changed: ``InvalidArgumentException``, ``ResourceNotFoundException``, and the storage
        errors of ``put_record``.
        """
        name = parse_stream_name("stream_name", stream_name, self._dialect)
        hours = parse_retention("retention_period_hours", retention_period_hours, self._dialect)
        self._change_stream(name, lambda transaction, stream: decrease_retention(transaction, stream, hours))

    def _forget_expired_before(self, stream_name: str, retention_hours: int | None) -> None:
        """Delete what has expired before the retention is increased to so many hours: it must not come back."""
        if retention_hours is not None and retention_hours > self._load(stream_name).stored.retention_hours:
            self.trim(stream_name)

    def add_tags_to_stream(self, stream_name: str, tags: Mapping[str, str]) -> None:
        """Add 1 to 50 tags to a stream, or give those it has new values. Source: AddTagsToStream.

        ``tags``: keys of 1 to 128 characters that do not begin with "aws:", values of 0 to 256 characters.

        Raises, with nothing changed: ``InvalidArgumentException``, ``ResourceNotFoundException``,
        ``LimitExceededException`` (more than 50 tags on the stream), and the storage errors of ``put_record``.
        """
        name = parse_stream_name("stream_name", stream_name, self._dialect)
        tags_to_add = parse_tags(tags, fewest=1)
        self._change_stream(name, lambda transaction, stream: add_tags(transaction, stream, tags_to_add))

    def remove_tags_from_stream(self, stream_name: str, tag_keys: Collection[str]) -> None:
        """Remove the tags with 1 to 50 keys from a stream; those it does not have are ignored.

        Raises, with nothing changed: ``InvalidArgumentException``, ``ResourceNotFoundException``, and the storage
        errors of ``put_record``.
        """
        name = parse_stream_name("stream_name", stream_name, self._dialect)
        keys = parse_tag_keys(tag_keys)
        self._change_stream(name, lambda transaction, stream: remove_tags(transaction, stream, keys))

    def list_tags_for_stream(
        self, stream_name: str, *, exclusive_start_tag_key: str | None = None, limit: int = LIST_TAGS_LIMIT_MAX
    ) -> ListTagsForStreamResult:
        """List up to ``limit`` (1 to 50) tags of a stream in bytewise order of their keys, those behind the given key.

        Raises ``InvalidArgumentException``, ``ResourceNotFoundException`` (no such stream), ``StorageError``.
        """
        name = parse_stream_name("stream_name", stream_name, self._dialect)
        after = parse_exclusive_start_tag_key(exclusive_start_tag_key)
        tag_limit = parse_whole_number("limit", limit, first=1, last=LIST_TAGS_LIMIT_MAX)
        tags = [Tag(key, value) for key, value in self._load(name).stored.tags if key > after]
        return ListTagsForStreamResult(tuple(tags[:tag_limit]), has_more_tags=len(tags) > tag_limit)
