"""An open store: its engine, its writer, and their end. The only reader of the clock.

What the operations share, and nothing of what they do: those are in ``control.py``, ``settings_control.py``,
``consumer_control.py`` and ``store.py``.
"""

import os
import time
import weakref
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Final, Self, TypeVar

from streamstore.backup import back_up
from streamstore.dialect import YANDEX, Dialect
from streamstore.engine import Engine
from streamstore.errors import InvalidArgumentException
from streamstore.limits import (
    ACCOUNT_ID_DEFAULT,
    MAP_BYTES_DEFAULT,
    MAP_BYTES_MAX,
    MAP_BYTES_MIN,
    SHARDS_PER_STORE_MAX,
)
from streamstore.model import CommitReport, DialectName, StorageInfo, StoredStream, SyncMode
from streamstore.read_quota import ReadQuotas
from streamstore.request import Change
from streamstore.sections import surely
from streamstore.shards import ShardAppender
from streamstore.streams import KnownStream, StreamCatalog, initial_databases, load_format
from streamstore.subscribe import Subscriptions
from streamstore.transaction import WriteTransaction
from streamstore.validate import parse_bool, parse_whole_number
from streamstore.validate_settings import parse_account_id, parse_dialect, parse_path, parse_region, parse_sync_mode
from streamstore.watch import CommitWatch
from streamstore.writer import CommitObserver, Writer

__all__ = ["OpenStore", "system_clock_ms"]

T = TypeVar("T")


def system_clock_ms() -> int:
    """Return milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


class OpenStore:
    """What ``StreamStore`` opens and closes. Its arguments are described there."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        create: bool = True,
        read_only: bool = False,
        sync: SyncMode = "full",
        map_size: int = MAP_BYTES_DEFAULT,
        clock: Callable[[], int] = system_clock_ms,
        allow_network_filesystem: bool = False,
        dialect: DialectName | None = None,
        account_id: str | None = None,
        region: str | None = None,
        shard_limit: int | None = None,
    ) -> None:
        self.path: Final = parse_path(path)
        self._clock = clock
        self._account_id = ACCOUNT_ID_DEFAULT if account_id is None else parse_account_id(account_id)
        wanted_region = None if region is None else parse_region(region)
        wanted = parse_dialect(dialect)
        self._shard_limit = parse_whole_number(
            "shard_limit",
            SHARDS_PER_STORE_MAX if shard_limit is None else shard_limit,
            first=1,
            last=SHARDS_PER_STORE_MAX,
        )
        self._catalog = StreamCatalog()
        self._read_quotas = ReadQuotas()
        undo = self._undo
        self._engine = Engine(
            self.path,
            initial=initial_databases(wanted or YANDEX) if create and not read_only else None,
            read_only=read_only,
            sync=parse_sync_mode(sync),
            map_bytes=parse_whole_number("map_size", map_size, first=MAP_BYTES_MIN, last=MAP_BYTES_MAX),
            allow_network_filesystem=allow_network_filesystem,
        )
        try:
            self._engine.open()
            self._dialect, self._secret = self._engine.read(load_format)
            _refuse_other_dialect(wanted, self._dialect)
            self._region = wanted_region or self._dialect.region_default
            self._writer = None if read_only else Writer(self._engine, _appender_factory(self._catalog, self._dialect))
            self._watch = CommitWatch(self._engine)
            self._subscriptions = Subscriptions()
            self._close = _closing(self._writer or self._engine, self._watch)
            self._finalizer = weakref.finalize(self, surely, self._close)  # when the last reference goes, or at exit
            if self._writer is not None:
                self._writer.start()
        except BaseException:
            surely(undo)
            raise

    def _undo(self) -> None:
        """Close what an opening that failed has opened so far. Who is shown its error holds on to this store."""
        close: Callable[[], None] = getattr(self, "_close", self._engine.close)
        close()

    def close(self) -> None:
        """Commit and answer every put that was accepted, then close. Further calls do nothing.

        Also happens when the program ends. In a forked child it leaves the parent's store alone. In a signal handler
        it ends a read under way on the same thread, and returns before a put under way on it. Raises
        ``StorageError`` if the last sync of a store with ``sync`` below "full" failed; it is closed all the same.
        """
        self._close()
        self._finalizer.detach()

    def backup(self, path: str | os.PathLike[str], *, compact: bool = False) -> None:
        """Copy the store to the new folder ``path``, while others read and write it. Open the copy to restore it.

        The copy holds every record that was acknowledged before the call, and is one moment of the store. It is on
        disk, and proved by ``check_store``, when the call returns. ``compact``: leave out the pages that nothing uses
        now. Meanwhile the store cannot use again the pages that it frees, so it may grow.

        Raises ``InvalidArgumentException`` (something is at ``path`` already), ``StoreFullError``,
        ``StoreFormatError`` (the store is damaged), ``StorageError``, ``StoreClosedError``, ``StoreForkedError``: then
        nothing is at ``path``, and the store is as it was.
        """
        target = parse_path(path)
        is_compact = parse_bool("compact", compact)
        self._engine.refuse_moved()
        back_up(self.path, target, compact=is_compact)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"StreamStore({os.fspath(self.path)!r})"

    @property
    def dialect(self) -> Dialect:
        """The dialect that the store was created with."""
        return self._dialect

    @property
    def account_id(self) -> str:
        """What ARNs show, where the dialect has any."""
        return self._account_id

    @property
    def region(self) -> str:
        """What ARNs show, where the dialect has any, and what signatures are made for."""
        return self._region

    @property
    def clock(self) -> Callable[[], int]:
        """What the store takes the time from: milliseconds since 1970."""
        return self._clock

    def observe_commits(self, tell: Callable[[CommitReport], None]) -> None:
        """Tell of each commit from now on; who told before is told no more. ``tell`` must not fail, wait or put.

        It is called on the thread that commits, when the answers are given. Raises ``InvalidArgumentException`` if the
        store is open for reading only.
        """
        self.writer().observe(CommitObserver(tell, time.perf_counter))

    def storage_info(self) -> StorageInfo:
        """Return how large the file is and how many readers have used it. Raises what any read raises."""
        return self._engine.storage_info()

    @property
    def monitored_streams(self) -> AbstractSet[str]:
        """The names of streams that have metrics of their shards enabled, as the last call that used each has found.

        No look at the store: it is for whoever has just put into a stream or read from it.
        """
        return self._catalog.monitored

    def stream_arn(self, stream_name: str) -> str:
        """Return the ARN of a stream. It ends in the name, behind a slash if anything is in front of it."""
        return self._dialect.stream_arn(stream_name, region=self._region, account_id=self._account_id)

    def _load(self, stream_name: str) -> KnownStream:
        return self._engine.read(lambda transaction: self._catalog.load(transaction, stream_name))

    def _change(self, change: Change[T]) -> T:
        """Return the result of a change to streams when it is durable. On the writer thread: it may close handles."""
        return self.writer().execute_on_writer_thread(change)

    def _change_stream(self, stream_name: str, change: Callable[[WriteTransaction, StoredStream], T]) -> T:
        """Change one stream, as the puts in front of this have left it."""

        def change_it(appender: ShardAppender) -> T:
            transaction = appender.flush()
            return change(transaction, self._catalog.load(transaction, stream_name).stored)

        return self._change(change_it)

    def writer(self) -> Writer:
        """Return who commits. Raises ``InvalidArgumentException`` if the store is open for reading only."""
        if self._writer is None:
            raise InvalidArgumentException(
                argument="read_only", value=True, constraint="be False to change the store: open it for writing"
            )
        return self._writer


def _refuse_other_dialect(wanted: Dialect | None, stored: Dialect) -> None:
    if wanted not in (None, stored):
        raise InvalidArgumentException(
            argument="dialect",
            value=wanted.name,
            constraint=f"be {stored.name}, which the store was created with and keeps, or None",
        )


def _closing(closer: Writer | Engine, watch: CommitWatch) -> Callable[[], None]:
    def close() -> None:
        try:
            closer.close()
        finally:
            watch.close()  # behind it, so that whoever wakes finds the store closed

    return close


def _appender_factory(catalog: StreamCatalog, dialect: Dialect) -> Callable[[WriteTransaction], ShardAppender]:
    # Not a method: the writer thread must not keep the store alive.
    return lambda transaction: ShardAppender(transaction, catalog, dialect)
