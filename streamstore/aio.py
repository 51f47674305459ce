"""AsyncStreamStore: the operations of ``StreamStore``, awaited, on the same writer.

Puts use no thread: they wait in the writer's queue like everybody's, and each commit wakes an event loop once, whatever
number of its tasks were waiting. Nothing of the operations is repeated here; this room only waits for them.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import wraps
from itertools import islice
from typing import Concatenate, Final, Generic, ParamSpec, Self, TypeVar

from streamstore.consumer import Checkpoint, ConsumerPlace
from streamstore.errors import StoreClosedError
from streamstore.feed import FeedSource
from streamstore.limits import MAP_BYTES_DEFAULT
from streamstore.mailbox import LoopBell, LoopRequest, Mailbox
from streamstore.model import (
    DialectName,
    EntryLike,
    PutRecordResult,
    PutRecordsResult,
    Record,
    ShardIteratorType,
    StreamRecord,
    SubscribeToShardEvent,
    SyncMode,
    TailStart,
)
from streamstore.opened import system_clock_ms
from streamstore.request import Change
from streamstore.shards import PutOutcome, result_of_put_records
from streamstore.store import StreamStore
from streamstore.tail import TailSource

__all__ = ["AsyncFeed", "AsyncStreamStore"]

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
READ_AHEAD_RECORDS: Final = 1_000


class AsyncFeed(Generic[T_co]):
    """A ``Feed`` for asyncio: what is stored already and what will be. One task iterates, and uses no thread to wait.

    Cancelling the task loses nothing: the iteration may go on behind it. ``close`` ends the iteration at once; use it
    as an async context manager, or just leave it.
    """

    def __init__(self, source: FeedSource[T_co], mailbox_of_loop: Callable[[], Mailbox]) -> None:
        self._source = source
        self._mailbox_of_loop = mailbox_of_loop
        self._bell = LoopBell()
        source.attend(self._bell)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T_co:
        source = self._source
        while not source.has_ended:
            item = source.take()
            if item is not None:
                return item
            if not source.has_ended:
                take_over = await asyncio.to_thread(source.look)
                seen = take_over()
                if seen is not None:
                    await self._wait_behind(seen)
        raise StopAsyncIteration

    def close(self) -> None:
        """End the iteration, and the waiting. Any thread may call it; further calls do nothing."""
        self._source.end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    async def _wait_behind(self, commit_number: int) -> None:
        patience_s = self._source.patience_s()
        if patience_s is not None and patience_s <= 0:
            self._source.lose_patience()
            return
        watch = self._source.watch
        self._bell.set(self._mailbox_of_loop())
        try:
            watch.wake_behind(commit_number, self._bell)
            if not self._source.has_ended and not await self._bell.wait(patience_s):
                self._source.lose_patience()
        finally:
            watch.forget(self._bell)


class AsyncStreamConsumer(AsyncFeed[StreamRecord]):
    """A ``StreamConsumer`` for asyncio: the same checkpoints, awaited."""

    def __init__(
        self,
        source: TailSource,
        mailbox_of_loop: Callable[[], Mailbox],
        place: ConsumerPlace,
        execute: Callable[[Checkpoint], "asyncio.Future[list[PutOutcome]]"],
    ) -> None:
        super().__init__(source, mailbox_of_loop)
        self._place = place
        self._execute = execute

    async def checkpoint(self) -> None:
        """See ``StreamConsumer.checkpoint``."""
        checkpoint = self._place.checkpoint()
        await self._execute(checkpoint)
        checkpoint.confirm()

    async def checkpoint_with_records(self, stream_name: str, records: Sequence[EntryLike]) -> PutRecordsResult:
        """See ``StreamConsumer.checkpoint_with_records``."""
        checkpoint = self._place.checkpoint_with_records(stream_name, records)
        outcomes = await self._execute(checkpoint)
        checkpoint.confirm()
        return result_of_put_records(outcomes)


def _awaited(
    operation: Callable[Concatenate[StreamStore, P], T],
) -> "Callable[Concatenate[AsyncStreamStore, P], Coroutine[object, object, T]]":
    """Return an operation of ``StreamStore`` as one to await, with the same arguments; a thread runs it."""

    @wraps(operation)
    async def call(store: "AsyncStreamStore", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(operation, store.opened, *args, **kwargs)

    return call


class AsyncStreamStore:
    """A ``StreamStore`` for asyncio: ``async with AsyncStreamStore(path) as store``. The arguments are the same.

    Every operation here is the one of ``StreamStore`` with the same arguments, results and errors; ``ingest`` is not
    here, because tasks share commits anyway. While they do, what a loop submits goes to the writer when a turn of the
    loop brings no more of it, or 10 ms later. One object may be used by several event loops in several threads.
    Cancelling a task that waits for a put ends its waiting, not the put: the record is then stored or not, and no other
    waiter notices.
    """

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
        self._open: Final = lambda: StreamStore(
            path,
            create=create,
            read_only=read_only,
            sync=sync,
            map_size=map_size,
            clock=clock,
            allow_network_filesystem=allow_network_filesystem,
            dialect=dialect,
            account_id=account_id,
            region=region,
            shard_limit=shard_limit,
        )
        self._opened: StreamStore | None = None
        self._mailboxes: dict[asyncio.AbstractEventLoop, Mailbox] = {}
        self._last_mailbox: Mailbox | None = None

    @classmethod
    def of(cls, store: StreamStore) -> Self:
        """Return the awaited operations of a store that is open, and that its opener closes."""
        awaited = cls(store.path)  # which opens nothing before it is entered
        awaited._opened = store
        return awaited

    async def __aenter__(self) -> Self:
        self._opened = await asyncio.to_thread(self._open)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """See ``StreamStore.close``."""
        if self._opened is not None:
            await asyncio.to_thread(self.opened.close)

    async def put_record(
        self,
        stream_name: str,
        data: bytes | bytearray | memoryview,
        partition_key: str,
        *,
        explicit_hash_key: str | None = None,
        sequence_number_for_ordering: str | None = None,
        idempotency_key: str | None = None,
    ) -> PutRecordResult:
        """See ``StreamStore.put_record``. Calls of one task are stored in their order."""
        return await self.submit_record(
            stream_name,
            data,
            partition_key,
            explicit_hash_key=explicit_hash_key,
            sequence_number_for_ordering=sequence_number_for_ordering,
            idempotency_key=idempotency_key,
        )

    async def put_records(self, stream_name: str, records: Sequence[EntryLike]) -> PutRecordsResult:
        """See ``StreamStore.put_records``."""
        change, payload_bytes = self._underneath.change_of_put_records(stream_name, records)
        return result_of_put_records(await self._submit(change, payload_bytes))

    def submit_record(
        self,
        stream_name: str,
        data: bytes | bytearray | memoryview,
        partition_key: str,
        *,
        explicit_hash_key: str | None = None,
        sequence_number_for_ordering: str | None = None,
        idempotency_key: str | None = None,
    ) -> "asyncio.Future[PutRecordResult]":
        """Like ``put_record``, but return a future of the running loop at once: it costs a task less.

        The order of submission is the order in the shard. Never waits: who submits without awaiting bounds what is on
        its way. Cancelling the future does not take the record back. Raises at once what ``StreamStore.submit_record``
        does, and ``StorageError``; all other errors come through the future.
        """
        change, payload_bytes = self._underneath.change_of_put_record(
            stream_name, data, partition_key, explicit_hash_key, sequence_number_for_ordering, idempotency_key
        )
        return self._submit(change, payload_bytes)

    async def read(
        self, stream_name: str, shard_id: str, *, starting_sequence_number: str | None = None
    ) -> AsyncIterator[Record]:
        """See ``StreamStore.read``; refuses with the first record asked for."""
        records = self.opened.read(stream_name, shard_id, starting_sequence_number=starting_sequence_number)
        while page := await asyncio.to_thread(lambda: list(islice(records, READ_AHEAD_RECORDS))):
            for record in page:
                yield record

    def tail(
        self,
        stream_name: str,
        *,
        starting_position: TailStart = "LATEST",
        timestamp: object = None,
        idle_timeout_seconds: float | None = None,
    ) -> AsyncFeed[StreamRecord]:
        """See ``StreamStore.tail``. It is no coroutine: it finds its place at once, a look of microseconds."""
        source = self.opened.source_of_tail(stream_name, starting_position, timestamp, idle_timeout_seconds)
        return AsyncFeed(source, self._mailbox)

    def subscribe_to_shard(
        self,
        consumer_arn: str,
        shard_id: str,
        starting_position: ShardIteratorType,
        *,
        starting_sequence_number: str | None = None,
        timestamp: object = None,
    ) -> AsyncFeed[SubscribeToShardEvent]:
        """See ``StreamStore.subscribe_to_shard``. It is no coroutine: it finds its place at once."""
        source = self.opened.source_of_subscription(
            consumer_arn, shard_id, starting_position, starting_sequence_number, timestamp
        )
        return AsyncFeed(source, self._mailbox)

    async def consumer(
        self,
        stream_name: str,
        consumer_name: str,
        *,
        starting_position: TailStart = "TRIM_HORIZON",
        timestamp: object = None,
        idle_timeout_seconds: float | None = None,
    ) -> AsyncStreamConsumer:
        """See ``StreamStore.consumer``."""
        place, source = await asyncio.to_thread(
            self.opened.open_consumer,
            stream_name,
            consumer_name,
            starting_position,
            timestamp,
            idle_timeout_seconds,
        )
        return AsyncStreamConsumer(
            source, self._mailbox, place, lambda checkpoint: self._submit(checkpoint, checkpoint.payload_bytes)
        )

    describe_consumer_lag = _awaited(StreamStore.describe_consumer_lag)
    describe_consumer_lags = _awaited(StreamStore.describe_consumer_lags)
    get_records = _awaited(StreamStore.get_records)
    get_shard_iterator = _awaited(StreamStore.get_shard_iterator)

    backup = _awaited(StreamStore.backup)

    create_stream = _awaited(StreamStore.create_stream)
    delete_stream = _awaited(StreamStore.delete_stream)
    describe_stream = _awaited(StreamStore.describe_stream)
    list_streams = _awaited(StreamStore.list_streams)
    list_shards = _awaited(StreamStore.list_shards)
    split_shard = _awaited(StreamStore.split_shard)
    merge_shards = _awaited(StreamStore.merge_shards)
    update_shard_count = _awaited(StreamStore.update_shard_count)
    trim = _awaited(StreamStore.trim)
    describe_stream_summary = _awaited(StreamStore.describe_stream_summary)
    describe_limits = _awaited(StreamStore.describe_limits)
    update_stream = _awaited(StreamStore.update_stream)
    update_stream_mode = _awaited(StreamStore.update_stream_mode)
    enable_enhanced_monitoring = _awaited(StreamStore.enable_enhanced_monitoring)
    disable_enhanced_monitoring = _awaited(StreamStore.disable_enhanced_monitoring)
    increase_stream_retention_period = _awaited(StreamStore.increase_stream_retention_period)
    decrease_stream_retention_period = _awaited(StreamStore.decrease_stream_retention_period)
    add_tags_to_stream = _awaited(StreamStore.add_tags_to_stream)
    remove_tags_from_stream = _awaited(StreamStore.remove_tags_from_stream)
    list_tags_for_stream = _awaited(StreamStore.list_tags_for_stream)
    register_stream_consumer = _awaited(StreamStore.register_stream_consumer)
    describe_stream_consumer = _awaited(StreamStore.describe_stream_consumer)
    list_stream_consumers = _awaited(StreamStore.list_stream_consumers)
    deregister_stream_consumer = _awaited(StreamStore.deregister_stream_consumer)

    @property
    def opened(self) -> StreamStore:
        """The store underneath. Its calls block the loop, and come behind what this loop has submitted before."""
        self._flush()
        return self._underneath

    def _flush(self) -> None:
        try:
            mailbox = self._mailbox()
        except RuntimeError:  # no loop runs here
            return
        mailbox.flush()

    @property
    def _underneath(self) -> StreamStore:
        if self._opened is None:
            raise StoreClosedError("The store is not open yet; nothing was done. Use it inside async with.")
        return self._opened

    def _submit(self, change: Change[T], payload_bytes: int) -> "asyncio.Future[T]":
        mailbox = self._mailbox()
        request = LoopRequest(change, payload_bytes, mailbox)
        mailbox.submit(request, self._underneath.writer())
        return request.future

    def _mailbox(self) -> Mailbox:
        """Return the mailbox of the running loop."""
        loop = asyncio.get_running_loop()
        mailbox = self._last_mailbox
        if mailbox is None or mailbox.loop is not loop:
            mailbox = self._last_mailbox = self._mailboxes.get(loop) or self._add_mailbox(loop)
        return mailbox

    def _add_mailbox(self, loop: asyncio.AbstractEventLoop) -> Mailbox:
        for known in list(self._mailboxes):
            if known.is_closed():
                self._mailboxes.pop(known, None)
        return self._mailboxes.setdefault(loop, Mailbox(loop))
