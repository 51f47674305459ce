"""Known losses inside a transaction: the runs of numbers in a shard whose records could not be salvaged.

A store that was never salvaged has none. In one that was, they are what tells a record that is known to be lost from
one that is missing, and lets a reader pass over all of a run at once.
"""

from collections.abc import Iterator

from streamstore.databases import LOSSES_DATABASE, DamagedValueError
from streamstore.disk_format import decode_loss, encode_loss, loss_key
from streamstore.model import StreamNumber
from streamstore.transaction import ReadTransaction, WriteTransaction

__all__ = ["delete_losses", "loss_at", "save_loss"]


def loss_at(transaction: ReadTransaction, stream_number: StreamNumber, shard_index: int, sequence: int) -> range | None:
    """Return the run of lost numbers that ``sequence`` is in. A damaged entry is none."""
    for _, lost in _losses(transaction, stream_number, shard_index):
        if lost.start > sequence:
            break
        if sequence in lost:
            return lost
    return None


def save_loss(transaction: WriteTransaction, stream_number: StreamNumber, shard_index: int, lost: range) -> None:
    key = loss_key(stream_number, shard_index, lost.start)
    transaction.put(LOSSES_DATABASE, key, encode_loss(key, lost.stop))


def delete_losses(
    transaction: WriteTransaction, stream_number: StreamNumber, shard_index: int, *, before: int | None = None
) -> None:
    """Forget the losses of a shard, all or those whose numbers are all below ``before``."""
    losses = list(_losses(transaction, stream_number, shard_index))
    for key, lost in losses:
        if before is None or lost.stop <= before:
            transaction.delete(LOSSES_DATABASE, key)


def _losses(
    transaction: ReadTransaction, stream_number: StreamNumber, shard_index: int
) -> Iterator[tuple[bytes, range]]:
    for key, value in transaction.items_from(LOSSES_DATABASE, loss_key(stream_number, shard_index, 0)):
        try:
            *address, lost = decode_loss(key, value)
        except DamagedValueError:
            continue
        if address != [stream_number, shard_index]:
            return
        yield key, lost
