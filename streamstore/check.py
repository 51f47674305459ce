"""Walks a store and yields every broken invariant as a sentence. Reads only, and never mends.

What it proves: every value matches its checksum and address; each stream's open shards tile the hash keys; each
shard has one counter and holds exactly the records that the counter says, contiguous but for known losses, with arrival
times that never go back; the tags of a stream are in order; each idempotency key names a record number that was given
out, and has one time; each consumer has a stream, and each position a consumer; nothing in the file belongs to no
stream; the totals add up.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Final

from streamstore.apart import ChildDiedError, Report, reports_of
from streamstore.databases import (
    CONSUMERS_DATABASE,
    COUNTERS_DATABASE,
    FORMAT_DATABASE,
    IDEMPOTENCY_KEYS_DATABASE,
    IDEMPOTENCY_TIMES_DATABASE,
    LOSSES_DATABASE,
    POSITIONS_DATABASE,
    RECOVERY_DATABASE,
    STREAMS_DATABASE,
    DamagedValueError,
    records_database,
)
from streamstore.dialect import DIALECTS
from streamstore.disk_format import (
    DIALECT_KEY,
    NEXT_STREAM_NUMBER_KEY,
    SECRET_KEY,
    SHARD_COUNT_KEY,
    VERSION_KEY,
    consumer_key,
    counter_key,
    decode_consumer,
    decode_first_put,
    decode_format_bytes,
    decode_format_int,
    decode_format_str,
    decode_loss,
    decode_position,
    decode_stream,
    idempotency_time_key,
    parse_position_key,
    record_key,
    sequence_of_record_key,
    split_idempotency_time_key,
    stream_number_of_idempotency_key,
)
from streamstore.engine import Engine
from streamstore.errors import CorruptRecordError, StorageError
from streamstore.limits import HASH_KEY_MAX
from streamstore.model import FirstPut, ShardCounter, StoredShard, StoredStream, StreamNumber
from streamstore.reading import ShardReader
from streamstore.streams import load_counter, load_format_int
from streamstore.transaction import ReadTransaction

__all__ = ["check_store", "check_store_apart"]

STEPS_PER_REPORT: Final = 1_000


def check_store(path: Path | str, *, allow_network_filesystem: bool = False) -> list[str]:
    """Return what is wrong with the store at ``path``, in sentences; an empty list means that all is well.

    Opens the store beside its writers and looks at one snapshot. Raises ``StorageError`` if it cannot be opened. Pages
    that are damaged can end the process: ``check_store_apart`` is for those.
    """
    findings: list[str] = []
    _walk(Path(path), findings.append, lambda: None, allow_network_filesystem=allow_network_filesystem)
    return findings


def check_store_apart(path: Path | str, *, stall_seconds: float = 60.0) -> list[str]:
    """Like ``check_store``, in a child process: that it crashes, or hangs so long, is one more sentence and no end."""
    findings: list[str] = []
    try:
        # What was found in front of the death is kept.
        findings.extend(filter(None, reports_of(_check_in_child, [os.fspath(path)], stall_s=stall_seconds)))
    except ChildDiedError as death:
        findings.append(f"The check could not be finished: the process that read {path} {death}.")
    return findings


def _check_in_child(report: Report, arguments: Sequence[str]) -> None:
    steps = count(1)

    def on_step() -> None:
        if next(steps) % STEPS_PER_REPORT == 0:
            report(None)

    _walk(Path(arguments[0]), report, on_step, allow_network_filesystem=False)


def _walk(
    path: Path, on_finding: Callable[[str], None], on_step: Callable[[], None], *, allow_network_filesystem: bool
) -> None:
    engine = Engine(path, initial=None, read_only=True, sync="full", allow_network_filesystem=allow_network_filesystem)
    told: set[str] = set()

    def look(transaction: ReadTransaction) -> None:
        for finding in check_snapshot(transaction):
            if finding not in told:  # by a look that had to start again
                told.add(finding)
                on_finding(finding)

    try:
        engine.open()
        try:
            engine.observe(look, on_step=on_step)
        except StorageError as error:
            on_finding(f"The check could not be finished: {error}")
    finally:
        engine.close()


def check_snapshot(transaction: ReadTransaction) -> Iterator[str]:
    """Yield every broken invariant of one snapshot."""
    streams: list[StoredStream] = []
    yield from _as_far_as_it_goes(_check_format(transaction))
    yield from _as_far_as_it_goes(_check_streams(transaction, streams))
    for check in (
        _check_consumers,
        _check_positions,
        _check_idempotency_keys,
        _check_idempotency_times,
        _check_losses,
        _check_nothing_foreign,
        _check_totals,
    ):
        yield from _as_far_as_it_goes(check(transaction, streams))


def _as_far_as_it_goes(findings: Iterator[str], name: str = "A part of the store") -> Iterator[str]:
    """Yield the findings of one part, and what ended it: damaged pages there hide nothing elsewhere."""
    try:
        yield from findings
    except StorageError as error:
        yield f"{name} could not be checked to its end. {error}"


def _check_streams(transaction: ReadTransaction, streams: list[StoredStream]) -> Iterator[str]:
    """Check all streams, and add them to the list."""
    for key, value in transaction.items_from(STREAMS_DATABASE, b""):
        try:
            streams.append(decode_stream(key, value))
        except DamagedValueError as error:
            yield f"The entry of stream {key!r} is damaged: {error}."
    for stream in streams:
        yield from _check_stream(transaction, stream)


def _check_format(transaction: ReadTransaction) -> Iterator[str]:
    decoders = {VERSION_KEY: decode_format_int, DIALECT_KEY: decode_format_str, SECRET_KEY: decode_format_bytes}
    for key, decode in decoders.items():
        value = transaction.get(FORMAT_DATABASE, key)
        try:
            if value is None:
                raise DamagedValueError(f"{key!r} is missing from the format database")
            decode(key, value)
        except DamagedValueError as error:
            yield f"The store is damaged: {error}."
            continue
        if key == DIALECT_KEY and decode_format_str(key, value) not in DIALECTS:
            yield f"The store has the dialect {decode_format_str(key, value)}, which nobody knows."


def _check_stream(transaction: ReadTransaction, stream: StoredStream) -> Iterator[str]:
    next_start = 0
    open_ranges = [shard.hash_key_range for shard in stream.shards.values() if shard.next_sequence_at_close is None]
    for hash_key_range in sorted(open_ranges, key=lambda candidate: candidate.starting_hash_key):
        if hash_key_range.starting_hash_key != next_start:
            yield f"The open shards of {stream.name} do not tile the hash keys at {next_start}."
        next_start = hash_key_range.ending_hash_key + 1
    if next_start != HASH_KEY_MAX + 1:
        yield f"The open shards of {stream.name} do not reach the last hash key."
    if list(stream.tags) != sorted(dict(stream.tags).items()):
        yield f"The tags of {stream.name} are not in the order of their keys, one for each."
    for shard_index, shard in stream.shards.items():
        name = f"Shard {shard_index} of {stream.name}"
        yield from _check_lineage(stream, shard_index, shard, name)
        reader = ShardReader(transaction, stream.number, shard_index, name)
        yield from _as_far_as_it_goes(_check_shard(reader, shard, name), name)


def _check_lineage(stream: StoredStream, shard_index: int, shard: StoredShard, name: str) -> Iterator[str]:
    if shard_index >= stream.next_shard_index:
        yield f"{name} has an index that a new shard would get too."
    if (shard.next_sequence_at_close is None) != (shard.closed_ms is None):
        yield f"{name} is half closed."
    for parent_index in shard.parent_indexes:
        if parent_index >= shard_index:
            yield f"{name} has a parent {parent_index} that came after it."
        parent = stream.shards.get(parent_index)
        if parent is not None and (parent.ending_sequence is None or parent.ending_sequence >= shard.first_sequence):
            yield f"{name} does not start behind the last number of its parent {parent_index}."


def _check_shard(reader: ShardReader, shard: StoredShard, name: str) -> Iterator[str]:
    counter = reader.counter()
    if shard.next_sequence_at_close not in (None, counter.next_sequence):
        yield f"{name} was closed at {shard.next_sequence_at_close}, but its counter stands at {counter.next_sequence}."
    if not shard.first_sequence <= counter.first_sequence <= counter.next_sequence:
        numbers = f"{counter.first_sequence} to {counter.next_sequence}"
        yield f"{name} counts from {numbers}, and began at {shard.first_sequence}."
    start = counter.first_sequence
    arrival_ms = 0
    while start < counter.next_sequence:
        try:
            for record in reader.records(start, counter.next_sequence):
                start = int(record.sequence_number) + 1
                if record.arrival_ms < arrival_ms:
                    yield f"Record {record.sequence_number} of {name} arrived before the one in front of it."
                arrival_ms = record.arrival_ms
            if arrival_ms > counter.last_arrival_ms:
                yield f"{name} has a record that arrived after its counter's last arrival."
        except CorruptRecordError as error:
            if not reader.is_known_loss(int(error.sequence_number)):
                yield str(error)
            start = int(error.last_sequence_number) + 1
    database = records_database(reader.stream_number, reader.shard_index)
    first_key, _ = next(reader.transaction.items_from(database, b""), (None, None))
    if first_key is not None and first_key < record_key(counter.first_sequence):
        yield f"{name} holds a record {sequence_of_record_key(first_key)} that its counter does not know."
    last_key = reader.transaction.last_key(database)
    if last_key is not None and sequence_of_record_key(last_key) >= counter.next_sequence:
        yield f"{name} holds a record {sequence_of_record_key(last_key)} that its counter does not know."


def _check_consumers(transaction: ReadTransaction, streams: list[StoredStream]) -> Iterator[str]:
    numbers = {stream.number for stream in streams}
    for key, value in transaction.items_from(CONSUMERS_DATABASE, b""):
        try:
            if decode_consumer(key, value).stream_number not in numbers:
                yield f"The consumer {key!r} belongs to no stream."
        except DamagedValueError as error:
            yield f"The entry of consumer {key!r} is damaged: {error}."


def _check_positions(transaction: ReadTransaction, streams: list[StoredStream]) -> Iterator[str]:
    next_shard_indexes = {stream.number: stream.next_shard_index for stream in streams}
    for key, value in transaction.items_from(POSITIONS_DATABASE, b""):
        try:
            decode_position(key, value)
            stream_number, consumer_name, shard_index = parse_position_key(key)
        except DamagedValueError as error:
            yield f"The position {key!r} is damaged: {error}."
            continue
        if transaction.get(CONSUMERS_DATABASE, consumer_key(stream_number, consumer_name)) is None:
            yield f"The position {key!r} belongs to no consumer."
        if shard_index >= next_shard_indexes.get(stream_number, 0):
            yield f"The position {key!r} is one in a shard that never was."


def _check_idempotency_keys(transaction: ReadTransaction, streams: list[StoredStream]) -> Iterator[str]:
    stream_of_number = {stream.number: stream for stream in streams}
    counters = _sound_counters(transaction, streams)
    for key, value in transaction.items_from(IDEMPOTENCY_KEYS_DATABASE, b""):
        stream = stream_of_number.get(stream_number_of_idempotency_key(key))
        if stream is None:
            yield f"The idempotency key {key.hex()} belongs to no stream."
            continue
        try:
            put = decode_first_put(key, value)
        except DamagedValueError as error:
            yield f"The idempotency key {key.hex()} is damaged: {error}."
            continue
        if not _was_given_out(stream, put, counters):
            number = f"{put.sequence} of shard {put.shard_index}"
            yield f"The idempotency key {key.hex()} names record {number}, which {stream.name} has not given out."
        if transaction.get(IDEMPOTENCY_TIMES_DATABASE, idempotency_time_key(key, put.sent_ms)) is None:
            yield f"The idempotency key {key.hex()} has no time, so it would never be deleted."


def _sound_counters(
    transaction: ReadTransaction, streams: list[StoredStream]
) -> dict[tuple[StreamNumber, int], ShardCounter]:
    counters: dict[tuple[StreamNumber, int], ShardCounter] = {}
    for stream in streams:
        for shard_index in stream.shards:
            with contextlib.suppress(StorageError):
                counters[stream.number, shard_index] = load_counter(transaction, stream.number, shard_index)
    return counters


def _was_given_out(stream: StoredStream, put: FirstPut, counters: dict[tuple[StreamNumber, int], ShardCounter]) -> bool:
    """Tell whether the shard has or had a record of that number. Of one that has expired nobody knows."""
    if put.shard_index not in stream.shards:
        return put.shard_index < stream.next_shard_index
    counter = counters.get((stream.number, put.shard_index))
    first_sequence = stream.shards[put.shard_index].first_sequence
    return counter is None or first_sequence <= put.sequence < counter.next_sequence


def _check_idempotency_times(transaction: ReadTransaction, streams: list[StoredStream]) -> Iterator[str]:
    del streams  # a time belongs to a key
    for time_key, value in transaction.items_from(IDEMPOTENCY_TIMES_DATABASE, b""):
        key, sent_ms = split_idempotency_time_key(time_key)
        stored = transaction.get(IDEMPOTENCY_KEYS_DATABASE, key)
        try:
            if value or stored is None or decode_first_put(key, stored).sent_ms != sent_ms:
                yield f"The idempotency time {time_key.hex()} is not that of a key."
        except DamagedValueError:
            pass  # told of the key


def _check_losses(transaction: ReadTransaction, streams: list[StoredStream]) -> Iterator[str]:
    counters = _sound_counters(transaction, streams)
    addresses = {(stream.number, index) for stream in streams for index in stream.shards}
    behind_last: tuple[StreamNumber, int, int] | None = None
    for key, value in transaction.items_from(LOSSES_DATABASE, b""):
        try:
            stream_number, shard_index, lost = decode_loss(key, value)
        except DamagedValueError as error:
            yield f"The loss {key.hex()} is damaged: {error}."
            continue
        if (stream_number, shard_index) not in addresses:
            yield f"The loss {key.hex()} belongs to no stream."
        if behind_last is not None and (stream_number, shard_index, lost.start) <= behind_last:
            yield f"The loss {key.hex()} is one with the loss in front of it."
        behind_last = stream_number, shard_index, lost.stop
        counter = counters.get((stream_number, shard_index))
        if not lost or (counter is not None and not counter.first_sequence < lost.stop <= counter.next_sequence):
            yield f"The loss {key.hex()} is one of numbers that its shard does not have."
        stored, _ = next(
            transaction.items_from(records_database(stream_number, shard_index), record_key(lost.start)), (None, b"")
        )
        if stored is not None and stored < record_key(lost.stop):
            yield f"The loss {key.hex()} is one of a record that is there."


def _check_nothing_foreign(transaction: ReadTransaction, streams: list[StoredStream]) -> Iterator[str]:
    addresses = {(stream.number, index) for stream in streams for index in stream.shards}
    known = {FORMAT_DATABASE, STREAMS_DATABASE, COUNTERS_DATABASE, RECOVERY_DATABASE}
    known |= {CONSUMERS_DATABASE, POSITIONS_DATABASE}
    known |= {IDEMPOTENCY_KEYS_DATABASE, IDEMPOTENCY_TIMES_DATABASE, LOSSES_DATABASE}
    known |= {records_database(*address) for address in addresses}
    for database in transaction.databases():
        if database not in known:
            yield f"The database {database.decode(errors='replace')} belongs to no stream."
    counter_keys = {counter_key(*address) for address in addresses}
    for key, _ in transaction.items_from(COUNTERS_DATABASE, b""):
        if key not in counter_keys:
            yield f"The counter {key!r} belongs to no stream."


def _check_totals(transaction: ReadTransaction, streams: list[StoredStream]) -> Iterator[str]:
    try:
        shard_count = load_format_int(transaction, SHARD_COUNT_KEY)
        next_stream_number = load_format_int(transaction, NEXT_STREAM_NUMBER_KEY)
    except StorageError as error:
        yield str(error)
        return
    if shard_count != sum(len(stream.shards) for stream in streams):
        yield f"The store counts {shard_count} shards, its streams have another number."
    for stream in streams:
        if stream.number >= next_stream_number:
            yield f"Stream {stream.name} has number {stream.number}, which a new stream would get too."
    if len({stream.number for stream in streams}) != len(streams):
        yield "Two streams have the same number."
