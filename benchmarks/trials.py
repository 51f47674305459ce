"""One contender in one case: what a turn of it does, and which part of that is timed."""

import gc
import multiprocessing
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Final, Generic, Protocol, TypeVar, cast

from benchmarks.contenders import AsyncStreamstore, Contender, Puts, PutsBatches, ReadsPages, Streamstore
from benchmarks.payloads import check_payloads, generate_payloads, iterate_batches, make_payloads
from streamstore import PutRecordResult, StreamRecord

__all__ = [
    "BATCH_RECORDS",
    "IN_FLIGHT",
    "PAGE_RECORDS",
    "TASKS",
    "THREADS",
    "Setup",
    "StartTrial",
    "Trial",
    "disk",
    "in_batches",
    "in_tasks",
    "in_threads",
    "not_waiting",
    "one_by_one",
    "puts",
    "reader_elsewhere",
    "reads",
    "waiting_reader",
]

BATCH_RECORDS: Final = 500
IN_FLIGHT: Final = 10_000
PAGE_RECORDS: Final = 10_000
SEEN_TIMEOUT_S: Final = 30
LAG_S_MIN: Final = 1e-6
TASKS: Final = 1_024
THREADS: Final = 64

C = TypeVar("C", bound=Contender)
Seen = tuple[float, bytes]
"""When a record came, in seconds of perf_counter, and its payload."""
Produce = Callable[[C, Sequence[bytes]], float]


@dataclass(frozen=True, slots=True)
class Setup:
    """Where and how much. ``records`` is the number a turn; ``library`` is a folder that the cases of a run share.

    ``records_max`` is None, or caps how many records a trial stores before its turns begin.
    """

    path: Path
    library: Path
    payload_bytes: int
    records: int
    producers: int
    records_max: int | None

    def at_most(self, records: int) -> int:
        return records if self.records_max is None else min(records, self.records_max)


class Trial(Protocol):
    def turn(self) -> float:
        """Take part in one round. Returns the figure, in the unit of the case."""
        ...

    def finish(self) -> None:
        """Close the store, open it again, and raise ``WrongDataError`` unless it holds exactly what was put."""
        ...

    def close(self) -> None: ...


StartTrial = Callable[[Setup], Trial]


class StoreTrial(Generic[C]):
    """A trial in a store of its own, which ``stored`` payloads have been put into."""

    def __init__(self, setup: Setup, kind: type[C]) -> None:
        self._setup = setup
        self._kind = kind
        self._contender = kind(setup.path)
        self._stored = 0
        self._ordered_records = 1

    def finish(self) -> None:
        self._contender.close()
        self._contender = self._kind(self._setup.path)
        check_payloads(
            self._contender.read_back(),
            count=self._stored,
            payload_bytes=self._setup.payload_bytes,
            ordered_records=self._ordered_records,
        )

    def close(self) -> None:
        self._contender.close()


class PutTrial(StoreTrial[C]):
    """Records per second, from the first call to the last acknowledgement."""

    def __init__(self, setup: Setup, kind: type[C], produce: Produce[C]) -> None:
        super().__init__(setup, kind)
        self._produce = produce
        self._ordered_records = setup.records // setup.producers

    def turn(self) -> float:
        records = self._setup.records
        payloads = make_payloads(self._stored, records, self._setup.payload_bytes)
        self._stored += records
        settle()
        return records / self._produce(self._contender, payloads)


R = TypeVar("R", bound=ReadsPages)


class ReadTrial(StoreTrial[R]):
    """Records per second, all of them read in pages."""

    def __init__(self, setup: Setup, kind: type[R]) -> None:
        super().__init__(setup, kind)
        self._stored = self._ordered_records = setup.records
        in_batches(self._contender, make_payloads(0, setup.records, setup.payload_bytes))

    def turn(self) -> float:
        settle()
        count = 0
        start_s = time.perf_counter()
        for page in self._contender.read_pages(PAGE_RECORDS):
            count += len(page)
        elapsed_s = time.perf_counter() - start_s
        assert count == self._stored
        return count / elapsed_s


B = TypeVar("B", bound=PutsBatches)


class DiskTrial(StoreTrial[B]):
    """Bytes that the closed store takes on the disk, for each byte of payload. One turn only."""

    def turn(self) -> float:
        assert self._stored == 0
        payloads = generate_payloads(0, self._setup.records, self._setup.payload_bytes)
        for batch in iterate_batches(payloads, BATCH_RECORDS):
            self._contender.put_batch(batch)
        self._stored = self._setup.records
        self._contender.close()
        try:
            return disk_bytes(self._setup.path) / (self._setup.records * self._setup.payload_bytes)
        finally:
            self._contender = self._kind(self._setup.path)


class WaitTrial(StoreTrial[Streamstore]):
    """Milliseconds from the return of a put to its record in the hands of a thread that waits; the median of a turn.

    A microsecond when the reader had it before the put returned: a record is readable as soon as it is committed.
    """

    def turn(self) -> float:
        seen: SimpleQueue[Seen] = SimpleQueue()
        with self._contender.tail() as feed, ThreadPoolExecutor(1) as pool:
            reading = pool.submit(report, feed, self._setup.records, seen.put)
            lag_ms = self._put_all(lambda: seen.get(timeout=SEEN_TIMEOUT_S))
            reading.result()
        return lag_ms

    def _put_all(self, next_seen: Callable[[], Seen]) -> float:
        payloads = make_payloads(self._stored, self._setup.records, self._setup.payload_bytes)
        self._stored += len(payloads)
        self._ordered_records = self._stored
        settle()
        lags_ms: list[float] = []
        for data in payloads:
            self._contender.put(data)
            put_s = time.perf_counter()
            seen_s, seen_data = next_seen()
            assert seen_data == data
            lags_ms.append(max(LAG_S_MIN, seen_s - put_s) * 1e3)
        return statistics.median(lags_ms)


class WaitElsewhereTrial(WaitTrial):
    """The same with a reader in another process. Both read one clock, which Linux keeps for all."""

    def turn(self) -> float:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        reader = context.Process(target=report_elsewhere, args=(self._setup.path, self._setup.records, theirs))
        reader.start()
        try:
            assert ours.poll(SEEN_TIMEOUT_S), "the reader did not open the store"
            ours.recv()
            return self._put_all(lambda: cast(Seen, ours.recv()) if ours.poll(SEEN_TIMEOUT_S) else (0.0, b""))
        finally:
            reader.join(SEEN_TIMEOUT_S)
            reader.kill()


def report(feed: Iterable[StreamRecord], count: int, tell: Callable[[Seen], object]) -> None:
    """Tell of each record when it came, until so many have come."""
    for record in islice(feed, count):
        tell((time.perf_counter(), record.data))


def report_elsewhere(path: Path, count: int, pipe: Connection) -> None:
    contender = Streamstore(path)
    try:
        with contender.tail() as feed:
            pipe.send((0.0, b"ready"))
            report(feed, count, pipe.send)
    finally:
        contender.close()


def puts(kind: type[C], produce: Produce[C]) -> StartTrial:
    return lambda setup: PutTrial(setup, kind, produce)


def reads(kind: type[R]) -> StartTrial:
    return lambda setup: ReadTrial(setup, kind)


def disk(kind: type[B]) -> StartTrial:
    return lambda setup: DiskTrial(setup, kind)


def waiting_reader(setup: Setup) -> Trial:
    return WaitTrial(setup, Streamstore)


def reader_elsewhere(setup: Setup) -> Trial:
    return WaitElsewhereTrial(setup, Streamstore)


def one_by_one(contender: Puts, payloads: Sequence[bytes]) -> float:
    """One producer that waits for each answer. This and its like return seconds."""
    start_s = time.perf_counter()
    for data in payloads:
        contender.put(data)
    return time.perf_counter() - start_s


def in_batches(contender: PutsBatches, payloads: Sequence[bytes]) -> float:
    """One producer that waits for each batch of ``BATCH_RECORDS``."""
    batches = list(iterate_batches(payloads, BATCH_RECORDS))
    start_s = time.perf_counter()
    for batch in batches:
        contender.put_batch(batch)
    return time.perf_counter() - start_s


def in_threads(contender: Puts, payloads: Sequence[bytes]) -> float:
    """``THREADS`` producers that wait for each answer. The threads run before time starts.

    The producers themselves read the clock, the last to arrive before it lets the others go: a contender that keeps
    the interpreter's lock would be half done before another thread could.
    """
    start_s: list[float] = []
    barrier = threading.Barrier(THREADS, action=lambda: start_s.append(time.perf_counter()))

    def produce(part: Sequence[bytes]) -> float:
        barrier.wait()
        for data in part:
            contender.put(data)
        return time.perf_counter()

    futures = [producer_threads.submit(produce, part) for part in parts(payloads, THREADS)]
    return max(future.result() for future in futures) - start_s[0]


def in_tasks(contender: AsyncStreamstore, payloads: Sequence[bytes]) -> float:
    """``TASKS`` tasks of one event loop, each awaits its answer. Making the tasks is timed too."""
    payloads_by_task = parts(payloads, TASKS)
    start_s = time.perf_counter()
    contender.put_in_tasks(payloads_by_task)
    return time.perf_counter() - start_s


def not_waiting(contender: Streamstore, payloads: Sequence[bytes]) -> float:
    """One producer that goes on while up to ``IN_FLIGHT`` of its records are under way; all are answered at the end."""
    futures: deque[Future[PutRecordResult]] = deque()
    start_s = time.perf_counter()
    for data in payloads:
        if len(futures) == IN_FLIGHT:
            futures.popleft().result()
        futures.append(contender.submit(data))
    for future in futures:
        future.result()
    return time.perf_counter() - start_s


producer_threads: Final = ThreadPoolExecutor(THREADS, "producer")
"""Kept between turns, as a server keeps its threads: what a contender holds for each thread is made once."""


def parts(payloads: Sequence[bytes], count: int) -> list[Sequence[bytes]]:
    size = len(payloads) // count
    assert size * count == len(payloads)
    return [payloads[start : start + size] for start in range(0, len(payloads), size)]


def disk_bytes(folder: Path) -> int:
    """Return what the files in the folder take on the disk, allocated but unwritten blocks included."""
    os.sync()  # blocks are allocated when data is written out
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


def settle() -> None:
    """Let nobody pay for the garbage or the unwritten data of whoever had the turn before."""
    gc.collect()
    os.sync()
