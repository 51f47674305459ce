"""The ledger: all that a store has answered to its crews and shown to its checker; what it holds must agree with that.

A check reads what is new since the last one; a full one reads everything again. What the checker has seen once, though
nobody was told that it is stored, may not go away either: opening a store makes durable what it shows.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from streamstore import StreamStore
from streamstore.check import check_store
from streamstore.errors import StreamStoreError
from streamstore.model import Record, Shard
from tools.torture.crew import (
    CONSUMER,
    DOUBLES,
    ONCE,
    PASSING,
    PUTS,
    RETRIERS,
    STREAMS,
    End,
    double_of,
    label_of,
    payload_of,
)

__all__ = ["Ledger", "StreamLedger"]

CHECKER: Final = "checker"
PROBLEMS_MAX: Final = 20


class _Answer(NamedTuple):
    """What a process was told of a record."""

    shard_id: str
    sequence: int
    label: str
    begin_ms: int


class _Kept(NamedTuple):
    """A record as it was read."""

    label: str
    arrival_ms: int


class _Shard:
    """What is known of one shard: the records that are stored, one run of numbers."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.kept: dict[int, _Kept] = {}
        self.last_places: dict[str, tuple[int, int]] = {}
        """Of each producer the call and the entry of its last record."""

    @property
    def stop(self) -> int:
        return self.first + len(self.kept)


class StreamLedger:
    """What is known of one stream. Its labels are those of ``crew.py``: a producer, its call, an entry and how many."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.shards: dict[str, _Shard] = {}
        self.labels: set[str] = set()
        self.answers: list[_Answer] = []
        self.closed: set[str] = set()
        self.trimmed_before_ms = 0
        """Records that arrived at or after this are never gone."""

    def hear(self, shard_id: str, sequence: str, label: str, begin_ms: str = "0") -> None:
        """Take in what a producer was answered."""
        self.answers.append(_Answer(shard_id, int(sequence), label, int(begin_ms)))

    def check(self, store: StreamStore, *, fully: bool) -> Iterator[str]:
        """Read what is new, or everything. Yields what does not agree."""
        new: list[str] = []
        listed = {shard.shard_id: shard for shard in store.list_shards(self.name).shards}
        for shard_id in [shard_id for shard_id in self.shards if shard_id not in listed]:
            yield from self._forget_before(shard_id, self.shards[shard_id].stop)
            del self.shards[shard_id]
        for shard in listed.values():
            yield from self._check_shard(store, shard, new, fully=fully or self.trimmed_before_ms > 0)
        for shard_id in sorted(self.closed & listed.keys()):
            if listed[shard_id].sequence_number_range.ending_sequence_number is None:
                yield f"{shard_id} of {self.name} was closed, and is open again."
        yield from self._check_new(new)
        for answer in self.answers:
            if not self._holds(answer):
                yield (
                    f"{answer.label} was acknowledged as {answer.sequence} of {answer.shard_id} of {self.name} and is "
                    "not stored there."
                )
        self.answers.clear()

    def _check_shard(self, store: StreamStore, shard: Shard, new: list[str], *, fully: bool) -> Iterator[str]:
        starting_sequence = int(shard.sequence_number_range.starting_sequence_number)
        known = self.shards.setdefault(shard.shard_id, _Shard(starting_sequence))
        start = known.first if fully else max(known.first, known.stop - 1)
        records = list(store.read(self.name, shard.shard_id, starting_sequence_number=str(start)))
        first = int(records[0].sequence_number) if records else max(known.stop, self._first_to_come(shard))
        if first > start:
            yield from self._forget_before(shard.shard_id, first)
        for sequence in range(first + len(records), known.stop):
            del known.kept[sequence]
            yield f"Record {sequence} of {shard.shard_id} of {self.name} is gone, and not the one in front of it."
        for sequence, record in enumerate(records, first):
            yield from self._check_record(shard.shard_id, sequence, record, new)

    def _first_to_come(self, shard: Shard) -> int:
        """Return where an empty shard goes on. A closed one that was emptied is listed from its last number on."""
        numbers = shard.sequence_number_range
        was_emptied = numbers.ending_sequence_number is not None and self.trimmed_before_ms > 0
        return int(numbers.starting_sequence_number) + was_emptied

    def _forget_before(self, shard_id: str, first: int) -> Iterator[str]:
        """Forget records that are gone. They must have expired."""
        known = self.shards[shard_id]
        for sequence in range(known.first, first):
            kept = known.kept.pop(sequence, None)
            if not self.trimmed_before_ms or (kept is not None and kept.arrival_ms >= self.trimmed_before_ms):
                yield f"Record {sequence} of {shard_id} of {self.name} is gone."
        known.first = first

    def _check_record(self, shard_id: str, sequence: int, record: Record, new: list[str]) -> Iterator[str]:
        known = self.shards[shard_id]
        place = f"Record {sequence} of {shard_id} of {self.name}"
        label = label_of(record.data)
        if int(record.sequence_number) != sequence:
            yield f"{place} has the number {record.sequence_number}."
        if label is None or label != record.partition_key:
            yield f"{place} is not what was put: {record.data[:60]!r} with the key {record.partition_key}."
            label = record.partition_key
        kept = _Kept(label, record.arrival_ms)
        if sequence not in known.kept:
            known.kept[sequence] = kept
            new.append(kept.label)
            if kept.label in self.labels:
                yield f"{place} is stored twice: {kept.label}."
            self.labels.add(kept.label)
            producer, *at = _place_of(kept.label)
            if self.name != DOUBLES and (at[0], at[1]) <= known.last_places.get(producer, (-1, -1)):
                yield f"{place} is out of order: {kept.label}."
            known.last_places[producer] = (at[0], at[1])
        elif known.kept[sequence] != kept:
            yield f"{place} has changed from {known.kept[sequence]} to {kept}."

    def _check_new(self, new: list[str]) -> Iterator[str]:
        """A batch is there as a whole or not at all. Those of it that were trimmed, nobody knows."""
        counts: dict[tuple[str, int, int], int] = defaultdict(int)
        for label in new:
            producer, call, _, count = _place_of(label)
            counts[producer, call, count] += 1
        for (producer, call, count), found in counts.items():
            if found != count and not self.trimmed_before_ms:
                yield f"Call {call} of {producer} is stored in part: {found} of {count} records."

    def _holds(self, answer: _Answer) -> bool:
        known = self.shards.get(answer.shard_id)
        if known is None or answer.sequence < known.first:
            return answer.begin_ms < self.trimmed_before_ms
        kept = known.kept.get(answer.sequence)
        return kept is not None and kept.label == answer.label


class Ledger:
    """All streams of the crew's store at ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._streams = {name: StreamLedger(name) for name in STREAMS}
        self._checks = 0
        self.next_numbers = [0] * RETRIERS
        """Of each idempotent producer the first number that was not answered."""

    def hear(self, ends: Iterable[End]) -> int:
        """Take in what the processes of a round noted, and return how many records were acknowledged."""
        acknowledged = 0
        for line in (line for end in ends for line in end.lines):
            word, _, rest = line.partition(" ")
            if word == "ack":
                self._hear_answer(*rest.split())
                acknowledged += 1
            elif word == "trim":
                passing = self._streams[PASSING]
                passing.trimmed_before_ms = max(passing.trimmed_before_ms, int(rest))
            elif word == "closed":
                stream, shard_id = rest.split()
                self._streams[stream].closed.add(shard_id)
        return acknowledged

    def check(self, *, fully: bool) -> list[str]:
        """Return what the store does not hold as it should, in sentences, and write one more record."""
        problems: list[str] = []
        try:
            with StreamStore(self._path, create=False) as store:
                for stream in self._streams.values():
                    problems += stream.check(store, fully=fully)
                problems += self._check_doubles(store)
                self._write_on(store)
            if fully:
                problems += check_store(self._path)
        except StreamStoreError as error:
            problems.append(f"The store cannot be read and written on: {type(error).__name__}: {error}")
        return problems[:PROBLEMS_MAX]

    def _write_on(self, store: StreamStore) -> None:
        self._checks += 1
        label = f"{CHECKER}/{self._checks}/0/1"
        put = store.put_record(PUTS, payload_of(label), label)
        self._hear_answer(PUTS, put.shard_id, put.sequence_number, label, "0")

    def _hear_answer(self, stream: str, shard_id: str, sequence: str, label: str, begin_ms: str) -> None:
        self._streams[stream].hear(shard_id, sequence, label, begin_ms)
        if stream == ONCE:
            producer, number, _, _ = _place_of(label)
            retrier = int(producer.removeprefix("r"))
            self.next_numbers[retrier] = max(number + 1, self.next_numbers[retrier])

    def _check_doubles(self, store: StreamStore) -> Iterator[str]:
        """What lies in front of the checkpoint is doubled, and nothing else is."""
        once, doubles = self._streams[ONCE].labels, self._streams[DOUBLES].labels
        lag = store.describe_consumer_lag(ONCE, CONSUMER).record_count
        if len(once) - lag != len(doubles):
            yield f"The consumer is done with {len(once) - lag} records, and {len(doubles)} doubles are stored."
        for label in sorted(doubles - {double_of(label) for label in once}):
            yield f"{label} is stored, and its original is not."


def _place_of(label: str) -> tuple[str, int, int, int]:
    """Return the producer, its call, the entry of that and how many it has."""
    producer, call, entry, count = label.split("/")
    return producer, int(call), int(entry), int(count)
