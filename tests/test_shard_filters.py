"""Laws of list_shards with a filter: which shards each type shows at each moment, whatever the size of the page."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamstore import (
    InvalidArgumentException,
    ResourceNotFoundException,
    Shard,
    ShardFilter,
    ShardFilterType,
    StreamStore,
)
from streamstore.check import check_store
from tests.conftest import Clock, open_store

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
START_MS: Final = 1_700_000_000_000
FILTER_TYPES: Final[tuple[ShardFilterType, ...]] = get_args(ShardFilterType)
WITH_TIME: Final[list[ShardFilterType]] = ["AT_TIMESTAMP", "FROM_TIMESTAMP"]
ALONE: Final[list[ShardFilterType]] = ["AT_TRIM_HORIZON", "FROM_TRIM_HORIZON", "AT_LATEST"]


def index_of(shard: Shard) -> int:
    return int(shard.shard_id.removeprefix("shard-"))


def is_open(shard: Shard) -> bool:
    return shard.sequence_number_range.ending_sequence_number is None


def listed(store: StreamStore, shard_filter: ShardFilter | None, *, max_results: int = 10_000) -> list[int]:
    """Return the indexes of all pages."""
    page = store.list_shards("s", shard_filter=shard_filter, max_results=max_results)
    shards = list(page.shards)
    while page.next_token is not None:
        assert len(page.shards) == max_results
        page = store.list_shards(next_token=page.next_token, max_results=max_results)
        assert page.shards
        shards.extend(page.shards)
    return [index_of(shard) for shard in shards]


def refused(argument: str, call: Callable[[], object]) -> InvalidArgumentException:
    with pytest.raises(InvalidArgumentException) as refusal:
        call()
    assert refusal.value.argument == argument
    return refusal.value


@pytest.fixture
def stream(store: StreamStore, clock: Clock) -> StreamStore:
    """The stream "s" keeps records for an hour. In minute 10, shard 0 became 2 and 3; in minute 20, 3 and 1 became 4.

    Now is minute 30. The shards lived: 0 in minutes 0 to 10, 1 in 0 to 20, 2 from 10 on, 3 in 10 to 20, 4 from 20 on.
    """
    store.create_stream("s", shard_count=2, retention_hours=1)
    clock.advance(10 * MINUTE_MS)
    store.split_shard("s", "shard-000000", "1000")
    clock.advance(10 * MINUTE_MS)
    store.merge_shards("s", "shard-000003", "shard-000001")
    clock.advance(10 * MINUTE_MS)
    return store


def at(minute: int, milliseconds: int = 0) -> float:
    return (START_MS + minute * MINUTE_MS + milliseconds) / 1000


# What each type shows


def test_without_a_filter_every_shard_is_shown_until_it_expires(stream: StreamStore, clock: Clock) -> None:
    for shard_filter in (None, ShardFilter("FROM_TRIM_HORIZON")):
        clock.now_ms = START_MS + 70 * MINUTE_MS
        assert listed(stream, shard_filter) == [0, 1, 2, 3, 4]
        clock.advance(1)  # 0 was closed more than an hour ago
        assert listed(stream, shard_filter) == [1, 2, 3, 4]
        clock.now_ms = START_MS + 80 * MINUTE_MS
        assert listed(stream, shard_filter) == [1, 2, 3, 4]
        clock.advance(1)
        assert listed(stream, shard_filter) == [2, 4]


def test_at_latest_shows_the_open_shards(store: StreamStore, clock: Clock) -> None:
    latest = ShardFilter("AT_LATEST")
    store.create_stream("s", shard_count=2)
    assert listed(store, latest) == [0, 1]
    store.split_shard("s", "shard-000000", "1000")
    assert listed(store, latest) == [1, 2, 3]
    store.merge_shards("s", "shard-000003", "shard-000001")
    assert listed(store, latest) == [2, 4]
    clock.advance(-10_000)  # they were closed in the future now, and are closed all the same
    assert listed(store, latest) == [2, 4]


@pytest.mark.parametrize(
    ("minute", "milliseconds", "shown"),
    [
        (30, 0, [0, 1]),  # the stream is younger than an hour: its trim horizon is its creation
        (60, 0, [0, 1]),
        (70, -1, [0, 1]),
        (70, 0, [0, 1, 2, 3]),  # the horizon is the very time of the split
        (70, 1, [1, 2, 3]),
        (80, -1, [1, 2, 3]),
        (80, 0, [1, 2, 3, 4]),
        (80, 1, [2, 4]),
        (999, 0, [2, 4]),
    ],
)
def test_at_trim_horizon_shows_the_shards_that_were_open_then(
    stream: StreamStore, clock: Clock, minute: int, milliseconds: int, shown: list[int]
) -> None:
    clock.now_ms = START_MS + minute * MINUTE_MS + milliseconds
    for max_results in (1, 2, 10_000):
        assert listed(stream, ShardFilter("AT_TRIM_HORIZON"), max_results=max_results) == shown


@pytest.mark.parametrize(
    ("minute", "milliseconds", "at_it", "from_it"),
    [
        (0, -1, [], [0, 1, 2, 3, 4]),
        (0, 0, [0, 1], [0, 1, 2, 3, 4]),
        (10, -1, [0, 1], [0, 1, 2, 3, 4]),
        (10, 0, [0, 1, 2, 3], [0, 1, 2, 3, 4]),
        (10, 1, [1, 2, 3], [1, 2, 3, 4]),
        (20, -1, [1, 2, 3], [1, 2, 3, 4]),
        (20, 0, [1, 2, 3, 4], [1, 2, 3, 4]),
        (20, 1, [2, 4], [2, 4]),
        (30, 10_000, [2, 4], [2, 4]),
    ],
)
def test_a_timestamp_shows_the_shards_that_were_open_at_it_or_from_it_on(
    stream: StreamStore, minute: int, milliseconds: int, at_it: list[int], from_it: list[int]
) -> None:
    seconds = at(minute, milliseconds)
    for timestamp in (seconds, datetime.fromtimestamp(seconds, UTC)):
        for max_results in (1, 2, 10_000):
            assert listed(stream, ShardFilter("AT_TIMESTAMP", timestamp=timestamp), max_results=max_results) == at_it
            from_then = ShardFilter("FROM_TIMESTAMP", timestamp=timestamp)
            assert listed(stream, from_then, max_results=max_results) == from_it


@pytest.mark.parametrize("kind", WITH_TIME)
def test_a_timestamp_before_the_trim_horizon_shows_no_expired_shard(
    stream: StreamStore, clock: Clock, kind: ShardFilterType
) -> None:
    clock.now_ms = START_MS + 75 * MINUTE_MS
    shown = listed(stream, ShardFilter(kind, timestamp=at(5)))
    assert shown == ([1] if kind == "AT_TIMESTAMP" else [1, 2, 3, 4])


@pytest.mark.parametrize("after", range(5))
@pytest.mark.parametrize("max_results", [1, 2, 10_000])
def test_after_shard_id_shows_the_shards_behind_it(stream: StreamStore, after: int, max_results: int) -> None:
    after_it = ShardFilter("AFTER_SHARD_ID", shard_id=f"shard-{after:06d}")
    assert listed(stream, after_it, max_results=max_results) == list(range(after + 1, 5))


def test_every_filter_but_the_one_with_a_shard_goes_with_an_exclusive_start(stream: StreamStore) -> None:
    shard_filter = ShardFilter("AT_TIMESTAMP", timestamp=at(15))
    shards = stream.list_shards("s", shard_filter=shard_filter, exclusive_start_shard_id="shard-000001").shards
    assert [index_of(shard) for shard in shards] == [2, 3]


# Pages


def test_a_page_goes_on_at_the_trim_horizon_of_the_first(stream: StreamStore, clock: Clock) -> None:
    clock.now_ms = START_MS + 80 * MINUTE_MS - 1
    page = stream.list_shards("s", shard_filter=ShardFilter("AT_TRIM_HORIZON"), max_results=1)
    clock.advance(1)  # a listing that starts now shows shard 4 too
    rest = stream.list_shards(next_token=page.next_token)
    assert [index_of(shard) for shard in (*page.shards, *rest.shards)] == [1, 2, 3]


def test_a_page_goes_on_at_the_timestamp_of_the_first(stream: StreamStore, clock: Clock) -> None:
    page = stream.list_shards("s", shard_filter=ShardFilter("AT_TIMESTAMP", timestamp=at(5)), max_results=1)
    clock.advance(299_999)
    assert [index_of(shard) for shard in stream.list_shards(next_token=page.next_token).shards] == [1]


def test_a_page_of_the_latest_shows_what_is_open_when_it_is_asked_for(stream: StreamStore) -> None:
    page = stream.list_shards("s", shard_filter=ShardFilter("AT_LATEST"), max_results=1)
    stream.split_shard("s", "shard-000004", "9" * 30)
    rest = stream.list_shards(next_token=page.next_token)
    assert [index_of(shard) for shard in (*page.shards, *rest.shards)] == [2, 5, 6]


def test_the_last_page_of_a_filter_has_no_token_though_other_shards_are_behind_it(stream: StreamStore) -> None:
    page = stream.list_shards("s", shard_filter=ShardFilter("AT_TIMESTAMP", timestamp=at(15)), max_results=3)
    assert ([index_of(shard) for shard in page.shards], page.next_token) == ([1, 2, 3], None)


# Refusals


def test_after_shard_id_is_refused_together_with_an_exclusive_start(stream: StreamStore) -> None:
    refusal = refused(
        "exclusive_start_shard_id",
        lambda: stream.list_shards(
            "s",
            exclusive_start_shard_id="shard-000000",
            shard_filter=ShardFilter("AFTER_SHARD_ID", shard_id="shard-000000"),
        ),
    )
    assert "shard_filter.shard_id" in str(refusal)


def test_a_filter_is_refused_together_with_a_token(stream: StreamStore) -> None:
    token = stream.list_shards("s", max_results=1).next_token
    refused("shard_filter", lambda: stream.list_shards(next_token=token, shard_filter=ShardFilter("AT_LATEST")))


@pytest.mark.parametrize("shard_filter", ["AT_LATEST", {"type": "AT_LATEST"}, ("AT_LATEST",), 1, False])
def test_what_is_no_shard_filter_is_refused(stream: StreamStore, shard_filter: object) -> None:
    refused("shard_filter", lambda: stream.list_shards("s", shard_filter=shard_filter))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["", "LATEST", "at_latest", "TRIM_HORIZON", None, 1, ["AT_LATEST"]])
def test_an_unknown_type_of_filter_is_refused(stream: StreamStore, kind: object) -> None:
    shard_filter = ShardFilter(kind)  # type: ignore[arg-type]
    refusal = refused("shard_filter.type", lambda: stream.list_shards("s", shard_filter=shard_filter))
    assert refusal.constraint == f"be one of {', '.join(FILTER_TYPES)}"


@pytest.mark.parametrize("kind", WITH_TIME)
def test_a_filter_by_time_without_a_time_is_refused(stream: StreamStore, kind: ShardFilterType) -> None:
    refusal = refused("shard_filter.timestamp", lambda: stream.list_shards("s", shard_filter=ShardFilter(kind)))
    assert refusal.constraint == f"be given with {kind}"


@pytest.mark.parametrize("kind", [*ALONE, "AFTER_SHARD_ID"])
def test_a_timestamp_of_a_filter_that_has_none_is_refused(stream: StreamStore, kind: ShardFilterType) -> None:
    shard_id = "shard-000000" if kind == "AFTER_SHARD_ID" else None
    refusal = refused(
        "shard_filter.timestamp",
        lambda: stream.list_shards("s", shard_filter=ShardFilter(kind, shard_id=shard_id, timestamp=at(0))),
    )
    assert refusal.constraint == f"not be given with {kind}"


def test_after_shard_id_without_a_shard_is_refused(stream: StreamStore) -> None:
    shard_filter = ShardFilter("AFTER_SHARD_ID")
    refusal = refused("shard_filter.shard_id", lambda: stream.list_shards("s", shard_filter=shard_filter))
    assert refusal.constraint == "be given with AFTER_SHARD_ID"


@pytest.mark.parametrize("kind", [*ALONE, *WITH_TIME])
def test_a_shard_of_a_filter_that_has_none_is_refused(stream: StreamStore, kind: ShardFilterType) -> None:
    timestamp = at(0) if kind in WITH_TIME else None
    shard_filter = ShardFilter(kind, shard_id="shard-000000", timestamp=timestamp)
    refusal = refused("shard_filter.shard_id", lambda: stream.list_shards("s", shard_filter=shard_filter))
    assert refusal.constraint == f"not be given with {kind}"


@pytest.mark.parametrize(
    "timestamp", [-1, float("nan"), float("inf"), "0", True, datetime(2023, 11, 14), at(30, 10_001)]
)
@pytest.mark.parametrize("kind", WITH_TIME)
def test_a_bad_time_of_a_filter_is_refused(stream: StreamStore, kind: ShardFilterType, timestamp: object) -> None:
    shard_filter = ShardFilter(kind, timestamp=timestamp)  # type: ignore[arg-type]
    refused("shard_filter.timestamp", lambda: stream.list_shards("s", shard_filter=shard_filter))


@pytest.mark.parametrize("shard_id", ["", "shard 0", "x" * 129, 0, b"shard-000000"])
def test_a_malformed_shard_of_a_filter_is_refused(stream: StreamStore, shard_id: object) -> None:
    shard_filter = ShardFilter("AFTER_SHARD_ID", shard_id=shard_id)  # type: ignore[arg-type]
    refused("shard_filter.shard_id", lambda: stream.list_shards("s", shard_filter=shard_filter))


@pytest.mark.parametrize("shard_id", ["shard-000005", "shard-0000000", "shardId-000000000000"])
def test_an_unknown_shard_of_a_filter_is_not_found(stream: StreamStore, shard_id: str) -> None:
    with pytest.raises(ResourceNotFoundException, match=f"Shard {shard_id} in stream s"):
        stream.list_shards("s", shard_filter=ShardFilter("AFTER_SHARD_ID", shard_id=shard_id))


# The oracle: the sentences of the Kinesis documents about shards whose lives were watched from outside


@dataclass(slots=True)
class Life:
    """When a shard was created and closed."""

    created_ms: int
    closed_ms: int | None = None

    def is_shown(self, shard_filter: ShardFilter, *, now_ms: int) -> bool:
        horizon_ms = max(START_MS, now_ms - HOUR_MS)
        if self.closed_ms is not None and self.closed_ms < now_ms - HOUR_MS:
            return False
        if shard_filter.type == "AT_LATEST":
            return self.closed_ms is None
        if shard_filter.type == "FROM_TRIM_HORIZON":
            return True
        if shard_filter.type == "AT_TRIM_HORIZON":
            return self.is_open_at(horizon_ms)
        assert isinstance(shard_filter.timestamp, float)
        time_ms = round(shard_filter.timestamp * 1000)
        if shard_filter.type == "AT_TIMESTAMP":
            return self.is_open_at(time_ms)
        return self.closed_ms is None or self.closed_ms >= time_ms

    def is_open_at(self, time_ms: int) -> bool:
        return self.created_ms <= time_ms and (self.closed_ms is None or time_ms <= self.closed_ms)


Step = tuple[int, str, int]
steps: st.SearchStrategy[list[Step]] = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 5 * MINUTE_MS, 20 * MINUTE_MS]),
        st.sampled_from(["split", "merge", "resize"]),
        st.integers(0, 9),
    ),
    min_size=1,
    max_size=8,
)


def take_step(store: StreamStore, kind: str, choice: int) -> None:
    shards = store.list_shards("s", shard_filter=ShardFilter("AT_LATEST")).shards
    in_order = sorted(shards, key=lambda shard: shard.hash_key_range.starting_hash_key)
    shard = in_order[choice % len(in_order)]
    if kind == "split":
        keys = shard.hash_key_range
        middle = (keys.starting_hash_key + keys.ending_hash_key + 1) // 2
        store.split_shard("s", shard.shard_id, str(middle))
    elif kind == "merge" and shard is not in_order[-1]:
        store.merge_shards("s", shard.shard_id, in_order[choice % len(in_order) + 1].shard_id)
    elif kind == "resize":
        store.update_shard_count("s", 1 + choice % 5)


def live(store: StreamStore, clock: Clock, history: list[Step]) -> Iterator[dict[int, Life]]:
    """Take the steps, and yield after each the lives of all shards that ever were."""
    lives: dict[int, Life] = {}
    store.create_stream("s", shard_count=2, retention_hours=1)
    for step_ms, kind, choice in history:
        take_step(store, kind, choice)
        for shard in store.list_shards("s").shards:
            life = lives.setdefault(index_of(shard), Life(clock()))
            if life.closed_ms is None and not is_open(shard):
                life.closed_ms = clock()
        yield lives
        clock.advance(step_ms)


@given(steps, st.integers(1, 4))
def test_every_filter_shows_what_the_documents_say_in_any_history(history: list[Step], max_results: int) -> None:
    folder, clock = Path(tempfile.mkdtemp()), Clock(START_MS)
    with open_store(folder / "store", clock) as store:
        for lives in live(store, clock, history):
            edges = {START_MS - 1, clock()} | {life.created_ms for life in lives.values()}
            times = sorted(time_ms + near_ms for time_ms in edges for near_ms in (-1, 0, 1))
            filters = [ShardFilter(kind) for kind in ALONE]
            filters += [ShardFilter(kind, timestamp=time_ms / 1000) for kind in WITH_TIME for time_ms in times]
            for shard_filter in filters:
                expected = [index for index, life in lives.items() if life.is_shown(shard_filter, now_ms=clock())]
                assert listed(store, shard_filter, max_results=max_results) == sorted(expected), shard_filter
    assert check_store(folder / "store") == []
    shutil.rmtree(folder)
