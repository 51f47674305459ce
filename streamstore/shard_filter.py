"""What a shard filter means: a span of time, and a listing shows the shards that were open in it.

Pure; the time is passed in. Source: ShardFilter of the Kinesis model.
"""

from streamstore.model import TIME_MS_MAX, ShardFilterType, StoredStream, TimeSpan

__all__ = ["span_of_filter"]


def span_of_filter(kind: ShardFilterType, time_ms: int, *, stream: StoredStream, now_ms: int) -> TimeSpan:
    """Return when a shard must have been open to be shown. ``time_ms`` is the time of the filter, if it has one."""
    horizon_ms = stream.trim_horizon_ms(now_ms)
    spans: dict[ShardFilterType, TimeSpan] = {
        "AFTER_SHARD_ID": TimeSpan(),
        "AT_TRIM_HORIZON": TimeSpan(horizon_ms, horizon_ms),
        "FROM_TRIM_HORIZON": TimeSpan(),
        "AT_LATEST": TimeSpan(first_ms=TIME_MS_MAX),  # later than any closing, so on every page the shards open then
        "AT_TIMESTAMP": TimeSpan(time_ms, time_ms),
        "FROM_TIMESTAMP": TimeSpan(first_ms=time_ms),
    }
    return spans[kind]
