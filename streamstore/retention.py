"""Retention inside a transaction: delete expired records, a bounded bite at a time.

Only records are deleted here, from the front of a shard, so that what remains is one run of numbers. Nothing reads them
any more when they go: reading has its own horizon, which is exact.
"""

from streamstore.disk_format import record_key
from streamstore.engine import WriteTransaction
from streamstore.model import ShardCounter
from streamstore.reading import ShardReader
from streamstore.streams import KnownShard

__all__ = ["trim_shard"]


def trim_shard(
    transaction: WriteTransaction, known: KnownShard, counter: ShardCounter, *, horizon_ms: int, records_max: int
) -> ShardCounter:
    """Delete the oldest records, at most ``records_max``, that arrived before ``horizon_ms``.

    Returns the counter that the shard has then; saving it is the caller's.
    """
    reader = ShardReader(transaction, known.stream_number, known.shard_index, known.shard_id)
    if known.oldest_sequence != counter.first_sequence or known.oldest_arrival_ms is None:
        known.oldest_sequence = counter.first_sequence
        known.oldest_arrival_ms = reader.arrival_of_oldest_ms(counter)
    # What is remembered of a record may be of one whose commit failed: good for saying no, and proved before a yes.
    if not known.may_have_expired(horizon_ms):
        return counter
    stop = min(counter.first_sequence + records_max, counter.next_sequence)
    first_kept = reader.first_not_before(horizon_ms, counter.first_sequence, stop)
    if first_kept == counter.first_sequence:
        return counter
    transaction.delete_before(known.database, record_key(first_kept))
    return counter._replace(first_sequence=first_kept)
