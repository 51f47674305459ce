"""Laws of sections: what is taken is given back, whatever ends a section, and who waits is woken."""

import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from streamstore import OutcomeUnknownError, StreamStore
from streamstore.engine import Engine
from streamstore.process import ReaderGate
from streamstore.read_quota import ReadQuotas
from streamstore.sections import Bell, Mutex, NestingMutex, OwnThread, surely
from streamstore.subscribe import Subscriptions
from streamstore.writer import Writer
from tests.commits import WAIT_S, in_thread


def test_ringing_twice_is_ringing_once() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    assert bell.wait_for(0)
    assert not bell.wait_for(0)


def test_a_bell_wakes_who_waits_for_it() -> None:
    bell = Bell()
    waiting = in_thread(bell.wait)
    bell.ring()
    waiting.result(WAIT_S)


def test_a_section_excludes_other_threads_and_no_nested_one() -> None:
    mutex = NestingMutex()
    entered = threading.Event()

    def enter() -> None:
        for _ in mutex.taking:
            try:
                entered.set()
            finally:
                mutex.release()
            break

    other: Future[object] = Future()
    for _ in mutex.taking:
        try:
            enter()
            assert entered.is_set()
            entered.clear()
            other = in_thread(enter)
            assert not entered.wait(0.02)
        finally:
            mutex.release()
        break
    other.result(WAIT_S)


def test_a_thread_that_was_never_started_has_ended() -> None:
    OwnThread(lambda: None).join()


def test_whoever_joins_a_thread_waits_for_its_end_and_may_join_again() -> None:
    ended: list[bool] = []
    go_on = threading.Event()

    def work() -> None:
        assert go_on.wait(WAIT_S)
        ended.append(True)

    thread = OwnThread(work)
    thread.start()
    joining = in_thread(thread.join)
    go_on.set()
    joining.result(WAIT_S)
    thread.join()
    assert ended == [True]


def test_what_must_be_done_is_done_when_there_is_memory_again() -> None:
    errors: list[BaseException] = [MemoryError(), SystemError(), MemoryError()]

    def work() -> None:
        if errors:
            raise errors.pop()

    surely(work)
    assert errors == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, SystemError])
def test_a_gate_is_open_behind_whatever_ends_the_work(error: type[BaseException]) -> None:
    gate = ReaderGate()

    def fail() -> None:
        raise error

    for call in (gate.read, gate.alone):
        with pytest.raises(error):
            call(fail)
        assert not gate.is_reading_here()
        assert in_thread(lambda: gate.read(lambda: 1)).result(WAIT_S) == 1
        assert in_thread(lambda: gate.alone(lambda: 2)).result(WAIT_S) == 2


def test_without_memory_behind_a_commit_nobody_is_told_that_it_is_not_stored(
    stream: StreamStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Engine.__dict__["_commit"]

    def commit_and_lack_memory(engine: Engine, transaction: object, evidence: object) -> None:
        commit(engine, transaction, evidence)
        raise MemoryError

    monkeypatch.setattr(Engine, "_commit", commit_and_lack_memory)
    for put in (put_alone, put_by_the_writer):
        with pytest.raises(OutcomeUnknownError):
            put(stream)
    monkeypatch.undo()
    assert len(list(stream.read("s", "shard-000000"))) == 2


@pytest.mark.parametrize("step", ["_wait_for_requests", "_fill_batch", "_commit", "_answer_all"])
def test_the_writer_goes_on_when_there_is_memory_again(
    stream: StreamStore, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    take_step: Callable[..., object] = Writer.__dict__[step]
    lacking = [MemoryError(), SystemError()]

    def lack_memory_twice(*args: object) -> object:
        if lacking:
            raise lacking.pop()
        return take_step(*args)

    monkeypatch.setattr(Writer, step, lack_memory_twice)
    for _ in range(2):
        put_by_the_writer(stream)
    assert lacking == []
    assert len(list(stream.read("s", "shard-000000"))) == 2


@pytest.fixture
def stream(store: StreamStore) -> StreamStore:
    store.create_stream("s")
    return store


def put_alone(store: StreamStore) -> None:
    store.put_record("s", b"alone", "key")


def put_by_the_writer(store: StreamStore) -> None:
    store.submit_record("s", b"submitted", "key").result(WAIT_S)


@pytest.mark.parametrize("make", [NestingMutex, Mutex, Bell, ReadQuotas, Subscriptions])
def test_a_lock_for_which_there_is_no_memory_is_a_memory_error(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], object]
) -> None:
    def make_none() -> object:
        raise RuntimeError("can't allocate lock")

    monkeypatch.setattr(threading, "Lock", make_none)
    monkeypatch.setattr(threading, "RLock", make_none)
    with pytest.raises(MemoryError):
        make()
