"""Retention inside a transaction: delete expired records, a bounded bite at a time.

Only records are deleted here, from the front of a shard, so that what remains is one run of numbers. Nothing reads them
any more when they go: reading has its own horizon, which is exact.
"""

from streamstore.disk_format import record_key
from streamstore.losses import delete_losses
from streamstore.model import ShardCounter
from streamstore.reading import ShardReader
from streamstore.streams import KnownShard
from streamstore.transaction import WriteTransaction

__all__ = ["trim_shard"]


def trim_shard(
    transaction: WriteTransaction,
    known: KnownShard,
    counter: ShardCounter,
    *,
    horizon_ms: int,
    records_max: int,
    damaged_max: int | None,
) -> ShardCounter:
    """Delete the oldest records, at most ``records_max``, that arrived before ``horizon_ms``.

    A damaged record counts as arriving with the next sound one. To find that, this passes over ``damaged_max`` of
    them at a time, and goes on the next time where it was. Returns the counter that the shard has then; saving it is
    the caller's.
    """
    first, stop = counter.first_sequence, counter.next_sequence
    reader = ShardReader(transaction, known.stream_number, known.shard_index, known.shard_id)
    if not first <= known.oldest_sequence <= stop:
        known.oldest_sequence, known.oldest_arrival_ms = first, None
    # What is remembered of a record may be of one whose commit failed: good for saying no, and proved before a yes.
    if first == stop or not known.may_have_expired(horizon_ms):
        return counter
    oldest, arrival_ms = reader.look_for_sound(known.oldest_sequence, stop, damaged_max=damaged_max)
    if oldest == stop:  # none is sound: all have arrived by then
        arrival_ms = counter.last_arrival_ms
    known.oldest_sequence, known.oldest_arrival_ms = oldest, arrival_ms
    if arrival_ms is None or arrival_ms >= horizon_ms:
        return counter
    bite_stop = min(reader.first_stored(first, stop) + records_max, stop)
    first_kept = bite_stop if oldest >= bite_stop else reader.first_not_before(horizon_ms, oldest, bite_stop)
    transaction.delete_before(known.database, record_key(first_kept))
    delete_losses(transaction, known.stream_number, known.shard_index, before=first_kept)
    return counter._replace(first_sequence=first_kept)
