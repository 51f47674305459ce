"""Faults to plant in a program, each a defence taken away: a checker that stays green with one is no checker."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol, TypeVar, cast
from unittest import mock

import lmdb

from streamstore import AsyncStreamStore, databases, disk_format, room
from streamstore.consumer import Checkpoint, ConsumerPlace, StreamConsumer
from streamstore.databases import DamagedValueError
from streamstore.disk_format import RecordFormat, record_key, sequence_of_record_key
from streamstore.engine import Engine
from streamstore.errors import StorageError, StoreFullError, StreamStoreError
from streamstore.folder import FolderLock, StoreFolder
from streamstore.idempotency import StreamKeys
from streamstore.memory_map import MemoryMap
from streamstore.model import EntryLike, PutRecordsResult, Record, ShardCounter, StoredShard, StreamNumber
from streamstore.process import ReaderGate
from streamstore.proof import Proof
from streamstore.request import WaitingRequest
from streamstore.retention import trim_shard
from streamstore.room import Need
from streamstore.shards import PutOutcome, ShardAppender, result_of_put_records
from streamstore.streams import KnownShard, load_counter
from streamstore.transaction import ReadTransaction, WriteTransaction
from streamstore.writer import Writer

T = TypeVar("T")
Commit = Callable[[Engine, object, object], None]
_WRITE: Final = Engine.write_unrepaired


class DecodeRun(Protocol):
    """``RecordFormat.decode_run``, not bound."""

    def __call__(
        self, record_format: RecordFormat, items: Iterable[tuple[bytes, bytes]], first_sequence: int, *, bytes_max: int
    ) -> tuple[list[Record], DamagedValueError | None]: ...


class OpenShard(Protocol):
    """A shard that a transaction changes, as ``streamstore.shards`` has it."""

    @property
    def known(self) -> KnownShard: ...

    def counter(self) -> ShardCounter: ...


NAMES: Final = (
    "acknowledge-before-commit",
    "no-sync-on-open",
    "no-sync-of-names",
    "no-crc",
    "no-proof",
    "absence-not-proved",
    "old-lists-believed",
    "sequence-not-checked",
    "keys-in-a-later-commit",
    "no-keys",
    "child-numbered-from-parent",
    "parent-not-closed",
    "trim-one-too-many",
    "checkpoint-before-effect",
    "counter-cached",
    "sync-off",
    "metasync-off",
    "failed-sync-believed",
    "errors-not-translated",
    "walk-on-open",
    "any-partition-key",
    "swallowed-commit-error",
    "interrupted-read-kept",
    "writer-gives-up",
    "not-stored-behind-commit",
    "outcome-not-looked-up",
    "fields-not-proved",
    "limit-not-parsed",
    "stored-though-full",
    "no-reserve",
    "wrong-thread",
)


def plant(name: str | None) -> None:
    """Put the fault into this process."""
    if name == "acknowledge-before-commit":
        mock.patch.object(Writer, "execute", _answer_when_applied).start()
        mock.patch.object(Writer, "execute_on_writer_thread", _answer_when_applied).start()
        mock.patch.object(AsyncStreamStore, "_submit", _answer_task_when_applied).start()
    elif name == "no-sync-on-open":
        mock.patch.object(FolderLock, "sync_data_file").start()
    elif name == "no-sync-of-names":
        mock.patch.object(StoreFolder, "sync_names").start()
    elif name == "no-crc":
        for module in (databases, disk_format):
            mock.patch.object(module, "crc32", return_value=0).start()
    elif name == "no-proof":
        mock.patch("streamstore.environment.Proof", _prove_nothing).start()
    elif name == "absence-not-proved":
        mock.patch.object(Proof, "prove_absence").start()
    elif name == "old-lists-believed":
        mock.patch("streamstore.proof.staleness", return_value=None).start()
    elif name == "sequence-not-checked":
        mock.patch.object(RecordFormat, "decode_run", _decode_any_run()).start()
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
    elif name == "checkpoint-before-effect":
        mock.patch.object(StreamConsumer, "checkpoint_with_records", _checkpoint_then_put).start()
    elif name == "counter-cached":
        _cache_counters()
    elif name == "sync-off":
        _open_environments(sync=False)
    elif name == "metasync-off":
        _open_environments(metasync=False)
    elif name == "failed-sync-believed":
        mock.patch.object(FolderLock, "write_again").start()
    elif name == "errors-not-translated":
        mock.patch("streamstore.engine.translated", return_value=contextlib.nullcontext()).start()
    elif name == "walk-on-open":
        mock.patch("streamstore.environment._data_bytes", return_value=2**62).start()
    elif name == "any-partition-key":
        mock.patch("streamstore.validate.parse_partition_key", str).start()
    elif name == "swallowed-commit-error":
        mock.patch.object(Engine, "_commit", _commit_and_swallow()).start()
    elif name == "interrupted-read-kept":
        mock.patch.object(ReaderGate, "read", _read_and_let_go_at_its_end).start()
    elif name == "writer-gives-up":
        mock.patch.object(Writer, "_run", _work_once).start()
    elif name == "not-stored-behind-commit":
        mock.patch.object(Engine, "_commit", _commit_and_need_memory()).start()
    elif name == "outcome-not-looked-up":
        mock.patch.object(Engine, "_find_out_stored", return_value=False).start()
    elif name == "fields-not-proved":
        mock.patch.object(disk_format, "_expect_list", _believe).start()
    elif name == "limit-not-parsed":
        mock.patch("streamstore.store.parse_whole_number", _believe).start()
    elif name == "stored-though-full":
        mock.patch.object(Engine, "write_unrepaired", _write_and_say_full).start()
    elif name == "no-reserve":
        mock.patch.object(room, "RESERVE_PAGES", 0).start()
        mock.patch.object(Need, "reserve_pages", return_value=0).start()
    elif name == "wrong-thread":
        mock.patch.object(Engine, "_commit", _commit_on_another_thread()).start()


def _prove_nothing(read: Callable[[int, int], bytes], *, is_layout_known: bool) -> Proof:
    del is_layout_known
    return Proof(read, is_layout_known=False)


def _decode_any_run() -> DecodeRun:
    """Decode records as if any number might follow any other."""
    decode_run = cast(DecodeRun, vars(RecordFormat)["decode_run"])

    def decode(
        record_format: RecordFormat, items: Iterable[tuple[bytes, bytes]], first_sequence: int, *, bytes_max: int
    ) -> tuple[list[Record], DamagedValueError | None]:
        del first_sequence
        records: list[Record] = []
        for item in items:
            found, damage = decode_run(record_format, [item], sequence_of_record_key(item[0]), bytes_max=bytes_max)
            if damage is not None:
                return records, damage
            records += found
        return records, None

    return decode


def _open_environments(**flags: bool) -> None:
    """Have LMDB open every environment with these flags, whatever the engine says."""
    really_open = cast(Callable[..., lmdb.Environment], lmdb.open)

    def open_with_flags(path: str, **options: object) -> lmdb.Environment:
        return really_open(path, **{**options, **flags})

    mock.patch.object(lmdb, "open", open_with_flags).start()


def _believe(*arguments: object, **_rules: object) -> object:
    """Return the value that a parser was given last, as it is."""
    return arguments[-1]


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


def _checkpoint_then_put(consumer: StreamConsumer, stream_name: str, records: Sequence[EntryLike]) -> PutRecordsResult:
    """Like ``StreamConsumer.checkpoint_with_records``, but in two commits, the checkpoint first."""
    place = cast(ConsumerPlace, vars(consumer)["_place"])
    execute = cast(Callable[[Checkpoint], list[PutOutcome]], vars(consumer)["_execute"])
    consumer.checkpoint()
    return result_of_put_records(execute(place.checkpoint_with_records(stream_name, records)))


def _cache_counters() -> None:
    """Load the counter of each shard once, and believe no other: what another process writes is never seen."""
    counters: dict[tuple[StreamNumber, int], ShardCounter] = {}
    save_counter = cast(Callable[[ShardAppender, OpenShard], None], vars(ShardAppender)["_save_counter"])

    def load(transaction: ReadTransaction, stream_number: StreamNumber, shard_index: int) -> ShardCounter:
        address = stream_number, shard_index
        if address not in counters:
            counters[address] = load_counter(transaction, stream_number, shard_index)
        return counters[address]

    def save(appender: ShardAppender, shard: OpenShard) -> None:
        counters[shard.known.stream_number, shard.known.shard_index] = shard.counter()
        save_counter(appender, shard)

    mock.patch("streamstore.shards.load_counter", load).start()
    mock.patch.object(ShardAppender, "_save_counter", save).start()
    mock.patch.object(ShardAppender, "_check_counter").start()  # which would refuse it


def _commit_and_swallow() -> Commit:
    commit = cast(Commit, vars(Engine)["_commit"])

    def commit_quietly(engine: Engine, transaction: object, evidence: object) -> None:
        with contextlib.suppress(Exception):
            commit(engine, transaction, evidence)

    return commit_quietly


def _commit_and_need_memory() -> Commit:
    commit = cast(Commit, vars(Engine)["_commit"])

    def commit_and_need_memory(engine: Engine, transaction: object, evidence: object) -> None:
        commit(engine, transaction, evidence)
        try:
            for _ in range(200):
                object()
        except MemoryError:
            raise StorageError("Nothing was stored.") from None

    return commit_and_need_memory


def _work_once(writer: Writer) -> None:
    """Like the life of the writer thread, but it ends where there is no memory."""
    cast(Callable[[Writer], None], vars(Writer)["_work"])(writer)


def _read_and_let_go_at_its_end(gate: ReaderGate, look: Callable[[], T]) -> T:
    """Like ``ReaderGate.read``, but behind an interrupt the thread stays a reader."""
    own = vars(gate)["_own"]
    reader = own.reader or getattr(gate, "_register")(own)  # noqa: B009
    was_reading = reader.is_reading
    reader.is_reading = True
    try:
        result = look()
    except Exception:
        reader.is_reading = was_reading
        raise
    reader.is_reading = was_reading
    return result


def _write_and_say_full(engine: Engine, apply: Callable[[WriteTransaction], T], *, is_alone: bool = False) -> T:
    """Like ``Engine.write_unrepaired``, but what was stored while the disk is full is told as refused."""
    result = _WRITE(engine, apply, is_alone=is_alone)
    if cast(MemoryMap, vars(engine)["_map"]).is_limited():
        raise StoreFullError("planted")
    return result


def _commit_on_another_thread() -> Commit:
    commit = cast(Commit, vars(Engine)["_commit"])

    def commit_there(engine: Engine, transaction: object, evidence: object) -> None:
        thread = threading.Thread(target=commit, args=(engine, transaction, evidence))
        thread.start()
        thread.join()

    return commit_there


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


def _answer_task_when_applied(
    store: AsyncStreamStore, change: Callable[[ShardAppender], T], payload_bytes: int
) -> "asyncio.Future[T]":
    """The same for a task, which a server is made of."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(answer: T | StreamStoreError) -> None:
        if future.done():
            return
        if isinstance(answer, StreamStoreError):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    def apply_and_answer(appender: ShardAppender) -> None:
        try:
            loop.call_soon_threadsafe(settle, change(appender))
        except StreamStoreError as error:
            loop.call_soon_threadsafe(settle, error)

    store.opened.writer().submit(WaitingRequest(apply_and_answer, payload_bytes))
    return future


def _ending_too_low(shard: StoredShard) -> int | None:
    """Like ``StoredShard.ending_sequence``, but one too low: children take the last number of their parent."""
    if shard.next_sequence_at_close is None:
        return None
    return max(shard.next_sequence_at_close - 2, shard.first_sequence)


def _trim_one_too_many(
    transaction: WriteTransaction,
    known: KnownShard,
    counter: ShardCounter,
    *,
    horizon_ms: int,
    records_max: int,
    damaged_max: int | None,
) -> ShardCounter:
    trimmed = trim_shard(
        transaction, known, counter, horizon_ms=horizon_ms, records_max=records_max, damaged_max=damaged_max
    )
    if not counter.first_sequence < trimmed.first_sequence < trimmed.next_sequence:
        return trimmed
    transaction.delete_before(known.database, record_key(trimmed.first_sequence + 1))
    return trimmed._replace(first_sequence=trimmed.first_sequence + 1)
