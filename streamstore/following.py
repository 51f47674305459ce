"""A reader's way through all shards of a stream: in order in each, parents before children, wherever it is resharded.

The way is a place in each shard, nothing more, so it can be stored and gone on with. It goes in rounds: ``look`` reads
in one transaction and changes nothing, ``accept`` takes what was found, ``take`` hands it out. A look whose result is
thrown away has no effect, so it may be run again, or be cancelled.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from streamstore.dialect import Dialect
from streamstore.errors import CorruptRecordError, ResourceNotFoundException
from streamstore.limits import GET_RECORDS_BYTES_MAX
from streamstore.model import StoredStream, StreamNumber, StreamRecord, bytes_of_record, new_named_tuple
from streamstore.reading import Page, ShardReader
from streamstore.streams import StreamCatalog, load_counter
from streamstore.transaction import ReadTransaction

__all__ = ["Following", "Round", "ShardPlace", "latest_positions"]

ROUND_RECORDS_MAX: Final = 1_000
SHARD_RECORDS_MIN: Final = 50  # of one shard in one round: a page costs as much as ten records


class ShardPlace(NamedTuple):
    """A place in a shard: the first record at or after ``sequence`` that arrived at or after ``not_before_ms``."""

    sequence: int
    not_before_ms: int = 0


class Found(NamedTuple):
    """A record of a shard, or what is wrong with the record at that place."""

    shard_index: int
    record: StreamRecord | CorruptRecordError


class Round(NamedTuple):
    """What one look has found, and where it ends. The number is that of the commit that it has seen.

    ``turn`` is the index of the shard that the next look begins with.
    """

    commit_number: int
    found: deque[Found]
    places: dict[int, ShardPlace]
    turn: int


class Following:
    """Where one reader is in a stream. For one thread at a time.

    ``positions`` maps shard indexes to the number of the next record to hand out, as ``positions()`` returned them; a
    shard that is not among them starts with its first record. ``not_before_ms`` passes over what arrived earlier.
    """

    def __init__(
        self,
        stream_name: str,
        stream_number: StreamNumber,
        catalog: StreamCatalog,
        dialect: Dialect,
        *,
        positions: Mapping[int, int],
        not_before_ms: int = 0,
    ) -> None:
        self.stream_name = stream_name
        self._stream_number = stream_number
        self._catalog = catalog
        self._dialect = dialect
        self._not_before_ms = not_before_ms
        places = {index: ShardPlace(sequence, not_before_ms) for index, sequence in positions.items()}
        self._round = Round(0, deque(), places, 0)

    def look(self, transaction: ReadTransaction, *, now_ms: int) -> Round:
        """Read on in each shard that may be read, in one snapshot. At most 1,000 records, and not much above 10 MiB.

        Raises ``ResourceNotFoundException`` if the stream was deleted. A record that is damaged ends nothing: it is
        found as the error that names it.
        """
        stream = self._load(transaction)
        places = {index: place for index, place in self._round.places.items() if index in stream.shards}
        found: deque[Found] = deque()
        turn, bytes_left = self._round.turn, GET_RECORDS_BYTES_MAX
        waiting = self._shards_with_news(transaction, stream, places, now_ms)
        limit = max(ROUND_RECORDS_MAX // max(1, len(waiting)), SHARD_RECORDS_MIN)
        for shard_index in waiting:
            if bytes_left <= 0 or len(found) >= ROUND_RECORDS_MAX:
                break
            page = self._read(transaction, stream, shard_index, places, now_ms, limit)
            found += page
            bytes_left -= sum(bytes_of_record(each.record) for each in page if isinstance(each.record, StreamRecord))
            turn = shard_index + 1
        return Round(transaction.commit_number(), found, places, turn)

    def accept(self, round_: Round) -> bool:
        """Go on from where the round ends, when all of the one before is taken.

        False: it found nothing, so wait for a commit behind it.
        """
        assert not self._round.found, "a round may not replace records that nobody was given"
        changed = bool(round_.found) or round_.places != self._round.places
        self._round = round_  # all at once, so that an interrupt leaves the one or the other
        return changed

    def take(self) -> StreamRecord | None:
        """Hand out the next record that was found, None if there is no more: then look again.

        Raises ``CorruptRecordError`` once for a damaged record, and goes on behind it.
        """
        found = self._round.found
        if not found:
            return None
        record = found.popleft().record
        if isinstance(record, CorruptRecordError):
            raise record
        return record

    def positions(self) -> dict[int, int]:
        """Return for each shard that is begun the number behind the last record that was handed out."""
        positions = {index: place.sequence for index, place in self._round.places.items()}
        for shard_index, record in reversed(self._round.found):
            positions[shard_index] = int(record.sequence_number)
        return positions

    def _load(self, transaction: ReadTransaction) -> StoredStream:
        stream = self._catalog.load(transaction, self.stream_name).stored
        if stream.number != self._stream_number:
            raise ResourceNotFoundException(
                resource=f"The stream {self.stream_name} that was asked for",
                remedy="it was deleted, and another one has its name: ask again for that",
            )
        return stream

    def _place(self, stream: StoredStream, places: Mapping[int, ShardPlace], shard_index: int) -> ShardPlace:
        place = places.get(shard_index)
        return place or ShardPlace(stream.shards[shard_index].first_sequence, self._not_before_ms)

    def _shards_with_news(
        self, transaction: ReadTransaction, stream: StoredStream, places: Mapping[int, ShardPlace], now_ms: int
    ) -> list[int]:
        """Return the indexes of the shards that may be read and have records to read, each in its turn."""
        finished: set[int] = set()  # with all their ancestors
        waiting: list[int] = []
        for shard_index, shard in stream.shards.items():  # indexes rise, so parents come before their children
            sequence = self._place(stream, places, shard_index).sequence
            stop = shard.next_sequence_at_close
            if stream.has_expired(shard, now_ms):
                finished.add(shard_index)
            elif any(index in stream.shards and index not in finished for index in shard.parent_indexes):
                pass
            elif stop is not None and sequence >= stop:
                finished.add(shard_index)
            elif sequence < load_counter(transaction, stream.number, shard_index).next_sequence:
                waiting.append(shard_index)
        return sorted(waiting, key=lambda shard_index: (shard_index < self._round.turn, shard_index))

    def _read(
        self,
        transaction: ReadTransaction,
        stream: StoredStream,
        shard_index: int,
        places: dict[int, ShardPlace],
        now_ms: int,
        limit: int,
    ) -> list[Found]:
        """Return what comes next in a shard, and move its place behind that."""
        shard_id = self._dialect.shard_id(shard_index)
        place = self._place(stream, places, shard_index)
        try:
            page = ShardReader(transaction, stream.number, shard_index, shard_id).read_page(
                place.sequence,
                not_before_ms=place.not_before_ms,
                horizon_ms=now_ms - stream.retention_ms,
                limit=limit,
            )
        except CorruptRecordError as error:
            places[shard_index] = ShardPlace(int(error.last_sequence_number) + 1, place.not_before_ms)
            return [Found(shard_index, error)]
        places[shard_index] = ShardPlace(page.next_sequence, page.next_not_before_ms)
        return list(_found_on(page, shard_index, shard_id))


def latest_positions(transaction: ReadTransaction, stream: StoredStream) -> dict[int, int]:
    """Return the places behind everything that is stored in a stream."""
    return {
        index: load_counter(transaction, stream.number, index).next_sequence
        if shard.next_sequence_at_close is None
        else shard.next_sequence_at_close
        for index, shard in stream.shards.items()
    }


def _found_on(page: Page, shard_index: int, shard_id: str) -> Iterator[Found]:
    for record in page.records:
        yield Found(shard_index, new_named_tuple(StreamRecord, (shard_id, *record)))
