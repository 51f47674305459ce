"""Laws of submit_record: at once, in order, bounded, and every future tells the truth."""

import concurrent.futures
import queue
from collections.abc import Callable
from concurrent.futures import Future, as_completed
from typing import Literal

import pytest

from streamstore import (
    InvalidArgumentException,
    ProvisionedThroughputExceededException,
    PutRecordResult,
    ResourceNotFoundException,
    StorageError,
    StoreClosedError,
    StoreFullError,
    StreamStore,
)
from tests.commits import WAIT_S, failing_commit, held_commits, in_thread, last_commit
from tests.conftest import Clock, open_store

SHARD = "shard-000000"
MOMENT_S = 0.1
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


# At once, and in order


def test_it_returns_before_the_commit_and_the_future_when_the_record_is_stored(stream: StreamStore) -> None:
    with held_commits() as held:
        receipt = submit(stream, 0)
        held.wait_for_one()
        assert not receipt.done()
        assert stored(stream) == []
        held.let_go()
        assert receipt.result(WAIT_S) == PutRecordResult(SHARD, "0", "NONE")
    assert stored(stream) == [0]


def test_the_order_of_submission_is_the_order_in_the_shard(stream: StreamStore) -> None:
    receipts = [submit(stream, number) for number in range(3_000)]
    assert results_of(receipts) == placed(0, 3_000)
    assert stored(stream) == list(range(3_000))


def test_a_put_comes_behind_what_the_same_thread_has_submitted(stream: StreamStore) -> None:
    for number in range(0, 400, 4):
        submit(stream, number)
        submit(stream, number + 1)
        assert stream.put_record("s", b"%d" % (number + 2), "k").sequence_number == str(number + 2)
        assert stream.put_records("s", [(b"%d" % (number + 3), "k")]).records[0].sequence_number == str(number + 3)
    assert stored(stream) == list(range(400))


def test_what_is_submitted_while_a_commit_is_under_way_shares_the_next_one(stream: StreamStore) -> None:
    before = last_commit(stream)
    with held_commits() as held:
        receipts = [submit(stream, 0)]
        held.wait_for_one()
        receipts += [submit(stream, number) for number in range(1, 1_000)]
        held.let_go()
        results_of(receipts)
    assert last_commit(stream) == before + 2


def test_it_takes_the_arguments_of_put_record(stream: StreamStore) -> None:
    stream.create_stream("two", shard_count=2)
    low = stream.submit_record("two", bytearray(b"low"), "k", explicit_hash_key="0")
    high = stream.submit_record("two", memoryview(b"high"), "a", explicit_hash_key=str(2**128 - 1))
    behind = stream.submit_record("two", b"", "k", explicit_hash_key="0", sequence_number_for_ordering="0")
    assert [result.shard_id for result in results_of([low, high])] == [SHARD, "shard-000001"]
    assert behind.result(WAIT_S) == PutRecordResult(SHARD, "1")
    assert [record.data for record in stream.read("two", "shard-000001")] == [b"high"]


def test_a_buffer_changed_after_the_submission_changes_no_record(stream: StreamStore) -> None:
    data = bytearray(b"1")
    with held_commits() as held:
        receipt = stream.submit_record("s", data, "k")
        data[:] = b"2"
        held.let_go()
        receipt.result(WAIT_S)
    assert stored(stream) == [1]


# Errors


def test_bad_arguments_are_refused_at_once(stream: StreamStore) -> None:
    bad: list[tuple[str, Callable[[], object]]] = [
        ("stream_name", lambda: stream.submit_record("", b"", "k")),
        ("data", lambda: stream.submit_record("s", bytes(1_048_577), "k")),
        ("partition_key", lambda: stream.submit_record("s", b"", "")),
        ("explicit_hash_key", lambda: stream.submit_record("s", b"", "k", explicit_hash_key="01")),
        ("sequence_number_for_ordering", lambda: stream.submit_record("s", b"", "k", sequence_number_for_ordering="x")),
    ]
    for argument, call in bad:
        with pytest.raises(InvalidArgumentException) as refusal:
            call()
        assert refusal.value.argument == argument


def test_other_refusals_come_through_the_future_and_harm_no_neighbour(stream: StreamStore) -> None:
    stream.create_stream("slow", write_quota_kb_per_sec=128)
    with held_commits() as held:
        first = submit(stream, 0)
        held.wait_for_one()
        unknown = stream.submit_record("unknown", b"", "k")
        passes = stream.submit_record("slow", bytes(1_048_576), "k")
        throttled = stream.submit_record("slow", b"", "k")
        misordered = stream.submit_record("s", b"", "k", sequence_number_for_ordering="9")
        last = submit(stream, 1)
        held.let_go()
        assert results_of([first, last]) == placed(0, 2)
    assert isinstance(unknown.exception(WAIT_S), ResourceNotFoundException)
    assert passes.result(WAIT_S) == PutRecordResult(SHARD, "0")
    assert isinstance(throttled.exception(WAIT_S), ProvisionedThroughputExceededException)
    assert isinstance(misordered.exception(WAIT_S), InvalidArgumentException)
    assert stored(stream) == [0, 1]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_failed_commit_fails_each_future_with_an_error_of_its_own(
    stream: StreamStore, moment: Literal["before", "after"]
) -> None:
    with held_commits() as held:
        first = submit(stream, 0)
        held.wait_for_one()
        receipts = [submit(stream, number) for number in range(1, 4)]
        with failing_commit(moment):
            held.let_go()
            errors = [receipt.exception(WAIT_S) for receipt in receipts]
    assert first.result(WAIT_S) == PutRecordResult(SHARD, "0")
    if moment == "after":
        assert errors == [None] * 3
        assert stored(stream) == [0, 1, 2, 3]
    else:
        assert [type(error) for error in errors] == [StoreFullError] * 3
        assert len({id(error) for error in errors}) == 3
        assert stored(stream) == [0]


def test_a_store_open_for_reading_refuses_at_once(stream: StreamStore, clock: Clock) -> None:
    stream.close()
    with open_store(stream.path, clock, read_only=True) as reading, pytest.raises(InvalidArgumentException):
        submit(reading, 0)


# Closing


def test_a_closed_store_refuses_at_once(stream: StreamStore) -> None:
    stream.close()
    with pytest.raises(StoreClosedError):
        submit(stream, 0)


def test_closing_stores_what_was_submitted(stream: StreamStore, clock: Clock) -> None:
    receipts = [submit(stream, number) for number in range(2_000)]
    in_thread(stream.close).result(WAIT_S)
    assert all(receipt.done() for receipt in receipts)
    assert results_of(receipts) == placed(0, 2_000)
    with open_store(stream.path, clock) as reopened:
        assert stored(reopened) == list(range(2_000))


def test_what_was_submitted_to_a_store_that_nobody_keeps_is_stored(stream: StreamStore) -> None:
    path = stream.path
    stream.close()
    receipts = [submit(unkept, 0) for unkept in [StreamStore(path, sync="off")]]
    assert results_of(receipts) == placed(0, 1)


# Futures


def test_a_submitted_record_cannot_be_taken_back(stream: StreamStore) -> None:
    with held_commits() as held:
        receipts = [submit(stream, number) for number in range(3)]
        assert [receipt.cancel() for receipt in receipts] == [False] * 3
        assert not any(receipt.cancelled() for receipt in receipts)
        held.let_go()
        assert results_of(receipts) == placed(0, 3)
    assert stored(stream) == [0, 1, 2]


def test_callbacks_run_when_the_record_is_stored(stream: StreamStore) -> None:
    seen: queue.SimpleQueue[tuple[PutRecordResult, list[int]]] = queue.SimpleQueue()
    with held_commits() as held:
        receipt = submit(stream, 7)
        receipt.add_done_callback(lambda done: seen.put((done.result(), stored(stream))))
        assert seen.empty()
        held.let_go()
        assert seen.get(timeout=WAIT_S) == (PutRecordResult(SHARD, "0"), [7])


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_callback_that_raises_harms_nobody(stream: StreamStore, error: type[BaseException]) -> None:
    def fail(_: Receipt) -> None:
        raise error

    with held_commits() as held:
        first = submit(stream, 0)
        held.wait_for_one()
        receipts = [submit(stream, number) for number in range(1, 5)]
        receipts[1].add_done_callback(fail)
        held.let_go()
        assert results_of([first, *receipts]) == placed(0, 5)
    assert in_thread(lambda: stream.put_record("s", b"5", "k")).result(WAIT_S).sequence_number == "5"
    assert submit(stream, 6).result(WAIT_S).sequence_number == "6"


def test_a_future_that_somebody_else_has_set_harms_nobody(stream: StreamStore) -> None:
    with held_commits() as held:
        first = submit(stream, 0)
        held.wait_for_one()
        meddled, last = submit(stream, 1), submit(stream, 2)
        meddled.set_result(PutRecordResult("mine", "0"))
        held.let_go()
        assert results_of([first, last]) == [*placed(0, 1), *placed(2, 3)]
    assert in_thread(lambda: stream.put_record("s", b"3", "k")).result(WAIT_S).sequence_number == "3"


@pytest.mark.parametrize("call", ["put_record", "put_records", "ingest", "create_stream", "delete_stream"])
def test_a_callback_that_would_wait_for_the_store_is_refused(stream: StreamStore, call: str) -> None:
    calls: dict[str, Callable[[], object]] = {
        "put_record": lambda: stream.put_record("s", b"1", "k"),
        "put_records": lambda: stream.put_records("s", [(b"1", "k")]),
        "ingest": lambda: stream.ingest("s", [(b"1", "k")]),
        "create_stream": lambda: stream.create_stream("t"),
        "delete_stream": lambda: stream.delete_stream("s"),
    }
    refusals: queue.SimpleQueue[object] = queue.SimpleQueue()

    def call_the_store(_: Receipt) -> None:
        try:
            refusals.put(calls[call]())
        except StorageError as refusal:
            refusals.put(refusal)

    with held_commits() as held:
        submit(stream, 0).add_done_callback(call_the_store)
        held.let_go()
        assert isinstance(refusals.get(timeout=WAIT_S), StorageError)
    assert submit(stream, 1).result(WAIT_S).sequence_number == "1"


def test_the_futures_work_with_wait_and_as_completed(stream: StreamStore) -> None:
    receipts = [submit(stream, number) for number in range(100)]
    finished = concurrent.futures.wait(receipts, WAIT_S)
    assert (len(finished.done), finished.not_done) == (100, set())
    receipts = [submit(stream, number) for number in range(100, 200)]
    numbers = sorted(int(receipt.result().sequence_number) for receipt in as_completed(receipts, WAIT_S))
    assert numbers == list(range(100, 200))


def test_threads_that_submit_at_once_keep_their_own_order_without_gaps(stream: StreamStore) -> None:
    def submit_many(thread_number: int) -> list[Receipt]:
        return [submit(stream, thread_number * 1_000 + index) for index in range(300)]

    threads = [in_thread(lambda number=number: submit_many(number)) for number in range(8)]  # type: ignore[misc]
    receipts = [thread.result(WAIT_S) for thread in threads]
    sequences = [[int(result.sequence_number) for result in results_of(own)] for own in receipts]
    records = stored(stream)
    assert len(records) == 2_400
    for number, own in enumerate(sequences):
        assert own == sorted(own)
        assert [records[sequence] for sequence in own] == [number * 1_000 + index for index in range(300)]
