"""Many records of one producer: batches on their way one behind the other, none stored before the one in front of it.

While the writer commits a batch, the next is validated here. A batch stores nothing unless the one in front of it is
stored whole, so what is stored is always a run of records from the first on, in every shard.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from streamstore.errors import ProvisionedThroughputExceededException, StreamStoreError
from streamstore.model import IngestResult, NewRecord
from streamstore.shards import PutOutcome, ShardAppender
from streamstore.validate import parse_entry
from streamstore.writer import WaitingRequest, Writer

__all__ = ["Ingestion"]

BATCH_RECORDS_MAX: Final = 2_000
BATCH_BYTES_MAX: Final = 4 * 1_048_576
BATCHES_ON_THE_WAY_MAX: Final = 2


class _FrontIncompleteError(StreamStoreError):
    """The batch in front of this one was not stored whole, so nothing of this one was."""


class _Batch:
    """Records to store, unless the batch in front of them fails."""

    def __init__(self, stream_name: str, records: list[NewRecord], front: "_Batch | None") -> None:
        self.records = records
        self._stream_name = stream_name
        self._front = front
        self.data_bytes = sum(len(record.data) for record in records)
        self.request = WaitingRequest(self._put, self.data_bytes)

    def is_stored_whole(self) -> bool:
        return self.request.error is None and not any(map(_is_throttled, self.request.result))

    def settled(self) -> None:
        self._front = None  # or the batches would hold each other for ever

    def _put(self, appender: ShardAppender) -> list[PutOutcome]:
        if self._front is not None and not self._front.is_stored_whole():
            raise _FrontIncompleteError("The batch in front of this one was not stored whole.")
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
        self._on_the_way: deque[_Batch] = deque()
        self._record_count = 0
        self._data_bytes = 0
        self._shard_ids: set[str] = set()

    def run(self, entries: Iterable[object]) -> IngestResult:
        try:
            try:
                for records in self._batches(entries):
                    if len(self._on_the_way) >= BATCHES_ON_THE_WAY_MAX:
                        self._settle_first()
                    self._send(records)
            finally:
                while self._on_the_way:
                    self._settle_first()
        except BaseException as error:
            error.add_note(f"The first {self._record_count:,} records are stored.")
            raise
        return self._stored()

    def _batches(self, entries: Iterable[object]) -> Iterator[list[NewRecord]]:
        """Yield the valid records. What stands in front of a bad entry is yielded before that is refused."""
        numbered = enumerate(entries)
        failure: Exception | None = None
        while failure is None:
            batch: list[NewRecord] = []
            batch_bytes = 0
            try:
                for index, entry in numbered:
                    record = parse_entry(entry, index, sent_ms=self._clock())
                    batch.append(record)
                    batch_bytes += len(record.data)
                    if len(batch) >= BATCH_RECORDS_MAX or batch_bytes >= BATCH_BYTES_MAX:
                        break
            except Exception as error:
                failure = error
            if batch:
                yield batch
            elif failure is None:
                return
        raise failure

    def _send(self, records: list[NewRecord]) -> None:
        batch = _Batch(self._stream_name, records, front=self._on_the_way[-1] if self._on_the_way else None)
        self._writer.submit(batch.request)
        self._on_the_way.append(batch)

    def _settle_first(self) -> None:
        """Wait until the first batch is stored whole."""
        batch = self._on_the_way[0]
        try:
            outcomes = batch.request.wait()
        except StreamStoreError:
            self._take_back()
            raise
        throttled = self._count(batch, outcomes)
        if throttled is None:
            self._on_the_way.popleft()
            batch.settled()
            return
        left = [record for record, outcome in zip(batch.records, outcomes, strict=True) if _is_throttled(outcome)]
        _, *behind = self._take_back()
        time.sleep(throttled.retry_after_ms / 1000)
        now_ms = self._clock()  # they are sent again: their quota and arrival are of now
        for records in (left, *behind):
            self._send([record._replace(sent_ms=now_ms) for record in records])

    def _take_back(self) -> list[list[NewRecord]]:
        """Return the records of the batches on their way. Those behind the first store nothing."""
        batches = list(self._on_the_way)
        for batch in batches[1:]:
            with contextlib.suppress(StreamStoreError):
                batch.request.wait()
        self._on_the_way.clear()
        return [batch.records for batch in batches]

    def _count(self, batch: _Batch, outcomes: list[PutOutcome]) -> ProvisionedThroughputExceededException | None:
        """Count what was stored and tell about it. Returns the first refusal."""
        throttled: ProvisionedThroughputExceededException | None = None
        for record, outcome in zip(batch.records, outcomes, strict=True):
            if isinstance(outcome, ProvisionedThroughputExceededException):
                throttled = throttled or outcome
            else:
                self._record_count += 1
                self._data_bytes += len(record.data)
                assert outcome.shard_id is not None
                self._shard_ids.add(outcome.shard_id)
        if self._on_stored is not None:
            self._on_stored(self._stored())
        return throttled

    def _stored(self) -> IngestResult:
        return IngestResult(self._record_count, self._data_bytes, frozenset(self._shard_ids))


def _is_throttled(outcome: PutOutcome) -> bool:
    return isinstance(outcome, ProvisionedThroughputExceededException)
