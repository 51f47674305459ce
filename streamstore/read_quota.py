"""The quota of reading a shard: five calls and 2 MB in a second. Pure but for its memory; the time is passed in.

A call is let through when fewer than five were in the last second and nothing is owed; what it returns is then owed,
and paid off at 2 MB/s. Source: GetRecords of the service, where a call that returned 10 MB makes those of the next five
seconds fail. Reading writes nothing, so this is kept in memory, and each open store counts for itself.
"""

import threading
from typing import Final, NamedTuple

from streamstore.limits import (
    READ_QUOTA_BYTES_PER_SEC,
    READ_QUOTA_CALLS_PER_SEC,
    READ_QUOTA_DEBT_NS_MAX,
    SHARDS_PER_STORE_MAX,
)
from streamstore.model import StreamNumber
from streamstore.sections import allocated

__all__ = ["ReadQuotas"]

NS_PER_SECOND: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000

ShardAddress = tuple[StreamNumber, int]


class _Taken(NamedTuple):
    """When the calls of a shard within a second were let through, and when what they returned is paid off."""

    calls_ns: tuple[int, ...] = ()
    paid_at_ns: int = 0

    def wait_ns(self, now_ns: int) -> int:
        """Return how long a call has to wait, at most six seconds; 0 if it may pass."""
        recent_ns = self._recent_ns(now_ns)
        call_wait_ns = min(recent_ns) + NS_PER_SECOND - now_ns if len(recent_ns) >= READ_QUOTA_CALLS_PER_SEC else 0
        owed_ns = self.paid_at_ns - now_ns if _may_be_ahead(self.paid_at_ns, now_ns) else 0
        return max(0, call_wait_ns, owed_ns)

    def with_call(self, returned_bytes: int, now_ns: int) -> "_Taken":
        cost_ns = -(-returned_bytes * NS_PER_SECOND // READ_QUOTA_BYTES_PER_SEC)  # up: nothing may be owed any more
        return _Taken((*self._recent_ns(now_ns), now_ns), now_ns + cost_ns)

    def _recent_ns(self, now_ns: int) -> list[int]:
        return [
            call_ns for call_ns in self.calls_ns if call_ns > now_ns - NS_PER_SECOND and _may_be_ahead(call_ns, now_ns)
        ]


class ReadQuotas:
    """What was read of the shards that were read last. Safe to share between threads.

    Knows as many shards as a store holds; beyond that, the one that was read longest ago is forgotten.
    """

    def __init__(self) -> None:
        self._lock = allocated(threading.Lock)
        self._taken: dict[ShardAddress, _Taken] = {}

    def wait_ms(self, shard: ShardAddress, *, now_ms: int) -> int:
        """Return how long a call has to wait, rounded up; 0 if it would be let through now."""
        with self._lock:
            return _wait_ms(self._taken.get(shard, _Taken()), now_ms)

    def take(self, shard: ShardAddress, *, returned_bytes: int, now_ms: int) -> int:
        """Let a call through and return 0, or change nothing and return how many milliseconds it has to wait."""
        with self._lock:
            taken = self._taken.get(shard, _Taken())
            wait_ms = _wait_ms(taken, now_ms)
            if wait_ms == 0:
                self._taken.pop(shard, None)
                self._taken[shard] = taken.with_call(returned_bytes, now_ms * NS_PER_MS)
                if len(self._taken) > SHARDS_PER_STORE_MAX:
                    del self._taken[next(iter(self._taken))]
            return wait_ms


def _wait_ms(taken: _Taken, now_ms: int) -> int:
    return -(-taken.wait_ns(now_ms * NS_PER_MS) // NS_PER_MS)


def _may_be_ahead(time_ns: int, now_ns: int) -> bool:
    """Tell whether a time is no further ahead than a call leaves it. Otherwise the clock was set back since."""
    return time_ns <= now_ns + READ_QUOTA_DEBT_NS_MAX
