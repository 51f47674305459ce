"""Makes a new store of everything in a damaged one that still proves itself, and tells what is lost.

The damaged file is only read, page by page and without LMDB: first along its trees, then, where those have lost
something, on every page that they do not lead to and that is not known to be free. A record's checksum binds it to its
stream, shard and number, so it is good wherever it is found. Numbers stay what they were; those that are missing are
marked as known losses.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Final

from streamstore.check import check_store
from streamstore.consumers import save_consumer
from streamstore.databases import (
    FORMAT_DATABASE,
    IDEMPOTENCY_KEYS_DATABASE,
    IDEMPOTENCY_TIMES_DATABASE,
    POSITIONS_DATABASE,
    DamagedValueError,
    parse_records_database,
    records_database,
)
from streamstore.dialect import AWS, DIALECTS, YANDEX, Dialect
from streamstore.disk_format import (
    DIALECT_KEY,
    FORMAT_VERSION,
    NEXT_STREAM_NUMBER_KEY,
    SECRET_KEY,
    SHARD_COUNT_KEY,
    VERSION_KEY,
    RecordFormat,
    consumer_key,
    encode_first_put,
    encode_format_value,
    encode_position,
    idempotency_time_key,
    parse_position_key,
    record_key,
    sequence_of_record_key,
    stream_number_of_idempotency_key,
)
from streamstore.engine import Engine
from streamstore.errors import StoreFormatError
from streamstore.folder import StoreFolder, nobody_else, whole_or_none
from streamstore.library import translated
from streamstore.losses import save_loss
from streamstore.model import Record, ShardCounter, StoredConsumer, StoredShard, StoredStream, StreamNumber
from streamstore.pages import Node, PageFile, Snapshot, Tree
from streamstore.remains import ENTRY_DATABASES, Remains, ShardAddress
from streamstore.routing import slice_hash_keys
from streamstore.streams import initial_databases, save_counter, save_stream
from streamstore.transaction import ReadTransaction, WriteTransaction
from streamstore.validate_settings import parse_path

__all__ = ["LostRecords", "SalvageResult", "salvage_store"]

BATCH_RECORDS: Final = 500
RECORD_KEY_BYTES: Final = len(record_key(0))
ItemOfShard = tuple[ShardAddress, bytes, bytes]

# Where even the names of the databases are lost, records of these streams and shards are looked for.
STREAM_NUMBERS_TRIED: Final = range(1, 65)
SHARD_INDEXES_TRIED: Final = range(64)


@dataclass(frozen=True, slots=True)
class LostRecords:
    """A run of records that are lost, both ends included."""

    stream_name: str
    shard_id: str
    first_sequence_number: str
    last_sequence_number: str


@dataclass(frozen=True, slots=True)
class SalvageResult:
    """What a salvage has found. ``findings`` tells in sentences what was lost or had to be made up; none: nothing.

    ``lost_record_count`` counts the numbers in ``lost_records``, which readers of the new store are told of too.
    """

    stream_count: int
    record_count: int
    lost_record_count: int
    lost_records: tuple[LostRecords, ...]
    findings: tuple[str, ...]


def salvage_store(path: Path | str, new_path: Path | str) -> SalvageResult:
    """Copy everything that proves itself from the store at ``path``, which is only read, into a new one.

    Raises ``InvalidArgumentException`` (something is at ``new_path``), ``StoreNotFoundError``, ``StoreLockedError``
    (the store is open), ``StoreFormatError`` (nothing of a store is left), ``StoreFullError`` and ``StorageError``;
    then nothing is at ``new_path``.
    """
    source = StoreFolder(parse_path(path))
    target = parse_path(new_path)
    with translated(f"salvage {source.path}"), nobody_else(source), whole_or_none(target) as making:
        with PageFile(source.data_path) as pages:
            result = _Salvage(pages, making).run()
        unsound = [f"The new store is not sound: {finding}" for finding in check_store(making)]
        return replace(result, findings=(*result.findings, *unsound))


class _Salvage:
    """One salvage, from an open file into a new folder."""

    def __init__(self, pages: PageFile, making: Path) -> None:
        self._pages = pages
        self._making = making
        self._findings: list[str] = []
        self._remains = Remains()
        self._names_are_whole = False
        self._incomplete: set[str] = set()
        self._from_pages: set[tuple[ShardAddress, bytes]] = set()
        self._ambiguous: set[tuple[ShardAddress, bytes]] = set()
        self._counters_in_trees: set[ShardAddress] = set()

    def run(self) -> SalvageResult:
        snapshot, trees = self._find_trees()
        free = self._pages.free_pages(snapshot) if snapshot is not None else set[int]()
        for database in ENTRY_DATABASES:
            self._collect_entries(database.decode(), trees.get(database))
        self._counters_in_trees = {*self._remains.counters}
        records = {
            address: tree for name, tree in trees.items() if (address := parse_records_database(name)) is not None
        }
        # The meta pages know which pages are free, and how far counters may be trusted.
        is_whole = self._metas_are_whole and "the list of free pages" not in self._pages.problems
        engine = Engine(
            self._making,
            initial=initial_databases(YANDEX),
            read_only=False,
            sync="off",
            allow_network_filesystem=True,
        )
        try:
            engine.open()
            for address, tree in sorted(records.items()):
                self._copy_tree(engine, address, tree)
            if not is_whole or self._incomplete or self._numbers_are_missing(engine):
                self._search_all_pages(engine, free if is_whole else set(), {*records}, is_whole)
            return self._finish(engine)
        finally:
            engine.close()

    # What is found

    def _find_trees(self) -> tuple[Snapshot | None, dict[bytes, Tree]]:
        """Return the newest snapshot whose databases can be named, and those."""
        snapshots = self._pages.snapshots()
        self._metas_are_whole = len(snapshots) == 2
        best: tuple[Snapshot | None, dict[bytes, Tree]] = (None, {})
        for place, snapshot in enumerate(snapshots):
            self._pages.visited_again()
            trees = {node.key: node.tree for node in self._pages.nodes(snapshot.main, "names") if node.tree is not None}
            if not self._pages.problems and len(trees) == snapshot.main.entries and FORMAT_DATABASE in trees:
                self._names_are_whole = True
                self._metas_are_whole &= place == 0
                best = snapshot, trees
                break
            if len(trees) > len(best[1]):
                best = snapshot, trees
        if not self._metas_are_whole:
            self._findings.append(
                "A meta page is damaged, so what was changed last may be as it was one commit before, and records of a "
                "put that was refused may be there."
            )
        if not self._names_are_whole:
            self._findings.append("The list of the databases is damaged: they were looked for on all pages.")
        if best[0] is not None:
            self._pages.visited_again()
            for _ in self._pages.nodes(best[0].main, "names"):
                pass
        return best

    def _collect_entries(self, name: str, tree: Tree | None) -> None:
        if tree is None:
            if not self._names_are_whole:
                self._incomplete.add(name)
            return
        found = 0
        for node in self._pages.nodes(tree, name):
            try:
                self._remains.add(name.encode(), node.key, node.value)
                found += 1
            except DamagedValueError:
                pass
        if found != tree.entries:
            self._incomplete.add(name)
            self._findings.append(f"Of the {tree.entries} entries in {name}, {found} were found in their place.")

    def _copy_tree(self, engine: Engine, address: ShardAddress, tree: Tree) -> None:
        """Copy the records of a shard that its tree leads to."""
        name = records_database(*address).decode()
        record_format = RecordFormat(*address)
        batch: list[ItemOfShard] = []
        found, last_key = 0, b""
        for node in self._pages.nodes(tree, name):
            if node.key > last_key and _prove(record_format, node) is not None:
                found, last_key = found + 1, node.key
                batch.append((address, node.key, node.value))
                if len(batch) == BATCH_RECORDS:
                    engine.write(partial(_append, batch=batch))
                    batch = []
        if batch:
            engine.write(partial(_append, batch=batch))
        if found != tree.entries:
            self._incomplete.add(name)
            self._findings.append(f"Of the {tree.entries} records in {name}, {found} were found in their place.")

    def _numbers_are_missing(self, engine: Engine) -> bool:
        addresses = {*self._remains.counters} & self._remains.shard_addresses()
        return addresses != self._remains.shard_addresses() or any(
            list(engine.read(partial(_holes, address=address, counter=self._remains.counters[address])))
            for address in addresses
        )

    def _search_all_pages(self, engine: Engine, free: set[int], named: set[ShardAddress], is_whole: bool) -> None:
        """Look on all pages that no tree has led to for what is missing."""
        older = Remains()
        if self._incomplete & {name.decode() for name in ENTRY_DATABASES} or not is_whole:
            for node in self._pages.nodes_elsewhere(free=set()):  # an old entry is better than none
                older.add_whatever_it_is(node.key, node.value)
        self._fill_up(older, named)
        known = named | self._remains.shard_addresses()
        if not self._names_are_whole:
            known |= {
                (StreamNumber(number), index) for number, index in product(STREAM_NUMBERS_TRIED, SHARD_INDEXES_TRIED)
            }
        formats = [(address, RecordFormat(*address)) for address in sorted(known)]
        batch: list[ItemOfShard] = []
        for node in self._pages.nodes_elsewhere(free):
            address = _address_of(node, formats)
            if address is not None and self._may_be_missing(address, node.key, is_whole):
                batch.append((address, node.key, node.value))
            if len(batch) == BATCH_RECORDS:
                self._fill_holes(engine, batch)
                batch = []
        self._fill_holes(engine, batch)

    def _fill_up(self, older: Remains, named: set[ShardAddress]) -> None:
        """Take older entries in place of those that are lost, but none of a stream that was deleted."""
        numbers = {number for number, _ in named | {*self._remains.counters}}
        numbers |= {stream.number for stream in self._remains.streams.values()}
        if self._names_are_whole:
            older.counters = {key: counter for key, counter in older.counters.items() if key[0] in numbers}
            older.streams = {name: stream for name, stream in older.streams.items() if stream.number in numbers}
        taken = {stream.number for stream in self._remains.streams.values()}
        for name, stream in older.streams.items():
            if name not in self._remains.streams and stream.number not in taken:
                self._findings.append(f"The entry of stream {name} was found outside its place: it may be an old one.")
        older.streams = {name: stream for name, stream in older.streams.items() if stream.number not in taken}
        self._remains.fill_up(older)

    def _may_be_missing(self, address: ShardAddress, key: bytes, is_whole: bool) -> bool:
        """Tell whether the shard had this number in the snapshot: what is found may be of a commit that failed."""
        counter = self._remains.counters.get(address)
        if counter is None or address not in self._counters_in_trees:
            return True
        sequence = sequence_of_record_key(key)
        return counter.first_sequence <= sequence and (sequence < counter.next_sequence or not is_whole)

    def _fill_holes(self, engine: Engine, batch: Sequence[ItemOfShard]) -> None:
        def fill(transaction: WriteTransaction) -> None:
            for address, key, value in batch:
                database = records_database(*address)
                stored = transaction.get(database, key)
                if stored is None and (address, key) not in self._ambiguous:
                    transaction.put(database, key, value)
                    self._from_pages.add((address, key))
                elif stored not in (None, value) and (address, key) in self._from_pages:
                    transaction.delete(database, key)
                    self._ambiguous.add((address, key))

        if batch:
            engine.write(fill)

    # What is made of it

    def _finish(self, engine: Engine) -> SalvageResult:
        dialect = self._dialect()
        stored = engine.read(ReadTransaction.databases)
        addresses = {address for name in stored if (address := parse_records_database(name)) is not None}
        if not addresses and not self._remains.streams and not self._remains.format:
            raise StoreFormatError("Nothing in the file proves itself as part of a store; nothing was made.")
        streams = self._whole_streams(addresses, dialect)
        lost: list[LostRecords] = []
        record_count = 0
        for stream in streams:
            shards: dict[int, StoredShard] = {}
            for index, shard in stream.shards.items():
                counter, count, holes = self._count_shard(engine, (stream.number, index), shard)
                shards[index] = replace(
                    shard,
                    first_sequence=min(shard.first_sequence, counter.first_sequence),
                    next_sequence_at_close=None if shard.next_sequence_at_close is None else counter.next_sequence,
                )
                record_count += count
                lost += [
                    LostRecords(stream.name, dialect.shard_id(index), str(hole[0]), str(hole[-1])) for hole in holes
                ]
            engine.write(partial(save_stream, stream=replace(stream, shards=shards)))
        self._save_the_rest(engine, streams, dialect)
        self._findings += [
            f"Stream {each.stream_name}, {each.shard_id}: records {each.first_sequence_number} to "
            f"{each.last_sequence_number} are lost."
            for each in lost
        ]
        if self._ambiguous:
            self._findings.append(f"Of {len(self._ambiguous)} numbers two records were found: neither was taken.")
        self._findings += [
            f"In {name}, {len(numbers)} pages are not what they were; the first is page {numbers[0]}."
            for name, numbers in self._pages.problems.items()
        ]
        lost_count = sum(int(each.last_sequence_number) - int(each.first_sequence_number) + 1 for each in lost)
        return SalvageResult(len(streams), record_count, lost_count, tuple(lost), tuple(self._findings))

    def _dialect(self) -> Dialect:
        dialect = DIALECTS.get(str(self._remains.format.get(DIALECT_KEY)))
        if dialect is None:
            retention = max((stream.retention_hours for stream in self._remains.streams.values()), default=0)
            dialect = AWS if retention > YANDEX.retention_hours_max else YANDEX
            self._findings.append(f"The dialect of the store is lost; it is taken to be {dialect.name}.")
        return dialect

    def _whole_streams(self, addresses: set[ShardAddress], dialect: Dialect) -> list[StoredStream]:
        """Return the streams, with a place for every record. Those that have no entry any more get a name."""
        of_number = {stream.number: stream for stream in self._remains.streams.values()}
        indexes: dict[StreamNumber, set[int]] = {number: {*stream.shards} for number, stream in of_number.items()}
        if "streams" in self._incomplete:
            addresses = addresses | {*self._remains.counters}
        for number, index in sorted(addresses):
            indexes.setdefault(number, set()).add(index)
        names = {*self._remains.streams}
        streams: list[StoredStream] = []
        for number, shard_indexes in sorted(indexes.items()):
            stream = of_number.get(number)
            if stream is None:
                name = next(each for each in _names(number) if each not in names)
                names.add(name)
                stream = _unknown_stream(name, number, dialect)
                self._findings.append(
                    f"The entry of stream number {number} is lost: its records are in {name}, with "
                    f"{len(shard_indexes)} equal shards and a retention of {stream.retention_hours} hours."
                )
            elif not shard_indexes <= {*stream.shards}:
                self._findings.append(
                    f"The entry of stream {stream.name} is older than its shards: it has {len(shard_indexes)} equal "
                    "ones now."
                )
            if not shard_indexes <= {*stream.shards}:
                ranges = slice_hash_keys(len(shard_indexes), dialect)
                stream = replace(
                    stream,
                    shards={
                        index: StoredShard(hash_key_range, created_ms=stream.creation_ms)
                        for index, hash_key_range in zip(sorted(shard_indexes), ranges, strict=True)
                    },
                    next_shard_index=max(max(shard_indexes) + 1, stream.next_shard_index),
                )
            streams.append(stream)
        return streams

    def _count_shard(
        self, engine: Engine, address: ShardAddress, shard: StoredShard
    ) -> tuple[ShardCounter, int, list[range]]:
        """Save counter and losses of a shard; return the counter, how many records it has and what is lost of it."""
        first, last, count = engine.read(partial(_extent, address=address))
        counter = self._remains.counters.get(address)
        numbers = [self._remains.numbers_given_out().get(address, 0), shard.next_sequence_at_close or 0]
        if counter is None or address not in self._counters_in_trees:
            name = f"shard {address[1]} of stream number {address[0]}"
            self._findings.append(
                f"The counter of {name} is lost: numbers behind the last one that is known may be given out again, and "
                "records in front of the first that was found are not looked for."
            )
        if counter is None:
            counter = ShardCounter(shard.first_sequence if first is None else _sequence_of(first))
        if first is not None and last is not None:
            counter = counter._replace(
                first_sequence=min(counter.first_sequence, _sequence_of(first)),
                next_sequence=max(counter.next_sequence, _sequence_of(last) + 1),
                last_arrival_ms=max(counter.last_arrival_ms, last.arrival_ms),
            )
        counter = counter._replace(next_sequence=max(counter.next_sequence, counter.first_sequence, *numbers))
        holes = list(engine.read(partial(_holes, address=address, counter=counter)))

        def save(transaction: WriteTransaction) -> None:
            save_counter(transaction, *address, counter)
            for hole in holes:
                save_loss(transaction, *address, hole)

        engine.write(save)
        return counter, count, holes

    def _save_the_rest(self, engine: Engine, streams: Sequence[StoredStream], dialect: Dialect) -> None:
        engine.write(partial(self._save_consumers, streams=streams))
        engine.write(partial(self._save_first_puts, streams=streams))
        engine.write(partial(self._save_format, streams=streams, dialect=dialect))

    def _save_consumers(self, transaction: WriteTransaction, streams: Sequence[StoredStream]) -> None:
        stream_of_number = {stream.number: stream for stream in streams}
        names_told: set[str] = set()
        for consumer in self._remains.consumers.values():
            if consumer.stream_number in stream_of_number:
                save_consumer(transaction, consumer)
        for key, sequence in self._remains.positions.items():
            number, name, index = parse_position_key(key)
            stream = stream_of_number.get(number)
            if stream is None or index >= stream.next_shard_index:
                continue
            if consumer_key(number, name) not in self._remains.consumers and name not in names_told:
                names_told.add(name)
                save_consumer(transaction, StoredConsumer(number, name, stream.creation_ms, epoch=1))
                self._findings.append(f"The entry of consumer {name} of {stream.name} is lost; its positions are kept.")
            transaction.put(POSITIONS_DATABASE, key, encode_position(key, sequence))

    def _save_first_puts(self, transaction: WriteTransaction, streams: Sequence[StoredStream]) -> None:
        stream_of_number = {stream.number: stream for stream in streams}
        for key, put in self._remains.first_puts.items():
            stream = stream_of_number.get(stream_number_of_idempotency_key(key))
            if stream is not None and put.shard_index < stream.next_shard_index:
                transaction.put(IDEMPOTENCY_KEYS_DATABASE, key, encode_first_put(key, put))
                transaction.put(IDEMPOTENCY_TIMES_DATABASE, idempotency_time_key(key, put.sent_ms), b"")

    def _save_format(self, transaction: WriteTransaction, streams: Sequence[StoredStream], dialect: Dialect) -> None:
        next_number = self._remains.format.get(NEXT_STREAM_NUMBER_KEY)
        values: dict[bytes, int | str | bytes] = {
            VERSION_KEY: FORMAT_VERSION,
            DIALECT_KEY: dialect.name,
            NEXT_STREAM_NUMBER_KEY: max(
                next_number if isinstance(next_number, int) else 1,
                1 + max((each.number for each in streams), default=0),
            ),
            SHARD_COUNT_KEY: sum(len(stream.shards) for stream in streams),
        }
        secret = self._remains.format.get(SECRET_KEY)
        if isinstance(secret, bytes):
            values[SECRET_KEY] = secret
        else:
            self._findings.append("The secret of the store is lost: tokens that it gave out are not accepted any more.")
        for key, value in values.items():
            transaction.put(FORMAT_DATABASE, key, encode_format_value(key, value))


def _append(transaction: WriteTransaction, batch: Sequence[ItemOfShard]) -> None:
    transaction.append(records_database(*batch[0][0]), [(key, value) for _, key, value in batch])


def _prove(record_format: RecordFormat, node: Node) -> Record | None:
    try:
        return record_format.decode(node.key, node.value)
    except DamagedValueError:
        return None


def _address_of(node: Node, formats: list[tuple[ShardAddress, RecordFormat]]) -> ShardAddress | None:
    """Return the shard of a record, and have it tried first the next time: its neighbours on the page are of it too."""
    if len(node.key) != RECORD_KEY_BYTES:
        return None
    for place, (address, record_format) in enumerate(formats):
        if _prove(record_format, node) is not None:
            formats.insert(0, formats.pop(place))
            return address
    return None


def _extent(transaction: ReadTransaction, address: ShardAddress) -> tuple[Record | None, Record | None, int]:
    """Return the first and the last record that a shard has in the new store, and how many."""
    first: Record | None = None
    last: Record | None = None
    count = 0
    record_format = RecordFormat(*address)
    last_item: tuple[bytes, bytes] | None = None
    for item in transaction.items_from(records_database(*address), b""):
        first = first or record_format.decode(*item)
        last_item = item
        count += 1
    if last_item is not None:
        last = record_format.decode(*last_item)
    return first, last, count


def _holes(transaction: ReadTransaction, address: ShardAddress, counter: ShardCounter) -> list[range]:
    """Return the runs of numbers that a shard should have and the new store does not."""
    holes: list[range] = []
    expected = counter.first_sequence
    keys = (key for key, _ in transaction.items_from(records_database(*address), record_key(expected)))
    for sequence in chain(map(sequence_of_record_key, keys), (counter.next_sequence,)):
        if sequence > expected:
            holes.append(range(expected, sequence))
        expected = sequence + 1
    return holes


def _sequence_of(record: Record) -> int:
    return int(record.sequence_number)


def _names(number: StreamNumber) -> Iterator[str]:
    yield f"salvaged-{number}"
    for attempt in range(2, 1_000):
        yield f"salvaged-{number}-{attempt}"


def _unknown_stream(name: str, number: StreamNumber, dialect: Dialect) -> StoredStream:
    return StoredStream(
        name=name,
        number=number,
        creation_ms=0,
        retention_hours=dialect.retention_hours_max,
        write_quota_kb_per_sec=None,
        shards={},
        next_shard_index=0,
    )
