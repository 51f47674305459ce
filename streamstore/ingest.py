"""Many records of one producer, in order, batched by the speed of the disk.

The producer lays its records into a queue; each commit takes what lies there. So a slow producer's records are stored
one by one at once, a fast one's in large batches, and while the writer commits, the next records are validated. A
commit takes nothing unless everything in front of it is stored, so what is stored is always a run of records from the
first on, in every shard.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from streamstore.errors import ProvisionedThroughputExceededException, StreamStoreError
from streamstore.model import IngestResult, NewRecord
from streamstore.request import WaitingRequest
from streamstore.shards import PutOutcome, ShardAppender
from streamstore.validate import parse_entry, parse_iterable
from streamstore.writer import Writer

__all__ = ["Ingestion"]

ON_THE_WAY_RECORDS_MAX: Final = 4_000
ON_THE_WAY_BYTES_MAX: Final = 8 * 1_048_576


class _FrontIncompleteError(StreamStoreError):
    """What is in front was not stored whole, so nothing behind it was."""


class _Batch:
    """What one commit takes from the queue."""

    def __init__(self, stream_name: str, queue: deque[NewRecord], front: "_Batch | None") -> None:
        self.records: list[NewRecord] = []
        self.is_taken = False
        self.is_sent = False
        self.is_counted = False
        self._is_sending = False
        self._refusal: StreamStoreError | None = None
        self._stream_name = stream_name
        self._queue = queue
        self._front = front
        self._request = WaitingRequest(self._put, payload_bytes=0)

    def send(self, writer: Writer) -> None:
        """Submit the batch, once, however often interrupts make this start again."""
        try:
            if self._is_sending:
                writer.execute_on_writer_thread(_do_nothing)  # comes behind the batch if that was submitted
            self._is_sending = True
            if not self._request.is_answered:
                writer.submit(self._request)
        except StreamStoreError as refusal:
            self._refusal = refusal
        self.is_sent = True

    def is_answered(self) -> bool:
        return self._refusal is not None or self._request.is_answered

    def wait_for_answer(self) -> None:
        if self._refusal is None:
            self._request.wait_for_answer()

    def wait(self) -> list[PutOutcome]:
        if self._refusal is not None:
            raise self._refusal
        return self._request.wait()

    def is_stored_whole(self) -> bool:
        return (
            self._refusal is None and self._request.error is None and not any(map(_is_throttled, self._request.result))
        )

    def forget_front(self) -> None:
        self._front = None  # or every batch would hold all those in front of it

    def _put(self, appender: ShardAppender) -> list[PutOutcome]:
        if self._front is not None and not self._front.is_stored_whole():
            raise _FrontIncompleteError("What is in front was not stored whole.")
        # First this, then the taking: a record that the producer lays down before it looks is taken here.
        self.is_taken = True
        with contextlib.suppress(IndexError):  # the producer may clear it meanwhile
            while True:
                self.records.append(self._queue.popleft())
        return appender.put_all(self._stream_name, self.records)


class Ingestion:
    """One call of ``StreamStore.ingest``.

    Python may raise an interrupt behind every call that is made here. Then the settling starts again, so each of its
    steps may be repeated, and what must change together changes in lines without a call between them.
    """

    def __init__(
        self,
        writer: Writer,
        stream_name: str,
        clock: Callable[[], int],
        on_stored: Callable[[IngestResult], None] | None,
    ) -> None:
        self._writer = writer
        self._stream_name = stream_name
        self._clock = clock
        self._on_stored = on_stored
        self._queue: deque[NewRecord] = deque()
        self._batches: deque[_Batch] = deque()
        self._sent_records = 0
        self._sent_bytes = 0
        self._stored = IngestResult(0, 0, frozenset())

    def run(self, records: object) -> IngestResult:
        """Store the entries of an iterable. Whatever ends this, what was sent is settled first."""
        entries = parse_iterable("records", records)
        try:
            try:
                for index, entry in enumerate(entries):
                    self._send(parse_entry(entry, index, sent_ms=self._clock()))
                    while self._batches and (self._batches[0].is_answered() or self._is_too_much_on_the_way()):
                        self._settle_first()
                self._settle_all()
            except BaseException:
                self._settle_all()
                raise
        except BaseException as error:
            error.add_note(f"The first {self._stored.record_count:,} records are stored.")
            raise
        return self._stored

    def _send(self, record: NewRecord) -> None:
        self._queue.append(record)
        self._sent_records += 1
        self._sent_bytes += len(record.data)
        self._ensure_a_batch_comes()

    def _ensure_a_batch_comes(self) -> None:
        """See to it that what lies in the queue is taken."""
        last = self._batches[-1] if self._batches else None
        if last is None or last.is_taken:
            if not self._queue:
                return
            last = _Batch(self._stream_name, self._queue, front=last)
            self._batches.append(last)
        if not last.is_sent:
            last.send(self._writer)

    def _is_too_much_on_the_way(self) -> bool:
        return (
            self._sent_records - self._stored.record_count >= ON_THE_WAY_RECORDS_MAX
            or self._sent_bytes - self._stored.data_bytes >= ON_THE_WAY_BYTES_MAX
        )

    def _settle_all(self) -> None:
        while self._batches or self._queue:
            self._ensure_a_batch_comes()
            self._settle_first()

    def _settle_first(self) -> None:
        """Wait for the first batch, and count what it stored. What its quota refused goes back in front."""
        batch = self._batches[0]
        try:
            outcomes = batch.wait()
        except StreamStoreError:
            self._give_up()
            raise
        batch.forget_front()
        self._count(batch, outcomes)
        left = [
            (record, outcome)
            for record, outcome in zip(batch.records, outcomes, strict=True)
            if isinstance(outcome, ProvisionedThroughputExceededException)
        ]
        if left:
            self._send_again([record for record, _ in left], left[0][1].retry_after_ms)
        else:
            self._batches.popleft()

    def _count(self, batch: _Batch, outcomes: list[PutOutcome]) -> None:
        """Count what was stored, once, and tell about it."""
        if batch.is_counted:
            return
        record_count, data_bytes = self._stored.record_count, self._stored.data_bytes
        shard_ids = set(self._stored.shard_ids)
        for record, outcome in zip(batch.records, outcomes, strict=True):
            if not isinstance(outcome, ProvisionedThroughputExceededException):
                record_count += 1
                data_bytes += len(record.data)
                assert outcome.shard_id is not None
                shard_ids.add(outcome.shard_id)
        is_news = record_count > self._stored.record_count
        stored = IngestResult(record_count, data_bytes, frozenset(shard_ids))
        self._stored = stored
        batch.is_counted = True
        tell, self._on_stored = self._on_stored, None  # who raises is not called again
        if tell is not None and is_news:
            tell(stored)
        self._on_stored = tell

    def _send_again(self, left: list[NewRecord], retry_after_ms: int) -> None:
        """Put what a quota refused in front of the queue when it may pass: nothing behind it is in its shard."""
        self._withdraw_batches()
        try:
            time.sleep(retry_after_ms / 1000)
        except BaseException:  # who breaks off the waiting wants no more of it
            self._give_up()
            raise
        now_ms = self._clock()  # sent again: their quota and their arrival are of now
        queue = deque(record._replace(sent_ms=now_ms) for record in (*left, *self._queue))
        batches: deque[_Batch] = deque()
        self._queue = queue
        self._batches = batches
        self._ensure_a_batch_comes()

    def _withdraw_batches(self) -> None:
        """Wait until no batch can take anything any more. Those behind an incomplete one take nothing."""
        for batch in list(self._batches):
            batch.wait_for_answer()

    def _give_up(self) -> None:
        self._withdraw_batches()
        self._queue.clear()
        self._batches.clear()


def _is_throttled(outcome: PutOutcome) -> bool:
    return isinstance(outcome, ProvisionedThroughputExceededException)


def _do_nothing(appender: ShardAppender) -> None:
    del appender
