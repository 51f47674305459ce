"""Faults to plant in a program, each a defence taken away: a checker that stays green with one is no checker."""

import queue
import threading
from collections.abc import Callable
from typing import Final, TypeVar, cast
from unittest import mock

from streamstore import disk_format
from streamstore.errors import StreamStoreError
from streamstore.folder import FolderLock, StoreFolder
from streamstore.idempotency import StreamKeys
from streamstore.shards import ShardAppender
from streamstore.writer import Writer

T = TypeVar("T")

NAMES: Final = (
    "acknowledge-before-commit",
    "no-sync-on-open",
    "no-sync-of-names",
    "no-crc",
    "keys-in-a-later-commit",
    "no-keys",
)


def plant(name: str | None) -> None:
    """Put the fault into this process."""
    if name == "acknowledge-before-commit":
        mock.patch.object(Writer, "execute", _answer_when_applied).start()
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


def _answer_when_applied(writer: Writer, apply: Callable[[ShardAppender], T], *, payload_bytes: int) -> T:
    """Like ``Writer.execute``, but return when the request is in the transaction, which is committed later."""
    assert payload_bytes >= 0
    applied: queue.SimpleQueue[T | StreamStoreError] = queue.SimpleQueue()

    def apply_and_answer(appender: ShardAppender) -> None:
        try:
            applied.put(apply(appender))
        except StreamStoreError as error:
            applied.put(error)

    threading.Thread(target=writer.execute_on_writer_thread, args=(apply_and_answer,), daemon=True).start()
    answer = applied.get()
    if isinstance(answer, StreamStoreError):
        raise answer
    return answer
