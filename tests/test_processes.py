"""Several processes and many threads on one store: forks, shared shards, readers beside writers, slots of the dead."""

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import lmdb
import pytest

from streamstore import (
    InvalidArgumentException,
    ResourceNotFoundException,
    StorageError,
    StoreForkedError,
    StreamStore,
)
from streamstore import environment as environment_module
from streamstore.check import check_store
from streamstore.engine import Engine
from streamstore.process import ReaderGate
from streamstore.transaction import ReadTransaction
from tests.children import code, command, next_line, run, started, tell
from tests.commits import WAIT_S, environment_of, in_thread
from tests.programs.forks import methods

STREAM: Final = "s"
SHARD: Final = "shard-000000"
SHARD_COUNT: Final = 3


def create(path: Path, shard_count: int = 1) -> None:
    with StreamStore(path) as store:
        store.create_stream(STREAM, shard_count=shard_count)


def datas(store: StreamStore) -> list[bytes]:
    return [record.data for record in store.read(STREAM, SHARD)]


def engine_of(store: StreamStore) -> Engine:
    engine: object = vars(store)["_engine"]
    assert isinstance(engine, Engine)
    return engine


@pytest.mark.slow
def test_a_forked_child_is_refused_and_may_open_its_own_store_while_threads_write(tmp_path: Path) -> None:
    path = tmp_path / "store"
    create(path)
    children = 20
    with StreamStore(path) as store:
        names = list(methods(store, ""))
    printed = run(command("forks", path, children)).splitlines()
    for name in names:
        assert printed.count(f"refused {name}") == children
    with StreamStore(path) as store:
        stored = datas(store)
    assert stored.count(b"parent") == int(printed[-1].removeprefix("parent "))
    for line in printed:
        if line.startswith("child"):
            assert stored[int(line.removeprefix("child "))] == b"child"
    assert stored.count(b"child") == children
    assert check_store(path) == []


def _try_in_child(store: StreamStore, path: Path) -> None:
    with contextlib.suppress(StoreForkedError):
        store.put_record(STREAM, b"inherited", "key")
        os._exit(2)
    with StreamStore(path) as own:
        own.put_record(STREAM, b"child", "key")


def test_a_child_of_multiprocessing_leaves_the_store_of_its_parent_alone(tmp_path: Path) -> None:
    path = tmp_path / "store"
    create(path)
    with StreamStore(path) as store:
        store.put_record(STREAM, b"before", "key")
        child = multiprocessing.get_context("fork").Process(target=_try_in_child, args=(store, path))
        child.start()
        child.join(30)
        assert child.exitcode == 0
        store.put_record(STREAM, b"after", "key")
        assert datas(store) == [b"before", b"child", b"after"]


def test_a_fork_closes_nothing_of_the_parent(tmp_path: Path) -> None:
    """A child that ends without a word, and one that ends as Python ends, with the store as its garbage."""
    path = tmp_path / "store"
    create(path)
    program = """
import os, sys
from streamstore import StreamStore
store = StreamStore(sys.argv[1], sync="off")
store.put_record("s", b"before", "key")
for number in range(2):
    child = os.fork()
    if child == 0:
        if number: os._exit(0)
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    store.put_record("s", b"after", "key")
print(len(list(store.read("s", "shard-000000"))))
"""
    assert run(code(program, path)) == "3\n"
    with StreamStore(path) as store:
        assert datas(store) == [b"before", b"after", b"after"]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "threads"), [(1, 8), (4, 1), (4, 4)])
def test_producers_on_shared_shards_lose_nothing_and_keep_their_order(
    tmp_path: Path, processes: int, threads: int
) -> None:
    path = tmp_path / "store"
    create(path, SHARD_COUNT)
    records = 100
    with contextlib.ExitStack() as stack:
        producers = [
            stack.enter_context(started(command("producer", path, f"p{number}", threads, records)))
            for number in range(processes)
        ]
        printed = "".join(producer.communicate(timeout=120)[0] for producer in producers)
        assert [producer.returncode for producer in producers] == [0] * processes
    results = {tuple(line.split()[:2]): line.split()[2] for line in printed.splitlines()}
    assert len(results) == processes * threads * records
    stored: dict[tuple[str, ...], str] = {}
    with StreamStore(path) as store:
        for shard in store.list_shards(STREAM).shards:
            last: dict[str, int] = {}
            for index, record in enumerate(store.read(STREAM, shard.shard_id)):
                assert int(record.sequence_number) == index
                producer, _, number = record.data.decode().partition("/")
                assert int(number) > last.get(producer, -1)
                last[producer] = int(number)
                stored[shard.shard_id, record.sequence_number] = record.data.decode()
    assert stored == results
    assert check_store(path) == []


def test_a_reading_process_sees_what_a_writing_one_has_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "store"
    create(path)
    with StreamStore(path, read_only=True) as reader, started(command("echo_puts", path)) as writer:
        assert next_line(writer) == "open"
        iterator = reader.get_shard_iterator(STREAM, SHARD, "LATEST")
        for number in range(20):
            tell(writer, f"record {number}")
            assert next_line(writer) == str(number)
            page = reader.get_records(iterator)
            assert [record.data for record in page.records] == [b"record %d" % number]
            assert page.next_shard_iterator is not None
            iterator = page.next_shard_iterator


def test_a_reading_process_never_writes(tmp_path: Path) -> None:
    path = tmp_path / "store"
    create(path)
    before = (path / "data.mdb").read_bytes()
    with StreamStore(path, read_only=True) as store:
        for change in (
            lambda: store.put_record(STREAM, b"", "key"),
            lambda: store.create_stream("t"),
            lambda: store.delete_stream(STREAM),
        ):
            with pytest.raises(InvalidArgumentException, match="read_only"):
                change()
        with pytest.raises(StorageError):
            engine_of(store).write(lambda transaction: transaction.put(b"streams", b"k", b"v"))
        assert datas(store) == []
    assert (path / "data.mdb").read_bytes() == before


def test_a_reader_may_go_on_while_another_process_deletes_its_stream(tmp_path: Path) -> None:
    path = tmp_path / "store"
    create(path)
    with StreamStore(path) as store, StreamStore(tmp_path / "other"):
        store.put_record(STREAM, b"old", "key")
        records = store.read(STREAM, SHARD)
        assert next(records).data == b"old"
        recreate = (
            "import sys; from streamstore import StreamStore\n"
            "with StreamStore(sys.argv[1]) as store:\n"
            "    store.delete_stream('s'); store.create_stream('s'); store.put_record('s', b'new', 'key')"
        )
        run(code(recreate, path))
        with pytest.raises(LookupError):
            next(records)
        assert datas(store) == [b"new"]
        store.put_record(STREAM, b"newer", "key")
        assert datas(store) == [b"new", b"newer"]


def test_handles_of_streams_that_other_processes_deleted_do_not_fill_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store"
    create(path)
    monkeypatch.setattr(environment_module, "NAMED_DATABASES_MAX", 12)
    recreate = (
        "import sys; from streamstore import StreamStore\n"
        "with StreamStore(sys.argv[1]) as store:\n"
        "    store.delete_stream('s'); store.create_stream('s', shard_count=2)"
    )
    with StreamStore(path) as store:
        for number in range(6):
            for hash_key in ("0", str(2**128 - 1)):
                store.put_record(STREAM, b"%d" % number, "key", explicit_hash_key=hash_key)
            assert b"%d" % number in datas(store)
            run(code(recreate, path))
        list(store.read(STREAM, SHARD))
    assert check_store(path) == []


READ_AND_WAIT: Final = """
import sys, threading
from pathlib import Path
from streamstore.engine import Engine
engine = Engine(Path(sys.argv[1]), initial=None, read_only=True, sync="full")
engine.open()
reading = threading.Barrier(int(sys.argv[2]) + 1)
def look(transaction):
    reading.wait()
    threading.Event().wait()
for _ in range(int(sys.argv[2])):
    threading.Thread(target=engine.read, args=(look,), daemon=True).start()
reading.wait()
print("reading", flush=True)
threading.Event().wait()
"""


@pytest.mark.slow
def test_the_slots_of_killed_readers_are_used_again(tmp_path: Path) -> None:
    path = tmp_path / "store"
    create(path)
    with StreamStore(path) as store:
        store.put_record(STREAM, b"first", "key")
        slots = engine_of(store).info()["max_readers"]
        readers_killed = 0
        while readers_killed <= slots:
            with started(code(READ_AND_WAIT, path, 300)) as readers:
                assert next_line(readers) == "reading"
            readers_killed += 300
            assert datas(store) == [b"first"]
        store.put_record(STREAM, b"last", "key")
        assert datas(store) == [b"first", b"last"]


def test_too_many_living_readers_are_refused_and_the_others_read_on(tmp_path: Path) -> None:
    path = tmp_path / "store"
    create(path)
    with StreamStore(path) as store, contextlib.ExitStack() as stack:
        slots = engine_of(store).info()["max_readers"]
        for count in (1000, slots - 1000):
            readers = stack.enter_context(started(code(READ_AND_WAIT, path, count)))
            assert next_line(readers) == "reading"
        with pytest.raises(StorageError, match="readers"):
            datas(store)
        store.put_record(STREAM, b"written", "key")
        os.killpg(readers.pid, signal.SIGKILL)
        readers.wait(30)
        assert datas(store) == [b"written"]


def test_an_iteration_holds_no_snapshot_between_its_records(tmp_path: Path) -> None:
    path = tmp_path / "store"
    create(path)
    with StreamStore(path, sync="off") as store:
        for _ in range(1_500):
            store.put_record(STREAM, b"x" * 100, "key")
        records = store.read(STREAM, SHARD)
        next(records)
        pages = engine_of(store).info()["last_pgno"]
        for _ in range(500):
            store.create_stream("t")
            store.delete_stream("t")
        assert engine_of(store).info()["last_pgno"] < pages + 50
        assert len(list(records)) == 1_499


def test_a_stream_is_deleted_only_when_no_thread_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LMDB gives the slot of the deleted database to the next one, under the feet of whoever still reads."""
    path = tmp_path / "store"
    create(path)
    order: list[str] = []
    reading, deleting, go_on = threading.Event(), threading.Event(), threading.Event()
    alone = ReaderGate.alone

    def look(_: ReadTransaction) -> None:
        reading.set()
        assert go_on.wait(30)
        order.append("read")

    def tell_and_wait(gate: ReaderGate, work: Callable[[], object]) -> object:
        deleting.set()
        return alone(gate, work)

    def delete(store: StreamStore) -> None:
        store.delete_stream(STREAM)
        order.append("deleted")

    with StreamStore(path, sync="off") as store:
        store.put_record(STREAM, b"x", "key")
        monkeypatch.setattr(ReaderGate, "alone", tell_and_wait)
        threads = [threading.Thread(target=engine_of(store).read, args=(look,))]
        threads.append(threading.Thread(target=delete, args=(store,)))
        threads[0].start()
        assert reading.wait(30)
        threads[1].start()
        seen = deleting.wait(10)
        go_on.set()
        for thread in threads:
            thread.join(30)
        assert seen
    assert order == ["read", "deleted"]


def test_a_refused_put_does_not_wait_until_nobody_is_inside_lmdb(tmp_path: Path) -> None:
    """LMDB's binding waits for that in each abort of a write transaction, and a copy of the file takes minutes."""
    path = tmp_path / "store"
    create(path)
    with StreamStore(path) as store:
        environment = environment_of(store).env
        store.put_record(STREAM, bytes(1_000_000), "key")  # more than a pipe holds
        out, into = os.pipe()
        copying = in_thread(functools.partial(environment.copyfd, into))
        try:
            # It has begun and cannot end. The first pages, which it copies as a writer, fit.
            assert len(os.read(out, 1)) == 1
            refused = in_thread(lambda: store.put_record("none", b"x", "key"))
            with pytest.raises(ResourceNotFoundException):
                refused.result(WAIT_S)
        finally:
            os.close(out)
            with pytest.raises(lmdb.Error):
                copying.result(WAIT_S)
            os.close(into)


def test_threads_read_and_write_while_streams_come_and_go(tmp_path: Path) -> None:
    path = tmp_path / "store"
    create(path)
    errors: list[BaseException] = []
    enough = threading.Event()

    def repeat(store: StreamStore, name: str) -> None:
        try:
            while not enough.is_set():
                store.create_stream(name)
                store.put_record(name, b"x", "key")
                assert [record.data for record in store.read(name, SHARD)] == [b"x"]
                store.delete_stream(name)
        except BaseException as error:
            errors.append(error)

    def read_again_and_again(store: StreamStore) -> None:
        try:
            while not enough.is_set():
                numbers = [int(record.sequence_number) for record in store.read(STREAM, SHARD)]
                assert numbers == list(range(len(numbers)))
        except BaseException as error:
            errors.append(error)

    with StreamStore(path, sync="off") as store:
        threads = [threading.Thread(target=repeat, args=(store, name)) for name in ("a", "b")]
        threads += [threading.Thread(target=read_again_and_again, args=(store,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(300):
            store.put_record(STREAM, b"x", "key")
        enough.set()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
    assert errors == []
    assert check_store(path) == []
