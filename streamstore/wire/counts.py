"""What a server has counted, as plain numbers, and where the processes of one server show theirs to each other.

Counting is on the way of each put, so it is an addition in the memory of its own process. Every second or so that is
shown on a board in memory that all of them share. Whoever is asked adds up the board.
"""

from bisect import bisect_left
from collections.abc import Iterable
from mmap import mmap
from struct import Struct
from typing import Final
from zlib import crc32

import msgspec

__all__ = ["SECONDS_BUCKETS", "Counts", "CountsBoard", "RequestCounts", "ShardCounts", "Times"]

# From a fast device to one in trouble.
SECONDS_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
HEAD: Final = Struct("<III")
"""Of a half of a place on the board: its version, the length of what stands behind it, and a CRC-32 of both."""
HALF_BYTES: Final = 2_097_152  # 39 actions with 50 codes each and 4,000 shards with the longest names need 0.65 of it
HALVES: Final = 2


class Times(msgspec.Struct):
    """How long something took, each time."""

    seconds: float = 0.0
    in_bucket: list[int] = msgspec.field(default_factory=lambda: [0] * (len(SECONDS_BUCKETS) + 1))
    """How many took so long: up to each bound, and longer than the last."""

    @property
    def count(self) -> int:
        return sum(self.in_bucket)

    def note(self, seconds: float) -> None:
        self.seconds += seconds
        self.in_bucket[bisect_left(SECONDS_BUCKETS, seconds)] += 1

    def include(self, other: "Times") -> None:
        self.seconds += other.seconds
        self.in_bucket = [mine + theirs for mine, theirs in zip(self.in_bucket, other.in_bucket, strict=True)]


class RequestCounts(msgspec.Struct):
    """The requests of one action that were answered with one code."""

    body_bytes: int = 0
    times: Times = msgspec.field(default_factory=Times)


class ShardCounts(msgspec.Struct, array_like=True):
    """What went into one shard and came out of it. Written without the names of the fields: there may be thousands."""

    incoming_bytes: int = 0
    incoming_records: int = 0
    outgoing_bytes: int = 0
    outgoing_records: int = 0
    writes_throttled: int = 0
    reads_throttled: int = 0
    read_ms: int | None = None
    """When it was read last, in milliseconds since 1970; None: never."""
    iterator_age_ms: int = 0
    """How old the last record was that was read then; 0 if there was none any more."""

    def include(self, other: "ShardCounts") -> None:
        self.incoming_bytes += other.incoming_bytes
        self.incoming_records += other.incoming_records
        self.outgoing_bytes += other.outgoing_bytes
        self.outgoing_records += other.outgoing_records
        self.writes_throttled += other.writes_throttled
        self.reads_throttled += other.reads_throttled
        if other.read_ms is not None and (self.read_ms is None or other.read_ms > self.read_ms):
            self.read_ms, self.iterator_age_ms = other.read_ms, other.iterator_age_ms


class Counts(msgspec.Struct):
    """All that one process has counted, or several together.

    ``requests`` is by action and by code, ``shards`` by stream and shard id, with the slash between them that neither
    has.
    """

    requests: dict[str, dict[str, RequestCounts]] = msgspec.field(default_factory=dict[str, dict[str, RequestCounts]])
    records: int = 0
    payload_bytes: int = 0
    records_throttled: int = 0
    commit_requests: int = 0
    commits: Times = msgspec.field(default_factory=Times)
    shards: dict[str, ShardCounts] = msgspec.field(default_factory=dict[str, ShardCounts])

    def of_request(self, action: str, code: str) -> RequestCounts:
        """Return what is counted of an action and a code, from now on."""
        by_code = self.requests.get(action)
        if by_code is None:
            by_code = self.requests.setdefault(action, {})
        counted = by_code.get(code)
        return by_code.setdefault(code, RequestCounts()) if counted is None else counted

    def include(self, other: "Counts") -> None:
        for action, by_code in other.requests.items():
            for code, counted in by_code.items():
                mine = self.of_request(action, code)
                mine.body_bytes += counted.body_bytes
                mine.times.include(counted.times)
        self.records += other.records
        self.payload_bytes += other.payload_bytes
        self.records_throttled += other.records_throttled
        self.commit_requests += other.commit_requests
        self.commits.include(other.commits)
        for address, shard in other.shards.items():
            self.shards.setdefault(address, ShardCounts()).include(shard)


class CountsBoard:
    """A place for the counts of each process of a server, in memory that they share. Make it before they are forked.

    One process writes to a place at a time. It has two halves, written in turn, each with its checksum: whoever reads
    meanwhile, or behind a process that was killed meanwhile, finds the other half whole.
    """

    def __init__(self, place_count: int) -> None:
        self._places: Final = [mmap(-1, HALVES * HALF_BYTES) for _ in range(place_count)]

    def show(self, place: int, counts: Counts) -> None:
        content = msgspec.msgpack.encode(counts)
        assert len(content) <= HALF_BYTES - HEAD.size
        version = 1 + max((version for version, _ in self._whole_halves(place)), default=0)
        start = version % HALVES * HALF_BYTES
        memory = self._places[place]
        memory[start : start + HEAD.size] = HEAD.pack(version, len(content), _checksum(version, content))
        memory[start + HEAD.size : start + HEAD.size + len(content)] = content

    def shown(self, place: int) -> Counts:
        """Return what was shown last at a place; nothing was counted if nothing was shown."""
        _, content = max(self._whole_halves(place), default=(0, None))
        return Counts() if content is None else msgspec.msgpack.decode(content, type=Counts)

    def shown_elsewhere(self, place: int) -> Iterable[Counts]:
        """Yield what was shown last at all other places."""
        for other in range(len(self._places)):
            if other != place:
                yield self.shown(other)

    def _whole_halves(self, place: int) -> list[tuple[int, bytes]]:
        memory = self._places[place]
        halves: list[tuple[int, bytes]] = []
        for start in range(0, HALVES * HALF_BYTES, HALF_BYTES):
            version, length, checksum = HEAD.unpack_from(memory, start)
            content = memory[start + HEAD.size : start + HEAD.size + min(length, HALF_BYTES)]
            if version and _checksum(version, content) == checksum:
                halves.append((version, content))
        return halves


def _checksum(version: int, content: bytes) -> int:
    return crc32(content, version)
