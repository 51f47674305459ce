"""One transaction of LMDB: a snapshot to read, a snapshot that may be damaged, the one that writes.

Named databases, keys and values. ``engine.py`` begins and ends them; nothing here commits.
"""

import contextlib
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from itertools import islice
from typing import Final, NamedTuple

import lmdb

from streamstore.databases import RECOVERY_DATABASE
from streamstore.environment import Environment
from streamstore.errors import StorageError, StoreFormatError
from streamstore.library import MACHINE_ERRORS, name_end, translate
from streamstore.proof import LIST_OF_DATABASES, Proof, behind_all_that_begin_with
from streamstore.room import Need

__all__ = [
    "Evidence",
    "HandleMissingError",
    "ObservedTransaction",
    "ReadTransaction",
    "ReadersInTheWayError",
    "WriteTransaction",
]

CHANGE_KEY: Final = b"change"
CHANGE_MARK_BYTES: Final = 16
PAGE_VALUE_BYTES: Final = 3_000  # more than shares a page, and no more than one page takes


class Evidence(NamedTuple):
    """The last change of a transaction: it is in the file exactly when the transaction is."""

    database: bytes
    key: bytes
    value: bytes | None  # None: the key was deleted
    is_new_key: bool = False


class HandleMissingError(Exception):
    """A snapshot holds a named database of which this process has no handle yet."""

    def __init__(self, database: bytes) -> None:
        self.database = database


class ReadersInTheWayError(Exception):
    """A transaction must be run again while nobody reads. Nothing of it was stored."""


class ReadTransaction:
    """One consistent snapshot. Values are copies. A database that does not exist is empty."""

    __slots__ = ("_handles", "_proof", "_transaction")

    def __init__(
        self, transaction: "lmdb.Transaction[bytes]", handles: Mapping[bytes, "lmdb._Database"], proof: Proof
    ) -> None:
        self._transaction = transaction
        self._handles = handles
        self._proof = proof

    def get(self, database: bytes, key: bytes) -> bytes | None:
        handle = self._handle(database)
        if handle is None:
            return None
        if database not in self._proof.whole:
            self._proof.prove_reach(database, key, self._stored_tree)
        value = self._transaction.get(key, db=handle)
        if value is None:
            self._prove_absence(database, key)
        return value

    def items_from(self, database: bytes, key: bytes, *, around_damage: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the keys at and after ``key``. The iterator ends with the transaction.

        Keys on pages that are damaged raise ``StoreFormatError``; with ``around_damage`` they are left out.
        """
        handle = self._handle(database)
        if handle is None:
            return iter(())
        if database not in self._proof.whole:
            return self._proved_items(database, handle, key, around_damage=around_damage)
        cursor = self._transaction.cursor(handle)
        return cursor.iternext() if cursor.set_range(key) else iter(())

    def items_that_begin_with(
        self, database: bytes, prefix: bytes, *, after: bytes = b""
    ) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the keys with this prefix behind ``after``. At the end it is proved that none is hidden.

        ``StoreFormatError``: damage in front of the first or behind the last may have made one of them another key.
        """
        start = max(prefix, after)
        for item in self.items_from(database, start):
            if not item[0].startswith(prefix):
                break
            if item[0] != after:
                yield item
            self._prove_absence(database, start)  # behind the first item: if that is damaged, its reader says so
        self._prove_absence(database, start)
        self._prove_absence(database, behind_all_that_begin_with(prefix))

    def last_key(self, database: bytes) -> bytes | None:
        handle = self._handle(database)
        if handle is None:
            return None
        if database not in self._proof.whole:
            self._proof.prove_end(database, self._stored_tree)
        with self._transaction.cursor(handle) as cursor:
            return cursor.key() if cursor.last() else None

    def commit_number(self) -> int:
        """Return the number of the newest commit in this snapshot. Numbers rise, whichever process commits."""
        return self._transaction.id()

    def prove_more(self, database: bytes) -> bool:
        """Prove some pages of a database. True: now all are. ``StoreFormatError``: one is damaged."""
        return database in self._proof.whole or self._proof.prove_more(database, self._stored_tree)

    def databases(self) -> list[bytes]:
        with self._transaction.cursor() as cursor:
            return [name.removesuffix(name_end()) for name in cursor.iternext(keys=True, values=False)]

    def _proved_items(
        self, database: bytes, handle: "lmdb._Database", key: bytes, *, around_damage: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        next_key: bytes | None = key
        while next_key is not None:
            run = self._proof.run(database, next_key, self._stored_tree, around_damage=around_damage)
            if run is None:
                return
            next_key = run.next_key
            if run.key_count == 0:
                continue
            cursor = self._transaction.cursor(handle)  # behind the proof, because it touches the root of the tree
            if not cursor.set_range(run.start):
                continue
            if run.stop is None:
                yield from islice(cursor.iternext(), run.key_count)
                continue
            for item in cursor.iternext():
                if item[0] >= run.stop:
                    break
                yield item

    def _stored_tree(self, database: bytes) -> bytes | None:
        return self._transaction.get(database + name_end())

    def _handle(self, database: bytes) -> "lmdb._Database | None":
        handle = self._handles.get(database)
        if handle is None and self._transaction.get(database + name_end()) is not None:
            # LMDB forbids opening a handle while another transaction of the process may do the same.
            raise HandleMissingError(database)
        if handle is None:
            self._prove_absence(LIST_OF_DATABASES, database)
        return handle

    def _prove_absence(self, database: bytes, key: bytes) -> None:
        """Prove that no damage hides a key that is not there."""
        if database not in self._proof.sound:
            self._proof.prove_absence(database, key, self._stored_tree)


class ObservedTransaction(ReadTransaction):
    """A snapshot that may be damaged: it tells of every step, its errors are ours, and its keys rise or it ends.

    Pages that are not what they were may lead round in circles. Behind an error it goes on, in the same snapshot.
    """

    __slots__ = ("_begin", "_number", "_on_step")

    def __init__(
        self, seen: ReadTransaction, begin: "Callable[[], lmdb.Transaction[bytes]]", on_step: Callable[[], None]
    ) -> None:
        super().__init__(seen._transaction, seen._handles, seen._proof)
        self._begin = begin
        self._on_step = on_step
        self._number = self.commit_number()

    def get(self, database: bytes, key: bytes) -> bytes | None:
        self._on_step()
        with self._going_on():
            return super().get(database, key)

    def items_from(self, database: bytes, key: bytes, *, around_damage: bool = False) -> Iterator[tuple[bytes, bytes]]:
        with self._going_on():
            last_key = None
            for item in super().items_from(database, key, around_damage=around_damage):
                if last_key is not None and item[0] <= last_key:
                    name = database.decode(errors="replace")
                    raise StoreFormatError(
                        f"The keys of {name} do not rise behind {last_key!r}: its pages are damaged."
                    )
                last_key = item[0]
                self._on_step()
                yield item

    def last_key(self, database: bytes) -> bytes | None:
        with self._going_on():
            return super().last_key(database)

    def databases(self) -> list[bytes]:
        with self._going_on():
            return super().databases()

    def _prove_absence(self, database: bytes, key: bytes) -> None:
        """Whoever looks at what may be damaged proves each value."""

    @contextlib.contextmanager
    def _going_on(self) -> Generator[None]:
        if self.commit_number() != self._number:
            raise StorageError("The store was written meanwhile, so what comes behind the damage was not read.")
        try:
            yield
        except MACHINE_ERRORS as error:
            self._transaction = self._begin()  # LMDB gives up one that met a damaged page
            raise translate(error, "read") from error


class WriteTransaction(ReadTransaction):
    """The one write transaction. Nothing of it is in the file until ``Engine.write`` returns."""

    __slots__ = ("_env", "_environment", "_is_alone", "_opened", "evidence", "need")

    def __init__(
        self,
        environment: Environment,
        env: lmdb.Environment,
        transaction: "lmdb.Transaction[bytes]",
        *,
        is_alone: bool,
    ) -> None:
        super().__init__(transaction, environment.handles, environment.proof)
        self._environment = environment
        self._env = env
        self._opened: dict[bytes, lmdb._Database] = {}
        self._is_alone = is_alone
        self.evidence: Evidence | None = None
        self.need = Need()

    def put(self, database: bytes, key: bytes, value: bytes) -> None:
        self._prove_change(database, key, key)
        self._transaction.put(key, value, db=self._created(database))
        self.need.put(value)
        self.evidence = Evidence(database, key, value)

    def delete(self, database: bytes, key: bytes) -> None:
        handle = self._handle(database)
        if handle is not None:
            self._prove_change(database, key, key)
            self.need.delete()
            self._transaction.delete(key, db=handle)
            self.evidence = Evidence(database, key, None)

    def delete_before(self, database: bytes, key: bytes, *, start: bytes = b"") -> None:
        """Delete every key at or after ``start`` and in front of ``key``."""
        handle = self._handle(database)
        if handle is not None:
            self._prove_change(database, start, key)
            self.need.delete()
            with self._transaction.cursor(handle) as cursor:
                found = cursor.set_range(start)
                while found and cursor.key() < key:
                    cursor.delete()
                    found = cursor.key() != b""  # it stands on the next key, or behind the last

    def put_all(self, database: bytes, items: list[tuple[bytes, bytes]]) -> None:
        if database not in self._proof.whole:
            for key, _ in items:
                self._prove_change(database, key, key)
        with self._transaction.cursor(self._created(database)) as cursor:
            cursor.putmulti(items)
        self.need.put_all(items)
        self.evidence = Evidence(database, *items[-1])

    def commit_anyway(self) -> None:
        """Have this transaction committed though it changes nothing, so that what it saw is on disk behind it.

        A process that was killed in a commit may have left its last pages in the page cache only.
        """
        if self.evidence is None:
            self.mark()

    def mark(self) -> None:
        """Make a change that no other transaction makes."""
        self.put(RECOVERY_DATABASE, CHANGE_KEY, os.urandom(CHANGE_MARK_BYTES))

    def take_pages(self, count: int) -> None:
        """Take so many pages. The transaction must be given up behind it."""
        value = bytes(PAGE_VALUE_BYTES)
        for number in range(count):
            self.put(RECOVERY_DATABASE, b"page %d" % number, value)

    def append(self, database: bytes, items: list[tuple[bytes, bytes]]) -> None:
        """Add items whose keys are greater than all in the database, in rising order."""
        if database not in self._proof.whole:
            self._proof.prove_end(database, self._stored_tree)
        handle = self._created(database)
        last_key, last_value = items[-1]
        if len(items) == 1:
            added = int(self._transaction.put(last_key, last_value, append=True, db=handle))
        else:
            with self._transaction.cursor(handle) as cursor:
                _, added = cursor.putmulti(items, append=True)
        if added != len(items):
            raise StoreFormatError(
                f"{database.decode()} already holds a key of those to append: its counter is behind its records."
            )
        self.need.append(items)
        self.evidence = Evidence(database, last_key, last_value, is_new_key=True)

    def drop(self, database: bytes) -> None:
        """Remove the database with all its keys, if it exists.

        LMDB closes the handle at once and may give its slot to another database, so no reader of this process
        may be under way until the transaction has ended: ``ReadersInTheWayError`` has it run again like this.
        """
        handle = self._handle(database)
        if handle is not None:
            if database not in self._proof.whole:
                self._proof.prove_whole(database, self._stored_tree)
            if not self._is_alone:
                raise ReadersInTheWayError
            self._environment.handles.pop(database, None)
            self._opened.pop(database, None)
            self._transaction.drop(handle)
            self.need.delete()

    def _prove_change(self, database: bytes, first: bytes, last: bytes) -> None:
        if database not in self._proof.whole:
            self._proof.prove_change(database, first, last, self._stored_tree)

    def keep_handles(self) -> None:
        """After the commit: the handles that this transaction opened are good for the others."""
        if self._opened:
            self._environment.handles = self._environment.handles | self._opened

    def _handle(self, database: bytes) -> "lmdb._Database | None":
        handle = self._opened.get(database) or self._handles.get(database)
        if handle is None and self._transaction.get(database + name_end()) is not None:
            handle = self._open(database)
        if handle is None:
            self._prove_absence(LIST_OF_DATABASES, database)
        return handle

    def _created(self, database: bytes) -> "lmdb._Database":
        return self._handle(database) or self._open(database)

    def _open(self, database: bytes) -> "lmdb._Database":
        handle = self._env.open_db(database, txn=self._transaction)
        self._opened[database] = handle
        return handle
