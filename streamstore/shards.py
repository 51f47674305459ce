"""The records of shards on their way in, inside a transaction: route, recognise, throttle, number, append, trim.

``ShardAppender`` is the only write path of records. The per-shard counter is loaded and saved in the transaction of
the records that it numbers, never kept longer: other processes write too.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Final

from streamstore.databases import COUNTERS_DATABASE
from streamstore.dialect import Dialect
from streamstore.disk_format import encode_counter, sequence_of_record_key
from streamstore.errors import (
    InvalidArgumentException,
    ProvisionedThroughputExceededException,
    StorageError,
    StoreFormatError,
)
from streamstore.idempotency import StreamKeys
from streamstore.limits import (
    SEQUENCE_NUMBER_MAX,
    WRITE_QUOTA_BURST_NS,
    WRITE_QUOTA_DEBT_NS_MAX,
    WRITE_QUOTA_RECORDS_PER_SEC,
)
from streamstore.losses import loss_at
from streamstore.model import (
    FirstPut,
    NewRecord,
    PutRecordResult,
    PutRecordsResult,
    PutRecordsResultEntry,
    ShardCounter,
    StoredStream,
    bytes_of_record,
    new_named_tuple,
)
from streamstore.retention import trim_shard
from streamstore.streams import KnownShard, KnownStream, StreamCatalog, load_counter
from streamstore.transaction import WriteTransaction

__all__ = ["PutOne", "PutOutcome", "ShardAppender", "result_of_put_records"]

NS_PER_SECOND: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000
BYTES_PER_KB: Final = 1024

# How many expired records a commit deletes of a shard: more than it adds, and few enough that nobody waits for it.
TRIM_RECORDS_MIN: Final = 32
TRIM_RECORDS_PER_RECORD: Final = 2
TRIM_DAMAGED_MAX: Final = 1_000  # how many damaged ones it passes over to find when they arrived: a millisecond or two


PutOutcome = PutRecordsResultEntry | ProvisionedThroughputExceededException
"""What became of one of many records: stored, or refused for the quota of its shard."""


class _OpenShard:
    """A shard that this transaction changes: its counter so far, and the records to flush."""

    __slots__ = (
        "_first_sequence",
        "_keys_of",
        "_stored",
        "_waiting",
        "known",
        "last_arrival_ms",
        "last_sent_ms",
        "next_sequence",
        "quotas_full_at_ns",
        "stream",
    )

    def __init__(
        self,
        known: KnownShard,
        stream: KnownStream,
        counter: ShardCounter,
        keys_of: Callable[[KnownStream], StreamKeys],
    ) -> None:
        self.known = known
        self.stream = stream
        self.next_sequence = counter.next_sequence
        self.last_arrival_ms = counter.last_arrival_ms
        self.last_sent_ms = 0
        self._stored = stream.stored
        self._keys_of = keys_of
        self._waiting: list[tuple[int, str, bytes]] = []
        self._first_sequence = counter.first_sequence
        self.quotas_full_at_ns = (counter.quota_bytes_full_at_ns, counter.quota_records_full_at_ns)

    def charged(self, quotas_full_at_ns: tuple[int, int], record: NewRecord) -> tuple[int, int]:
        """Return what the quotas are when the record is taken from them, or refuse it."""
        if self._stored.write_quota_kb_per_sec is None:
            return quotas_full_at_ns
        return _charge(
            quotas_full_at_ns, record, self._stored.write_quota_kb_per_sec, self._stored.name, self.known.shard_id
        )

    def append(self, record: NewRecord) -> int:
        """Number the record. A refusal leaves the shard as it was."""
        partition_key, data, _, sequence_number_for_ordering, sent_ms, idempotency_key = record
        sequence = self.next_sequence
        if sequence_number_for_ordering is not None:
            _check_ordering(sequence_number_for_ordering, sequence, self.known.shard_id)
        if sequence > SEQUENCE_NUMBER_MAX:
            raise StoreFormatError(f"{self.known.shard_id} has used all {SEQUENCE_NUMBER_MAX:,} sequence numbers.")
        # Times within a shard never go back, whatever the clock does, so that a time is found by bisection.
        arrival_ms = max(sent_ms, self.last_arrival_ms)
        if self._stored.write_quota_kb_per_sec is not None:
            self.quotas_full_at_ns = self.charged(self.quotas_full_at_ns, record)
        self._waiting.append((arrival_ms, partition_key, data))
        self.next_sequence = sequence + 1
        self.last_arrival_ms = arrival_ms
        self.last_sent_ms = sent_ms
        if idempotency_key is not None:
            put = FirstPut(self.known.shard_index, sequence, sent_ms)
            self._keys_of(self.stream).add(idempotency_key, put)
        return sequence

    def records_waiting(self) -> int:
        return len(self._waiting)

    def trim(self, transaction: WriteTransaction, *, horizon_ms: int, records_max: int) -> bool:
        """Delete expired records, at most so many; tell whether there were any. Before anything is appended."""
        stored = self.counter()._replace(next_sequence=self.next_sequence - len(self._waiting))
        trimmed = trim_shard(
            transaction,
            self.known,
            stored,
            horizon_ms=horizon_ms,
            records_max=records_max,
            damaged_max=TRIM_DAMAGED_MAX,
        )
        self._first_sequence = trimmed.first_sequence
        return trimmed != stored

    def take_items(self) -> list[tuple[bytes, bytes]]:
        """Return the records that were appended since the last call, encoded in one go."""
        waiting, self._waiting = self._waiting, []
        return self.known.format.encode_run(waiting, self.next_sequence - len(waiting))

    def counter(self) -> ShardCounter:
        return ShardCounter(self._first_sequence, self.next_sequence, self.last_arrival_ms, *self.quotas_full_at_ns)


class _OpenStream:
    """A stream that this transaction puts records into."""

    __slots__ = ("_keys_of", "_open_shard", "_shard_index_of", "_stream", "_targets", "stored")

    def __init__(
        self,
        stream: KnownStream,
        open_shard: Callable[[KnownStream, int], _OpenShard],
        keys_of: Callable[[KnownStream], StreamKeys],
    ) -> None:
        self.stored = stream.stored
        self._stream = stream
        self._shard_index_of = stream.router.shard_index_of
        self._open_shard = open_shard
        self._keys_of = keys_of
        self._targets: dict[int, tuple[str, Callable[[NewRecord], int]]] = {}

    def shard(self, record: NewRecord) -> _OpenShard:
        return self._open_shard(self._stream, self._shard_index_of(record.hash_key))

    def first_put(self, idempotency_key: str, *, now_ms: int) -> FirstPut | None:
        """Return the put that one with this key repeats, if there is one."""
        return self._keys_of(self._stream).first_put(idempotency_key, now_ms=now_ms)

    def target(self, record: NewRecord) -> tuple[str, Callable[[NewRecord], int]]:
        """Return the id of the shard that a record belongs to, and what appends it. Refuses what is damaged."""
        if (idempotency_key := record[5]) is not None:
            self._keys_of(self._stream).load(idempotency_key, now_ms=record[4])
        shard_index = self._shard_index_of(record[2])
        target = self._targets.get(shard_index)
        if target is None:
            shard = self._open_shard(self._stream, shard_index)
            target = self._targets[shard_index] = (shard.known.shard_id, shard.append)
        return target


class ShardAppender:
    """Puts records in one write transaction. Nothing is in the transaction before ``flush``."""

    def __init__(self, transaction: WriteTransaction, catalog: StreamCatalog, dialect: Dialect) -> None:
        self.transaction: Final = transaction
        self._catalog = catalog
        self._dialect = dialect
        self._shards: dict[KnownShard, _OpenShard] = {}
        self._streams: dict[str, _OpenStream] = {}
        self._keys: dict[KnownStream, StreamKeys] = {}
        self.records_put = 0  # in the transaction, since its beginning
        self.records_throttled = 0

    def put(self, stream_name: str, record: NewRecord) -> PutRecordResult:
        """Number the record in the shard of its hash key, unless it repeats an earlier put.

        A refusal leaves the transaction as it was.
        """
        stream = self._stream(stream_name)
        shard_id, append = stream.target(record)
        if record[5] is not None and (first := self._first_answer(stream, record)) is not None:
            return PutRecordResult(*first)
        try:
            return new_named_tuple(PutRecordResult, (shard_id, str(append(record)), "NONE"))
        except ProvisionedThroughputExceededException:
            self.records_throttled += 1
            raise

    def put_all(self, stream_name: str, records: Sequence[NewRecord]) -> list[PutOutcome]:
        """Put the records in their order. A shard that refuses one for its quota refuses those behind it too.

        One that repeats an earlier put is answered all the same.
        """
        stream = self._stream(stream_name)
        outcomes: list[PutOutcome] = []
        throttled: dict[str, ProvisionedThroughputExceededException] = {}
        # All shards first: one that cannot be opened refuses the call before any record is numbered.
        targets = [*map(stream.target, records)]
        for record, (shard_id, append) in zip(records, targets, strict=True):
            if record[5] is not None and (first := self._first_answer(stream, record)) is not None:
                outcomes.append(PutRecordsResultEntry(*first))
                continue
            if shard_id in throttled:
                self.records_throttled += 1
                outcomes.append(throttled[shard_id])
                continue
            try:
                sequence_number = str(append(record))
            except ProvisionedThroughputExceededException as error:
                self.records_throttled += 1
                throttled[shard_id] = error
                outcomes.append(error)
            else:
                outcomes.append(new_named_tuple(PutRecordsResultEntry, (shard_id, sequence_number, None, None)))
        return outcomes

    def put_all_or_none(self, stream_name: str, records: Sequence[NewRecord]) -> list[PutOutcome]:
        """Put the records in their order, or refuse them all for the quota of one shard."""
        stream = self._stream(stream_name)
        quotas: dict[_OpenShard, tuple[int, int]] = {}
        keys: set[str | None] = set()
        for record in records:
            stream.target(record)  # which knows then whether this put repeats another
            if self._first_answer(stream, record) is None and record.idempotency_key not in keys:
                shard = stream.shard(record)
                quotas[shard] = shard.charged(quotas.get(shard, shard.quotas_full_at_ns), record)
            keys |= {record.idempotency_key} - {None}
        return self.put_all(stream_name, records)

    def stream(self, stream_name: str) -> StoredStream:
        return self._stream(stream_name).stored

    def _first_answer(self, stream: _OpenStream, record: NewRecord) -> tuple[str, str] | None:
        """Return the shard id and number that the first put with the record's idempotency key was given, if any was."""
        if record.idempotency_key is None:
            return None
        put = stream.first_put(record.idempotency_key, now_ms=record.sent_ms)
        return None if put is None else (self._dialect.shard_id(put.shard_index), str(put.sequence))

    def flush(self) -> WriteTransaction:
        """Move what was put into the transaction, one append and one counter a shard, and return it.

        Whatever changes streams starts with this, so that it finds them as the puts before it left them.
        """
        written = [shard for shard in self._shards.values() if shard.records_waiting()]
        for shard in written:
            horizon_ms = shard.last_sent_ms - shard.stream.stored.retention_ms
            if shard.known.may_have_expired(horizon_ms):
                records_max = _records_to_trim(shard.records_waiting())
                with contextlib.suppress(StoreFormatError):  # pages that are damaged cannot be trimmed
                    shard.trim(self.transaction, horizon_ms=horizon_ms, records_max=records_max)
        for stream in {shard.stream: shard for shard in written}.values():
            self._trim_another(stream)
        for keys in self._keys.values():
            keys.save()
        for shard in written:
            # The record last: it is the evidence of the transaction, which others neither make nor change.
            self._save_counter(shard)
            self.records_put += shard.records_waiting()
            self.transaction.append(shard.known.database, shard.take_items())
        self._shards.clear()
        self._streams.clear()
        self._keys.clear()
        return self.transaction

    def _trim_another(self, written: _OpenShard) -> None:
        """Trim one more shard of the stream, each in turn: closed ones, and those that no key belongs to any more."""
        stream = written.stream
        shard_index, horizon_ms = stream.next_shard_index(), written.last_sent_ms - stream.stored.retention_ms
        if not stream.shard(shard_index, self._dialect).may_have_expired(horizon_ms):
            return
        with contextlib.suppress(StorageError):  # a damaged shard is not the business of a put into another
            shard = self._shard(stream, shard_index)
            records_max = _records_to_trim(written.records_waiting())
            if not shard.records_waiting() and shard.trim(
                self.transaction, horizon_ms=horizon_ms, records_max=records_max
            ):
                self._save_counter(shard)

    def _save_counter(self, shard: _OpenShard) -> None:
        known = shard.known
        self.transaction.put(
            COUNTERS_DATABASE,
            known.counter_key,
            encode_counter(known.stream_number, known.shard_index, shard.counter()),
        )

    def _stream(self, stream_name: str) -> _OpenStream:
        stream = self._streams.get(stream_name)
        if stream is None:
            known = self._catalog.load(self.transaction, stream_name)
            stream = self._streams[stream_name] = _OpenStream(known, self._shard, self._keys_of)
        return stream

    def _shard(self, stream: KnownStream, shard_index: int) -> _OpenShard:
        known = stream.shard(shard_index, self._dialect)
        shard = self._shards.get(known)
        if shard is None:
            counter = load_counter(self.transaction, known.stream_number, shard_index)
            self._check_counter(known, counter)
            shard = self._shards[known] = _OpenShard(known, stream, counter, self._keys_of)
        return shard

    def _keys_of(self, stream: KnownStream) -> StreamKeys:
        keys = self._keys.get(stream)
        if keys is None:
            keys = self._keys[stream] = StreamKeys(self.transaction, stream.stored)
        return keys

    def _check_counter(self, known: KnownShard, counter: ShardCounter) -> None:
        """Prove the counter against the records, so that no record is overwritten and no number skipped."""
        last_key = self.transaction.last_key(known.database)
        next_by_records = counter.first_sequence if last_key is None else sequence_of_record_key(last_key) + 1
        if next_by_records < counter.next_sequence:
            lost = loss_at(self.transaction, known.stream_number, known.shard_index, next_by_records)
            next_by_records = next_by_records if lost is None else lost.stop
        if next_by_records != counter.next_sequence:
            raise StoreFormatError(
                f"{known.shard_id} is damaged: its counter says that record {counter.next_sequence} comes next, its "
                f"records say {next_by_records}. Nothing was stored."
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


class PutOne:
    """A put as the writer is given it: in place of a closure, whose cells the garbage collector walks for each."""

    __slots__ = ("_record", "_stream_name")

    def __init__(self, stream_name: str, record: NewRecord) -> None:
        self._stream_name = stream_name
        self._record = record

    def __call__(self, appender: ShardAppender) -> PutRecordResult:
        return appender.put(self._stream_name, self._record)


def _records_to_trim(records_written: int) -> int:
    return TRIM_RECORDS_MIN + TRIM_RECORDS_PER_RECORD * records_written


def _check_ordering(sequence_number_for_ordering: int, next_sequence: int, shard_id: str) -> None:
    if sequence_number_for_ordering >= next_sequence:
        raise InvalidArgumentException(
            argument="sequence_number_for_ordering",
            value=str(sequence_number_for_ordering),
            constraint=(
                f"be a number that {shard_id} has given out already, lower than {next_sequence}: pass the "
                "sequence_number of an earlier put with this partition key"
            ),
        )


def _charge(
    quotas_full_at_ns: tuple[int, int], record: NewRecord, kb_per_sec: int, stream_name: str, shard_id: str
) -> tuple[int, int]:
    """Take the record from the shard's quotas of bytes and of records, or refuse it.

    A quota is a bucket that holds one second of it, kept as the time when it is full again. A record that costs
    more than a full bucket is let through by a full one, and the shard then waits until it is paid for.
    """
    now_ns = record.sent_ms * NS_PER_MS
    record_bytes = bytes_of_record(record)
    bytes_full_at_ns, bytes_wait_ns = _take(
        quotas_full_at_ns[0],
        cost_ns=record_bytes * NS_PER_SECOND // (kb_per_sec * BYTES_PER_KB),  # down: what fits exactly must fit
        now_ns=now_ns,
    )
    records_full_at_ns, records_wait_ns = _take(
        quotas_full_at_ns[1], cost_ns=NS_PER_SECOND // WRITE_QUOTA_RECORDS_PER_SEC, now_ns=now_ns
    )
    wait_ns = max(bytes_wait_ns, records_wait_ns)
    if wait_ns > 0:
        raise ProvisionedThroughputExceededException(
            stream_name=stream_name, shard_id=shard_id, retry_after_ms=-(-wait_ns // NS_PER_MS)
        )
    return bytes_full_at_ns, records_full_at_ns


def _take(full_at_ns: int, *, cost_ns: int, now_ns: int) -> tuple[int, int]:
    """Return when the bucket is full again after the taking, and how long to wait before it may happen."""
    if full_at_ns > now_ns + WRITE_QUOTA_DEBT_NS_MAX:
        full_at_ns = now_ns  # no put makes such a debt: the clock was set back
    owed_ns = max(0, full_at_ns - now_ns)
    wait_ns = owed_ns - max(0, WRITE_QUOTA_BURST_NS - cost_ns)
    return now_ns + owed_ns + cost_ns, wait_ns
