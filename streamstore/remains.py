"""What is left of a damaged store but for its records: every entry that proves itself, wherever it was found.

An entry is bound to its database and key by its checksum, so one that is found outside of any tree is told by trying.
Of several versions of an entry the newest counts. Pure: bytes in, entries out.
"""

from collections.abc import Callable, Hashable
from typing import Final, TypeVar

from streamstore.databases import (
    CONSUMERS_DATABASE,
    COUNTERS_DATABASE,
    FORMAT_DATABASE,
    IDEMPOTENCY_KEYS_DATABASE,
    POSITIONS_DATABASE,
    STREAMS_DATABASE,
    DamagedValueError,
)
from streamstore.disk_format import (
    DIALECT_KEY,
    NEXT_STREAM_NUMBER_KEY,
    SECRET_KEY,
    SHARD_COUNT_KEY,
    VERSION_KEY,
    decode_consumer,
    decode_counter,
    decode_first_put,
    decode_format_bytes,
    decode_format_int,
    decode_format_str,
    decode_position,
    decode_stream,
    parse_counter_key,
    parse_position_key,
    stream_number_of_idempotency_key,
)
from streamstore.model import FirstPut, ShardCounter, StoredConsumer, StoredStream, StreamNumber

__all__ = ["ENTRY_DATABASES", "Remains", "ShardAddress"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
ShardAddress = tuple[StreamNumber, int]
"""Stream number and shard index."""
FormatValue = int | str | bytes
FORMAT_DECODERS: Final[dict[bytes, Callable[[bytes, bytes], FormatValue]]] = {
    VERSION_KEY: decode_format_int,
    DIALECT_KEY: decode_format_str,
    SECRET_KEY: decode_format_bytes,
    NEXT_STREAM_NUMBER_KEY: decode_format_int,
    SHARD_COUNT_KEY: decode_format_int,
}


class Remains:
    """The entries found so far."""

    def __init__(self) -> None:
        self.format: dict[bytes, FormatValue] = {}
        self.streams: dict[str, StoredStream] = {}
        self.counters: dict[ShardAddress, ShardCounter] = {}
        self.consumers: dict[bytes, StoredConsumer] = {}
        self.positions: dict[bytes, int] = {}
        self.first_puts: dict[bytes, FirstPut] = {}

    def add(self, database: bytes, key: bytes, value: bytes) -> None:
        """Add an entry, or raise ``DamagedValueError``."""
        _ADDERS[database](self, key, value)

    def add_whatever_it_is(self, key: bytes, value: bytes) -> None:
        """Add the entry that it is. What is none proves itself as none."""
        for adder in _ADDERS.values():
            try:
                return adder(self, key, value)
            except DamagedValueError:
                pass
        return None

    def fill_up(self, others: "Remains") -> None:
        """Add what is missing here."""
        self.format = others.format | self.format
        self.streams = others.streams | self.streams
        self.counters = others.counters | self.counters
        self.consumers = others.consumers | self.consumers
        self.positions = others.positions | self.positions
        self.first_puts = others.first_puts | self.first_puts

    def shard_addresses(self) -> set[ShardAddress]:
        return {(stream.number, index) for stream in self.streams.values() for index in stream.shards} | {
            *self.counters
        }

    def numbers_given_out(self) -> dict[ShardAddress, int]:
        """Return for each shard a number that its counter had reached, as consumers and idempotency keys know it."""
        behind: dict[ShardAddress, int] = {}
        for key, sequence in self.positions.items():
            number, _, shard_index = parse_position_key(key)
            behind[number, shard_index] = max(behind.get((number, shard_index), 0), sequence)
        for key, put in self.first_puts.items():
            address = stream_number_of_idempotency_key(key), put.shard_index
            behind[address] = max(behind.get(address, 0), put.sequence + 1)
        return behind


def _add_format(remains: Remains, key: bytes, value: bytes) -> None:
    decode = FORMAT_DECODERS.get(key)
    if decode is None:
        raise DamagedValueError(f"{key!r} is no key of the format")
    remains.format[key] = decode(key, value)


def _add_stream(remains: Remains, key: bytes, value: bytes) -> None:
    stream = decode_stream(key, value)
    _keep(remains.streams, stream.name, stream, lambda each: (each.number, each.next_shard_index, *each.resized_ms))


def _add_counter(remains: Remains, key: bytes, value: bytes) -> None:
    address = parse_counter_key(key)
    _keep(remains.counters, address, decode_counter(*address, value), lambda each: (each.next_sequence,))


def _add_consumer(remains: Remains, key: bytes, value: bytes) -> None:
    _keep(remains.consumers, key, decode_consumer(key, value), lambda each: (each.epoch,))


def _add_position(remains: Remains, key: bytes, value: bytes) -> None:
    parse_position_key(key)
    _keep(remains.positions, key, decode_position(key, value), lambda each: (each,))


def _add_first_put(remains: Remains, key: bytes, value: bytes) -> None:
    _keep(remains.first_puts, key, decode_first_put(key, value), lambda each: (each.sent_ms,))


_ADDERS: Final[dict[bytes, Callable[[Remains, bytes, bytes], None]]] = {
    FORMAT_DATABASE: _add_format,
    STREAMS_DATABASE: _add_stream,
    COUNTERS_DATABASE: _add_counter,
    CONSUMERS_DATABASE: _add_consumer,
    POSITIONS_DATABASE: _add_position,
    IDEMPOTENCY_KEYS_DATABASE: _add_first_put,
}
ENTRY_DATABASES: Final = tuple(_ADDERS)


def _keep(entries: dict[K, V], key: K, entry: V, rank: Callable[[V], tuple[int, ...]]) -> None:
    known = entries.get(key)
    if known is None or rank(known) < rank(entry):
        entries[key] = entry
