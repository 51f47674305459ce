"""Laws of update_stream and of the mode of a stream: what is named changes in one commit, the rest stays."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from streamstore import (
    InvalidArgumentException,
    LimitExceededException,
    ProvisionedThroughputExceededException,
    ResourceNotFoundException,
    StreamStore,
    UpdateStreamResult,
)
from tests.commits import last_commit
from tests.conftest import Clock, open_store

FIRST_SHARD, SECOND_SHARD = "shard-000000", "shard-000001"


def shown(value: object) -> str:
    return ascii(value)[:20]


def refused(argument: str, call: Callable[[], object]) -> None:
    with pytest.raises(InvalidArgumentException) as refusal:
        call()
    assert refusal.value.argument == argument


@pytest.fixture
def stream(store: StreamStore) -> StreamStore:
    """A store with the stream "s" of two shards, 12 hours of retention and a quota."""
    store.create_stream("s", shard_count=2, retention_hours=12, write_quota_kb_per_sec=512, tags={"a": "1"})
    return store


def open_ids(store: StreamStore) -> list[str]:
    shards = store.list_shards("s").shards
    return [shard.shard_id for shard in shards if shard.sequence_number_range.ending_sequence_number is None]


# update_stream


def test_an_update_changes_all_that_it_names_in_one_commit(stream: StreamStore, store_path: Path, clock: Clock) -> None:
    before = last_commit(stream)
    result = stream.update_stream("s", shard_count=3, write_quota_kb_per_sec=128, retention_hours=4, read_quota=True)
    assert last_commit(stream) == before + 1
    assert result == UpdateStreamResult("s", 3, 128, 4)
    stream.close()
    with open_store(store_path, clock) as again:
        summary = again.describe_stream_summary("s")
        assert (summary.open_shard_count, summary.write_quota_kb_per_sec) == (3, 128)
        assert (summary.retention_period_hours, summary.read_quota) == (4, True)
        assert len(again.list_tags_for_stream("s").tags) == 1


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({}, UpdateStreamResult("s", 2, 512, 12)),
        ({"shard_count": 1}, UpdateStreamResult("s", 1, 512, 12)),
        ({"write_quota_kb_per_sec": None}, UpdateStreamResult("s", 2, None, 12)),
        ({"write_quota_kb_per_sec": "keep", "retention_hours": 24}, UpdateStreamResult("s", 2, 512, 24)),
    ],
    ids=shown,
)
def test_what_an_update_does_not_name_stays_as_it_is(
    stream: StreamStore, named: dict[str, object], expected: UpdateStreamResult
) -> None:
    assert stream.update_stream("s", **named) == expected  # type: ignore[arg-type]
    assert stream.update_stream("s") == expected
    assert stream.describe_stream_summary("s").read_quota is False


def test_the_shards_are_reshaped_as_update_shard_count_does_it(stream: StreamStore) -> None:
    stream.create_stream("t", shard_count=2, retention_hours=12)
    stream.update_stream("s", shard_count=3)
    stream.update_shard_count("t", 3)
    assert stream.list_shards("s").shards == stream.list_shards("t").shards


def test_a_new_write_quota_holds_from_the_next_put_on(stream: StreamStore) -> None:
    stream.update_stream("s", write_quota_kb_per_sec=128)
    stream.put_record("s", bytes(128 * 1024 - 1), "k")
    with pytest.raises(ProvisionedThroughputExceededException):
        stream.put_record("s", b"more", "k")
    stream.update_stream("s", write_quota_kb_per_sec=None)
    stream.put_record("s", b"more", "k")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("shard_count", 0),
        ("shard_count", 4_001),
        ("shard_count", True),
        ("shard_count", "3"),
        ("write_quota_kb_per_sec", 127),
        ("write_quota_kb_per_sec", "KEEP"),
        ("write_quota_kb_per_sec", False),
        ("retention_hours", 0),
        ("retention_hours", 25),
        ("retention_hours", 4.0),
        ("read_quota", 1),
        ("read_quota", "keep"),
    ],
    ids=shown,
)
def test_one_bad_argument_changes_none_of_the_others(stream: StreamStore, argument: str, value: object) -> None:
    named: dict[str, object] = {"shard_count": 3, "retention_hours": 4, "read_quota": True, argument: value}
    before = last_commit(stream)
    refused(argument, lambda: stream.update_stream("s", **named))  # type: ignore[arg-type]
    assert last_commit(stream) == before


def test_more_shards_than_the_store_holds_change_none_of_the_settings(stream: StreamStore) -> None:
    stream.create_stream("t", shard_count=3_990)
    before = last_commit(stream)
    with pytest.raises(LimitExceededException):
        stream.update_stream("s", shard_count=9, write_quota_kb_per_sec=None, retention_hours=4)
    assert last_commit(stream) == before
    assert stream.update_stream("s") == UpdateStreamResult("s", 2, 512, 12)


def test_an_unknown_or_badly_named_stream_is_not_updated(store: StreamStore) -> None:
    calls: list[Callable[[str], object]] = [
        store.update_stream,
        lambda name: store.update_stream(name, retention_hours=2),
        lambda name: store.update_stream_mode(name, "ON_DEMAND"),
    ]
    for call in calls:
        with pytest.raises(ResourceNotFoundException, match="Stream s does not exist"):
            call("s")
        refused("stream_name", partial(call, "1a"))


# The mode


def test_a_stream_is_provisioned_unless_asked_and_shows_the_mode_that_it_is_given(
    stream: StreamStore, store_path: Path, clock: Clock
) -> None:
    stream.create_stream("t", stream_mode="ON_DEMAND")
    assert stream.describe_stream("s").stream_mode == "PROVISIONED"
    assert stream.describe_stream("t").stream_mode == "ON_DEMAND"
    stream.update_stream_mode("s", "ON_DEMAND")
    stream.update_stream_mode("t", "PROVISIONED")
    stream.close()
    with open_store(store_path, clock) as again:
        assert [summary.stream_mode for summary in again.list_streams().stream_summaries] == [
            "ON_DEMAND",
            "PROVISIONED",
        ]


def test_the_shards_of_an_on_demand_stream_cannot_be_changed(stream: StreamStore) -> None:
    stream.update_stream_mode("s", "ON_DEMAND")
    before = last_commit(stream)
    for call in (
        lambda: stream.split_shard("s", FIRST_SHARD, "7"),
        lambda: stream.merge_shards("s", FIRST_SHARD, SECOND_SHARD),
        lambda: stream.update_shard_count("s", 1),
        lambda: stream.update_stream("s", shard_count=1, retention_hours=4),
    ):
        refused("stream_name", call)
    assert last_commit(stream) == before
    stream.put_record("s", b"", "k")
    assert stream.update_stream("s", retention_hours=4).retention_period_hours == 4
    stream.update_stream_mode("s", "PROVISIONED")
    stream.merge_shards("s", FIRST_SHARD, SECOND_SHARD)
    assert open_ids(stream) == ["shard-000002"]


@pytest.mark.parametrize("mode", ["", "provisioned", "ON-DEMAND", None, 1, True, b"ON_DEMAND"], ids=shown)
def test_what_is_no_mode_of_a_stream_is_refused(stream: StreamStore, mode: object) -> None:
    refused("stream_mode", lambda: stream.update_stream_mode("s", mode))  # type: ignore[arg-type]
    refused("stream_mode", lambda: stream.create_stream("t", stream_mode=mode))  # type: ignore[arg-type]
    assert stream.list_streams().stream_names == ("s",)


def test_a_store_holds_50_on_demand_streams_and_any_number_of_provisioned_ones(store: StreamStore) -> None:
    for number in range(50):
        store.create_stream(f"d{number}", stream_mode="ON_DEMAND")
    store.create_stream("s")
    before = last_commit(store)
    calls: list[Callable[[], None]] = [
        lambda: store.create_stream("t", stream_mode="ON_DEMAND"),
        lambda: store.update_stream_mode("s", "ON_DEMAND"),
    ]
    for call in calls:
        with pytest.raises(LimitExceededException, match="limit of 50 streams in ON_DEMAND mode per store; update"):
            call()
    store.update_stream_mode("d7", "ON_DEMAND")  # it is one of them already
    assert last_commit(store) == before
    store.create_stream("t")
    store.update_stream_mode("d7", "PROVISIONED")
    store.update_stream_mode("s", "ON_DEMAND")
    assert store.describe_limits().on_demand_stream_count == 50
