"""One LMDB environment: open, lock, read, write, grow, recover.

This room, ``transaction.py`` and ``library.py`` are the only ones that know lmdb.

It knows named databases, keys and values, never streams or records. What it guarantees to the rooms above:

- ``write(apply)`` runs ``apply`` in one write transaction and returns when that is durable; otherwise it raises an
  error whose class says what is on disk. A transaction begins and ends in one call of one function, so on one
  thread: LMDB hangs for ever when another thread ends it.
- ``read(look)`` runs ``look`` on one consistent snapshot. Both functions may be run again from the start, so they
  must have no effect but on the transaction and their result.
- Nothing outside sees an ``lmdb.Error`` or an ``OSError``.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, Protocol, TypeVar, cast

import lmdb
from lmdb import verify as lmdb_verify

from streamstore.databases import RECOVERY_DATABASE
from streamstore.errors import (
    OutcomeUnknownError,
    StorageError,
    StoreClosedError,
    StoreForkedError,
    StoreFormatError,
    StoreFullError,
)
from streamstore.folder import LOCK_FILE_BYTES, FolderLock, StoreFolder, preallocate
from streamstore.library import MACHINE_ERRORS, OUT_OF_SPACE, READERS_MAX, lib_version, name_end, translate, translated
from streamstore.limits import MAP_BYTES_DEFAULT, MAP_BYTES_MIN
from streamstore.model import StorageInfo, SyncMode
from streamstore.process import NESTED_CALL, ReaderGate, open_engines
from streamstore.proof import Proof
from streamstore.room import GROWTH_AHEAD_BYTES, FileRoom, Need
from streamstore.sections import NO_MEMORY, NestingMutex, taking
from streamstore.transaction import (
    Evidence,
    HandleMissingError,
    ObservedTransaction,
    ReadersInTheWayError,
    ReadTransaction,
    WriteTransaction,
)

__all__ = [
    "Engine",
    "RepairNeededError",
]

T = TypeVar("T")
FAILURES: Final = (StorageError, *MACHINE_ERRORS)
Databases = Mapping[bytes, Mapping[bytes, bytes]]
"""What a new store contains: the keys and values of each named database."""

NAMED_DATABASES_MAX: Final = 4096
RECOVERY_KEY: Final = b"last"
VERIFY_ATTEMPTS: Final = 3

# On a full disk: how long the writer waits for reads to end, and how often it looks.
OLDER_READERS_S_MAX: Final = 0.5
OLDER_READERS_LOOK_S: Final = 0.002


class _PageWalker(Protocol):
    """py-lmdb's walker, which ships without types: ``live`` tells of each page number whether the page is in use."""

    live: bytearray
    psize: int

    def verify(self) -> list[object]: ...


class RepairNeededError(Exception):
    """The environment must be mended before anything can be written. Nothing was stored."""

    def __init__(self, mend: Callable[[], None]) -> None:
        self.mend = mend


class Engine:
    """The environment in the folder ``path``, from ``open`` to ``close``. Safe to share between threads."""

    def __init__(
        self,
        path: Path,
        *,
        initial: Databases | None,
        read_only: bool,
        sync: SyncMode,
        map_bytes: int = MAP_BYTES_DEFAULT,
        allow_network_filesystem: bool = False,
    ) -> None:
        """Open nothing yet.

        ``initial``: the content to create the store with if it is missing; None: it must be there.
        """
        self._folder = StoreFolder(path)
        self._initial = initial
        self._read_only = read_only
        self._sync: SyncMode = sync
        self._map_bytes = map_bytes
        self._allow_network_filesystem = allow_network_filesystem
        self._pid = os.getpid()
        self.identity: tuple[int, int] | None = None
        self._closed = False
        self._failure: BaseException | None = None
        self._writing_ident: int | None = None
        self._map_bytes_unlimited: int | None = None  # set while the map ends where the file does
        self._need = Need()  # of the newest transaction
        self._ripe_commit: int | None = None
        self._awaited_commit: int | None = None
        self._disk_is_sure = False
        self._write_mutex = NestingMutex()  # a signal handler may fork while its thread writes
        self._is_open = False
        self.is_outcome_open = False
        """Whether the last write may be stored, though it raised another error than one of this package."""
        self._readers = ReaderGate()
        self.handles: dict[bytes, lmdb._Database] = {}  # replaced, so that those who read do not see it grow

    def open(self) -> None:
        """Open the store, once. Call it in a ``try`` whose end closes: an interrupt may come behind the opening."""
        initial = self._initial
        with translated(f"open {self._folder.path}"):
            if initial is not None:
                self._folder.create(lambda creating: _create_environment(creating, initial))
            self._folder.refuse_missing()
            if not self._allow_network_filesystem:
                self._folder.refuse_network_filesystem()
            open_engines.open(self, self._folder, self._open)

    def _open(self) -> None:
        self._lock = FolderLock(self._folder, writable=not self._read_only)
        try:
            self._room = FileRoom(self._lock)
            self._refuse_empty()
            self.proof = Proof(self._read_file, is_layout_known=lib_version() == 0)
            self._env = self._open_environment()
            self._is_open = True
        except BaseException:
            self._lock.release()
            raise

    def read(self, look: Callable[[ReadTransaction], T]) -> T:
        """Return what ``look`` finds in the newest durable snapshot. Keep it short: pages it sees cannot be reused."""

        def look_once() -> T:
            self.refuse_unusable()
            handles = self.handles  # in front of the snapshot, which cannot use a handle that is younger than itself
            transaction = self._env.begin()
            try:
                return look(ReadTransaction(transaction, handles, self.proof))
            finally:
                transaction.abort()

        while True:
            try:
                return self._readers.read(look_once)
            except HandleMissingError as missing:
                self._open_handle(missing.database)
            except lmdb.Error as error:
                self._prepare_to_read_again(error)
            except OSError as error:
                raise translate(error, "read") from error

    def prove(self, databases: Iterable[bytes]) -> None:
        """Prove every page of the databases, some in each snapshot, so that nobody waits for it to end.

        ``StoreFormatError``: one is damaged.
        """
        for database in databases:
            while not self.read(partial(ReadTransaction.prove_more, database=database)):
                pass

    def observe(self, look: Callable[[ObservedTransaction], T], *, on_step: Callable[[], None]) -> T:
        """Like ``read``, of a file that may be damaged."""
        self._open_handles(on_step)
        return self.read(lambda transaction: look(ObservedTransaction(transaction, self._env.begin, on_step)))

    def write(self, apply: Callable[[WriteTransaction], T]) -> T:
        """Return the result of ``apply`` once its changes are durable (in the sense of ``sync``).

        ``StoreFullError`` and other ``StorageError``: nothing of it is stored. ``OutcomeUnknownError``: that could
        not be found out. Any other error is one of ``apply``, and nothing is stored; but for ``MemoryError``, behind
        which ``is_outcome_open`` tells.
        """
        while True:
            try:
                return self.write_unrepaired(apply)
            except RepairNeededError as repair:
                self._mend(repair.mend)
            except ReadersInTheWayError:
                return self._write_alone(apply)

    def _mend(self, mend: Callable[[], None]) -> None:
        with translated("write"):
            for _ in self._write_mutex.taking:
                try:
                    mend()
                finally:
                    self._write_mutex.release()
                break

    def _write_alone(self, apply: Callable[[WriteTransaction], T]) -> T:
        """Like ``write``, while nobody reads."""
        while True:
            try:
                for _ in self._write_mutex.taking:  # in front of the gate: who mends for a reader comes in this order
                    try:
                        return self._readers.alone(lambda: self.write_unrepaired(apply, is_alone=True))
                    finally:
                        self._write_mutex.release()
            except RepairNeededError as repair:
                self._mend(repair.mend)

    def write_unrepaired(self, apply: Callable[[WriteTransaction], T], *, is_alone: bool = False) -> T:
        """Like ``write``, but raise an error where that would mend the environment, or wait, and try again.

        An interrupt at any line of this leaves the environment whole and unlocked, which mending cannot promise.
        """
        ident = threading.get_ident()
        self._refuse_nested_write(ident)
        for _ in self._write_mutex.taking:
            self._writing_ident = ident
            self.is_outcome_open = False
            try:
                self.refuse_unusable(even_if_failed=True)
                if self._failure is not None:
                    raise RepairNeededError(self._recover)
                return self._transact(apply, is_alone=is_alone)
            except lmdb.MapFullError:
                mend = self._grow_map if self._map_bytes_unlimited is None else self._find_room
                raise RepairNeededError(mend) from None
            except StoreFullError:
                if self._map_bytes_unlimited is None:
                    raise
                raise RepairNeededError(self._find_room) from None
            except lmdb.MapResizedError:
                raise RepairNeededError(self._adopt_map) from None
            except lmdb.DbsFullError:
                # Handles of databases that other processes dropped fill the table.
                raise RepairNeededError(self._reopen) from None
            except lmdb.PanicError:
                # An interrupt ended the finding out of a failed commit.
                raise RepairNeededError(self._recover) from None
            except MACHINE_ERRORS as error:
                if self.is_outcome_open:
                    raise  # there is no memory to find it out
                raise translate(error, "write") from error
            finally:
                self._writing_ident = None
                self._write_mutex.release()
        raise AssertionError

    def close(self) -> None:
        """Close the environment. In sync modes below "full", what was committed is synced first.

        Further calls do nothing, nor does one in front of the opening or in a forked child. A read of the same thread,
        which a signal handler closes the store under, ends in ``StoreClosedError``.
        """
        if self._pid != os.getpid() or not self._is_open:
            return
        try:
            for _ in self._write_mutex.taking:
                try:
                    self._readers.alone(self._close_alone)
                finally:
                    self._write_mutex.release()
                break
        finally:
            open_engines.forget(self)

    def _close_alone(self) -> None:
        try:
            if not self._closed:
                self._closed = True
                self._sync_last_commits()
        finally:  # again in each call: an interrupt may have ended the one before
            self._let_go()

    def _let_go(self) -> None:
        try:
            self._env.close()
        finally:
            self._lock.release()

    def _sync_last_commits(self) -> None:
        if self._sync != "full" and not self._read_only and self._failure is None:
            with translated("close"):
                self._env.sync(True)

    def is_at_work_here(self) -> bool:
        """Tell whether this thread is inside a call: then a signal handler asks, and must wait for no other."""
        return self._readers.is_reading_here() or self._writing_ident == threading.get_ident()

    def watchable_path(self) -> str:
        """Return a path by which inotify can watch the data file, wherever the folder is moved to meanwhile."""
        return self._lock.watchable_path()

    def refuse_moved(self) -> None:
        """Refuse to go on by the path of the folder if that is not there any more."""
        self.refuse_unusable()
        with translated(f"find {self._folder.path}"):
            if self._folder.identity() != self.identity:
                raise StorageError(f"Another store lies at {self._folder.path} now: this one was moved.")

    def copy_to(self, data_path: Path, *, compact: bool) -> None:
        """Write one snapshot into a new file, and sync that. ``compact`` leaves out the pages that nothing uses.

        No other thread may need the environment meanwhile: it can neither be closed nor grow.
        """
        with translated(f"copy to {data_path}"):
            if compact:
                self.prove(self.read(ReadTransaction.databases))  # each page that is in use is touched
            self.read(ReadTransaction.commit_number)  # which takes over a map that has grown
            for descriptor in taking(os.open, data_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666):
                try:
                    self._readers.read(partial(self._env.copyfd, descriptor, compact))
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                break

    def _open_handles(self, on_step: Callable[[], None]) -> None:
        """Open a handle of each database: a read that finds one missing starts again from the beginning."""
        for database in self.read(ReadTransaction.databases):
            with contextlib.suppress(StorageError):  # whoever reads it will be told
                self.read(partial(ReadTransaction.last_key, database=database))
            on_step()

    def info(self) -> dict[str, int]:
        """Return LMDB's figures: map_size, last_pgno, last_txnid, max_readers, num_readers."""
        self.refuse_unusable()
        figures = self._readers.read(self._env.info)
        return {name: value for name, value in figures.items() if isinstance(value, int)}

    def storage_info(self) -> StorageInfo:
        """Return how large the file is, the map that it may grow into, and how many slots of readers are used."""
        figures = self.info()
        with translated("look at the file"):
            file_bytes = os.stat(self.watchable_path()).st_size
        return StorageInfo(
            file_bytes=file_bytes, map_bytes=figures["map_size"], reader_slots_used=figures["num_readers"]
        )

    def quiesce(self) -> None:
        """Hold off every transaction of this process until ``go_on``, as a fork needs."""
        for _ in self._write_mutex.taking:
            break
        self._readers.shut()

    def go_on(self) -> None:
        self._readers.open()
        self._write_mutex.release()

    def abandon(self) -> None:
        """In a forked child: let go of the parent's environment, so that the child may open its own.

        Closes descriptors and the map of this process only; the parent's locks are not the child's to drop.
        """
        if not self._closed and self._pid != os.getpid():
            self._closed = True
            self._let_go()

    def _transact(self, apply: Callable[[WriteTransaction], T], *, is_alone: bool) -> T:
        proven_commit = -1
        while True:
            env = self._env
            lmdb_transaction = env.begin(write=True)
            is_over = False
            try:
                self._make_disk_sure()
                self.proof.prove_free_list()
                transaction = WriteTransaction(self, env, lmdb_transaction, is_alone=is_alone)
                self._need = transaction.need
                result = apply(transaction)
                if transaction.evidence is None:
                    lmdb_transaction.commit()  # of no change, which writes nothing: an abort may wait
                else:
                    if self._may_have_been_so(transaction.evidence):
                        transaction.mark()
                    if self._keep_reserve(transaction, lmdb_transaction, proven_commit):
                        proven_commit = lmdb_transaction.id()
                        continue  # without the pages that the proof took
                    self._commit(lmdb_transaction, transaction.evidence)
                    self._tidy_up(transaction, env)
                is_over = True
            finally:
                if not is_over:
                    self._abort(lmdb_transaction)
            return result

    def _abort(self, lmdb_transaction: "lmdb.Transaction[bytes]") -> None:
        """End a transaction that may have changed something; behind a commit this does nothing.

        The binding waits here until no thread is inside LMDB, which with two that read may never be. So nobody reads.
        """
        try:
            self._readers.alone(lmdb_transaction.abort)
        finally:
            lmdb_transaction.abort()  # where there was no memory for the gate: this needs none

    def _keep_reserve(
        self, transaction: WriteTransaction, lmdb_transaction: "lmdb.Transaction[bytes]", proven_commit: int
    ) -> bool:
        """Keep pages for those who free some. True: proven for this commit, which must be made again.

        While the disk has room, the file is made longer than the commit needs. While it has none, the map ends with
        the file, and LMDB itself must find the pages of the reserve beside those of the commit: no one else knows
        which of the free ones it may use already.
        """
        number = lmdb_transaction.id()
        if self._map_bytes_unlimited is None:
            if not self._room.make(transaction.need, number, partial(_bytes_needed, self._env)):
                raise RepairNeededError(self._limit_map)
            return False
        reserve_pages = transaction.need.reserve_pages()
        if reserve_pages == 0 or number == proven_commit:
            return False
        transaction.take_pages(reserve_pages)
        return True

    def _tidy_up(self, transaction: WriteTransaction, env: lmdb.Environment) -> None:
        """Behind a commit, where nothing may fail any more: without memory, what is only good to have is left out."""
        try:
            # Finding out an outcome may have reopened the environment, which ended the handles of the old one.
            if env is self._env:
                transaction.keep_handles()
            if transaction.need.frees:
                self._keep_file_whole()
        except NO_MEMORY:
            pass

    def _may_have_been_so(self, evidence: Evidence) -> bool:
        """Tell whether the file may hold the evidence without the transaction: changes can undo each other."""
        if evidence.is_new_key:
            return False
        handle = self.handles.get(evidence.database)
        if handle is None:
            return True  # only the transaction itself has it open
        before = self._env.begin()
        try:
            return before.get(evidence.key, db=handle) == evidence.value
        finally:
            before.abort()

    def _commit(self, lmdb_transaction: "lmdb.Transaction[bytes]", evidence: Evidence) -> None:
        """Return if the transaction is durable: this is the line of the whole program after which it is."""
        self.is_outcome_open = True
        try:
            lmdb_transaction.commit()
        except lmdb.MapFullError:
            self.is_outcome_open = False
            raise  # LMDB has not written anything yet
        except MACHINE_ERRORS as error:
            self._disk_is_sure = False
            lmdb_transaction.abort()
            if not self._find_out_stored(evidence, error):
                self.is_outcome_open = False
                self._refuse_full(error)
                raise

    def _make_disk_sure(self) -> None:
        """In a write transaction: have the disk hold the meta pages that the file shows.

        When a sync fails, Linux counts its pages as written, and the syncs behind it say nothing of them. Where the
        disk kept another meta page than the file shows, the next commit would write over pages that this one still
        uses. Only the two meta pages can be so: no page of data is used before its sync has succeeded.
        """
        if not self._disk_is_sure:
            self._lock.write_again(_meta_bytes(self._env))
            self._lock.sync_data_file()
            self._disk_is_sure = True

    def _refuse_full(self, error: BaseException) -> None:
        """Tell a full disk from a broken one: LMDB calls a write that was cut short an input/output error."""
        try:
            self._lock.extend_data_file(_bytes_needed(self._env) + max(self._need.bytes(), GROWTH_AHEAD_BYTES))
        except OSError as full:
            if full.errno in OUT_OF_SPACE:
                raise translate(full, "write") from error

    def _find_out_stored(self, evidence: Evidence, error: BaseException) -> bool:
        """Tell whether a failed commit took place, and make the environment usable again.

        A commit that failed before its last step, the write of the meta page, is not in the file. When that step
        failed, LMDB refuses all further work, and the file may hold either state.
        """
        try:
            if self._is_panicking():
                self._recover()
            transaction = self._env.begin()
            try:
                return self._holds(transaction, evidence)
            finally:
                transaction.abort()
        except FAILURES as second:
            self._failure = second
            raise OutcomeUnknownError(
                f"The commit failed ({error}) and so did finding out its outcome ({second}): the request may or may "
                "not be stored. Writing goes on when the store can reopen its file; read the shard then."
            ) from error

    def _holds(self, transaction: "lmdb.Transaction[bytes]", evidence: Evidence) -> bool:
        # Another process may have written since. It could have made the same value at the same key only with the
        # same payload in the same millisecond.
        if transaction.get(evidence.database + name_end()) is None:
            return False
        handle = self.handles.get(evidence.database)
        if handle is None:
            handle = self._env.open_db(evidence.database, txn=transaction, create=False)
        return transaction.get(evidence.key, db=handle) == evidence.value

    def _is_panicking(self) -> bool:
        try:
            self._env.begin(write=True).abort()
        except lmdb.PanicError:
            return True
        return False

    def _recover(self) -> None:
        """Reopen after a failed commit, and commit once more.

        Whatever state the file shows now, the new commit builds on it with data pages of its own and writes the
        other meta page, so that state is on disk even if the failed write never got there.
        """
        self._failure = self._failure or StorageError("the store is recovering from a failed commit")
        self._reopen()
        transaction = self._env.begin(write=True)
        try:
            self._make_disk_sure()
            self._mark_recovery(transaction)
            transaction.commit()
        finally:
            transaction.abort()
        self._failure = None

    def _mark_recovery(self, transaction: "lmdb.Transaction[bytes]") -> None:
        handle = self.handles.get(RECOVERY_DATABASE) or self._env.open_db(RECOVERY_DATABASE, txn=transaction)
        transaction.put(RECOVERY_KEY, str(transaction.id()).encode(), db=handle)

    def _reopen(self) -> None:
        self._readers.alone(self._reopen_alone)

    def _reopen_alone(self) -> None:
        self.handles.clear()
        try:
            self._env.close()
            self._env = self._open_environment()
        except BaseException as error:
            self._failure = error
            raise

    def _open_environment(self) -> lmdb.Environment:
        if self._lock.alone:
            self._folder.sync_names()
            preallocate(self._folder.lock_path, LOCK_FILE_BYTES)
        if self.proof.is_layout_known:
            self.proof.reader.metas(alone=self._lock.alone)
        env = self._map_environment()
        self._map_bytes_unlimited = None
        try:
            # A killed process may have left commits in the page cache only. Nobody may see them before they last.
            can_write = self._lock.alone and not self._read_only
            if can_write:
                self._lock.write_again(_meta_bytes(env))
            self._lock.sync_data_file()
            self._disk_is_sure = can_write
            self._refuse_truncated(env)
            env.reader_check()
            if self.proof.is_layout_known:
                self._prove_lists(env)
            self._lock.share()
        except BaseException:
            env.close()
            raise
        return env

    def _read_file(self, start: int, count_bytes: int) -> bytes:
        """Read a part of the data file, unless a signal handler has closed it: its descriptor may be another's then."""
        try:
            return self._lock.read(start, count_bytes)
        finally:
            self.refuse_unusable(even_if_failed=True)

    def _refuse_empty(self) -> None:
        if self._lock.data_file_bytes() == 0:
            raise StoreFormatError(f"{self._folder.data_path} is empty: it was truncated; restore it from a copy.")

    def _prove_lists(self, env: lmdb.Environment) -> None:
        """Prove what every transaction touches, and that LMDB has taken the newer one of the meta pages."""
        meta = None
        while meta is None:  # others may commit twice between the two looks
            transaction = env.begin()
            try:
                metas = self.proof.reader.metas(alone=self._lock.alone)
                meta = next((meta for meta in metas if meta.commit_number == transaction.id()), None)
                if meta is not None:
                    self.proof.prove_databases(*metas, meta)
            finally:
                transaction.abort()

    def _map_environment(self) -> lmdb.Environment:
        """Open with the largest map that the process may have, down from the one asked for."""
        map_bytes = self._map_bytes
        while True:
            try:
                return lmdb.open(
                    os.fspath(self._folder.path),
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
            if self._lock.data_file_bytes() >= _bytes_needed(env):
                return
            problems = _verify_problems(self._folder.data_path)
            if not problems:
                return
            if attempts_left == 0:  # before that, a writer may have changed the file under the walker
                raise StoreFormatError(
                    f"{self._folder.data_path} is damaged or truncated ({problems[0]}); restore it from a copy."
                )

    def _keep_file_whole(self) -> None:
        """Give the file its last page if the commit left it short, so that the next opening need not walk it."""
        with contextlib.suppress(*MACHINE_ERRORS):  # only a convenience: a short file opens too
            bytes_needed = _bytes_needed(self._env)
            if self._lock.data_file_bytes() < bytes_needed:
                self._lock.extend_data_file(bytes_needed)

    def _open_handle(self, database: bytes) -> None:
        """Open a handle for reading, outside every write transaction: the two would take the same slot.

        py-lmdb keeps a handle only if a transaction of its own opened it. Never a second one: where it has no memory
        for that, it closes the first too, which all who read and write go on using.
        """

        def open_it() -> None:
            self.refuse_unusable()
            if database in self.handles:
                return  # another reader was here first
            try:
                self.handles = self.handles | {database: self._env.open_db(database, create=False)}
            except lmdb.NotFoundError:
                self._refuse_unfindable(database)
            except lmdb.DbsFullError:
                self._reopen()

        self._mend_for_reader(open_it)

    def _refuse_unfindable(self, database: bytes) -> None:
        """Refuse a name that LMDB does not find though it is there: it ends early, with a zero byte.

        One that was dropped since is not there any more, and the next snapshot shows that.
        """
        transaction = self._env.begin()
        try:
            if transaction.get(database + name_end()) is not None:
                raise StoreFormatError(f"The list of databases is damaged: no database can have the name {database!r}.")
        finally:
            transaction.abort()

    def _prepare_to_read_again(self, error: lmdb.Error) -> None:
        """Mend what keeps a read transaction from starting, or raise the error translated."""
        self.refuse_unusable(even_if_failed=True)
        if isinstance(error, lmdb.MapResizedError):
            self._mend_for_reader(self._adopt_map)
        elif isinstance(error, lmdb.ReadersFullError) and self._env.reader_check() > 0:
            pass  # slots of killed processes
        elif isinstance(error, lmdb.PanicError) and self._failure is None:
            self._mend_for_reader(lambda: None)  # the writer is recovering
        else:
            raise translate(error, "read") from error

    def _mend_for_reader(self, mend: Callable[[], None]) -> None:
        """Hold off the writer. A signal handler may close the store meanwhile."""
        ident = threading.get_ident()
        self._refuse_nested_write(ident)
        for _ in self._write_mutex.taking:
            self._writing_ident = ident
            try:
                mend()
            except MACHINE_ERRORS as error:
                self.refuse_unusable()
                raise translate(error, "read") from error
            finally:
                self._writing_ident = None
                self._write_mutex.release()
            break

    def _grow_map(self) -> None:
        """Double the map. Nothing was stored by the transaction that found it full."""
        self._resize_map(2 * self._env.info()["map_size"])

    def _resize_map(self, map_bytes: int) -> None:
        try:
            self._readers.alone(partial(self._env.set_mapsize, map_bytes))
        except MACHINE_ERRORS as error:
            self._reopen()  # LMDB gives up an environment that it could not map again
            raise StoreFullError(
                f"The map cannot grow to {map_bytes} bytes ({error}); nothing was stored. Raise the limit on "
                "address space (ulimit -v)."
            ) from error

    def _adopt_map(self) -> None:
        self._readers.alone(partial(self._env.set_mapsize, 0))
        self._map_bytes_unlimited = None

    def _limit_map(self) -> None:
        """On a full disk: let the map end with the file, so that LMDB itself says which commit finds no page."""
        page_bytes, map_bytes = self._env.stat()["psize"], self._env.info()["map_size"]
        # LMDB never uses the last page of a map.
        self._resize_map((self._lock.data_file_bytes() // page_bytes + 1) * page_bytes)
        self._map_bytes_unlimited = map_bytes

    def _find_room(self) -> None:
        """Behind a commit that found no page: make room for it, or refuse it."""
        try:
            writing = self._env.begin(write=True)
        except lmdb.MapResizedError:  # another process has found some
            self._adopt_map()
            return
        try:
            is_longer = self._room.find(_bytes_needed(self._env))
        finally:
            writing.abort()
        if is_longer and self._map_bytes_unlimited is not None:
            self._resize_map(self._map_bytes_unlimited)
            self._map_bytes_unlimited = None
        elif self._ripe_commit != (commit := self._env.info()["last_txnid"]):
            self._ripen_free_pages()
        elif self._need.reserve_pages() == 0 and self._awaited_commit != commit and self._has_older_readers(commit):
            self._awaited_commit = commit
            self._await_older_readers(commit)
        elif not is_longer:
            raise StoreFullError(
                "No space left to write (the disk is full; nothing was stored or changed). Free some, or trim what has "
                "expired, and call again."
            )

    def _await_older_readers(self, commit: int) -> None:
        """Give reads that are under way, in any process, a moment to end: what they see cannot be used again."""
        deadline_s = time.monotonic() + OLDER_READERS_S_MAX
        while self._has_older_readers(commit) and time.monotonic() < deadline_s:
            time.sleep(OLDER_READERS_LOOK_S)

    def _has_older_readers(self, commit: int) -> bool:
        """Tell whether a read transaction sees less than this commit."""
        numbers = [line.split()[-1] for line in self._env.readers().splitlines()[1:]]
        return any(number != "-" and int(number) < commit for number in numbers)

    def _ripen_free_pages(self) -> None:
        """Commit next to nothing: what a commit freed, LMDB uses two commits later, and no other gets through."""
        try:
            transaction = self._env.begin(write=True)
            try:
                self._make_disk_sure()
                self._mark_recovery(transaction)
                transaction.commit()
            finally:
                transaction.abort()
        except MACHINE_ERRORS:
            self._disk_is_sure = False  # whatever it is, the next commit meets it too
        self._ripe_commit = self._env.info()["last_txnid"]

    def _refuse_nested_write(self, ident: int) -> None:
        if self._writing_ident == ident:
            raise StorageError(NESTED_CALL)

    def refuse_unusable(self, *, even_if_failed: bool = False) -> None:
        if self._pid != os.getpid():
            raise StoreForkedError(
                "The store was opened before this process was forked off; nothing was done. Open it in this process."
            )
        if self._closed:
            raise StoreClosedError("The store is closed; nothing was done. Open it again.")
        if self._failure is not None and not even_if_failed:
            raise StorageError(
                f"The store stopped after a failed commit ({self._failure}); the next write tries to reopen it."
            )


def _create_environment(folder: Path, initial: Databases) -> None:
    env = lmdb.open(
        os.fspath(folder),
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


def _bytes_needed(env: lmdb.Environment) -> int:
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
