"""Works with the environment of a store: reads, writes, commits, and recovers from a commit that failed.

It knows named databases, keys and values, never streams or records. What it guarantees to the rooms above:

- ``write(apply)`` runs ``apply`` in one write transaction and returns when that is durable; otherwise it raises an
  error whose class says what is on disk. A transaction begins and ends in one call of one function, so on one
  thread: LMDB hangs for ever when another thread ends it.
- ``read(look)`` runs ``look`` on one consistent snapshot. Both functions may be run again from the start, so they
  must have no effect but on the transaction and their result.
- Nothing outside sees an ``lmdb.Error`` or an ``OSError``.

What comes before all this, at each opening, is in ``environment.py``; where a commit gets its pages, in
``memory_map.py``. These rooms, ``transaction.py`` and ``library.py`` are the only ones that know lmdb.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import lmdb

from streamstore.databases import Databases
from streamstore.environment import Environment, create_environment
from streamstore.errors import OutcomeUnknownError, StorageError, StoreFullError
from streamstore.folder import StoreFolder
from streamstore.library import MACHINE_ERRORS, name_end, translate, translated
from streamstore.limits import MAP_BYTES_DEFAULT
from streamstore.memory_map import MemoryMap
from streamstore.model import StorageInfo, SyncMode
from streamstore.process import NESTED_CALL, open_engines
from streamstore.room import Need
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
        self._allow_network_filesystem = allow_network_filesystem
        self._environment = Environment(self._folder, read_only=read_only, sync=sync, map_bytes=map_bytes)
        self._map = MemoryMap(self._environment)
        self.identity: tuple[int, int] | None = None
        self._writing_ident: int | None = None
        self._need = Need()  # of the newest transaction
        self._write_mutex = NestingMutex()  # a signal handler may fork while its thread writes
        self.is_outcome_open = False
        """Whether the last write may be stored, though it raised another error than one of this package."""

    def open(self) -> None:
        """Open the store, once. Call it in a ``try`` whose end closes: an interrupt may come behind the opening."""
        initial = self._initial
        with translated(f"open {self._folder.path}"):
            if initial is not None:
                self._folder.create(lambda creating: create_environment(creating, initial))
            self._folder.refuse_missing()
            if not self._allow_network_filesystem:
                self._folder.refuse_network_filesystem()
            open_engines.open(self, self._folder, self._environment.open)

    def close(self) -> None:
        """Close the environment. In sync modes below "full", what was committed is synced first.

        Further calls do nothing, nor does one in front of the opening or in a forked child. A read of the same thread,
        which a signal handler closes the store under, ends in ``StoreClosedError``.
        """
        if not self._environment.is_open():
            return
        try:
            for _ in self._write_mutex.taking:
                try:
                    self._environment.close()
                finally:
                    self._write_mutex.release()
                break
        finally:
            open_engines.forget(self)

    def refuse_unusable(self, *, even_if_failed: bool = False) -> None:
        self._environment.refuse_unusable(even_if_failed=even_if_failed)

    def is_at_work_here(self) -> bool:
        """Tell whether this thread is inside a call: then a signal handler asks, and must wait for no other."""
        return self._environment.readers.is_reading_here() or self._writing_ident == threading.get_ident()

    def quiesce(self) -> None:
        """Hold off every transaction of this process until ``go_on``, as a fork needs."""
        for _ in self._write_mutex.taking:
            break
        self._environment.readers.shut()

    def go_on(self) -> None:
        self._environment.readers.open()
        self._write_mutex.release()

    def abandon(self) -> None:
        """In a forked child: let go of the parent's environment, so that the child may open its own.

        Closes descriptors and the map of this process only; the parent's locks are not the child's to drop.
        """
        self._environment.abandon()

    def info(self) -> dict[str, int]:
        """Return LMDB's figures: map_size, last_pgno, last_txnid, max_readers, num_readers."""
        self.refuse_unusable()
        figures = self._environment.readers.read(self._environment.env.info)
        return {name: value for name, value in figures.items() if isinstance(value, int)}

    def storage_info(self) -> StorageInfo:
        """Return how large the file is, the map that it may grow into, and how many slots of readers are used."""
        figures = self.info()
        with translated("look at the file"):
            file_bytes = os.stat(self.watchable_path()).st_size
        return StorageInfo(
            file_bytes=file_bytes, map_bytes=figures["map_size"], reader_slots_used=figures["num_readers"]
        )

    def watchable_path(self) -> str:
        """Return a path by which inotify can watch the data file, wherever the folder is moved to meanwhile."""
        return self._environment.lock.watchable_path()

    def refuse_moved(self) -> None:
        """Refuse to go on by the path of the folder if that is not there any more."""
        self.refuse_unusable()
        with translated(f"find {self._folder.path}"):
            if self._folder.identity() != self.identity:
                raise StorageError(f"Another store lies at {self._folder.path} now: this one was moved.")

    def read(self, look: Callable[[ReadTransaction], T]) -> T:
        """Return what ``look`` finds in the newest durable snapshot. Keep it short: pages it sees cannot be reused."""

        environment = self._environment

        def look_once() -> T:
            environment.refuse_unusable()
            handles = environment.handles  # in front of the snapshot, which cannot use one that is younger than itself
            transaction = environment.env.begin()
            try:
                return look(ReadTransaction(transaction, handles, environment.proof))
            finally:
                transaction.abort()

        while True:
            try:
                return environment.readers.read(look_once)
            except HandleMissingError as missing:
                self._mend_for_reader(partial(environment.open_handle, missing.database))
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
        return self.read(lambda seen: look(ObservedTransaction(seen, self._environment.env.begin, on_step)))

    def _open_handles(self, on_step: Callable[[], None]) -> None:
        """Open a handle of each database: a read that finds one missing starts again from the beginning."""
        for database in self.read(ReadTransaction.databases):
            with contextlib.suppress(StorageError):  # whoever reads it will be told
                self.read(partial(ReadTransaction.last_key, database=database))
            on_step()

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
                    self._environment.readers.read(partial(self._environment.env.copyfd, descriptor, compact))
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                break

    def _prepare_to_read_again(self, error: lmdb.Error) -> None:
        """Mend what keeps a read transaction from starting, or raise the error translated."""
        self.refuse_unusable(even_if_failed=True)
        if isinstance(error, lmdb.MapResizedError):
            self._mend_for_reader(self._map.adopt)
        elif isinstance(error, lmdb.ReadersFullError) and self._environment.env.reader_check() > 0:
            pass  # slots of killed processes
        elif isinstance(error, lmdb.PanicError) and self._environment.failure is None:
            self._mend_for_reader(self._recover_if_needed)
        else:
            raise translate(error, "read") from error

    def _mend_for_reader(self, mend: Callable[[], None]) -> None:
        """Hold off the writer. A signal handler may close the store meanwhile."""
        ident = threading.get_ident()
        self._refuse_nested_write(ident)
        for is_taken in self._write_mutex.trying:
            if not is_taken:
                self._environment.readers.refuse_to_wait_inside()
                continue
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
                        return self._environment.readers.alone(lambda: self.write_unrepaired(apply, is_alone=True))
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
                self._environment.refuse_unusable(even_if_failed=True)
                if self._environment.failure is not None:
                    raise RepairNeededError(self._recover)
                return self._transact(apply, is_alone=is_alone)
            except lmdb.MapFullError:
                mend = partial(self._map.find_pages, self._need) if self._map.is_limited() else self._map.grow
                raise RepairNeededError(mend) from None
            except StoreFullError:
                if not self._map.is_limited():
                    raise
                raise RepairNeededError(partial(self._map.find_pages, self._need)) from None
            except lmdb.MapResizedError:
                raise RepairNeededError(self._map.adopt) from None
            except lmdb.DbsFullError:
                # Handles of databases that other processes dropped fill the table.
                raise RepairNeededError(self._environment.reopen) from None
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

    def _refuse_nested_write(self, ident: int) -> None:
        if self._writing_ident == ident:
            raise StorageError(NESTED_CALL)

    def _transact(self, apply: Callable[[WriteTransaction], T], *, is_alone: bool) -> T:
        proven_commit = -1
        while True:
            env = self._environment.env
            lmdb_transaction = env.begin(write=True)
            is_over = False
            try:
                self._environment.make_disk_sure()
                self._environment.proof.prove_free_list()
                transaction = WriteTransaction(self._environment, env, lmdb_transaction, is_alone=is_alone)
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

    def _may_have_been_so(self, evidence: Evidence) -> bool:
        """Tell whether the file may hold the evidence without the transaction: changes can undo each other."""
        if evidence.is_new_key:
            return False
        handle = self._environment.handles.get(evidence.database)
        if handle is None:
            return True  # only the transaction itself has it open
        before = self._environment.env.begin()
        try:
            return before.get(evidence.key, db=handle) == evidence.value
        finally:
            before.abort()

    def _keep_reserve(
        self, transaction: WriteTransaction, lmdb_transaction: "lmdb.Transaction[bytes]", proven_commit: int
    ) -> bool:
        """Keep pages for those who free some. True: proven for this commit, which must be made again.

        While the disk has room, the file is made longer than the commit needs. While it has none, the map ends with
        the file, and LMDB itself must find the pages of the reserve beside those of the commit: no one else knows
        which of the free ones it may use already.
        """
        number = lmdb_transaction.id()
        if not self._map.is_limited():
            if not self._environment.room.make(transaction.need, number, self._environment.data_bytes):
                raise RepairNeededError(self._map.limit)
            return False
        reserve_pages = transaction.need.reserve_pages()
        if reserve_pages == 0 or number == proven_commit:
            return False
        transaction.take_pages(reserve_pages)
        return True

    def _abort(self, lmdb_transaction: "lmdb.Transaction[bytes]") -> None:
        """End a transaction that may have changed something; behind a commit this does nothing.

        The binding waits here until no thread is inside LMDB, which with two that read may never be. So nobody reads.
        """
        try:
            self._environment.readers.alone(lmdb_transaction.abort)
        finally:
            lmdb_transaction.abort()  # where there was no memory for the gate: this needs none

    def _tidy_up(self, transaction: WriteTransaction, env: lmdb.Environment) -> None:
        """Behind a commit, where nothing may fail any more: without memory, what is only good to have is left out."""
        try:
            # Finding out an outcome may have reopened the environment, which ended the handles of the old one.
            if env is self._environment.env:
                transaction.keep_handles()
            if transaction.need.frees:
                self._environment.keep_file_whole()
        except NO_MEMORY:
            pass

    def _commit(self, lmdb_transaction: "lmdb.Transaction[bytes]", evidence: Evidence) -> None:
        """Return if the transaction is durable: this is the line of the whole program after which it is."""
        self.is_outcome_open = True
        try:
            lmdb_transaction.commit()
        except lmdb.MapFullError:
            self.is_outcome_open = False
            raise  # LMDB has not written anything yet
        except MACHINE_ERRORS as error:
            self._environment.is_disk_sure = False
            lmdb_transaction.abort()
            if not self._find_out_stored(evidence, error):
                self.is_outcome_open = False
                self._environment.room.refuse_full(error, self._need, self._environment.data_bytes())
                raise

    def _find_out_stored(self, evidence: Evidence, error: BaseException) -> bool:
        """Tell whether a failed commit took place, and make the environment usable again.

        A commit that failed before its last step, the write of the meta page, is not in the file. When that step
        failed, LMDB refuses all further work, and the file may hold either state.
        """
        try:
            if self._is_panicking():
                self._recover()
            transaction = self._environment.env.begin()
            try:
                return self._holds(transaction, evidence)
            finally:
                transaction.abort()
        except FAILURES as second:
            self._environment.failure = second
            raise OutcomeUnknownError(
                f"The commit failed ({error}) and so did finding out its outcome ({second}): the request may or may "
                "not be stored. Writing goes on when the store can reopen its file; read the shard then."
            ) from error

    def _holds(self, transaction: "lmdb.Transaction[bytes]", evidence: Evidence) -> bool:
        # Another process may have written since. It could have made the same value at the same key only with the
        # same payload in the same millisecond.
        if transaction.get(evidence.database + name_end()) is None:
            return False
        handle = self._environment.handles.get(evidence.database)
        if handle is None:
            handle = self._environment.env.open_db(evidence.database, txn=transaction, create=False)
        return transaction.get(evidence.key, db=handle) == evidence.value

    def _is_panicking(self) -> bool:
        try:
            self._environment.env.begin(write=True).abort()
        except lmdb.PanicError:
            return True
        return False

    def _recover_if_needed(self) -> None:
        """Behind a writer who was recovering when this was called for, unless an interrupt ended that."""
        if self._is_panicking():
            self._recover()

    def _recover(self) -> None:
        """Reopen after a failed commit, and commit once more.

        Whatever state the file shows now, the new commit builds on it with data pages of its own and writes the
        other meta page, so that state is on disk even if the failed write never got there.
        """
        if self._environment.failure is None:
            self._environment.failure = StorageError("the store is recovering from a failed commit")
        self._environment.reopen()
        self._environment.commit_mark()
        self._environment.failure = None
