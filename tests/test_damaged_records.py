"""Laws of damage: a record that was changed, moved or lost on disk is never passed off as sound, and hides no other."""

from collections.abc import Callable
from pathlib import Path

import pytest

from streamstore import CorruptRecordError, StoreFormatError, StreamStore
from streamstore.check import check_store
from streamstore.disk_format import (
    RecordFormat,
    counter_key,
    encode_counter,
    record_key,
)
from streamstore.model import ShardCounter, StreamNumber
from tests.conftest import Clock, open_store
from tests.damage import RawStore, behind_the_back_of

SHARD = "shard-000000"
RECORDS = b"records/1/0"
STREAM_NUMBER = StreamNumber(1)
Damaged = Callable[[Callable[[RawStore], None]], StreamStore]


@pytest.fixture
def damaged(store_path: Path, clock: Clock) -> Damaged:
    """Make a store with the stream "s" of five records, one a millisecond, damage it, and open it again."""

    def make(damage: Callable[[RawStore], None]) -> StreamStore:
        with open_store(store_path, clock) as store:
            store.create_stream("s")
            for index in range(5):
                clock.advance(1)
                store.put_record("s", f"data {index}".encode(), "k")
        with behind_the_back_of(store_path) as raw:
            damage(raw)
        return open_store(store_path, clock)

    return make


def flip_a_bit_of_record_2(raw: RawStore) -> None:
    raw.flip_last_bit(RECORDS, record_key(2))


def lose_record_2(raw: RawStore) -> None:
    raw.delete(RECORDS, record_key(2))


def empty_record_2(raw: RawStore) -> None:
    raw.put(RECORDS, record_key(2), b"")


def copy_record_1_over_record_2(raw: RawStore) -> None:
    raw.put(RECORDS, record_key(2), raw.get(RECORDS, record_key(1)))


def put_a_record_of_another_shard_in_place_of_record_2(raw: RawStore) -> None:
    raw.put(RECORDS, record_key(2), RecordFormat(STREAM_NUMBER, 1).encode(record_key(2), 1, "k", b"data 2"))


DAMAGES = [
    flip_a_bit_of_record_2,
    lose_record_2,
    empty_record_2,
    copy_record_1_over_record_2,
    put_a_record_of_another_shard_in_place_of_record_2,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_named_and_its_neighbours_stay_readable(
    damaged: Damaged, damage: Callable[[RawStore], None]
) -> None:
    with damaged(damage) as store:
        reading = store.read("s", SHARD)
        assert [next(reading).data for _ in range(2)] == [b"data 0", b"data 1"]
        with pytest.raises(CorruptRecordError, match=f"Record 2 of {SHARD} is damaged: ") as corrupt:
            next(reading)
        assert (corrupt.value.shard_id, corrupt.value.sequence_number) == (SHARD, "2")
        after = store.read("s", SHARD, starting_sequence_number="3")
        assert [record.data for record in after] == [b"data 3", b"data 4"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_page_ends_in_front_of_a_damaged_record_and_the_next_page_says_so(
    damaged: Damaged, damage: Callable[[RawStore], None]
) -> None:
    with damaged(damage) as store:
        page = store.get_records(store.get_shard_iterator("s", SHARD, "TRIM_HORIZON"))
        assert [record.sequence_number for record in page.records] == ["0", "1"]
        assert page.millis_behind_latest == 3
        for _ in range(2):  # and it says so again
            with pytest.raises(CorruptRecordError) as corrupt:
                store.get_records(page.next_shard_iterator or "")
            assert corrupt.value.sequence_number == "2"
        behind = store.get_shard_iterator("s", SHARD, "AFTER_SEQUENCE_NUMBER", starting_sequence_number="2")
        assert [record.sequence_number for record in store.get_records(behind).records] == ["3", "4"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_shard_with_a_damaged_record_goes_on_taking_records(
    damaged: Damaged, damage: Callable[[RawStore], None]
) -> None:
    with damaged(damage) as store:
        assert store.put_record("s", b"data 5", "k").sequence_number == "5"
        after = store.read("s", SHARD, starting_sequence_number="3")
        assert [record.data for record in after] == [b"data 3", b"data 4", b"data 5"]


def test_two_swapped_records_are_both_detected(damaged: Damaged) -> None:
    def swap(raw: RawStore) -> None:
        first, second = raw.get(RECORDS, record_key(1)), raw.get(RECORDS, record_key(2))
        raw.put(RECORDS, record_key(1), second)
        raw.put(RECORDS, record_key(2), first)

    with damaged(swap) as store:
        for number in ("1", "2"):
            with pytest.raises(CorruptRecordError) as corrupt:
                next(store.read("s", SHARD, starting_sequence_number=number))
            assert corrupt.value.sequence_number == number


def test_losing_every_record_is_detected(damaged: Damaged) -> None:
    def lose_all(raw: RawStore) -> None:
        for key, _ in raw.items(RECORDS):
            raw.delete(RECORDS, key)

    with damaged(lose_all) as store, pytest.raises(CorruptRecordError, match="they are missing"):
        next(store.read("s", SHARD))


@pytest.mark.parametrize("lost", [0, 4], ids=["first", "last"])
def test_losing_the_first_or_the_last_record_is_detected(damaged: Damaged, lost: int) -> None:
    with damaged(lambda raw: raw.delete(RECORDS, record_key(lost))) as store:
        with pytest.raises(CorruptRecordError, match="it is missing") as corrupt:
            list(store.read("s", SHARD))
        assert corrupt.value.sequence_number == str(lost)


def test_nothing_is_appended_to_a_shard_that_lost_its_last_record(damaged: Damaged) -> None:
    with (
        damaged(lambda raw: raw.delete(RECORDS, record_key(4))) as store,
        pytest.raises(StoreFormatError, match="its counter says that record 5 comes next, its records say 4"),
    ):
        store.put_record("s", b"", "k")


def test_nothing_is_appended_to_a_shard_whose_counter_went_back(damaged: Damaged) -> None:
    def set_back(raw: RawStore) -> None:
        raw.put(b"counters", counter_key(STREAM_NUMBER, 0), encode_counter(STREAM_NUMBER, 0, ShardCounter(0, 3)))

    with damaged(set_back) as store, pytest.raises(StoreFormatError, match="record 3 comes next, its records say 5"):
        store.put_record("s", b"", "k")


def test_a_damaged_counter_is_refused_for_reading_and_for_writing(damaged: Damaged) -> None:
    with damaged(lambda raw: raw.flip_last_bit(b"counters", counter_key(STREAM_NUMBER, 0))) as store:
        for use in (
            lambda: store.put_record("s", b"", "k"),
            lambda: list(store.read("s", SHARD)),
            lambda: store.get_shard_iterator("s", SHARD, "LATEST"),
            lambda: store.describe_stream("s"),
        ):
            with pytest.raises(StoreFormatError, match="counter of shard 0 is damaged"):
                use()


def test_a_damaged_stream_entry_is_refused_and_other_streams_go_on(store_path: Path, clock: Clock) -> None:
    with open_store(store_path, clock) as store:
        for name in ("m", "s", "u"):
            store.create_stream(name)
    with behind_the_back_of(store_path) as raw:
        raw.flip_last_bit(b"streams", b"s")
    with open_store(store_path, clock) as store:
        for use in (
            lambda: store.put_record("s", b"", "k"),
            lambda: store.read("s", SHARD),
            lambda: store.delete_stream("s"),
        ):
            with pytest.raises(StoreFormatError, match="entry of stream b's' is damaged"):
                use()
        for name in ("m", "u"):
            assert store.put_record(name, b"", "k").sequence_number == "0"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_time_behind_a_damaged_record_is_found(
    damaged: Damaged, clock: Clock, damage: Callable[[RawStore], None]
) -> None:
    with damaged(damage) as store:
        arrivals_ms = [clock.now_ms - 4 + index for index in range(5)]
        for index in (0, 1, 4):
            iterator = store.get_shard_iterator("s", SHARD, "AT_TIMESTAMP", timestamp=arrivals_ms[index] / 1000)
            assert store.get_records(iterator, limit=1).records[0].data == f"data {index}".encode()
        # Record 2 has no time any more, and may be the one that the time of record 3 asks for.
        iterator = store.get_shard_iterator("s", SHARD, "AT_TIMESTAMP", timestamp=arrivals_ms[3] / 1000)
        with pytest.raises(CorruptRecordError, match="Record 2"):
            store.get_records(iterator)


def test_a_stretch_of_damaged_records_does_not_stop_the_trimming(store_path: Path, clock: Clock) -> None:
    """However long it is: a put trims some thirty records of a shard, and passes over a thousand damaged ones."""
    with open_store(store_path, clock) as store:
        store.create_stream("s", retention_hours=1)
        for _ in range(6):
            store.put_records("s", [(b"old", "k")] * 500)
    with behind_the_back_of(store_path) as raw:
        for sequence in range(2_500):
            raw.flip_last_bit(RECORDS, record_key(sequence))
    clock.advance(3_600_001)
    with open_store(store_path, clock) as store:
        for _ in range(100):
            store.put_record("s", b"new", "k")
        assert {record.data for record in store.read("s", SHARD, starting_sequence_number="3000")} == {b"new"}
    with behind_the_back_of(store_path) as raw:
        oldest = int.from_bytes(raw.items(RECORDS)[0][0], "big")
    assert oldest == 3_000


def test_damaged_records_with_none_behind_them_expire_with_the_last_arrival(store_path: Path, clock: Clock) -> None:
    with open_store(store_path, clock) as store:
        store.create_stream("s", retention_hours=1)
        store.put_records("s", [(b"old", "k")] * 100)
    with behind_the_back_of(store_path) as raw:
        for sequence in range(100):
            raw.flip_last_bit(RECORDS, record_key(sequence))
    with open_store(store_path, clock) as store:
        clock.advance(3_600_000)
        assert store.trim().record_count == 0
        clock.advance(1)
        assert store.trim().record_count == 100
    assert check_store(store_path) == []
