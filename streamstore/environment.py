"""LMDB's environment of one store: created, locked and proven before anything is read or written, and closed.

What others have left is dealt with at each opening, in the order of ``Environment._open_lmdb``: names and pages that a
killed process left in the page cache only, a file that is damaged or was cut short, meta pages that the disk does not
hold as the file shows them. Behind a failed commit, ``reopen`` does all of it again.

Says whether the environment may be used, and never reads or writes what is in it; ``engine.py`` does.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final, Protocol, cast

import lmdb
from lmdb import verify as lmdb_verify

from streamstore.databases import RECOVERY_DATABASE, Databases
from streamstore.errors import StorageError, StoreClosedError, StoreForkedError, StoreFormatError
from streamstore.folder import LOCK_FILE_BYTES, FolderLock, StoreFolder, preallocate
from streamstore.hidden_commit import hides_commit, is_commit_whole, number_of_hidden_commit
from streamstore.library import MACHINE_ERRORS, READERS_MAX, lib_version, name_end, translated
from streamstore.limits import MAP_BYTES_MIN
from streamstore.model import SyncMode
from streamstore.page_reader import damaged
from streamstore.process import ReaderGate
from streamstore.proof import Proof
from streamstore.room import FileRoom

__all__ = ["NAMED_DATABASES_MAX", "Environment", "create_environment"]

NAMED_DATABASES_MAX: Final = 4096
RECOVERY_KEY: Final = b"last"
VERIFY_ATTEMPTS: Final = 3


class _PageWalker(Protocol):
    """py-lmdb's walker, which ships without types: ``live`` tells of each page number whether the page is in use."""

    live: bytearray
    psize: int

    def verify(self) -> list[object]: ...


class Environment:
    """The environment in a folder, from ``open`` to ``close``. ``env`` is LMDB's, another one behind each reopening."""

    def __init__(self, folder: StoreFolder, *, read_only: bool, sync: SyncMode, map_bytes: int) -> None:
        """Open nothing yet."""
        self._folder = folder
        self._read_only = read_only
        self._sync: SyncMode = sync
        self._map_bytes = map_bytes
        self._pid = os.getpid()
        self._closed = False
        self._is_open = False
        self.failure: BaseException | None = None
        """Why a commit or a reopening failed. Only a write that recovers goes on behind it."""
        self.is_disk_sure = False
        """Whether the disk is known to hold the meta pages that the file shows."""
        self.map_bytes_unlimited: int | None = None
        """How large the map was; None: it does not end where the file does."""
        self.readers = ReaderGate()
        self.handles: dict[bytes, lmdb._Database] = {}  # replaced, so that those who read do not see it grow

    def open(self) -> None:
        """Lock the store, prove it and open it, once."""
        self.lock = FolderLock(self._folder, writable=not self._read_only)
        try:
            self.room = FileRoom(self.lock)
            self._refuse_empty()
            self.proof = Proof(self._read_file, is_layout_known=lib_version() == 0)
            self.env = self._open_lmdb()
            self._is_open = True
        except BaseException:
            self.lock.release()
            raise

    def _open_lmdb(self) -> lmdb.Environment:
        if self.lock.alone:
            self._folder.sync_names()
            preallocate(self._folder.lock_path, LOCK_FILE_BYTES)
        if self.proof.is_layout_known:
            self._take_hidden_commit()
        env = self._map_file()
        self.map_bytes_unlimited = None
        try:
            # A killed process may have left commits in the page cache only. Nobody may see them before they last.
            can_write = self.lock.alone and not self._read_only
            if can_write:
                self.lock.write_again(_meta_bytes(env))
            self.lock.sync_data_file()
            self.is_disk_sure = can_write
            self._refuse_truncated(env)
            env.reader_check()
            if self.proof.is_layout_known:
                self._prove_lists(env)
            self.lock.share()
        except BaseException:
            env.close()
            raise
        return env

    def _take_hidden_commit(self) -> None:
        """Prove the meta pages. Where one hides the last commit, which damage can do to a file, give it its number."""
        reader = self.proof.reader
        older, newer = reader.metas(alone=self.lock.alone)
        is_hidden = self.lock.alone and hides_commit(reader, older)
        if is_hidden and is_commit_whole(reader, older, newer):
            number = number_of_hidden_commit(older)
            if self._read_only:
                raise StoreFormatError(
                    f"{self._folder.data_path} is damaged: it holds commit {number}, whose meta page says "
                    f"{older.commit_number}. Nothing was stored or changed; open the store to write, which mends it."
                )
            self.lock.overwrite(*reader.renumbered(older, number))
            return
        if newer.last_page < older.last_page:
            raise damaged("The file", f"its last page is {newer.last_page}, and was {older.last_page} before")
        if is_hidden and not self._read_only:
            self._forget_hidden_commit()

    def _forget_hidden_commit(self) -> None:
        """While nobody else writes: let the older meta page lead where the newer one does, if it hides a commit.

        The next commit may take the same pages. Were it to end early, what is on them could be taken for either.
        """
        reader = self.proof.reader
        older, newer = reader.metas(alone=False)
        if hides_commit(reader, older):
            self.lock.overwrite(*reader.renumbered(newer, older.commit_number))

    def _refuse_empty(self) -> None:
        if self.lock.data_file_bytes() == 0:
            raise StoreFormatError(f"{self._folder.data_path} is empty: it was truncated; restore it from a copy.")

    def _read_file(self, start: int, count_bytes: int) -> bytes:
        """Read a part of the data file, unless a signal handler has closed it: its descriptor may be another's then."""
        try:
            return self.lock.read(start, count_bytes)
        finally:
            self.refuse_unusable(even_if_failed=True)

    def _map_file(self) -> lmdb.Environment:
        """Open with the largest map that the process may have, down from the one asked for."""
        map_bytes = self._map_bytes
        while True:
            try:
                return lmdb.open(
                    os.fsencode(self._folder.path),
                    map_size=map_bytes,
                    readonly=self._read_only,
                    create=False,
                    sync=self._sync != "off",
                    metasync=self._sync == "full",
                    max_readers=READERS_MAX,
                    max_dbs=NAMED_DATABASES_MAX,
                    lib_version=lib_version(),
                )
            except lmdb.MemoryError:
                map_bytes //= 2
                if map_bytes < MAP_BYTES_MIN:
                    raise

    def _refuse_truncated(self, env: lmdb.Environment) -> None:
        """Refuse a file that ends before its last page: touching a missing page would kill the process.

        LMDB never writes a page that one transaction both took from the end of the file and freed, so a sound
        file can be short too, of free pages only. The page walker of py-lmdb, which does not map the file, tells
        the two apart.
        """
        for attempts_left in reversed(range(VERIFY_ATTEMPTS)):
            if self.lock.data_file_bytes() >= _data_bytes(env):
                return
            problems = _verify_problems(self._folder.data_path)
            if not problems:
                return
            if attempts_left == 0:  # before that, a writer may have changed the file under the walker
                raise StoreFormatError(
                    f"{self._folder.data_path} is damaged or truncated ({problems[0]}); restore it from a copy."
                )

    def _prove_lists(self, env: lmdb.Environment) -> None:
        """Prove what every transaction touches, and that LMDB has taken the newer one of the meta pages."""
        meta = None
        while meta is None:  # others may commit twice between the two looks
            transaction = env.begin()
            try:
                metas = self.proof.reader.metas(alone=self.lock.alone)
                meta = next((meta for meta in metas if meta.commit_number == transaction.id()), None)
                if meta is not None:
                    self.proof.prove_databases(*metas, meta)
            finally:
                transaction.abort()

    def reopen(self) -> None:
        """Close it and open it again, while nobody reads. What keeps it from that is the ``failure`` from then on."""
        self.readers.alone(self._reopen_alone)

    def _reopen_alone(self) -> None:
        self.handles.clear()
        try:
            self.env.close()
            self.env = self._open_lmdb()
        except BaseException as error:
            self.failure = error
            raise

    def close(self) -> None:
        """Close it while nobody reads. In sync modes below "full", what was committed is synced first."""
        self.readers.alone(self._close_alone)

    def _close_alone(self) -> None:
        try:
            if not self._closed:
                self._closed = True
                self._sync_last_commits()
        finally:  # again in each call: an interrupt may have ended the one before
            self._let_go()

    def _sync_last_commits(self) -> None:
        if self._sync != "full" and not self._read_only and self.failure is None:
            with translated("close"):
                self.env.sync(True)

    def _let_go(self) -> None:
        try:
            self.env.close()
        finally:
            self.lock.release()

    def abandon(self) -> None:
        """In a forked child: let go of the parent's environment, so that the child may open its own.

        Closes descriptors and the map of this process only; the parent's locks are not the child's to drop.
        """
        if not self._closed and self._pid != os.getpid():
            self._closed = True
            self._let_go()

    def is_open(self) -> bool:
        """Tell whether it was opened, here and not in a parent of this process; closed it may be meanwhile."""
        return self._is_open and self._pid == os.getpid()

    def refuse_unusable(self, *, even_if_failed: bool = False) -> None:
        if self._pid != os.getpid():
            raise StoreForkedError(
                "The store was opened before this process was forked off; nothing was done. Open it in this process."
            )
        if self._closed:
            raise StoreClosedError("The store is closed; nothing was done. Open it again.")
        if self.failure is not None and not even_if_failed:
            raise StorageError(
                f"The store stopped after a failed commit ({self.failure}); the next write tries to reopen it."
            )

    def open_handle(self, database: bytes) -> None:
        """Open a handle for reading, outside every write transaction: the two would take the same slot.

        py-lmdb keeps a handle only if a transaction of its own opened it. Never a second one: where it has no memory
        for that, it closes the first too, which all who read and write go on using.
        """
        self.refuse_unusable()
        if database in self.handles:
            return  # another reader was here first
        try:
            self.handles = self.handles | {database: self.env.open_db(database, create=False)}
        except lmdb.NotFoundError:
            self._refuse_unfindable(database)
        except lmdb.DbsFullError:
            self.reopen()

    def _refuse_unfindable(self, database: bytes) -> None:
        """Refuse a name that LMDB does not find though it is there: it ends early, with a zero byte.

        One that was dropped since is not there any more, and the next snapshot shows that.
        """
        transaction = self.env.begin()
        try:
            if transaction.get(database + name_end()) is not None:
                raise StoreFormatError(f"The list of databases is damaged: no database can have the name {database!r}.")
        finally:
            transaction.abort()

    def make_disk_sure(self) -> None:
        """In a write transaction: have the disk hold the meta pages that the file shows.

        When a sync fails, Linux counts its pages as written, and the syncs behind it say nothing of them. Where the
        disk kept another meta page than the file shows, the next commit would write over pages that this one still
        uses. Only the two meta pages can be so: no page of data is used before its sync has succeeded.
        """
        if not self.is_disk_sure:
            if self.proof.is_layout_known:
                self._forget_hidden_commit()
            self.lock.write_again(_meta_bytes(self.env))
            self.lock.sync_data_file()
            self.is_disk_sure = True

    def commit_mark(self) -> None:
        """Commit next to nothing, on top of the state that the file shows: so that one is on disk behind it."""
        transaction = self.env.begin(write=True)
        try:
            self.make_disk_sure()
            handle = self.handles.get(RECOVERY_DATABASE) or self.env.open_db(RECOVERY_DATABASE, txn=transaction)
            transaction.put(RECOVERY_KEY, str(transaction.id()).encode(), db=handle)
            transaction.commit()
        finally:
            transaction.abort()

    def keep_file_whole(self) -> None:
        """Give the file its last page if the commit left it short, so that the next opening need not walk it."""
        with contextlib.suppress(*MACHINE_ERRORS):  # only a convenience: a short file opens too
            data_bytes = self.data_bytes()
            if self.lock.data_file_bytes() < data_bytes:
                self.lock.extend_data_file(data_bytes)

    def data_bytes(self) -> int:
        """Return how long the file must be to have all pages that are in use."""
        return _data_bytes(self.env)


def create_environment(folder: Path, initial: Databases) -> None:
    """Make a data file with this content in a folder that is not a store yet."""
    env = lmdb.open(
        os.fsencode(folder),
        map_size=MAP_BYTES_MIN,
        max_readers=READERS_MAX,
        max_dbs=len(initial),
        lib_version=lib_version(),
    )
    try:
        with env.begin(write=True) as transaction:
            for database, items in initial.items():
                handle = env.open_db(database, txn=transaction)
                for key, value in items.items():
                    transaction.put(key, value, db=handle)
    finally:
        env.close()


def _meta_bytes(env: lmdb.Environment) -> int:
    """Return the length of the two meta pages, with which the file begins."""
    return 2 * env.stat()["psize"]


def _data_bytes(env: lmdb.Environment) -> int:
    return (env.info()["last_pgno"] + 1) * env.stat()["psize"]


def _verify_problems(data_path: Path) -> list[str]:
    with data_path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        # Looked up here and not at import: only an odd file may depend on what py-lmdb keeps to itself.
        walker_of = cast(
            Callable[[BinaryIO, int], _PageWalker],
            lmdb_verify._Verifier,  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]
        )
        walker = walker_of(file, size_bytes)
        try:
            problems = [str(problem) for problem in walker.verify()]
        except lmdb_verify.VerifyError as error:
            return [str(error)]
    # Of a value that takes several pages, the walker looks at the first one only.
    if any(walker.live[size_bytes // walker.psize :]):
        problems.append("a value goes on behind the end of the file")
    return problems
