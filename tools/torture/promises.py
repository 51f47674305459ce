"""What a store has promised by a moment, and whether it keeps it.

The program that is recorded says of each put and each change of a stream that it tries it, and what it was told of it.
These marks, in their order, are the promises; a store that is opened behind a crash must hold all that is in it, and
nothing that nobody put.
"""

import functools
import json
from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple

from streamstore import StreamStore
from streamstore.check import check_snapshot
from streamstore.errors import ResourceNotFoundException
from streamstore.model import Record, Shard

__all__ = [
    "CONSUMER",
    "EFFECTS",
    "MS_PER_HOUR",
    "RESHARDED",
    "RETENTION_HOURS",
    "SOURCE",
    "Acknowledged",
    "CheckedStore",
    "Mark",
    "Promises",
    "StreamContents",
    "Trial",
    "label_of",
    "payload_of",
]

RESHARDED: Final = "resharded"
SOURCE: Final = "source"
EFFECTS: Final = "effects"
CONSUMER: Final = "doubler"
MS_PER_HOUR: Final = 3_600_000
RETENTION_HOURS: Final = {RESHARDED: 24, SOURCE: 8_760, EFFECTS: 8_760}
IDEMPOTENCY_WINDOW_MS: Final = 3_600_000
FILLING: Final = bytes(range(256)) * 512

Shape = tuple[tuple[str, int, int], ...]
"""The open shards of a stream with their hash keys, in the order of their ids; none: there is no such stream."""
MarkKind = Literal["now", "opened", "try", "acknowledged", "refused", "change", "shape", "effects"]


class Mark(NamedTuple):
    """What the program tried, or was told."""

    kind: MarkKind
    stream: str = ""
    label: str = ""
    shard_id: str = ""
    sequence: int = 0
    number: int = 0
    """The time now, or of the arrival; or how many effects there are."""
    key: str | None = None
    shape: Shape = ()

    def encode(self) -> bytes:
        return json.dumps(self).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Mark":
        mark = cls(*json.loads(data))
        return mark._replace(shape=tuple((shard_id, first, last) for shard_id, first, last in mark.shape))


class Acknowledged(NamedTuple):
    """Where a record is, and since when."""

    shard_id: str
    sequence: int
    label: str
    arrival_ms: int


class StreamPromises:
    """What was said of one stream."""

    def __init__(self) -> None:
        self.shape: Shape = ()
        self.being_changed: str | None = None
        """What is being done to its shards: the answer is not there yet."""
        self.tried: set[str] = set()
        self.refused: set[str] = set()
        self.records: dict[str, dict[int, Acknowledged]] = {}
        self.keys: dict[str, Acknowledged] = {}
        self.open_keys: dict[str, str] = {}
        """The labels of puts with a key that were not answered."""

    def refuse(self, label: str) -> None:
        self.refused.add(label)
        self.open_keys = {key: tried for key, tried in self.open_keys.items() if tried != label}

    def acknowledge(self, put: Acknowledged, key: str | None) -> None:
        self.records.setdefault(put.shard_id, {})[put.sequence] = put
        self.open_keys = {key: tried for key, tried in self.open_keys.items() if tried != put.label}
        if key is not None:
            self.keys[key] = put

    def forget_expired(self, *, now_ms: int, retention_ms: int) -> None:
        self.records = {
            shard_id: {sequence: put for sequence, put in records.items() if now_ms - put.arrival_ms <= retention_ms}
            for shard_id, records in self.records.items()
        }
        self.keys = {key: put for key, put in self.keys.items() if now_ms - put.arrival_ms < IDEMPOTENCY_WINDOW_MS}


class Promises:
    """Everything that was promised so far."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.is_opened = False
        self.labels = 0
        self.effects = 0
        self.streams: dict[str, StreamPromises] = {}

    def stream(self, name: str) -> StreamPromises:
        return self.streams.setdefault(name, StreamPromises())

    def add(self, mark: Mark) -> None:
        match mark.kind:
            case "now":
                self.now_ms = mark.number
                for name, stream in self.streams.items():
                    stream.forget_expired(now_ms=mark.number, retention_ms=RETENTION_HOURS.get(name, 24) * MS_PER_HOUR)
            case "opened":
                self.is_opened = True
            case "try":
                self.labels += 1
                self.stream(mark.stream).tried.add(mark.label)
                if mark.key is not None:
                    self.stream(mark.stream).open_keys[mark.key] = mark.label
            case "acknowledged":
                put = Acknowledged(mark.shard_id, mark.sequence, mark.label, mark.number)
                self.stream(mark.stream).acknowledge(put, mark.key)
            case "refused":
                self.stream(mark.stream).refuse(mark.label)
            case "effects":
                self.effects = mark.number
            case "change":
                self.stream(mark.stream).being_changed = mark.label
            case "shape":
                if not mark.shape:
                    self.streams.pop(mark.stream, None)
                self.stream(mark.stream).shape = mark.shape
                self.stream(mark.stream).being_changed = None


class CheckedStore(StreamStore):
    """A store that can be checked while it is open."""

    def problems(self) -> list[str]:
        """Return what ``check_store`` says of it."""
        return self._engine.observe(lambda transaction: list(check_snapshot(transaction)), on_step=lambda: None)

    def shape_of(self, stream_name: str) -> Shape:
        """Return the open shards of a stream; none if there is no such stream."""
        try:
            return _shape_of(self.list_shards(stream_name).shards)
        except ResourceNotFoundException:
            return ()

    def contents_of(self, stream_name: str) -> "StreamContents":
        """Return the open shards of a stream, and all records that can be read; nothing if there is no such stream."""
        try:
            shards = self.list_shards(stream_name).shards
        except ResourceNotFoundException:
            return StreamContents((), {})
        records = {shard.shard_id: list(self.read(stream_name, shard.shard_id)) for shard in shards}
        return StreamContents(_shape_of(shards), records)


class StreamContents(NamedTuple):
    """What can be read of a stream."""

    shape: Shape
    records: dict[str, list[Record]]

    def record_count(self) -> int:
        return sum(map(len, self.records.values()))

    def places_of(self, label: str) -> list[tuple[str, str]]:
        """Return shard and number of each record with the label."""
        return [
            (shard_id, record.sequence_number)
            for shard_id, records in self.records.items()
            for record in records
            if label_of(record) == label
        ]


@functools.lru_cache(maxsize=4096)
def payload_of(label: str) -> bytes:
    """Return the data of a record: its label ``number:size``, and so many bytes that differ from number to number."""
    number, _, size = label.partition(":")
    return f"{label} ".encode() + FILLING[int(number) % 251 :][: int(size)]


def label_of(record: Record) -> str:
    return record.data.partition(b" ")[0].decode(errors="replace")


class Trial:
    """A store behind a crash, held against what was promised."""

    def __init__(self, store: CheckedStore, promises: Promises) -> None:
        self._store = store
        self._promises = promises
        self._damage = store.problems()
        self._contents = {name: store.contents_of(name) for name in {RESHARDED, SOURCE, EFFECTS, *promises.streams}}

    def problems(self) -> Iterator[str]:
        """Yield every promise that the store does not keep, in a sentence."""
        yield from self._damage
        for name, stream in self._promises.streams.items():
            shape, records = self._contents[name]
            if stream.being_changed is None and shape != stream.shape:
                yield f"The open shards of {name} are {shape}, and not {stream.shape} as was told."
            elif shape or stream.being_changed not in (None, "create", "delete"):
                yield from _lost(name, stream, records)
                yield from _invented(name, stream, records)
        yield from self._problems_of_effects()

    def write_on(self) -> Iterator[str]:
        """Put what is new, and what was put already with its key; yield what goes wrong with it."""
        stream = self._promises.stream(RESHARDED)
        if not self._contents[RESHARDED].shape:
            self._store.create_stream(RESHARDED)
        entries: list[tuple[bytes, str, None, str | None]] = []
        places: list[list[tuple[str, str]]] = []
        for key, put in list(stream.keys.items())[-1:]:
            entries.append((payload_of(put.label), put.label, None, key))
            places.append([(put.shard_id, str(put.sequence))])
        for key, label in list(stream.open_keys.items())[-1:]:
            entries.append((payload_of(label), label, None, key))
            places.append(self._contents[RESHARDED].places_of(label))
        label = f"{self._promises.labels}:100"
        entries.append((payload_of(label), label, None, None))
        places.append([])
        results = self._store.put_records(RESHARDED, entries).records
        for (data, label, _, _), result, known in zip(entries, results, places, strict=True):
            assert result.shard_id is not None
            assert result.sequence_number is not None
            place = (result.shard_id, result.sequence_number)
            if known and place != known[0]:
                yield f"{label} is at {known[0]}, was put again with its key, and was told to be at {place}."
            record = next(self._store.read(RESHARDED, place[0], starting_sequence_number=place[1]), None)
            if record is None or record.data != data:
                yield f"{label} was put behind the crash, and is not at {place}."

    def _problems_of_effects(self) -> Iterator[str]:
        """What a consumer stores with its checkpoint is there exactly when the checkpoint is."""
        if not (self._contents[SOURCE].shape and self._contents[EFFECTS].shape):
            return
        effects, read = self._contents[EFFECTS].record_count(), self._contents[SOURCE].record_count()
        try:
            done = read - self._store.describe_consumer_lag(SOURCE, CONSUMER).record_count
        except ResourceNotFoundException:
            done = 0
        if effects != done:
            yield f"The checkpoint of the consumer is behind {done} records, and {effects} effects are stored."
        if effects < self._promises.effects:
            yield f"{self._promises.effects} effects were acknowledged, and {effects} are stored."


def _lost(name: str, stream: StreamPromises, stored: dict[str, list[Record]]) -> Iterator[str]:
    for shard_id, puts in stream.records.items():
        records = stored.get(shard_id, [])
        first = int(records[0].sequence_number) if records else 0
        for sequence, put in puts.items():
            if not first <= sequence < first + len(records):
                yield f"Record {sequence} of {shard_id} of {name}, {put.label}, was acknowledged and is lost."
            elif (there := label_of(records[sequence - first])) != put.label:
                yield f"Record {sequence} of {shard_id} of {name} was acknowledged as {put.label}, and is {there}."


def _invented(name: str, stream: StreamPromises, stored: dict[str, list[Record]]) -> Iterator[str]:
    seen: set[str] = set()
    for shard_id, records in stored.items():
        last_number = -1
        for record in records:
            label = label_of(record)
            if not label[:1].isdigit() or record.data != payload_of(label):
                yield f"Record {record.sequence_number} of {shard_id} of {name} has other bytes than were put."
                continue
            if label in seen:
                yield f"{label} is stored twice in {name}."
            if label in stream.refused:
                yield f"{label} is stored in {name}, and was refused."
            seen.add(label)
            if name == EFFECTS:  # copies, from several shards
                continue
            if label not in stream.tried:
                yield f"{label} is stored in {name}, and nobody put it."
            number = int(label.partition(":")[0])
            if number <= last_number:
                yield f"{label} of {shard_id} of {name} is out of order."
            last_number = number


def _shape_of(shards: Sequence[Shard]) -> Shape:
    return tuple(
        (shard.shard_id, shard.hash_key_range.starting_hash_key, shard.hash_key_range.ending_hash_key)
        for shard in shards
        if shard.sequence_number_range.ending_sequence_number is None
    )
