"""Known losses: numbers whose records a salvage has not found. One typed error for a run, and all goes on."""

from pathlib import Path

import pytest

from streamstore import CorruptRecordError, Feed, StreamRecord, StreamStore
from streamstore.check import check_store
from streamstore.disk_format import counter_key, decode_counter, encode_counter, encode_loss, loss_key, record_key
from streamstore.model import StreamNumber
from tests.conftest import Clock, open_store
from tests.damage import behind_the_back_of

SHARD = "shard-000000"
RECORDS = b"records/1/0"
HOUR_MS = 3_600_000
LOSSES = (range(2), range(4, 7), range(8, 10))
"""Of ten records: at the start, in the middle, and up to the end."""


@pytest.fixture
def path(store_path: Path, clock: Clock) -> Path:
    """A closed store with the stream "s" of ten records, one a second, some of which are known to be lost."""
    with open_store(store_path, clock) as store:
        store.create_stream("s", retention_hours=1)
        for number in range(10):
            store.put_record("s", b"%d" % number, "k")
            clock.advance(1_000)
    with behind_the_back_of(store_path) as raw:
        for lost in LOSSES:
            for sequence in lost:
                raw.delete(RECORDS, record_key(sequence))
            key = loss_key(StreamNumber(1), 0, lost.start)
            raw.put(b"losses", key, encode_loss(key, lost.stop))
    assert check_store(store_path) == []
    return store_path


def run_of(error: CorruptRecordError) -> range:
    return range(int(error.sequence_number), int(error.last_sequence_number) + 1)


def read_through(store: StreamStore, start: int) -> list[int | range]:
    """Read as the documents say: behind the last number of each error."""
    found: list[int | range] = []
    while True:
        try:
            for record in store.read("s", SHARD, starting_sequence_number=str(start)):
                found.append(int(record.data))
                start = int(record.sequence_number) + 1
            return found
        except CorruptRecordError as error:
            found.append(run_of(error))
            start = int(error.last_sequence_number) + 1


def test_a_reader_gets_one_error_for_each_run_and_every_record_between(path: Path, clock: Clock) -> None:
    with open_store(path, clock) as store:
        assert read_through(store, 0) == [LOSSES[0], 2, 3, LOSSES[1], 7, LOSSES[2]]
        assert read_through(store, 5) == [range(5, 7), 7, LOSSES[2]]


def test_the_error_of_a_run_says_which_numbers_it_stands_for(path: Path, clock: Clock) -> None:
    with (
        open_store(path, clock) as store,
        pytest.raises(CorruptRecordError, match=f"^Records 0 to 1 of {SHARD} are dam"),
    ):
        list(store.read("s", SHARD))


def test_a_tail_tells_each_run_once_and_goes_on_behind_it(path: Path, clock: Clock) -> None:
    def next_of(tail: Feed[StreamRecord]) -> int | range | None:
        try:
            return next((int(record.data) for record in tail), None)
        except CorruptRecordError as error:
            return run_of(error)

    with open_store(path, clock) as store:
        tail = store.tail("s", starting_position="TRIM_HORIZON", idle_timeout_seconds=0)
        assert [*iter(lambda: next_of(tail), None)] == [LOSSES[0], 2, 3, LOSSES[1], 7, LOSSES[2]]


def test_a_shard_whose_last_records_are_lost_goes_on_behind_their_numbers(path: Path, clock: Clock) -> None:
    with open_store(path, clock) as store:
        assert store.put_record("s", b"10", "k").sequence_number == "10"
        assert read_through(store, 7) == [7, LOSSES[2], 10]
    assert check_store(path) == []


def test_lost_records_count_as_arriving_with_the_next_that_is_there(path: Path, clock: Clock) -> None:
    start_s = clock.now_ms / 1_000 - 10
    with open_store(path, clock) as store:
        token = store.get_shard_iterator("s", SHARD, "AT_TIMESTAMP", timestamp=start_s + 3)
        assert store.get_records(token).records[0].sequence_number == "3"
        token = store.get_shard_iterator("s", SHARD, "AT_TIMESTAMP", timestamp=start_s + 7)
        with pytest.raises(CorruptRecordError) as told:
            store.get_records(token)
        assert run_of(told.value) == LOSSES[1]


def test_lost_records_expire_with_the_next_that_is_there(path: Path, clock: Clock) -> None:
    clock.advance(HOUR_MS - 10_000 + 2_500)  # 0 to 2 have expired
    with open_store(path, clock) as store:
        assert read_through(store, 0) == [3, LOSSES[1], 7, LOSSES[2]]
        store.trim("s")
        assert read_through(store, 0) == [3, LOSSES[1], 7, LOSSES[2]]
        clock.advance(HOUR_MS)
        store.trim("s")
        assert read_through(store, 0) == []
        assert store.put_record("s", b"10", "k").sequence_number == "10"
    assert check_store(path) == []
    with behind_the_back_of(path) as raw:
        assert raw.items(b"losses") == []


def test_a_stream_that_is_deleted_takes_its_losses_with_it(path: Path, clock: Clock) -> None:
    with open_store(path, clock) as store:
        store.delete_stream("s")
    assert check_store(path) == []


def test_a_damaged_loss_is_only_a_missing_record(path: Path, clock: Clock) -> None:
    with behind_the_back_of(path) as raw:
        raw.flip_last_bit(b"losses", loss_key(StreamNumber(1), 0, 4))
    with open_store(path, clock) as store:
        assert read_through(store, 2) == [2, 3, range(4, 7), 7, LOSSES[2]]


def test_a_gap_that_is_longer_than_any_bite_costs_one_bite(store_path: Path, clock: Clock) -> None:
    stop = 10_000_000_000
    with open_store(store_path, clock) as store:
        store.create_stream("s", retention_hours=1)
        store.put_record("s", b"0", "k")
    with behind_the_back_of(store_path) as raw:
        counter = decode_counter(StreamNumber(1), 0, raw.get(b"counters", counter_key(StreamNumber(1), 0)))
        value = encode_counter(StreamNumber(1), 0, counter._replace(next_sequence=stop))
        raw.put(b"counters", counter_key(StreamNumber(1), 0), value)
        key = loss_key(StreamNumber(1), 0, 1)
        raw.put(b"losses", key, encode_loss(key, stop))
    assert check_store(store_path) == []
    with open_store(store_path, clock) as store:
        store.put_record("s", b"last", "k")
        assert read_through_data(store) == [b"0", range(1, stop), b"last"]
        clock.advance(HOUR_MS + 1)
        store.put_record("s", b"new", "k")
        assert read_through_data(store) == [b"new"]
        store.trim()
    assert check_store(store_path) == []


def read_through_data(store: StreamStore) -> list[bytes | range]:
    found: list[bytes | range] = []
    tail = store.tail("s", starting_position="TRIM_HORIZON", idle_timeout_seconds=0)
    while True:
        try:
            found.extend(record.data for record in tail)
            return found
        except CorruptRecordError as error:
            found.append(run_of(error))
