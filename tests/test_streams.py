"""Laws of the control plane: create, delete, describe, list, with every page and every bad argument."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from streamstore import (
    HashKeyRange,
    InvalidArgumentException,
    LimitExceededException,
    ResourceInUseException,
    ResourceNotFoundException,
    StreamStore,
)
from tests.conftest import Clock, open_store

BAD_LIMITS = [0, -1, 10_001, 10**5_000, True, None, 1.0, "1", [1]]
BAD_STREAM_NAMES = ["", "a\n", "1a", "a-", "a_b", "é", "x" * 129, None, 1, True, b"a"]


def shown(value: object) -> str:
    return ascii(value)[:20] if value != 10**5_000 else "huge"


bad_limits = pytest.mark.parametrize("limit", BAD_LIMITS, ids=shown)
bad_stream_names = pytest.mark.parametrize("name", BAD_STREAM_NAMES, ids=shown)


def refused(argument: str, call: Callable[[], object]) -> None:
    with pytest.raises(InvalidArgumentException) as refusal:
        call()
    assert refusal.value.argument == argument


# create_stream


def test_a_new_stream_is_as_described(store: StreamStore, clock: Clock) -> None:
    clock.advance(123)
    store.create_stream("s", shard_count=3, retention_hours=4, write_quota_kb_per_sec=512)
    description = store.describe_stream("s")
    assert description.stream_name == "s"
    assert description.stream_status == "ACTIVE"
    assert description.stream_creation_timestamp == datetime(2023, 11, 14, 22, 13, 20, 123_000, UTC)
    assert description.retention_period_hours == 4
    assert description.write_quota_kb_per_sec == 512
    assert description.encryption_type == "NONE"
    assert description.has_more_shards is False
    assert [shard.shard_id for shard in description.shards] == ["shard-000000", "shard-000001", "shard-000002"]
    for shard in description.shards:
        assert shard.sequence_number_range.starting_sequence_number == "0"
        assert shard.sequence_number_range.ending_sequence_number is None
        assert (shard.parent_shard_id, shard.adjacent_parent_shard_id) == (None, None)


def test_a_stream_has_one_shard_24_hours_and_no_quota_unless_asked(store: StreamStore) -> None:
    store.create_stream("s")
    description = store.describe_stream("s")
    assert description.shards[0].hash_key_range == HashKeyRange(0, 2**128 - 1)
    assert len(description.shards) == 1
    assert description.retention_period_hours == 24
    assert description.write_quota_kb_per_sec is None


def test_an_existing_name_is_in_use_and_its_stream_stays_as_it_was(store: StreamStore) -> None:
    store.create_stream("s")
    store.put_record("s", b"", "k")
    with pytest.raises(ResourceInUseException, match="Stream s already exists; use it, delete it first") as refusal:
        store.create_stream("s", shard_count=4)
    assert refusal.value.resource == "Stream s"
    assert len(store.describe_stream("s").shards) == 1
    assert len(list(store.read("s", "shard-000000"))) == 1


@bad_stream_names
def test_a_bad_stream_name_creates_nothing(store: StreamStore, name: object) -> None:
    refused("stream_name", lambda: store.create_stream(name))  # type: ignore[arg-type]
    assert store.list_streams().stream_names == ()


@pytest.mark.parametrize("count", [0, -1, True, None, 1.0, "1", [1]], ids=shown)
def test_a_bad_shard_count_creates_nothing(store: StreamStore, count: object) -> None:
    refused("shard_count", lambda: store.create_stream("s", shard_count=count))  # type: ignore[arg-type]
    assert store.list_streams().stream_names == ()


@pytest.mark.parametrize("hours", [0, -1, 25, 168, 10**5_000, True, 4.0, "4", [4]], ids=shown)
def test_retention_outside_1_to_24_hours_creates_nothing(store: StreamStore, hours: object) -> None:
    refused("retention_hours", lambda: store.create_stream("s", retention_hours=hours))  # type: ignore[arg-type]
    assert store.list_streams().stream_names == ()


@pytest.mark.parametrize("quota", [0, 127, 129, 1025, -128, 10**5_000, True, 128.0, "128", [128]], ids=shown)
def test_a_quota_other_than_128_512_and_1024_creates_nothing(store: StreamStore, quota: object) -> None:
    refused(
        "write_quota_kb_per_sec",
        lambda: store.create_stream("s", write_quota_kb_per_sec=quota),  # type: ignore[arg-type]
    )
    assert store.list_streams().stream_names == ()


@pytest.mark.parametrize("hours", [1, 4, 12, 24])
@pytest.mark.parametrize("quota", [None, 128, 512, 1024])
def test_every_documented_retention_and_quota_is_accepted(store: StreamStore, hours: int, quota: int | None) -> None:
    store.create_stream("s", retention_hours=hours, write_quota_kb_per_sec=quota)
    description = store.describe_stream("s")
    assert (description.retention_period_hours, description.write_quota_kb_per_sec) == (hours, quota)


def test_a_store_holds_4_000_shards_and_not_one_more(store: StreamStore) -> None:
    store.create_stream("many", shard_count=3_999)
    with pytest.raises(LimitExceededException, match="limit of 4000 shards per store; 3999 exist") as refusal:
        store.create_stream("two", shard_count=2)
    assert refusal.value.limit == "4000 shards per store"
    store.create_stream("one")
    with pytest.raises(LimitExceededException):
        store.create_stream("next")
    assert store.list_streams().stream_names == ("many", "one")
    store.delete_stream("many")
    store.create_stream("next", shard_count=3_999)


@pytest.mark.parametrize("count", [4_001, 2_000_000, 10**5_000], ids=shown)
def test_more_shards_than_a_store_holds_are_refused_however_many(store: StreamStore, count: int) -> None:
    with pytest.raises(LimitExceededException):
        store.create_stream("s", shard_count=count)
    assert store.list_streams().stream_names == ()


# delete_stream


def test_a_deleted_stream_is_gone_for_every_operation(store: StreamStore) -> None:
    store.create_stream("s", shard_count=3)
    for key in "kabe":
        store.put_record("s", b"", key)
    store.delete_stream("s")
    assert store.list_streams().stream_names == ()
    operations: list[Callable[[], object]] = [
        lambda: store.put_record("s", b"", "k"),
        lambda: store.read("s", "shard-000000"),
        lambda: store.get_shard_iterator("s", "shard-000000", "LATEST"),
        lambda: store.describe_stream("s"),
        lambda: store.list_shards("s"),
        lambda: store.delete_stream("s"),
    ]
    for operation in operations:
        with pytest.raises(ResourceNotFoundException, match="Stream s does not exist"):
            operation()


def test_a_recreated_stream_shares_nothing_with_the_old_one(store: StreamStore, clock: Clock) -> None:
    store.create_stream("s", shard_count=2, write_quota_kb_per_sec=128)
    store.put_record("s", bytes(1_048_576), "a")
    iterator = store.get_shard_iterator("s", "shard-000000", "LATEST")
    token = store.list_shards("s", max_results=1).next_token
    store.delete_stream("s")
    clock.advance(-5_000)
    store.create_stream("s", shard_count=2, write_quota_kb_per_sec=128)
    assert list(store.read("s", "shard-000000")) == []
    put = store.put_record("s", bytes(1_048_576), "a")  # the old stream's quota is used up
    assert put.sequence_number == "0"
    assert next(store.read("s", put.shard_id)).arrival_ms == clock()
    with pytest.raises(ResourceNotFoundException):
        store.get_records(iterator)
    refused("next_token", lambda: store.list_shards(next_token=token))


def test_deleting_a_stream_leaves_the_others_alone(store: StreamStore) -> None:
    for name in ("left", "middle", "right"):
        store.create_stream(name)
        store.put_record(name, name.encode(), "k")
    store.delete_stream("middle")
    assert store.list_streams().stream_names == ("left", "right")
    for name in ("left", "right"):
        assert [record.data for record in store.read(name, "shard-000000")] == [name.encode()]


@bad_stream_names
def test_a_bad_stream_name_deletes_nothing(store: StreamStore, name: object) -> None:
    refused("stream_name", lambda: store.delete_stream(name))  # type: ignore[arg-type]


def test_streams_outlast_the_process(store: StreamStore, clock: Clock) -> None:
    store.create_stream("s", shard_count=3, retention_hours=4, write_quota_kb_per_sec=512)
    description = store.describe_stream("s")
    store.close()
    with open_store(store.path, clock) as reopened:
        assert reopened.describe_stream("s") == description


# list_streams


def test_names_are_listed_in_bytewise_order_page_by_page(store: StreamStore) -> None:
    names = ["B", "a", "Z9", "a-b", "ab", "a1", "Za"]
    for name in names:
        store.create_stream(name)
    in_order = sorted(names, key=str.encode)
    assert list(store.list_streams().stream_names) == in_order
    for limit in range(1, 9):
        found: list[str] = []
        after = None
        while True:
            page = store.list_streams(limit=limit, exclusive_start_stream_name=after)
            found.extend(page.stream_names)
            assert page.has_more_streams == (len(found) < len(in_order))
            if not page.has_more_streams:
                break
            assert len(page.stream_names) == limit
            after = page.stream_names[-1]
        assert found == in_order


def test_the_name_to_list_from_need_not_exist(store: StreamStore) -> None:
    for name in ("a", "c"):
        store.create_stream(name)
    assert store.list_streams(exclusive_start_stream_name="b").stream_names == ("c",)
    assert store.list_streams(exclusive_start_stream_name="c").stream_names == ()


def test_100_names_are_listed_unless_asked(store: StreamStore) -> None:
    for index in range(101):
        store.create_stream(f"s{index:03d}")
    page = store.list_streams()
    assert (len(page.stream_names), page.has_more_streams) == (100, True)
    page = store.list_streams(limit=10_000)
    assert (len(page.stream_names), page.has_more_streams) == (101, False)


@bad_limits
def test_a_bad_limit_lists_no_streams(store: StreamStore, limit: object) -> None:
    refused("limit", lambda: store.list_streams(limit=limit))  # type: ignore[arg-type]


@bad_stream_names
def test_a_bad_name_to_list_from_is_refused(store: StreamStore, name: object) -> None:
    if name is not None:
        refused(
            "exclusive_start_stream_name",
            lambda: store.list_streams(exclusive_start_stream_name=name),  # type: ignore[arg-type]
        )
