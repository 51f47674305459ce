"""Laws of ingest: any iterable, in order, as fast as the disk; whatever ends it, no shard has a gap."""

import queue
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Final, Literal

import pytest

from streamstore import (
    IngestResult,
    InvalidArgumentException,
    OutcomeUnknownError,
    PutRecordsEntry,
    ResourceNotFoundException,
    StoreClosedError,
    StoreFullError,
    StreamStore,
)
from streamstore.ingest import ON_THE_WAY_BYTES_MAX, ON_THE_WAY_RECORDS_MAX
from tests.commits import WAIT_S, failing_commit, held_commits, in_thread, last_commit
from tests.conftest import Clock, open_store
from tests.interrupts import interrupted_everywhere

Entry = tuple[bytes, str]

KEYS: Final = "ak"
"""The keys of the first and of the second shard."""
MIB: Final = 1_048_576
SHARDS: Final = ["shard-000000", "shard-000001"]


class PlantedError(Exception):
    pass


@pytest.fixture
def stream(store: StreamStore) -> StreamStore:
    """A store with the stream "s" of two shards."""
    store.create_stream("s", shard_count=2)
    return store


def entries(count: int, *, first: int = 0, size: int = 0) -> list[Entry]:
    return [entry(number, size=size) for number in range(first, first + count)]


def entry(number: int, *, size: int = 0) -> Entry:
    return (b"%d" % number).ljust(size), KEYS[number % 3 == 0]


def stored(store: StreamStore) -> list[list[int]]:
    """Return the numbers of the records in each shard."""
    numbers: list[list[int]] = []
    for shard_id in SHARDS:
        records = list(store.read("s", shard_id))
        assert [record.sequence_number for record in records] == [str(index) for index in range(len(records))]
        numbers.append([int(record.data) for record in records])
    return numbers


def prefix(count: int) -> list[list[int]]:
    """Return what the shards hold when the first records are stored."""
    return [[number for number in range(count) if (number % 3 == 0) == bool(shard)] for shard in (0, 1)]


def assert_stored_without_gaps(store: StreamStore) -> int:
    """Return how many of the first records are stored; of each shard it must be a run from its first one on."""
    numbers = stored(store)
    longest = prefix(3 * sum(map(len, numbers)))
    assert numbers == [expected[: len(own)] for own, expected in zip(numbers, longest, strict=True)]
    return sum(map(len, numbers))


def note_of(error: BaseException | None) -> str:
    assert error is not None
    return "".join(error.__notes__)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it never came true"


# What is stored


@pytest.mark.parametrize("count", [0, 1, 2, ON_THE_WAY_RECORDS_MAX + 1, 12_345])
@pytest.mark.parametrize("iterable", [list, iter, tuple])
def test_any_number_of_entries_of_any_iterable_is_stored_in_order(
    stream: StreamStore, count: int, iterable: Callable[[list[Entry]], Iterable[Entry]]
) -> None:
    given = entries(count)
    result = stream.ingest("s", iterable(given))
    used = {SHARDS[key == "k"] for _, key in given}
    assert result == IngestResult(count, sum(len(data) for data, _ in given), frozenset(used))
    assert stored(stream) == prefix(count)


def test_every_shape_of_an_entry_is_accepted(stream: StreamStore) -> None:
    shapes = (PutRecordsEntry(bytearray(b"0"), "k"), (b"1", "k"), (b"2", "k", "0"), PutRecordsEntry(b"3", "k", "0"))
    assert stream.ingest("s", (shape for shape in shapes)) == IngestResult(4, 4, frozenset(SHARDS))
    assert stored(stream) == [[2, 3], [0]] or stored(stream) == [[2, 3], [0, 1]]


def test_it_numbers_on_from_what_is_stored_already(stream: StreamStore) -> None:
    stream.ingest("s", entries(10))
    stream.put_record("s", *entry(10))
    stream.ingest("s", entries(10, first=11))
    assert stored(stream) == prefix(21)


def test_many_records_share_a_commit(stream: StreamStore) -> None:
    before = last_commit(stream)
    stream.ingest("s", iter(entries(5_000)))
    assert last_commit(stream) - before < 500


def test_nothing_to_store_commits_nothing(stream: StreamStore) -> None:
    before = last_commit(stream)
    assert stream.ingest("s", []) == IngestResult(0, 0, frozenset())
    assert last_commit(stream) == before


def test_producers_at_once_keep_their_own_order(stream: StreamStore) -> None:
    def ingest_of(first: int) -> IngestResult:
        return stream.ingest("s", ((b"%d" % number, "a") for number in range(first, first + 1_000)))

    threads = [in_thread(lambda first=first: ingest_of(first)) for first in range(0, 4_000, 1_000)]  # type: ignore[misc]
    assert [thread.result(WAIT_S).record_count for thread in threads] == [1_000] * 4
    numbers = stored(stream)[0]
    for first in range(0, 4_000, 1_000):
        own = [number for number in numbers if first <= number < first + 1_000]
        assert own == list(range(first, first + 1_000))


# How it takes them


def test_a_slow_producer_finds_each_record_stored_before_it_makes_the_next_one(stream: StreamStore) -> None:
    def produce() -> Iterator[Entry]:
        for number in range(20):
            yield entry(number)
            wait_until(lambda: stored(stream) == prefix(number + 1))  # noqa: B023 - waited for

    assert in_thread(lambda: stream.ingest("s", produce())).result(WAIT_S).record_count == 20


@pytest.mark.parametrize(
    ("size", "count", "ahead_max"),
    [(0, 9_000, ON_THE_WAY_RECORDS_MAX), (100_000, 300, ON_THE_WAY_BYTES_MAX // 100_000 + 1)],
)
def test_the_producer_is_never_further_ahead_than_documented(
    stream: StreamStore, size: int, count: int, ahead_max: int
) -> None:
    told = IngestResult(0, 0, frozenset())
    furthest = 0

    def note(so_far: IngestResult) -> None:
        nonlocal told
        told = so_far

    def produce() -> Iterator[Entry]:
        nonlocal furthest
        for number in range(count):
            yield entry(number, size=size)
            furthest = max(furthest, number + 1 - told.record_count)

    stream.ingest("s", produce(), on_stored=note)
    assert furthest <= ahead_max
    assert told.record_count == count


def test_it_takes_no_more_while_the_disk_is_busy(stream: StreamStore) -> None:
    taken: queue.SimpleQueue[int] = queue.SimpleQueue()

    def produce() -> Iterator[Entry]:
        for number in range(ON_THE_WAY_RECORDS_MAX * 2):
            taken.put(number)
            yield entry(number)

    with held_commits() as held:
        ingesting = in_thread(lambda: stream.ingest("s", produce()))
        for _ in range(ON_THE_WAY_RECORDS_MAX):
            taken.get(timeout=WAIT_S)
        with pytest.raises(queue.Empty):
            taken.get(timeout=0.1)
        held.let_go()
        assert ingesting.result(WAIT_S).record_count == ON_THE_WAY_RECORDS_MAX * 2


def test_it_tells_what_is_stored_in_growing_totals_that_are_true(stream: StreamStore) -> None:
    totals: list[IngestResult] = []

    def look(so_far: IngestResult) -> None:
        totals.append(so_far)
        assert sum(map(len, stored(stream))) >= so_far.record_count

    result = stream.ingest("s", iter(entries(3_000)), on_stored=look)
    counts = [total.record_count for total in totals]
    assert counts == sorted(set(counts))
    assert totals[-1] == result


# Errors


@pytest.mark.parametrize("records", [None, 5, 1.5, object()])
def test_what_is_no_iterable_is_refused(stream: StreamStore, records: object) -> None:
    with pytest.raises(InvalidArgumentException) as refusal:
        stream.ingest("s", records)  # type: ignore[arg-type]
    assert refusal.value.argument == "records"
    assert "iterable" in refusal.value.constraint


def test_a_bad_stream_is_refused_before_anything_is_taken(stream: StreamStore, clock: Clock) -> None:
    untouched = iter(entries(3))
    with pytest.raises(InvalidArgumentException, match="stream_name"):
        stream.ingest("", untouched)
    with pytest.raises(ResourceNotFoundException):
        stream.ingest("unknown", untouched)
    stream.close()
    with pytest.raises(StoreClosedError):
        stream.ingest("s", untouched)
    with open_store(stream.path, clock, read_only=True) as reading, pytest.raises(InvalidArgumentException):
        reading.ingest("s", untouched)
    assert len(list(untouched)) == 3


@pytest.mark.parametrize("place", [0, 1, 700, ON_THE_WAY_RECORDS_MAX + 5])
def test_what_is_in_front_of_a_bad_entry_is_stored_and_nothing_behind_it(stream: StreamStore, place: int) -> None:
    for bad, argument in [((b"", ""), "partition_key"), ((5, "k"), "data"), ((b"", "k", "x"), "explicit_hash_key")]:
        given = [*entries(place), bad, *entries(10)]
        with pytest.raises(InvalidArgumentException) as refusal:
            stream.ingest("s", given)  # type: ignore[arg-type]
        assert refusal.value.argument == f"records[{place}].{argument}"
        assert note_of(refusal.value) == f"The first {place:,} records are stored."
        assert stored(stream) == prefix(place)
        stream.delete_stream("s")
        stream.create_stream("s", shard_count=2)


@pytest.mark.parametrize("error", [PlantedError, GeneratorExit, KeyboardInterrupt])
def test_what_an_iterable_gave_before_it_raised_is_stored(stream: StreamStore, error: type[BaseException]) -> None:
    def produce() -> Iterator[Entry]:
        yield from entries(1_234)
        raise error

    with pytest.raises(error) as caught:
        stream.ingest("s", produce())
    assert note_of(caught.value) == "The first 1,234 records are stored."
    assert stored(stream) == prefix(1_234)


@pytest.mark.parametrize("failing_call", [1, 2, 3])
def test_a_callback_that_raises_ends_it_behind_what_was_taken(stream: StreamStore, failing_call: int) -> None:
    calls: list[IngestResult] = []
    taken: list[int] = []

    def fail(so_far: IngestResult) -> None:
        calls.append(so_far)
        if len(calls) == failing_call:
            raise PlantedError

    def produce() -> Iterator[Entry]:
        for number in range(20_000):
            taken.append(number)
            yield entry(number)

    with pytest.raises(PlantedError) as caught:
        stream.ingest("s", produce(), on_stored=fail)
    assert note_of(caught.value) == f"The first {len(taken):,} records are stored."
    assert len(taken) < 20_000
    assert stored(stream) == prefix(len(taken))
    counts = [call.record_count for call in calls]
    assert counts == sorted(set(counts))


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("good_commits", [0, 1, 3])
def test_behind_a_failed_commit_nothing_is_stored(
    stream: StreamStore, moment: Literal["before", "after"], good_commits: int
) -> None:
    """Each commit holds one record at least, so that three good ones leave enough to fail."""
    with failing_commit(moment, after=good_commits) as failed:
        if moment == "before":
            with pytest.raises(StoreFullError) as caught:
                stream.ingest("s", iter(entries(20_000)))
            count = assert_stored_without_gaps(stream)
            assert failed == ["before"]
            assert count < 20_000
            assert note_of(caught.value) == f"The first {count:,} records are stored."
        else:
            assert stream.ingest("s", iter(entries(5_000))).record_count == 5_000
    if moment == "after":
        assert stored(stream) == prefix(5_000)
    stream.put_record("s", b"-1", "k")


def test_what_is_sent_before_a_failed_commit_is_noticed_is_not_stored_behind_it(stream: StreamStore) -> None:
    def produce() -> Iterator[Entry]:
        yield from entries(10)
        wait_until(lambda: bool(failed))
        yield from entries(10, first=10)

    with failing_commit("before", times=1) as failed, pytest.raises(StoreFullError) as caught:
        stream.ingest("s", produce())
    assert stored(stream) == prefix(0)
    assert note_of(caught.value) == "The first 0 records are stored."


def test_behind_a_commit_of_unknown_outcome_nothing_is_stored(
    stream: StreamStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_once(*_: object) -> None:
        monkeypatch.undo()
        raise OutcomeUnknownError("planted by the test")

    def produce() -> Iterator[Entry]:
        yield from entries(10)
        wait_until(lambda: stored(stream) == prefix(10))
        monkeypatch.setattr("streamstore.engine.Engine._commit", fail_once)
        yield from entries(9_000, first=10)

    with pytest.raises(OutcomeUnknownError) as caught:
        stream.ingest("s", produce())
    assert stored(stream) == prefix(10)
    assert note_of(caught.value) == "The first 10 records are stored."


def test_a_stream_deleted_meanwhile_ends_it(stream: StreamStore) -> None:
    def produce() -> Iterator[Entry]:
        yield from entries(500)
        stream.delete_stream("s")
        yield from entries(500)

    with pytest.raises(ResourceNotFoundException):
        in_thread(lambda: stream.ingest("s", produce())).result(WAIT_S)


def test_a_store_closed_meanwhile_ends_it_without_gaps(stream: StreamStore, clock: Clock) -> None:
    half_way = threading.Event()

    def produce() -> Generator[Entry]:
        number = 0
        while True:
            yield entry(number)
            number += 1
            if number == 5_000:
                half_way.set()

    ingesting = in_thread(lambda: stream.ingest("s", produce()))
    assert half_way.wait(WAIT_S)
    in_thread(stream.close).result(WAIT_S)
    error = ingesting.exception(WAIT_S)
    assert isinstance(error, StoreClosedError)
    with open_store(stream.path, clock) as reopened:
        count = assert_stored_without_gaps(reopened)
    assert count > 0
    assert note_of(error) == f"The first {count:,} records are stored."


# Interrupts


def test_an_interrupt_leaves_what_was_taken_stored_without_gaps(stream: StreamStore) -> None:
    """The real signal, on the main thread."""
    taken: list[int] = []

    def produce() -> Iterator[Entry]:
        for number in range(200_000):
            taken.append(number)
            if number == 6_000:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            yield entry(number)

    with pytest.raises(KeyboardInterrupt) as caught:
        stream.ingest("s", produce())
    count = assert_stored_without_gaps(stream)
    assert count in (len(taken) - 1, len(taken))
    assert note_of(caught.value) == f"The first {count:,} records are stored."


def test_an_interrupt_anywhere_leaves_no_gap_and_a_true_note(stream: StreamStore) -> None:
    for error in interrupted_everywhere(lambda: stream.ingest("s", iter(entries(4)), on_stored=lambda _: None)):
        count = assert_stored_without_gaps(stream)
        if error is None:
            assert count == 4
        else:
            assert isinstance(error, KeyboardInterrupt)
            assert not hasattr(error, "__notes__") or note_of(error) == f"The first {count:,} records are stored."
        in_thread(lambda: stream.delete_stream("s")).result(WAIT_S)
        in_thread(lambda: stream.create_stream("s", shard_count=2)).result(WAIT_S)
