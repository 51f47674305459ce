"""The writer: whose thread commits, who shares a commit, what a refusal or an interrupt does to the others, the end."""

import contextlib
import faulthandler
import gc
import threading
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import pytest

from streamstore import (
    ProvisionedThroughputExceededException,
    PutRecordResult,
    ResourceNotFoundException,
    StorageError,
    StoreClosedError,
    StoreLockedError,
    StreamStore,
    writer,
)
from streamstore.check import check_store
from streamstore.engine import Engine
from streamstore.shards import ShardAppender
from streamstore.transaction import WriteTransaction
from tests.children import code, command, next_line, run, started, tell
from tests.commits import environment_of
from tests.programs.forks import methods

T = TypeVar("T")

STREAM: Final = "s"
SHARD: Final = "shard-000000"
WAIT_S: Final = 30
HANG_S: Final = 100
WRITE: Final = """
import sys
from streamstore import StreamStore
from tests.commits import environment_of

with StreamStore(sys.argv[1], sync="off") as store, environment_of(store).env.begin(write=True):
    print("writing", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def no_hang() -> Generator[None]:
    """End the whole run, with the stack of every thread, when a test hangs: its store could not be closed either."""
    faulthandler.dump_traceback_later(HANG_S, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def opened(path: Path) -> StreamStore:
    store = StreamStore(path, sync="off")
    if not store.list_streams().stream_names:
        store.create_stream(STREAM)
    return store


def part_of(store: StreamStore, name: str) -> object:
    return vars(store)[name]


def engine_of(store: StreamStore) -> Engine:
    engine = part_of(store, "_engine")
    assert isinstance(engine, Engine)
    return engine


def writer_of(store: StreamStore) -> writer.Writer:
    found = part_of(store, "_writer")
    assert isinstance(found, writer.Writer)
    return found


def datas(store: StreamStore) -> list[bytes]:
    return [record.data for record in store.read(STREAM, SHARD)]


def in_thread(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive(), "a caller hangs"


class HeldCommit:
    """Lets the next commit begin, and holds it there until a number of requests wait behind it."""

    def __init__(self, store: StreamStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = store
        self.begun = threading.Event()
        self.go_on = threading.Event()
        transact = Engine.write_unrepaired

        def hold(engine: Engine, apply: Callable[[WriteTransaction], T]) -> T:
            if not self.begun.is_set():
                self.begun.set()
                assert self.go_on.wait(WAIT_S)
            return transact(engine, apply)

        monkeypatch.setattr(Engine, "write_unrepaired", hold)
        self.first = in_thread(lambda: store.put_record(STREAM, b"first", "key"))
        assert self.begun.wait(WAIT_S)

    def release_when_waiting(self, count: int) -> None:
        waiting: deque[object] = vars(writer_of(self.store))["_requests"]
        until(lambda: len(waiting) >= count)
        self.go_on.set()
        join([self.first])


def until(condition: Callable[[], bool]) -> None:
    """Wait for a state that no event tells."""
    for _ in range(WAIT_S * 1000):
        if condition():
            return
        threading.Event().wait(0.001)
    pytest.fail("it never comes to that")


def test_a_transaction_begins_and_ends_on_one_thread(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LMDB hangs for ever otherwise."""
    begun: list[int] = []
    transact = Engine.__dict__["_transact"]

    def record_thread(engine: Engine, apply: Callable[[WriteTransaction], object], *, is_alone: bool) -> object:
        def apply_and_record(transaction: WriteTransaction) -> object:
            begun.append(threading.get_ident())
            return apply(transaction)

        try:
            return transact(engine, apply_and_record, is_alone=is_alone)
        finally:
            ended.append(threading.get_ident())

    ended: list[int] = []
    with opened(path) as store:
        writing_ident = getattr(writer_of(store), "_thread_ident")  # noqa: B009
        monkeypatch.setattr(Engine, "_transact", record_thread)
        store.put_record(STREAM, b"alone", "key")
        store.create_stream("t")
        store.delete_stream("t")
        held = HeldCommit(store, monkeypatch)
        waiting = [in_thread(lambda: store.put_record(STREAM, b"x", "key")) for _ in range(4)]
        held.release_when_waiting(4)
        join(waiting)
    assert begun == ended
    assert begun[0] == threading.get_ident()
    assert begun[1] == begun[2] == begun[-1] == writing_ident


def test_who_waits_shares_one_commit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path) as store:
        before = engine_of(store).info()["last_txnid"]
        held = HeldCommit(store, monkeypatch)
        waiting = [in_thread(lambda: store.put_record(STREAM, b"shared", "key")) for _ in range(50)]
        held.release_when_waiting(50)
        join(waiting)
        assert datas(store) == [b"first"] + [b"shared"] * 50
        assert engine_of(store).info()["last_txnid"] == before + 2


def test_who_comes_while_another_process_writes_shares_the_next_commit(path: Path) -> None:
    with opened(path) as store, started(code(WRITE, path)) as other:
        assert next_line(other) == "writing"
        before = engine_of(store).info()["last_txnid"]
        waiting: deque[object] = vars(writer_of(store))["_requests"]
        receipts = [store.submit_record(STREAM, b"first", "key")]
        until(lambda: not waiting)  # the writer thread has it, and waits for the other process
        receipts += [store.submit_record(STREAM, b"later", "key") for _ in range(50)]
        tell(other)
        assert [int(receipt.result(WAIT_S).sequence_number) for receipt in receipts] == list(range(51))
        assert datas(store) == [b"first"] + [b"later"] * 50
        assert engine_of(store).info()["last_txnid"] == before + 1


def test_threads_that_never_rest_share_commits(path: Path) -> None:
    with StreamStore(path) as store:
        store.create_stream(STREAM)
        before = engine_of(store).info()["last_txnid"]

        def produce() -> None:
            for _ in range(20):
                store.put_record(STREAM, b"x", "key")

        join([in_thread(produce) for _ in range(32)])
        assert len(datas(store)) == 640
        assert engine_of(store).info()["last_txnid"] - before < 640 / 4


def test_a_commit_holds_no_more_requests_and_bytes_than_it_may(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, value in (("COMMIT_REQUESTS_MAX", 10), ("COMMIT_BYTES_MAX", 10 * 1000)):
        with monkeypatch.context() as patched, opened(path) as store:
            patched.setattr(writer, limit, value)
            before = engine_of(store).info()["last_txnid"]
            held = HeldCommit(store, patched)
            waiting = [in_thread(lambda: store.put_record(STREAM, bytes(1000), "key")) for _ in range(30)]
            held.release_when_waiting(30)
            join(waiting)
            assert engine_of(store).info()["last_txnid"] == before + 4


def test_a_refusal_takes_nothing_from_its_neighbours(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: list[object] = []

    def attempt(action: Callable[[], object]) -> None:
        try:
            outcomes.append(action())
        except Exception as error:
            outcomes.append(type(error))

    with opened(path) as store:
        store.create_stream("slow", write_quota_kb_per_sec=128)
        store.put_record("slow", bytes(200_000), "key")
        before = engine_of(store).info()["last_txnid"]
        held = HeldCommit(store, monkeypatch)
        waiting = [
            in_thread(lambda: attempt(lambda: store.put_record(STREAM, b"good", "key"))),
            in_thread(lambda: attempt(lambda: store.put_record("missing", b"", "key"))),
            in_thread(lambda: attempt(lambda: store.put_record("slow", b"x", "key"))),
            in_thread(lambda: attempt(lambda: store.put_record(STREAM, b"good", "key"))),
        ]
        held.release_when_waiting(4)
        join(waiting)
        assert datas(store) == [b"first", b"good", b"good"]
        assert engine_of(store).info()["last_txnid"] == before + 2
    assert len([outcome for outcome in outcomes if isinstance(outcome, PutRecordResult)]) == 2
    assert ResourceNotFoundException in outcomes
    assert ProvisionedThroughputExceededException in outcomes


def test_a_bug_in_one_request_stores_nothing_and_the_writer_lives_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[StorageError] = []

    def attempt(apply: Callable[[ShardAppender], object]) -> None:
        try:
            writer_of(store).execute(apply, payload_bytes=0)
        except StorageError as error:
            failures.append(error)

    def put_in(appender: ShardAppender) -> None:
        appender.flush().put(b"streams", b"never", b"stored")

    def fail(_: ShardAppender) -> object:
        raise ZeroDivisionError("planted by the test")

    with opened(path) as store:
        held = HeldCommit(store, monkeypatch)
        waiting = [in_thread(lambda: attempt(put_in)), in_thread(lambda: attempt(fail))]
        held.release_when_waiting(2)
        join(waiting)
        assert len(failures) == 2
        assert len(set(map(id, failures))) == 2  # each waiter raises an error of its own
        assert all("ZeroDivisionError" in str(failure) for failure in failures)
        store.put_record(STREAM, b"after", "key")
        with pytest.raises(StorageError, match="ZeroDivisionError"):
            writer_of(store).execute(fail, payload_bytes=0)
        assert datas(store) == [b"first", b"after"]
    assert check_store(path) == []


def test_everything_is_refused_after_close(path: Path) -> None:
    store = opened(path)
    iterator = store.get_shard_iterator(STREAM, SHARD, "LATEST")
    store.close()
    store.close()
    for method in methods(store, iterator).values():
        with pytest.raises(StoreClosedError):
            method()
    with opened(path) as again:
        assert datas(again) == []


def test_an_iterator_over_records_ends_with_the_store(path: Path) -> None:
    with opened(path) as store:
        store.put_record(STREAM, b"x", "key")
        records = store.read(STREAM, SHARD)
        next(records)
    with pytest.raises(StoreClosedError):
        next(records)


def test_closing_answers_every_put_and_what_it_says_is_true(path: Path) -> None:
    for _ in range(20):
        store = opened(path)
        before = len(datas(store))
        acknowledged: list[str] = []
        putting = threading.Barrier(65)

        def put(store: StreamStore, barrier: threading.Barrier, sequences: list[str]) -> None:
            barrier.wait(WAIT_S)
            with contextlib.suppress(StoreClosedError):
                while True:
                    sequences.append(store.put_record(STREAM, b"x", "key").sequence_number)

        threads = [in_thread(partial(put, store, putting, acknowledged)) for _ in range(64)]
        putting.wait(WAIT_S)
        closers = [in_thread(store.close) for _ in range(2)]
        join(closers)
        opened(path).close()  # whoever closed it, it is closed when the call returns
        join(threads)
        with opened(path) as again:
            stored = len(datas(again))
        assert sorted(map(int, acknowledged)) == list(range(before, stored))
    assert check_store(path) == []


def test_a_put_that_comes_in_behind_the_end_is_refused_and_not_forgotten(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It saw the store open, and then the writer thread ended before it was in the queue."""
    refusals: list[StoreClosedError] = []

    def put() -> None:
        try:
            writer_of(store).execute_on_writer_thread(ShardAppender.flush)
        except StoreClosedError as error:
            refusals.append(error)

    def leave_open(_: Engine) -> None:
        pass

    store = opened(path)
    with monkeypatch.context() as patched:
        patched.setattr(Engine, "close", leave_open)
        store.close()
        vars(writer_of(store))["_accepting"] = True
        join([in_thread(put)])
    assert len(refusals) == 1
    engine_of(store).close()


def test_a_store_that_nobody_uses_any_more_is_closed(path: Path) -> None:
    store = opened(path)
    store.create_stream("t")
    store.put_record(STREAM, b"x", "key")
    with pytest.raises(StoreLockedError):
        opened(path)
    del store
    gc.collect()
    with opened(path) as again:
        assert datas(again) == [b"x"]


@pytest.mark.parametrize("sync", ["full", "normal", "off"])
def test_a_store_is_closed_when_the_program_ends(path: Path, sync: str) -> None:
    opened(path).close()
    program = (
        "import os, sys\n"
        "from streamstore import StreamStore, engine\n"
        "close = engine.Engine.close\n"
        "def tell(self):\n"
        "    close(self)\n"
        "    os.write(1, b'closed')\n"
        "engine.Engine.close = tell\n"
        "store = StreamStore(sys.argv[1], sync=sys.argv[2])\n"
        "store.put_record('s', b'x', 'key')\n"
        "os.write(1, b'ending ')\n"
    )
    assert run(code(program, path, sync)) == "ending closed"
    with opened(path) as store:
        assert datas(store) == [b"x"]


def test_a_failed_last_sync_is_told_and_the_store_is_closed_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(path)

    class Unsyncable:
        def sync(self, _: bool) -> None:
            raise OSError(5, "planted by the test")

        def close(self) -> None:
            env.close()

    env = environment_of(store).env
    monkeypatch.setattr(environment_of(store), "env", Unsyncable())
    with pytest.raises(StorageError, match="planted"):
        store.close()
    opened(path).close()
    store.close()


@pytest.mark.slow
def test_interrupts_hurt_nobody_but_the_call_that_they_end(path: Path) -> None:
    assert run(command("interrupts", path, 5_000)) == "stored\n"
