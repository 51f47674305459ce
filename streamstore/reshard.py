"""Resharding inside a transaction: split, merge, resize, and take away what has expired.

A resharding is planned in memory on a copy of the stream's shards, so every refusal comes before the first change, and
saved in one go. Parents are closed, never changed otherwise; children are numbered behind them.
"""

from dataclasses import replace
from typing import Final

from streamstore.dialect import Dialect
from streamstore.errors import InvalidArgumentException, LimitExceededException
from streamstore.model import HashKeyRange, ShardCounter, StoredShard, StoredStream
from streamstore.routing import slice_hash_keys
from streamstore.streams import add_to_shard_count, drop_shard, load_counter, save_counter, save_stream
from streamstore.transaction import WriteTransaction

__all__ = ["drop_expired_shards", "merge_shards", "resize_stream", "split_shard"]

MS_PER_DAY: Final = 86_400_000


class _Plan:
    """The shards of a stream as they will be, and the counters of the new ones."""

    def __init__(self, transaction: WriteTransaction, stream: StoredStream, now_ms: int) -> None:
        self.shards = dict(stream.shards)
        self._transaction = transaction
        self._stream = stream
        self._now_ms = now_ms
        self._next_shard_index = stream.next_shard_index
        self._counters: dict[int, ShardCounter] = {}

    def open_indexes(self) -> list[int]:
        """Return the indexes of the open shards, in the order of their hash keys."""
        return sorted(
            (index for index, shard in self.shards.items() if shard.next_sequence_at_close is None),
            key=lambda index: self.shards[index].hash_key_range.starting_hash_key,
        )

    def range_of(self, shard_index: int) -> HashKeyRange:
        return self.shards[shard_index].hash_key_range

    def split(self, shard_index: int, new_starting_hash_key: int) -> tuple[int, int]:
        parent = self.range_of(shard_index)
        low = HashKeyRange(parent.starting_hash_key, new_starting_hash_key - 1)
        high = HashKeyRange(new_starting_hash_key, parent.ending_hash_key)
        self._close(shard_index)
        return self._open(low, (shard_index,)), self._open(high, (shard_index,))

    def merge(self, shard_index: int, adjacent_shard_index: int) -> int:
        first, second = self.range_of(shard_index), self.range_of(adjacent_shard_index)
        union = HashKeyRange(
            min(first.starting_hash_key, second.starting_hash_key), max(first.ending_hash_key, second.ending_hash_key)
        )
        self._close(shard_index)
        self._close(adjacent_shard_index)
        return self._open(union, (shard_index, adjacent_shard_index))

    def save(self, *, resized_ms: tuple[int, ...], shard_limit: int) -> None:
        """Refuse more shards than a store holds or may have open, or make the change."""
        open_count = len(self.open_indexes()) - self._stream.open_shard_count
        add_to_shard_count(self._transaction, len(self._counters), open_count=open_count, shard_limit=shard_limit)
        stream = replace(
            self._stream, shards=self.shards, next_shard_index=self._next_shard_index, resized_ms=resized_ms
        )
        for shard_index, counter in self._counters.items():
            save_counter(self._transaction, stream.number, shard_index, counter)
        drop_expired_shards(self._transaction, stream, now_ms=self._now_ms)

    def _close(self, shard_index: int) -> None:
        shard = self.shards[shard_index]
        counter = self._counter(shard_index)
        self.shards[shard_index] = replace(
            shard,
            next_sequence_at_close=counter.next_sequence,
            # Not before the parents were closed, nor before the last arrival, wherever the clock is now.
            closed_ms=max(self._now_ms, shard.created_ms, counter.last_arrival_ms),
        )

    def _open(self, hash_key_range: HashKeyRange, parent_indexes: tuple[int, ...]) -> int:
        parents = [self.shards[index] for index in parent_indexes]
        first_sequence = 1 + max(parent.ending_sequence or 0 for parent in parents)
        created_ms = max(parent.closed_ms or 0 for parent in parents)
        last_arrival_ms = max(self._counter(index).last_arrival_ms for index in parent_indexes)
        shard_index = self._next_shard_index
        self._next_shard_index += 1
        self.shards[shard_index] = StoredShard(
            hash_key_range, parent_indexes, first_sequence=first_sequence, created_ms=created_ms
        )
        self._counters[shard_index] = ShardCounter(first_sequence, first_sequence, last_arrival_ms)
        return shard_index

    def _counter(self, shard_index: int) -> ShardCounter:
        new = self._counters.get(shard_index)
        return load_counter(self._transaction, self._stream.number, shard_index) if new is None else new


def split_shard(
    transaction: WriteTransaction,
    stream: StoredStream,
    shard_index: int,
    new_starting_hash_key: int,
    *,
    dialect: Dialect,
    now_ms: int,
    shard_limit: int,
) -> None:
    """Close a shard and open two, the second from ``new_starting_hash_key`` on."""
    _refuse_on_demand(stream)
    _refuse_closed(stream, shard_index, "shard_to_split", dialect)
    keys = stream.shards[shard_index].hash_key_range
    first = keys.starting_hash_key + dialect.split_margin_hash_keys + 1
    last = keys.ending_hash_key - dialect.split_margin_hash_keys
    if not first <= new_starting_hash_key <= last:
        raise InvalidArgumentException(
            argument="new_starting_hash_key",
            value=str(new_starting_hash_key),
            constraint=(
                f"be from {first} to {last}, so that both parts of {dialect.shard_id(shard_index)}, which has "
                f"{keys.starting_hash_key} to {keys.ending_hash_key}, have hash keys enough"
            ),
        )
    plan = _Plan(transaction, stream, now_ms)
    plan.split(shard_index, new_starting_hash_key)
    plan.save(resized_ms=stream.resized_ms, shard_limit=shard_limit)


def merge_shards(
    transaction: WriteTransaction,
    stream: StoredStream,
    shard_index: int,
    adjacent_shard_index: int,
    *,
    dialect: Dialect,
    now_ms: int,
    shard_limit: int,
) -> None:
    """Close two shards whose hash keys touch, and open one that has them all."""
    _refuse_on_demand(stream)
    _refuse_closed(stream, shard_index, "shard_to_merge", dialect)
    _refuse_closed(stream, adjacent_shard_index, "adjacent_shard_to_merge", dialect)
    keys, adjacent_keys = (stream.shards[index].hash_key_range for index in (shard_index, adjacent_shard_index))
    if keys.ending_hash_key + 1 != adjacent_keys.starting_hash_key:
        raise InvalidArgumentException(
            argument="adjacent_shard_to_merge",
            value=dialect.shard_id(adjacent_shard_index),
            constraint=(
                f"be the shard whose hash keys start where those of {dialect.shard_id(shard_index)} end, at "
                f"{keys.ending_hash_key + 1}"
            ),
        )
    plan = _Plan(transaction, stream, now_ms)
    plan.merge(shard_index, adjacent_shard_index)
    plan.save(resized_ms=stream.resized_ms, shard_limit=shard_limit)


def resize_stream(
    transaction: WriteTransaction,
    stream: StoredStream,
    target_shard_count: int,
    *,
    argument: str,
    dialect: Dialect,
    now_ms: int,
    shard_limit: int,
) -> int:
    """Reshape the stream into equal open shards, by splits and merges, and return how many it had.

    ``argument`` is what the caller calls the target.

    A shard that has its range already stays as it is. Every other is split where the new ranges begin, and the pieces
    of each new range are merged; the pieces stay behind as empty closed shards, so each child knows its parents.
    """
    _refuse_on_demand(stream)
    plan = _Plan(transaction, stream, now_ms)
    current_shard_count = len(plan.open_indexes())
    resized_ms = tuple(time_ms for time_ms in stream.resized_ms if now_ms - MS_PER_DAY < time_ms <= now_ms)
    _refuse_resize(argument, current_shard_count, target_shard_count, len(resized_ms), dialect)
    targets = slice_hash_keys(target_shard_count, dialect)
    for shard_index in plan.open_indexes():
        _split_at_all(plan, shard_index, [target.starting_hash_key for target in targets])
    for target in targets:
        pieces = [index for index in plan.open_indexes() if plan.range_of(index).starting_hash_key in target]
        _merge_all(plan, pieces)
    kept = dialect.resizes_per_day_max or 0  # where there is no bound, nobody asks when it was
    plan.save(resized_ms=(*resized_ms, now_ms)[-kept:] if kept else (), shard_limit=shard_limit)
    return current_shard_count


def drop_expired_shards(transaction: WriteTransaction, stream: StoredStream, *, now_ms: int) -> int:
    """Save the stream without its expired shards, and return how many. Only on the writer thread."""
    expired = stream.expired_indexes(now_ms)
    for shard_index in expired:
        drop_shard(transaction, stream.number, shard_index)
    shards = {index: shard for index, shard in stream.shards.items() if index not in expired}
    save_stream(transaction, replace(stream, shards=shards))
    return len(expired)


def _split_at_all(plan: _Plan, shard_index: int, starts: list[int]) -> None:
    """Split the shard at those starts that lie inside it, the middle one first, so that no piece has many ancestors."""
    keys = plan.range_of(shard_index)
    inside = [start for start in starts if keys.starting_hash_key < start <= keys.ending_hash_key]
    if inside:
        for half in plan.split(shard_index, inside[len(inside) // 2]):
            _split_at_all(plan, half, inside)


def _merge_all(plan: _Plan, pieces: list[int]) -> int:
    """Merge neighbours into one shard, halves first for the same reason."""
    if len(pieces) == 1:
        return pieces[0]
    middle = len(pieces) // 2
    return plan.merge(_merge_all(plan, pieces[:middle]), _merge_all(plan, pieces[middle:]))


def _refuse_closed(stream: StoredStream, shard_index: int, argument: str, dialect: Dialect) -> None:
    if stream.shards[shard_index].next_sequence_at_close is not None:
        raise InvalidArgumentException(
            argument=argument,
            value=dialect.shard_id(shard_index),
            constraint=f"be an open shard of {stream.name}, one that has not been split or merged",
        )


def _refuse_on_demand(stream: StoredStream) -> None:
    if stream.mode == "ON_DEMAND":
        raise InvalidArgumentException(
            argument="stream_name",
            value=stream.name,
            constraint="name a stream in PROVISIONED mode to change its shards; this one is ON_DEMAND",
        )


def _refuse_resize(argument: str, current: int, target: int, resized_today: int, dialect: Dialect) -> None:
    if dialect.resizes_per_day_max is not None and resized_today >= dialect.resizes_per_day_max:
        raise LimitExceededException(
            limit=f"{dialect.resizes_per_day_max} updates of the shard count a day", remedy="split or merge shards"
        )
    factor = dialect.resize_factor_max
    if factor is not None and not current <= target * factor <= current * factor * factor:
        raise InvalidArgumentException(
            argument=argument,
            value=target,
            constraint=(
                f"lie between {-(-current // factor)} and {current * factor}, because the stream has {current} open "
                "shards: go in several steps"
            ),
        )
