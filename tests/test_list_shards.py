"""Laws of list_shards and describe_stream: the shards of a stream in order, page by page."""

from collections.abc import Callable

import pytest

from streamstore import (
    ExpiredNextTokenException,
    InvalidArgumentException,
    ResourceNotFoundException,
    Shard,
    StreamStore,
)
from tests.conftest import Clock

BAD_LIMITS = [0, -1, 10_001, 10**5_000, True, None, 1.0, "1", [1]]
BAD_STREAM_NAMES = ["", "a\n", "1a", "a-", "a_b", "é", "x" * 129, None, 1, True, b"a"]
BAD_SHARD_IDS = ["", "shard 0", "shard-000000\n", "s" * 129, 0, True, b"shard-000000"]
UNKNOWN_SHARD_IDS = ["shard-000007", "shard-0000000", "shard-999999", "shardId-000000000000", "x"]


def shown(value: object) -> str:
    return ascii(value)[:20] if value != 10**5_000 else "huge"


bad_limits = pytest.mark.parametrize("limit", BAD_LIMITS, ids=shown)
bad_stream_names = pytest.mark.parametrize("name", BAD_STREAM_NAMES, ids=shown)
bad_shard_ids = pytest.mark.parametrize("shard_id", BAD_SHARD_IDS, ids=shown)
unknown_shard_ids = pytest.mark.parametrize("shard_id", UNKNOWN_SHARD_IDS)


def refused(argument: str, call: Callable[[], object]) -> None:
    with pytest.raises(InvalidArgumentException) as refusal:
        call()
    assert refusal.value.argument == argument


@pytest.fixture
def stream(store: StreamStore) -> StreamStore:
    """A store with the stream "s" of seven shards."""
    store.create_stream("s", shard_count=7)
    return store


def ids(shards: tuple[Shard, ...]) -> list[int]:
    return [int(shard.shard_id.removeprefix("shard-")) for shard in shards]


# describe_stream


@pytest.mark.parametrize("limit", range(1, 9))
def test_describe_pages_join_up(stream: StreamStore, limit: int) -> None:
    found: list[int] = []
    after = None
    more = True
    while more:
        page = stream.describe_stream("s", limit=limit, exclusive_start_shard_id=after)
        found.extend(ids(page.shards))
        more = page.has_more_shards
        after = page.shards[-1].shard_id
        assert more == (len(found) < 7)
    assert found == list(range(7))


def test_100_shards_are_described_unless_asked(store: StreamStore) -> None:
    store.create_stream("s", shard_count=101)
    page = store.describe_stream("s")
    assert (len(page.shards), page.has_more_shards) == (100, True)
    page = store.describe_stream("s", limit=10_000)
    assert (len(page.shards), page.has_more_shards) == (101, False)


def test_behind_the_last_shard_there_is_an_empty_page(stream: StreamStore) -> None:
    page = stream.describe_stream("s", exclusive_start_shard_id="shard-000006")
    assert (page.shards, page.has_more_shards) == ((), False)
    assert stream.list_shards("s", exclusive_start_shard_id="shard-000006").shards == ()


@bad_limits
def test_a_bad_limit_describes_nothing(stream: StreamStore, limit: object) -> None:
    refused("limit", lambda: stream.describe_stream("s", limit=limit))  # type: ignore[arg-type]


@bad_stream_names
def test_a_bad_stream_name_describes_nothing(stream: StreamStore, name: object) -> None:
    refused("stream_name", lambda: stream.describe_stream(name))  # type: ignore[arg-type]


@bad_shard_ids
def test_a_malformed_shard_id_to_start_from_is_refused(stream: StreamStore, shard_id: object) -> None:
    for call in (
        lambda: stream.describe_stream("s", exclusive_start_shard_id=shard_id),  # type: ignore[arg-type]
        lambda: stream.list_shards("s", exclusive_start_shard_id=shard_id),  # type: ignore[arg-type]
    ):
        refused("exclusive_start_shard_id", call)


@unknown_shard_ids
def test_an_unknown_shard_to_start_from_is_not_found(stream: StreamStore, shard_id: str) -> None:
    with pytest.raises(
        ResourceNotFoundException, match=f"Shard {shard_id} in stream s does not exist; see list_shards"
    ):
        stream.describe_stream("s", exclusive_start_shard_id=shard_id)
    with pytest.raises(ResourceNotFoundException):
        stream.list_shards("s", exclusive_start_shard_id=shard_id)


# list_shards


@pytest.mark.parametrize("max_results", range(1, 9))
def test_listed_pages_join_up_and_only_the_last_has_no_token(stream: StreamStore, max_results: int) -> None:
    page = stream.list_shards("s", max_results=max_results)
    found = ids(page.shards)
    while page.next_token is not None:
        assert len(page.shards) == max_results
        page = stream.list_shards(next_token=page.next_token, max_results=max_results)
        found.extend(ids(page.shards))
    assert found == list(range(7))


def test_list_shards_and_describe_stream_show_the_same_shards(stream: StreamStore) -> None:
    assert stream.list_shards("s").shards == stream.describe_stream("s").shards


def test_listing_starts_behind_the_given_shard(stream: StreamStore) -> None:
    assert ids(stream.list_shards("s", exclusive_start_shard_id="shard-000002").shards) == [3, 4, 5, 6]
    page = stream.list_shards("s", exclusive_start_shard_id="shard-000002", max_results=2)
    assert ids(stream.list_shards(next_token=page.next_token).shards) == [5, 6]


def test_a_next_token_may_be_used_again(stream: StreamStore) -> None:
    token = stream.list_shards("s", max_results=5).next_token
    assert [ids(stream.list_shards(next_token=token).shards) for _ in range(2)] == [[5, 6]] * 2


def test_a_next_token_lives_299_999_ms_and_is_expired_at_300_000(stream: StreamStore, clock: Clock) -> None:
    token = stream.list_shards("s", max_results=5).next_token
    clock.advance(299_999)
    assert ids(stream.list_shards(next_token=token).shards) == [5, 6]
    clock.advance(1)
    with pytest.raises(ExpiredNextTokenException, match="start the listing again"):
        stream.list_shards(next_token=token)


def test_a_next_token_of_a_deleted_stream_is_not_found_and_of_its_namesake_refused(stream: StreamStore) -> None:
    token = stream.list_shards("s", max_results=5).next_token
    stream.delete_stream("s")
    with pytest.raises(ResourceNotFoundException, match="Stream s does not exist"):
        stream.list_shards(next_token=token)
    stream.create_stream("s", shard_count=7)
    refused("next_token", lambda: stream.list_shards(next_token=token))


def test_a_listing_names_the_stream_or_gives_the_token_not_both_and_not_neither(stream: StreamStore) -> None:
    token = stream.list_shards("s", max_results=5).next_token
    refused("stream_name", lambda: stream.list_shards("s", next_token=token))
    refused(
        "exclusive_start_shard_id",
        lambda: stream.list_shards(next_token=token, exclusive_start_shard_id="shard-000000"),
    )
    refused("stream_name", stream.list_shards)


@pytest.mark.parametrize("token", ["", "x", "AAAA", "A" * 513, 5, True, b"AAAA", "\ud800"], ids=shown)
def test_what_is_no_next_token_is_refused(stream: StreamStore, token: object) -> None:
    refused("next_token", lambda: stream.list_shards(next_token=token))  # type: ignore[arg-type]


def test_a_shard_iterator_is_no_next_token_and_a_next_token_no_shard_iterator(stream: StreamStore) -> None:
    token = stream.list_shards("s", max_results=5).next_token
    iterator = stream.get_shard_iterator("s", "shard-000000", "LATEST")
    refused("next_token", lambda: stream.list_shards(next_token=iterator))
    refused("shard_iterator", lambda: stream.get_records(token or ""))


@bad_limits
def test_bad_max_results_list_nothing(stream: StreamStore, limit: object) -> None:
    refused("max_results", lambda: stream.list_shards("s", max_results=limit))  # type: ignore[arg-type]


@bad_stream_names
def test_a_bad_stream_name_lists_nothing(stream: StreamStore, name: object) -> None:
    refused("stream_name", lambda: stream.list_shards(name))  # type: ignore[arg-type]


def test_the_shards_of_an_unknown_stream_are_not_found(stream: StreamStore) -> None:
    with pytest.raises(ResourceNotFoundException, match="Stream t does not exist"):
        stream.list_shards("t")
    with pytest.raises(ResourceNotFoundException, match="Stream t does not exist"):
        stream.describe_stream("t")
