"""Laws of the shard iterators: where each type starts, what it must be given, and how long it lives."""

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import Path

import pytest

from streamstore import (
    ExpiredIteratorException,
    InvalidArgumentException,
    ResourceNotFoundException,
    StreamStore,
)
from streamstore.model import ShardIteratorType
from tests.conftest import Clock, open_store

SHARD = "shard-000000"
START_MS = 1_700_000_000_000
ARRIVALS_MS = [0, 10, 10, 10, 25, 40]
"""When the records of the stream arrive, counted from START_MS."""


@pytest.fixture
def stream(store: StreamStore, clock: Clock) -> StreamStore:
    """A store with the stream "s" of one shard and six records, three of them of the same millisecond."""
    store.create_stream("s")
    for arrival_ms in ARRIVALS_MS:
        clock.now_ms = START_MS + arrival_ms
        store.put_record("s", b"", "k")
    return store


def numbers(store: StreamStore, iterator: str) -> list[int]:
    return [int(record.sequence_number) for record in store.get_records(iterator).records]


def from_sequence(store: StreamStore, kind: ShardIteratorType, number: str) -> list[int]:
    return numbers(store, store.get_shard_iterator("s", SHARD, kind, starting_sequence_number=number))


def from_time(store: StreamStore, timestamp: object) -> list[int]:
    return numbers(store, store.get_shard_iterator("s", SHARD, "AT_TIMESTAMP", timestamp=timestamp))


def test_trim_horizon_is_the_oldest_record(stream: StreamStore) -> None:
    assert numbers(stream, stream.get_shard_iterator("s", SHARD, "TRIM_HORIZON")) == [0, 1, 2, 3, 4, 5]


def test_latest_is_behind_the_newest_record_at_the_time_of_the_call(stream: StreamStore) -> None:
    latest = stream.get_shard_iterator("s", SHARD, "LATEST")
    assert numbers(stream, latest) == []
    stream.put_record("s", b"", "k")
    assert numbers(stream, latest) == [6]
    assert numbers(stream, stream.get_shard_iterator("s", SHARD, "LATEST")) == []


def test_at_sequence_number_includes_it_and_after_sequence_number_does_not(stream: StreamStore) -> None:
    assert from_sequence(stream, "AT_SEQUENCE_NUMBER", "0") == [0, 1, 2, 3, 4, 5]
    assert from_sequence(stream, "AT_SEQUENCE_NUMBER", "4") == [4, 5]
    assert from_sequence(stream, "AFTER_SEQUENCE_NUMBER", "0") == [1, 2, 3, 4, 5]
    assert from_sequence(stream, "AFTER_SEQUENCE_NUMBER", "4") == [5]


@pytest.mark.parametrize("number", ["6", "7", str(2**64 - 1), str(2**64), "9" * 129])
def test_a_sequence_number_past_the_end_is_a_place_still_to_come(stream: StreamStore, number: str) -> None:
    for kind in ("AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER"):
        iterator = stream.get_shard_iterator("s", SHARD, kind, starting_sequence_number=number)
        page = stream.get_records(iterator)
        assert (page.records, page.millis_behind_latest) == ([], 0)
        assert page.next_shard_iterator is not None
        assert numbers(stream, page.next_shard_iterator) == []


def test_a_place_still_to_come_is_reached_by_its_record_and_by_none_before(stream: StreamStore) -> None:
    iterator = stream.get_shard_iterator("s", SHARD, "AFTER_SEQUENCE_NUMBER", starting_sequence_number="7")
    for _ in range(6, 9):
        iterator = stream.get_records(iterator).next_shard_iterator or ""
        stream.put_record("s", b"", "k")
    stream.put_record("s", b"", "k")
    assert numbers(stream, iterator) == [8, 9]


@pytest.mark.parametrize(
    ("after_ms", "expected"),
    [
        (-START_MS, [0, 1, 2, 3, 4, 5]),
        (-1, [0, 1, 2, 3, 4, 5]),
        (0, [0, 1, 2, 3, 4, 5]),
        (1, [1, 2, 3, 4, 5]),
        (10, [1, 2, 3, 4, 5]),
        (11, [4, 5]),
        (25, [4, 5]),
        (26, [5]),
        (40, [5]),
        (41, []),
    ],
)
def test_at_timestamp_is_the_first_record_at_or_after_it(
    stream: StreamStore, after_ms: int, expected: list[int]
) -> None:
    seconds = (START_MS + after_ms) / 1000
    assert from_time(stream, seconds) == expected
    assert from_time(stream, datetime.fromtimestamp(seconds, UTC)) == expected
    assert from_time(stream, datetime.fromtimestamp(seconds, timezone(timedelta(hours=-7)))) == expected


def test_at_timestamp_takes_whole_seconds_as_int(stream: StreamStore) -> None:
    assert from_time(stream, START_MS // 1000) == [0, 1, 2, 3, 4, 5]
    assert from_time(stream, 0) == [0, 1, 2, 3, 4, 5]


def test_the_arrival_of_a_record_leads_back_to_it(stream: StreamStore) -> None:
    for record in stream.read("s", SHARD):
        first = from_time(stream, record.approximate_arrival_timestamp)[0]
        assert first == ARRIVALS_MS.index(record.arrival_ms - START_MS)


def test_a_time_up_to_10_s_ahead_waits_for_the_first_record_from_then_on(stream: StreamStore, clock: Clock) -> None:
    start_s = (clock() + 10_000) / 1000
    iterator = stream.get_shard_iterator("s", SHARD, "AT_TIMESTAMP", timestamp=start_s)
    found: list[list[int]] = []
    for step_ms in (0, 9_999, 1, 1):
        clock.advance(step_ms)
        page = stream.get_records(iterator)
        found.append([int(record.sequence_number) for record in page.records])
        iterator = page.next_shard_iterator or ""
        stream.put_record("s", b"", "k")  # 6 now, 7 a millisecond too early, 8 in time, 9 later
    assert found == [[], [], [], [8]]
    assert numbers(stream, iterator) == [9]


class TimezoneOfNowhere(tzinfo):
    """A tzinfo that knows no offset, which makes its datetimes naive all the same."""

    def utcoffset(self, _: datetime | None) -> None:
        return None

    dst = utcoffset
    tzname = utcoffset


@pytest.mark.parametrize(
    "timestamp",
    [
        datetime(2023, 11, 14),
        datetime(2023, 11, 14, tzinfo=TimezoneOfNowhere()),
        datetime.max.replace(tzinfo=UTC),
        datetime.min.replace(tzinfo=UTC),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
        datetime(1969, 12, 31, tzinfo=UTC),
        (START_MS + 40 + 10_001) / 1000,
        START_MS,  # milliseconds
        10**400,
        10**5_000,
        1.7e308,
        -1,
        -0.001,
        float("nan"),
        float("inf"),
        float("-inf"),
        True,
        False,
        "2023-11-14",
        "1700000000",
        b"1700000000",
        timedelta(1),
        [1],
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_other_timestamp_is_refused(stream: StreamStore, timestamp: object) -> None:
    with pytest.raises(InvalidArgumentException, match="timestamp must be an aware datetime") as refusal:
        stream.get_shard_iterator("s", SHARD, "AT_TIMESTAMP", timestamp=timestamp)
    assert refusal.value.argument == "timestamp"


NUMBER_KINDS: list[ShardIteratorType] = ["AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER"]
OTHER_KINDS: list[ShardIteratorType] = ["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"]


@pytest.mark.parametrize("kind", NUMBER_KINDS)
def test_iterators_by_number_need_a_number_and_no_time(stream: StreamStore, kind: ShardIteratorType) -> None:
    with pytest.raises(InvalidArgumentException, match=f"must be given with {kind}") as refusal:
        stream.get_shard_iterator("s", SHARD, kind)
    assert refusal.value.argument == "starting_sequence_number"
    with pytest.raises(InvalidArgumentException, match=f"must not be given with {kind}") as refusal:
        stream.get_shard_iterator("s", SHARD, kind, starting_sequence_number="0", timestamp=0)
    assert refusal.value.argument == "timestamp"


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_the_other_iterators_take_no_number(stream: StreamStore, kind: ShardIteratorType) -> None:
    time_s = 0 if kind == "AT_TIMESTAMP" else None
    with pytest.raises(InvalidArgumentException, match=f"must not be given with {kind}") as refusal:
        stream.get_shard_iterator("s", SHARD, kind, starting_sequence_number="0", timestamp=time_s)
    assert refusal.value.argument == "starting_sequence_number"


def test_at_timestamp_needs_a_time_and_the_ends_of_a_shard_take_none(stream: StreamStore) -> None:
    with pytest.raises(InvalidArgumentException, match="must be given with AT_TIMESTAMP") as refusal:
        stream.get_shard_iterator("s", SHARD, "AT_TIMESTAMP")
    assert refusal.value.argument == "timestamp"
    for kind in ("TRIM_HORIZON", "LATEST"):
        with pytest.raises(InvalidArgumentException, match=f"must not be given with {kind}") as refusal:
            stream.get_shard_iterator("s", SHARD, kind, timestamp=0)
        assert refusal.value.argument == "timestamp"


@pytest.mark.parametrize("kind", ["", "latest", "LATEST\n", "NEWEST", None, True, 1, b"LATEST", ["LATEST"]])
def test_an_unknown_iterator_type_is_refused(stream: StreamStore, kind: object) -> None:
    with pytest.raises(InvalidArgumentException, match="TRIM_HORIZON, LATEST, AT_TIMESTAMP") as refusal:
        stream.get_shard_iterator("s", SHARD, kind)  # type: ignore[arg-type]
    assert refusal.value.argument == "shard_iterator_type"


@pytest.mark.parametrize("number", ["", "01", "-1", "+1", "1_0", " 1", "\u0661", "1" * 130, 1, True, b"1", ["1"]])
def test_a_malformed_starting_sequence_number_is_refused(stream: StreamStore, number: object) -> None:
    for kind in NUMBER_KINDS:
        with pytest.raises(InvalidArgumentException, match="129 digits") as refusal:
            stream.get_shard_iterator("s", SHARD, kind, starting_sequence_number=number)  # type: ignore[arg-type]
        assert refusal.value.argument == "starting_sequence_number"


@pytest.mark.parametrize("shard_id", ["", "shard 0", "shard-000000\n", "s" * 129, "\u0661", None, 0, b"shard-000000"])
def test_a_malformed_shard_id_is_refused(stream: StreamStore, shard_id: object) -> None:
    with pytest.raises(InvalidArgumentException, match="must be a str of 1 to 128 letters") as refusal:
        stream.get_shard_iterator("s", shard_id, "LATEST")  # type: ignore[arg-type]
    assert refusal.value.argument == "shard_id"


@pytest.mark.parametrize(
    "shard_id", ["shard-000001", "shard-0000000", "shard-00000", "shard-", "shardId-000000000000", "Shard-000000", "0"]
)
def test_a_shard_that_the_stream_does_not_have_is_not_found(stream: StreamStore, shard_id: str) -> None:
    with pytest.raises(ResourceNotFoundException, match=f"Shard {shard_id} in stream s does not exist"):
        stream.get_shard_iterator("s", shard_id, "LATEST")


def test_the_stream_of_an_iterator_must_exist_and_have_a_name(stream: StreamStore) -> None:
    with pytest.raises(ResourceNotFoundException, match="Stream t does not exist"):
        stream.get_shard_iterator("t", SHARD, "LATEST")
    with pytest.raises(InvalidArgumentException) as refusal:
        stream.get_shard_iterator("t\n", SHARD, "LATEST")
    assert refusal.value.argument == "stream_name"


def test_an_iterator_may_be_used_again_and_always_reads_the_same_place(stream: StreamStore) -> None:
    iterator = stream.get_shard_iterator("s", SHARD, "AT_SEQUENCE_NUMBER", starting_sequence_number="4")
    assert [numbers(stream, iterator) for _ in range(3)] == [[4, 5]] * 3


def test_an_iterator_lives_299_999_ms_and_is_expired_at_300_000(stream: StreamStore, clock: Clock) -> None:
    iterator = stream.get_shard_iterator("s", SHARD, "TRIM_HORIZON")
    clock.advance(299_999)
    assert len(numbers(stream, iterator)) == 6
    clock.advance(1)
    with pytest.raises(ExpiredIteratorException, match="call get_shard_iterator again"):
        stream.get_records(iterator)


def test_get_records_gives_an_iterator_that_lives_anew(stream: StreamStore, clock: Clock) -> None:
    iterator = stream.get_shard_iterator("s", SHARD, "LATEST")
    for _ in range(3):
        clock.advance(299_999)
        iterator = stream.get_records(iterator).next_shard_iterator or ""
    assert numbers(stream, iterator) == []


def test_an_iterator_outlives_the_process(stream: StreamStore, clock: Clock) -> None:
    iterator = stream.get_shard_iterator("s", SHARD, "TRIM_HORIZON")
    stream.close()
    with open_store(stream.path, clock) as reopened:
        assert len(numbers(reopened, iterator)) == 6


def test_an_iterator_of_another_store_is_refused(stream: StreamStore, clock: Clock, tmp_path: Path) -> None:
    with open_store(tmp_path / "other", clock) as other:
        other.create_stream("s")
        foreign = other.get_shard_iterator("s", SHARD, "TRIM_HORIZON")
    with pytest.raises(InvalidArgumentException) as refusal:
        stream.get_records(foreign)
    assert refusal.value.argument == "shard_iterator"


def test_a_damaged_iterator_is_refused(stream: StreamStore) -> None:
    iterator = stream.get_shard_iterator("s", SHARD, "TRIM_HORIZON")
    for damaged in ("B" + iterator[1:], iterator[:-1], iterator + "=", "", None, 5, iterator.encode()):
        with pytest.raises(InvalidArgumentException, match="whole token that this store gave out"):
            stream.get_records(damaged)  # type: ignore[arg-type]


def test_an_iterator_of_a_deleted_stream_is_not_found_even_if_the_name_lives_again(stream: StreamStore) -> None:
    iterator = stream.get_shard_iterator("s", SHARD, "TRIM_HORIZON")
    stream.delete_stream("s")
    with pytest.raises(ResourceNotFoundException, match="Stream s does not exist"):
        stream.get_records(iterator)
    stream.create_stream("s")
    stream.put_record("s", b"new", "k")
    with pytest.raises(ResourceNotFoundException, match="it was deleted with the stream"):
        stream.get_records(iterator)
