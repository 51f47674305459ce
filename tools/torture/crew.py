"""A crew: processes forked from this one that do all kinds of work on one store until they are killed.

Some put records, alone, in batches and as futures; some make idempotent puts, and put again what was not answered
before the last kill; one turns the records of one stream into those of another, each with its checkpoint; some split,
merge and resize; one trims. Each writes a line to its log as soon as a call has returned, with one write, so that what
was acknowledged is known whatever becomes of the process. ``ledger.py`` judges what the store holds then.
"""

import os
import random
import select
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, Self

from streamstore import StreamStore
from streamstore.errors import RequestError
from streamstore.model import PutRecordResult
from tools.torture import plants
from tools.torture.forked import Forked, failure_line, failures_in

__all__ = [
    "CONSUMER",
    "DOUBLES",
    "ONCE",
    "PASSING",
    "PUTS",
    "RETRIERS",
    "STREAMS",
    "Crew",
    "End",
    "Shift",
    "answer_line",
    "choose_shifts",
    "create_streams",
    "delete_streams",
    "double_of",
    "label_of",
    "payload_of",
]

PUTS: Final = "puts"
ONCE: Final = "once"
DOUBLES: Final = "doubles"
PASSING: Final = "passing"
STREAMS: Final = (PUTS, ONCE, DOUBLES, PASSING)
CONSUMER: Final = "doubler"
RETRIERS: Final = 3
RETENTION_MS: Final = 3_600_000
"""Of the stream that is trimmed, whose trimmer has a clock that goes ahead by most of this."""
PASSING_MS: Final = 20
HASH_KEYS: Final = 2**128
OPEN_SHARDS_MAX: Final = 4
BATCH_RECORDS_MAX: Final = 8
WINDOW: Final = 8
FILLING_BYTES_MAX: Final = 700
LARGE_FILLING_BYTES: Final = 20_000
LARGE_ONE_IN: Final = 64
OPEN_S_MAX: Final = 60.0


class Shift(NamedTuple):
    """What one process does. Its name is in the labels of its records, so no other may have it."""

    name: str
    producers: int = 0
    retriers: tuple[int, ...] = ()
    doubles: bool = False
    reshards: bool = False
    trims: bool = False
    plant: str | None = None


class End(NamedTuple):
    """How a process ended, and what it noted before."""

    name: str
    status: int | None
    lines: list[str]

    def failures(self) -> list[str]:
        """Return what went wrong in the process before it was killed, in sentences."""
        return [f"Process {self.name} failed: {reason}." for reason in failures_in(self.lines, self.status)]


def choose_shifts(dice: random.Random, *, name: str, plant: str | None) -> list[Shift]:
    """Return what the processes of a round do: two to four of them, with every kind of work now and then."""
    count = dice.randint(2, 3)
    retriers: list[list[int]] = [[] for _ in range(count)]
    for number in range(RETRIERS):
        dice.choice(retriers).append(number)
    doubler = dice.randrange(count)
    resharder = dice.choice([dice.randrange(count), None])
    shifts = [
        Shift(
            f"{name}{chr(ord('a') + place)}",
            dice.randint(1, 2),
            tuple(retriers[place]),
            doubles=doubler == place,
            reshards=resharder == place,
            plant=plant,
        )
        for place in range(count)
    ]
    if dice.random() < 0.5:
        shifts.append(Shift(f"{name}t", trims=True, plant=plant))
    return shifts


def create_streams(path: Path) -> None:
    """Create the store, if there is none, and its streams, with the consumer at the beginning."""
    with StreamStore(path) as store:
        for stream in STREAMS:
            hours = RETENTION_MS // 3_600_000 if stream == PASSING else 24
            store.create_stream(stream, shard_count=2, retention_hours=hours, idempotency_window_seconds=3_600)
        store.consumer(ONCE, CONSUMER).close()


def delete_streams(path: Path) -> None:
    with StreamStore(path, create=False) as store:
        for stream in STREAMS:
            store.delete_stream(stream, enforce_consumer_deletion=True)


def payload_of(label: str) -> bytes:
    """Return the data of a record: its label, and filling that makes some records need pages of their own."""
    digest = zlib.crc32(label.encode())
    filling_bytes = digest % FILLING_BYTES_MAX if digest % LARGE_ONE_IN else LARGE_FILLING_BYTES
    return f"{label} ".encode() + b"." * filling_bytes


def label_of(data: bytes) -> str | None:
    """Return the label of a record, or None if the data are not what was put."""
    label = data.partition(b" ")[0].decode(errors="replace")
    return label if data == payload_of(label) else None


def double_of(label: str) -> str:
    return f"={label}"


class Crew:
    """The processes of one round. Use it as a context manager: at the end of the block none is left."""

    def __init__(self, path: Path, log_folder: Path, shifts: Sequence[Shift], next_numbers: Sequence[int]) -> None:
        self._logs = {shift.name: log_folder / shift.name for shift in shifts}
        self._processes: dict[str, Forked] = {}
        self._opened, told = os.pipe()
        try:
            for shift in shifts:
                self._start(shift, path, told, next_numbers)
        finally:
            os.close(told)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
        os.close(self._opened)

    def wait_until_open(self) -> bool:
        """Wait until every process has the store open, or has ended. False: that took too long."""
        deadline_s = time.monotonic() + OPEN_S_MAX
        for _ in self._processes:
            ready, _, _ = select.select([self._opened], [], [], max(0.0, deadline_s - time.monotonic()))
            if not ready:
                return False
            if not os.read(self._opened, 1):  # all that are not open have ended
                return True
        return True

    def kill_one(self) -> None:
        """Kill the process that was started first of those that are alive."""
        for process in self._processes.values():
            if process.status is None:
                process.kill()
                return

    def kill(self) -> None:
        """Kill all that are alive, at once."""
        for process in self._processes.values():
            process.signal_kill()
        for process in self._processes.values():
            process.kill()

    def ends(self) -> list[End]:
        """Return what became of each, when all are dead, and forget their logs."""
        ends: list[End] = []
        for name, log in self._logs.items():
            lines = log.read_text().split("\n")[:-1]
            log.unlink()
            ends.append(End(name, self._processes[name].status, lines))
        return ends

    def _start(self, shift: Shift, path: Path, told: int, next_numbers: Sequence[int]) -> None:
        log = os.open(self._logs[shift.name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._processes[shift.name] = Forked(partial(_work_until_killed, shift, path, told, log, next_numbers), log)
        finally:
            os.close(log)


def _work_until_killed(shift: Shift, path: Path, told: int, log: int, next_numbers: Sequence[int]) -> None:
    plants.plant(shift.plant)
    if shift.trims:
        _trim_until_killed(path, told, log)
    with StreamStore(path, create=False) as store:
        os.write(told, b".")
        _Worker(store, shift, log).work(next_numbers)


def _trim_until_killed(path: Path, told: int, log: int) -> None:
    """Trim all that is older than some milliseconds, and note before each trim what that is."""
    horizon_ms = 0
    with StreamStore(path, create=False, clock=lambda: horizon_ms + RETENTION_MS) as store:
        os.write(told, b".")
        while True:
            horizon_ms = time.time_ns() // 1_000_000 - PASSING_MS
            os.write(log, f"trim {horizon_ms}\n".encode())
            store.trim(PASSING)
            time.sleep(0.002)


class _Worker:
    """The threads of one process."""

    def __init__(self, store: StreamStore, shift: Shift, log: int) -> None:
        self._store = store
        self._shift = shift
        self._log = log
        self._failed = threading.Event()

    def work(self, next_numbers: Sequence[int]) -> None:
        """Go on until killed, or until something fails."""
        shift = self._shift
        work: list[Callable[[], None]] = []
        work += [partial(self._produce, f"{shift.name}{number}") for number in range(shift.producers)]
        work += [partial(self._retry, number, next_numbers[number]) for number in shift.retriers]
        work += [self._double] * shift.doubles + [self._reshard] * shift.reshards
        with ThreadPoolExecutor(len(work)) as pool:
            wait([pool.submit(self._until_failed, each) for each in work], return_when=FIRST_EXCEPTION)

    def _until_failed(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            os.write(self._log, failure_line(error))
            self._failed.set()
            raise

    def _note(self, *lines: str) -> None:
        os.write(self._log, "".join(f"{line}\n" for line in lines).encode())

    def _produce(self, producer: str) -> None:
        dice = random.Random(producer)
        waiting: deque[tuple[str, str, int, Future[PutRecordResult]]] = deque()
        call = 0
        while not self._failed.is_set():
            stream = dice.choice((PUTS, PASSING))
            count = dice.randint(2, BATCH_RECORDS_MAX) if dice.random() < 0.2 else 1
            labels = [f"{producer}/{call}/{entry}/{count}" for entry in range(count)]
            begin_ms = time.time_ns() // 1_000_000
            if count > 1:
                self._put_records(stream, labels, begin_ms)
            elif len(waiting) < WINDOW and dice.random() < 0.5:
                future = self._store.submit_record(stream, payload_of(labels[0]), labels[0])
                waiting.append((stream, labels[0], begin_ms, future))
            else:
                result = self._store.put_record(stream, payload_of(labels[0]), labels[0])
                self._note(answer_line(stream, labels[0], begin_ms, result.shard_id, result.sequence_number))
            while waiting and (waiting[0][3].done() or len(waiting) == WINDOW):
                stream, label, begin_ms, future = waiting.popleft()
                result = future.result()
                self._note(answer_line(stream, label, begin_ms, result.shard_id, result.sequence_number))
            call += 1

    def _put_records(self, stream: str, labels: list[str], begin_ms: int) -> None:
        entries = [(payload_of(label), label) for label in labels]
        results = self._store.put_records(stream, entries).records
        self._note(
            *(
                answer_line(stream, label, begin_ms, result.shard_id, result.sequence_number)
                for label, result in zip(labels, results, strict=True)
            )
        )

    def _retry(self, retrier: int, number: int) -> None:
        """Go on with the first put that was not answered."""
        while not self._failed.is_set():
            label = f"r{retrier}/{number}/0/1"
            put = self._store.put_record(ONCE, payload_of(label), label, idempotency_key=label)
            self._note(answer_line(ONCE, label, 0, put.shard_id, put.sequence_number))
            number += 1

    def _double(self) -> None:
        with self._store.consumer(ONCE, CONSUMER) as consumer:
            for record in consumer:
                if self._failed.is_set():
                    return
                label = double_of(record.partition_key)
                result = consumer.checkpoint_with_records(DOUBLES, [(payload_of(label), label)]).records[0]
                self._note(answer_line(DOUBLES, label, 0, result.shard_id, result.sequence_number))

    def _reshard(self) -> None:
        dice = random.Random(self._shift.name)
        while not self._failed.is_set():
            stream = dice.choice(STREAMS)
            try:
                closed = self._reshard_once(stream, dice)
            except RequestError:  # somebody else was first
                continue
            self._note(*(f"closed {stream} {shard_id}" for shard_id in closed))
            self._failed.wait(dice.uniform(0.005, 0.02))

    def _reshard_once(self, stream: str, dice: random.Random) -> list[str]:
        """Split, merge or resize, and return the shards that are closed then for certain."""
        listed = self._store.list_shards(stream).shards
        shards = [shard for shard in listed if shard.sequence_number_range.ending_sequence_number is None]
        shards.sort(key=lambda shard: shard.hash_key_range.starting_hash_key)
        if dice.random() < 0.2:
            self._store.update_shard_count(stream, dice.randint(1, OPEN_SHARDS_MAX))
            return []
        if len(shards) > 1 and (len(shards) >= OPEN_SHARDS_MAX or dice.random() < 0.5):
            place = dice.randrange(len(shards) - 1)
            left, right = shards[place : place + 2]
            self._store.merge_shards(stream, left.shard_id, right.shard_id)
            return [left.shard_id, right.shard_id]
        shard = dice.choice(shards)
        at = dice.randint(shard.hash_key_range.starting_hash_key + 1, shard.hash_key_range.ending_hash_key)
        self._store.split_shard(stream, shard.shard_id, str(at))
        return [shard.shard_id]


def answer_line(stream: str, label: str, begin_ms: int, shard_id: str | None, sequence_number: str | None) -> str:
    return f"ack {stream} {shard_id} {sequence_number} {label} {begin_ms}"
