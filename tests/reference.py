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
    "data": range(2**20 + 1),  # its length
    "shard_count": range(1, 10**9),
    "retention_hours": range(1, 25),
    "write_quota_kb_per_sec": (None, 128, 512, 1024),
    "limit": range(1, 10_001),
    "max_results": range(1, 10_001),
    "shard_iterator_type": ("AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER", "TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"),
}
Entry = tuple[bytes, str, str | None]
LARGEST_DEBT_NS = 9_007_812_501  # one second, and 1 MiB with the longest key at 128 KB/s


class ShardState:
    def __init__(self) -> None:
        self.records: list[model.Record] = []
        self.full_at_ns = [0, 0]  # the quotas of bytes and of records


class StreamState:
    def __init__(self, creation_ms: int, retention_hours: int, write_quota: int | None, shard_count: int) -> None:
        self.created = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=creation_ms)
        self.retention_hours, self.write_quota = retention_hours, write_quota
        self.shards = [ShardState() for _ in range(shard_count)]

    def show(self, first: int, count: int) -> tuple[model.Shard, ...]:
        width = (2**128 - 1) // len(self.shards)
        ends = [index * width - 1 for index in range(1, len(self.shards))] + [2**128 - 1]
        ranges = [model.HashKeyRange(index * width, end) for index, end in enumerate(ends)]
        shards = [model.Shard(shard_name(i), r, model.SequenceNumberRange("0")) for i, r in enumerate(ranges)]
        return tuple(shards[first : first + count])

    def index_at(self, hash_key: int) -> int:
        return min(hash_key // ((2**128 - 1) // len(self.shards)), len(self.shards) - 1)

    def index_of(self, shard_id: str) -> int:
        names = [shard_name(index) for index in range(len(self.shards))]
        if shard_id not in names:
            raise errors.ResourceNotFoundException(resource=shard_id, remedy="")
        return names.index(shard_id)


class ReferenceStore:
    def __init__(self, clock: Callable[[], int]) -> None:
        self.clock = clock
        self.streams: dict[str, StreamState] = {}
        self.places: dict[str, tuple[StreamState, int, int, int, int]] = {}  # index, sequence, not before, created
        self.pages: dict[str, tuple[str, StreamState, int, int]] = {}  # first index, created

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
        first = 0 if after is None else stream.index_of(after) + 1
        quota, shards, more = stream.write_quota, stream.show(first, limit), first + limit < len(stream.shards)
        return model.StreamDescription(
            name, name, "ACTIVE", stream.created, stream.retention_hours, quota, shards, more
        )

    def list_shards(self, name: str, *, max_results: int, token: str | None = None) -> model.ListShardsResult:
        check(max_results=max_results)
        first = 0
        if token is not None:
            refuse_unless(token in self.pages, "next_token", token)
            name, then, first, created_ms = self.pages[token]
            if not -10_000 <= self.clock() - created_ms < 300_000:
                raise errors.ExpiredNextTokenException("")
            refuse_unless(self.stream(name) is then, "next_token", token)
        stream, stop, next_token = self.stream(name), first + max_results, f"page {len(self.pages)}"
        self.pages[next_token] = (name, stream, stop, self.clock())
        return model.ListShardsResult(
            stream.show(first, max_results), next_token if stop < len(stream.shards) else None
        )

    def put_record(
        self, name: str, data: bytes, key: str, *, explicit_hash_key: str | None, ordering: str | None
    ) -> model.PutRecordResult:
        check(stream_name=name)
        hash_key = hash_key_of(data, key, explicit_hash_key)
        sequence = number("sequence_number_for_ordering", ordering or "0")
        stream = self.stream(name)
        if ordering is not None:
            passed = len(stream.shards[stream.index_at(hash_key)].records)
            refuse_unless(sequence < passed, "sequence_number_for_ordering", ordering)
        return self.append(stream, hash_key, data, key)

    def put_records(self, name: str, entries: list[Entry]) -> model.PutRecordsResult:
        check(stream_name=name)
        refuse_unless(0 < len(entries) <= 500, "records", None)
        hash_keys = [hash_key_of_entry(*entry) for entry in enumerate(entries)]
        refuse_unless(sum(len(data) + len(key.encode()) for data, key, _ in entries) <= 5 * 2**20, "records", None)
        stream, results, throttled = self.stream(name), list[model.PutRecordsResultEntry](), set[int]()
        for (data, key, _), hash_key in zip(entries, hash_keys, strict=True):
            index = stream.index_at(hash_key)
            try:
                if index in throttled:
                    raise errors.ProvisionedThroughputExceededException(stream_name="", shard_id="", retry_after_ms=0)
                results.append(model.PutRecordsResultEntry(*self.append(stream, hash_key, data, key)[:2]))
            except errors.ProvisionedThroughputExceededException as error:
                throttled.add(index)
                results.append(model.PutRecordsResultEntry(None, None, type(error).__name__, ""))
        return model.PutRecordsResult(sum(result.sequence_number is None for result in results), results)

    def ingest(self, name: str, entries: list[Entry]) -> model.IngestResult:
        stream, shard_ids = self.stream(name), set[str]()
        for index, (data, key, explicit_hash_key) in enumerate(entries):
            hash_key = hash_key_of_entry(index, (data, key, explicit_hash_key))
            shard_ids.add(self.append(stream, hash_key, data, key).shard_id)
        return model.IngestResult(len(entries), sum(len(data) for data, _, _ in entries), frozenset(shard_ids))

    def append(self, stream: StreamState, hash_key: int, data: bytes, key: str) -> model.PutRecordResult:
        index = stream.index_at(hash_key)
        shard = stream.shards[index]
        if stream.write_quota is not None:
            charge(shard, len(data) + len(key.encode()), stream.write_quota, now_ns=self.clock() * 1_000_000)
        arrival_ms = max([self.clock(), *(record.arrival_ms for record in shard.records[-1:])])
        shard.records.append(model.Record(str(len(shard.records)), key, data, arrival_ms))
        return model.PutRecordResult(shard_name(index), shard.records[-1].sequence_number)

    def get_shard_iterator(self, name: str, shard_id: str, kind: str, start: str | None, time_s: float | None) -> str:
        check(stream_name=name, shard_id=shard_id, shard_iterator_type=kind)
        refuse_unless((start is not None) == kind.endswith("SEQUENCE_NUMBER"), "starting_sequence_number", start)
        refuse_unless((time_s is not None) == (kind == "AT_TIMESTAMP"), "timestamp", time_s)
        sequence = number("starting_sequence_number", start or "0") + (kind == "AFTER_SEQUENCE_NUMBER")
        not_before_ms = round((time_s or 0) * 1000)
        refuse_unless(0 <= not_before_ms <= self.clock() + 10_000, "timestamp", time_s)
        index = self.stream(name).index_of(shard_id)
        sequence = len(self.streams[name].shards[index].records) if kind == "LATEST" else sequence
        return self.place(self.streams[name], index, sequence, not_before_ms)

    def get_records(self, token: str, *, limit: int) -> model.GetRecordsResult:
        check(limit=limit)
        refuse_unless(token in self.places, "shard_iterator", token)
        stream, index, sequence, not_before_ms, created_ms = self.places[token]
        if not -10_000 <= self.clock() - created_ms < 300_000:
            raise errors.ExpiredIteratorException("")
        if stream not in self.streams.values():
            raise errors.ResourceNotFoundException(resource=token, remedy="")
        records = stream.shards[index].records
        page = [record for record in records[sequence:] if record.arrival_ms >= not_before_ms][:limit]
        while sum(len(record.data) + len(record.partition_key.encode()) for record in page) > 10 * 2**20:
            page.pop()
        if not page:
            return model.GetRecordsResult([], self.place(stream, index, sequence, not_before_ms), 0)
        behind_ms = 0 if page[-1] is records[-1] else max(1, records[-1].arrival_ms - page[-1].arrival_ms)
        return model.GetRecordsResult(page, self.place(stream, index, int(page[-1].sequence_number) + 1, 0), behind_ms)

    def read(self, name: str, shard_id: str, *, start: str) -> list[model.Record]:
        first, stream = number("starting_sequence_number", start), self.stream(name)
        return stream.shards[stream.index_of(shard_id)].records[first:]

    def stream(self, name: str) -> StreamState:
        check(stream_name=name)
        if name not in self.streams:
            raise errors.ResourceNotFoundException(resource=name, remedy="")
        return self.streams[name]

    def place(self, stream: StreamState, index: int, sequence: int, not_before_ms: int) -> str:
        self.places[f"place {len(self.places)}"] = (stream, index, sequence, not_before_ms, self.clock())
        return f"place {len(self.places) - 1}"


def hash_key_of(data: bytes, key: str, explicit_hash_key: str | None) -> int:
    check(data=len(data), partition_key=key)
    if explicit_hash_key is None:
        return int(hashlib.md5(key.encode()).hexdigest(), 16)
    hash_key = number("explicit_hash_key", explicit_hash_key)
    refuse_unless(hash_key < 2**128, "explicit_hash_key", explicit_hash_key)
    return hash_key


def hash_key_of_entry(index: int, entry: Entry) -> int:
    try:
        return hash_key_of(*entry)
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


def shard_name(index: int) -> str:
    return f"shard-{index:06d}"
