"""Laws of CommitWatch: whoever waits is woken by the next commit of any process, and nobody pays who does not wait."""

import errno
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Final, cast

import pytest

from streamstore import StoreClosedError, StoreForkedError, StreamStore
from streamstore import watch as watch_module
from streamstore.engine import Engine
from streamstore.watch import CommitBell, CommitWatch
from tests.children import code, command, next_line, run, started, tell
from tests.commits import WAIT_S, in_thread
from tests.conftest import Clock, open_store

NEVER_MS: Final = 3_600_000


def watch_of(store: StreamStore) -> CommitWatch:
    return cast(CommitWatch, vars(store)["_watch"])


def newest(store: StreamStore) -> int:
    engine = cast(Engine, vars(store)["_engine"])
    return engine.read(lambda transaction: transaction.commit_number())


def watches_running() -> int:
    return sum(is_watching(frame) for frame in sys._current_frames().values())  # pyright: ignore[reportPrivateUsage]


def is_watching(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code is not CommitWatch.__dict__["_run"].__code__:
        frame = frame.f_back
    return frame is not None


def wait_until(is_so: Callable[[], bool]) -> None:
    """For what a thread does at its end, which tells nobody."""
    for _ in range(WAIT_S * 1_000):
        if is_so():
            return
        time.sleep(0.001)
    raise AssertionError("it never was")


@pytest.fixture(autouse=True)
def no_watch_of_another_test() -> None:
    """The threads of stores that were closed a moment ago may be about to end."""
    wait_until(lambda: watches_running() == 0)


def waiting(store: StreamStore) -> CommitBell:
    """Return a bell that rings at the next commit."""
    bell = CommitBell()
    watch_of(store).wake_behind(newest(store), bell)
    return bell


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def refuse_inotify(_: str, __: list[int]) -> None:
    raise OSError(errno.EMFILE, "inotify_init1")


@pytest.fixture(params=["inotify", "polling"], autouse=True)
def means(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each law holds where there is inotify and where there is none; and none is kept by looking anyway."""
    monkeypatch.setattr(watch_module, "LOOK_ANYWAY_MS", NEVER_MS)
    if request.param == "polling":
        monkeypatch.setattr(watch_module, "_watch_file", refuse_inotify)
    return cast(str, request.param)


@pytest.fixture
def stream(store: StreamStore) -> Iterator[StreamStore]:
    store.create_stream("s")
    yield store
    wait_until(lambda: not vars(watch_of(store))["_waiters"])


def test_a_commit_of_this_process_wakes_all_who_wait(stream: StreamStore) -> None:
    bells = [waiting(stream) for _ in range(5)]
    stream.put_record("s", b"", "k")
    assert all(bell.wait(WAIT_S) for bell in bells)


def test_a_commit_of_another_process_wakes_whoever_waits(stream: StreamStore, store_path: Path) -> None:
    with started(command("echo_puts", store_path)) as other:
        assert next_line(other) == "open"
        for _ in range(3):
            bell = waiting(stream)
            tell(other, "record")
            assert bell.wait(WAIT_S)


def test_whoever_has_not_seen_the_newest_commit_is_woken_at_once(stream: StreamStore) -> None:
    bell = CommitBell()
    watch_of(stream).wake_behind(newest(stream) - 1, bell)
    assert bell.wait(WAIT_S)


def test_nobody_is_woken_without_a_commit_or_twice_by_one(stream: StreamStore) -> None:
    bell = waiting(stream)
    for _ in stream.read("s", "shard-000000"):
        pass
    assert not bell.wait(0.05)
    stream.put_record("s", b"", "k")
    assert bell.wait(WAIT_S)
    stream.put_record("s", b"", "k")
    assert not bell.wait(0.05)


def test_no_wake_up_is_lost_between_looking_and_waiting(stream: StreamStore) -> None:
    """LMDB tells of a commit before it shows it; here every commit is waited for by one who has seen the one before."""
    watch, seen = watch_of(stream), newest(stream)
    for _ in range(300):
        put = in_thread(lambda: stream.put_record("s", b"", "k"))
        bell = CommitBell()
        watch.wake_behind(seen, bell)
        assert bell.wait(WAIT_S)
        put.result(WAIT_S)
        seen = newest(stream)


def test_whoever_gave_up_is_not_woken(stream: StreamStore) -> None:
    bell, other = waiting(stream), waiting(stream)
    watch_of(stream).forget(bell)
    stream.put_record("s", b"", "k")
    assert other.wait(WAIT_S)
    assert not bell.wait(0)


def test_closing_wakes_all_and_refuses_who_comes_later(store: StreamStore) -> None:
    bells = [waiting(store) for _ in range(3)]
    store.close()
    assert all(bell.wait(WAIT_S) for bell in bells)
    with pytest.raises(StoreClosedError):
        watch_of(store).wake_behind(0, CommitBell())


def test_a_store_that_nobody_waits_for_has_no_watching_thread(store: StreamStore) -> None:
    store.create_stream("s")
    store.put_record("s", b"", "k")
    assert list(store.tail("s", starting_position="TRIM_HORIZON", idle_timeout_seconds=0)) != []
    assert watches_running() == 0
    bells = [waiting(store) for _ in range(3)]
    wait_until(lambda: watches_running() == 1)
    store.close()
    assert all(bell.wait(WAIT_S) for bell in bells)
    wait_until(lambda: watches_running() == 0)


def test_the_watch_keeps_no_store_open_and_leaves_no_descriptor(store_path: Path, clock: Clock) -> None:
    before = descriptors()
    store = open_store(store_path, clock)
    store.create_stream("s")
    bell = waiting(store)
    store.put_record("s", b"", "k")
    assert bell.wait(WAIT_S)
    assert watches_running() == 1
    del store
    gc.collect()
    open_store(store_path, clock).close()
    wait_until(lambda: watches_running() == 0)
    assert descriptors() == before


def test_waiting_takes_no_processor_time(stream: StreamStore) -> None:
    bells = [waiting(stream) for _ in range(100)]
    before_s = time.process_time()
    assert not bells[0].wait(1)
    assert time.process_time() - before_s < 0.1
    for bell in bells:
        watch_of(stream).forget(bell)


def test_commits_that_nobody_waits_for_do_not_wake_the_watch(
    stream: StreamStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Engine] = []
    bell = waiting(stream)
    stream.put_record("s", b"", "k")
    assert bell.wait(WAIT_S)
    look = Engine.info

    def count(engine: Engine) -> dict[str, int]:
        looks.append(engine)
        return look(engine)

    monkeypatch.setattr(Engine, "info", count)
    for _ in range(20):
        stream.put_record("s", b"", "k")
    assert looks == []


def test_a_forked_child_is_woken_and_refused_and_its_parent_goes_on(stream: StreamStore) -> None:
    bell = waiting(stream)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert bell.wait(WAIT_S)
            next(stream.tail("s"))
        except StoreForkedError:
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert not bell.wait(0)
    stream.put_record("s", b"", "k")
    assert bell.wait(WAIT_S)


def test_a_forked_child_may_watch_a_store_of_its_own(stream: StreamStore, store_path: Path) -> None:
    bell = waiting(stream)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with StreamStore(store_path) as own:
                rung = waiting(own)
                own.put_record("s", b"child", "k")
                status = 0 if rung.wait(WAIT_S) else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert bell.wait(WAIT_S)
    assert [record.data for record in stream.read("s", "shard-000000")] == [b"child"]


def test_inotify_is_what_is_used_where_it_is(stream: StreamStore, means: str) -> None:
    bell = waiting(stream)
    wait_until(lambda: vars(watch_of(stream))["_pause"] is not None)
    pause = type(vars(watch_of(stream))["_pause"]).__name__
    assert pause == {"inotify": "_InotifyPause", "polling": "_PollingPause"}[means]
    watch_of(stream).forget(bell)


def test_the_file_is_watched_wherever_the_folder_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with StreamStore("store", sync="off") as store:
        store.create_stream("s")
        monkeypatch.chdir(tmp_path)
        (tmp_path / "work" / "store").rename(tmp_path / "elsewhere")
        bell = waiting(store)
        store.put_record("s", b"", "k")
        assert bell.wait(WAIT_S)


def test_a_waiting_program_ends_when_it_is_told_to(store_path: Path) -> None:
    """The thread that watches must not hold up the end of Python."""
    program = """
import contextlib, sys, threading
from streamstore import StoreClosedError, StreamStore
def wait():
    with contextlib.suppress(StoreClosedError):  # Python may abort where a daemon thread prints at its end
        next(store.tail("s"))
store = StreamStore(sys.argv[1], sync="off")
store.create_stream("s")
threading.Thread(target=wait, daemon=True).start()
while not vars(store)["_watch"]._is_running: pass
"""
    run(code(program, store_path))
