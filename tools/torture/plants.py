"""Faults to plant in a program, each a defence taken away: a checker that stays green with one is no checker."""

import queue
from collections.abc import Callable
from typing import Final, TypeVar, cast
from unittest import mock

from streamstore import disk_format
from streamstore.disk_format import record_key
from streamstore.engine import WriteTransaction
from streamstore.errors import StreamStoreError
from streamstore.folder import FolderLock, StoreFolder
from streamstore.idempotency import StreamKeys
from streamstore.model import ShardCounter, StoredShard
from streamstore.retention import trim_shard
from streamstore.shards import ShardAppender
from streamstore.streams import KnownShard
from streamstore.writer import WaitingRequest, Writer

T = TypeVar("T")

NAMES: Final = (
    "acknowledge-before-commit",
    "no-sync-on-open",
    "no-sync-of-names",
    "no-crc",
    "keys-in-a-later-commit",
    "no-keys",
    "child-numbered-from-parent",
    "parent-not-closed",
    "trim-one-too-many",
)


def plant(name: str | None) -> None:
    """Put the fault into this process."""
    if name == "acknowledge-before-commit":
        mock.patch.object(Writer, "execute", _answer_when_applied).start()
        mock.patch.object(Writer, "execute_on_writer_thread", _answer_when_applied).start()
    elif name == "no-sync-on-open":
        mock.patch.object(FolderLock, "sync_data_file").start()
    elif name == "no-sync-of-names":
        mock.patch.object(StoreFolder, "sync_names").start()
    elif name == "no-crc":
        mock.patch.object(disk_format, "crc32", return_value=0).start()
    elif name == "keys-in-a-later-commit":
        mock.patch.object(StreamKeys, "_save_added", _save_those_of_the_commit_before()).start()
    elif name == "no-keys":
        mock.patch.object(StreamKeys, "_save_added").start()
    elif name == "child-numbered-from-parent":
        mock.patch.object(StoredShard, "ending_sequence", property(_ending_too_low)).start()
    elif name == "parent-not-closed":
        mock.patch("streamstore.reshard._Plan._close").start()
    elif name == "trim-one-too-many":
        mock.patch("streamstore.shards.trim_shard", _trim_one_too_many).start()
        mock.patch("streamstore.control.trim_shard", _trim_one_too_many).start()


def _save_those_of_the_commit_before() -> Callable[[StreamKeys], None]:
    save_added = cast(Callable[[StreamKeys], None], vars(StreamKeys)["_save_added"])
    late: dict[str, object] = {}

    def save_late(keys: StreamKeys) -> None:
        added = cast(dict[str, object], getattr(keys, "_added"))  # noqa: B009
        own = dict(added)
        added.clear()
        added.update(late)
        late.clear()
        late.update(own)
        if added:
            save_added(keys)

    return save_late


def _answer_when_applied(writer: Writer, apply: Callable[[ShardAppender], T], *, payload_bytes: int = 0) -> T:
    """Like ``Writer.execute``, but return when the request is in the transaction, which is committed later."""
    applied: queue.SimpleQueue[T | StreamStoreError] = queue.SimpleQueue()

    def apply_and_answer(appender: ShardAppender) -> None:
        try:
            applied.put(apply(appender))
        except StreamStoreError as error:
            applied.put(error)

    writer.submit(WaitingRequest(apply_and_answer, payload_bytes))
    answer = applied.get()
    if isinstance(answer, StreamStoreError):
        raise answer
    return answer


def _ending_too_low(shard: StoredShard) -> int | None:
    """Like ``StoredShard.ending_sequence``, but one too low: children take the last number of their parent."""
    if shard.next_sequence_at_close is None:
        return None
    return max(shard.next_sequence_at_close - 2, shard.first_sequence)


def _trim_one_too_many(
    transaction: WriteTransaction, known: KnownShard, counter: ShardCounter, *, horizon_ms: int, records_max: int
) -> ShardCounter:
    trimmed = trim_shard(transaction, known, counter, horizon_ms=horizon_ms, records_max=records_max)
    if not counter.first_sequence < trimmed.first_sequence < trimmed.next_sequence:
        return trimmed
    transaction.delete_before(known.database, record_key(trimmed.first_sequence + 1))
    return trimmed._replace(first_sequence=trimmed.first_sequence + 1)
