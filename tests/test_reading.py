"""Laws of get_records and read: order, pages, limits, and how far behind a page is."""

import pytest

from streamstore import InvalidArgumentException, ResourceNotFoundException, StreamStore
from tests.conftest import Clock, open_store

SHARD = "shard-000000"
MIB = 1_048_576


@pytest.fixture
def stream(store: StreamStore) -> StreamStore:
    """A store with the empty stream "s" of one shard."""
    store.create_stream("s")
    return store


def put(store: StreamStore, count: int) -> None:
    for _ in range(count):
        store.put_record("s", b"", "k")


def trim_horizon(store: StreamStore) -> str:
    return store.get_shard_iterator("s", SHARD, "TRIM_HORIZON")


def pages(store: StreamStore, limit: int) -> list[list[int]]:
    """Return the sequence numbers of every page up to the first empty one."""
    found: list[list[int]] = []
    iterator = trim_horizon(store)
    while (page := store.get_records(iterator, limit=limit)).records:
        found.append([int(record.sequence_number) for record in page.records])
        assert page.next_shard_iterator is not None
        iterator = page.next_shard_iterator
    return found


def test_an_empty_shard_gives_an_empty_page_at_the_tip(stream: StreamStore) -> None:
    page = stream.get_records(trim_horizon(stream))
    assert (list(page.records), page.millis_behind_latest, page.child_shards) == ([], 0, ())
    assert page.next_shard_iterator is not None


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 10, 11, 10_000])
def test_pages_join_up_without_gap_or_overlap(stream: StreamStore, limit: int) -> None:
    put(stream, 10)
    found = pages(stream, limit)
    assert [number for page in found for number in page] == list(range(10))
    assert all(len(page) == limit for page in found[:-1])


def test_a_page_holds_10_000_records_and_no_more(stream: StreamStore) -> None:
    put(stream, 10_001)
    assert [len(page) for page in pages(stream, 10_000)] == [10_000, 1]
    assert len(stream.get_records(trim_horizon(stream)).records) == 10_000


@pytest.mark.parametrize(
    "limit", [0, -1, 10_001, 10**5_000, True, False, None, 1.0, "1", b"1", [1]], ids=lambda value: type(value).__name__
)
def test_a_limit_outside_1_to_10_000_is_refused(stream: StreamStore, limit: object) -> None:
    iterator = trim_horizon(stream)
    with pytest.raises(InvalidArgumentException, match="must be a whole number from 1 to 10,000") as refusal:
        stream.get_records(iterator, limit=limit)  # type: ignore[arg-type]
    assert refusal.value.argument == "limit"


def test_a_page_of_exactly_10_mib_of_data_and_keys_is_whole(stream: StreamStore) -> None:
    for _ in range(10):
        stream.put_record("s", bytes(MIB - 1), "k")
    stream.put_record("s", b"", "k")
    assert [len(page) for page in pages(stream, 10_000)] == [10, 1]


def test_a_page_never_passes_10_mib_counting_keys_in_utf8(stream: StreamStore) -> None:
    for _ in range(9):
        stream.put_record("s", bytes(MIB - 1), "k")
    stream.put_record("s", bytes(MIB - 1), "é")
    assert [len(page) for page in pages(stream, 10_000)] == [9, 1]


def test_the_largest_record_always_fits_a_page(stream: StreamStore) -> None:
    for _ in range(11):
        stream.put_record("s", bytes(MIB), "\U0001f600" * 256)
    assert [len(page) for page in pages(stream, 10_000)] == [9, 2]


def test_millis_behind_latest_is_the_time_from_the_last_record_to_the_newest(stream: StreamStore, clock: Clock) -> None:
    for step_ms in (0, 100, 1_000):
        clock.advance(step_ms)
        put(stream, 1)
    clock.advance(60_000)
    behind: list[int] = []
    iterator = trim_horizon(stream)
    for _ in range(4):
        page = stream.get_records(iterator, limit=1)
        behind.append(page.millis_behind_latest)
        iterator = page.next_shard_iterator or ""
    assert behind == [1_100, 1_000, 0, 0]


def test_a_page_short_of_the_tip_is_at_least_a_millisecond_behind(stream: StreamStore) -> None:
    put(stream, 2)
    assert stream.get_records(trim_horizon(stream), limit=1).millis_behind_latest == 1
    assert stream.get_records(trim_horizon(stream), limit=2).millis_behind_latest == 0


def test_next_shard_iterator_finds_what_is_put_later(stream: StreamStore) -> None:
    put(stream, 2)
    iterator = stream.get_records(trim_horizon(stream)).next_shard_iterator or ""
    assert list(stream.get_records(iterator).records) == []
    put(stream, 1)
    page = stream.get_records(iterator)
    assert [record.sequence_number for record in page.records] == ["2"]


def test_reading_changes_nothing_in_the_file(stream: StreamStore, clock: Clock) -> None:
    put(stream, 3)
    stream.close()
    before = (stream.path / "data.mdb").read_bytes()
    with open_store(stream.path, clock, read_only=True) as reader:
        iterator = trim_horizon(reader)
        assert len(reader.get_records(iterator).records) == len(list(reader.read("s", SHARD))) == 3
    assert (stream.path / "data.mdb").read_bytes() == before


def test_a_record_read_twice_is_equal_and_hashable(stream: StreamStore) -> None:
    put(stream, 1)
    first, second = (next(stream.read("s", SHARD)) for _ in range(2))
    assert first == second
    assert len({first, second}) == 1


# store.read


def test_read_gives_every_record_from_the_oldest(stream: StreamStore) -> None:
    put(stream, 2_500)  # more than two pages of its own
    assert [int(record.sequence_number) for record in stream.read("s", SHARD)] == list(range(2_500))


@pytest.mark.parametrize(("start", "expected"), [("0", [0, 1, 2]), ("1", [1, 2]), ("3", []), ("9" * 129, [])])
def test_read_starts_at_the_given_number(stream: StreamStore, start: str, expected: list[int]) -> None:
    put(stream, 3)
    found = [int(record.sequence_number) for record in stream.read("s", SHARD, starting_sequence_number=start)]
    assert found == expected


def test_read_sees_what_is_put_meanwhile(stream: StreamStore) -> None:
    put(stream, 1_000)
    reading = stream.read("s", SHARD)
    next(reading)
    put(stream, 3)
    assert len(list(reading)) == 1_002
    assert next(reading, None) is None


def test_reads_do_not_disturb_each_other(stream: StreamStore) -> None:
    put(stream, 3)
    left, right = stream.read("s", SHARD), stream.read("s", SHARD)
    interleaved = [int(next(reading).sequence_number) for reading in (left, right, left, right, left, right)]
    assert interleaved == [0, 0, 1, 1, 2, 2]


def test_read_of_a_stream_deleted_meanwhile_says_so(stream: StreamStore) -> None:
    put(stream, 1_001)
    reading = stream.read("s", SHARD)
    next(reading)
    stream.delete_stream("s")
    stream.create_stream("s")
    put(stream, 2_000)
    with pytest.raises(ResourceNotFoundException, match="it was deleted"):
        list(reading)


def test_read_refuses_bad_arguments_at_once_not_at_the_first_record(stream: StreamStore) -> None:
    with pytest.raises(InvalidArgumentException) as refusal:
        stream.read("s\n", SHARD)
    assert refusal.value.argument == "stream_name"
    with pytest.raises(InvalidArgumentException) as refusal:
        stream.read("s", "shard 0")
    assert refusal.value.argument == "shard_id"
    for number in ("01", "", "-1", 0, True, "1" * 130):
        with pytest.raises(InvalidArgumentException) as refusal:
            stream.read("s", SHARD, starting_sequence_number=number)  # type: ignore[arg-type]
        assert refusal.value.argument == "starting_sequence_number"
    with pytest.raises(ResourceNotFoundException):
        stream.read("t", SHARD)
    with pytest.raises(ResourceNotFoundException):
        stream.read("s", "shard-000001")
