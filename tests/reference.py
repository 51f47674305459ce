"""The oracle: the store as dictionaries, written to be obvious. It knows no disk, no thread and no token format.

It shares the errors and the result types with the package, and none of its arithmetic.
"""

import hashlib
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from streamstore import errors, model

RULES: dict[str, re.Pattern[str] | range | tuple[object, ...]] = {
    "stream_name": re.compile("[a-zA-Z]([a-zA-Z0-9-]{0,126}[a-zA-Z0-9])?"),
    "partition_key": re.compile(".{1,256}", re.DOTALL),
    "shard_id": re.compile("[a-zA-Z0-9_.-]{1,128}"),
    "idempotency_key": re.compile(".{1,128}", re.DOTALL),  # or None, whose text passes
    "data": range(2**20 + 1),  # its length
    "shard_count": range(1, 10**9),
    "retention_hours": range(1, 25),
    "write_quota_kb_per_sec": (None, 128, 512, 1024),
    "limit": range(1, 10_001),
    "max_results": range(1, 10_001),
    "shard_iterator_type": ("AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER", "TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"),
}
SHARD_ARGUMENTS = ("shard_to_split", "shard_to_merge", "adjacent_shard_to_merge")
RULES.update(dict.fromkeys(SHARD_ARGUMENTS, RULES["shard_id"]), target_shard_count=range(1, 4_001))
GONE = model.Record("0", "", b"", -(10**15))  # a place in a shard whose record was trimmed
Entry = tuple[bytes, str, str | None, str | None]
WINDOW_MS = 300_000
LARGEST_DEBT_NS = 9_007_812_501  # one second, and 1 MiB with the longest key at 128 KB/s


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

    def ending(self) -> int:
        return self.start + max(len(self.records) - 1, 0)

    def close(self, now_ms: int) -> int:
        self.closed_ms = max(now_ms, self.created_ms, self.last_arrival_ms)
        return self.closed_ms


class StreamState:
    def __init__(self, creation_ms: int, retention_hours: int, write_quota: int | None, shard_count: int) -> None:
        self.created = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=creation_ms)
        self.retention_hours, self.write_quota = retention_hours, write_quota
        ranges = list(zip(slices(shard_count), [*slices(shard_count)[1:], 2**128], strict=True))
        self.shards = [ShardState(index, low, stop - 1, creation_ms) for index, (low, stop) in enumerate(ranges)]
        self.dropped = list[ShardState]()
        self.first_puts: dict[str, tuple[model.PutRecordResult, int]] = {}  # of each idempotency key, and when

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
        parents = [*(shard_name(parent.index) for parent in shard.parents), None, None]
        return model.Shard(shard_name(shard.index), shard.keys, numbers, parents[0], parents[1])

    def at(self, hash_key: int) -> ShardState:
        return next(shard for shard in self.open_shards() if hash_key in shard.keys)

    def named(self, shard_id: str, now_ms: int) -> ShardState:
        found = [shard for shard in self.visible(now_ms) if shard_name(shard.index) == shard_id]
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


class ReferenceStore:
    def __init__(self, clock: Callable[[], int]) -> None:
        self.clock = clock
        self.streams: dict[str, StreamState] = {}
        self.places: dict[str, tuple[StreamState, ShardState, int, int, int]] = {}  # sequence, not before, created
        self.pages: dict[str, tuple[str, StreamState, int, int]] = {}  # behind index, created

    def create_stream(self, name: str, *, shard_count: int, retention_hours: int, write_quota: int | None) -> None:
        check(stream_name=name, shard_count=shard_count, retention_hours=retention_hours)
        check(write_quota_kb_per_sec=write_quota)
        if name in self.streams:
            raise errors.ResourceInUseException(resource=name, remedy="")
        if shard_count + sum(len(stream.shards) for stream in self.streams.values()) > 4_000:
            raise errors.LimitExceededException(limit="", remedy="")
        self.streams[name] = StreamState(self.clock(), retention_hours, write_quota, shard_count)

    def delete_stream(self, name: str) -> None:
        self.stream(name)
        del self.streams[name]

    def list_streams(self, *, limit: int, after: str) -> model.ListStreamsResult:
        check(limit=limit)
        names = sorted(name for name in self.streams if name > after)
        return model.ListStreamsResult(tuple(names[:limit]), len(names) > limit)

    def describe_stream(self, name: str, *, limit: int, after: str | None) -> model.StreamDescription:
        check(stream_name=name, limit=limit)
        stream = self.stream(name)
        shards = self.behind(stream, -1 if after is None else stream.named(after, self.clock()).index)
        quota, hours, more = stream.write_quota, stream.retention_hours, len(shards) > limit
        return model.StreamDescription(name, "ACTIVE", stream.created, hours, quota, tuple(shards[:limit]), more)

    def list_shards(self, name: str, *, max_results: int, token: str | None = None) -> model.ListShardsResult:
        check(max_results=max_results)
        after = -1
        if token is not None:
            refuse_unless(token in self.pages, "next_token", token)
            name, then, after, created_ms = self.pages[token]
            if not -10_000 <= self.clock() - created_ms < 300_000:
                raise errors.ExpiredNextTokenException("")
            refuse_unless(self.stream(name) is then, "next_token", token)
        shards = self.behind(self.stream(name), after)
        if len(shards) <= max_results:
            return model.ListShardsResult(tuple(shards), None)
        last = self.stream(name).named(shards[max_results - 1].shard_id, self.clock()).index
        self.pages[f"page {len(self.pages)}"] = (name, self.stream(name), last, self.clock())
        return model.ListShardsResult(tuple(shards[:max_results]), f"page {len(self.pages) - 1}")

    def behind(self, stream: StreamState, index: int) -> list[model.Shard]:
        return [stream.show(shard, self.clock()) for shard in stream.visible(self.clock()) if shard.index > index]

    def split_shard(self, name: str, shard_id: str, hash_key: str) -> None:
        check(stream_name=name, shard_to_split=shard_id)
        at = hash_key_at("new_starting_hash_key", hash_key)
        shard = self.stream(name).named(shard_id, self.clock())
        refuse_unless(shard.closed_ms is None, "shard_to_split", shard_id)
        inside = shard.keys.starting_hash_key < at <= shard.keys.ending_hash_key
        refuse_unless(inside, "new_starting_hash_key", hash_key)
        self.streams[name].split(shard, at, self.clock())
        self.streams[name].drop_expired(self.clock())

    def merge_shards(self, name: str, shard_id: str, adjacent_id: str) -> None:
        check(stream_name=name, shard_to_merge=shard_id, adjacent_shard_to_merge=adjacent_id)
        shard, adjacent = (self.stream(name).named(each, self.clock()) for each in (shard_id, adjacent_id))
        refuse_unless(shard.closed_ms is None, "shard_to_merge", shard_id)
        touching = shard.keys.ending_hash_key + 1 == adjacent.keys.starting_hash_key
        refuse_unless(adjacent.closed_ms is None and touching, "adjacent_shard_to_merge", adjacent_id)
        self.streams[name].merge(shard, adjacent, self.clock())
        self.streams[name].drop_expired(self.clock())

    def update_shard_count(self, name: str, target: int) -> model.UpdateShardCountResult:
        """Cut the shards where the new ranges start, the middle first; join what lies in one, halves first."""
        check(stream_name=name, target_shard_count=target)
        stream, now_ms = self.stream(name), self.clock()
        before, starts = stream.open_shards(), slices(target)

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
            stream.drop_expired(self.clock())
            for shard in stream.shards:
                expired = len(shard.records) - len(stream.alive(shard, self.clock()))
                shard.records[:expired] = [GONE] * expired

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
        check(stream_name=name)
        hash_key = hash_key_of(data, key, explicit_hash_key)
        sequence = number("sequence_number_for_ordering", ordering or "0")
        check(idempotency_key=once)
        stream = self.stream(name)
        if ordering is not None and stream.first_put(once, self.clock()) is None:
            shard = stream.at(hash_key)
            refuse_unless(sequence < shard.start + len(shard.records), "sequence_number_for_ordering", ordering)
        return self.append_once(stream, hash_key, data, key, once)

    def put_records(self, name: str, entries: list[Entry]) -> model.PutRecordsResult:
        check(stream_name=name)
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
        return model.PutRecordResult(shard_name(shard.index), sequence_number)

    def get_shard_iterator(self, name: str, shard_id: str, kind: str, start: str | None, time_s: float | None) -> str:
        check(stream_name=name, shard_id=shard_id, shard_iterator_type=kind)
        refuse_unless((start is not None) == kind.endswith("SEQUENCE_NUMBER"), "starting_sequence_number", start)
        refuse_unless((time_s is not None) == (kind == "AT_TIMESTAMP"), "timestamp", time_s)
        sequence = number("starting_sequence_number", start or "0") + (kind == "AFTER_SEQUENCE_NUMBER")
        not_before_ms = round((time_s or 0) * 1000)
        refuse_unless(0 <= not_before_ms <= self.clock() + 10_000, "timestamp", time_s)
        shard = self.stream(name).named(shard_id, self.clock())
        sequence = shard.start + len(shard.records) if kind == "LATEST" else sequence
        return self.place(self.streams[name], shard, sequence, not_before_ms)

    def get_records(self, token: str, *, limit: int) -> model.GetRecordsResult:
        check(limit=limit)
        refuse_unless(token in self.places, "shard_iterator", token)
        stream, shard, sequence, not_before_ms, created_ms = self.places[token]
        if not -10_000 <= self.clock() - created_ms < 300_000:
            raise errors.ExpiredIteratorException("")
        if stream not in self.streams.values() or shard not in stream.visible(self.clock()):
            raise errors.ResourceNotFoundException(resource=token, remedy="")
        alive = [record for record in stream.alive(shard, self.clock()) if int(record.sequence_number) >= sequence]
        page = [record for record in alive if record.arrival_ms >= not_before_ms][:limit]
        while sum(len(record.data) + len(record.partition_key.encode()) for record in page) > 10 * 2**20:
            page.pop()
        if shard.closed_ms is not None and (not page or page[-1] is alive[-1]):
            return model.GetRecordsResult(page, None, 0, children_of(stream, shard))
        if not page:
            return model.GetRecordsResult([], self.place(stream, shard, sequence, not_before_ms), 0)
        behind_ms = 0 if page[-1] is alive[-1] else max(1, alive[-1].arrival_ms - page[-1].arrival_ms)
        return model.GetRecordsResult(page, self.place(stream, shard, int(page[-1].sequence_number) + 1, 0), behind_ms)

    def read(self, name: str, shard_id: str, *, start: str) -> list[model.Record]:
        first, stream = number("starting_sequence_number", start), self.stream(name)
        alive = stream.alive(stream.named(shard_id, self.clock()), self.clock())
        return [record for record in alive if int(record.sequence_number) >= first]

    def stream(self, name: str) -> StreamState:
        check(stream_name=name)
        if name not in self.streams:
            raise errors.ResourceNotFoundException(resource=name, remedy="")
        return self.streams[name]

    def place(self, stream: StreamState, shard: ShardState, sequence: int, not_before_ms: int) -> str:
        self.places[f"place {len(self.places)}"] = (stream, shard, sequence, not_before_ms, self.clock())
        return f"place {len(self.places) - 1}"


def hash_key_of(data: bytes, key: str, explicit_hash_key: str | None) -> int:
    check(data=len(data), partition_key=key)
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
        check(idempotency_key=entry[3])
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


def check(**arguments: object) -> None:
    for argument, value in arguments.items():
        rule = RULES[argument]
        refuse_unless(rule.fullmatch(str(value)) if isinstance(rule, re.Pattern) else value in rule, argument, value)


def number(argument: str, text: str) -> int:
    refuse_unless(re.fullmatch("0|[1-9][0-9]{0,128}", text), argument, text)
    return int(text)


def refuse_unless(allowed: object, argument: str, value: object) -> None:
    if not allowed:
        raise errors.InvalidArgumentException(argument=argument, value=value, constraint="")


def children_of(stream: StreamState, shard: ShardState) -> tuple[model.ChildShard, ...]:
    children = [child for child in stream.shards if shard in child.parents]
    names = [tuple(shard_name(parent.index) for parent in child.parents) for child in children]
    pairs = zip(children, names, strict=True)
    return tuple(model.ChildShard(shard_name(child.index), parents, child.keys) for child, parents in pairs)


def slices(count: int) -> list[int]:
    return [index * ((2**128 - 1) // count) for index in range(count)]


def shard_name(index: int) -> str:
    return f"shard-{index:06d}"
