"""The stores that ours is compared with. Each has synced a record to the device before it acknowledges it.

That they do was counted once with strace, 50 acknowledged writes each: RocksDB with ``WriteOptions.sync`` and
persist-queue (SQLite in WAL mode; its own default for ``synchronous`` is that of the SQLite build, FULL where this
module lets it take part) call fdatasync 50 times, and so does a ``WriteBatch``. A competitor keeps what is natural to
it: SQLite the same four columns as our records, RocksDB and bare py-lmdb number and payload only, which is less work
than ours. Where several ways to use one exist, the faster one is here; if the common one is slower, both are.
"""

import importlib.util
import itertools
import os
import sqlite3
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

import lmdb

from benchmarks.contenders import Contender
from benchmarks.payloads import partition_key_of
from benchmarks.served import Served, reason_not_served

# Without the extra "bench" the names stay unbound, and ``reason_left_out`` keeps their contenders out.
try:
    from rocksdict import Options, Rdict, WriteBatch, WriteOptions
except ImportError:
    if TYPE_CHECKING:
        raise
try:
    from persistqueue import SQLiteQueue
except ImportError:
    if TYPE_CHECKING:
        raise

__all__ = [
    "BareFile",
    "BareLmdb",
    "PersistQueue",
    "RocksDb",
    "SqliteConnections",
    "SqliteWalFull",
    "reason_left_out",
]

MAP_BYTES: Final = 2**36
READ_BACK_PAGE_RECORDS: Final = 5_000
SQLITE_TIMEOUT_S: Final = 120.0
SYNCHRONOUS_FULL: Final = 2
U32: Final = struct.Struct(">I")
U64: Final = struct.Struct(">Q")


def reason_left_out(kind: type[Contender]) -> str | None:
    """Return why the contender cannot take part on this machine; None if it can."""
    if issubclass(kind, Served):
        return reason_not_served(kind)
    if kind.package is not None and importlib.util.find_spec(kind.package) is None:
        return f"{kind.package} is not installed; it comes with the extra: pip install 'streamstore[bench]'"
    if kind is PersistQueue and _sqlite_synchronous_default() < SYNCHRONOUS_FULL:
        return "this SQLite was built with synchronous below FULL, which persist-queue keeps: it would not sync a put"
    return None


class BareLmdb:
    """py-lmdb with its default, full durability: the records and their counter in one transaction, nothing else."""

    durability: ClassVar[str] = "default flags: fdatasync, then a synchronous write of the meta page, a commit"
    package: ClassVar[str | None] = None

    def __init__(self, path: Path) -> None:
        self._env = lmdb.open(str(path), map_size=MAP_BYTES, max_dbs=2)
        self._records = self._env.open_db(b"records")
        self._counters = self._env.open_db(b"counters")

    def put(self, data: bytes) -> None:
        with self._env.begin(write=True) as transaction:
            counter = transaction.get(b"shard", U64.pack(0), db=self._counters)
            transaction.put(counter, data, db=self._records, append=True)
            transaction.put(b"shard", U64.pack(U64.unpack(counter)[0] + 1), db=self._counters)

    def put_batch(self, batch: Sequence[bytes]) -> None:
        with self._env.begin(write=True) as transaction:
            first: int = U64.unpack(transaction.get(b"shard", U64.pack(0), db=self._counters))[0]
            keys = map(U64.pack, range(first, first + len(batch)))
            with transaction.cursor(db=self._records) as cursor:
                cursor.putmulti(zip(keys, batch, strict=True), append=True)
            transaction.put(b"shard", U64.pack(first + len(batch)), db=self._counters)

    def read_pages(self, page_records: int) -> Iterator[Sequence[tuple[bytes, bytes]]]:
        start = 0
        while True:
            with self._env.begin(db=self._records) as transaction, transaction.cursor() as cursor:
                found = cursor.set_range(U64.pack(start))
                page = list(islice(cursor.iternext(), page_records)) if found else []
            if not page:
                return
            start += len(page)
            yield page

    def read_back(self) -> Iterator[bytes]:
        for page in self.read_pages(READ_BACK_PAGE_RECORDS):
            yield from (data for _, data in page)

    def close(self) -> None:
        self._env.close()


class SqliteWalFull:
    """SQLite in WAL mode with synchronous=FULL: one connection, which the threads share behind a lock.

    With 64 threads that is four to five times as fast as a connection for each, ``SqliteConnections``.
    """

    durability: ClassVar[str] = "WAL, synchronous=FULL: fdatasync of the log, a transaction"
    package: ClassVar[str | None] = None

    def __init__(self, path: Path) -> None:
        self._path = path / "records.db"
        self._connection = self._connect()
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS records (sequence INTEGER PRIMARY KEY, arrival_ms INTEGER, key TEXT, data BLOB)"
        )
        self._lock = threading.Lock()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False, timeout=SQLITE_TIMEOUT_S
        )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    def put(self, data: bytes) -> None:
        with self._lock:
            _insert(self._connection, data)

    def put_batch(self, batch: Sequence[bytes]) -> None:
        now_ms = time.time_ns() // 1_000_000
        rows = [(now_ms, partition_key_of(data), data) for data in batch]
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany("INSERT INTO records (arrival_ms, key, data) VALUES (?, ?, ?)", rows)
        self._connection.execute("COMMIT")

    def read_pages(self, page_records: int) -> Iterator[Sequence[tuple[int, int, str, bytes]]]:
        last = 0
        while True:
            page: list[tuple[int, int, str, bytes]] = self._connection.execute(
                "SELECT sequence, arrival_ms, key, data FROM records WHERE sequence > ? ORDER BY sequence LIMIT ?",
                (last, page_records),
            ).fetchall()
            if not page:
                return
            last = page[-1][0]
            yield page

    def read_back(self) -> Iterator[bytes]:
        for page in self.read_pages(READ_BACK_PAGE_RECORDS):
            yield from (row[3] for row in page)

    def close(self) -> None:
        self._connection.close()


class SqliteConnections(SqliteWalFull):
    """The same with a connection for each thread, as the documentation of SQLite has it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._of_thread = threading.local()
        self._connections: list[sqlite3.Connection] = []

    def put(self, data: bytes) -> None:
        connection: sqlite3.Connection | None = getattr(self._of_thread, "connection", None)
        if connection is None:
            connection = self._of_thread.connection = self._connect()
            self._connections.append(connection)
        _insert(connection, data)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        super().close()


class RocksDb:
    """RocksDB with its defaults and a synced log. The number of a record is drawn in the process, which costs nothing.

    Several threads gain nothing: rocksdict keeps the interpreter's lock while it waits for the device.
    """

    durability: ClassVar[str] = "WriteOptions.sync: fdatasync of the log, a write or WriteBatch"
    package: ClassVar[str | None] = "rocksdict"

    def __init__(self, path: Path) -> None:
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        self._store = Rdict(str(path), options)
        self._sync = WriteOptions()
        self._sync.sync = True
        self._numbers = itertools.count()

    def put(self, data: bytes) -> None:
        self._store.put(U64.pack(next(self._numbers)), data, self._sync)

    def put_batch(self, batch: Sequence[bytes]) -> None:
        write_batch = WriteBatch(raw_mode=True)
        for data, number in zip(batch, self._numbers, strict=False):  # in this order no number is drawn in vain
            write_batch.put(U64.pack(number), data)
        self._store.write(write_batch, self._sync)

    def read_pages(self, page_records: int) -> Iterator[Sequence[tuple[bytes, bytes]]]:
        start = 0
        while page := list(islice(self._store.items(from_key=U64.pack(start)), page_records)):
            start += len(page)
            yield page

    def read_back(self) -> Iterator[bytes]:
        for page in self.read_pages(READ_BACK_PAGE_RECORDS):
            yield from (data for _, data in page)

    def close(self) -> None:
        self._store.close()


class PersistQueue:
    """persist-queue's SQLiteQueue. Whether it syncs is decided by the SQLite build; see ``reason_left_out``."""

    durability: ClassVar[str] = "SQLite WAL, synchronous=FULL by default of the build: fdatasync of the log, a put"
    package: ClassVar[str | None] = "persistqueue"

    def __init__(self, path: Path) -> None:
        self._queue = SQLiteQueue(str(path), multithreading=True, auto_commit=True)

    def put(self, data: bytes) -> None:
        self._queue.put(data)

    def read_back(self) -> Iterator[bytes]:
        yield from (row["data"] for row in self._queue.queue())

    def close(self) -> None:
        self._queue.close()


class BareFile:
    """Payloads appended to a file, each behind its length in four bytes: the limit of device and filesystem."""

    durability: ClassVar[str] = "append, then fdatasync, a write"
    package: ClassVar[str | None] = None

    def __init__(self, path: Path) -> None:
        self._path = path / "payloads"
        self._descriptor = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self._lock = threading.Lock()

    def put(self, data: bytes) -> None:
        self.put_batch((data,))

    def put_batch(self, batch: Sequence[bytes]) -> None:
        framed = b"".join(part for data in batch for part in (U32.pack(len(data)), data))
        with self._lock:
            written = os.write(self._descriptor, framed)
            os.fdatasync(self._descriptor)
        assert written == len(framed)

    def read_back(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while length := file.read(U32.size):
                yield file.read(U32.unpack(length)[0])

    def close(self) -> None:
        os.close(self._descriptor)


def _insert(connection: sqlite3.Connection, data: bytes) -> None:
    connection.execute(
        "INSERT INTO records (arrival_ms, key, data) VALUES (?, ?, ?)",
        (time.time_ns() // 1_000_000, partition_key_of(data), data),
    )


def _sqlite_synchronous_default() -> int:
    with closing(sqlite3.connect(":memory:")) as connection:
        synchronous: int = connection.execute("PRAGMA synchronous").fetchone()[0]
    return synchronous
