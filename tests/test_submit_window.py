"""Laws of the window of submit_record: how much is on its way at once, and that no room is ever lost."""

import concurrent.futures
import queue
import signal
import threading
from collections.abc import Generator
from concurrent.futures import FIRST_COMPLETED, Future
from contextlib import contextmanager
from types import FrameType

import pytest

from streamstore import (
    InvalidArgumentException,
    PutRecordResult,
    ResourceNotFoundException,
    StoreClosedError,
    StoreFullError,
    StreamStore,
)
from tests.commits import WAIT_S, HeldCommits, failing_commit, held_commits, in_thread
from tests.conftest import Clock, open_store
from tests.interrupts import interrupted_everywhere

SHARD = "shard-000000"
MOMENT_S = 0.05
"""How long to watch something that must not happen."""

Receipt = Future[PutRecordResult]


@pytest.fixture
def stream(store: StreamStore) -> StreamStore:
    """A store with the stream "s" of one shard."""
    store.create_stream("s")
    return store


def submit(store: StreamStore, number: int) -> Receipt:
    return store.submit_record("s", b"%d" % number, "k")


def results_of(receipts: list[Receipt]) -> list[PutRecordResult]:
    return [receipt.result(WAIT_S) for receipt in receipts]


def stored(store: StreamStore) -> list[int]:
    records = list(store.read("s", SHARD))
    assert [record.sequence_number for record in records] == [str(index) for index in range(len(records))]
    return [int(record.data) for record in records]


def placed(first: int, stop: int) -> list[PutRecordResult]:
    return [PutRecordResult(SHARD, str(sequence)) for sequence in range(first, stop)]


@pytest.fixture
def window_of_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamstore.request.IN_FLIGHT_REQUESTS_MAX", 3)


@pytest.fixture
def window_of_100_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamstore.request.IN_FLIGHT_BYTES_MAX", 100)


class Producer:
    """A thread that submits one record after the other, and tells of each."""

    def __init__(self, store: StreamStore, payloads: list[bytes]) -> None:
        self.submitted: queue.SimpleQueue[Receipt] = queue.SimpleQueue()
        self._store = store
        self._payloads = payloads
        self.ended = in_thread(self._run)

    def expect(self, count: int) -> list[Receipt]:
        """Return the next receipts, which must come."""
        return [self.submitted.get(timeout=WAIT_S) for _ in range(count)]

    def expect_blocked(self) -> None:
        with pytest.raises(queue.Empty):
            self.submitted.get(timeout=MOMENT_S)
        assert not self.ended.done()

    def _run(self) -> None:
        for payload in self._payloads:
            self.submitted.put(self._store.submit_record("s", payload, "k"))


@contextmanager
def blocked_producer(
    store: StreamStore, payloads: list[bytes], *, room: int
) -> Generator[tuple[Producer, HeldCommits]]:
    """A producer that has filled the window with ``room`` records and waits, while the commits are held."""
    with held_commits() as held:
        producer = Producer(store, payloads)
        producer.expect(room)
        producer.expect_blocked()
        yield producer, held


@pytest.mark.usefixtures("window_of_3")
def test_it_waits_while_too_many_records_are_on_their_way_and_goes_on_behind_them(stream: StreamStore) -> None:
    with blocked_producer(stream, [b"%d" % number for number in range(50)], room=3) as (producer, held):
        held.let_go()
        producer.ended.result(WAIT_S)
        assert results_of(producer.expect(47)) == placed(3, 50)
    assert stored(stream) == list(range(50))


@pytest.mark.usefixtures("window_of_100_bytes")
def test_it_waits_while_too_many_bytes_are_on_their_way(stream: StreamStore) -> None:
    with blocked_producer(stream, [bytes(60), bytes(40), b"", b"1"], room=3) as (producer, held):
        held.let_go()
        producer.ended.result(WAIT_S)


@pytest.mark.usefixtures("window_of_100_bytes")
def test_a_record_larger_than_the_window_goes_alone(stream: StreamStore) -> None:
    with blocked_producer(stream, [bytes(101), b"", bytes(1_048_576)], room=1) as (producer, held):
        held.let_go()
        producer.ended.result(WAIT_S)
    sizes = [len(record.data) for record in stream.read("s", SHARD)]
    stream.close()
    assert sizes in ([101], [101, 0], [101, 0, 1_048_576])


@pytest.mark.usefixtures("window_of_3")
def test_refused_and_failed_records_give_their_room_back(stream: StreamStore) -> None:
    for _ in range(4):
        for _ in range(3):
            assert isinstance(stream.submit_record("unknown", b"", "k").exception(WAIT_S), ResourceNotFoundException)
        with pytest.raises(InvalidArgumentException):
            stream.submit_record("s", b"", "")
        with failing_commit("before"):
            assert isinstance(submit(stream, 0).exception(WAIT_S), StoreFullError)
    with blocked_producer(stream, [b"0"] * 4, room=3) as (producer, held):
        held.let_go()
        producer.ended.result(WAIT_S)


@pytest.mark.usefixtures("window_of_3")
def test_closing_refuses_those_who_wait_for_room(stream: StreamStore, clock: Clock) -> None:
    with blocked_producer(stream, [b"0"] * 4, room=3) as (producer, held):
        others = [in_thread(lambda: submit(stream, 0)) for _ in range(3)]
        closing = in_thread(stream.close)
        assert concurrent.futures.wait(others, MOMENT_S, FIRST_COMPLETED).done == set()
        assert not closing.done()
        held.let_go()
        assert isinstance(producer.ended.exception(WAIT_S), StoreClosedError)
        for other in others:
            assert isinstance(other.exception(WAIT_S), StoreClosedError)
        closing.result(WAIT_S)
    with open_store(stream.path, clock) as reopened:
        assert stored(reopened) == [0, 0, 0]


@pytest.mark.usefixtures("window_of_3")
def test_puts_that_wait_for_themselves_need_no_room(stream: StreamStore) -> None:
    with blocked_producer(stream, [b"0"] * 4, room=3) as (_, held):
        putting = in_thread(lambda: stream.put_record("s", b"1", "k"))
        held.let_go()
        putting.result(WAIT_S)


@pytest.mark.usefixtures("window_of_3")
def test_an_interrupt_of_a_submitter_who_waits_for_room_loses_none(stream: StreamStore) -> None:
    """The real signal, on the main thread."""
    hit = threading.Event()

    def interrupt_if_waiting(_: int, frame: FrameType | None) -> None:
        caller = None if frame is None else frame.f_back
        if caller is not None and caller.f_code.co_name == "enter":
            hit.set()
            raise KeyboardInterrupt

    def signal_until_hit() -> None:
        while not hit.wait(0.01):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    previous = signal.signal(signal.SIGUSR1, interrupt_if_waiting)
    try:
        for _ in range(4):
            hit.clear()
            with held_commits() as held:
                receipts = [submit(stream, number) for number in range(3)]
                signalling = in_thread(signal_until_hit)
                try:
                    with pytest.raises(KeyboardInterrupt):
                        submit(stream, 3)
                finally:
                    hit.set()
                    signalling.result(WAIT_S)
                held.let_go()
                results_of(receipts)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    with blocked_producer(stream, [b"0"] * 4, room=3) as (producer, held):
        held.let_go()
        producer.ended.result(WAIT_S)
    assert stored(stream)[:12] == [0, 1, 2] * 4


@pytest.mark.usefixtures("window_of_3")
def test_an_interrupt_anywhere_in_a_submission_loses_no_room(stream: StreamStore) -> None:
    for error in interrupted_everywhere(lambda: submit(stream, 0)):
        assert isinstance(error, (KeyboardInterrupt, type(None)))
        in_thread(lambda: stream.put_record("s", b"1", "k")).result(WAIT_S)  # behind what was submitted
        with held_commits():
            Producer(stream, [b"2"] * 3).expect(3)
        in_thread(lambda: stream.put_record("s", b"3", "k")).result(WAIT_S)
    with blocked_producer(stream, [b"4"] * 4, room=3) as (producer, held):
        held.let_go()
        producer.ended.result(WAIT_S)


@pytest.mark.usefixtures("window_of_3")
def test_a_callback_may_submit_the_next_record_whatever_the_room(stream: StreamStore) -> None:
    ended: Future[None] = Future()

    def submit_next(receipt: Receipt) -> None:
        sequence = int(receipt.result().sequence_number)
        if sequence < 60:
            submit(stream, 0).add_done_callback(submit_next)
        elif not ended.done():
            ended.set_result(None)

    for receipt in [submit(stream, 0) for _ in range(3)]:
        receipt.add_done_callback(submit_next)
    ended.result(WAIT_S)
