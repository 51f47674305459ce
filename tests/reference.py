"""The oracle: the store as dictionaries, written to be obvious. It knows no disk, no thread and no token format.

It shares the errors and the result types with the package, and none of its arithmetic.
"""

import hashlib
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from fractions import Fraction

from streamstore import errors, model

Rules = dict[str, re.Pattern[str] | range | tuple[object, ...]]
RULES: Rules = {
    "partition_key": re.compile(".{1,256}", re.DOTALL),
    "shard_id": re.compile("[a-zA-Z0-9_.-]{1,128}"),
    "idempotency_key": re.compile(".{1,128}", re.DOTALL),  # or None, whose text passes
    "data": range(2**20 + 1),  # its length
    "shard_count": range(1, 10**9),
    "write_quota_kb_per_sec": (None, 128, 512, 1024),
    "limit": range(1, 10_001),
    "max_results": range(1, 10_001),
    "shard_iterator_type": ("AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER", "TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"),
}
SHARD_ARGUMENTS = ("shard_to_split", "shard_to_merge", "adjacent_shard_to_merge")
RULES.update(retention_period_hours=range(1, 25), stream_mode=("PROVISIONED", "ON_DEMAND"))
RULES.update(consumer_name=RULES["shard_id"])
RULES.update(dict.fromkeys(SHARD_ARGUMENTS, RULES["shard_id"]), target_shard_count=range(1, 4_001))
METRICS: tuple[model.ShardLevelMetric, ...] = (
    *("IncomingBytes", "OutgoingRecords", "IncomingRecords", "OutgoingBytes", "WriteProvisionedThroughputExceeded"),
    *("ReadProvisionedThroughputExceeded", "IteratorAgeMilliseconds", "ALL"),
)
GONE = model.Record("0", "", b"", -(10**15))  # a place in a shard whose record was trimmed
Entry = tuple[bytes, str, str | None, str | None]
WINDOW_MS = 300_000
ShownBy = Callable[["ShardState"], bool]
DAY_MS = 86_400_000
READ_BYTES_PER_SECOND = 2 * 2**20
LARGEST_DEBT_NS = 9_007_812_501  # one second, and 1 MiB with the longest key at 128 KB/s


class Flavour:
    """What differs between the dialects."""

    def __init__(
        self, stream_name: str, shard_name: str, hours: range, hash_keys: int, margin: int, arn: str, consumers_max: int
    ) -> None:
        self.rules: Rules = {"stream_name": re.compile(stream_name), "retention_hours": hours}
        self.rules["retention_period_hours"] = hours
        self.consumers_max = consumers_max
        self.shard_name, self.hash_keys, self.margin, self.arn = shard_name.format, hash_keys, margin, arn.format

    def slices(self, count: int) -> list[int]:
        return [index * (self.hash_keys // count) for index in range(count)]


YANDEX = Flavour("[a-zA-Z]([a-zA-Z0-9-]{0,126}[a-zA-Z0-9])?", "shard-{:06d}", range(1, 25), 2**128 - 1, 0, "{}", 5)
AWS_ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/{}"
AWS = Flavour("[a-zA-Z0-9_.-]{1,128}", "shardId-{:012d}", range(24, 8_761), 2**128, 1, AWS_ARN, 20)


class ShardState:
    """``start`` is the number of its first record ever; ``closed_ms`` is None while it is open."""

    def __init__(
        self, index: int, low: int, high: int, created_ms: int, parents: "tuple[ShardState, ...]" = ()
    ) -> None:
        self.index, self.keys, self.parents, self.created_ms = index, model.HashKeyRange(low, high), parents, created_ms
        self.start = max((parent.ending() + 1 for parent in parents), default=0)
        self.last_arrival_ms: int = max((parent.last_arrival_ms for parent in parents), default=0)
        self.closed_ms: int | None = None
        self.records: list[model.Record] = []  # all there ever were, the expired too
        self.full_at_ns = [0, 0]  # the quotas of bytes and of records
        self.calls_ms: list[int] = []  # that the read quota let through
        self.paid_at_ms = Fraction(0)  # what the last of them returned

    def ending(self) -> int:
        return self.start + max(len(self.records) - 1, 0)

    def close(self, now_ms: int) -> int:
        self.closed_ms = max(now_ms, self.created_ms, self.last_arrival_ms)
        return self.closed_ms


class StreamState:
    def __init__(
        self,
        flavour: Flavour,
        creation_ms: int,
        retention_hours: int,
        write_quota: int | None,
        shard_count: int,
        *,
        read_quota: bool,
    ) -> None:
        self.flavour, self.creation_ms, self.read_quota = flavour, creation_ms, read_quota
        self.resized_ms: list[int] = []
        slices = flavour.slices(shard_count)
        self.created = time_of(creation_ms)
        self.mode: model.StreamMode = "PROVISIONED"
        self.tags, self.consumers = dict[str, str](), dict[str, model.Consumer]()
        self.metrics = set[model.ShardLevelMetric]()
        self.done = dict[str, set[tuple[str, str]]]()  # shard id and number of what each consumer has done
        self.retention_hours, self.write_quota = retention_hours, write_quota
        ranges = list(zip(slices, [*slices[1:], 2**128], strict=True))
        self.shards = [ShardState(index, low, stop - 1, creation_ms) for index, (low, stop) in enumerate(ranges)]
        self.dropped = list[ShardState]()
        self.first_puts: dict[str, tuple[model.PutRecordResult, int]] = {}  # of each idempotency key, and when

    def shown_metrics(self) -> tuple[model.ShardLevelMetric, ...]:
        return ("ALL",) if "ALL" in self.metrics else tuple(each for each in METRICS if each in self.metrics)

    def open_shards(self) -> list[ShardState]:
        open_shards = [shard for shard in self.shards if shard.closed_ms is None]
        return sorted(open_shards, key=lambda shard: shard.keys.starting_hash_key)

    def visible(self, now_ms: int) -> list[ShardState]:
        since_ms = self.horizon(now_ms)
        return [shard for shard in self.shards if shard.closed_ms is None or shard.closed_ms >= since_ms]

    def horizon(self, now_ms: int) -> int:
        return now_ms - self.retention_hours * 3_600_000

    def alive(self, shard: ShardState, now_ms: int) -> list[model.Record]:
        return [record for record in shard.records if record.arrival_ms >= self.horizon(now_ms)]

    def show(self, shard: ShardState, now_ms: int) -> model.Shard:
        alive = self.alive(shard, now_ms)
        start = int(alive[0].sequence_number) if alive else shard.start + len(shard.records)
        numbers = model.SequenceNumberRange(str(start))
        if shard.closed_ms is not None:
            numbers = model.SequenceNumberRange(str(min(start, shard.ending())), str(shard.ending()))
        parents = [*(self.flavour.shard_name(parent.index) for parent in shard.parents), None, None]
        return model.Shard(self.flavour.shard_name(shard.index), shard.keys, numbers, parents[0], parents[1])

    def at(self, hash_key: int) -> ShardState:
        return next(shard for shard in self.open_shards() if hash_key in shard.keys)

    def shown_by(self, shard_filter: model.ShardFilter | None, now_ms: int) -> ShownBy:
        """Return the sentence of the documents about a filter, with its times as they are now."""
        kind = shard_filter.type if shard_filter else "FROM_TRIM_HORIZON"
        horizon_ms = max(self.horizon(now_ms), self.creation_ms)
        time_ms = ms_of(shard_filter)

        def open_at(shard: ShardState, then_ms: int) -> bool:
            return shard.created_ms <= then_ms and (shard.closed_ms is None or then_ms <= shard.closed_ms)

        sentences: dict[str, ShownBy] = {
            "AT_LATEST": lambda shard: shard.closed_ms is None,
            "AT_TRIM_HORIZON": lambda shard: open_at(shard, horizon_ms),
            "AT_TIMESTAMP": lambda shard: open_at(shard, time_ms),
            "FROM_TIMESTAMP": lambda shard: shard.closed_ms is None or shard.closed_ms >= time_ms,
        }
        return sentences.get(kind, lambda _: True)

    def named(self, shard_id: str, now_ms: int) -> ShardState:
        found = [shard for shard in self.visible(now_ms) if self.flavour.shard_name(shard.index) == shard_id]
        if not found:
            raise errors.ResourceNotFoundException(resource=shard_id, remedy="")
        return found[0]

    def add(self, low: int, high: int, created_ms: int, *parents: ShardState) -> ShardState:
        index = 1 + max(shard.index for shard in (*self.shards, *self.dropped))
        self.shards.append(ShardState(index, low, high, created_ms, parents))
        return self.shards[-1]

    def split(self, shard: ShardState, at: int, now_ms: int) -> list[ShardState]:
        closed_ms = shard.close(now_ms)
        ends = [(shard.keys.starting_hash_key, at - 1), (at, shard.keys.ending_hash_key)]
        return [self.add(low, high, closed_ms, shard) for low, high in ends]

    def merge(self, left: ShardState, right: ShardState, now_ms: int) -> ShardState:
        closed_ms = max(left.close(now_ms), right.close(now_ms))
        return self.add(left.keys.starting_hash_key, right.keys.ending_hash_key, closed_ms, left, right)

    def first_put(self, once: str | None, now_ms: int) -> model.PutRecordResult | None:
        self.forget(now_ms) if once is not None else None
        return self.first_puts[once][0] if once in self.first_puts else None

    def forget(self, now_ms: int) -> None:
        remembered = [item for item in self.first_puts.items() if abs(now_ms - item[1][1]) < WINDOW_MS]
        self.first_puts = dict(remembered)

    def drop_expired(self, now_ms: int) -> None:
        self.dropped += [shard for shard in self.shards if shard not in self.visible(now_ms)]
        self.shards = self.visible(now_ms)

    def trim(self, now_ms: int) -> None:
        self.drop_expired(now_ms)
        for shard in self.shards:
            expired = len(shard.records) - len(self.alive(shard, now_ms))
            shard.records[:expired] = [GONE] * expired


class ReferenceStore:
    def __init__(self, clock: Callable[[], int], flavour: Flavour) -> None:
        self.clock, self.flavour = clock, flavour
        self.shard_limit = 4_000
        self.streams: dict[str, StreamState] = {}
        self.places: dict[str, tuple[StreamState, ShardState, int, int, int]] = {}  # sequence, not before, created
        self.pages: dict[str, tuple[str, StreamState, int, ShownBy, int]] = {}  # behind index, created
        self.name_pages: dict[str, tuple[StreamState | None, str, int]] = {}  # of consumers or streams, name, created

    def create_stream(
        self,
        name: str,
        *,
        shard_count: int,
        retention_hours: int,
        write_quota: int | None,
        read_quota: bool,
        mode: model.StreamMode = "PROVISIONED",
        tags: dict[str, str],
    ) -> None:
        self.check(stream_name=name, shard_count=shard_count, retention_hours=retention_hours)
        self.check(write_quota_kb_per_sec=write_quota, stream_mode=mode)
        check_tags(tags)
        if name in self.streams:
            raise errors.ResourceInUseException(resource=name, remedy="")
        if shard_count + sum(len(stream.shards) for stream in self.streams.values()) > 4_000:
            raise errors.LimitExceededException(limit="", remedy="")
        self.refuse_more_open(shard_count)
        self.streams[name] = StreamState(
            self.flavour, self.clock(), retention_hours, write_quota, shard_count, read_quota=read_quota
        )
        self.streams[name].mode, self.streams[name].tags = mode, dict(tags)

    def delete_stream(self, name: str, *, enforce: bool) -> None:
        if self.stream(name).consumers and not enforce:
            raise errors.ResourceInUseException(resource=name, remedy="")
        del self.streams[name]

    def list_streams(self, *, limit: int, after: str, token: str | None = None) -> model.ListStreamsResult:
        self.check(limit=limit)
        after = after if token is None else self.place_in_names(token)[1]
        names = sorted(name for name in self.streams if name > after)
        listed = [(name, self.streams[name]) for name in names[:limit]]
        shown = tuple(model.StreamSummary(name, "ACTIVE", stream.mode, stream.created) for name, stream in listed)
        next_token = self.name_page(None, names[limit - 1]) if len(names) > limit else None
        return model.ListStreamsResult(tuple(names[:limit]), next_token is not None, next_token, shown)

    def describe_stream(self, name: str, *, limit: int, after: str | None) -> model.StreamDescription:
        self.check(stream_name=name, limit=limit)
        stream = self.stream(name)
        shards = self.behind(stream, -1 if after is None else stream.named(after, self.clock()).index)
        quota, hours, more = stream.write_quota, stream.retention_hours, len(shards) > limit
        arn, shown = self.flavour.arn(name), tuple(shards[:limit])
        return model.StreamDescription(
            *(name, arn, "ACTIVE", stream.created, hours, quota, shown, more, "NONE", stream.mode),
            enhanced_monitoring=stream.shown_metrics(),
        )

    def describe_stream_summary(self, name: str) -> model.StreamDescriptionSummary:
        stream = self.stream(name)
        return model.StreamDescriptionSummary(
            stream_name=name,
            stream_status="ACTIVE",
            stream_mode=stream.mode,
            stream_creation_timestamp=stream.created,
            retention_period_hours=stream.retention_hours,
            write_quota_kb_per_sec=stream.write_quota,
            read_quota=stream.read_quota,
            idempotency_window_seconds=300,
            open_shard_count=len(stream.open_shards()),
            consumer_count=len(stream.consumers),
            enhanced_monitoring=stream.shown_metrics(),
        )

    def describe_limits(self) -> model.DescribeLimitsResult:
        on_demand_count = sum(stream.mode == "ON_DEMAND" for stream in self.streams.values())
        return model.DescribeLimitsResult(self.shard_limit, self.open_count(), on_demand_count, 50)

    def open_count(self) -> int:
        return sum(len(stream.open_shards()) for stream in self.streams.values())

    def refuse_more_open(self, count: int) -> None:
        """A store may have more open shards than its limit, when it is opened with a lower one; it gets no more."""
        if count > 0 and self.open_count() + count > self.shard_limit:
            raise errors.LimitExceededException(limit="", remedy="")

    def update_stream(
        self, name: str, count: int | None, quota: int | str | None, hours: int | None, read_quota: bool | None
    ) -> model.UpdateStreamResult:
        self.check(stream_name=name)
        refuse_unless(count is None or 1 <= count <= 4_000, "shard_count", count)
        if hours is not None:
            self.check(retention_hours=hours)
        self.check(write_quota_kb_per_sec=None if quota == "keep" else quota)
        stream = self.stream(name)
        if count is not None:
            self.refuse_resize(stream, count, "shard_count")
        self.set_retention(stream, hours or stream.retention_hours)
        stream.write_quota = quota if not isinstance(quota, str) else stream.write_quota
        stream.read_quota = stream.read_quota if read_quota is None else read_quota
        if count is not None:
            self.update_shard_count(name, count)
        open_count = len(stream.open_shards())
        return model.UpdateStreamResult(name, open_count, stream.write_quota, stream.retention_hours)

    def update_stream_mode(self, name: str, mode: model.StreamMode) -> None:
        self.check(stream_name=name, stream_mode=mode)
        self.stream(name).mode = mode

    def monitor(
        self, name: str, metrics: list[model.ShardLevelMetric], *, enable: bool
    ) -> model.EnhancedMonitoringResult:
        self.check(stream_name=name)
        asked = set(metrics)
        refuse_unless(1 <= len(metrics) <= 7 and asked <= {*METRICS}, "shard_level_metrics", metrics)
        stream = self.stream(name)
        before = stream.shown_metrics()
        if enable:
            stream.metrics |= asked
        elif "ALL" in asked:
            stream.metrics = set()
        elif "ALL" in stream.metrics:
            stream.metrics = set(METRICS) - asked - {"ALL"}
        else:
            stream.metrics -= asked
        return model.EnhancedMonitoringResult(name, self.flavour.arn(name), before, stream.shown_metrics())

    def change_retention(self, name: str, hours: int, *, increase: bool) -> None:
        self.check(stream_name=name, retention_period_hours=hours)
        now = self.stream(name).retention_hours
        refuse_unless(hours > now if increase else hours < now, "retention_period_hours", hours)
        self.set_retention(self.streams[name], hours)

    def set_retention(self, stream: StreamState, hours: int) -> None:
        """What has expired stays so when the retention is increased."""
        if hours > stream.retention_hours:
            stream.trim(self.clock())
        stream.retention_hours = hours

    def add_tags(self, name: str, tags: dict[str, str]) -> None:
        self.check(stream_name=name)
        refuse_unless(tags, "tags", tags)
        check_tags(tags)
        merged = self.stream(name).tags | tags
        if len(merged) > 50:
            raise errors.LimitExceededException(limit="", remedy="")
        self.streams[name].tags = merged

    def remove_tags(self, name: str, keys: list[str]) -> None:
        self.check(stream_name=name)
        refuse_unless(1 <= len(keys) <= 50 and all(map(is_tag_key, keys)), "tag_keys", keys)
        stream = self.stream(name)
        stream.tags = {key: value for key, value in stream.tags.items() if key not in keys}

    def list_tags(self, name: str, *, after: str | None, limit: int) -> model.ListTagsForStreamResult:
        self.check(stream_name=name)
        refuse_unless(after is None or is_tag_key(after), "exclusive_start_tag_key", after)
        refuse_unless(limit in range(1, 51), "limit", limit)
        tags = [model.Tag(*tag) for tag in sorted(self.stream(name).tags.items()) if tag[0] > (after or "")]
        return model.ListTagsForStreamResult(tuple(tags[:limit]), len(tags) > limit)

    def register_consumer(self, name: str, consumer_name: str) -> model.Consumer:
        self.check(stream_name=name, consumer_name=consumer_name)
        consumers = self.stream(name).consumers
        if consumer_name in consumers:
            raise errors.ResourceInUseException(resource=consumer_name, remedy="")
        if len(consumers) >= self.flavour.consumers_max:
            raise errors.LimitExceededException(limit="", remedy="")
        return self.open_consumer(name, consumer_name)

    def open_consumer(self, name: str, consumer_name: str) -> model.Consumer:
        self.check(stream_name=name, consumer_name=consumer_name)
        stream, arn = self.stream(name), f"{self.flavour.arn(name)}/consumer/{consumer_name}:{self.clock() // 1000}"
        new = model.Consumer(consumer_name, arn, "ACTIVE", time_of(self.clock()))
        stream.done.setdefault(consumer_name, set())
        return stream.consumers.setdefault(consumer_name, new)

    def unread(self, name: str, consumer_name: str) -> dict[str, list[model.Record]]:
        """Return what the consumer has not done yet with a checkpoint behind it."""
        done, every = self.streams[name].done[consumer_name], self.read_all(name)
        return {
            shard_id: [record for record in records if (shard_id, record.sequence_number) not in done]
            for shard_id, records in every.items()
        }

    def describe_consumer(self, name: str, consumer_name: str) -> model.ConsumerDescription:
        consumer = self.consumer(name, consumer_name)
        created, arn = consumer.consumer_creation_timestamp, consumer.consumer_arn
        return model.ConsumerDescription(consumer_name, arn, "ACTIVE", created, self.flavour.arn(name))

    def deregister_consumer(self, name: str, consumer_name: str) -> None:
        self.consumer(name, consumer_name)
        del self.streams[name].consumers[consumer_name], self.streams[name].done[consumer_name]

    def consumer(self, name: str, consumer_name: str) -> model.Consumer:
        self.check(stream_name=name, consumer_name=consumer_name)
        if consumer_name not in self.stream(name).consumers:
            raise errors.ResourceNotFoundException(resource=consumer_name, remedy="")
        return self.streams[name].consumers[consumer_name]

    def list_consumers(
        self, name: str, *, max_results: int, token: str | None = None
    ) -> model.ListStreamConsumersResult:
        self.check(stream_name=name, max_results=max_results)
        then, after = (None, "") if token is None else self.place_in_names(token)
        stream = self.stream(name)
        refuse_unless(token is None or then is stream, "next_token", token)
        found = [consumer for key, consumer in sorted(stream.consumers.items()) if key > after]
        next_token = self.name_page(stream, found[max_results - 1].consumer_name) if len(found) > max_results else None
        return model.ListStreamConsumersResult(tuple(found[:max_results]), next_token)

    def name_page(self, stream: StreamState | None, name: str) -> str:
        self.name_pages[f"name page {len(self.name_pages)}"] = (stream, name, self.clock())
        return f"name page {len(self.name_pages) - 1}"

    def place_in_names(self, token: str) -> tuple[StreamState | None, str]:
        refuse_unless(token in self.name_pages, "next_token", token)
        stream, name, created_ms = self.name_pages[token]
        if not -10_000 <= self.clock() - created_ms < 300_000:
            raise errors.ExpiredNextTokenException("")
        return stream, name

    def list_shards(
        self,
        name: str,
        *,
        max_results: int,
        token: str | None = None,
        after: str | None = None,
        shard_filter: model.ShardFilter | None = None,
    ) -> model.ListShardsResult:
        self.check(max_results=max_results)
        if token is None:
            behind, shown_by = self.first_page(name, after, shard_filter)
        else:
            refuse_unless(token in self.pages, "next_token", token)
            name, then, behind, shown_by, created_ms = self.pages[token]
            if not -10_000 <= self.clock() - created_ms < 300_000:
                raise errors.ExpiredNextTokenException("")
            refuse_unless(self.stream(name) is then, "next_token", token)
        shards = self.behind(self.stream(name), behind, shown_by)
        if len(shards) <= max_results:
            return model.ListShardsResult(tuple(shards), None)
        last = self.stream(name).named(shards[max_results - 1].shard_id, self.clock()).index
        self.pages[f"page {len(self.pages)}"] = (name, self.stream(name), last, shown_by, self.clock())
        return model.ListShardsResult(tuple(shards[:max_results]), f"page {len(self.pages) - 1}")

    def first_page(self, name: str, after: str | None, shard_filter: model.ShardFilter | None) -> tuple[int, ShownBy]:
        if shard_filter:
            wants_time = shard_filter.type.endswith("TIMESTAMP")
            wants_shard = shard_filter.type == "AFTER_SHARD_ID"
            refuse_unless((shard_filter.shard_id is not None) == wants_shard, "shard_filter.shard_id", None)
            refuse_unless((shard_filter.timestamp is not None) == wants_time, "shard_filter.timestamp", None)
            refuse_unless(ms_of(shard_filter) <= self.clock() + 10_000, "shard_filter.timestamp", None)
            refuse_unless(not (wants_shard and after), "exclusive_start_shard_id", None)
            after = after or shard_filter.shard_id
        stream = self.stream(name)
        behind = -1 if after is None else stream.named(after, self.clock()).index
        return behind, stream.shown_by(shard_filter, self.clock())

    def behind(self, stream: StreamState, index: int, shown_by: ShownBy = lambda _: True) -> list[model.Shard]:
        visible = [shard for shard in stream.visible(self.clock()) if shard.index > index and shown_by(shard)]
        return [stream.show(shard, self.clock()) for shard in visible]

    def split_shard(self, name: str, shard_id: str, hash_key: str) -> None:
        self.check(stream_name=name, shard_to_split=shard_id)
        at = hash_key_at("new_starting_hash_key", hash_key)
        shard = self.stream(name).named(shard_id, self.clock())
        refuse_unless(self.stream(name).mode == "PROVISIONED", "stream_name", name)
        refuse_unless(shard.closed_ms is None, "shard_to_split", shard_id)
        margin = self.flavour.margin
        inside = shard.keys.starting_hash_key + margin < at <= shard.keys.ending_hash_key - margin
        refuse_unless(inside, "new_starting_hash_key", hash_key)
        self.refuse_more_open(1)
        self.streams[name].split(shard, at, self.clock())
        self.streams[name].drop_expired(self.clock())

    def merge_shards(self, name: str, shard_id: str, adjacent_id: str) -> None:
        self.check(stream_name=name, shard_to_merge=shard_id, adjacent_shard_to_merge=adjacent_id)
        shard, adjacent = (self.stream(name).named(each, self.clock()) for each in (shard_id, adjacent_id))
        refuse_unless(self.stream(name).mode == "PROVISIONED", "stream_name", name)
        refuse_unless(shard.closed_ms is None, "shard_to_merge", shard_id)
        touching = shard.keys.ending_hash_key + 1 == adjacent.keys.starting_hash_key
        refuse_unless(adjacent.closed_ms is None and touching, "adjacent_shard_to_merge", adjacent_id)
        self.streams[name].merge(shard, adjacent, self.clock())
        self.streams[name].drop_expired(self.clock())

    def refuse_resize(self, stream: StreamState, target: int, argument: str) -> None:
        refuse_unless(stream.mode == "PROVISIONED", "stream_name", None)
        open_count = len(stream.open_shards())
        if self.flavour is AWS:
            today = [time_ms for time_ms in stream.resized_ms if self.clock() - DAY_MS < time_ms <= self.clock()]
            if len(today) >= 10:
                raise errors.LimitExceededException(limit="", remedy="")
            refuse_unless(open_count / 2 <= target <= open_count * 2, argument, target)
        self.refuse_more_open(target - open_count)

    def update_shard_count(self, name: str, target: int) -> model.UpdateShardCountResult:
        """Cut the shards where the new ranges start, the middle first; join what lies in one, halves first."""
        self.check(stream_name=name, target_shard_count=target)
        stream, now_ms = self.stream(name), self.clock()
        self.refuse_resize(stream, target, "target_shard_count")
        before, starts = stream.open_shards(), self.flavour.slices(target)
        stream.resized_ms = [time_ms for time_ms in stream.resized_ms if now_ms - DAY_MS < time_ms <= now_ms] + [now_ms]

        def cut(shard: ShardState) -> None:
            inside = [at for at in starts if shard.keys.starting_hash_key < at <= shard.keys.ending_hash_key]
            if inside:
                for half in stream.split(shard, inside[len(inside) // 2], now_ms):
                    cut(half)

        def join(pieces: list[ShardState]) -> ShardState:
            half = len(pieces) // 2
            return stream.merge(join(pieces[:half]), join(pieces[half:]), now_ms) if half else pieces[0]

        for shard in before:
            cut(shard)
        cuts = stream.open_shards()
        for low, stop in zip(starts, [*starts[1:], 2**128], strict=True):
            join([piece for piece in cuts if low <= piece.keys.starting_hash_key < stop])
        stream.drop_expired(now_ms)
        return model.UpdateShardCountResult(name, len(before), target)

    def trim(self) -> None:
        for stream in self.streams.values():
            stream.forget(self.clock())
            stream.trim(self.clock())

    def forget_reading(self) -> None:
        """The read quota is kept in memory."""
        for shard in [shard for stream in self.streams.values() for shard in stream.shards]:
            shard.calls_ms, shard.paid_at_ms = [], Fraction(0)

    def put_record(
        self,
        name: str,
        data: bytes,
        key: str,
        *,
        explicit_hash_key: str | None,
        ordering: str | None,
        once: str | None,
    ) -> model.PutRecordResult:
        self.check(stream_name=name)
        hash_key = hash_key_of(data, key, explicit_hash_key)
        sequence = number("sequence_number_for_ordering", ordering or "0")
        check(RULES, idempotency_key=once)
        stream = self.stream(name)
        if ordering is not None and stream.first_put(once, self.clock()) is None:
            shard = stream.at(hash_key)
            refuse_unless(sequence < shard.start + len(shard.records), "sequence_number_for_ordering", ordering)
        return self.append_once(stream, hash_key, data, key, once)

    def put_records(self, name: str, entries: list[Entry]) -> model.PutRecordsResult:
        self.check(stream_name=name)
        refuse_unless(0 < len(entries) <= 500, "records", None)
        hash_keys = [hash_key_of_entry(*entry) for entry in enumerate(entries)]
        refuse_unless(sum(len(data) + len(key.encode()) for data, key, _, _ in entries) <= 5 * 2**20, "records", None)
        stream, results, throttled = self.stream(name), list[model.PutRecordsResultEntry](), set[int]()
        for (data, key, _, once), hash_key in zip(entries, hash_keys, strict=True):
            index = stream.at(hash_key).index
            try:
                if index in throttled and stream.first_put(once, self.clock()) is None:
                    raise errors.ProvisionedThroughputExceededException(stream_name="", shard_id="", retry_after_ms=0)
                results.append(model.PutRecordsResultEntry(*self.append_once(stream, hash_key, data, key, once)[:2]))
            except errors.ProvisionedThroughputExceededException as error:
                throttled.add(index)
                results.append(model.PutRecordsResultEntry(None, None, type(error).__name__, ""))
        return model.PutRecordsResult(sum(result.sequence_number is None for result in results), results)

    def ingest(self, name: str, entries: list[Entry]) -> model.IngestResult:
        stream, shard_ids = self.stream(name), set[str]()
        for index, entry in enumerate(entries):
            hash_key = hash_key_of_entry(index, entry)
            shard_ids.add(self.append_once(stream, hash_key, entry[0], entry[1], entry[3]).shard_id)
        return model.IngestResult(len(entries), sum(len(entry[0]) for entry in entries), frozenset(shard_ids))

    def append_once(
        self, stream: StreamState, hash_key: int, data: bytes, key: str, once: str | None
    ) -> model.PutRecordResult:
        first = stream.first_put(once, self.clock()) or self.append(stream, hash_key, data, key)
        if once is not None:
            stream.first_puts.setdefault(once, (first, self.clock()))
        return first

    def append(self, stream: StreamState, hash_key: int, data: bytes, key: str) -> model.PutRecordResult:
        shard = stream.at(hash_key)
        if stream.write_quota is not None:
            charge(shard, len(data) + len(key.encode()), stream.write_quota, now_ns=self.clock() * 1_000_000)
        shard.last_arrival_ms = max(self.clock(), shard.last_arrival_ms)
        sequence_number = str(shard.start + len(shard.records))
        shard.records.append(model.Record(sequence_number, key, data, shard.last_arrival_ms))
        return model.PutRecordResult(self.flavour.shard_name(shard.index), sequence_number)

    def get_shard_iterator(self, name: str, shard_id: str, kind: str, start: str | None, time_s: float | None) -> str:
        self.check(stream_name=name, shard_id=shard_id, shard_iterator_type=kind)
        refuse_unless((start is not None) == kind.endswith("SEQUENCE_NUMBER"), "starting_sequence_number", start)
        refuse_unless((time_s is not None) == (kind == "AT_TIMESTAMP"), "timestamp", time_s)
        sequence = number("starting_sequence_number", start or "0") + (kind == "AFTER_SEQUENCE_NUMBER")
        not_before_ms = round((time_s or 0) * 1000)
        refuse_unless(0 <= not_before_ms <= self.clock() + 10_000, "timestamp", time_s)
        shard = self.stream(name).named(shard_id, self.clock())
        sequence = shard.start + len(shard.records) if kind == "LATEST" else sequence
        return self.place(self.streams[name], shard, sequence, not_before_ms)

    def get_records(self, token: str, *, limit: int) -> model.GetRecordsResult:
        self.check(limit=limit)
        refuse_unless(token in self.places, "shard_iterator", token)
        stream, shard, sequence, not_before_ms, created_ms = self.places[token]
        if not -10_000 <= self.clock() - created_ms < 300_000:
            raise errors.ExpiredIteratorException("")
        if stream not in self.streams.values() or shard not in stream.visible(self.clock()):
            raise errors.ResourceNotFoundException(resource=token, remedy="")
        if stream.read_quota:
            refuse_throttled(shard, self.clock())
        alive = [record for record in stream.alive(shard, self.clock()) if int(record.sequence_number) >= sequence]
        page = [record for record in alive if record.arrival_ms >= not_before_ms][:limit]
        while size_of(page) > 10 * 2**20:
            page.pop()
        if stream.read_quota:
            shard.calls_ms = [*recent(shard, self.clock()), self.clock()]
            shard.paid_at_ms = self.clock() + Fraction(size_of(page) * 1_000, READ_BYTES_PER_SECOND)
        if shard.closed_ms is not None and (not page or page[-1] is alive[-1]):
            return model.GetRecordsResult(page, None, 0, children_of(stream, shard))
        if not page:
            return model.GetRecordsResult([], self.place(stream, shard, sequence, not_before_ms), 0)
        behind_ms = 0 if page[-1] is alive[-1] else max(1, alive[-1].arrival_ms - page[-1].arrival_ms)
        return model.GetRecordsResult(page, self.place(stream, shard, int(page[-1].sequence_number) + 1, 0), behind_ms)

    def read_all(self, name: str) -> dict[str, list[model.Record]]:
        shards = self.stream(name).visible(self.clock())
        shard_ids = [self.flavour.shard_name(shard.index) for shard in shards]
        every = {shard_id: self.read(name, shard_id, start="0") for shard_id in shard_ids}
        return {shard_id: records for shard_id, records in every.items() if records}

    def read(self, name: str, shard_id: str, *, start: str) -> list[model.Record]:
        first, stream = number("starting_sequence_number", start), self.stream(name)
        alive = stream.alive(stream.named(shard_id, self.clock()), self.clock())
        return [record for record in alive if int(record.sequence_number) >= first]

    def check(self, **arguments: object) -> None:
        check(RULES | self.flavour.rules, **arguments)

    def stream(self, name: str) -> StreamState:
        self.check(stream_name=name)
        if name not in self.streams:
            raise errors.ResourceNotFoundException(resource=name, remedy="")
        return self.streams[name]

    def place(self, stream: StreamState, shard: ShardState, sequence: int, not_before_ms: int) -> str:
        self.places[f"place {len(self.places)}"] = (stream, shard, sequence, not_before_ms, self.clock())
        return f"place {len(self.places) - 1}"


def hash_key_of(data: bytes, key: str, explicit_hash_key: str | None) -> int:
    check(RULES, data=len(data), partition_key=key)
    if explicit_hash_key is None:
        return int(hashlib.md5(key.encode()).hexdigest(), 16)
    return hash_key_at("explicit_hash_key", explicit_hash_key)


def hash_key_at(argument: str, text: str) -> int:
    hash_key = number(argument, text)
    refuse_unless(hash_key < 2**128, argument, text)
    return hash_key


def hash_key_of_entry(index: int, entry: Entry) -> int:
    try:
        hash_key = hash_key_of(*entry[:3])
        check(RULES, idempotency_key=entry[3])
        return hash_key
    except errors.InvalidArgumentException as refusal:
        argument = f"records[{index}].{refusal.argument}"
        raise errors.InvalidArgumentException(argument=argument, value=None, constraint="") from None


def charge(shard: ShardState, size_bytes: int, kb_per_sec: int, *, now_ns: int) -> None:
    """Let the record through if what is owed leaves room for it in one second of quota, or if nothing is owed."""
    costs_ns = [size_bytes * 1_000_000_000 // (kb_per_sec * 1024), 1_000_000]
    owed_ns = [max(0, full_at_ns - now_ns) for full_at_ns in shard.full_at_ns]
    owed_ns = [0 if owed > LARGEST_DEBT_NS else owed for owed in owed_ns]  # the clock was set back
    if any(owed > max(0, 1_000_000_000 - cost) for owed, cost in zip(owed_ns, costs_ns, strict=True)):
        raise errors.ProvisionedThroughputExceededException(stream_name="", shard_id="", retry_after_ms=0)
    shard.full_at_ns = [now_ns + owed + cost for owed, cost in zip(owed_ns, costs_ns, strict=True)]


def recent(shard: ShardState, now_ms: int) -> list[int]:
    """Return the calls of the last second. What lies far ahead was there before the clock was set back."""
    return [time_ms for time_ms in shard.calls_ms if now_ms - 1_000 < time_ms <= now_ms + 5_000]


def refuse_throttled(shard: ShardState, now_ms: int) -> None:
    if len(recent(shard, now_ms)) >= 5 or now_ms < shard.paid_at_ms <= now_ms + 5_000:
        raise errors.ProvisionedThroughputExceededException(stream_name="", shard_id="", retry_after_ms=0)


def size_of(records: list[model.Record]) -> int:
    return sum(len(record.data) + len(record.partition_key.encode()) for record in records)


def ms_of(shard_filter: model.ShardFilter | None) -> int:
    timestamp = shard_filter.timestamp if shard_filter else None
    return round(timestamp * 1000) if isinstance(timestamp, float) else 0


def check(rules: Rules, **arguments: object) -> None:
    for argument, value in arguments.items():
        rule = rules[argument]
        refuse_unless(rule.fullmatch(str(value)) if isinstance(rule, re.Pattern) else value in rule, argument, value)


def number(argument: str, text: str) -> int:
    refuse_unless(re.fullmatch("0|[1-9][0-9]{0,128}", text), argument, text)
    return int(text)


def refuse_unless(allowed: object, argument: str, value: object) -> None:
    if not allowed:
        raise errors.InvalidArgumentException(argument=argument, value=value, constraint="")


def check_tags(tags: dict[str, str]) -> None:
    refuse_unless(len(tags) <= 50, "tags", tags)
    refuse_unless(all(is_tag_key(key) and len(value) <= 256 for key, value in tags.items()), "tags", tags)


def is_tag_key(key: str) -> bool:
    return re.fullmatch("(?!aws:).{1,128}", key, re.DOTALL | re.IGNORECASE) is not None


def time_of(time_ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)


def children_of(stream: StreamState, shard: ShardState) -> tuple[model.ChildShard, ...]:
    name = stream.flavour.shard_name
    children = [child for child in stream.shards if shard in child.parents]
    names = [tuple(name(parent.index) for parent in child.parents) for child in children]
    pairs = zip(children, names, strict=True)
    return tuple(model.ChildShard(name(child.index), parents, child.keys) for child, parents in pairs)
