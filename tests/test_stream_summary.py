"""Laws of the summaries: of a stream, of a page of streams, and of what the store may hold."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import pytest

from streamstore import (
    DescribeLimitsResult,
    ExpiredNextTokenException,
    InvalidArgumentException,
    ResourceNotFoundException,
    StreamDescriptionSummary,
    StreamStore,
    StreamSummary,
)
from tests.conftest import Clock

NOW = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)  # when the clock of the tests starts


def refused(argument: str, call: Callable[[], object]) -> None:
    with pytest.raises(InvalidArgumentException) as refusal:
        call()
    assert refusal.value.argument == argument


# describe_stream_summary


def test_a_summary_shows_every_setting_and_counts_open_shards_and_consumers(store: StreamStore) -> None:
    store.create_stream(
        "s",
        shard_count=3,
        retention_hours=4,
        write_quota_kb_per_sec=512,
        read_quota=True,
        idempotency_window_seconds=7,
    )
    store.create_stream("t")
    store.register_stream_consumer("s", "c")
    store.register_stream_consumer("s", "d")
    store.merge_shards("s", "shard-000000", "shard-000001")
    store.update_stream_mode("s", "ON_DEMAND")
    assert store.describe_stream_summary("s") == StreamDescriptionSummary(
        stream_name="s",
        stream_status="ACTIVE",
        stream_mode="ON_DEMAND",
        stream_creation_timestamp=NOW,
        retention_period_hours=4,
        write_quota_kb_per_sec=512,
        read_quota=True,
        idempotency_window_seconds=7,
        open_shard_count=2,
        consumer_count=2,
        encryption_type="NONE",
    )
    other = store.describe_stream_summary("t")
    assert (other.open_shard_count, other.consumer_count, other.stream_mode) == (1, 0, "PROVISIONED")


def test_the_summary_of_an_unknown_or_badly_named_stream_is_refused(store: StreamStore) -> None:
    with pytest.raises(ResourceNotFoundException, match="Stream s does not exist"):
        store.describe_stream_summary("s")
    refused("stream_name", lambda: store.describe_stream_summary("1a"))


# list_streams


def test_a_page_of_streams_summarizes_each_of_its_names(store: StreamStore, clock: Clock) -> None:
    store.create_stream("b")
    clock.advance(1)
    store.create_stream("a", stream_mode="ON_DEMAND")
    page = store.list_streams()
    assert page.stream_summaries == (
        StreamSummary("a", "ACTIVE", "ON_DEMAND", NOW.replace(microsecond=1000)),
        StreamSummary("b", "ACTIVE", "PROVISIONED", NOW),
    )
    assert tuple(summary.stream_name for summary in page.stream_summaries) == page.stream_names


@pytest.mark.parametrize("limit", range(1, 9))
def test_pages_of_streams_join_up_and_only_the_last_has_no_token(store: StreamStore, limit: int) -> None:
    names = sorted(["B", "a", "Z9", "a-b", "ab", "a1", "Za"])
    for name in names:
        store.create_stream(name)
    page = store.list_streams(limit=limit)
    found = list(page.stream_names)
    while page.next_token is not None:
        assert page.has_more_streams
        assert len(page.stream_names) == len(page.stream_summaries) == limit
        page = store.list_streams(limit=limit, next_token=page.next_token)
        found += page.stream_names
    assert not page.has_more_streams
    assert found == names


def test_a_page_of_streams_starts_behind_the_last_name_whatever_was_created_or_deleted(store: StreamStore) -> None:
    for name in "bdf":
        store.create_stream(name)
    token = store.list_streams(limit=2).next_token
    for name in "ace":
        store.create_stream(name)
    store.delete_stream("d")
    for _ in range(2):  # a token may be used again
        assert store.list_streams(next_token=token).stream_names == ("e", "f")
    store.delete_stream("b")
    assert store.list_streams(next_token=token, limit=1).stream_names == ("e",)


def test_a_token_of_streams_lives_299_999_ms_and_is_expired_at_300_000(store: StreamStore, clock: Clock) -> None:
    for name in "ab":
        store.create_stream(name)
    token = store.list_streams(limit=1).next_token
    clock.advance(299_999)
    assert store.list_streams(next_token=token).stream_names == ("b",)
    clock.advance(1)
    with pytest.raises(ExpiredNextTokenException, match="start the listing again"):
        store.list_streams(next_token=token)


def test_a_listing_of_streams_starts_behind_a_name_or_goes_on_not_both(store: StreamStore) -> None:
    for name in "ab":
        store.create_stream(name)
    token = store.list_streams(limit=1).next_token
    refused(
        "exclusive_start_stream_name",
        lambda: store.list_streams(next_token=token, exclusive_start_stream_name="a"),
    )


@pytest.mark.parametrize("token", ["", "x", "AAAA", "A" * 513, 5, True, b"AAAA"], ids=ascii)
def test_what_is_no_token_of_streams_is_refused(store: StreamStore, token: object) -> None:
    refused("next_token", lambda: store.list_streams(next_token=token))  # type: ignore[arg-type]


def test_the_tokens_of_streams_shards_and_consumers_do_not_pass_for_each_other(store: StreamStore) -> None:
    for name in "ab":
        store.create_stream(name, shard_count=2)
        store.register_stream_consumer("a", name)
    streams = store.list_streams(limit=1).next_token
    shards = store.list_shards("a", max_results=1).next_token
    consumers = store.list_stream_consumers("a", max_results=1).next_token
    for token in (shards, consumers):
        refused("next_token", partial(store.list_streams, next_token=token))
    for token in (streams, consumers):
        refused("next_token", partial(store.list_shards, next_token=token))
    for token in (streams, shards):
        refused("next_token", partial(store.list_stream_consumers, "a", next_token=token))


# describe_limits


def test_the_limits_count_open_shards_and_on_demand_streams_of_the_store(store: StreamStore) -> None:
    assert store.describe_limits() == DescribeLimitsResult(4_000, 0, 0, 50)
    store.create_stream("s", shard_count=3)
    store.create_stream("t", shard_count=2, stream_mode="ON_DEMAND")
    store.merge_shards("s", "shard-000000", "shard-000001")
    assert store.describe_limits() == DescribeLimitsResult(
        shard_limit=4_000, open_shard_count=4, on_demand_stream_count=1, on_demand_stream_count_limit=50
    )
    store.delete_stream("t")
    assert store.describe_limits() == DescribeLimitsResult(4_000, 2, 0, 50)
