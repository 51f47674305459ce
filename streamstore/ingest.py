"""Many records of one producer, in order, batched by the speed of the disk.

The producer lays its records into a queue; each commit takes what lies there. So a slow producer's records are stored
one by one at once, a fast one's in large batches, and while the writer commits, the next records are validated. A
commit takes nothing unless everything in front of it is stored, so what is stored is always a run of records from the
first on, in every shard.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from streamstore.errors import ProvisionedThroughputExceededException, StreamStoreError
from streamstore.model import IngestResult, NewRecord
from streamstore.shards import PutOutcome, ShardAppender
from streamstore.validate import parse_entry
from streamstore.writer import WaitingRequest, Writer

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
        self._stream_name = stream_name
        self._queue = queue
        self._front = front
        self.request = WaitingRequest(self._put, payload_bytes=0)

    def is_stored_whole(self) -> bool:
        return self.request.error is None and not any(map(_is_throttled, self.request.result))

    def forget_front(self) -> None:
        self._front = None  # or every batch would hold all those in front of it

    def _put(self, appender: ShardAppender) -> list[PutOutcome]:
        if self._front is not None and not self._front.is_stored_whole():
            raise _FrontIncompleteError("What is in front was not stored whole.")
        # First this, then the taking: a record that the producer lays down before it looks is taken here.
        self.is_taken = True
        while self._queue:
            self.records.append(self._queue.popleft())
        return appender.put_all(self._stream_name, self.records)


class Ingestion:
    """One call of ``StreamStore.ingest``."""

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
        self._stored_records = 0
        self._stored_bytes = 0
        self._shard_ids: set[str] = set()

    def run(self, entries: Iterable[object]) -> IngestResult:
        """Store the entries. Whatever ends this, what was sent is settled first."""
        try:
            try:
                for index, entry in enumerate(entries):
                    self._send(parse_entry(entry, index, sent_ms=self._clock()))
                    while self._batches and (self._batches[0].request.is_answered() or self._is_too_much_on_the_way()):
                        self._settle_first()
            finally:
                while self._batches or self._queue:
                    self._ensure_a_batch_comes()
                    self._settle_first()
        except BaseException as error:
            error.add_note(f"The first {self._stored_records:,} records are stored.")
            raise
        return self._stored()

    def _send(self, record: NewRecord) -> None:
        self._queue.append(record)
        self._sent_records += 1
        self._sent_bytes += len(record.data)
        self._ensure_a_batch_comes()

    def _ensure_a_batch_comes(self) -> None:
        """See to it that what lies in the queue is taken."""
        last = self._batches[-1] if self._batches else None
        if last is None or last.is_taken:
            batch = _Batch(self._stream_name, self._queue, front=last)
            self._batches.append(batch)
            self._writer.submit(batch.request)

    def _is_too_much_on_the_way(self) -> bool:
        return (
            self._sent_records - self._stored_records >= ON_THE_WAY_RECORDS_MAX
            or self._sent_bytes - self._stored_bytes >= ON_THE_WAY_BYTES_MAX
        )

    def _settle_first(self) -> None:
        """Wait for the first batch, and count what it stored. What its quota refused goes back in front."""
        batch = self._batches[0]
        try:
            outcomes = batch.request.wait()
        except StreamStoreError:
            self._give_up()
            raise
        batch.forget_front()
        throttled = self._count(batch, outcomes)
        if throttled is None:
            self._batches.popleft()
            return
        left = [record for record, outcome in zip(batch.records, outcomes, strict=True) if _is_throttled(outcome)]
        self._withdraw_batches()
        time.sleep(throttled.retry_after_ms / 1000)
        now_ms = self._clock()  # sent again: their quota and their arrival are of now
        waiting = [record._replace(sent_ms=now_ms) for record in (*left, *self._queue)]
        self._queue.clear()
        self._queue.extend(waiting)

    def _withdraw_batches(self) -> None:
        """Wait until no batch can take anything any more. Those behind an incomplete one take nothing."""
        for batch in list(self._batches)[1:]:
            batch.request.wait_for_answer()
        self._batches.clear()

    def _give_up(self) -> None:
        self._withdraw_batches()
        self._queue.clear()

    def _count(self, batch: _Batch, outcomes: list[PutOutcome]) -> ProvisionedThroughputExceededException | None:
        """Count what was stored and tell about it. Returns the first refusal."""
        throttled: ProvisionedThroughputExceededException | None = None
        for record, outcome in zip(batch.records, outcomes, strict=True):
            if isinstance(outcome, ProvisionedThroughputExceededException):
                throttled = throttled or outcome
            else:
                self._stored_records += 1
                self._stored_bytes += len(record.data)
                assert outcome.shard_id is not None
                self._shard_ids.add(outcome.shard_id)
        if self._on_stored is not None:
            self._on_stored(self._stored())
        return throttled

    def _stored(self) -> IngestResult:
        return IngestResult(self._stored_records, self._stored_bytes, frozenset(self._shard_ids))


def _is_throttled(outcome: PutOutcome) -> bool:
    return isinstance(outcome, ProvisionedThroughputExceededException)
