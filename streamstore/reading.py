"""Reads one shard inside a transaction: find, read, prove. The only read path of records."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Final, NamedTuple

from streamstore.databases import DamagedValueError, records_database
from streamstore.disk_format import RecordFormat, record_key, sequence_of_record_key
from streamstore.errors import CorruptRecordError
from streamstore.limits import GET_RECORDS_BYTES_MAX
from streamstore.losses import loss_at
from streamstore.model import Record, ShardCounter, StreamNumber
from streamstore.streams import load_counter
from streamstore.transaction import ReadTransaction

__all__ = ["Page", "ShardReader"]

PROVED_AT_ONCE_RECORDS: Final = 1_000


class Page(NamedTuple):
    """Records of one shard in order, and where they end.

    ``next_sequence`` is the number behind the last record; ``next_not_before_ms`` is 0 unless the wanted time is
    still to come.
    """

    records: list[Record]
    next_sequence: int
    next_not_before_ms: int
    millis_behind_latest: int


@dataclass(frozen=True, slots=True)
class ShardReader:
    """Reads one shard in one snapshot."""

    transaction: ReadTransaction
    stream_number: StreamNumber
    shard_index: int
    shard_id: str

    def counter(self) -> ShardCounter:
        return load_counter(self.transaction, self.stream_number, self.shard_index)

    def read_page(self, sequence: int, *, not_before_ms: int, horizon_ms: int, limit: int) -> Page:
        """Return up to ``limit`` records, at most 10 MiB, at or after the position.

        Records that arrived before ``horizon_ms`` have expired: a position at one of them moves up to the first that
        has not.
        """
        counter = self.counter()
        start = max(sequence, counter.first_sequence)
        if not_before_ms:
            start = self.first_not_before(not_before_ms, start, counter.next_sequence)
        records: list[Record] = []
        if start < counter.next_sequence:
            start, records = self._collect_unexpired(start, limit, horizon_ms, counter)
        if start >= counter.next_sequence:
            still_to_come = not_before_ms if not_before_ms > counter.last_arrival_ms else 0
            return Page([], start, still_to_come, 0)
        next_sequence = start + len(records)
        behind_ms = 0
        if next_sequence < counter.next_sequence:
            behind_ms = max(1, counter.last_arrival_ms - records[-1].arrival_ms)
        return Page(records, next_sequence, 0, behind_ms)

    def records(self, start: int, stop: int) -> Iterator[Record]:
        """Yield every record with a number in [start, stop), proving each."""
        while start < stop:
            records = self._collect(start, min(start + PROVED_AT_ONCE_RECORDS, stop))
            yield from records
            start += len(records)

    def first_unexpired(self, horizon_ms: int) -> int:
        """Return the number of the oldest record that can be read, or of the next one."""
        counter = self.counter()
        oldest = self.first_sound(counter.first_sequence, counter.next_sequence)
        if oldest is None or oldest.arrival_ms >= horizon_ms:
            return counter.first_sequence
        return self.first_not_before(horizon_ms, counter.first_sequence, counter.next_sequence)

    def look_for_sound(self, start: int, stop: int, *, damaged_max: int | None) -> tuple[int, int | None]:
        """Return number and arrival of the first record in [start, stop) that is not damaged.

        Where there is none, the arrival is None, and the number ``stop``, or where to go on looking behind
        ``damaged_max`` damaged ones.
        """
        record_format = RecordFormat(self.stream_number, self.shard_index)
        for key, value in islice(self._items(start, stop), damaged_max):
            try:
                record = record_format.decode(key, value)
            except DamagedValueError:
                start = sequence_of_record_key(key) + 1
            else:
                return int(record.sequence_number), record.arrival_ms
        return self.first_stored(start, stop), None

    def first_stored(self, start: int, stop: int) -> int:
        """Return the first number in [start, stop) that the file has a record of, damaged or not; else ``stop``."""
        return next((sequence_of_record_key(key) for key, _ in self._items(start, stop)), stop)

    def first_not_before(self, time_ms: int, start: int, stop: int) -> int:
        """Bisect for the first record in [start, stop) that arrived at or after ``time_ms``; ``stop`` if there is none.

        A damaged record has no time; it counts as arriving with the next sound one.
        """
        low, high = start, stop
        while low < high:
            middle = (low + high) // 2
            sound = self.first_sound(middle, high)
            if sound is not None and sound.arrival_ms < time_ms:
                low = int(sound.sequence_number) + 1
            else:
                high = middle
        return low

    def _collect_unexpired(
        self, start: int, limit: int, horizon_ms: int, counter: ShardCounter
    ) -> tuple[int, list[Record]]:
        """Return the number of the first record from ``start`` on that has not expired, and records from there."""
        stop = counter.next_sequence
        try:
            records = self._collect(start, min(start + limit, stop))
            if records[0].arrival_ms >= horizon_ms:
                return start, records
        except CorruptRecordError:
            if self.first_not_before(horizon_ms, start, stop) == start:
                raise
        start = self.first_not_before(horizon_ms, start, stop)
        return start, self._collect(start, min(start + limit, stop)) if start < stop else []

    def _collect(self, start: int, stop: int) -> list[Record]:
        """Return one or more records from ``start`` on: all in front of ``stop``, a damaged one and 10 MiB."""
        items = islice(self._items_from(start), stop - start)
        record_format = RecordFormat(self.stream_number, self.shard_index)
        records, damage = record_format.decode_run(items, start, bytes_max=GET_RECORDS_BYTES_MAX)
        if not records:
            # Those in front of a damaged one are good; the next page starts at it, and says so.
            raise self._damage(start, "it is missing" if damage is None else str(damage)) from damage
        return records

    def first_sound(self, start: int, stop: int) -> Record | None:
        """Return the first record in [start, stop) that is not damaged, None if there is none."""
        record_format = RecordFormat(self.stream_number, self.shard_index)
        for key, value in self._items(start, stop):
            with contextlib.suppress(DamagedValueError):
                return record_format.decode(key, value)
        return None

    def is_known_loss(self, sequence: int) -> bool:
        return loss_at(self.transaction, self.stream_number, self.shard_index, sequence) is not None

    def _damage(self, sequence: int, problem: str) -> CorruptRecordError:
        lost = loss_at(self.transaction, self.stream_number, self.shard_index, sequence)
        if lost is None:
            last = max(sequence, self.first_stored(sequence, self.counter().next_sequence) - 1)
            problem = problem if last == sequence else "they are missing"
        else:
            last, problem = lost[-1], "the store was salvaged, and nothing was left there"
        return CorruptRecordError(
            shard_id=self.shard_id,
            sequence_number=str(sequence),
            last_sequence_number=str(last),
            problem=problem,
        )

    def _items(self, start: int, stop: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield what is stored under the numbers in [start, stop), damaged or not."""
        end = record_key(stop)
        items = self._items_from(start)
        # A key of another length is none of a record.
        return (item for item in takewhile(lambda item: item[0] < end, items) if len(item[0]) == len(end))

    def _items_from(self, start: int) -> Iterator[tuple[bytes, bytes]]:
        # Records on damaged pages are left out, and so told as missing; those behind them are read.
        return self.transaction.items_from(self._database(), record_key(start), around_damage=True)

    def _database(self) -> bytes:
        return records_database(self.stream_number, self.shard_index)
