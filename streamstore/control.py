"""The control plane: one method per operation on streams and shards. Reads from top to bottom like the data path.

Each method validates, then hands a function to the writer (changes) or to the engine (reads).
"""

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import islice

from streamstore.consumers import count_consumers
from streamstore.errors import InvalidArgumentException, ResourceNotFoundException
from streamstore.idempotency import forget_expired_keys
from streamstore.iterator import (
    ShardPage,
    StreamsPage,
    encode_next_token,
    encode_streams_token,
    parse_next_token,
    parse_streams_token,
)
from streamstore.limits import (
    DESCRIBE_STREAM_LIMIT_DEFAULT,
    IDEMPOTENCY_WINDOW_SECONDS_DEFAULT,
    LIST_LIMIT_MAX,
    LIST_SHARDS_LIMIT_DEFAULT,
    LIST_STREAMS_LIMIT_DEFAULT,
    ON_DEMAND_STREAMS_PER_STORE_MAX,
    TRIM_IDEMPOTENCY_KEYS_MAX,
    TRIM_RECORDS_MAX,
)
from streamstore.model import (
    DescribeLimitsResult,
    ListShardsResult,
    ListStreamsResult,
    SequenceNumberRange,
    Shard,
    ShardFilter,
    StoredStream,
    StreamDescription,
    StreamDescriptionSummary,
    StreamMode,
    StreamSummary,
    TimeSpan,
    TrimResult,
    UpdateShardCountResult,
    datetime_of_ms,
)
from streamstore.opened import OpenStore
from streamstore.reading import ShardReader
from streamstore.reshard import drop_expired_shards, merge_shards, resize_stream, split_shard
from streamstore.retention import in_bites, trim_shard
from streamstore.shard_filter import span_of_filter
from streamstore.shards import ShardAppender
from streamstore.streams import (
    create_stream,
    databases_of,
    delete_stream,
    iterate_streams,
    load_counter,
    save_counter,
    shard_index_of,
)
from streamstore.transaction import ReadTransaction, WriteTransaction
from streamstore.validate import parse_bool, parse_hash_key, parse_shard_id, parse_stream_name, parse_whole_number
from streamstore.validate_reading import (
    parse_exclusive_start,
    parse_shard_filter,
    refuse_beside_next_token,
    refuse_two_starts,
)
from streamstore.validate_settings import parse_stream_settings, parse_target_shard_count

__all__ = ["StreamControl"]


class StreamControl(OpenStore):
    """The operations on streams and their shards. What each does is said in its own docstring."""

    def create_stream(
        self,
        stream_name: str,
        *,
        shard_count: int = 1,
        retention_hours: int | None = None,
        write_quota_kb_per_sec: int | None = None,
        read_quota: bool = False,
        idempotency_window_seconds: int = IDEMPOTENCY_WINDOW_SECONDS_DEFAULT,
        stream_mode: StreamMode = "PROVISIONED",
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Create a stream whose shards divide the hash keys evenly. It is active when the call returns.

        ``retention_hours``: 1 to 24, in the dialect "aws" 24 to 8,760; default 24. ``write_quota_kb_per_sec``: 128, 512
        or 1024 a shard, which brings a quota of 1,000 records/s with it; None for no quota. ``read_quota``: whether
        ``get_records`` reads each shard at 2 MB/s in 5 calls/s only. ``idempotency_window_seconds``: 1 to 3,600, how
        long an idempotency key is remembered. ``stream_mode``: see ``update_stream_mode``. ``tags``: up to 50, as
        in ``add_tags_to_stream``.

        Raises, with nothing changed: ``InvalidArgumentException``, ``ResourceInUseException`` (the name is taken),
        ``LimitExceededException`` (more than 4,000 shards or 50 on-demand streams in the store, or more open shards
        than its ``shard_limit``), and the storage errors of ``put_record``.
        """
        now_ms = self._clock()
        settings = parse_stream_settings(
            stream_name,
            shard_count=shard_count,
            retention_hours=retention_hours,
            write_quota_kb_per_sec=write_quota_kb_per_sec,
            read_quota=read_quota,
            idempotency_window_seconds=idempotency_window_seconds,
            stream_mode=stream_mode,
            tags=tags,
            dialect=self._dialect,
        )
        limit = self._shard_limit
        self._change(
            lambda appender: create_stream(
                appender.flush(), settings, now_ms=now_ms, dialect=self._dialect, shard_limit=limit
            )
        )

    def delete_stream(self, stream_name: str, *, enforce_consumer_deletion: bool = False) -> None:
        """Delete a stream with its records. A new stream of that name shares nothing with it, tokens included.

        A stream with consumers is deleted only with ``enforce_consumer_deletion``; they go in the same commit.

        Raises, with nothing changed: ``InvalidArgumentException``, ``ResourceNotFoundException``,
        ``ResourceInUseException`` (the stream has consumers), and the storage errors of ``put_record``.
        """
        name = parse_stream_name("stream_name", stream_name, self._dialect)
        enforce = parse_bool("enforce_consumer_deletion", enforce_consumer_deletion)
        self.writer()
        self._engine.prove(databases_of(self._load(name).stored))  # which may take long: not while others wait
        self._change_stream(
            name, lambda transaction, stream: delete_stream(transaction, stream, enforce_consumer_deletion=enforce)
        )

    def split_shard(self, stream_name: str, shard_to_split: str, new_starting_hash_key: str) -> None:
        """Close a shard and open two in its place, the second from ``new_starting_hash_key`` on. Source: SplitShard.

        ``new_starting_hash_key``: decimal text, inside the hash keys of the shard. Puts before the split are in the
        parent, which stays readable until its records expire; those behind it go to the children, whose numbers start
        behind the parent's last.

        Raises, with nothing changed: ``InvalidArgumentException`` (also for a closed shard),
        ``ResourceNotFoundException`` (stream or shard), ``LimitExceededException`` (more than 4,000 shards in the
        store), and the storage errors of ``put_record``.
        """
        now_ms = self._clock()
        name = parse_stream_name("stream_name", stream_name, self._dialect)
        shard_id = parse_shard_id("shard_to_split", shard_to_split)
        hash_key = parse_hash_key("new_starting_hash_key", new_starting_hash_key)
        self._change_stream(
            name,
            lambda transaction, stream: split_shard(
                transaction,
                stream,
                shard_index_of(stream, shard_id, self._dialect, now_ms=now_ms),
                hash_key,
                dialect=self._dialect,
                now_ms=now_ms,
                shard_limit=self._shard_limit,
            ),
        )

    def merge_shards(self, stream_name: str, shard_to_merge: str, adjacent_shard_to_merge: str) -> None:
        """Close two shards and open one with the hash keys of both. Source: MergeShards.

        The hash keys of ``adjacent_shard_to_merge`` must start where those of ``shard_to_merge`` end. The child's
        numbers start behind the last of either parent; what else ``split_shard`` says holds here too.
        """
        now_ms = self._clock()
        name = parse_stream_name("stream_name", stream_name, self._dialect)
        shard_id = parse_shard_id("shard_to_merge", shard_to_merge)
        adjacent_shard_id = parse_shard_id("adjacent_shard_to_merge", adjacent_shard_to_merge)
        self._change_stream(
            name,
            lambda transaction, stream: merge_shards(
                transaction,
                stream,
                shard_index_of(stream, shard_id, self._dialect, now_ms=now_ms),
                shard_index_of(stream, adjacent_shard_id, self._dialect, now_ms=now_ms),
                dialect=self._dialect,
                now_ms=now_ms,
                shard_limit=self._shard_limit,
            ),
        )

    def update_shard_count(self, stream_name: str, target_shard_count: int) -> UpdateShardCountResult:
        """Reshape a stream into ``target_shard_count`` equal open shards, more or fewer. Source: UpdateShardCount.

        Made of splits and merges in one commit, so that parents and children stay linked; shards in between are born
        closed and empty. A shard that has its range already stays open. In the dialect "aws": to at most double and at
        least half of the open shards, 10 times in 24 hours.

        Raises, with nothing changed: ``InvalidArgumentException``, ``ResourceNotFoundException``,
        ``LimitExceededException`` (more than 4,000 shards in the store, or too many updates), and the storage errors of
        ``put_record``.
        """
        now_ms = self._clock()
        name = parse_stream_name("stream_name", stream_name, self._dialect)
        target = parse_target_shard_count("target_shard_count", target_shard_count)
        current = self._change_stream(
            name,
            lambda transaction, stream: resize_stream(
                transaction,
                stream,
                target,
                argument="target_shard_count",
                dialect=self._dialect,
                now_ms=now_ms,
                shard_limit=self._shard_limit,
            ),
        )
        return UpdateShardCountResult(name, current_shard_count=current, target_shard_count=target)

    def trim(self, stream_name: str | None = None) -> TrimResult:
        """Delete now what is older than the retention of the stream, or of all streams; its pages are used again.

        Idempotency keys older than the window go too. Puts do this on their way, so it is for streams that nobody
        writes to. It works in bites of 1,000 records or keys, each a commit of its own, so that puts get in between,
        and in smaller ones while the disk is full, which makes room for them. What it deletes could not be read any
        more.

        Raises ``InvalidArgumentException``, ``ResourceNotFoundException``, and the storage errors of ``put_record``;
        then the bites before are deleted.
        """
        now_ms = self._clock()
        if stream_name is None:
            names = self._engine.read(lambda transaction: [stream.name for stream in iterate_streams(transaction, "")])
        else:
            names = [self._load(parse_stream_name("stream_name", stream_name, self._dialect)).stored.name]

        record_count = shard_count = key_count = 0
        for name in names:
            with contextlib.suppress(ResourceNotFoundException):  # deleted meanwhile: all of it is gone
                for shard_index in self._load(name).stored.shards:
                    record_count += in_bites(partial(self._trim_bite, name, shard_index, now_ms), TRIM_RECORDS_MAX)
                key_count += in_bites(partial(self._forget_bite, name, now_ms), TRIM_IDEMPOTENCY_KEYS_MAX)
                if self._load(name).stored.expired_indexes(now_ms):
                    shard_count += self._change_stream(
                        name,
                        lambda transaction, stream: drop_expired_shards(transaction, stream, now_ms=now_ms),
                    )
        return TrimResult(record_count, shard_count, key_count)

    def _forget_bite(self, stream_name: str, now_ms: int, keys_max: int) -> int:
        def forget(transaction: WriteTransaction, stream: StoredStream) -> int:
            return forget_expired_keys(transaction, stream, now_ms=now_ms, keys_max=keys_max)

        return self._change_stream(stream_name, forget)

    def _trim_bite(self, stream_name: str, shard_index: int, now_ms: int, records_max: int) -> int:
        def trim(appender: ShardAppender) -> int:
            transaction = appender.flush()
            stream = self._catalog.load(transaction, stream_name)
            if shard_index not in stream.stored.shards:
                return 0
            counter = load_counter(transaction, stream.stored.number, shard_index)
            trimmed = trim_shard(
                transaction,
                stream.shard(shard_index, self._dialect),
                counter,
                horizon_ms=now_ms - stream.stored.retention_ms,
                records_max=records_max,
                damaged_max=None,
            )
            if trimmed != counter:
                save_counter(transaction, stream.stored.number, shard_index, trimmed)
            return trimmed.first_sequence - counter.first_sequence

        return self._change(trim)

    def describe_stream(
        self,
        stream_name: str,
        *,
        limit: int = DESCRIBE_STREAM_LIMIT_DEFAULT,
        exclusive_start_shard_id: str | None = None,
    ) -> StreamDescription:
        """Describe a stream with up to ``limit`` (1 to 10,000) of its shards, those behind the given id.

        Raises ``InvalidArgumentException``, ``ResourceNotFoundException`` (stream or shard), ``StorageError``.
        """
        now_ms = self._clock()
        name = parse_stream_name("stream_name", stream_name, self._dialect)
        shard_limit = parse_whole_number("limit", limit, first=1, last=LIST_LIMIT_MAX)
        after_shard_id = parse_exclusive_start(exclusive_start_shard_id)

        def look(transaction: ReadTransaction) -> tuple[StoredStream, list[Shard]]:
            stream = self._catalog.load(transaction, name).stored
            after = self._index_behind(stream, after_shard_id, now_ms)
            return stream, self._shards(transaction, stream, after, shard_limit + 1, now_ms, open_in=TimeSpan())

        stream, shards = self._engine.read(look)
        return StreamDescription(
            stream_name=name,
            stream_arn=self.stream_arn(name),
            stream_status="ACTIVE",
            stream_creation_timestamp=datetime_of_ms(stream.creation_ms),
            retention_period_hours=stream.retention_hours,
            write_quota_kb_per_sec=stream.write_quota_kb_per_sec,
            shards=tuple(shards[:shard_limit]),
            has_more_shards=len(shards) > shard_limit,
            stream_mode=stream.mode,
            enhanced_monitoring=stream.shard_level_metrics,
        )

    def describe_stream_summary(self, stream_name: str) -> StreamDescriptionSummary:
        """Describe what a stream is set to, and count its open shards and its consumers.

        Raises ``InvalidArgumentException``, ``ResourceNotFoundException``, ``StorageError``.
        """
        name = parse_stream_name("stream_name", stream_name, self._dialect)

        def look(transaction: ReadTransaction) -> tuple[StoredStream, int]:
            stream = self._catalog.load(transaction, name).stored
            return stream, count_consumers(transaction, stream)

        stream, consumer_count = self._engine.read(look)
        return StreamDescriptionSummary(
            stream_name=name,
            stream_status="ACTIVE",
            stream_mode=stream.mode,
            stream_creation_timestamp=datetime_of_ms(stream.creation_ms),
            retention_period_hours=stream.retention_hours,
            write_quota_kb_per_sec=stream.write_quota_kb_per_sec,
            read_quota=stream.has_read_quota,
            idempotency_window_seconds=stream.idempotency_window_ms // 1000,
            open_shard_count=stream.open_shard_count,
            consumer_count=consumer_count,
            enhanced_monitoring=stream.shard_level_metrics,
        )

    def describe_limits(self) -> DescribeLimitsResult:
        """Tell how many open shards and on-demand streams the store may have, and how many it has.

        Raises ``StorageError``.
        """
        streams = self._engine.read(lambda transaction: list(iterate_streams(transaction, "")))
        return DescribeLimitsResult(
            shard_limit=self._shard_limit,
            open_shard_count=sum(stream.open_shard_count for stream in streams),
            on_demand_stream_count=sum(stream.mode == "ON_DEMAND" for stream in streams),
            on_demand_stream_count_limit=ON_DEMAND_STREAMS_PER_STORE_MAX,
        )

    def list_shards(
        self,
        stream_name: str | None = None,
        *,
        next_token: str | None = None,
        exclusive_start_shard_id: str | None = None,
        max_results: int = LIST_SHARDS_LIMIT_DEFAULT,
        shard_filter: ShardFilter | None = None,
    ) -> ListShardsResult:
        """List up to ``max_results`` (1 to 10,000) shards of a stream, in the order of their ids.

        Name the stream, or go on with the ``next_token`` of the page before (good for 300 s), not both. The token goes
        on with the same ``shard_filter``, its times as they were; None shows what ``FROM_TRIM_HORIZON`` does.

        Raises ``InvalidArgumentException`` (which names ``shard_filter.timestamp`` and the like),
        ``ExpiredNextTokenException``, ``ResourceNotFoundException`` (stream or shard), ``StorageError``.
        """
        now_ms = self._clock()
        page_limit = parse_whole_number("max_results", max_results, first=1, last=LIST_LIMIT_MAX)
        after_shard_id = parse_exclusive_start(exclusive_start_shard_id)
        kind, filter_shard_id, time_ms = parse_shard_filter(shard_filter, now_ms=now_ms)
        refuse_two_starts(after_shard_id, filter_shard_id)
        asked: ShardPage | None = None
        if next_token is None:
            name = parse_stream_name("stream_name", stream_name, self._dialect)
        else:
            refuse_beside_next_token("stream_name", stream_name)
            refuse_beside_next_token("exclusive_start_shard_id", exclusive_start_shard_id)
            refuse_beside_next_token("shard_filter", shard_filter)
            asked = parse_next_token(next_token, now_ms=now_ms, secret=self._secret)
            name = asked.stream_name

        def look(transaction: ReadTransaction) -> tuple[StoredStream, ShardPage, list[Shard]]:
            stream = self._catalog.load(transaction, name).stored
            if asked is None:
                after = self._index_behind(stream, after_shard_id or filter_shard_id, now_ms)
                open_in = span_of_filter(kind, time_ms, stream=stream, now_ms=now_ms)
                page = ShardPage(name, stream.number, after, open_in)
            elif asked.stream_number == stream.number:
                page = asked
            else:
                raise InvalidArgumentException(
                    argument="next_token", value=next_token, constraint="belong to the stream that has this name today"
                )
            shards = self._shards(
                transaction, stream, page.after_shard_index, page_limit + 1, now_ms, open_in=page.open_in
            )
            return stream, page, shards

        stream, page, shards = self._engine.read(look)
        token = None
        if len(shards) > page_limit:
            shards = shards[:page_limit]
            last_index = shard_index_of(stream, shards[-1].shard_id, self._dialect, now_ms=now_ms)
            token = encode_next_token(replace(page, after_shard_index=last_index), now_ms=now_ms, secret=self._secret)
        return ListShardsResult(shards=tuple(shards), next_token=token)

    def list_streams(
        self,
        *,
        limit: int = LIST_STREAMS_LIMIT_DEFAULT,
        exclusive_start_stream_name: str | None = None,
        next_token: str | None = None,
    ) -> ListStreamsResult:
        """List up to ``limit`` (1 to 10,000) streams in bytewise order of their names.

        Begin behind the given name, or go on with the ``next_token`` of the page before (good for 300 s), not both: a
        page starts behind the last name of the one before, whatever was created or deleted meanwhile.

        Raises ``InvalidArgumentException``, ``ExpiredNextTokenException``, ``StorageError``.
        """
        now_ms = self._clock()
        stream_limit = parse_whole_number("limit", limit, first=1, last=LIST_LIMIT_MAX)
        after = ""
        if next_token is not None:
            refuse_beside_next_token("exclusive_start_stream_name", exclusive_start_stream_name)
            after = parse_streams_token(next_token, now_ms=now_ms, secret=self._secret).after_stream_name
        elif exclusive_start_stream_name is not None:
            after = parse_stream_name("exclusive_start_stream_name", exclusive_start_stream_name, self._dialect)
        found = self._engine.read(
            lambda transaction: list(islice(iterate_streams(transaction, after), stream_limit + 1))
        )
        streams, has_more = found[:stream_limit], len(found) > stream_limit
        token = None
        if has_more:
            token = encode_streams_token(StreamsPage(streams[-1].name), now_ms=now_ms, secret=self._secret)
        return ListStreamsResult(
            stream_names=tuple(stream.name for stream in streams),
            has_more_streams=has_more,
            next_token=token,
            stream_summaries=tuple(
                StreamSummary(
                    stream_name=stream.name,
                    stream_status="ACTIVE",
                    stream_mode=stream.mode,
                    stream_creation_timestamp=datetime_of_ms(stream.creation_ms),
                )
                for stream in streams
            ),
        )

    def _index_behind(self, stream: StoredStream, shard_id: str | None, now_ms: int) -> int:
        return -1 if shard_id is None else shard_index_of(stream, shard_id, self._dialect, now_ms=now_ms)

    def _shards(
        self,
        transaction: ReadTransaction,
        stream: StoredStream,
        after_shard_index: int,
        count: int,
        now_ms: int,
        *,
        open_in: TimeSpan,
    ) -> list[Shard]:
        indexes = (
            index
            for index, shard in stream.shards.items()
            if index > after_shard_index and shard.was_open_in(open_in) and not stream.has_expired(shard, now_ms)
        )
        return [self._shard(transaction, stream, index, now_ms) for index in islice(indexes, count)]

    def _shard(self, transaction: ReadTransaction, stream: StoredStream, shard_index: int, now_ms: int) -> Shard:
        stored = stream.shards[shard_index]
        shard_id = self._dialect.shard_id(shard_index)
        reader = ShardReader(transaction, stream.number, shard_index, shard_id)
        starting_sequence = reader.first_unexpired(now_ms - stream.retention_ms)
        ending_sequence = stored.ending_sequence
        if ending_sequence is not None:
            starting_sequence = min(starting_sequence, ending_sequence)
        parent_ids = [self._dialect.shard_id(index) for index in stored.parent_indexes]
        return Shard(
            shard_id=shard_id,
            hash_key_range=stored.hash_key_range,
            sequence_number_range=SequenceNumberRange(
                str(starting_sequence), None if ending_sequence is None else str(ending_sequence)
            ),
            parent_shard_id=parent_ids[0] if parent_ids else None,
            adjacent_parent_shard_id=parent_ids[1] if len(parent_ids) > 1 else None,
        )
