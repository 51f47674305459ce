"""Code that breaks into a call of the same thread, as signal handlers and finalizers do, wherever they can.

A trace function stands in for the signal: it runs on the thread, behind each instruction of the package behind which
Python would run a signal handler, and calls the store again. Nothing may hang, every call must say truly what it did,
and the call that was broken into must not suffer.
"""

import contextlib
import dis
import faulthandler
import gc
import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Final

import lmdb
import pytest

import streamstore
from streamstore import (
    ResourceInUseException,
    StorageError,
    StoreClosedError,
    StoreForkedError,
    StoreLockedError,
    StreamStore,
)
from streamstore.check import check_store
from streamstore.engine import Engine
from streamstore.folder import StoreFolder
from tests.commits import engine_of, fail_meta_writes, in_thread

if TYPE_CHECKING:
    from _typeshed import TraceFunction

WAIT_S: Final = 30
HANG_S: Final = 100
PACKAGE: Final = str(Path(streamstore.__file__).parent)
SHARD: Final = "shard-000000"
HANDLED_BEHIND: Final = {"CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD", "RESUME"}
"""Where Python looks for signals."""

Call = Callable[[StreamStore], object]


@pytest.fixture(autouse=True)
def no_hang() -> Generator[None]:
    """End the whole run, with the stack of every thread, when a test hangs: its store could not be closed either."""
    faulthandler.dump_traceback_later(HANG_S, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


class BreakIn:
    """A trace function that calls ``handler`` at one step of the package. Behind that it traces nothing any more."""

    def __init__(self, step: int, handler: Callable[[], object]) -> None:
        self.steps_left = step
        self.handler = handler
        self.error: BaseException | None = None

    def __call__(self, frame: FrameType, _event: str, _: object) -> "TraceFunction | None":
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        trace = self._trace_of(_handled_behind(frame.f_code))
        frame.f_trace = trace  # Python 3.13 asks for it before the next line
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return trace

    def _trace_of(self, is_handled_behind: bytes) -> "Callable[[FrameType, str, object], TraceFunction]":
        """Return what traces one frame. It sees each instruction of a call, so it does as little as it can."""
        before = 0  # the instruction before the current one

        def trace(frame: FrameType, event: str, _: object) -> "TraceFunction":
            nonlocal before
            if event == "opcode":
                if is_handled_behind[before]:
                    self.steps_left -= 1
                    if self.steps_left == 0:
                        sys.settrace(None)
                        self._handle()
                before = frame.f_lasti
            return trace

        return trace

    def _handle(self) -> None:
        try:
            self.handler()
        except BaseException as error:
            self.error = error


def _handled_behind(code: CodeType) -> bytes:
    """Return 1 at the place of each instruction behind which Python looks for signals. The code is that of a module."""
    if id(code) not in _HANDLED:
        _HANDLED[id(code)] = bytes(dis.opname[operation] in HANDLED_BEHIND for operation in code.co_code), code
    return _HANDLED[id(code)][0]


_HANDLED: Final[dict[int, tuple[bytes, CodeType]]] = {}
"""By the id of a code: its hash takes longer than what is looked up. The code is kept, or another would get its id."""


def trace_instructions(trace: BreakIn) -> None:
    """Trace what this thread calls from now on. Python 3.12 traces instructions once a frame has asked for them."""
    frame = inspect.currentframe()
    assert frame is not None
    frame.f_trace_opcodes = True
    sys.settrace(trace)


class Broken:
    """What became of a call on a thread of its own, and of the handler that broke into it."""

    def __init__(self, call: Callable[[], object], step: int, handler: Callable[[], object]) -> None:
        self.error: BaseException | None = None
        self.result: object = None
        faulthandler.dump_traceback_later(HANG_S, exit=True)  # from now on: a long test is none that hangs
        break_in = BreakIn(step, handler)
        thread = threading.Thread(target=self._run, args=(call, break_in), daemon=True)
        thread.start()
        thread.join(WAIT_S)
        assert not thread.is_alive(), f"hangs when broken into at step {step}"
        self.reached = break_in.steps_left <= 0
        self.handler_error = break_in.error

    def _run(self, call: Callable[[], object], break_in: BreakIn) -> None:
        trace_instructions(break_in)
        try:
            self.result = call()
        except BaseException as error:
            self.error = error
        finally:
            sys.settrace(None)


def break_in_everywhere(
    call: Callable[[], object], handler: Callable[[], object], *, stride: int = 1
) -> Generator[Broken]:
    """Break into the call at its first step, at its second step, and so on to its last."""
    step = 1
    while (broken := Broken(call, step, handler)).reached:
        yield broken
        step += stride
    assert step > 10, "the trace function saw nothing"


def put(store: StreamStore) -> object:
    return store.put_record("s", b"outer", "key")


def put_inner(store: StreamStore) -> object:
    return store.put_record("s", b"inner", "key")


def read(store: StreamStore) -> object:
    return store.get_records(store.get_shard_iterator("s", SHARD, "TRIM_HORIZON"), limit=1).records


def create_and_delete(store: StreamStore) -> object:
    store.create_stream("t")
    store.put_record("t", b"", "key")
    store.delete_stream("t")
    return None


def stored(store: StreamStore) -> list[bytes]:
    return [record.data for record in store.read("s", SHARD)]


def opened(path: Path) -> StreamStore:
    store = StreamStore(path, sync="off", allow_network_filesystem=True)
    if not store.list_streams().stream_names:
        store.create_stream("s")
        store.put_record("s", b"first", "key")
    return store


def opened_and_proved(path: Path) -> StreamStore:
    """Behind this, no call proves a page of the store any more."""
    store = opened(path)
    put_inner(store)
    read(store)
    with contextlib.suppress(streamstore.ResourceNotFoundException):
        store.delete_stream("t")
    return store


@pytest.mark.slow
@pytest.mark.parametrize("call", [put, read, create_and_delete])
@pytest.mark.parametrize("handler", [put_inner, read, create_and_delete])
def test_a_handler_may_call_the_store_anywhere_in_another_call(tmp_path: Path, call: Call, handler: Call) -> None:
    with opened(tmp_path / "store") as store:
        done = {b"outer": 0, b"inner": 0}
        for broken in break_in_everywhere(lambda: call(store), lambda: handler(store)):
            if call is create_and_delete and handler is create_and_delete:
                assert isinstance(broken.error, (streamstore.RequestError, type(None)))  # they use the same stream
            else:
                assert broken.error is None
            assert isinstance(broken.handler_error, (StorageError, streamstore.RequestError, type(None)))
            done[b"outer"] += call is put
            done[b"inner"] += handler is put_inner and broken.handler_error is None
        records = stored(store)
    assert records.count(b"outer") == done[b"outer"] + (call is put)  # and the call that nothing broke into
    assert records.count(b"inner") == done[b"inner"]
    assert check_store(tmp_path / "store") == []


@pytest.mark.slow
@pytest.mark.parametrize(("reopened", "stride"), [(opened_and_proved, 1), (opened, 11)])
@pytest.mark.parametrize("call", [put, read, create_and_delete])
def test_a_handler_may_close_the_store_anywhere_in_another_call(
    tmp_path: Path, call: Call, reopened: Callable[[Path], StreamStore], stride: int
) -> None:
    path = tmp_path / "store"
    opened(path).close()
    acknowledged = 0
    step = 1
    while True:
        store = reopened(path)
        broken = Broken(lambda: call(store), step, store.close)  # noqa: B023 - called before the loop goes on
        # The stream may be there since the store was closed between its creation and its deletion.
        assert isinstance(broken.error, (StoreClosedError, ResourceInUseException, type(None))), step
        assert broken.handler_error is None
        acknowledged += call is put and broken.error is None
        if not broken.reached:
            break
        with pytest.raises(StoreClosedError):
            read(store)
        step += stride
    store.close()
    with StreamStore(path) as store:
        assert stored(store).count(b"outer") == acknowledged
    assert check_store(path) == []


@pytest.mark.slow
@pytest.mark.parametrize(("is_proved", "stride"), [(True, 1), (False, 11)])
def test_a_handler_may_close_a_store_that_only_reads_anywhere_in_a_read(
    tmp_path: Path, is_proved: bool, stride: int
) -> None:
    path = tmp_path / "store"
    opened(path).close()
    step = 1
    while True:
        store = StreamStore(path, read_only=True)
        if is_proved:
            read(store)
        broken = Broken(lambda: read(store), step, store.close)  # noqa: B023 - called before the loop goes on
        store.close()
        assert isinstance(broken.error, (StoreClosedError, type(None))), step
        assert isinstance(broken.handler_error, (StorageError, type(None)))
        if not broken.reached:
            break
        step += stride


def fork_and_try(store: StreamStore) -> None:
    """Fork off a child that may not use the store, and wait for it."""
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            try:
                read(store)
            except StoreForkedError:
                status = 0
        os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.slow
@pytest.mark.parametrize("call", [put, read])
def test_a_handler_may_fork_anywhere_in_a_call(tmp_path: Path, call: Call) -> None:
    with opened(tmp_path / "store") as store:
        for broken in break_in_everywhere(lambda: call(store), lambda: fork_and_try(store)):
            assert broken.error is None
            assert broken.handler_error is None
        put(store)
    assert check_store(tmp_path / "store") == []


@pytest.mark.slow
def test_a_handler_may_fork_or_close_another_store_anywhere_in_an_opening(tmp_path: Path) -> None:
    opened(tmp_path / "store").close()
    others: list[StreamStore] = []

    def open_and_close() -> None:
        others.append(opened(tmp_path / "other"))
        opened(tmp_path / "store").close()

    def fork_and_close() -> None:
        for other in others:
            fork_and_try(other)
            other.close()

    for broken in break_in_everywhere(open_and_close, fork_and_close, stride=11):
        assert broken.error is None
        assert broken.handler_error is None
        others.pop().close()
    others.pop().close()


def test_a_store_that_is_garbage_may_be_collected_while_another_one_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(tmp_path / "store").close()
    sync_names = StoreFolder.sync_names

    def collect_and_sync(folder: StoreFolder) -> None:
        gc.collect()
        sync_names(folder)

    def open_beside_garbage() -> None:
        cycle: list[object] = [opened(tmp_path / "other")]
        cycle.append(cycle)
        del cycle
        monkeypatch.setattr(StoreFolder, "sync_names", collect_and_sync)
        opened(tmp_path / "store").close()

    gc.collect()
    assert Broken(open_beside_garbage, 0, lambda: None).error is None
    opened(tmp_path / "other").close()


def test_a_signal_handler_may_put_while_its_thread_waits_for_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real signal, on the main thread, which waits in a lock."""
    handled: list[object] = []
    released = threading.Event()

    with opened(tmp_path / "store") as store:

        def hold_the_writer() -> None:
            write = Engine.write_unrepaired

            def write_slowly(engine: Engine, apply: Callable[..., object]) -> object:
                monkeypatch.setattr(Engine, "write_unrepaired", write)
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                assert released.wait(WAIT_S)
                return write(engine, apply)

            monkeypatch.setattr(Engine, "write_unrepaired", write_slowly)
            store.put_record("s", b"holder", "key")

        def handle(*_: object) -> None:
            # The holder commits only when this put is in the queue, or at the turn.
            threading.Timer(0.05, released.set).start()
            handled.append(put_inner(store))

        previous = signal.signal(signal.SIGUSR1, handle)
        try:
            holder = threading.Thread(target=hold_the_writer)
            holder.start()
            put(store)
            holder.join(WAIT_S)
            assert not holder.is_alive()
        finally:
            signal.signal(signal.SIGUSR1, previous)
        assert len(handled) == 1
        assert sorted(stored(store)) == [b"first", b"holder", b"inner", b"outer"]


def test_a_handler_that_opens_the_same_store_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as store:
        broken = Broken(lambda: put(store), 5, lambda: StreamStore(tmp_path / "store"))
        assert isinstance(broken.handler_error, StoreLockedError)
        assert broken.error is None


def test_a_handler_inside_a_read_is_refused_to_wait_for_a_writer_who_waits_for_that_read(tmp_path: Path) -> None:
    """What the handler reads first needs a handle, which no writer may be at work beside."""
    with opened(tmp_path / "store") as store:
        store.create_stream("t")
        store.put_record("t", b"first", "key")
    with opened(tmp_path / "store") as store:
        stored(store)
        engine = engine_of(store)
        writing, failing = threading.Event(), threading.Event()

        def fail(_: object) -> None:
            writing.set()
            assert failing.wait(WAIT_S)
            raise ValueError("planted by the test")  # behind which the transaction is ended while nobody reads

        def look(_: object) -> None:
            failing.set()
            with pytest.raises(StorageError, match="signal handler"):
                list(store.read("t", SHARD))

        failed = in_thread(lambda: engine.write(fail))
        assert writing.wait(WAIT_S)
        engine.read(look)
        with pytest.raises(ValueError, match="planted"):
            failed.result(WAIT_S)
        assert [record.data for record in store.read("t", SHARD)] == [b"first"]


@pytest.mark.parametrize("first_call", [put, stored])
def test_whoever_comes_first_recovers_when_an_interrupt_has_ended_the_finding_out_of_a_failed_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_call: Callable[[StreamStore], object]
) -> None:
    def interrupt(*_: object) -> bool:
        raise KeyboardInterrupt

    with StreamStore(tmp_path / "store") as store:
        store.create_stream("s")
        monkeypatch.setattr(Engine, "_find_out_stored", interrupt)
        fail_meta_writes(tmp_path / "store")
        with pytest.raises(KeyboardInterrupt):
            put(store)
        monkeypatch.undo()
        in_thread(lambda: first_call(store)).result(WAIT_S)
        put(store)
        assert stored(store)[-1] == b"outer"
    assert check_store(tmp_path / "store") == []


def test_an_interrupt_while_a_failed_commit_is_found_out_leaves_a_store_that_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path / "store") as store:

        def panic(*_: object, **__: object) -> object:
            monkeypatch.undo()
            raise lmdb.PanicError("planted by the test")

        monkeypatch.setattr(Engine, "_transact", panic)
        put(store)
        assert stored(store) == [b"first", b"outer"]
