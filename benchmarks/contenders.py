"""The stores that are compared. Each puts one record durably per call, in a folder of its own."""

import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import lmdb

from streamstore import StreamStore

__all__ = ["BareLmdb", "Contender", "ContenderFactory", "SqliteWalFull", "Streamstore"]

PARTITION_KEY: Final = "benchmark"
STREAM_NAME: Final = "benchmark"
MAP_BYTES: Final = 2**36
U64: Final = struct.Struct(">Q")


class Contender(Protocol):
    """A store of numbered records. ``put`` returns when the record is on disk."""

    def put(self, data: bytes) -> None: ...

    def count(self) -> int:
        """Return how many records are stored: what was put must all be there."""
        ...

    def close(self) -> None: ...


ContenderFactory = Callable[[Path], Contender]


class Streamstore:
    """This project, one shard, no write quota, ``sync="full"``."""

    def __init__(self, path: Path) -> None:
        self._store = StreamStore(path, sync="full")
        self._store.create_stream(STREAM_NAME)

    def put(self, data: bytes) -> None:
        self._store.put_record(STREAM_NAME, data, PARTITION_KEY)

    def count(self) -> int:
        (shard,) = self._store.list_shards(STREAM_NAME).shards
        return sum(1 for _ in self._store.read(STREAM_NAME, shard.shard_id))

    def close(self) -> None:
        self._store.close()


class BareLmdb:
    """py-lmdb with its default, full durability: the record and its counter in one transaction, nothing else."""

    def __init__(self, path: Path) -> None:
        self._env = lmdb.open(str(path), map_size=MAP_BYTES, max_dbs=2)
        self._records = self._env.open_db(b"records")
        self._counters = self._env.open_db(b"counters")
        with self._env.begin(write=True) as transaction:
            transaction.put(b"shard", U64.pack(0), db=self._counters)

    def put(self, data: bytes) -> None:
        with self._env.begin(write=True) as transaction:
            counter = transaction.get(b"shard", db=self._counters)
            assert counter is not None
            transaction.put(counter, data, db=self._records, append=True)
            transaction.put(b"shard", U64.pack(U64.unpack(counter)[0] + 1), db=self._counters)

    def count(self) -> int:
        with self._env.begin() as transaction:
            return transaction.stat(self._records)["entries"]

    def close(self) -> None:
        self._env.close()


class SqliteWalFull:
    """SQLite in WAL mode with synchronous=FULL: one INSERT, one transaction, one sync a record."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path / "records.db", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute("CREATE TABLE records (sequence INTEGER PRIMARY KEY, key TEXT, data BLOB)")

    def put(self, data: bytes) -> None:
        self._connection.execute("INSERT INTO records (key, data) VALUES (?, ?)", (PARTITION_KEY, data))

    def count(self) -> int:
        count: int = self._connection.execute("SELECT count(*) FROM records").fetchone()[0]
        return count

    def close(self) -> None:
        self._connection.close()
