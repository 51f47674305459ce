"""Commits that a test counts, holds back or makes to fail, and calls on threads of their own that must not hang."""

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, TypeVar, cast
from unittest import mock

import lmdb

from streamstore import StreamStore
from streamstore.engine import Engine
from streamstore.environment import Environment

T = TypeVar("T")
Moment = Literal["before", "after"]
Commit = Callable[[Engine, object, object], None]

WAIT_S: Final = 30
"""Longer than anything here takes, shorter than a patient reader."""


def in_thread(call: Callable[[], T]) -> Future[T]:
    """Call it on a thread of its own. Ask for the result with ``WAIT_S``: a call that hangs must fail."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def engine_of(store: StreamStore) -> Engine:
    engine: object = vars(store)["_engine"]
    assert isinstance(engine, Engine)
    return engine


def last_commit(store: StreamStore) -> int:
    """Return the number of the newest commit in the file."""
    return engine_of(store).info()["last_txnid"]


def environment_of(store: StreamStore) -> Environment:
    return cast(Environment, vars(engine_of(store))["_environment"])


def fail_meta_writes(path: Path) -> None:
    """Let the last write of a commit fail. LMDB refuses all further work behind that, until it is opened anew."""
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        with contextlib.suppress(OSError):  # that of the listing itself
            is_synced = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DSYNC
            if is_synced and os.path.samestat(os.fstat(descriptor), os.stat(path / "data.mdb")):
                read_only = os.open(path / "data.mdb", os.O_RDONLY)
                os.dup2(read_only, descriptor, inheritable=False)
                os.close(read_only)


class HeldCommits:
    """Commits that wait in front of LMDB's until the test lets them go."""

    def __init__(self) -> None:
        self._arrived = threading.Semaphore(0)
        self._open = threading.Event()

    def wait_for_one(self) -> None:
        assert self._arrived.acquire(timeout=WAIT_S), "no commit came"

    def let_go(self) -> None:
        """Let this one and all to come pass."""
        self._open.set()

    def pass_by(self) -> None:
        self._arrived.release()
        assert self._open.wait(WAIT_S), "the test never let the commit go"


@contextmanager
def held_commits() -> Generator[HeldCommits]:
    """Hold back every commit until ``let_go``, at the latest until the end of the block."""
    commit = _commit_of_engine()
    held = HeldCommits()

    def commit_held(engine: Engine, transaction: object, evidence: object) -> None:
        held.pass_by()
        commit(engine, transaction, evidence)

    with mock.patch.object(Engine, "_commit", commit_held):
        try:
            yield held
        finally:
            held.let_go()


class FailingTransaction:
    """A write transaction whose commit fails, before or after LMDB has carried it out."""

    def __init__(self, transaction: "lmdb.Transaction[bytes]", moment: Moment) -> None:
        self._transaction = transaction
        self._moment = moment

    def commit(self) -> None:
        if self._moment == "before":
            self._transaction.abort()
        else:
            self._transaction.commit()
        raise lmdb.DiskError("planted by the test")

    def abort(self) -> None:
        self._transaction.abort()


@contextmanager
def failing_commit(moment: Moment, *, after: int = 0, times: int = 1_000_000) -> Generator[list[Moment]]:
    """Make so many commits fail behind the first ``after`` ones; the list that it yields says how many did."""
    commit = _commit_of_engine()
    failed: list[Moment] = []
    good_left = after

    def commit_failing(engine: Engine, transaction: "lmdb.Transaction[bytes]", evidence: object) -> None:
        nonlocal good_left
        if good_left > 0 or len(failed) == times:
            good_left -= 1
            return commit(engine, transaction, evidence)
        failed.append(moment)
        return commit(engine, FailingTransaction(transaction, moment), evidence)

    with mock.patch.object(Engine, "_commit", commit_failing):
        yield failed


def _commit_of_engine() -> Commit:
    return cast(Commit, vars(Engine)["_commit"])
