"""Laws of enhanced monitoring: which metrics are shown of the shards is kept with the stream, as it was asked."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

import pytest

from streamstore import (
    EnhancedMonitoringResult,
    InvalidArgumentException,
    ResourceNotFoundException,
    ShardLevelMetric,
    StreamStore,
)
from streamstore.model import SHARD_LEVEL_METRICS
from tests.commits import last_commit
from tests.conftest import Clock, open_store
from tests.damage import behind_the_back_of

ONE_BY_ONE = tuple(metric for metric in SHARD_LEVEL_METRICS if metric != "ALL")


@pytest.fixture
def stream(store: StreamStore) -> StreamStore:
    """A store with the stream "s"."""
    store.create_stream("s")
    return store


def shown(store: StreamStore) -> tuple[ShardLevelMetric, ...]:
    """Return the metrics that both descriptions of the stream show."""
    metrics = store.describe_stream("s").enhanced_monitoring
    assert store.describe_stream_summary("s").enhanced_monitoring == metrics
    return metrics


def test_a_stream_shows_no_metrics_of_its_shards_until_asked(stream: StreamStore) -> None:
    assert shown(stream) == ()


def test_what_was_shown_before_and_is_shown_now_is_told(stream: StreamStore) -> None:
    assert stream.enable_enhanced_monitoring("s", ["IncomingRecords"]) == EnhancedMonitoringResult(
        "s", "s", (), ("IncomingRecords",)
    )
    result = stream.enable_enhanced_monitoring("s", {"OutgoingBytes", "IncomingRecords"})
    assert result.current_shard_level_metrics == ("IncomingRecords",)
    assert result.desired_shard_level_metrics == shown(stream) == ("IncomingRecords", "OutgoingBytes")
    result = stream.disable_enhanced_monitoring("s", ("IncomingRecords", "IncomingBytes"))
    assert result.current_shard_level_metrics == ("IncomingRecords", "OutgoingBytes")
    assert result.desired_shard_level_metrics == shown(stream) == ("OutgoingBytes",)


def test_the_stream_is_named_by_its_arn_where_the_dialect_has_any(aws_store: StreamStore) -> None:
    aws_store.create_stream("s")
    arn = "arn:aws:kinesis:us-east-1:000000000000:stream/s"
    assert aws_store.enable_enhanced_monitoring("s", ["ALL"]) == EnhancedMonitoringResult("s", arn, (), ("ALL",))
    assert aws_store.disable_enhanced_monitoring("s", ["ALL"]) == EnhancedMonitoringResult("s", arn, ("ALL",), ())


def test_all_takes_the_place_of_every_name_and_leaves_none(stream: StreamStore) -> None:
    stream.enable_enhanced_monitoring("s", ["IncomingBytes"])
    stream.enable_enhanced_monitoring("s", ["ALL", "OutgoingBytes"])
    assert shown(stream) == ("ALL",)
    stream.enable_enhanced_monitoring("s", ["IncomingBytes"])
    assert shown(stream) == ("ALL",)
    stream.disable_enhanced_monitoring("s", ["OutgoingBytes", "ALL"])
    assert shown(stream) == ()


def test_all_without_one_is_the_other_six(stream: StreamStore) -> None:
    stream.enable_enhanced_monitoring("s", ["ALL"])
    stream.disable_enhanced_monitoring("s", ["IncomingBytes"])
    assert set(shown(stream)) == set(ONE_BY_ONE) - {"IncomingBytes"}
    stream.enable_enhanced_monitoring("s", ["IncomingBytes"])
    assert shown(stream) == ONE_BY_ONE  # as it was asked: clients that name all seven look for all seven


def test_it_outlasts_the_process_and_every_other_change_of_the_stream(
    stream: StreamStore, store_path: Path, clock: Clock
) -> None:
    stream.enable_enhanced_monitoring("s", ["IncomingBytes", "IteratorAgeMilliseconds"])
    stream.update_stream("s", shard_count=3, retention_hours=2, write_quota_kb_per_sec=128, read_quota=True)
    stream.update_stream_mode("s", "ON_DEMAND")
    stream.add_tags_to_stream("s", {"a": "b"})
    stream.close()
    with open_store(store_path, clock) as again:
        assert shown(again) == ("IncomingBytes", "IteratorAgeMilliseconds")
        again.delete_stream("s")
        again.create_stream("s")
        assert shown(again) == ()


def test_a_stream_that_is_no_longer_monitored_lies_on_disk_as_if_it_had_never_been(
    store_path: Path, clock: Clock
) -> None:
    def entries_behind(change: Callable[[StreamStore], object]) -> list[tuple[bytes, bytes]]:
        with open_store(store_path, clock) as store:
            change(store)
        with behind_the_back_of(store_path) as raw:
            return raw.items(b"streams")

    before = entries_behind(lambda store: store.create_stream("s"))
    assert entries_behind(lambda store: store.enable_enhanced_monitoring("s", ["ALL"])) != before
    assert entries_behind(lambda store: store.disable_enhanced_monitoring("s", ["ALL"])) == before


def test_a_change_that_changes_nothing_writes_nothing(stream: StreamStore) -> None:
    stream.enable_enhanced_monitoring("s", ["IncomingBytes"])
    before = last_commit(stream)
    stream.enable_enhanced_monitoring("s", ["IncomingBytes", "IncomingBytes"])
    stream.disable_enhanced_monitoring("s", ["OutgoingBytes"])
    assert last_commit(stream) == before


@pytest.mark.parametrize(
    "metrics",
    [
        *([], (), ["IncomingBytes"] * 8, {"ALL": 1}, "ALL", b"ALL", None, 7),
        *(["incomingBytes"], ["ALL", ""], [None], [1], [["ALL"]], ["ALL\n"], ["\ud800"], ["x" * 10_000]),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_what_are_no_one_to_seven_metrics_is_refused_and_changes_nothing(stream: StreamStore, metrics: object) -> None:
    stream.enable_enhanced_monitoring("s", ["IncomingBytes"])
    before = last_commit(stream)
    calls: list[Callable[[str, list[ShardLevelMetric]], object]] = [
        stream.enable_enhanced_monitoring,
        stream.disable_enhanced_monitoring,
    ]
    for call in calls:
        with pytest.raises(InvalidArgumentException) as refusal:
            call("s", metrics)  # type: ignore[arg-type]
        assert refusal.value.argument == "shard_level_metrics"
        assert "1 to 7 metrics" in refusal.value.message or "nothing but IncomingBytes, " in refusal.value.message
    assert last_commit(stream) == before


def test_members_of_an_enumeration_are_names_too(stream: StreamStore) -> None:
    class Metric(StrEnum):
        BYTES = "IncomingBytes"

    stream.enable_enhanced_monitoring("s", [Metric.BYTES])  # type: ignore[list-item]
    assert [type(metric) for metric in shown(stream)] == [str]


def test_the_shards_of_an_unknown_or_badly_named_stream_are_not_monitored(stream: StreamStore) -> None:
    for call in (stream.enable_enhanced_monitoring, stream.disable_enhanced_monitoring):
        with pytest.raises(ResourceNotFoundException, match="Stream t does not exist"):
            call("t", ["ALL"])
        with pytest.raises(InvalidArgumentException, match="stream_name must be"):
            call("1a", ["ALL"])


# What a server asks of a store


def test_whether_the_shards_are_shown_is_known_behind_each_call_that_used_the_stream(stream: StreamStore) -> None:
    def behind_a_put() -> bool:
        stream.put_record("s", b"", "k")
        return "s" in stream.monitored_streams

    assert "unknown" not in stream.monitored_streams
    assert not behind_a_put()
    stream.enable_enhanced_monitoring("s", ["IncomingBytes"])
    assert behind_a_put()
    stream.disable_enhanced_monitoring("s", ["IncomingBytes"])
    assert not behind_a_put()
    stream.enable_enhanced_monitoring("s", ["ALL"])
    assert behind_a_put()
    stream.close()
    assert "s" in stream.monitored_streams  # which is no look at the store


def test_a_stream_that_is_gone_shows_nothing(stream: StreamStore) -> None:
    stream.enable_enhanced_monitoring("s", ["ALL"])
    stream.put_record("s", b"", "k")
    stream.delete_stream("s")
    with pytest.raises(ResourceNotFoundException):
        stream.put_record("s", b"", "k")
    assert "s" not in stream.monitored_streams


def test_the_shard_of_an_iterator_is_known_however_old_it_is(stream: StreamStore, clock: Clock) -> None:
    iterator = stream.get_shard_iterator("s", "shard-000000", "LATEST")
    clock.advance(10_000_000)
    assert stream.shard_of_iterator(iterator) == ("s", "shard-000000")
    stream.create_stream("t")
    page = stream.list_streams(limit=1).next_token
    assert page is not None
    for other in (page, "", "x", iterator[:-1]):
        assert stream.shard_of_iterator(other) is None
