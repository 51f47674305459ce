"""StreamStore: the operations of the service on one file. One method per operation; the data path is here.

Each method reads from top to bottom: validate, then hand a function to the writer (changes) or to the engine
(reads). Nothing in its signatures knows of LMDB.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Final

from streamstore.checkpoints import lag_of_consumer, lags_of_consumers, open_consumer, positions_at
from streamstore.consumer import ConsumerPlace, StreamConsumer
from streamstore.consumer_control import ConsumerControl
from streamstore.errors import ProvisionedThroughputExceededException, ResourceNotFoundException
from streamstore.feed import Feed, Patience
from streamstore.following import Following, Round, latest_positions
from streamstore.ingest import Ingestion
from streamstore.iterator import (
    ShardPosition,
    encode_shard_iterator,
    parse_shard_iterator,
    parse_shard_of_iterator,
    parse_stream_of_token,
)
from streamstore.limits import GET_RECORDS_LIMIT_MAX
from streamstore.model import (
    ChildShard,
    ConsumerLag,
    EntryLike,
    GetRecordsResult,
    IngestResult,
    NewRecord,
    PutRecordResult,
    PutRecordsResult,
    Record,
    ShardIteratorType,
    StoredShard,
    StoredStream,
    StreamNumber,
    StreamRecord,
    SubscribeToShardEvent,
    TailStart,
    bytes_of_record,
)
from streamstore.reading import Page, ShardReader
from streamstore.request import Change
from streamstore.shards import PutOne, PutOutcome, result_of_put_records
from streamstore.streams import shard_index_of
from streamstore.subscribe import ShardLook, SubscriptionSource
from streamstore.tail import TailSource
from streamstore.transaction import ReadTransaction
from streamstore.validate import parse_entries, parse_new_record, parse_shard_id, parse_stream_name, parse_whole_number
from streamstore.validate_consumers import parse_consumer_arn, parse_consumer_name
from streamstore.validate_reading import (
    parse_idle_timeout_ms,
    parse_iterator_start,
    parse_position,
    parse_shard_iterator_type,
    parse_tail_start,
)

__all__ = ["StreamStore"]

READ_PAGE_RECORDS: Final = 1_000


class StreamStore(ConsumerControl):
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
    ``dialect``: "yandex" or "aws", whose names, shard ids, ranges and bounds a new store gets and keeps; None: what the
    store has, "yandex" for a new one.
    ``account_id``: 12 digits, and ``region``: what ARNs show where the dialect has any; None: zeros, and "us-east-1" or
    "ru-central1". The store does not keep them.
    ``shard_limit``: 1 to 4,000, how many open shards there may be after a change through this object that opens some;
    None: 4,000. The store does not keep it.

    Raises ``InvalidArgumentException`` (also for another dialect than the store has); ``StoreNotFoundError`` with
    ``create=False``; ``StoreLockedError`` if it is open in this process already or another process lost its lock on it;
    ``StoreFormatError`` if it is no store, of another version, or truncated; ``StoreFullError`` if the disk is full;
    ``StorageError`` if the machine fails. In each case nothing is open afterwards, and there is a whole store or none.
    """

    def put_record(
        self,
        stream_name: str,
        data: bytes | bytearray | memoryview,
        partition_key: str,
        *,
        explicit_hash_key: str | None = None,
        sequence_number_for_ordering: str | None = None,
        idempotency_key: str | None = None,
    ) -> PutRecordResult:
        """Store one record, and return where once it is durable. Source: PutRecord of the service.

        ``data``: any bytes-like object of 0 to 1,048,576 bytes, stored as given. ``partition_key``: 1 to 256
        characters; its MD5 chooses the shard. ``explicit_hash_key``: decimal text in [0, 2**128 - 1] that chooses
        the shard instead. ``sequence_number_for_ordering``: a number that the shard has given out before.
        ``idempotency_key``: 1 to 128 characters that name this put, so that it can be made again.

        A put whose idempotency key the stream remembers stores nothing, is charged nothing, and returns what the first
        one returned, also when its data or partition key differs, the shard was split since or its quota is used up.
        The key is written with its record, all or nothing, so whatever became of a put, an unknown outcome or a killed
        process too, making it again stores it once. A key is remembered while the clock shows less than the stream's
        window (``create_stream``) away from the time of its first put, before or behind it: so where the clock is set
        back by less it counts that much longer, and where it jumps by a window or more it is forgotten.

        Records of one shard are numbered without gaps in the order in which the puts were called. Returns
        ``.shard_id``, ``.sequence_number`` (decimal text from "0") and ``.encryption_type`` "NONE".

        Raises, with nothing stored: ``InvalidArgumentException``, ``ResourceNotFoundException`` (no such stream),
        ``ProvisionedThroughputExceededException`` (only if the stream has a write quota), ``StoreFullError``,
        ``StoreClosedError``, ``StoreForkedError``, ``StorageError``. ``OutcomeUnknownError``: stored or not.
        """
        writer = self.writer()
        change, payload_bytes = self.change_of_put_record(
            stream_name, data, partition_key, explicit_hash_key, sequence_number_for_ordering, idempotency_key
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
        idempotency_key: str | None = None,
    ) -> Future[PutRecordResult]:
        """Like ``put_record``, but return a future at once, which has the result when the record is durable.

        The order of submission is the order in the shard, and a ``put_record`` behind it on the same thread is behind
        it in the shard too. Waits while 10,000 records or 64 MiB are on their way. A submitted record cannot be taken
        back: ``cancel`` of the future returns False. Its callbacks run on the writer's thread: keep them short, and
        never wait for the store in them.

        Raises at once ``InvalidArgumentException``, ``StoreClosedError``, ``StoreForkedError``; all other errors of
        ``put_record`` come through the future.
        """
        writer = self.writer()
        change, payload_bytes = self.change_of_put_record(
            stream_name, data, partition_key, explicit_hash_key, sequence_number_for_ordering, idempotency_key
        )
        return writer.submit_for_future(change, payload_bytes=payload_bytes)

    def put_records(self, stream_name: str, records: Sequence[EntryLike]) -> PutRecordsResult:
        """Store 1 to 500 records in one commit, in their order. Source: PutRecords of the service.

        ``records``: ``PutRecordsEntry`` or plain tuples ``(data, partition_key)``, ``(data, partition_key,
        explicit_hash_key)`` or ``(data, partition_key, explicit_hash_key, idempotency_key)``, each as in
        ``put_record``, together at most 5 MiB of data and partition keys.

        Returns ``.records``, what became of each entry in the order of the request, and ``.failed_record_count``. An
        entry fails alone only for the write quota of its shard, and then those behind it in that shard fail too, so
        that putting the failed ones again keeps their order. Two entries with one idempotency key are one record.

        Raises what ``put_record`` raises, but for the quota; then none of the records is stored. The argument of an
        ``InvalidArgumentException`` names the entry: ``records[3].partition_key``.
        """
        writer = self.writer()
        change, payload_bytes = self.change_of_put_records(stream_name, records)
        return result_of_put_records(writer.execute(change, payload_bytes=payload_bytes))

    def ingest(
        self,
        stream_name: str,
        records: Iterable[EntryLike],
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
        writer = self.writer()
        name = parse_stream_name("stream_name", stream_name, self._dialect)
        self._load(name)
        return Ingestion(writer, name, self._clock, on_stored).run(records)

    def get_records(self, shard_iterator: str, *, limit: int = GET_RECORDS_LIMIT_MAX) -> GetRecordsResult:
        """Return the records at the iterator: up to ``limit`` (1 to 10,000), at most 10 MiB of data and keys.

        An empty page means that nothing newer is stored yet; call again with ``next_shard_iterator``, which is
        fresh for 300 s. An iterator may be used again; one that lies below the oldest record moves up to it.

        Raises ``InvalidArgumentException`` (a damaged token, or one of another store), ``ExpiredIteratorException``,
        ``ResourceNotFoundException`` (the stream was deleted), ``ProvisionedThroughputExceededException`` (only if the
        stream has a read quota: a sixth call within a second, or one before what the last returned is paid off at 2
        MB/s), ``CorruptRecordError`` when the first record of the page is damaged (read on behind its last number),
        ``StorageError``. Reading never changes anything.
        """
        now_ms = self._clock()
        page_limit = parse_whole_number("limit", limit, first=1, last=GET_RECORDS_LIMIT_MAX)
        position = parse_shard_iterator(shard_iterator, now_ms=now_ms, secret=self._secret)

        def look(transaction: ReadTransaction) -> tuple[StoredStream, Page]:
            stream = self._catalog.load(transaction, position.stream_name).stored
            self._refuse_gone(stream, position, now_ms)
            if stream.has_read_quota:
                self._refuse_throttled(position, self._read_quotas.wait_ms(_address(position), now_ms=now_ms))
            return stream, self._read_page(transaction, stream, position, now_ms, page_limit)

        stream, page = self._engine.read(look)
        if stream.has_read_quota:
            returned_bytes = sum(map(bytes_of_record, page.records))
            wait_ms = self._read_quotas.take(_address(position), returned_bytes=returned_bytes, now_ms=now_ms)
            self._refuse_throttled(position, wait_ms)  # another call was let through meanwhile
        next_position = position._replace(sequence=page.next_sequence, not_before_ms=page.next_not_before_ms)
        if _ends_shard(page, stream.shards[position.shard_index]):
            return GetRecordsResult(
                records=page.records,
                next_shard_iterator=None,
                millis_behind_latest=0,
                child_shards=self._children(stream, position.shard_index),
            )
        return GetRecordsResult(
            records=page.records,
            next_shard_iterator=encode_shard_iterator(next_position, now_ms=now_ms, secret=self._secret),
            millis_behind_latest=page.millis_behind_latest,
        )

    def stream_of_token(self, token: str) -> str | None:
        """Return the stream that a shard iterator or paging token of this store belongs to, however old it is.

        None if it belongs to no stream or is no token of this store.
        """
        return parse_stream_of_token(token, secret=self._secret)

    def shard_of_iterator(self, shard_iterator: str) -> tuple[str, str] | None:
        """Return the names of the stream and the shard that an iterator of this store is in, however old it is.

        None if it is no iterator of this store.
        """
        place = parse_shard_of_iterator(shard_iterator, secret=self._secret)
        return None if place is None else (place[0], self._dialect.shard_id(place[1]))

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
        kind = parse_shard_iterator_type("shard_iterator_type", shard_iterator_type)
        start = parse_iterator_start(kind, starting_sequence_number, timestamp, now_ms=now_ms)
        position = self._engine.read(
            lambda transaction: self._locate(transaction, name, shard, kind, start, now_ms=now_ms)
        )
        return encode_shard_iterator(position, now_ms=now_ms, secret=self._secret)

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
        stream = self._load(name).stored
        shard_index = shard_index_of(stream, shard, self._dialect, now_ms=self._clock())
        return self._read_pages(ShardPosition(name, stream.number, shard_index, start))

    def tail(
        self,
        stream_name: str,
        *,
        starting_position: TailStart = "LATEST",
        timestamp: object = None,
        idle_timeout_seconds: float | None = None,
    ) -> Feed[StreamRecord]:
        """Iterate over the records of all shards as they are stored, by this process or any other, and wait for more.

        In order within each shard, and the records of a shard before those of the shards that it was split or merged
        into; the shards take turns. Each record is handed out once. It follows the stream through every resharding.
        Records that expire before their turn are passed over.

        ``starting_position``: ``LATEST``, behind what is stored when this is called; ``TRIM_HORIZON``, the oldest
        records; ``AT_TIMESTAMP``, the first that arrived at or after ``timestamp``, as in ``get_shard_iterator``.
        ``idle_timeout_seconds``: end the iteration when no record came for so long; 0: when all that is stored is
        handed out; None: never. A thread that waits costs nothing, and wakes within milliseconds of a commit.

        Raises at once ``InvalidArgumentException``, ``ResourceNotFoundException``, ``StorageError``; on the way
        ``ResourceNotFoundException`` when the stream was deleted, ``CorruptRecordError`` once for each damaged record,
        behind which the iteration may go on, and ``StorageError``, also when the store is closed.
        """
        return Feed(self.source_of_tail(stream_name, starting_position, timestamp, idle_timeout_seconds))

    def subscribe_to_shard(
        self,
        consumer_arn: str,
        shard_id: str,
        starting_position: ShardIteratorType,
        *,
        starting_sequence_number: str | None = None,
        timestamp: object = None,
    ) -> Feed[SubscribeToShardEvent]:
        """Iterate over what is stored in a shard, as it is stored, and wait for more. Source: SubscribeToShard.

        ``consumer_arn``: that of a consumer registered with the stream. The place is as in ``get_shard_iterator``.
        Events come with each commit; one without records comes when there was none for 5 s. The iteration ends after
        300 s, by the clock of the store, or with the event that tells the children of a closed shard; or when the same
        consumer subscribes to the shard again in this process, 5 s behind this or later.

        Raises at once ``InvalidArgumentException``, ``ResourceNotFoundException`` (stream, consumer or shard),
        ``ResourceInUseException`` (subscribed to less than 5 s ago), ``StorageError``; on the way
        ``ResourceNotFoundException`` when one of those was deleted or has expired, ``CorruptRecordError`` when the next
        record is damaged (subscribe again behind its number), and ``StorageError``, also when the store is closed.
        """
        return Feed(
            self.source_of_subscription(consumer_arn, shard_id, starting_position, starting_sequence_number, timestamp)
        )

    def source_of_subscription(
        self,
        consumer_arn: object,
        shard_id: object,
        starting_position: object,
        starting_sequence_number: object,
        timestamp: object,
    ) -> SubscriptionSource:
        """Validate a subscription, find where it starts, and end the one in whose place it comes."""
        now_ms = self._clock()
        arn, name, consumer = parse_consumer_arn(consumer_arn, self._dialect)
        shard = parse_shard_id("shard_id", shard_id)
        kind = parse_shard_iterator_type("starting_position", starting_position)
        start = parse_iterator_start(kind, starting_sequence_number, timestamp, now_ms=now_ms)

        def locate(transaction: ReadTransaction) -> ShardPosition:
            stream = self._catalog.load(transaction, name).stored
            self._load_consumer(transaction, stream, consumer, arn)
            return self._locate(transaction, name, shard, kind, start, now_ms=now_ms)

        def look(position: ShardPosition) -> ShardLook:
            return self._engine.read(lambda transaction: self._look_at_shard(transaction, position, consumer, arn))

        source = SubscriptionSource(self._watch, self._engine.read(locate), look, self._clock)
        self._subscriptions.claim(arn, shard, source, now_ms=now_ms)
        return source

    def consumer(
        self,
        stream_name: str,
        consumer_name: str,
        *,
        starting_position: TailStart = "TRIM_HORIZON",
        timestamp: object = None,
        idle_timeout_seconds: float | None = None,
    ) -> StreamConsumer:
        """Open a durable consumer: a ``tail`` that goes on behind its last ``checkpoint``, whoever made it.

        ``consumer_name``: 1 to 128 letters, digits, "_", "." and "-". A consumer that does not exist is registered, and
        starts at ``starting_position``, as in ``tail``; what a later opening says of it is ignored. Any number of
        consumers read a stream, each at its own pace. A consumer belongs to whoever opened it last: from then on the
        checkpoints of the others are refused. ``deregister_stream_consumer`` deletes it.

        Raises, with nothing changed: ``InvalidArgumentException``, ``ResourceNotFoundException``, and the storage
        errors of ``put_record``. On the way it raises what ``tail`` raises.
        """
        place, source = self.open_consumer(
            stream_name, consumer_name, starting_position, timestamp, idle_timeout_seconds
        )
        writer = self.writer()
        return StreamConsumer(
            source, place, lambda checkpoint: writer.execute(checkpoint, payload_bytes=checkpoint.payload_bytes)
        )

    def describe_consumer_lag(self, stream_name: str, consumer_name: str) -> ConsumerLag:
        """Return how much a consumer has still to read behind its last checkpoint, of what has not expired.

        Raises ``InvalidArgumentException``, ``ResourceNotFoundException`` (stream or consumer), ``StorageError``.
        """
        now_ms = self._clock()
        stream = parse_stream_name("stream_name", stream_name, self._dialect)
        name = parse_consumer_name(consumer_name)
        return self._engine.read(
            lambda transaction: lag_of_consumer(
                transaction,
                self._catalog.load(transaction, stream).stored,
                name,
                dialect=self._dialect,
                now_ms=now_ms,
            )
        )

    def describe_consumer_lags(self, stream_name: str) -> Mapping[str, ConsumerLag]:
        """Return the lag of every consumer that ``consumer`` has ever opened, by name, in one snapshot.

        Raises ``InvalidArgumentException``, ``ResourceNotFoundException`` (no such stream), ``StorageError``.
        """
        now_ms = self._clock()
        name = parse_stream_name("stream_name", stream_name, self._dialect)
        return self._engine.read(
            lambda transaction: lags_of_consumers(
                transaction, self._catalog.load(transaction, name).stored, dialect=self._dialect, now_ms=now_ms
            )
        )

    def open_consumer(
        self,
        stream_name: object,
        consumer_name: object,
        starting_position: object,
        timestamp: object,
        idle_timeout_seconds: object,
    ) -> tuple[ConsumerPlace, TailSource]:
        """Validate and open a consumer, and return what iterates for it and what stores its place."""
        now_ms = self._clock()
        stream_name = parse_stream_name("stream_name", stream_name, self._dialect)
        name = parse_consumer_name(consumer_name)
        start, not_before_ms = parse_tail_start(starting_position, timestamp, now_ms=now_ms)
        patience = Patience(parse_idle_timeout_ms(idle_timeout_seconds), self._clock)

        def first_positions(transaction: ReadTransaction, stream: StoredStream) -> Mapping[int, int]:
            if start == "LATEST":
                return latest_positions(transaction, stream)
            return positions_at(transaction, stream, not_before_ms) if start == "AT_TIMESTAMP" else {}

        opened = self._change_stream(
            stream_name,
            lambda transaction, stream: open_consumer(transaction, stream, name, first_positions, now_ms=now_ms),
        )
        following = self._following(opened.stream, opened.positions)
        place = ConsumerPlace(opened, following, self._parse_put_records)
        return place, TailSource(self._watch, following, self._look, patience)

    def source_of_tail(
        self, stream_name: object, starting_position: object, timestamp: object, idle_timeout_seconds: object
    ) -> TailSource:
        """Validate a tail, and find where it starts."""
        now_ms = self._clock()
        name = parse_stream_name("stream_name", stream_name, self._dialect)
        start, not_before_ms = parse_tail_start(starting_position, timestamp, now_ms=now_ms)
        patience = Patience(parse_idle_timeout_ms(idle_timeout_seconds), self._clock)

        def locate(transaction: ReadTransaction) -> Following:
            stream = self._catalog.load(transaction, name).stored
            positions = latest_positions(transaction, stream) if start == "LATEST" else {}
            return self._following(stream, positions, not_before_ms=not_before_ms)

        return TailSource(self._watch, self._engine.read(locate), self._look, patience)

    def _following(self, stream: StoredStream, positions: Mapping[int, int], *, not_before_ms: int = 0) -> Following:
        return Following(
            stream.name, stream.number, self._catalog, self._dialect, positions=positions, not_before_ms=not_before_ms
        )

    def _look(self, following: Following) -> Round:
        return self._engine.read(lambda transaction: following.look(transaction, now_ms=self._clock()))

    def change_of_put_record(
        self,
        stream_name: object,
        data: object,
        partition_key: object,
        explicit_hash_key: object,
        sequence_number_for_ordering: object,
        idempotency_key: object,
    ) -> tuple[Change[PutRecordResult], int]:
        """Validate a put, and return what the writer has to do, with the bytes of its payload."""
        name = parse_stream_name("stream_name", stream_name, self._dialect)
        record = parse_new_record(
            data, partition_key, explicit_hash_key, sequence_number_for_ordering, self._clock(), idempotency_key
        )
        return PutOne(name, record), len(record.data)

    def change_of_put_records(self, stream_name: object, records: object) -> tuple[Change[list[PutOutcome]], int]:
        """Validate many puts, and return what the writer has to do, with the bytes of their payload."""
        name, new_records, payload_bytes = self._parse_put_records(stream_name, records)
        return lambda appender: appender.put_all(name, new_records), payload_bytes

    def _locate(
        self,
        transaction: ReadTransaction,
        stream_name: str,
        shard_id: str,
        kind: ShardIteratorType,
        start: tuple[int, int],
        *,
        now_ms: int,
    ) -> ShardPosition:
        """Return the place in a shard that an iterator of this type begins at."""
        stream = self._catalog.load(transaction, stream_name).stored
        shard_index = shard_index_of(stream, shard_id, self._dialect, now_ms=now_ms)
        if kind == "LATEST":
            sequence = ShardReader(transaction, stream.number, shard_index, shard_id).counter().next_sequence
            return ShardPosition(stream_name, stream.number, shard_index, sequence)
        return ShardPosition(stream_name, stream.number, shard_index, *start)

    def _look_at_shard(
        self, transaction: ReadTransaction, position: ShardPosition, consumer_name: str, consumer_arn: str
    ) -> ShardLook:
        now_ms = self._clock()
        stream = self._catalog.load(transaction, position.stream_name).stored
        self._refuse_gone(stream, position, now_ms)
        self._load_consumer(transaction, stream, consumer_name, consumer_arn)
        page = self._read_page(transaction, stream, position, now_ms, READ_PAGE_RECORDS)
        ends = _ends_shard(page, stream.shards[position.shard_index])
        return ShardLook(
            transaction.commit_number(),
            page,
            position._replace(sequence=page.next_sequence, not_before_ms=page.next_not_before_ms),
            self._children(stream, position.shard_index) if ends else None,
        )

    def _parse_put_records(self, stream_name: object, records: object) -> tuple[str, list[NewRecord], int]:
        name = parse_stream_name("stream_name", stream_name, self._dialect)
        return (name, *parse_entries(records, sent_ms=self._clock()))

    def _read_pages(self, position: ShardPosition) -> Iterator[Record]:
        def read_page(transaction: ReadTransaction) -> Page:
            now_ms = self._clock()
            stream = self._catalog.load(transaction, position.stream_name).stored
            self._refuse_gone(stream, position, now_ms)
            return self._read_page(transaction, stream, position, now_ms, READ_PAGE_RECORDS)

        while (page := self._engine.read(read_page)).records:
            yield from page.records
            position = position._replace(sequence=page.next_sequence)

    def _read_page(
        self, transaction: ReadTransaction, stream: StoredStream, position: ShardPosition, now_ms: int, limit: int
    ) -> Page:
        shard_id = self._dialect.shard_id(position.shard_index)
        return ShardReader(transaction, stream.number, position.shard_index, shard_id).read_page(
            position.sequence,
            not_before_ms=position.not_before_ms,
            horizon_ms=now_ms - stream.retention_ms,
            limit=limit,
        )

    def _refuse_gone(self, stream: StoredStream, position: ShardPosition, now_ms: int) -> None:
        """Refuse a position in a stream that was deleted since, or in a shard that has expired."""
        shard = stream.shards.get(position.shard_index)
        if stream.number != position.stream_number or shard is None or stream.has_expired(shard, now_ms):
            raise ResourceNotFoundException(
                resource=f"{self._dialect.shard_id(position.shard_index)} of the {stream.name} that was asked for",
                remedy="it was deleted with the stream, or has expired: see list_shards for those that do",
            )

    def _refuse_throttled(self, position: ShardPosition, wait_ms: int) -> None:
        if wait_ms > 0:
            raise ProvisionedThroughputExceededException(
                stream_name=position.stream_name,
                shard_id=self._dialect.shard_id(position.shard_index),
                retry_after_ms=wait_ms,
                remedy="read less often, or share what one reader has read",
            )

    def _children(self, stream: StoredStream, shard_index: int) -> tuple[ChildShard, ...]:
        return tuple(
            ChildShard(
                shard_id=self._dialect.shard_id(index),
                parent_shards=tuple(map(self._dialect.shard_id, shard.parent_indexes)),
                hash_key_range=shard.hash_key_range,
            )
            for index, shard in stream.shards.items()
            if shard_index in shard.parent_indexes
        )


def _address(position: ShardPosition) -> tuple[StreamNumber, int]:
    return position.stream_number, position.shard_index


def _ends_shard(page: Page, shard: StoredShard) -> bool:
    return shard.next_sequence_at_close is not None and page.next_sequence >= shard.next_sequence_at_close
