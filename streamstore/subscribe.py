"""SubscribeToShard: the events of one shard, as its records are stored, and who is subscribed."""

import threading
import weakref
from collections.abc import Callable
from typing import NamedTuple

from streamstore.errors import ResourceInUseException
from streamstore.feed import FeedSource, Patience, Step
from streamstore.iterator import ShardPosition
from streamstore.limits import SUBSCRIPTION_ALIVE_MS, SUBSCRIPTION_HEARTBEAT_MS, SUBSCRIPTION_TAKEOVER_MS
from streamstore.model import ChildShard, SubscribeToShardEvent
from streamstore.reading import Page
from streamstore.sections import allocated
from streamstore.watch import CommitWatch

__all__ = ["ShardLook", "SubscriptionSource", "Subscriptions"]


class ShardLook(NamedTuple):
    """What one look at a shard has found. ``child_shards`` is None but at the end of a closed shard."""

    commit_number: int
    page: Page
    position: ShardPosition
    child_shards: tuple[ChildShard, ...] | None


class SubscriptionSource(FeedSource[SubscribeToShardEvent]):
    """Reads a shard to its end, for as long as a subscription lives. It speaks now and then, if only to say nothing."""

    def __init__(
        self,
        watch: CommitWatch,
        position: ShardPosition,
        look: Callable[[ShardPosition], ShardLook],
        clock: Callable[[], int],
    ) -> None:
        super().__init__(watch)
        self._position = position
        self._look = look
        self._event: SubscribeToShardEvent | None = None
        self._lifetime = Patience(SUBSCRIPTION_ALIVE_MS, clock)
        self._silence = Patience(SUBSCRIPTION_HEARTBEAT_MS, clock)
        self._lifetime.left_s()  # it begins now

    def take(self) -> SubscribeToShardEvent | None:
        if self._lifetime.left_s() == 0:
            self.has_ended = True
            return None
        event, self._event = self._event, None
        if event is not None:
            self._silence.restart()
            self.has_ended = event.continuation_sequence_number is None
        return event

    def look(self) -> Step:
        found = self._look(self._position)
        return lambda: self._take_over(found)

    def patience_s(self) -> float | None:
        return min(self._lifetime.left_s() or 0, self._silence.left_s() or 0)

    def lose_patience(self) -> None:
        self._event = SubscribeToShardEvent([], _continuation(self._position), 0)

    def _take_over(self, found: ShardLook) -> int | None:
        if found.child_shards is not None:
            self._event = SubscribeToShardEvent(found.page.records, None, 0, found.child_shards)
        elif found.page.records:
            self._event = SubscribeToShardEvent(
                found.page.records, _continuation(found.position), found.page.millis_behind_latest
            )
        self._position = found.position
        return found.commit_number if self._event is None else None


class _Subscribed(NamedTuple):
    time_ms: int
    source: "weakref.ref[SubscriptionSource]"


class Subscriptions:
    """Who is subscribed to which shard. A subscription that nobody holds on to is none."""

    def __init__(self) -> None:
        self._lock = allocated(threading.RLock)  # never held while anything is waited for
        self._newest: dict[tuple[str, str], _Subscribed] = {}

    def claim(self, consumer_arn: str, shard_id: str, source: SubscriptionSource, *, now_ms: int) -> None:
        """Let the subscription take the place of the one before it, which ends; refuse it if that is too new."""
        with self._lock:
            for key, subscribed in list(self._newest.items()):
                if subscribed.source() is None and not _is_new(subscribed, now_ms):
                    del self._newest[key]
            before = self._newest.get((consumer_arn, shard_id))
            if before is not None and _is_new(before, now_ms):
                raise ResourceInUseException(
                    resource=f"Shard {shard_id}",
                    problem=f"was subscribed to by {consumer_arn} {now_ms - before.time_ms} ms ago",
                    remedy=f"try again {SUBSCRIPTION_TAKEOVER_MS} ms behind that, then this takes over",
                )
            self._newest[consumer_arn, shard_id] = _Subscribed(now_ms, weakref.ref(source))
        taken_over = None if before is None else before.source()
        if taken_over is not None:
            taken_over.end()


def _is_new(subscribed: _Subscribed, now_ms: int) -> bool:
    return 0 <= now_ms - subscribed.time_ms < SUBSCRIPTION_TAKEOVER_MS


def _continuation(position: ShardPosition) -> str:
    return str(max(position.sequence - 1, 0))
