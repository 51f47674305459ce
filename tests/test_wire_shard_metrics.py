"""What a server counts of single shards: for the streams that have it enabled, and over all of its processes."""

import contextlib
import re
from typing import Final
from unittest import mock

import pytest

from streamstore import ResourceInUseException, StreamStore
from streamstore.limits import SHARDS_PER_STORE_MAX
from streamstore.wire.counts import SECONDS_BUCKETS, Counts, CountsBoard, ShardCounts
from streamstore.wire.dispatch import Dispatcher
from streamstore.wire.http import WireRequest, WireResponse
from streamstore.wire.shard_traffic import ShardTraffic
from tests.conftest import Clock
from tests.test_wire_metrics import METRICS, PUT, run, service_of, text_of
from tests.wire import CBOR, JSON, Wire

SHARD: Final = "shardId-000000000000"
LABELS: Final = '{shard="shardId-000000000000",stream="clicks"}'
SECOND_LABELS: Final = '{shard="shardId-000000000001",stream="clicks"}'
OF_SHARDS: Final = "streamstore_shard_"
OTHERS: Final = ("outgoing_bytes", "outgoing_records", "write_throughput_exceeded", "read_throughput_exceeded")
STEPS: Final = [
    ("EnableEnhancedMonitoring", ["IncomingBytes"]),
    ("EnableEnhancedMonitoring", ["IteratorAgeMilliseconds"]),
    ("DisableEnhancedMonitoring", ["IncomingBytes"]),
    ("DisableEnhancedMonitoring", ["ALL"]),
]


def metrics_after(store: StreamStore, *requests: WireRequest) -> dict[str, float]:
    """Return the metrics of single shards behind the requests, with nothing in front of their names."""

    async def ask() -> WireResponse:
        service = service_of(store)
        for request in requests:
            await service.answer(request)
        return await service.answer(METRICS)

    lines = [line for line in text_of(run(ask)).splitlines() if line.startswith(OF_SHARDS)]
    return {name.removeprefix(OF_SHARDS): float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def records_put(text: str) -> dict[str, str]:
    """Return the records that were put into each shard of the stream "clicks", by the last digit of its id."""
    return dict(re.findall(r'incoming_records_total\{shard="shardId-0{11}([0-9])",stream="clicks"\} ([0-9.]+)', text))


def asked(store: StreamStore, action: str, members: object) -> WireRequest:
    return Wire(Dispatcher(store)).request(action, members)


def read(store: StreamStore, *, limit: int = 10_000) -> WireRequest:
    iterator = store.get_shard_iterator("clicks", SHARD, "TRIM_HORIZON")
    return asked(store, "GetRecords", {"ShardIterator": iterator, "Limit": limit})


def test_where_nothing_is_enabled_no_iterator_is_proved_again(aws_store: StreamStore) -> None:
    aws_store.create_stream("clicks")
    aws_store.put_record("clicks", b"123", "k")
    with mock.patch.object(StreamStore, "shard_of_iterator", side_effect=AssertionError) as looked:
        assert metrics_after(aws_store, read(aws_store)) == {}
    looked.assert_not_called()


@pytest.mark.parametrize("codec", [JSON, CBOR])
def test_what_goes_into_a_shard_and_comes_out_of_it_is_counted_where_it_is_enabled(
    aws_store: StreamStore, clock: Clock, codec: str
) -> None:
    for name in ("clicks", "unmonitored"):
        aws_store.create_stream(name, shard_count=2)
    aws_store.enable_enhanced_monitoring("clicks", ["ALL"])
    wire = Wire(Dispatcher(aws_store), codec)
    put = {"Data": b"123", "PartitionKey": "ключ", "ExplicitHashKey": "0"}
    puts = {"Records": [put, {**put, "Data": b"4"}, {**put, "ExplicitHashKey": str(2**127)}]}
    metrics = metrics_after(
        aws_store,
        *(wire.request("PutRecord", {"StreamName": name, **put}) for name in ("clicks", "unmonitored")),
        *(wire.request("PutRecords", {"StreamName": name, **puts}) for name in ("clicks", "unmonitored")),
    )
    assert metrics == {
        f"incoming_bytes_total{LABELS}": 3 + 3 + 1 + 3 * 8,
        f"incoming_records_total{LABELS}": 3,
        f"incoming_bytes_total{SECOND_LABELS}": 3 + 8,
        f"incoming_records_total{SECOND_LABELS}": 1,
        **{f"{name}_total{labels}": 0 for name in OTHERS for labels in (LABELS, SECOND_LABELS)},
    }
    clock.advance(2_500)
    metrics = metrics_after(aws_store, read(aws_store, limit=2))
    assert metrics[f"outgoing_bytes_total{LABELS}"] == 3 + 3 + 2 * 8
    assert metrics[f"outgoing_records_total{LABELS}"] == 2
    assert metrics[f"iterator_age_seconds{LABELS}"] == 2.5
    end = aws_store.get_shard_iterator("clicks", SHARD, "LATEST")
    metrics = metrics_after(aws_store, read(aws_store), wire.request("GetRecords", {"ShardIterator": end}))
    assert metrics[f"outgoing_records_total{LABELS}"] == 3
    assert metrics[f"iterator_age_seconds{LABELS}"] == 0


def test_what_the_quotas_of_a_shard_refuse_is_counted(aws_store: StreamStore) -> None:
    aws_store.create_stream("clicks", write_quota_kb_per_sec=128, read_quota=True)
    aws_store.enable_enhanced_monitoring("clicks", ["ALL"])
    aws_store.put_record("clicks", bytes(200_000), "k")
    put = {"Data": b"x", "PartitionKey": "k"}
    metrics = metrics_after(
        aws_store,
        asked(aws_store, "PutRecord", {"StreamName": "clicks", **put}),
        asked(aws_store, "PutRecords", {"StreamName": "clicks", "Records": [put] * 3}),
        *[read(aws_store)] * 3,
    )
    assert metrics == {
        f"incoming_bytes_total{LABELS}": 0,
        f"incoming_records_total{LABELS}": 0,
        f"outgoing_bytes_total{LABELS}": 200_001,
        f"outgoing_records_total{LABELS}": 1,
        f"write_throughput_exceeded_total{LABELS}": 4,
        f"read_throughput_exceeded_total{LABELS}": 2,
        f"iterator_age_seconds{LABELS}": 0,
    }


def test_only_the_metrics_that_are_enabled_are_shown_and_none_behind_their_disabling(aws_store: StreamStore) -> None:
    aws_store.create_stream("clicks")

    async def ask() -> list[set[str]]:
        service = service_of(aws_store)
        shown: list[set[str]] = []
        for action, metrics in STEPS:
            await service.answer(asked(aws_store, action, {"StreamName": "clicks", "ShardLevelMetrics": metrics}))
            await service.answer(PUT)
            await service.answer(read(aws_store))
            text = text_of(await service.answer(METRICS))
            shown.append(set(re.findall(f"^{OF_SHARDS}([a-z_]+){re.escape(LABELS)}", text, re.MULTILINE)))
        return shown

    assert run(ask) == [
        {"incoming_bytes_total"},
        {"incoming_bytes_total", "iterator_age_seconds"},
        {"iterator_age_seconds"},
        set(),
    ]


def test_shards_that_are_no_more_are_not_shown(aws_store: StreamStore, clock: Clock) -> None:
    aws_store.create_stream("clicks", retention_hours=24)
    aws_store.enable_enhanced_monitoring("clicks", ["IncomingRecords"])

    async def ask() -> list[dict[str, str]]:
        service = service_of(aws_store)
        await service.answer(PUT)
        aws_store.split_shard("clicks", SHARD, "9")
        shown = [records_put(text_of(await service.answer(METRICS)))]
        clock.advance(25 * 3_600_000)
        shown.append(records_put(text_of(await service.answer(METRICS))))
        aws_store.delete_stream("clicks")
        return [*shown, records_put(text_of(await service.answer(METRICS)))]

    assert run(ask) == [{"0": "1.0", "1": "0.0", "2": "0.0"}, {"1": "0.0", "2": "0.0"}, {}]


def test_who_makes_shards_for_ever_fills_no_memory(aws_store: StreamStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamstore.wire.shard_traffic.SHARDS_PER_STORE_MAX", 2)
    counts = Counts()
    dispatcher = Dispatcher(aws_store, traffic=ShardTraffic(aws_store, counts))
    for name in ("kept", "a", "kept", "b"):
        with contextlib.suppress(ResourceInUseException):
            aws_store.create_stream(name)
        aws_store.enable_enhanced_monitoring(name, ["ALL"])
        put = asked(aws_store, "PutRecord", {"StreamName": name, "Data": b"", "PartitionKey": "k"})
        assert dispatcher.answer(put).status == 200
    assert {address: shard.incoming_records for address, shard in counts.shards.items()} == {
        f"kept/{SHARD}": 2,
        f"b/{SHARD}": 1,
    }


def test_all_shards_that_a_store_may_have_fit_on_the_board() -> None:
    board, counts = CountsBoard(2), Counts()
    for number in range(SHARDS_PER_STORE_MAX):
        counts.shards[f"{number:0128}/{SHARD}"] = ShardCounts(*[2**60 + number] * 8)
    for action in range(39):
        for code in range(50):
            counts.of_request(f"{action:040}", f"{code:040}").times.in_bucket[:] = [2**40] * (len(SECONDS_BUCKETS) + 1)
    board.show(0, counts)
    assert list(board.shown_elsewhere(1)) == [counts]


def test_counts_of_one_shard_add_up_and_its_newest_reading_is_the_one_that_tells_its_age() -> None:
    both = Counts(shards={"s/1": ShardCounts(1, 2, 3, 4, 5, 6, read_ms=1_000, iterator_age_ms=7)})
    both.include(Counts(shards={"s/1": ShardCounts(10, 20, 30, 40, 50, 60), "s/2": ShardCounts(1)}))
    assert both.shards == {"s/1": ShardCounts(11, 22, 33, 44, 55, 66, 1_000, 7), "s/2": ShardCounts(1)}
    for read_ms, age_ms in ((1_001, 8), (999, 8)):
        both.include(Counts(shards={"s/1": ShardCounts(read_ms=read_ms, iterator_age_ms=read_ms - 993)}))
        assert both.shards["s/1"].iterator_age_ms == age_ms
