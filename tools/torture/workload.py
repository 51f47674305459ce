"""A store at work, recorded: every operation of the public API that writes, by dice, across the deaths of processes.

Each life is a forked child that opens the store, works, and closes it, leaves it, or is killed in a call. The next one
goes on with what the marks in the log tell. Everything a life was told, or shown, is marked: it must last. The same
dice make the same calls: threads are let into one commit in a known order.
"""

import contextlib
import functools
import os
import threading
import traceback
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from random import Random
from typing import Final, NamedTuple, TypeVar
from unittest import mock

from streamstore.errors import OutcomeUnknownError, RequestError, StorageError
from streamstore.model import DialectName, PutRecordResult
from streamstore.request import Request, WakeUps
from streamstore.writer import Writer
from tools.torture import plants
from tools.torture.calls import EVERY_KIND, Calls, Fault, Kind, read_log
from tools.torture.disk import Timeline, replay
from tools.torture.promises import (
    CONSUMER,
    EFFECTS,
    MS_PER_HOUR,
    RESHARDED,
    RETENTION_HOURS,
    SOURCE,
    CheckedStore,
    Mark,
    Promises,
    label_of,
    payload_of,
)

__all__ = ["Workload", "WorkloadEndedError", "record"]

T = TypeVar("T")

LIVES: Final = 6
STEPS_PER_LIFE: Final = 11
OPEN_SHARDS_MAX: Final = 3
START_MS: Final = 1_700_000_000_000
SIZES: Final = ((0, 300), (0, 300), (300, 2_500), (300, 2_500), (4_000, 20_000))
SYNCS: Final = frozenset([Kind.SYNC, Kind.SYNCED_WRITE])
FAILING_SYNCS: Final = ((1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 2), (2, 3), (3, 1), (4, 2))
"""Which of a step fails, and how many in a row. The second is that of the meta page, and the third finds out."""
META_WRITES: Final = frozenset([Kind.SYNCED_WRITE])
WRITES: Final = frozenset([Kind.SYNC, Kind.WRITE])
CREATION_CALLS: Final = 60
OPENINGS_MAX: Final = 10
OTHER: Final = "other"
ERROR: Final = "error"
COMMIT_CALLS: Final = 6


class Workload(NamedTuple):
    """What is done to a store, and what happens to it meanwhile."""

    seed: str
    plant: str | None = None
    are_syncs_failing: bool = False


class WorkloadEndedError(Exception):
    """A process of the workload ended with an error that no call of the store may raise there."""


class _Gate(Request[None]):
    """A request that holds the writer when it is answered, so that all who come behind it share a commit."""

    def __init__(self) -> None:
        super().__init__(lambda _appender: None, 0)
        self.is_held = threading.Event()
        self.is_open = threading.Event()

    def answer(self, wake_ups: WakeUps) -> None:
        del wake_ups
        self.is_held.set()
        self.is_open.wait()


def record(workload: Workload, calls: Calls, folder: Path) -> Timeline:
    """Do the work in a folder of its own, and return what happened to that."""
    root, log = folder / "root", folder / "log"
    root.mkdir(parents=True)
    for life in range(LIVES):
        child = os.fork()
        if child == 0:
            _live(workload, life, calls, root, log)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
            raise WorkloadEndedError(f"Life {life} of the workload ended: {(folder / ERROR).read_text()}")
    return replay(read_log(log), root)


def _live(workload: Workload, life: int, calls: Calls, root: Path, log: Path) -> None:
    """Be the child. Does not return."""
    try:
        plants.plant(workload.plant)
        promises = Promises()
        if log.exists():
            for entry in read_log(log):
                if entry.kind == Kind.MARK:
                    promises.add(Mark.decode(entry.data))
        calls.watch(root)
        calls.record(log)
        _Life(workload, life, calls, promises, root / "store").live()
    except BaseException:
        log.with_name(ERROR).write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)


class _Life:
    """One process, from its opening of the store to its end."""

    def __init__(self, workload: Workload, life: int, calls: Calls, promises: Promises, path: Path) -> None:
        self._workload = workload
        self._is_first = life == 0
        self._dice = Random(f"{workload.seed} {life}")
        self._dialect: DialectName = Random(workload.seed).choice(("aws", "yandex"))
        self._calls = calls
        self._promises = promises
        self._path = path
        self._marking = threading.Lock()
        self._is_dying = False
        self._store: CheckedStore

    def live(self) -> None:
        dice = self._dice
        if self._is_first:
            self._mark(Mark("now", number=START_MS))
            if dice.random() < 0.4:
                self._die_in_one_of(CREATION_CALLS, EVERY_KIND)
        with self._failing_syncs():
            self._open()
        self._mark(Mark("opened"))
        self._see()
        self._set_up()
        steps = dice.randint(STEPS_PER_LIFE // 2, STEPS_PER_LIFE * 3 // 2)
        dies_at = dice.randrange(steps) if dice.random() < 0.6 else None
        for number in range(steps):
            if number == dies_at:
                self._die_in_a_commit()
            # The store may be waiting for a write that reopens it.
            with self._failing_syncs(), contextlib.suppress(StorageError):
                self._step()
        if dice.random() < 0.5:
            self._store.close()

    def _open(self) -> None:
        for attempts_left in reversed(range(OPENINGS_MAX)):
            try:
                self._store = CheckedStore(self._path, clock=lambda: self._promises.now_ms, dialect=self._dialect)
            except StorageError:
                if attempts_left == 0:
                    raise
            else:
                return

    def _see(self) -> None:
        """Mark what the store shows: what anybody has seen must last."""
        for name in sorted({RESHARDED, SOURCE, EFFECTS, *self._promises.streams}):
            known = self._promises.stream(name)
            contents = self._store.contents_of(name)
            if contents.shape != known.shape or known.being_changed:
                self._mark(Mark("shape", name, shape=contents.shape))
            for shard_id, records in contents.records.items():
                for each in records:
                    if int(each.sequence_number) not in known.records.get(shard_id, {}):
                        self._acknowledged(name, label_of(each), shard_id, each.sequence_number, each.arrival_ms)
            if name == EFFECTS:
                self._mark(Mark("effects", number=contents.record_count()))

    def _set_up(self) -> None:
        for name in (RESHARDED,) if self._dialect == "yandex" else (RESHARDED, SOURCE, EFFECTS):
            if not self._store.shape_of(name):
                self._create(name, shard_count=1 if name == EFFECTS else 2)

    def _step(self) -> None:
        steps: list[tuple[int, Callable[[], None]]] = [
            (10, lambda: self._put(RESHARDED, *self._try(RESHARDED))),
            (3, lambda: self._put_batch(RESHARDED)),
            (4, lambda: self._put_crowd(RESHARDED)),
            (2, self._reshard),
            (1, self._trim),
            (1, lambda: self._pass_time(25 * MS_PER_HOUR)),
            (2, self._use_another_stream),
        ]
        if self._dialect == "aws":
            steps += [(3, lambda: self._put_batch(SOURCE)), (3, self._consume)]
        self._pass_time(self._dice.randrange(2_000))
        weights, actions = zip(*steps, strict=True)
        self._dice.choices(actions, weights)[0]()

    # What the steps do.

    def _put(self, stream: str, label: str, key: str | None) -> None:
        self._tell(
            stream,
            label,
            key,
            lambda: self._store.put_record(stream, payload_of(label), label, idempotency_key=key),
        )

    def _put_batch(self, stream: str) -> None:
        tried = [self._try(stream) for _ in range(self._dice.randint(2, 6))]
        entries = [(payload_of(label), label, None, key) for label, key in tried]
        try:
            results = self._store.put_records(stream, entries).records
        except OutcomeUnknownError:
            return
        except StorageError:
            for label, _ in tried:
                self._mark(Mark("refused", stream, label))
            return
        for (label, key), result in zip(tried, results, strict=True):
            assert result.shard_id is not None
            assert result.sequence_number is not None
            self._acknowledged(stream, label, result.shard_id, result.sequence_number, self._promises.now_ms, key)

    def _put_crowd(self, stream: str) -> None:
        """Put from threads, and submit, all in one commit."""
        tried = [self._try(stream) for _ in range(self._dice.randint(1, 3))]
        submitted = [self._try(stream) for _ in range(self._dice.randint(0, 3))]
        with self._held_writer() as (gate, is_queued), ThreadPoolExecutor(len(tried)) as pool:
            waiting: list[Future[None]] = []
            for label, key in tried:
                waiting.append(pool.submit(self._put, stream, label, key))
                is_queued.acquire()
            futures = [
                self._store.submit_record(stream, payload_of(label), label, idempotency_key=key)
                for label, key in submitted
            ]
            gate.set()
            for answer in waiting:
                answer.result()
            for (label, key), future in zip(submitted, futures, strict=True):
                self._tell(stream, label, key, future.result)

    def _reshard(self) -> None:
        shape = self._store.shape_of(RESHARDED)
        by_keys = sorted(shape, key=lambda shard: shard[1])
        way = self._dice.choice(("split", "merge", "resize"))
        if way == "split" and len(shape) < OPEN_SHARDS_MAX:
            shard_id, first, last = self._dice.choice(shape)
            middle = str((first + last) // 2)
            self._change(RESHARDED, "split", lambda: self._store.split_shard(RESHARDED, shard_id, middle))
        elif way == "merge" and len(shape) > 1:
            place = self._dice.randrange(len(shape) - 1)
            pair = by_keys[place][0], by_keys[place + 1][0]
            self._change(RESHARDED, "merge", lambda: self._store.merge_shards(RESHARDED, *pair))
        else:
            count = self._dice.randint(1, OPEN_SHARDS_MAX)
            self._change(RESHARDED, "resize", lambda: self._store.update_shard_count(RESHARDED, count))

    def _use_another_stream(self) -> None:
        if not self._store.shape_of(OTHER):
            self._create(OTHER, shard_count=1)
        elif self._dice.random() < 0.6:
            self._put_batch(OTHER)
        else:
            self._change(OTHER, "delete", lambda: self._store.delete_stream(OTHER))

    def _consume(self) -> None:
        """Store a copy of each record that comes, with the checkpoint behind it."""
        with self._store.consumer(SOURCE, CONSUMER, idle_timeout_seconds=0) as consumer:
            for each in islice(consumer, self._dice.randint(1, 3)):
                consumer.checkpoint_with_records(EFFECTS, [(each.data, each.partition_key)])
                self._mark(Mark("effects", number=self._promises.effects + 1))

    def _trim(self) -> None:
        self._store.trim()

    def _create(self, name: str, *, shard_count: int) -> None:
        hours = RETENTION_HOURS.get(name)
        create = functools.partial(self._store.create_stream, name, shard_count=shard_count, retention_hours=hours)
        self._change(name, "create", create)

    def _pass_time(self, ms: int) -> None:
        self._mark(Mark("now", number=self._promises.now_ms + ms))

    # What is tried, and what is told.

    def _try(self, stream: str) -> tuple[str, str | None]:
        """Return the label of a new record, and its idempotency key if it has one."""
        first, last = self._dice.choice(SIZES)
        label = f"{self._promises.labels}:{self._dice.randint(first, last)}"
        key = f"key {label}" if self._dice.random() < 0.3 else None
        self._mark(Mark("try", stream, label, key=key))
        return label, key

    def _tell(self, stream: str, label: str, key: str | None, put: Callable[[], PutRecordResult]) -> None:
        try:
            result = put()
        except OutcomeUnknownError:
            pass
        except StorageError:
            self._mark(Mark("refused", stream, label))
        else:
            self._acknowledged(stream, label, result.shard_id, result.sequence_number, self._promises.now_ms, key)

    def _change(self, stream: str, what: str, change: Callable[[], object]) -> None:
        """Change the shards of a stream, and mark what it is told of that."""
        before = self._store.shape_of(stream)
        self._mark(Mark("change", stream, what))
        try:
            change()
        except OutcomeUnknownError:
            raise
        except (StorageError, RequestError):
            self._mark(Mark("shape", stream, shape=before))
        else:
            self._mark(Mark("shape", stream, shape=self._store.shape_of(stream)))

    def _acknowledged(
        self, stream: str, label: str, shard_id: str, sequence: str, arrival_ms: int, key: str | None = None
    ) -> None:
        self._mark(Mark("acknowledged", stream, label, shard_id, int(sequence), arrival_ms, key))

    def _mark(self, mark: Mark) -> None:
        with self._marking:
            self._calls.mark(mark.encode())
            self._promises.add(mark)

    # What happens meanwhile.

    def _die_in_a_commit(self) -> None:
        if self._dice.random() < 0.5:
            self._die_in_one_of(COMMIT_CALLS, WRITES)
        else:  # what the next life sees then is in the page cache only
            self._calls.arm(1, Fault.KILLED_AFTERWARDS, kinds=META_WRITES)
            self._is_dying = True

    def _die_in_one_of(self, calls: int, kinds: frozenset[Kind]) -> None:
        fault = self._dice.choice((Fault.KILLED_BEFORE, Fault.KILLED_HALFWAY, Fault.KILLED_AFTERWARDS))
        self._calls.arm(self._dice.randint(1, calls), fault, kinds=kinds)
        self._is_dying = True

    @contextlib.contextmanager
    def _failing_syncs(self) -> Generator[None]:
        """Let some syncs of the block fail, now and then."""
        if self._is_dying or not self._workload.are_syncs_failing or self._dice.random() < 0.5:
            yield
            return
        fault = self._dice.choice((Fault.REFUSED, Fault.FAILED_AFTERWARDS))
        place, times = self._dice.choice(FAILING_SYNCS)
        self._calls.arm(place, fault, kinds=SYNCS, times=times)
        try:
            yield
        finally:
            self._calls.disarm()

    @contextlib.contextmanager
    def _held_writer(self) -> Generator[tuple[threading.Event, threading.Semaphore]]:
        """Hold the writer until the event is set. The semaphore tells of each request that waits behind it."""
        gate, is_queued = _Gate(), threading.Semaphore(0)
        submit = Writer.submit

        def submit_and_tell(writer: Writer, request: Request[object]) -> None:
            try:
                submit(writer, request)
            finally:
                is_queued.release()

        self._store.writer().submit(gate)
        gate.is_held.wait()
        try:
            with mock.patch.object(Writer, "submit", submit_and_tell):
                yield gate.is_open, is_queued
        finally:
            gate.is_open.set()
