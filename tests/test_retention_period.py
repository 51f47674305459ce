"""Laws of changing how long a stream keeps its records: up or down, at once, and what has expired stays so."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from streamstore import InvalidArgumentException, ResourceNotFoundException, StorageError, StreamStore
from tests.commits import failing_commit, last_commit
from tests.conftest import Clock, open_store

HOUR_MS = 3_600_000
SHARD, SECOND_SHARD = "shard-000000", "shard-000001"
BAD_HOURS = [0, -1, 25, 10**5_000, True, None, 2.0, "2"]


def shown(value: object) -> str:
    return ascii(value)[:20] if value != 10**5_000 else "huge"


def refused(argument: str, call: Callable[[], object]) -> InvalidArgumentException:
    with pytest.raises(InvalidArgumentException) as refusal:
        call()
    assert refusal.value.argument == argument
    return refusal.value


@pytest.fixture
def stream(store: StreamStore, clock: Clock) -> StreamStore:
    """A store with the stream "s" of one shard, which keeps for 12 hours five records put an hour apart; it is now."""
    store.create_stream("s", retention_hours=12)
    for number in range(5):
        store.put_record("s", b"%d" % number, "k")
        clock.advance(HOUR_MS)
    return store


def left(store: StreamStore) -> list[bytes]:
    return [record.data for record in store.read("s", SHARD)]


def hours_of(store: StreamStore) -> int:
    return store.describe_stream("s").retention_period_hours


def test_the_retention_period_is_increased_and_decreased_within_its_bounds(stream: StreamStore) -> None:
    for change, hours in (
        (stream.increase_stream_retention_period, 13),
        (stream.increase_stream_retention_period, 24),
        (stream.decrease_stream_retention_period, 23),
        (stream.decrease_stream_retention_period, 1),
    ):
        change("s", hours)
        assert hours_of(stream) == hours


def test_a_period_that_is_not_more_or_not_less_is_refused_and_the_other_operation_named(stream: StreamStore) -> None:
    before = last_commit(stream)
    for hours in (12, 11, 1):
        error = refused("retention_period_hours", partial(stream.increase_stream_retention_period, "s", hours))
        assert f"be more than the 12 hours that s has; see decrease_stream_retention_period; got {hours}." in str(error)
    for hours in (12, 13, 24):
        error = refused("retention_period_hours", partial(stream.decrease_stream_retention_period, "s", hours))
        assert f"be less than the 12 hours that s has; see increase_stream_retention_period; got {hours}." in str(error)
    assert last_commit(stream) == before


@pytest.mark.parametrize("hours", BAD_HOURS, ids=shown)
def test_a_period_outside_1_to_24_hours_is_refused(stream: StreamStore, hours: object) -> None:
    refused("retention_period_hours", lambda: stream.increase_stream_retention_period("s", hours))  # type: ignore[arg-type]
    refused("retention_period_hours", lambda: stream.decrease_stream_retention_period("s", hours))  # type: ignore[arg-type]
    assert hours_of(stream) == 12


def test_the_period_of_an_unknown_or_badly_named_stream_is_not_changed(store: StreamStore) -> None:
    for change in (store.increase_stream_retention_period, store.decrease_stream_retention_period):
        with pytest.raises(ResourceNotFoundException, match="Stream t does not exist"):
            change("t", 2)
        refused("stream_name", partial(change, "1a", 2))


def test_a_decrease_hides_what_is_older_at_once_from_every_way_of_reading(stream: StreamStore, clock: Clock) -> None:
    iterator = stream.get_shard_iterator("s", SHARD, "TRIM_HORIZON")
    assert left(stream) == [b"0", b"1", b"2", b"3", b"4"]
    stream.decrease_stream_retention_period("s", 2)
    assert left(stream) == [b"3", b"4"]
    assert [record.data for record in stream.get_records(iterator).records] == [b"3", b"4"]
    (shard,) = stream.describe_stream("s").shards
    assert shard.sequence_number_range.starting_sequence_number == "3"
    clock.advance(1)
    assert left(stream) == [b"4"]


def test_an_increase_keeps_longer_what_has_not_expired(stream: StreamStore, clock: Clock) -> None:
    stream.increase_stream_retention_period("s", 24)
    clock.advance(19 * HOUR_MS)
    assert left(stream) == [b"0", b"1", b"2", b"3", b"4"]
    clock.advance(1)
    assert left(stream) == [b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("change", ["increase_stream_retention_period", "update_stream"])
def test_what_has_expired_does_not_come_back_when_the_period_is_increased(stream: StreamStore, change: str) -> None:
    stream.decrease_stream_retention_period("s", 2)
    if change == "update_stream":
        stream.update_stream("s", retention_hours=24)
    else:
        stream.increase_stream_retention_period("s", 24)
    assert hours_of(stream) == 24
    assert left(stream) == [b"3", b"4"]


def test_a_closed_shard_that_has_expired_does_not_come_back_when_the_period_is_increased(
    stream: StreamStore, clock: Clock
) -> None:
    stream.split_shard("s", SHARD, str(2**127))
    clock.advance(3 * HOUR_MS)
    stream.decrease_stream_retention_period("s", 2)
    stream.increase_stream_retention_period("s", 24)
    with pytest.raises(ResourceNotFoundException):
        stream.get_shard_iterator("s", SHARD, "TRIM_HORIZON")
    assert [shard.shard_id for shard in stream.list_shards("s").shards] == [SECOND_SHARD, "shard-000002"]


def test_a_refused_increase_deletes_nothing_even_of_what_has_expired(stream: StreamStore, clock: Clock) -> None:
    clock.advance(24 * HOUR_MS)
    before = last_commit(stream)
    refused("retention_period_hours", lambda: stream.increase_stream_retention_period("s", 12))
    assert last_commit(stream) == before


def test_a_changed_period_outlasts_the_process_and_a_failed_change_leaves_the_old_one(
    stream: StreamStore, store_path: Path, clock: Clock
) -> None:
    with failing_commit("before"), pytest.raises(StorageError, match="planted by the test"):
        stream.decrease_stream_retention_period("s", 2)
    assert hours_of(stream) == 12
    stream.decrease_stream_retention_period("s", 3)
    stream.close()
    with open_store(store_path, clock) as again:
        assert hours_of(again) == 3
        assert left(again) == [b"2", b"3", b"4"]
