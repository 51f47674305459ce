"""What a server counts, in the text format of Prometheus.

Requests are counted as they are answered, in a few plain numbers, because that is on the way of each put; commits as
the store makes them. What the store knows anyway (its file, its streams, the lag of its consumers) is looked up when
somebody asks.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from streamstore import CommitReport, ResourceNotFoundException, StreamStore

__all__ = ["METRICS_CONTENT_TYPE", "Metrics"]

METRICS_CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OK: Final = "OK"
OTHER: Final = "other"  # no client may add a name of its own
# From a fast device to one in trouble.
SECONDS_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
BUCKET_NAMES: Final = [*(str(float(bound)) for bound in SECONDS_BUCKETS), "+Inf"]
STREAMS_PER_PAGE: Final = 1_000


class _Requests:
    """The requests of one action that were answered with one code."""

    __slots__ = ("body_bytes", "count", "in_bucket", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.body_bytes = 0
        self.seconds = 0.0
        self.in_bucket = [0] * (len(SECONDS_BUCKETS) + 1)
        """How many took so long: up to each bound, and longer than the last."""


class Metrics:
    """Counts what one server does with one store. Its requests are counted in one thread; any may render."""

    def __init__(self, store: StreamStore, actions: Collection[str]) -> None:
        self._registry = CollectorRegistry()
        self._actions = frozenset(actions)
        self._counted: dict[tuple[str, str], _Requests] = {}
        self._registry.register(_RequestCollector(self._counted))
        self._records = self._counter("streamstore_records_put", "Records stored.")
        self._payload_bytes = self._counter("streamstore_put_bytes", "Data and partition keys of the puts committed.")
        self._throttled = self._counter("streamstore_records_throttled", "Records refused for the quota of a shard.")
        self._commit_requests = self._counter("streamstore_commit_requests", "Requests that shared the commits.")
        self._commit_seconds = Histogram(
            "streamstore_commit_seconds",
            "Time of a commit, from its first change until it is durable.",
            buckets=SECONDS_BUCKETS,
            registry=self._registry,
        )
        self._registry.register(_StoreCollector(store))
        store.observe_commits(self._count_commit)

    def count_request(self, action: str, code: str | None, *, seconds: float, request_bytes: int) -> None:
        """Count a request that was answered; ``code`` is the name of the error, None if it was a success."""
        counted = self._counted.get((action, code or OK)) or self._count_anew(action, code or OK)
        counted.count += 1
        counted.body_bytes += request_bytes
        counted.seconds += seconds
        counted.in_bucket[bisect_left(SECONDS_BUCKETS, seconds)] += 1

    def render(self) -> bytes:
        """Return all metrics. Reads the store, so not for an event loop; raises what reading raises."""
        return generate_latest(self._registry)

    def _count_anew(self, action: str, code: str) -> _Requests:
        shown = action if action in self._actions else OTHER  # no client may fill the memory with names of its own
        return self._counted.setdefault((shown, code), _Requests())

    def _count_commit(self, report: CommitReport) -> None:
        self._records.inc(report.records)
        self._payload_bytes.inc(report.payload_bytes)
        self._throttled.inc(report.records_throttled)
        self._commit_requests.inc(report.requests)
        self._commit_seconds.observe(report.seconds)

    def _counter(self, name: str, what: str) -> Counter:
        return Counter(name, what, registry=self._registry)


class _RequestCollector(Collector):
    """Shows the requests that were counted."""

    def __init__(self, counted: Mapping[tuple[str, str], _Requests]) -> None:
        self._counted = counted

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("streamstore_requests", "Requests answered.", labels=("action", "code"))
        of_actions: dict[str, list[_Requests]] = {}
        for (action, code), counted in list(self._counted.items()):
            requests.add_metric((action, code), counted.count)
            of_actions.setdefault(action, []).append(counted)
        yield requests
        yield CounterMetricFamily(
            "streamstore_request_bytes",
            "Bytes of the bodies of requests.",
            value=sum(counted.body_bytes for group in of_actions.values() for counted in group),
        )
        seconds = HistogramMetricFamily(
            "streamstore_request_seconds", "Time from a whole request to its answer.", labels=("action",)
        )
        for action, group in of_actions.items():
            in_bucket = [sum(numbers) for numbers in zip(*(counted.in_bucket for counted in group), strict=True)]
            buckets = list(zip(BUCKET_NAMES, accumulate(in_bucket), strict=True))
            seconds.add_metric((action,), buckets, sum(counted.seconds for counted in group))
        yield seconds


class _StoreCollector(Collector):
    """Looks at the store when somebody asks."""

    def __init__(self, store: StreamStore) -> None:
        self._store = store

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

    def _streams(self) -> Iterator[str]:
        page = self._store.list_streams(limit=STREAMS_PER_PAGE)
        yield from page.stream_names
        while page.next_token is not None:
            page = self._store.list_streams(limit=STREAMS_PER_PAGE, next_token=page.next_token)
            yield from page.stream_names


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(name, what, value=value)
