"""A store of the part damage: how it is filled, what must be read from it, and what may be lost with a page."""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from streamstore import (
    CorruptRecordError,
    PutRecordResult,
    Record,
    StorageError,
    StreamRecord,
    StreamStore,
    StreamStoreError,
)
from streamstore.databases import records_database
from streamstore.disk_format import sequence_of_record_key
from streamstore.model import StreamNumber
from streamstore.pages import (
    META_PAGES,
    FarValue,
    Meta,
    Page,
    Tree,
    pages_of_value,
    parse_metas,
    parse_page,
    parse_tree,
)

__all__ = ["SHARD_COUNT", "STREAMS", "Contents", "Reading", "Template", "fill", "read_all"]

START_MS: Final = 1_700_000_000_000
MS_PER_HOUR: Final = 3_600_000
STREAMS: Final = ("even", "mixed")
SHARD_COUNT: Final = 3
CONSUMERS: Final = ("place", "place-2", "plaice")
STREAM_NUMBER_MIN: Final = 2
"""Behind that of the stream that is gone."""
PAGE_BYTES: Final = 4096

Place = tuple[str, str]
"""The name of a stream and the id of one of its shards."""
Contents = dict[Place, list[Record]]


class Template(NamedTuple):
    """A sound store, and what it holds."""

    path: Path
    content: bytes
    now_ms: int
    contents: Contents
    consumed: dict[str, StreamRecord]
    """The one record of the stream "mixed" that each consumer is behind."""
    repeated: dict[str, PutRecordResult]
    """What a put into the stream "even" with each of these idempotency keys must be answered again."""
    pages: dict[int, frozenset[tuple[Place, int]]]
    """The records that lie on each page that holds nothing else, and leads nowhere."""


class Reading(NamedTuple):
    """What was read of a store."""

    found: list[str]
    """What should not be."""
    lost: set[tuple[Place, int]]
    """The records that were named as damaged."""
    errors: set[str]


def fill(path: Path, dice: random.Random) -> Template:
    """Make a store with small and large records, keys, consumers, and pages that were used before."""
    sizes = dice.choice(((0, 10, 100), (1_000,), (0, 100, 1_000, 9_000), (3_000, 9_000)))
    now_ms = START_MS
    with StreamStore(path, sync="off", clock=lambda: now_ms) as store:
        store.create_stream("gone", shard_count=4)
        store.put_records("gone", [(dice.randbytes(2_000), f"k{number}") for number in range(100)])
        for name in STREAMS:
            store.create_stream(name, shard_count=SHARD_COUNT, retention_hours=2)
        put_count = dice.choice((40, 40, 40, 80, 200))
        for number in range(put_count):
            now_ms += 1_000
            store.put_record("even", b"%d" % number * 200, f"key {number}", idempotency_key=f"even {number}")
            store.put_records(
                "mixed",
                [(dice.randbytes(dice.choice(sizes)), f"key {number} {each}") for each in range(dice.randint(1, 3))],
            )
            if number == 20:
                store.delete_stream("gone")
        now_ms = START_MS + 2 * MS_PER_HOUR + dice.randrange(put_count * 500)
        store.trim()
        store.register_stream_consumer("even", "reader")
        consumed = {name: _consume(store, name) for name in CONSUMERS}
        repeated = {
            f"once {number}": store.put_record("even", b"", f"key {number}", idempotency_key=f"once {number}")
            for number in range(dice.choice((2, 20, 100)))
        }
    with StreamStore(path, create=False, clock=lambda: now_ms) as store:
        contents: Contents = {
            (name, shard.shard_id): list(store.read(name, shard.shard_id))
            for name in STREAMS
            for shard in store.list_shards(name).shards
        }
    content = (path / "data.mdb").read_bytes()
    _, meta = parse_metas(content, PAGE_BYTES)
    content = content[: (meta.last_page + 1) * PAGE_BYTES]  # without the room behind what is in use
    return Template(path, content, now_ms, contents, consumed, repeated, _pages_of_records(content, meta))


def _consume(store: StreamStore, name: str) -> StreamRecord:
    """Let a consumer leave its place behind one record."""
    with store.consumer("mixed", name, idle_timeout_seconds=0) as consumer:
        record = next(consumer)
        consumer.checkpoint()
    return record


def _pages_of_records(content: bytes, meta: Meta) -> dict[int, frozenset[tuple[Place, int]]]:
    """Return the records on each page that leads nowhere, none for one that nothing uses."""
    records: dict[int, set[tuple[Place, int]]] = {number: set() for number in range(META_PAGES, meta.last_page + 1)}
    lists = [*_walk(content, meta.main), *_walk(content, meta.free, is_free_list=True)]
    for number in _numbers(lists):
        del records[number]
    for name, tree in _databases(content, meta):
        place = _place(name)
        pages = list(_walk(content, tree))
        for number in _numbers(pages) if place is None else [number for number, page in pages if page.children]:
            del records[number]
        if place is not None:
            for number, page in pages:
                if not page.children:
                    records[number] = {(place, sequence_of_record_key(key)) for key in page.keys}
                for value in page.far_values:
                    for each in _pages_of(value):
                        records[each] = {(place, sequence_of_record_key(page.keys[value.place]))}
    return {number: frozenset(found) for number, found in records.items()}


def _databases(content: bytes, meta: Meta) -> Iterable[tuple[bytes, Tree]]:
    for _, page in _walk(content, meta.main):
        yield from ((page.keys[place], parse_tree(value)) for place, value in page.values.items())


def _walk(content: bytes, tree: Tree, *, is_free_list: bool = False) -> Iterable[tuple[int, Page]]:
    waiting = [] if tree.root is None else [tree.root]
    while waiting:
        number = waiting.pop()
        page = parse_page(content[number * PAGE_BYTES :][:PAGE_BYTES], number, is_free_list=is_free_list)
        waiting += page.children
        yield number, page


def _numbers(pages: Iterable[tuple[int, Page]]) -> Iterable[int]:
    for number, page in pages:
        yield number
        for value in page.far_values:
            yield from _pages_of(value)


def _pages_of(value: FarValue) -> range:
    return range(value.page, value.page + pages_of_value(value.value_bytes, PAGE_BYTES))


def _place(database: bytes) -> Place | None:
    for stream_number, name in enumerate(STREAMS, STREAM_NUMBER_MIN):
        for shard_index in range(SHARD_COUNT):
            if database == records_database(StreamNumber(stream_number), shard_index):
                return name, f"shard-{shard_index:06}"
    return None


def read_all(store: StreamStore, expected: Contents) -> Reading:
    """Read every record that the store gives, and hold it to what was written."""
    reading = Reading([], set(), set())
    shard_ids = sorted({shard_id for _, shard_id in expected})
    for name in STREAMS:
        try:
            found_ids = [shard.shard_id for shard in store.list_shards(name).shards]
            if found_ids != shard_ids:
                reading.found.append(f"SILENT {name} has the shards {found_ids}.")
        except StorageError as error:
            reading.errors.add(type(error).__name__)
        except StreamStoreError as error:
            reading.found.append(f"The shards of {name} cannot be listed: {error!r}")
    for place, originals in expected.items():
        try:
            _read_shard(store, place, originals, reading)
        except StorageError as error:
            reading.errors.add(type(error).__name__)
            reading.lost.update((place, int(record.sequence_number)) for record in originals)
        except StreamStoreError as error:
            reading.found.append(f"{place} cannot be read: {error!r}")
    return reading


def _read_shard(store: StreamStore, place: Place, originals: list[Record], reading: Reading) -> None:
    first = int(originals[0].sequence_number)
    start = first
    while start < first + len(originals):
        try:
            for record in store.read(*place, starting_sequence_number=str(start)):
                if int(record.sequence_number) != start:
                    reading.found.append(f"SILENT {place} skips from {start} to {record.sequence_number}.")
                    return
                if start < first + len(originals) and record != originals[start - first]:
                    reading.found.append(f"SILENT record {start} of {place} is another.")
                start += 1
            if start < first + len(originals):
                reading.found.append(f"SILENT {place} ends at {start}.")
                return
        except CorruptRecordError as error:
            damaged = range(int(error.sequence_number), int(error.last_sequence_number) + 1)
            if damaged[0] != start:
                reading.found.append(f"SILENT {place} skips from {start} to the damage at {damaged[0]}.")
                return
            reading.errors.add(type(error).__name__)
            reading.lost.update((place, sequence) for sequence in damaged)
            start = damaged[-1] + 1
