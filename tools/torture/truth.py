"""What an operation says of itself while something fails, held against what the file holds then."""

import _thread
import contextlib
import os
import re
import shutil
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final, Literal, NamedTuple, Self, cast
from unittest import mock

from streamstore import (
    OutcomeUnknownError,
    ResourceNotFoundException,
    StorageError,
    StoreClosedError,
    StreamStore,
    StreamStoreError,
)
from streamstore.engine import Engine
from streamstore.streams import iterate_streams
from streamstore.transaction import ReadTransaction
from tools.torture.operations import AFTER, BESIDE, NOW_MS, SHARD, Operation, Stage
from tools.torture.promises import CheckedStore

__all__ = ["Expected", "Fault", "Told", "contradictions", "copy_store", "expect", "make"]

DATA_FILE: Final = "data.mdb"
MARKS: Final = b"recoveries"
SECRET: Final = b"secret"  # new in each store
ASIDE: Final = (AFTER, BESIDE)
HIDDEN_KEYS: Final = (SECRET, *(name.encode() for name in ASIDE))
STORED_NOTE: Final = re.compile(r"The first ([\d,]+) records are stored")
STORES_BEHIND: Final = 2
LOOKS: Final = 100
LOOK_S: Final = 0.03
CALLS_ON: Final = 2

Word = Literal["done", "refused", "unknown"]
"""What an operation says of itself: it returned; it raised an error by which nothing is changed; neither."""
Content = Mapping[bytes, tuple[tuple[bytes, bytes], ...]]
"""The keys and values of each named database."""


class Fault:
    """Something that fails from ``begin`` to ``end``. This one: nothing."""

    stays = False
    """Whether it goes on failing for a while behind the operation."""

    may_hide_outcome = True
    """Whether an operation may be unable to find out what became of it."""

    def may_raise(self, error: BaseException) -> bool:
        """Tell whether a call that it hits may raise this, which is none of the package and tells of no outcome."""
        del error
        return False

    def begin(self) -> None:
        """Called in front of the operation, by its thread."""

    def end(self) -> None:
        """Called behind it."""


class Told(NamedTuple):
    """What the calls on a store said, while something failed and behind that."""

    word: Word
    result: str
    stored_count: int | None
    """How many records are stored, by the note on the error."""
    puts_beside: range
    """How many puts beside it, of another thread or while the fault lasted, may be stored by what was said of them."""
    puts_behind: int
    """How many were acknowledged."""
    problems: tuple[str, ...]


class State(NamedTuple):
    """What a store holds."""

    problems: list[str]
    """By the check."""
    content: Content
    """Without the streams that no operation touches."""
    puts_beside: int
    puts_behind: int


class Expected(NamedTuple):
    """What an operation does when nothing fails."""

    result: str
    contents: tuple[Content, ...]
    """Of the store: before it, and behind each of its commits."""


def copy_store(template: Path, path: Path) -> None:
    path.mkdir()
    shutil.copyfile(template / DATA_FILE, path / DATA_FILE)


def make(operation: Operation, path: Path, fault: Fault, *, beside: bool = False) -> Told:
    """Make the operation while something fails, go on behind it, and return what all the calls said.

    ``beside``: another thread puts a record at the same time.
    """
    stage = Stage(path)
    before = _Held.now()
    call = operation.ready(stage)
    other = None if stage.store is None or not beside else _Beside(stage.store)
    result: object = None
    failure: BaseException | None = None
    problems: list[str] = []
    try:
        try:
            fault.begin()
            result = call()
        finally:
            if not fault.stays:
                fault.end()
    except BaseException as error:
        failure = error  # held on to, with all that its traceback holds: nothing may wait for that to go
    words: list[Word] = []
    if fault.stays:
        words = [_call_on(stage, fault, problems) for _ in range(CALLS_ON)]
        fault.end()
    if other is not None:
        words.append(other.word(fault, problems))
        other.join()
    word = _word_of(failure, fault, problems)
    if word == "unknown" and not fault.may_hide_outcome:
        problems.append(f"its outcome can be found out, and it raised {failure!r}")
    puts_behind = _go_on(stage, problems, may_be_closed=operation.closes)
    problems += before.left_by_now()
    return Told(
        word,
        repr(result),
        _stored_count(failure),
        range(words.count("done"), len(words) - words.count("refused") + 1),
        puts_behind,
        tuple(problems),
    )


class _Held(NamedTuple):
    """What this process has of the system."""

    threads: int
    descriptors: Counter[str]
    """How many there are for each thing that they stand for."""

    @classmethod
    def now(cls) -> Self:
        descriptors: Counter[str] = Counter()
        for descriptor in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # that of the listing itself
                descriptors[os.readlink(descriptor)] += 1
        return cls(sum(1 for _ in Path("/proc/self/task").iterdir()), descriptors)

    def left_by_now(self) -> list[str]:
        """Return what there is more of than then, also behind some time: threads end by themselves."""
        problems: list[str] = []
        for _ in range(LOOKS):
            now = self.now()
            left = now.descriptors - self.descriptors
            problems = [f"{count} descriptors of {name} are left open" for name, count in left.items()]
            if now.threads > self.threads:
                problems.append(f"{now.threads - self.threads} threads are left")
            if not problems:
                break
            time.sleep(LOOK_S)
        return problems


def _word_of(failure: BaseException | None, fault: Fault, problems: list[str]) -> Word:
    if failure is None:
        return "done"
    if isinstance(failure, OutcomeUnknownError) or fault.may_raise(failure):
        return "unknown"
    if isinstance(failure, StreamStoreError):
        return "refused"
    where = "".join(traceback.format_tb(failure.__traceback__)[-2:])
    problems.append(f"raised {failure!r} at {where}")
    return "unknown"


def _stored_count(failure: BaseException | None) -> int | None:
    for note in getattr(failure, "__notes__", ()):
        if found := STORED_NOTE.search(note):
            return int(found[1].replace(",", ""))
    return None


class _Beside:
    """Another thread, which puts one record, and reads."""

    def __init__(self, store: StreamStore) -> None:
        self._store = store
        self._returned = False
        self._failure: BaseException | None = None
        self._reading_failure: BaseException | None = None
        self._running = threading.Lock()
        self._running.acquire()
        _thread.start_new_thread(self._put_and_read, ())  # not one of threading, which may hang without memory

    def join(self) -> None:
        with self._running:
            pass

    def word(self, fault: Fault, problems: list[str]) -> Word:
        self.join()
        _word_of(self._reading_failure, fault, problems)
        return _word_of(self._failure, fault, problems) if self._returned else "unknown"

    def _put_and_read(self) -> None:
        try:
            try:
                _put_beside(self._store)
            except BaseException as error:
                self._failure = error
            self._returned = True
            try:
                _read_back(self._store)
            except BaseException as error:
                self._reading_failure = error
        finally:
            self._running.release()


def _call_on(stage: Stage, fault: Fault, problems: list[str]) -> Word:
    """Put and read while the fault lasts: whatever becomes of that is told by an error of the package, and why."""
    failures: list[BaseException | None] = [None, None]
    for number, call in enumerate((_put_beside, _read_back)):
        try:
            call(stage.store or stage.open())
        except BaseException as error:
            failures[number] = error
            if not str(error):
                problems.append(f"{type(error).__name__} was raised without a reason")
    _word_of(failures[1], fault, problems)
    return _word_of(failures[0], fault, problems)


def _put_beside(store: StreamStore) -> None:
    store.put_record(BESIDE, b"beside", "key")


def _read_back(store: StreamStore) -> None:
    list(store.read(BESIDE, SHARD))


def _go_on(stage: Stage, problems: list[str], *, may_be_closed: bool) -> int:
    """Put, close and open again, now that nothing fails; return how many puts were acknowledged."""
    acknowledged = 0
    for number in range(STORES_BEHIND):
        try:
            store = stage.store or stage.open()
            _put_behind(store, b"after %d" % number)
            acknowledged += 1
            store.submit_record(AFTER, b"submitted", "key").result()
            acknowledged += 1
            _read_behind(store)
        except StoreClosedError as error:
            if not may_be_closed or number > 0:
                problems.append(f"put {number} behind it raised {error!r}")
        except BaseException as error:
            problems.append(f"put {number} behind it raised {error!r}")
        try:
            stage.close()
        except BaseException as error:
            problems.append(f"closing behind it raised {error!r}")
        stage.store = None
    return acknowledged


def _read_behind(store: StreamStore) -> None:
    with store.tail(AFTER, starting_position="TRIM_HORIZON", idle_timeout_seconds=0) as tail:
        told = sum(1 for _ in tail)
    read = sum(1 for _ in store.read(AFTER, SHARD))
    assert told == read, f"the tail hands out {told} records, and {read} are read"


def _put_behind(store: StreamStore, data: bytes) -> None:
    try:
        store.put_record(AFTER, data, "key")
    except ResourceNotFoundException:  # it is a new store
        store.create_stream(AFTER)
        store.put_record(AFTER, data, "key")


def expect(operation: Operation, template: Path, folder: Path) -> Expected:
    """Make the operation while nothing fails, and remember each state that it leads through."""
    folder.mkdir()
    told = _make_faultless(operation, template, folder / "once", Fault())
    assert told.word == "done", told
    path = folder / "again"
    snapshots = _Snapshots(path, folder)
    _make_faultless(operation._replace(ready=operation.commits or operation.ready), template, path, snapshots)
    contents = [_state_of(snapshot).content for snapshot in snapshots.taken]
    return Expected(told.result, (*contents, _state_of(path).content))


def _make_faultless(operation: Operation, template: Path, path: Path, fault: Fault) -> Told:
    if not operation.is_new:
        copy_store(template, path)
    told = make(operation, path, fault)
    assert not told.problems, told
    return told


class _Snapshots(Fault):
    """Keeps copies of the store: before the first commit, and behind each."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.taken: list[Path] = []
        self._path = path
        self._folder = folder
        commit = cast(Callable[[Engine, object, object], None], vars(Engine)["_commit"])

        def commit_and_copy(engine: Engine, transaction: object, evidence: object) -> None:
            commit(engine, transaction, evidence)
            self._take()

        self._patch = mock.patch.object(Engine, "_commit", commit_and_copy)

    def begin(self) -> None:
        if self._path.exists():
            self._take()
        self._patch.start()

    def end(self) -> None:
        self._patch.stop()

    def _take(self) -> None:
        snapshot = self._folder / f"snapshot {len(self.taken)}"
        copy_store(self._path, snapshot)
        self.taken.append(snapshot)


def contradictions(told: Told, operation: Operation, path: Path, expected: Expected) -> Iterator[str]:
    """Yield everything that was said and is not so. To be asked in another process than that which said it."""
    yield from told.problems
    try:
        state = _state_of(path)
    except StorageError as error:
        yield f"the store cannot be opened: {error!r}"
        return
    yield from state.problems
    yield from _untruths(told, operation, state.content, expected)
    if state.puts_behind != told.puts_behind:
        yield f"{told.puts_behind} of the puts behind it were acknowledged, {state.puts_behind} are stored"
    if state.puts_beside not in told.puts_beside:
        yield f"of the puts beside it {told.puts_beside} are said to be stored, and {state.puts_beside} are"


def _untruths(told: Told, operation: Operation, content: Content, expected: Expected) -> Iterator[str]:
    if told.word == "done":
        if content != expected.contents[-1]:
            yield f"it returned, and is not stored: {_difference(content, expected.contents[-1])}"
        if told.result != expected.result:
            yield f"it returned {told.result}, and should have {expected.result}"
        return
    may_be_half_done = told.word == "unknown" or operation.commits is not None
    allowed = expected.contents if may_be_half_done else expected.contents[:1]
    if content not in allowed:
        yield f"it was {told.word}, and the store is changed: {_difference(content, expected.contents[0])}"
    elif told.word == "refused" and told.stored_count is not None and content != allowed[told.stored_count]:
        yield f"{told.stored_count} records are told to be stored, and others are: {_difference(content, allowed[0])}"


def _difference(found: Content, wanted: Content) -> str:
    names = sorted({*found, *wanted})
    return ", ".join(os.fsdecode(name) for name in names if found.get(name) != wanted.get(name))


def _state_of(path: Path) -> State:
    with CheckedStore(path, read_only=True, clock=lambda: NOW_MS, allow_network_filesystem=True) as store:
        problems = store.problems()
        engine = vars(store)["_engine"]
        assert isinstance(engine, Engine)
        names = store.list_streams().stream_names
        counts = {name: sum(1 for _ in store.read(name, SHARD)) if name in names else 0 for name in ASIDE}
        return State(problems, _content_of(engine), puts_beside=counts[BESIDE], puts_behind=counts[AFTER])


def _content_of(engine: Engine) -> Content:
    """Read a database at a time: a reading begins anew for each page that it is the first to need proved."""
    aside = engine.read(lambda transaction: [s.number for s in iterate_streams(transaction, "") if s.name in ASIDE])
    hidden_prefixes = tuple(number.to_bytes(4, "big") for number in aside)
    hidden_databases = (MARKS, *(b"records/%d/" % number for number in aside))

    def items_of(transaction: ReadTransaction, name: bytes) -> tuple[tuple[bytes, bytes], ...]:
        return tuple(
            (key, value)
            for key, value in transaction.items_from(name, b"")
            if key not in HIDDEN_KEYS and not (name == b"counters" and key.startswith(hidden_prefixes))
        )

    names = [
        name
        for name in engine.read(lambda transaction: transaction.databases())
        if not name.startswith(hidden_databases)
    ]
    return {name: engine.read(partial(items_of, name=name)) for name in names}
