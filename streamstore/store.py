"""StreamStore: the operations of the service on one file. One method per operation, the data path first.

Each method reads from top to bottom: validate, then hand a function to the writer (changes) or to the engine
(reads). The only room that reads the clock. Nothing in its signatures knows of LMDB.
"""

import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Final, Self

from streamstore.dialect import YANDEX, Dialect
from streamstore.engine import Engine, ReadTransaction, WriteTransaction
from streamstore.errors import InvalidArgumentException
from streamstore.ingest import Ingestion
from streamstore.iterator import (
    ShardPage,
    ShardPosition,
    encode_next_token,
    encode_shard_iterator,
    parse_next_token,
    parse_shard_iterator,
)
from streamstore.limits import (
    DESCRIBE_STREAM_LIMIT_DEFAULT,
    GET_RECORDS_LIMIT_MAX,
    LIST_LIMIT_MAX,
    LIST_SHARDS_LIMIT_DEFAULT,
    LIST_STREAMS_LIMIT_DEFAULT,
    MAP_BYTES_DEFAULT,
    MAP_BYTES_MAX,
    MAP_BYTES_MIN,
)
from streamstore.model import (
    GetRecordsResult,
    IngestResult,
    ListShardsResult,
    ListStreamsResult,
    PutRecordResult,
    PutRecordsEntry,
    PutRecordsResult,
    PutRecordsResultEntry,
    Record,
    SequenceNumberRange,
    Shard,
    ShardIteratorType,
    StoredStream,
    StreamDescription,
    SyncMode,
    datetime_of_ms,
)
from streamstore.shards import Page, PutOne, PutOutcome, ShardAppender, ShardReader
from streamstore.streams import (
    StreamCatalog,
    create_stream,
    delete_stream,
    initial_databases,
    iterate_stream_names,
    load_format,
    shard_index_of,
)
from streamstore.validate import (
    parse_entries,
    parse_exclusive_start,
    parse_iterator_start,
    parse_new_record,
    parse_path,
    parse_position,
    parse_shard_id,
    parse_shard_iterator_type,
    parse_stream_name,
    parse_stream_settings,
    parse_sync_mode,
    parse_whole_number,
    refuse_beside_next_token,
)
from streamstore.writer import Change, Request, Writer

__all__ = ["StreamStore"]

READ_PAGE_RECORDS: Final = 1_000


def system_clock_ms() -> int:
    """Return milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


class StreamStore:
    """A store of data streams in the folder ``path``. Safe to share between threads; use it as a context manager.

    Several processes may have the same store open and write to it; within a process it is opened once and shared.

    ``create``: create the store if it is missing (its parent folder must exist).
    ``read_only``: open beside writers; every operation that changes something is refused.
    ``sync``: what a returned put has survived. ``"full"``: the machine losing power. ``"normal"``: the process
    dying; a power loss may take the last commit, never more. ``"off"``: the process dying; a power loss may take
    any commit since the last sync, and damage the store.
    ``map_size``: bytes of address space to start with, 1 MiB to 64 TiB; it is not taken from the disk, and grows by
    itself.
    ``clock``: returns milliseconds since 1970; for tests.
    ``allow_network_filesystem``: open on NFS and its like, where locks and maps may fail silently.

    Raises ``InvalidArgumentException``; ``StoreNotFoundError`` with ``create=False``; ``StoreLockedError`` if it is
    open in this process already or another process lost its lock on it; ``StoreFormatError`` if it is no store, of
    another version, or truncated; ``StoreFullError`` if the disk is full; ``StorageError`` if the machine fails. In
    each case nothing is open afterwards, and there is a whole store or none.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        create: bool = True,
        read_only: bool = False,
        sync: SyncMode = "full",
        map_size: int = MAP_BYTES_DEFAULT,
        clock: Callable[[], int] = system_clock_ms,
        allow_network_filesystem: bool = False,
    ) -> None:
        self.path: Final = parse_path(path)
        self._clock = clock
        self._catalog = StreamCatalog()
        self._engine = Engine(
            self.path,
            initial=initial_databases(YANDEX) if create and not read_only else None,
            read_only=read_only,
            sync=parse_sync_mode(sync),
            map_bytes=parse_whole_number("map_size", map_size, first=MAP_BYTES_MIN, last=MAP_BYTES_MAX),
            allow_network_filesystem=allow_network_filesystem,
        )
        try:
            self._dialect, self._secret = self._engine.read(load_format)
            self._writer = None if read_only else Writer(self._engine, _appender_factory(self._catalog, self._dialect))
        except BaseException:
            self._engine.close()
            raise
        self._closer = self._writer or self._engine
        self._finalizer = weakref.finalize(self, self._closer.close)  # when the last reference goes, or at exit

    def put_record(
        self,
        stream_name: str,
        data: bytes | bytearray | memoryview,
        partition_key: str,
        *,
        explicit_hash_key: str | None = None,
        sequence_number_for_ordering: str | None = None,
    ) -> PutRecordResult:
        """Store one record, and return where once it is durable. Source: PutRecord of the service.

        ``data``: any bytes-like object of 0 to 1,048,576 bytes, stored as given. ``partition_key``: 1 to 256
        characters; its MD5 chooses the shard. ``explicit_hash_key``: decimal text in [0, 2**128 - 1] that chooses
        the shard instead. ``sequence_number_for_ordering``: a number that the shard has given out before.

        Records of one shard are numbered without gaps in the order in which the puts were called. Returns
        ``.shard_id``, ``.sequence_number`` (decimal text from "0") and ``.encryption_type`` "NONE".

        Raises, with nothing stored: ``InvalidArgumentException``, ``ResourceNotFoundException`` (no such stream),
        ``ProvisionedThroughputExceededException`` (only if the stream has a write quota), ``StoreFullError``,
        ``StoreClosedError``, ``StoreForkedError``, ``StorageError``. ``OutcomeUnknownError``: stored or not.
        """
        writer = self._writable()
        change, payload_bytes = self.change_of_put_record(
            stream_name, data, partition_key, explicit_hash_key, sequence_number_for_ordering
        )
        return writer.execute(change, payload_bytes=payload_bytes)

    def submit_record(
        self,
        stream_name: str,
        data: bytes | bytearray | memoryview,
        partition_key: str,
        *,
        explicit_hash_key: str | None = None,
        sequence_number_for_ordering: str | None = None,
    ) -> Future[PutRecordResult]:
        """Like ``put_record``, but return a future at once, which has the result when the record is durable.

        The order of submission is the order in the shard, and a ``put_record`` behind it on the same thread is behind
        it in the shard too. Waits while 10,000 records or 64 MiB are on their way. A submitted record cannot be taken
        back: ``cancel`` of the future returns False. Its callbacks run on the writer's thread: keep them short, and
        never wait for the store in them.

        Raises at once ``InvalidArgumentException``, ``StoreClosedError``, ``StoreForkedError``; all other errors of
        ``put_record`` come through the future.
        """
        writer = self._writable()
        change, payload_bytes = self.change_of_put_record(
            stream_name, data, partition_key, explicit_hash_key, sequence_number_for_ordering
        )
        return writer.submit_for_future(change, payload_bytes=payload_bytes)

    def put_records(
        self, stream_name: str, records: Sequence[PutRecordsEntry | tuple[bytes, str] | tuple[bytes, str, str | None]]
    ) -> PutRecordsResult:
        """Store 1 to 500 records in one commit, in their order. Source: PutRecords of the service.

        ``records``: ``PutRecordsEntry`` or plain tuples ``(data, partition_key)`` or ``(data, partition_key,
        explicit_hash_key)``, each as in ``put_record``, together at most 5 MiB of data and keys.

        Returns ``.records``, what became of each entry in the order of the request, and ``.failed_record_count``. An
        entry fails alone only for the write quota of its shard, and then those behind it in that shard fail too, so
        that putting the failed ones again keeps their order.

        Raises what ``put_record`` raises, but for the quota; then none of the records is stored. The argument of an
        ``InvalidArgumentException`` names the entry: ``records[3].partition_key``.
        """
        writer = self._writable()
        change, payload_bytes = self.change_of_put_records(stream_name, records)
        return result_of_put_records(writer.execute(change, payload_bytes=payload_bytes))

    def ingest(
        self,
        stream_name: str,
        records: Iterable[PutRecordsEntry | tuple[bytes, str] | tuple[bytes, str, str | None]],
        *,
        on_stored: Callable[[IngestResult], None] | None = None,
    ) -> IngestResult:
        """Store any number of records in their order, in batches, and return when all are durable.

        ``records``: an iterable of entries as in ``put_records``, taken no faster than they are stored, so that memory
        does not grow. ``on_stored`` is called after each batch with what is stored so far. Where the stream has a write
        quota, this waits for it.

        Raises what ``put_record`` raises, and whatever the iterable raises. Then all records in front of the one that
        failed are stored, those behind it are not, and a note on the error tells how many are; after
        ``OutcomeUnknownError`` the last batch may be stored too. An ``InvalidArgumentException`` names the entry:
        ``records[1234].data``.
        """
        writer = self._writable()
        name = parse_stream_name("stream_name", stream_name, self._dialect)
        self._engine.read(lambda transaction: self._catalog.load(transaction, name))
        return Ingestion(writer, name, self._clock, on_stored).run(records)

    def get_records(self, shard_iterator: str, *, limit: int = GET_RECORDS_LIMIT_MAX) -> GetRecordsResult:
        """Return the records at the iterator: up to ``limit`` (1 to 10,000), at most 10 MiB of data and keys.

        An empty page means that nothing newer is stored yet; call again with ``next_shard_iterator``, which is
        fresh for 300 s. An iterator may be used again; one that lies below the oldest record moves up to it.

        Raises ``InvalidArgumentException`` (a damaged token, or one of another store), ``ExpiredIteratorException``,
        ``ResourceNotFoundException`` (the stream was deleted), ``CorruptRecordError`` when the first record of the
        page is damaged (read on after its number), ``StorageError``. Reading never changes anything.
        """
        now_ms = self._clock()
        page_limit = parse_whole_number("limit", limit, first=1, last=GET_RECORDS_LIMIT_MAX)
        position = parse_shard_iterator(shard_iterator, now_ms=now_ms, secret=self._secret)
        shard_id = self._dialect.shard_id(position.shard_index)
        page = self._engine.read(
            lambda transaction: ShardReader(
                transaction, position.stream_number, position.shard_index, shard_id
            ).read_page(position.sequence, not_before_ms=position.not_before_ms, limit=page_limit)
        )
        next_position = ShardPosition(
            position.stream_number, position.shard_index, page.next_sequence, page.next_not_before_ms
        )
        return GetRecordsResult(
            records=page.records,
            next_shard_iterator=encode_shard_iterator(next_position, now_ms=now_ms, secret=self._secret),
            millis_behind_latest=page.millis_behind_latest,
        )

    def get_shard_iterator(
        self,
        stream_name: str,
        shard_id: str,
        shard_iterator_type: ShardIteratorType,
        *,
        starting_sequence_number: str | None = None,
        timestamp: object = None,
    ) -> str:
        """Return a token for a place in a shard, good for 300 s and for any number of ``get_records``.

        ``TRIM_HORIZON``: the oldest record. ``LATEST``: behind the newest. ``AT_SEQUENCE_NUMBER`` and
        ``AFTER_SEQUENCE_NUMBER``: need ``starting_sequence_number``, which may lie ahead of the newest.
        ``AT_TIMESTAMP``: the first record that arrived at or after ``timestamp``, an aware datetime or seconds
        since 1970, at most 10 s in the future.

        Raises ``InvalidArgumentException``, ``ResourceNotFoundException`` (stream or shard), ``StorageError``.
        """
        now_ms = self._clock()
        name = parse_stream_name("stream_name", stream_name, self._dialect)
        shard = parse_shard_id("shard_id", shard_id)
        kind = parse_shard_iterator_type(shard_iterator_type)
        start = parse_iterator_start(kind, starting_sequence_number, timestamp, now_ms=now_ms)

        def locate(transaction: ReadTransaction) -> ShardPosition:
            stream = self._catalog.load(transaction, name).stored
            shard_index = shard_index_of(stream, shard, self._dialect)
            if kind == "LATEST":
                sequence = ShardReader(transaction, stream.number, shard_index, shard).counter().next_sequence
                return ShardPosition(stream.number, shard_index, sequence)
            return ShardPosition(stream.number, shard_index, *start)

        return encode_shard_iterator(self._engine.read(locate), now_ms=now_ms, secret=self._secret)

    def read(self, stream_name: str, shard_id: str, *, starting_sequence_number: str | None = None) -> Iterator[Record]:
        """Iterate over a shard from its oldest record, or from ``starting_sequence_number``, up to the newest.

        Holds no snapshot between records: what is put meanwhile is read too, and a stream deleted meanwhile ends in
        ``ResourceNotFoundException``. Raises ``InvalidArgumentException`` and ``ResourceNotFoundException`` at
        once, ``CorruptRecordError`` and ``StorageError`` on the way.
        """
        start = 0
        if starting_sequence_number is not None:
            start = parse_position("starting_sequence_number", starting_sequence_number)
        name = parse_stream_name("stream_name", stream_name, self._dialect)
        shard = parse_shard_id("shard_id", shard_id)
        stream = self._engine.read(lambda transaction: self._catalog.load(transaction, name)).stored
        return self._read_pages(stream, shard_index_of(stream, shard, self._dialect), start)

    def create_stream(
        self,
        stream_name: str,
        *,
        shard_count: int = 1,
        retention_hours: int | None = None,
        write_quota_kb_per_sec: int | None = None,
    ) -> None:
        """Create a stream whose shards divide the hash keys evenly. It is active when the call returns.

        ``retention_hours``: 1 to 24, default 24. ``write_quota_kb_per_sec``: 128, 512 or 1024 a shard, which brings
        a quota of 1,000 records/s with it; None for no quota.

        Raises, with nothing changed: ``InvalidArgumentException``, ``ResourceInUseException`` (the name is taken),
        ``LimitExceededException`` (more than 4,000 shards in the store), and the storage errors of ``put_record``.
        """
        writer = self._writable()
        now_ms = self._clock()
        settings = parse_stream_settings(
            stream_name,
            shard_count=shard_count,
            retention_hours=retention_hours,
            write_quota_kb_per_sec=write_quota_kb_per_sec,
            dialect=self._dialect,
        )
        writer.execute_on_writer_thread(
            lambda appender: create_stream(appender.flush(), settings, now_ms=now_ms, dialect=self._dialect)
        )

    def delete_stream(self, stream_name: str) -> None:
        """Delete a stream with its records. A new stream of that name shares nothing with it, tokens included.

        Raises, with nothing changed: ``InvalidArgumentException``, ``ResourceNotFoundException``, and the storage
        errors of ``put_record``.
        """
        writer = self._writable()
        name = parse_stream_name("stream_name", stream_name, self._dialect)

        def delete(appender: ShardAppender) -> None:
            transaction = appender.flush()
            delete_stream(transaction, self._catalog.load(transaction, name).stored)

        writer.execute_on_writer_thread(delete)

    def describe_stream(
        self,
        stream_name: str,
        *,
        limit: int = DESCRIBE_STREAM_LIMIT_DEFAULT,
        exclusive_start_shard_id: str | None = None,
    ) -> StreamDescription:
        """Describe a stream with up to ``limit`` (1 to 10,000) of its shards, those behind the given id.

        Raises ``InvalidArgumentException``, ``ResourceNotFoundException`` (stream or shard), ``StorageError``.
        """
        name = parse_stream_name("stream_name", stream_name, self._dialect)
        shard_limit = parse_whole_number("limit", limit, first=1, last=LIST_LIMIT_MAX)
        after_shard_id = parse_exclusive_start(exclusive_start_shard_id)
        stream, shards = self._engine.read(
            lambda transaction: self._shards_after(transaction, name, after_shard_id, shard_limit + 1)
        )
        return StreamDescription(
            stream_name=name,
            stream_status="ACTIVE",
            stream_creation_timestamp=datetime_of_ms(stream.creation_ms),
            retention_period_hours=stream.retention_hours,
            write_quota_kb_per_sec=stream.write_quota_kb_per_sec,
            shards=tuple(shards[:shard_limit]),
            has_more_shards=len(shards) > shard_limit,
        )

    def list_shards(
        self,
        stream_name: str | None = None,
        *,
        next_token: str | None = None,
        exclusive_start_shard_id: str | None = None,
        max_results: int = LIST_SHARDS_LIMIT_DEFAULT,
    ) -> ListShardsResult:
        """List up to ``max_results`` (1 to 10,000) shards of a stream, in the order of their ids.

        Name the stream, or go on with the ``next_token`` of the page before (good for 300 s), not both.

        Raises ``InvalidArgumentException``, ``ExpiredNextTokenException``, ``ResourceNotFoundException`` (stream or
        shard), ``StorageError``.
        """
        now_ms = self._clock()
        page_limit = parse_whole_number("max_results", max_results, first=1, last=LIST_LIMIT_MAX)
        page: ShardPage | None = None
        after_shard_id = parse_exclusive_start(exclusive_start_shard_id)
        if next_token is None:
            name = parse_stream_name("stream_name", stream_name, self._dialect)
        else:
            refuse_beside_next_token("stream_name", stream_name)
            refuse_beside_next_token("exclusive_start_shard_id", exclusive_start_shard_id)
            page = parse_next_token(next_token, now_ms=now_ms, secret=self._secret)
            name = page.stream_name
            after_shard_id = self._dialect.shard_id(page.after_shard_index)

        def look(transaction: ReadTransaction) -> tuple[StoredStream, list[Shard]]:
            stream = self._catalog.load(transaction, name).stored
            if page is not None and page.stream_number != stream.number:
                raise InvalidArgumentException(
                    argument="next_token", value=next_token, constraint="belong to the stream that has this name today"
                )
            return self._shards_after(transaction, name, after_shard_id, page_limit + 1)

        stream, shards = self._engine.read(look)
        token = None
        if len(shards) > page_limit:
            shards = shards[:page_limit]
            last_index = shard_index_of(stream, shards[-1].shard_id, self._dialect)
            token = encode_next_token(ShardPage(name, stream.number, last_index), now_ms=now_ms, secret=self._secret)
        return ListShardsResult(shards=tuple(shards), next_token=token)

    def list_streams(
        self,
        *,
        limit: int = LIST_STREAMS_LIMIT_DEFAULT,
        exclusive_start_stream_name: str | None = None,
    ) -> ListStreamsResult:
        """List up to ``limit`` (1 to 10,000) stream names in bytewise order, those behind the given name.

        Raises ``InvalidArgumentException``, ``StorageError``.
        """
        name_limit = parse_whole_number("limit", limit, first=1, last=LIST_LIMIT_MAX)
        after = ""
        if exclusive_start_stream_name is not None:
            after = parse_stream_name("exclusive_start_stream_name", exclusive_start_stream_name, self._dialect)
        names = self._engine.read(
            lambda transaction: list(islice(iterate_stream_names(transaction, after), name_limit + 1))
        )
        return ListStreamsResult(stream_names=tuple(names[:name_limit]), has_more_streams=len(names) > name_limit)

    def close(self) -> None:
        """Commit and answer every put that was accepted, then close. Further calls do nothing.

        Also happens when the program ends. In a forked child it leaves the parent's store alone. In a signal handler
        it ends a read under way on the same thread, and returns before a put under way on it. Raises
        ``StorageError`` if the last sync of a store with ``sync`` below "full" failed; it is closed all the same.
        """
        self._closer.close()
        self._finalizer.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"StreamStore({os.fspath(self.path)!r})"

    def change_of_put_record(
        self,
        stream_name: object,
        data: object,
        partition_key: object,
        explicit_hash_key: object,
        sequence_number_for_ordering: object,
    ) -> tuple[Change[PutRecordResult], int]:
        """Validate a put, and return what the writer has to do, with the bytes of its payload."""
        name = parse_stream_name("stream_name", stream_name, self._dialect)
        record = parse_new_record(data, partition_key, explicit_hash_key, sequence_number_for_ordering, self._clock())
        return PutOne(name, record), len(record.data)

    def change_of_put_records(self, stream_name: object, records: object) -> tuple[Change[list[PutOutcome]], int]:
        """Validate many puts, and return what the writer has to do, with the bytes of their payload."""
        name = parse_stream_name("stream_name", stream_name, self._dialect)
        new_records, payload_bytes = parse_entries(records, sent_ms=self._clock())
        return lambda appender: appender.put_all(name, new_records), payload_bytes

    def submit(self, request: Request[object]) -> None:
        """Let the writer commit a request that says itself where its answer goes."""
        self._writable().submit(request)

    def _writable(self) -> Writer:
        if self._writer is None:
            raise InvalidArgumentException(
                argument="read_only", value=True, constraint="be False to change the store: open it for writing"
            )
        return self._writer

    def _read_pages(self, stream: StoredStream, shard_index: int, start: int) -> Iterator[Record]:
        shard_id = self._dialect.shard_id(shard_index)

        def read_page(transaction: ReadTransaction) -> Page:
            reader = ShardReader(transaction, stream.number, shard_index, shard_id)
            return reader.read_page(start, not_before_ms=0, limit=READ_PAGE_RECORDS)

        while (page := self._engine.read(read_page)).records:
            yield from page.records
            start = page.next_sequence

    def _shards_after(
        self,
        transaction: ReadTransaction,
        stream_name: str,
        after_shard_id: str | None,
        count: int,
    ) -> tuple[StoredStream, list[Shard]]:
        stream = self._catalog.load(transaction, stream_name).stored
        first = 0 if after_shard_id is None else shard_index_of(stream, after_shard_id, self._dialect) + 1
        last = min(first + count, len(stream.shards))
        return stream, [self._shard(transaction, stream, index) for index in range(first, last)]

    def _shard(self, transaction: ReadTransaction, stream: StoredStream, shard_index: int) -> Shard:
        shard_id = self._dialect.shard_id(shard_index)
        counter = ShardReader(transaction, stream.number, shard_index, shard_id).counter()
        return Shard(
            shard_id=shard_id,
            hash_key_range=stream.shards[shard_index].hash_key_range,
            sequence_number_range=SequenceNumberRange(str(counter.first_sequence)),
        )


def result_of_put_records(outcomes: list[PutOutcome]) -> PutRecordsResult:
    entries = [outcome for outcome in outcomes if isinstance(outcome, PutRecordsResultEntry)]
    failed_record_count = len(outcomes) - len(entries)
    if failed_record_count:
        entries = [
            outcome
            if isinstance(outcome, PutRecordsResultEntry)
            else PutRecordsResultEntry(None, None, type(outcome).__name__, outcome.message)
            for outcome in outcomes
        ]
    return PutRecordsResult(failed_record_count, entries)


def _appender_factory(catalog: StreamCatalog, dialect: Dialect) -> Callable[[WriteTransaction], ShardAppender]:
    # Not a method: the writer thread must not keep the store alive.
    return lambda transaction: ShardAppender(transaction, catalog, dialect)
