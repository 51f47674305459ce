"""The engine: errors translated, outcomes of commits found out, the map and the file that grow."""

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import lmdb
import pytest

from streamstore import (
    OutcomeUnknownError,
    StorageError,
    StoreFormatError,
    StoreFullError,
    StoreNotFoundError,
    StreamStore,
)
from streamstore.check import check_store
from streamstore.engine import Engine
from streamstore.folder import FolderLock
from streamstore.library import translate
from streamstore.transaction import ReadTransaction, WriteTransaction
from tests.children import code, command, next_line, run, started, tell
from tests.commits import WAIT_S, engine_of, environment_of, fail_meta_writes, in_thread
from tests.interrupts import interrupted_everywhere

T = TypeVar("T")
Commit = Callable[["lmdb.Transaction[bytes]"], None]

STREAM: Final = "s"
SHARD: Final = "shard-000000"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    with StreamStore(path) as store:
        store.create_stream(STREAM)
    return path


def datas(store: StreamStore) -> list[bytes]:
    return [record.data for record in store.read(STREAM, SHARD)]


# What becomes of each error of py-lmdb. An error that is not in this table is one that nobody has decided on.
TRANSLATIONS: Final[dict[type[lmdb.Error], type[StorageError]]] = {
    lmdb.Error: StorageError,
    lmdb.BadChecksumError: StorageError,
    lmdb.BadDbiError: StorageError,
    lmdb.BadRslotError: StorageError,
    lmdb.BadTxnError: StorageError,
    lmdb.BadValsizeError: StorageError,
    lmdb.CorruptedError: StoreFormatError,
    lmdb.CryptoFailError: StorageError,
    lmdb.CursorFullError: StorageError,
    lmdb.DbsFullError: StorageError,
    lmdb.DiskError: StoreFullError,
    lmdb.EnvEncryptionError: StorageError,
    lmdb.IncompatibleError: StoreFormatError,
    lmdb.InvalidError: StoreFormatError,
    lmdb.InvalidParameterError: StorageError,
    lmdb.KeyExistsError: StorageError,
    lmdb.LockError: StorageError,
    lmdb.MapFullError: StoreFullError,
    lmdb.MapResizedError: StorageError,
    lmdb.MemoryError: StorageError,
    lmdb.NotFoundError: StorageError,
    lmdb.PageFullError: StorageError,
    lmdb.PageNotFoundError: StoreFormatError,
    lmdb.PanicError: StorageError,
    lmdb.ProblemError: StorageError,
    lmdb.ReadersFullError: StorageError,
    lmdb.ReadonlyError: StorageError,
    lmdb.TlsFullError: StorageError,
    lmdb.TxnFullError: StorageError,
    lmdb.VersionMismatchError: StoreFormatError,
}
MACHINE_ERRORS: Final[dict[int, type[StorageError]]] = {
    errno.ENOSPC: StoreFullError,
    errno.EDQUOT: StoreFullError,
    errno.EFBIG: StoreFullError,
    errno.EIO: StorageError,
    errno.EACCES: StorageError,
    errno.EROFS: StorageError,
    errno.EMFILE: StorageError,
    errno.ENOLCK: StorageError,
    errno.ENOENT: StoreNotFoundError,
    errno.ENOTDIR: StorageError,
}


def test_every_error_of_lmdb_has_been_decided_on() -> None:
    exported = {value for value in vars(lmdb).values() if isinstance(value, type) and issubclass(value, lmdb.Error)}
    assert exported | {lmdb.Error} | set(lmdb.Error.__subclasses__()) == set(TRANSLATIONS)


@pytest.mark.parametrize("lmdb_error", TRANSLATIONS)
def test_an_error_of_lmdb_is_translated_with_its_reason(lmdb_error: type[lmdb.Error]) -> None:
    error = translate(lmdb_error("the reason"), "open it")
    assert type(error) is TRANSLATIONS[lmdb_error]
    assert "the reason" in str(error)
    assert "open it" in str(error)


@pytest.mark.parametrize("number", MACHINE_ERRORS)
def test_an_error_of_the_machine_is_translated_with_its_reason(number: int) -> None:
    error = translate(OSError(number, os.strerror(number)), "open it")
    assert type(error) is MACHINE_ERRORS[number]
    assert os.strerror(number) in str(error)


def test_want_of_memory_is_translated() -> None:
    assert type(translate(MemoryError(), "open it")) is StorageError


class FailingTransaction:
    """A write transaction whose commit is one of the test's."""

    def __init__(self, transaction: "lmdb.Transaction[bytes]", commit: Commit) -> None:
        self._transaction = transaction
        self._commit = commit

    def commit(self) -> None:
        self._commit(self._transaction)

    def __getattr__(self, name: str) -> object:
        return getattr(self._transaction, name)


def fail_next_commit(store: StreamStore, monkeypatch: pytest.MonkeyPatch, commit: Commit) -> None:
    original: Callable[..., None] = Engine.__dict__["_commit"]

    def commit_once(engine: Engine, transaction: "lmdb.Transaction[bytes]", evidence: object) -> None:
        monkeypatch.setattr(Engine, "_commit", original)
        original(engine, FailingTransaction(transaction, commit), evidence)

    assert engine_of(store).info()
    monkeypatch.setattr(Engine, "_commit", commit_once)


def commit_and_fail(transaction: "lmdb.Transaction[bytes]") -> None:
    transaction.commit()
    raise lmdb.Error("planted by the test")


def fail(transaction: "lmdb.Transaction[bytes]") -> None:
    transaction.abort()
    raise lmdb.Error("planted by the test")


def always(_: Engine) -> bool:
    return True


@pytest.mark.parametrize("in_another_process", [False, True])
def test_a_commit_that_took_place_is_told_as_stored_whatever_comes_after_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, in_another_process: bool
) -> None:
    with StreamStore(path) as store, started(command("echo_puts", path)) as other:
        assert next_line(other) == "open"

        def commit_and_let_another_one_write(transaction: "lmdb.Transaction[bytes]") -> None:
            transaction.commit()
            if in_another_process:
                tell(other, "theirs")
                assert next_line(other) == "1"
            raise lmdb.Error("planted by the test")

        fail_next_commit(store, monkeypatch, commit_and_let_another_one_write)
        assert store.put_record(STREAM, b"ours", "key").sequence_number == "0"
        assert datas(store) == [b"ours", b"theirs"][: 1 + in_another_process]


def test_a_commit_that_did_not_take_place_is_told_as_not_stored_even_if_another_record_took_its_number(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even in the same millisecond, when the counter of the shard is the same."""
    program = (
        "import sys; from streamstore import StreamStore\n"
        "with StreamStore(sys.argv[1], clock=lambda: 7) as store: store.put_record('s', b'theirs', 'key')"
    )
    with StreamStore(path, clock=lambda: 7) as store:

        def fail_and_let_another_one_write(transaction: "lmdb.Transaction[bytes]") -> None:
            transaction.abort()
            run(code(program, path))
            raise lmdb.Error("planted by the test")

        fail_next_commit(store, monkeypatch, fail_and_let_another_one_write)
        with pytest.raises(StorageError, match="nothing was stored"):
            store.put_record(STREAM, b"ours", "key")
        assert datas(store) == [b"theirs"]


def undo(transaction: WriteTransaction) -> None:
    """Change the entry of the stream, and change it back."""
    entry = transaction.get(b"streams", STREAM.encode()) or b""
    transaction.put(b"streams", STREAM.encode(), b"other")
    transaction.put(b"streams", STREAM.encode(), entry)


def come_and_go(transaction: WriteTransaction) -> None:
    """Create something, and delete it."""
    transaction.put(b"streams", b"new", b"other")
    transaction.delete(b"streams", b"new")


@pytest.mark.parametrize("change_nothing", [undo, come_and_go])
@pytest.mark.parametrize("commit", [fail, commit_and_fail])
@pytest.mark.parametrize("seen_before", [False, True])
def test_changes_that_undo_each_other_prove_nothing_of_the_record_beside_them(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change_nothing: Callable[[WriteTransaction], None],
    commit: Commit,
    seen_before: bool,
) -> None:
    """Requests of several callers share a commit: the last change may leave its key as it was before all of them."""

    def put_and_change_nothing(transaction: WriteTransaction) -> None:
        transaction.append(b"records/1/0", [(bytes(8), b"record")])
        change_nothing(transaction)

    def look(transaction: ReadTransaction) -> bytes | None:
        return transaction.get(b"records/1/0", bytes(8))

    with StreamStore(path) as store:
        engine = engine_of(store)
        if seen_before:
            store.list_streams()
        fail_next_commit(store, monkeypatch, commit)
        if commit is fail:
            with pytest.raises(StorageError, match="nothing was stored"):
                engine.write(put_and_change_nothing)
            assert engine.read(look) is None
        else:
            engine.write(put_and_change_nothing)
            assert engine.read(look) == b"record"


def test_while_the_file_cannot_be_reopened_nothing_is_acknowledged_and_then_writing_resumes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: FolderLock) -> None:
        raise OSError(errno.EIO, "planted by the test")

    with StreamStore(path) as store:
        store.put_record(STREAM, b"before", "key")
        with monkeypatch.context() as broken:
            broken.setattr(FolderLock, "sync_data_file", refuse)
            broken.setattr(Engine, "_is_panicking", always)
            fail_next_commit(store, broken, commit_and_fail)
            with pytest.raises(OutcomeUnknownError, match="planted"):
                store.put_record(STREAM, b"unknown", "key")
            for _ in range(3):
                with pytest.raises(StorageError, match="planted") as refused:
                    store.put_record(STREAM, b"never", "key")
                assert type(refused.value) is StorageError
                with pytest.raises(StorageError, match="next write tries"):
                    datas(store)
        store.put_record(STREAM, b"after", "key")
        assert datas(store) == [b"before", b"unknown", b"after"]
    assert check_store(path) == []


def test_readers_go_on_while_commits_fail(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong: list[object] = []
    enough = threading.Event()

    def read(store: StreamStore) -> None:
        while not enough.is_set():
            try:
                if not set(datas(store)) <= {b"good"}:
                    wrong.append("read what was never stored")
            except StorageError as error:
                wrong.append(error)

    with StreamStore(path) as store:
        reader = threading.Thread(target=read, args=(store,))
        reader.start()
        for _ in range(30):
            with monkeypatch.context() as broken:
                broken.setattr(Engine, "_is_panicking", always)
                fail_next_commit(store, broken, fail)
                with pytest.raises(StorageError):
                    store.put_record(STREAM, b"bad", "key")
            store.put_record(STREAM, b"good", "key")
        enough.set()
        reader.join(30)
        assert not reader.is_alive()
        assert datas(store) == [b"good"] * 30
    assert [error for error in wrong if "recovering" not in str(error)] == []


@pytest.mark.slow
def test_an_interrupt_anywhere_in_a_commit_that_fails_stops_nobody_behind_it(path: Path) -> None:
    with StreamStore(path) as store:

        def put() -> object:
            fail_meta_writes(path)
            return store.put_record(STREAM, b"failed", "key")

        for behind, error in enumerate(interrupted_everywhere(put)):
            assert isinstance(error, (KeyboardInterrupt, StorageError)), error
            try:
                assert in_thread(lambda: datas(store)).result(WAIT_S).count(b"behind") == behind
            except StorageError as told:
                assert "next write tries" in str(told)  # noqa: PT017 - it may as well read
            with contextlib.suppress(StorageError):  # if the interrupt came before the commit could fail
                store.put_record(STREAM, b"failed", "key")
            store.put_record(STREAM, b"behind", "key")
            assert datas(store).count(b"behind") == behind + 1
    assert check_store(path) == []


def test_the_map_grows_under_readers_and_writers_of_several_processes(path: Path) -> None:
    payload = bytes(500_000)
    with (
        StreamStore(path, map_size=2**20, sync="off") as store,
        started(command("echo_puts", path, "--small-map")) as other,
        started(command("echo_puts", path, "--small-map", "--read")) as reader,
    ):
        assert next_line(other) == next_line(reader) == "open"
        for number in range(100):
            store.put_record(STREAM, payload, "key")
            if number % 10 == 0:
                tell(other, "small")
                next_line(other)
                tell(reader)
                assert next_line(reader) == str(len(datas(store)))
        assert engine_of(store).info()["map_size"] > 50_000_000
        assert sorted(set(datas(store))) == [payload, b"small"]
    assert check_store(path) == []


def test_without_address_space_the_map_is_smaller_and_what_does_not_fit_is_refused(path: Path) -> None:
    program = """
import resource, sys
from streamstore import StoreFullError, StreamStore
spare, top = resource.getrlimit(resource.RLIMIT_AS)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100 * 2**20, top))
with StreamStore(sys.argv[1], sync="off") as store:
    stored = 0
    for _ in range(2):
        try:
            while True:
                store.put_record("s", bytes(1_000_000), "key")
                stored += 1
        except StoreFullError as error:
            assert "ulimit -v" in str(error), error
    assert stored > 5
    assert len(store.get_records(store.get_shard_iterator("s", "shard-000000", "TRIM_HORIZON"), limit=3).records) == 3
    resource.setrlimit(resource.RLIMIT_AS, (top, top))
    store.put_record("s", b"last", "key")
    assert sum(1 for record in store.read("s", "shard-000000")) == stored + 1
print("resumed")
"""
    # Of more arenas the C library would take 64 MiB each, at a moment that chance decides, and leave too little.
    assert run(["env", "MALLOC_ARENA_MAX=1", *code(program, path)]) == "resumed\n"
    assert check_store(path) == []


def test_the_file_grows_ahead_of_small_commits(path: Path) -> None:
    with StreamStore(path) as store:
        for _ in range(100):
            store.put_record(STREAM, b"x", "key")
        needed = (engine_of(store).info()["last_pgno"] + 1) * os.sysconf("SC_PAGE_SIZE")
        assert (path / "data.mdb").stat().st_size > needed


def test_growing_ahead_never_writes_over_data_of_other_processes(path: Path) -> None:
    with StreamStore(path, sync="off") as store, started(command("producer", path, "other", 2, 400)) as other:
        for number in range(400):
            store.put_record(STREAM, b"ours/%d" % number, "key")
        assert other.communicate(timeout=60)[0].count("other") == 800
        assert len(datas(store)) == 1200
    assert check_store(path) == []


def test_a_commit_does_not_need_the_zeros_ahead_of_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[int] = []

    def refuse(_: FolderLock, count_bytes: int) -> None:
        attempts.append(count_bytes)
        raise OSError(errno.EIO, "planted by the test")

    monkeypatch.setattr(FolderLock, "append_zeros", refuse)
    with StreamStore(path, sync="off") as store:
        for _ in range(100):
            store.put_record(STREAM, bytes(10_000), "key")
        assert datas(store) == [bytes(10_000)] * 100
    assert attempts


def test_what_apply_raises_comes_through_and_nothing_is_stored(path: Path) -> None:
    def put_and_fail(transaction: WriteTransaction) -> None:
        transaction.put(b"streams", b"never", b"stored")
        raise ZeroDivisionError

    with StreamStore(path) as store:
        engine = engine_of(store)
        with pytest.raises(ZeroDivisionError):
            engine.write(put_and_fail)
        assert engine.read(lambda transaction: transaction.get(b"streams", b"never")) is None


def test_a_write_within_a_write_is_refused_and_the_outer_one_is_whole(path: Path) -> None:
    refusals: list[StorageError] = []

    def write_again(transaction: WriteTransaction) -> None:
        transaction.put(b"streams", b"k", b"outer")
        try:
            engine.write(lambda inner: inner.put(b"streams", b"k", b"inner"))
        except StorageError as error:
            refusals.append(error)

    with StreamStore(path) as store:
        engine = engine_of(store)
        engine.write(write_again)
        assert engine.read(lambda transaction: transaction.get(b"streams", b"k")) == b"outer"
        engine.write(lambda transaction: transaction.delete(b"streams", b"k"))
    assert len(refusals) == 1


def test_a_read_knows_nothing_of_databases_that_are_opened_while_it_looks(path: Path) -> None:
    """LMDB refuses a handle that is younger than the transaction: its slot is not in the snapshot's table."""
    with StreamStore(path) as store:
        engine = engine_of(store)

        def look(transaction: ReadTransaction) -> list[tuple[bytes, bytes]]:
            in_thread(lambda: engine.write(lambda writing: writing.put(b"new", b"key", b"value"))).result(WAIT_S)
            return list(transaction.items_from(b"new", b""))

        assert engine.read(look) == []
        assert engine.read(lambda transaction: list(transaction.items_from(b"new", b""))) == [(b"key", b"value")]
        engine.write(lambda writing: writing.drop(b"new"))


class WatchedEnvironment:
    """LMDB's environment, and the names of the handles that are opened in it."""

    def __init__(self, env: lmdb.Environment) -> None:
        self._env = env
        self.opened: list[bytes] = []

    def open_db(self, name: bytes, txn: "lmdb.Transaction[bytes] | None" = None, *, create: bool = True) -> object:
        self.opened.append(name)
        return self._env.open_db(name, txn=txn, create=create)

    def __getattr__(self, name: str) -> object:
        return getattr(self._env, name)


def test_a_handle_that_is_there_is_not_opened_again(path: Path) -> None:
    """Where py-lmdb has no memory for the second one, it closes the first too."""
    with StreamStore(path) as store:
        store.list_streams()
        environment = environment_of(store)
        handle = environment.handles[b"streams"]
        environment.open_handle(b"streams")  # as a second reader does that missed it too
        assert environment.handles[b"streams"] is handle


def test_neither_finding_out_an_outcome_nor_a_mark_opens_a_handle_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others go on using the one that is there, and py-lmdb would close it where it has no memory for the second."""
    with StreamStore(path) as store:
        store.put_record(STREAM, b"before", "key")
        engine_of(store).write(WriteTransaction.mark)
        environment = environment_of(store)
        watched = WatchedEnvironment(environment.env)
        monkeypatch.setattr(environment, "env", watched)
        fail_next_commit(store, monkeypatch, fail)
        with pytest.raises(StorageError, match="nothing was stored"):
            store.put_record(STREAM, b"never", "key")
        environment.commit_mark()
        assert watched.opened == []
        store.put_record(STREAM, b"after", "key")
        assert datas(store) == [b"before", b"after"]
