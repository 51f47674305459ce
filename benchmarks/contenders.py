"""What a contender is, and ours. The others are in ``competitors.py``.

A contender opens what is in its folder, or makes it, so that what was put can be read by a second one after the first
was closed. Each method of ``Puts`` and ``PutsBatches`` returns when its records are on disk.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack
from pathlib import Path
from typing import ClassVar, Final, Protocol

from benchmarks.payloads import partition_key_of
from streamstore import AsyncStreamStore, Feed, PutRecordResult, Record, StreamRecord, StreamStore

__all__ = [
    "STREAM_NAME",
    "AsyncStreamstore",
    "Contender",
    "FourShards",
    "Puts",
    "PutsBatches",
    "ReadsPages",
    "Streamstore",
]

STREAM_NAME: Final = "benchmark"
READ_BACK_PAGE_RECORDS: Final = 5_000


class Contender(Protocol):
    """A store of records. ``durability`` says how it syncs, ``package`` what must be installed, if it is an extra."""

    durability: ClassVar[str]
    package: ClassVar[str | None]

    def __init__(self, path: Path) -> None: ...

    def read_back(self) -> Iterator[bytes]:
        """Yield the payload of each record, in the order in which they are stored; shard by shard if it has some."""
        ...

    def close(self) -> None: ...


class Puts(Contender, Protocol):
    def put(self, data: bytes) -> None: ...


class PutsBatches(Contender, Protocol):
    def put_batch(self, batch: Sequence[bytes]) -> None: ...


class ReadsPages(PutsBatches, Protocol):
    def read_pages(self, page_records: int) -> Iterator[Sequence[object]]:
        """Yield all records, ``page_records`` at a time, as the objects that a program would use."""
        ...


class Streamstore:
    """This project, no write quota."""

    durability: ClassVar[str] = 'sync="full": fdatasync, then a synchronous write of the meta page, a commit'
    package: ClassVar[str | None] = None
    shard_count: ClassVar[int] = 1

    def __init__(self, path: Path) -> None:
        self._store = StreamStore(path, sync="full")
        if not self._store.list_streams().stream_names:
            self._store.create_stream(STREAM_NAME, shard_count=self.shard_count)

    def put(self, data: bytes) -> None:
        self._store.put_record(STREAM_NAME, data, partition_key_of(data))

    def put_batch(self, batch: Sequence[bytes]) -> None:
        result = self._store.put_records(STREAM_NAME, [(data, partition_key_of(data)) for data in batch])
        assert result.failed_record_count == 0

    def submit(self, data: bytes) -> Future[PutRecordResult]:
        """Return at once; the future is done when the record is on disk."""
        return self._store.submit_record(STREAM_NAME, data, partition_key_of(data))

    def read_pages(self, page_records: int) -> Iterator[Sequence[Record]]:
        for shard in self._store.list_shards(STREAM_NAME).shards:
            iterator: str | None = self._store.get_shard_iterator(STREAM_NAME, shard.shard_id, "TRIM_HORIZON")
            behind_ms = 1
            while iterator is not None and behind_ms > 0:
                page = self._store.get_records(iterator, limit=page_records)
                iterator, behind_ms = page.next_shard_iterator, page.millis_behind_latest
                yield page.records

    def tail(self) -> Feed[StreamRecord]:
        """Return what waits for every record that is stored behind this call."""
        return self._store.tail(STREAM_NAME)

    def read_at(self, sequence: int) -> Record:
        """Return one record of the only shard, found by its number."""
        iterator = self._store.get_shard_iterator(
            STREAM_NAME, "shard-000000", "AT_SEQUENCE_NUMBER", starting_sequence_number=str(sequence)
        )
        return self._store.get_records(iterator, limit=1).records[0]

    def ingest(self, payloads: Iterator[bytes]) -> int:
        """Store any number of payloads at full speed. Returns how many it were."""
        return self._store.ingest(STREAM_NAME, ((data, partition_key_of(data)) for data in payloads)).record_count

    def read_back(self) -> Iterator[bytes]:
        for page in self.read_pages(READ_BACK_PAGE_RECORDS):
            yield from (record.data for record in page)

    def close(self) -> None:
        self._store.close()


class FourShards(Streamstore):
    """The same with four shards; each record goes where its key sends it."""

    shard_count = 4


class AsyncStreamstore:
    """This project under asyncio, with an event loop of its own."""

    durability: ClassVar[str] = Streamstore.durability
    package: ClassVar[str | None] = None

    def __init__(self, path: Path) -> None:
        self._runner = asyncio.Runner()
        self._opened = AsyncExitStack()
        self._store = self._runner.run(self._open(path))

    async def _open(self, path: Path) -> AsyncStreamStore:
        store = await self._opened.enter_async_context(AsyncStreamStore(path, sync="full"))
        if not (await store.list_streams()).stream_names:
            await store.create_stream(STREAM_NAME)
        return store

    def put_in_tasks(self, payloads_by_task: Sequence[Sequence[bytes]]) -> None:
        """Run one task for each sequence of payloads; it awaits each put before the next."""
        self._runner.run(self._put_in_tasks(payloads_by_task))

    async def _put_in_tasks(self, payloads_by_task: Sequence[Sequence[bytes]]) -> None:
        async with asyncio.TaskGroup() as group:
            for payloads in payloads_by_task:
                group.create_task(self._put_in_order(payloads))

    async def _put_in_order(self, payloads: Sequence[bytes]) -> None:
        for data in payloads:
            await self._store.put_record(STREAM_NAME, data, partition_key_of(data))

    def read_back(self) -> Iterator[bytes]:
        pages = self._read_pages()
        while page := self._runner.run(_next_page(pages)):
            yield from page

    async def _read_pages(self) -> AsyncIterator[list[bytes]]:
        for shard in (await self._store.list_shards(STREAM_NAME)).shards:
            iterator: str | None = await self._store.get_shard_iterator(STREAM_NAME, shard.shard_id, "TRIM_HORIZON")
            while iterator is not None:
                page = await self._store.get_records(iterator, limit=READ_BACK_PAGE_RECORDS)
                if not page.records:
                    break
                iterator = page.next_shard_iterator
                yield [record.data for record in page.records]

    def close(self) -> None:
        self._runner.run(self._opened.aclose())
        self._runner.close()


async def _next_page(pages: AsyncIterator[list[bytes]]) -> list[bytes]:
    end: list[bytes] = []
    return await anext(pages, end)
