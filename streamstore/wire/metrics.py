"""What a server counts, in the text format of Prometheus.

Requests are counted as they are answered, in a few plain numbers, because that is on the way of each put; commits as
the store makes them. What the store knows anyway (its file, its streams, the lag of its consumers) is looked up when
somebody asks.
"""

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from streamstore import CommitReport, ResourceNotFoundException, ShardLevelMetric, StreamStore
from streamstore.wire.counts import SECONDS_BUCKETS, Counts, CountsBoard, RequestCounts, ShardCounts, Times

__all__ = ["METRICS_CONTENT_TYPE", "Metrics"]

METRICS_CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OK: Final = "OK"
OTHER: Final = "other"  # no client may add a name of its own
BUCKET_NAMES: Final = [*(str(float(bound)) for bound in SECONDS_BUCKETS), "+Inf"]
STREAMS_PER_PAGE: Final = 1_000
NOTHING_COUNTED: Final = ShardCounts()
SHARD_COUNTERS: Final[Mapping[ShardLevelMetric, tuple[str, str, Callable[[ShardCounts], int]]]] = {
    "IncomingBytes": ("incoming_bytes", "Data and keys put into a shard.", lambda counts: counts.incoming_bytes),
    "IncomingRecords": ("incoming_records", "Records put into a shard.", lambda counts: counts.incoming_records),
    "OutgoingBytes": ("outgoing_bytes", "Data and keys read by GetRecords.", lambda counts: counts.outgoing_bytes),
    "OutgoingRecords": ("outgoing_records", "Records read by GetRecords.", lambda counts: counts.outgoing_records),
    "WriteProvisionedThroughputExceeded": (
        "write_throughput_exceeded",
        "Records that the shard's quota of writing refused.",
        lambda counts: counts.writes_throttled,
    ),
    "ReadProvisionedThroughputExceeded": (
        "read_throughput_exceeded",
        "Calls of GetRecords that the shard's quota of reading refused.",
        lambda counts: counts.reads_throttled,
    ),
}
"""The series of a shard that a metric enables, behind ``streamstore_shard_``: its name, what it is, and its value."""


class Metrics:
    """Counts what one process of a server does with one store. Requests are counted in one thread; any may render.

    ``board``, ``place``: where the processes of the server show each other what they have counted, and where this one
    does. It goes on from what stands there: the process that had the place before may have been killed. ``counts``: all
    that this one has counted; ``ShardTraffic`` counts there too.
    """

    def __init__(self, store: StreamStore, actions: Collection[str], board: CountsBoard, place: int) -> None:
        self._actions = frozenset(actions)
        self._board = board
        self._place = place
        self._showing = threading.Lock()
        self.counts: Final = board.shown(place)
        self._known = {
            (action, code): counted
            for action, by_code in self.counts.requests.items()
            for code, counted in by_code.items()
        }
        self._registry = CollectorRegistry()
        self._registry.register(_CountsCollector(self._all_counts))
        self._registry.register(_StoreCollector(store, self._all_counts))
        store.observe_commits(self._count_commit)

    def count_request(self, action: str, code: str | None, *, seconds: float, request_bytes: int) -> None:
        """Count a request that was answered; ``code`` is the name of the error, None if it was a success."""
        counted = self._known.get((action, code or OK)) or self._count_anew(action, code or OK)
        counted.body_bytes += request_bytes
        counted.times.note(seconds)

    def show(self) -> None:
        """Show the other processes what was counted by now. For any thread."""
        with self._showing:
            self._board.show(self._place, self.counts)

    def render(self) -> bytes:
        """Return all metrics. Reads the store, so not for an event loop; raises what reading raises."""
        return generate_latest(self._registry)

    def _count_anew(self, action: str, code: str) -> RequestCounts:
        shown = action if action in self._actions else OTHER  # no client may fill the memory with names of its own
        counted = self.counts.of_request(shown, code)
        if shown == action:
            self._known[action, code] = counted
        return counted

    def _count_commit(self, report: CommitReport) -> None:
        counts = self.counts
        counts.records += report.records
        counts.payload_bytes += report.payload_bytes
        counts.records_throttled += report.records_throttled
        counts.commit_requests += report.requests
        counts.commits.note(report.seconds)

    def _all_counts(self) -> Counts:
        """Return what all processes have counted: this one by now, the others by when they have shown it."""
        with self._showing:
            self._board.show(self._place, self.counts)
            counts = self._board.shown(self._place)  # a copy, which no other thread counts on in
        for others in self._board.shown_elsewhere(self._place):
            counts.include(others)
        return counts


class _CountsCollector(Collector):
    """Shows what was counted."""

    def __init__(self, counts: Callable[[], Counts]) -> None:
        self._counts = counts

    def describe(self) -> list[Metric]:
        return []  # asked when this is registered

    def collect(self) -> Iterator[Metric]:
        counts = self._counts()
        yield from _of_requests(counts)
        yield _counter("streamstore_records_put", "Records stored.", counts.records)
        yield _counter("streamstore_put_bytes", "Data and partition keys of the puts committed.", counts.payload_bytes)
        yield _counter(
            "streamstore_records_throttled", "Records refused for the quota of a shard.", counts.records_throttled
        )
        yield _counter("streamstore_commit_requests", "Requests that shared the commits.", counts.commit_requests)
        commits = HistogramMetricFamily(
            "streamstore_commit_seconds", "Time of a commit, from its first change until it is durable."
        )
        commits.add_metric((), _buckets(counts.commits), counts.commits.seconds)
        yield commits


def _of_requests(counts: Counts) -> Iterator[Metric]:
    requests = CounterMetricFamily("streamstore_requests", "Requests answered.", labels=("action", "code"))
    seconds = HistogramMetricFamily(
        "streamstore_request_seconds", "Time from a whole request to its answer.", labels=("action",)
    )
    body_bytes = 0
    for action, by_code in counts.requests.items():
        times = Times()
        for code, counted in by_code.items():
            requests.add_metric((action, code), counted.times.count)
            body_bytes += counted.body_bytes
            times.include(counted.times)
        seconds.add_metric((action,), _buckets(times), times.seconds)
    yield requests
    yield _counter("streamstore_request_bytes", "Bytes of the bodies of requests.", body_bytes)
    yield seconds


def _buckets(times: Times) -> list[tuple[str, float]]:
    return list(zip(BUCKET_NAMES, accumulate(times.in_bucket), strict=True))


def _counter(name: str, what: str, value: float) -> Metric:
    return CounterMetricFamily(name, what, value=value)


class _StoreCollector(Collector):
    """Looks at the store when somebody asks."""

    def __init__(self, store: StreamStore, counts: Callable[[], Counts]) -> None:
        self._store = store
        self._counts = counts

    def describe(self) -> list[Metric]:
        return []  # asked when this is registered, where there is nothing to look at yet

    def collect(self) -> Iterator[Metric]:
        info = self._store.storage_info()
        yield _gauge("streamstore_file_bytes", "Size of the data file.", info.file_bytes)
        yield _gauge("streamstore_map_bytes", "Address space that the data file may grow into.", info.map_bytes)
        yield _gauge("streamstore_reader_slots_used", "Most readers at the same time.", info.reader_slots_used)
        streams = list(self._streams())
        yield _gauge("streamstore_streams", "Streams in the store.", len(streams))
        yield from self._lags(streams)
        yield from self._shards(streams)

    def _lags(self, streams: Collection[str]) -> Iterator[Metric]:
        labels = ("stream", "consumer")
        records = GaugeMetricFamily(
            "streamstore_consumer_lag_records", "Records behind the last checkpoint.", labels=labels
        )
        seconds = GaugeMetricFamily(
            "streamstore_consumer_lag_seconds", "Time from the next record to the newest one.", labels=labels
        )
        for stream in streams:
            try:
                lags = self._store.describe_consumer_lags(stream)
            except ResourceNotFoundException:  # deleted meanwhile
                continue
            for consumer, lag in lags.items():
                records.add_metric((stream, consumer), lag.record_count)
                seconds.add_metric((stream, consumer), lag.millis_behind_latest / 1_000)
        yield records
        yield seconds

    def _shards(self, streams: Collection[str]) -> Iterator[Metric]:
        """Yield what was counted of each shard, of the streams that have such metrics enabled; 0 if it was nothing."""
        labels = ("stream", "shard")
        counters = {
            metric: CounterMetricFamily(f"streamstore_shard_{name}", what, labels=labels)
            for metric, (name, what, _) in SHARD_COUNTERS.items()
        }
        ages = GaugeMetricFamily(
            "streamstore_shard_iterator_age_seconds",
            "Age of the last record of the newest GetRecords; 0 when there was none any more.",
            labels=labels,
        )
        shown = list(self._shown_shards(streams))
        counted = self._counts().shards if shown else {}
        for stream, shard_id, metrics in shown:
            counts = counted.get(f"{stream}/{shard_id}", NOTHING_COUNTED)
            for metric, (_, _, value_of) in SHARD_COUNTERS.items():
                if metric in metrics or "ALL" in metrics:
                    counters[metric].add_metric((stream, shard_id), value_of(counts))
            if counts.read_ms is not None and ("IteratorAgeMilliseconds" in metrics or "ALL" in metrics):
                ages.add_metric((stream, shard_id), counts.iterator_age_ms / 1_000)
        yield from counters.values()
        yield ages

    def _shown_shards(self, streams: Collection[str]) -> Iterator[tuple[str, str, Collection[ShardLevelMetric]]]:
        """Yield the shards that have metrics enabled, by the names of their stream and themselves, and these."""
        for stream in streams:
            with contextlib.suppress(ResourceNotFoundException):  # deleted meanwhile
                metrics = self._store.describe_stream_summary(stream).enhanced_monitoring
                if metrics:
                    for shard in self._store.list_shards(stream).shards:
                        yield stream, shard.shard_id, metrics

    def _streams(self) -> Iterator[str]:
        page = self._store.list_streams(limit=STREAMS_PER_PAGE)
        yield from page.stream_names
        while page.next_token is not None:
            page = self._store.list_streams(limit=STREAMS_PER_PAGE, next_token=page.next_token)
            yield from page.stream_names


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(name, what, value=value)
