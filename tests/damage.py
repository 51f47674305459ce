"""Opens a closed store behind its back, to look at its bytes or to damage them."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from streamstore.library import lib_version


class RawStore:
    """The named databases of a store, key by key, with nothing checked and nothing understood."""

    def __init__(self, env: lmdb.Environment) -> None:
        self._env = env

    def get(self, database: bytes, key: bytes) -> bytes:
        handle = self._env.open_db(database)
        with self._env.begin() as transaction:
            value = transaction.get(key, db=handle)
        assert value is not None
        return value

    def items(self, database: bytes) -> list[tuple[bytes, bytes]]:
        handle = self._env.open_db(database)
        with self._env.begin() as transaction:
            return list(transaction.cursor(handle))

    def put(self, database: bytes, key: bytes, value: bytes) -> None:
        handle = self._env.open_db(database)
        with self._env.begin(write=True) as transaction:
            transaction.put(key, value, db=handle)

    def delete(self, database: bytes, key: bytes) -> None:
        handle = self._env.open_db(database)
        with self._env.begin(write=True) as transaction:
            assert transaction.delete(key, db=handle)

    def flip_last_bit(self, database: bytes, key: bytes) -> None:
        value = self.get(database, key)
        self.put(database, key, value[:-1] + bytes([value[-1] ^ 1]))


@contextmanager
def behind_the_back_of(path: Path) -> Generator[RawStore]:
    env = lmdb.open(os.fspath(path), create=False, sync=False, max_dbs=5_000, lib_version=lib_version())
    try:
        yield RawStore(env)
    finally:
        env.close()
