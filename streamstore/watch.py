"""Wakes whoever waits for the next commit of a store, by this process or any other.

One thread for a store, from the first waiter on, and none before that. It sleeps until Linux says that somebody wrote
to the data file, and looks at nothing but the number of the newest commit. It never touches LMDB's lock file, where
closing any descriptor would drop the locks of the process.

Who waits names the commit that it has seen: the number of the snapshot that it looked at. So no wake-up is lost between
looking and waiting.
"""

import _thread
import contextlib
import ctypes
import math
import os
import select
import threading
import time
import weakref
from typing import Final, Protocol, cast

from streamstore.engine import Engine
from streamstore.errors import StorageError, StoreClosedError
from streamstore.library import no_thread
from streamstore.request import WakeUps
from streamstore.sections import NO_MEMORY, Bell, NestingMutex, taking

__all__ = ["CommitBell", "CommitWaiter", "CommitWatch"]

LOOK_ANYWAY_MS: Final = 1_000  # where the filesystem tells of no writes
POLL_MS: Final = 5  # where there is no inotify: of a user's instances, there may be none left
SETTLING_S: Final = (0, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005)  # between the writing of a commit and its showing
SIGNALS_S: Final = 1.0  # how long a signal may go unseen that comes while the main thread falls asleep
NO_DESCRIPTOR: Final = -1
INOTIFY_MODIFY: Final = 0x2  # Linux, inotify.h: IN_MODIFY
EVENTS_BYTES: Final = 4_096


class CommitWaiter(Protocol):
    """Somebody who waits for a commit."""

    def wake(self, wake_ups: WakeUps) -> None:
        """Called on the thread of the watch; must not fail or wait. It may be put off until ``wake_ups`` are called."""
        ...


class CommitBell:
    """A thread that waits for a commit."""

    def __init__(self) -> None:
        self._rung = Bell()  # a signal handler may ring it at any time

    def wake(self, wake_ups: WakeUps) -> None:
        del wake_ups  # each thread is woken for itself
        self.ring()

    def ring(self) -> None:
        self._rung.ring()

    def wait(self, timeout_s: float | None) -> bool:
        """Return True when it rings, perhaps for something that is over already; False if it did not in time.

        The main thread looks up now and then: a signal that came just before it fell asleep has not woken it.
        """
        left_s = math.inf if timeout_s is None else timeout_s
        if threading.get_ident() == threading.main_thread().ident:
            while left_s > SIGNALS_S:
                if self._rung.wait_for(SIGNALS_S):
                    return True
                left_s -= SIGNALS_S
        return self._rung.wait_for(None if left_s == math.inf else left_s)


class _Pause(Protocol):
    """How the thread sleeps."""

    def ring(self) -> None:
        """End the sleep, or the next one if there is none. For any thread and any signal handler."""
        ...

    def sleep(self, *, until_write: bool, at_most_ms: int | None) -> None: ...


class _InotifyPause:
    """Sleeps until the data file is written to. Its descriptors live as long as anybody holds on to it."""

    def __init__(self, data_path: str) -> None:
        descriptors = [NO_DESCRIPTOR, NO_DESCRIPTOR]  # in front of what is to be closed: so it is
        self._finalizer = weakref.finalize(self, _close_all, descriptors)
        self._finalizer.atexit = False
        descriptors[0] = self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        _watch_file(data_path, descriptors)
        self._inotify = descriptors[1]
        self._poll_bell = select.poll()
        self._poll_bell.register(self._bell, select.POLLIN)
        self._poll_both = select.poll()
        self._poll_both.register(self._bell, select.POLLIN)
        self._poll_both.register(self._inotify, select.POLLIN)

    def ring(self) -> None:
        os.eventfd_write(self._bell, 1)

    def sleep(self, *, until_write: bool, at_most_ms: int | None) -> None:
        # Nobody waits: then the writes that nobody reads of fold into one event, and cost the thread nothing.
        poll = self._poll_both if until_write else self._poll_bell
        for descriptor, _ in poll.poll(at_most_ms):
            with contextlib.suppress(BlockingIOError):
                os.read(descriptor, EVENTS_BYTES)

    def let_go(self) -> None:
        """In a forked child, where nobody sleeps."""
        self._finalizer()


class _PollingPause:
    """Sleeps for a few milliseconds. Needs no descriptor."""

    def __init__(self) -> None:
        self._bell = Bell()

    def ring(self) -> None:
        self._bell.ring()

    def sleep(self, *, until_write: bool, at_most_ms: int | None) -> None:
        timeout_ms = POLL_MS if until_write else at_most_ms
        self._bell.wait_for(None if timeout_ms is None else timeout_ms / 1_000)


class CommitWatch:
    """Wakes waiters, each once for its asking. Holds the engine and no store, which may be garbage meanwhile.

    Any method may be called by a signal handler inside another one, so no lock is held here.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiters: dict[CommitWaiter, int] = {}
        self._wake_ups: WakeUps = {}  # of the thread
        self._closed = False
        self._pause: _Pause | None = None
        self._starting = NestingMutex()
        self._is_running = False
        _watches.add(self)

    def wake_behind(self, commit_number: int, waiter: CommitWaiter) -> None:
        """Wake the waiter when a snapshot behind this commit can be read, when the store closes, and when it fails.

        Raises ``StoreClosedError`` if it is closed.
        """
        self._waiters[waiter] = commit_number
        if not self._closed:
            self._start_thread()
            self._ring()
        if self._closed:  # looked at again: the thread may have woken the last waiter already
            self.forget(waiter)
            raise StoreClosedError("The store is closed; nothing comes any more. Open it again.")

    def forget(self, waiter: CommitWaiter) -> None:
        """Do not wake it any more. It may be woken just now."""
        self._waiters.pop(waiter, None)

    def close(self) -> None:
        """Wake all and end the thread, without waiting for that. Does nothing in a forked child."""
        self._closed = True
        self._ring()

    def abandon(self) -> None:
        """In a forked child: the thread is not here, and the parent's events are not ours."""
        pause, self._pause = self._pause, None
        self._closed = True
        for waiter in self._waiters.copy():
            waiter.wake({})  # no event loop: it is the parent's
        if isinstance(pause, _InotifyPause):
            pause.let_go()

    def _ring(self) -> None:
        pause = self._pause  # held on to, so that its descriptors are not those of somebody else
        if pause is not None:
            pause.ring()

    def _start_thread(self) -> None:
        if not self._is_running:
            start = taking(_thread.start_new_thread, self._run, ())
            for _ in self._starting.taking:
                try:
                    if not self._is_running:
                        for _ in start:
                            self._is_running = True
                            break
                except RuntimeError as error:
                    raise no_thread(error) from error
                finally:
                    self._starting.release()
                break

    def _run(self) -> None:
        self._is_running = True
        try:
            while True:
                try:
                    self._watch()
                    break
                except NO_MEMORY:  # there will be some again, and they wait
                    continue
        finally:
            self._is_running = False
            while True:
                try:
                    self._wake_all()
                    break
                except NO_MEMORY:
                    continue

    def _watch(self) -> None:
        """All that the thread does. Behind a lack of memory this is called again."""
        try:
            pause = self._pause = _make_pause(self._engine)
            lag_ms = 0
            while not self._closed:  # who closes, or begins to wait, behind this line ends the sleep
                lag_ms = self._wake_those_behind(lag_ms) if self._waiters else 0
                if self._waiters:
                    pause.sleep(until_write=True, at_most_ms=min(lag_ms, LOOK_ANYWAY_MS) or LOOK_ANYWAY_MS)
                else:
                    pause.sleep(until_write=False, at_most_ms=None)
        finally:
            self._pause = None

    def _wake_those_behind(self, lag_ms: int) -> int:
        """Wake who has not seen the newest commit; return after how many milliseconds to look again, 0 for no haste.

        LMDB writes a commit to the file, where inotify tells of it, a moment before it shows it to new snapshots. If
        the writer was killed in between, that takes until the next commit: so look less and less often.
        """
        try:
            written, visible = self._newest_commits()
            for wait_s in () if lag_ms else SETTLING_S:
                if visible >= written:
                    break
                time.sleep(wait_s)
                written, visible = self._newest_commits()
        except StorageError:
            self._wake_all()  # each finds out for itself what is wrong
            return 0
        self._wake({waiter: number for waiter, number in self._waiters.copy().items() if number < visible})
        return 2 * lag_ms or 1 if visible < written else 0

    def _newest_commits(self) -> tuple[int, int]:
        """Return the number of the newest commit in the file, and of the newest that a snapshot shows."""
        written = self._engine.info()["last_txnid"]
        return written, self._engine.read(lambda transaction: transaction.commit_number())

    def _wake_all(self) -> None:
        self._wake(self._waiters.copy())

    def _wake(self, waiters: dict[CommitWaiter, int]) -> None:
        for waiter in waiters:
            if self._waiters.pop(waiter, None) is not None:
                self._wake_surely(waiter)
        wake_ups = self._wake_ups
        while wake_ups:
            key = next(iter(wake_ups))
            wake_ups[key]()
            del wake_ups[key]

    def _wake_surely(self, waiter: CommitWaiter) -> None:
        while True:
            try:
                waiter.wake(self._wake_ups)
                break
            except NO_MEMORY:  # there will be some again, and it waits
                continue


def _make_pause(engine: Engine) -> _Pause:
    try:
        return _InotifyPause(engine.watchable_path())
    except (OSError, AttributeError):
        return _PollingPause()


def _watch_file(path: str, descriptors: list[int]) -> None:
    """Put an inotify descriptor that tells of writes to the file into the second place."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptors[1] = cast(int, libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
    if descriptors[1] == NO_DESCRIPTOR:
        raise OSError(ctypes.get_errno(), "inotify_init1")
    if libc.inotify_add_watch(descriptors[1], os.fsencode(path), INOTIFY_MODIFY) == NO_DESCRIPTOR:
        raise OSError(ctypes.get_errno(), "inotify_add_watch")


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        if descriptor != NO_DESCRIPTOR:
            os.close(descriptor)


def _abandon_all() -> None:
    for watch in list(_watches):
        watch.abandon()


_watches: Final[weakref.WeakSet[CommitWatch]] = weakref.WeakSet()
os.register_at_fork(after_in_child=_abandon_all)
