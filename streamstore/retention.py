"""Retention: delete expired records, a bounded bite at a time, inside a transaction each.

Only records are deleted here, from the front of a shard, so that what remains is one run of numbers. Nothing reads them
any more when they go: reading has its own horizon, which is exact.
"""

from collections.abc import Callable

from streamstore.disk_format import record_key
from streamstore.errors import StoreFullError
from streamstore.losses import delete_losses
from streamstore.model import ShardCounter
from streamstore.reading import ShardReader
from streamstore.streams import KnownShard
from streamstore.transaction import WriteTransaction

__all__ = ["in_bites", "trim_shard"]


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


def in_bites(bite: Callable[[int], int], bite_max: int) -> int:
    """Delete until nothing is left, up to ``bite_max`` at a time, and return how many that were.

    A deletion writes pages before it gives any back. On a full disk a small one has room in those that earlier commits
    gave back, and makes room for a larger one.
    """
    deleted = 0
    bite_size = bite_max
    while True:
        try:
            count = bite(bite_size)
        except StoreFullError:
            if bite_size == 1:
                raise
            bite_size //= 2
            continue
        if count == 0:
            return deleted
        deleted += count
        bite_size = min(2 * bite_size, bite_max)
