"""What LMDB does to whoever trusts it: each hazard brought about against the engine, which has a defence.

A case is a function of a new folder, run in a forked child of its own, with the library of ``tools.torture.calls`` in
front. It yields what did not hold, in sentences; a hang or a signal is one more. The cases of a row are variants of it.
"""

import contextlib
import errno
import functools
import itertools
import multiprocessing
import os
import random
import resource
import shutil
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Final, cast
from unittest import mock

from streamstore import (
    CorruptRecordError,
    InvalidArgumentException,
    OutcomeUnknownError,
    StorageError,
    StoreClosedError,
    StoreForkedError,
    StoreFormatError,
    StoreFullError,
    StoreLockedError,
    StoreNotFoundError,
    StreamStore,
    check_store_apart,
    environment,
    folder,
)
from streamstore.databases import records_database
from streamstore.disk_format import RecordFormat, record_key
from streamstore.engine import Engine
from streamstore.errors import StreamStoreError
from streamstore.model import StreamNumber
from streamstore.transaction import WriteTransaction
from tools.torture.calls import Calls, Fault, Kind, read_log
from tools.torture.worker import Ended, run_in_child

__all__ = ["HAZARDS", "Case"]

Case = Callable[[Path], Iterator[str]]

STREAM: Final = "s"
SHARD: Final = "shard-000000"
HOUR_MS: Final = 3_600_000
NOW_MS: Final = 1_700_000_000_000
JOIN_S: Final = 0.2
SYNCS: Final = frozenset({Kind.SYNC})
META_WRITES: Final = frozenset({Kind.SYNCED_WRITE})
PAYLOAD: Final = b"a payload that is found again in the file "
SMALL_FILE_BYTES: Final = 1_500_000
LARGE_BYTES: Final = 20_000
READERS_MAX: Final = 8
LOCK_FILE_BYTES: Final = 1_024
SLOT_BYTES: Final = 64
CALLS_OF_CREATION_MIN: Final = 20


def _new(path: Path, **options: object) -> StreamStore:
    """Make a store with one stream of one shard and one record."""
    make = cast(Callable[..., StreamStore], functools.partial(StreamStore, allow_network_filesystem=True))
    store = make(path, **options)
    store.create_stream(STREAM, retention_hours=1)
    store.put_record(STREAM, b"first", "key")
    return store


def _again(path: Path, *, create: bool = True, read_only: bool = False) -> StreamStore:
    return StreamStore(path, create=create, read_only=read_only, allow_network_filesystem=True)


def _datas(store: StreamStore) -> list[bytes]:
    return [record.data for record in store.read(STREAM, SHARD)]


def _in_child(work: Callable[[], object]) -> str | None:
    """Do it in a forked child, and return the name of the error of this package that it raised; None: it returned."""

    def told() -> str | None:
        try:
            work()
        except StreamStoreError as error:
            return type(error).__name__
        return None

    done = run_in_child(told)
    return done.sentence if isinstance(done, Ended) else done


def _expect(kind: type[BaseException], call: Callable[[], object], what: str) -> Iterator[str]:
    try:
        call()
    except kind:
        return
    except BaseException as error:
        yield f"{what} was refused with {error!r}, not with {kind.__name__}."
    else:
        yield f"{what} was not refused with {kind.__name__}."


def _still_works(store: StreamStore, expected: list[bytes]) -> Iterator[str]:
    """The store takes one more record, and holds these."""
    store.put_record(STREAM, b"last", "key")
    if (found := _datas(store)) != [*expected, b"last"]:
        yield f"The store holds {[data[:10] for data in found]}, and not the acknowledged {len(expected) + 1}."


@contextlib.contextmanager
def _file_limit(size_bytes: int) -> Generator[None]:
    """Let no file grow beyond this: a full disk, as the engine sees it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _threads_that_write(path: Path) -> Iterator[str]:
    with _new(path) as store:
        threads = [threading.Thread(target=store.put_record, args=(STREAM, b"t", "key")) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        futures = [store.submit_record(STREAM, b"t", "key") for _ in range(8)]
        for future in futures:
            future.result()
        yield from _still_works(store, [b"first", *[b"t"] * 16])


def _lock_dropped(drop: Callable[[Path], object]) -> Case:
    def case(path: Path) -> Iterator[str]:
        with _new(path) as store:
            drop(path)
            outcome = _in_child(lambda: _put_elsewhere(path))
            if outcome != "StoreLockedError":
                yield f"The second process was not refused, and ended so: {outcome}."
            yield from _still_works(store, [b"first"])
        with _again(path) as store:
            yield from _still_works(store, [b"first", b"last"])

    return case


def _put_elsewhere(path: Path) -> None:
    with mock.patch.object(folder, "JOIN_TIMEOUT_S", JOIN_S), _again(path) as store:
        store.put_record(STREAM, b"elsewhere", "key")


def _fork_by_os(path: Path) -> Iterator[str]:
    with _new(path) as store:
        outcome = _in_child(lambda: store.put_record(STREAM, b"child", "key"))
        if outcome != "StoreForkedError":
            yield f"A put in the forked child ended so: {outcome}."
        yield from _still_works(store, [b"first"])


def _put_in_child(store: StreamStore) -> None:
    try:
        store.put_record(STREAM, b"child", "key")
    except StoreForkedError:
        os._exit(7)


def _fork_by_multiprocessing(path: Path) -> Iterator[str]:
    with _new(path) as store:
        process = multiprocessing.get_context("fork").Process(target=_put_in_child, args=(store,))
        process.start()
        process.join()
        if process.exitcode != 7:
            yield f"A put in the child of multiprocessing was not refused: {process.exitcode}."
        yield from _still_works(store, [b"first"])


def _killed_in_the_meta_write(path: Path) -> Iterator[str]:
    calls = Calls.in_front()
    calls.watch(path.parent)

    def put_and_die() -> None:
        with _again(path) as store:
            calls.arm(1, Fault.KILLED_AFTERWARDS, kinds=META_WRITES)
            store.put_record(STREAM, b"killed", "key")

    _new(path).close()
    outcome = _in_child(put_and_die)
    if outcome is None or "SIGKILL" not in outcome:
        yield f"The process was to be killed, and ended so: {outcome}."
    log, data_inode = path.parent.with_name("log"), (path / "data.mdb").stat().st_ino
    calls.record(log)
    with _again(path) as store:
        calls.record(None)
        if not any(entry.kind is Kind.SYNC and entry.file == data_inode for entry in read_log(log)):
            yield "The file was not synced when it was opened, so a read may show what a power loss takes back."
        found = _datas(store)
        if found not in ([b"first"], [b"first", b"killed"]):
            yield f"The store holds {found}."
        yield from _still_works(store, found)


def _failing_call(kinds: frozenset[Kind], *, times: int = 1) -> Case:
    def case(path: Path) -> Iterator[str]:
        calls = Calls.in_front()
        calls.watch(path.parent)
        with _new(path) as store:
            expected = [b"first"]
            calls.arm(1, Fault.REFUSED, kinds=kinds, error=errno.EIO, times=times)
            try:
                store.put_record(STREAM, b"failed", "key")
                expected.append(b"failed")
            except OutcomeUnknownError:
                expected = []
            except StorageError:
                pass
            if calls.disarm() == 0:
                yield "No such call was made."
            if not expected:
                store.put_record(STREAM, b"mends", "key")
                expected = [data for data in (b"first", b"failed", b"mends") if data in _datas(store)]
            yield from _still_works(store, expected)

    return case


def _error_around_commit(error: type[BaseException], *, before: bool) -> Case:
    def case(path: Path) -> Iterator[str]:
        commit = cast(Callable[[Engine, object, object], None], vars(Engine)["_commit"])

        def commit_and_fail(engine: Engine, transaction: object, evidence: object) -> None:
            if before:
                raise error
            commit(engine, transaction, evidence)
            raise error

        with _new(path) as store:
            with mock.patch.object(Engine, "_commit", commit_and_fail), contextlib.suppress(error, StorageError):
                store.put_record(STREAM, b"broken", "key")
            yield from _still_works(store, [b"first"] if before else [b"first", b"broken"])

    return case


def _full_without_lock_file(path: Path) -> Iterator[str]:
    _new(path).close()
    (path / "lock.mdb").unlink()
    with _file_limit(1_000):
        yield from _expect(StoreFullError, lambda: _again(path), "Opening without a lock file on a full disk")
    with _again(path) as store:
        yield from _still_works(store, [b"first"])


def _fill(store: StreamStore) -> Iterator[str]:
    """Put more than the limit of the file until that is refused."""
    before = len(_datas(store))
    for stored in range(2 * SMALL_FILE_BYTES // LARGE_BYTES):
        try:
            store.put_record(STREAM, bytes(LARGE_BYTES), "key")
        except StoreFullError:
            if (found := len(_datas(store))) != before + stored:
                yield f"Of {before + stored} acknowledged records {found} are there when the disk is full."
            return
    yield "A file grew beyond its limit, and no put was refused."


def _full_under_the_map(path: Path) -> Iterator[str]:
    with _new(path) as store:
        maps = Path("/proc/self/maps").read_text().splitlines()
        if any("data.mdb" in line and line.split()[1].startswith("rw") for line in maps):
            yield "The data file is mapped to be written."
        with _file_limit(SMALL_FILE_BYTES):
            yield from _fill(store)
        yield from _still_works(store, _datas(store))


def _full_and_trimmed(path: Path) -> Iterator[str]:
    now_ms = NOW_MS
    with _new(path, clock=lambda: now_ms) as store, _file_limit(SMALL_FILE_BYTES):
        for _ in range(2):
            yield from _fill(store)
            stored = len(_datas(store))
            now_ms += HOUR_MS + 1
            if (trimmed := store.trim().record_count) != stored:
                yield f"Of {stored} records {trimmed} were trimmed."
        yield from _still_works(store, [])


def _truncated(part: float) -> Case:
    def case(path: Path) -> Iterator[str]:
        with _new(path) as store:
            store.put_records(STREAM, [(bytes(3_000), "key")] * 100)
        data_path = path / "data.mdb"
        os.truncate(data_path, int(data_path.stat().st_size * part))
        try:
            with _again(path) as store:
                count = len(_datas(store))
        except StorageError:
            return
        if count != 101:
            yield f"A file cut to {part:.0%} was opened, with {count} of 101 records."

    return case


def _damaged_page(path: Path) -> Iterator[str]:
    with _new(path) as store:
        store.put_records(STREAM, [(PAYLOAD, "key")] * 500)
    data_path = path / "data.mdb"
    content = bytearray(data_path.read_bytes())
    page = content.find(PAYLOAD) // 4_096 * 4_096
    content[page : page + 4_096] = random.Random(1).randbytes(4_096)
    data_path.write_bytes(content)
    if not check_store_apart(path):
        yield "A page was overwritten, and the check says nothing."


def _flipped_bits(path: Path) -> Iterator[str]:
    with _new(path) as store:
        store.put_records(STREAM, [(PAYLOAD + b"%d" % number, "key") for number in range(40)])
        expected = _datas(store)
    data_path, dice = path / "data.mdb", random.Random(1)
    content = data_path.read_bytes()
    places = [place for place in range(len(content)) if content.startswith(PAYLOAD, place)]
    for _ in range(40):
        flipped = bytearray(content)
        flipped[dice.choice(places) + dice.randrange(len(PAYLOAD))] ^= 1 << dice.randrange(8)
        data_path.write_bytes(flipped)
        with _again(path, read_only=True) as store:
            try:
                if _datas(store) != expected:
                    yield "A flipped bit changed what is read, and no error told of it."
            except CorruptRecordError:
                pass


def _killed_while_creating(path: Path) -> Iterator[str]:
    """The creator dies in each of its calls, one after the other, half done."""
    calls = Calls.in_front()

    def create_and_die(store_path: Path, place: int) -> None:
        calls.watch(store_path)
        calls.arm(place, Fault.KILLED_HALFWAY)
        _again(store_path)

    for place in itertools.count(1):
        store_path = path.with_name(f"store {place}")
        outcome = _in_child(functools.partial(create_and_die, store_path, place))
        if outcome is None and place > CALLS_OF_CREATION_MIN:
            return
        if outcome is None or "SIGKILL" not in outcome:
            yield f"The creator was to be killed in call {place}, and ended so: {outcome}."
            return
        with _again(store_path) as store:
            store.create_stream(STREAM)
            yield from _still_works(store, [])
        shutil.rmtree(store_path)


def _synced_backup(path: Path) -> Iterator[str]:
    synced: list[str] = []
    sync_file = folder.sync_file

    def sync(synced_path: Path) -> None:
        synced.append(synced_path.name)
        sync_file(synced_path)

    target = path.with_name("copy")
    with (
        _new(path) as store,
        mock.patch.object(folder, "sync_file", sync),
        mock.patch.object(folder, "sync_folder", sync),
    ):
        store.backup(target)
    if "data.mdb" not in synced or target.parent.name not in synced or len(synced) < 3:
        yield f"A backup synced no more than {synced}."
    with _again(target) as copy:
        yield from _still_works(copy, [b"first"])


def _synced_names(path: Path) -> Iterator[str]:
    synced: list[Path] = []
    with mock.patch.object(folder, "sync_folder", synced.append):
        _new(path).close()
    missing = {path.resolve(), path.resolve().parent} - set(synced)
    if missing:
        yield f"A new store did not sync {missing}."


def _full_map(path: Path) -> Iterator[str]:
    with _new(path, map_size=2**20) as store:
        for _ in range(40):
            store.put_records(STREAM, [(bytes(10_000), "key")] * 20)
        yield from _still_works(store, [b"first", *[bytes(10_000)] * 800])


def _long_read(path: Path) -> Iterator[str]:
    """A reader that stands in the middle of its shard for 500 commits, each of which frees pages."""
    now_ms = NOW_MS
    with _new(path, clock=lambda: now_ms, sync="off") as store:
        store.put_records(STREAM, [(bytes(10_000), "key")] * 50)
        reader = store.read(STREAM, SHARD)
        next(reader)
        for _ in range(500):
            now_ms += HOUR_MS // 50
            store.put_record(STREAM, bytes(10_000), "key")
        size_bytes = (path / "data.mdb").stat().st_size
        if size_bytes > 3_000_000:
            yield f"The file grew to {size_bytes:,} bytes under a reader, with 500,000 bytes alive."


def _killed_readers(path: Path) -> Iterator[str]:
    def read_and_die() -> None:
        with _again(path, read_only=True) as store:
            engine_of_store = cast(Engine, vars(store)["_engine"])
            engine_of_store.read(lambda _: os.kill(os.getpid(), signal.SIGKILL))

    with (
        mock.patch.object(environment, "READERS_MAX", READERS_MAX),
        mock.patch.object(environment, "LOCK_FILE_BYTES", LOCK_FILE_BYTES),
    ):
        _new(path).close()
        with _again(path) as store:
            for _ in range(2 * LOCK_FILE_BYTES // SLOT_BYTES):
                outcome = _in_child(read_and_die)
                if outcome is None or "SIGKILL" not in outcome:
                    yield f"A reader was to be killed, and ended so: {outcome}."
            yield from _still_works(store, [b"first"])


def _little_address_space(path: Path) -> Iterator[str]:
    _new(path).close()
    resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
    with _again(path) as store:
        yield from _still_works(store, [b"first"])


def _network_filesystem(name: str) -> Case:
    def case(path: Path) -> Iterator[str]:
        _new(path).close()
        with mock.patch.object(folder, "filesystem_of", return_value=name):
            yield from _expect(InvalidArgumentException, lambda: StreamStore(path), f"A store on {name}")

    return case


def _opened_twice(path: Path) -> Iterator[str]:
    with _new(path) as store:
        yield from _expect(StoreLockedError, lambda: _again(path), "A second opening")
        yield from _still_works(store, [b"first"])


def _closed(path: Path) -> Iterator[str]:
    store = _new(path)
    store.close()
    yield from _expect(StoreClosedError, lambda: store.put_record(STREAM, b"late", "key"), "A put into a closed store")
    yield from _expect(StoreClosedError, lambda: _datas(store), "A read of a closed store")


def _missing(path: Path) -> Iterator[str]:
    yield from _expect(StoreNotFoundError, lambda: _again(path, create=False), "Opening nothing")
    path.mkdir()
    (path / "data.mdb").write_bytes(b"")
    yield from _expect(StoreFormatError, lambda: _again(path), "Opening an empty file")


def _hostile_bytes(path: Path) -> Iterator[str]:
    """Records whose checksum is right, and whose payload no msgpack is."""
    hostile = (
        b"",
        b"\xc1",
        b"\x81\x90\x01",
        b"\xdf\xff\xff\xff\xff",
        b"\xd4\x05\x00",
        b"\x93\xc0\xc0\xc0",
        b"\xa5\xff",
    )
    database = records_database(StreamNumber(1), 0)
    with _new(path) as store:
        store.put_records(STREAM, [(b"x", "key")] * len(hostile))
        engine_of_store = cast(Engine, vars(store)["_engine"])
        for number, payload in enumerate(hostile, start=1):
            value = _sealed(record_key(number), payload)
            engine_of_store.write(functools.partial(_put_raw, database=database, key=record_key(number), value=value))
            iterator = store.get_shard_iterator(
                STREAM, SHARD, "AT_SEQUENCE_NUMBER", starting_sequence_number=str(number)
            )
            yield from _expect(
                CorruptRecordError, functools.partial(store.get_records, iterator), f"A record of {payload!r}"
            )


def _sealed(key: bytes, payload: bytes) -> bytes:
    def pack(_: object) -> bytes:
        return payload

    record_format = RecordFormat(StreamNumber(1), 0)
    setattr(record_format, "_pack", pack)  # noqa: B010
    return record_format.encode(key, 0, "", b"")


def _put_raw(transaction: WriteTransaction, *, database: bytes, key: bytes, value: bytes) -> None:
    transaction.put(database, key, value)


HAZARDS: Final[dict[str, dict[str, Case]]] = {
    "a write transaction finished on another thread": {"many threads write": _threads_that_write},
    "the lock file closed, copied or removed": {
        "opened and closed": _lock_dropped(lambda path: (path / "lock.mdb").read_bytes()),
        "the folder copied": _lock_dropped(lambda path: shutil.copytree(path, path.with_name("copy"))),
        "unlinked": _lock_dropped(lambda path: (path / "lock.mdb").unlink()),
    },
    "fork with an open store": {"os.fork": _fork_by_os, "multiprocessing": _fork_by_multiprocessing},
    "kill -9 inside the meta write": {"then opened": _killed_in_the_meta_write},
    "the sync of the data fails": {"EIO": _failing_call(SYNCS)},
    "the meta write fails": {"EIO": _failing_call(META_WRITES), "EIO twice": _failing_call(META_WRITES, times=2)},
    "an interrupt or a lack of memory around commit": {
        f"{error.__name__} {'before' if before else 'behind'} it": _error_around_commit(error, before=before)
        for error in (KeyboardInterrupt, MemoryError)
        for before in (True, False)
    },
    "a full disk without a lock file": {"opened": _full_without_lock_file},
    "a map that is written, on a full disk": {"put until it is full": _full_under_the_map},
    "a truncated data file": {f"cut to {part:.0%}": _truncated(part) for part in (0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9)},
    "damaged pages": {"a page overwritten": _damaged_page},
    "no checksums": {"bits flipped": _flipped_bits},
    "a crash while the environment is created": {"in each call": _killed_while_creating},
    "a copy without a sync": {"backup": _synced_backup},
    "a new name without a sync": {"created": _synced_names},
    "a full map": {"put beyond it": _full_map},
    "one long reader": {"in the middle of a shard": _long_read},
    "killed readers": {"twice as many as there are slots": _killed_readers},
    "a full disk": {"trimmed, and written on": _full_and_trimmed},
    "little address space": {"ulimit -v": _little_address_space},
    "a network filesystem": {name: _network_filesystem(name) for name in ("nfs4", "cifs", "fuse.sshfs", "9p")},
    "open already, closed, missing": {"opened twice": _opened_twice, "closed": _closed, "missing": _missing},
    "hostile bytes": {"in records": _hostile_bytes},
}
"""The cases of each row of the table of hazards, by name."""
