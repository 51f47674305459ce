"""The named databases of a store: how they are called, and what proves that a value of one is where it was written.

A value is *sealed*: four bytes of CRC-32 over (address, payload), big-endian, then the payload. The address is not
stored; it is where the value belongs, so a value that turns up in another place, or under a key that is not what it
was, fails like a damaged one. The address of a value is the name of its database, a slash, and its key; but a record
has one of its own, which ``disk_format.py`` tells.
"""

import re
import struct
from collections.abc import Mapping
from typing import Final

from streamstore.model import StreamNumber

# The same function, so the same bytes on disk: five times as fast for a record of 1 KB. The extra "fast" brings it.
try:
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

__all__ = [
    "CONSUMERS_DATABASE",
    "COUNTERS_DATABASE",
    "CRC_MODULE",
    "FORMAT_DATABASE",
    "IDEMPOTENCY_KEYS_DATABASE",
    "IDEMPOTENCY_TIMES_DATABASE",
    "LOSSES_DATABASE",
    "POSITIONS_DATABASE",
    "RECORDS_DATABASE_PREFIX",
    "RECOVERY_DATABASE",
    "SEALED_DATABASES",
    "STREAMS_DATABASE",
    "DamagedValueError",
    "Databases",
    "crc32",
    "is_database_of_a_store",
    "is_sealed",
    "parse_records_database",
    "records_database",
    "seal",
    "unseal",
]

FORMAT_DATABASE: Final = b"format"
STREAMS_DATABASE: Final = b"streams"
COUNTERS_DATABASE: Final = b"counters"
CONSUMERS_DATABASE: Final = b"consumers"
POSITIONS_DATABASE: Final = b"positions"
IDEMPOTENCY_KEYS_DATABASE: Final = b"idempotency_keys"
IDEMPOTENCY_TIMES_DATABASE: Final = b"idempotency_times"
LOSSES_DATABASE: Final = b"losses"
RECOVERY_DATABASE: Final = b"recoveries"
RECORDS_DATABASE_PREFIX: Final = b"records/"

Databases = Mapping[bytes, Mapping[bytes, bytes]]
"""What a new store contains: the keys and values of each named database."""

SEALED_DATABASES: Final = frozenset(
    {
        FORMAT_DATABASE,
        STREAMS_DATABASE,
        COUNTERS_DATABASE,
        CONSUMERS_DATABASE,
        POSITIONS_DATABASE,
        IDEMPOTENCY_KEYS_DATABASE,
    }
)
"""Those whose values ``seal`` makes, and in which nothing else tells that a key should be there.

Of a record the counter of its shard does. A loss that is hidden costs nothing: its records are told as missing.
"""

CRC_MODULE: Final = crc32.__module__  # "isal.isal_zlib" or "zlib": for who measures

_CRC: Final = struct.Struct(">I")
_CRC_BYTES: Final = _CRC.size
_RECORDS_DATABASE: Final = re.compile(rb"records/(0|[1-9][0-9]{0,9})/(0|[1-9][0-9]{0,9})")
_U32_MAX: Final = 2**32 - 1


class DamagedValueError(ValueError):
    """The bytes at an address are not what was written there. The message says what is wrong."""


def records_database(stream_number: StreamNumber, shard_index: int) -> bytes:
    return RECORDS_DATABASE_PREFIX + b"%d/%d" % (stream_number, shard_index)


def parse_records_database(database: bytes) -> tuple[StreamNumber, int] | None:
    """Return stream number and shard index, or None for a name that ``records_database`` does not make."""
    match = _RECORDS_DATABASE.fullmatch(database)
    if match is None:
        return None
    stream_number, shard_index = int(match[1]), int(match[2])
    return (StreamNumber(stream_number), shard_index) if max(stream_number, shard_index) <= _U32_MAX else None


def is_database_of_a_store(database: bytes) -> bool:
    """Tell whether some store may have a database of this name."""
    return (
        database in SEALED_DATABASES
        or database in (IDEMPOTENCY_TIMES_DATABASE, LOSSES_DATABASE, RECOVERY_DATABASE)
        or parse_records_database(database) is not None
    )


def seal(database: bytes, key: bytes, payload: bytes) -> bytes:
    return _CRC.pack(crc32(payload, crc32(database + b"/" + key))) + payload


def unseal(database: bytes, key: bytes, value: bytes) -> bytes:
    """Return the payload of a value that was written at this key, or raise ``DamagedValueError``."""
    payload = value[_CRC_BYTES:]
    if _CRC.pack(crc32(payload, crc32(database + b"/" + key))) != value[:_CRC_BYTES]:
        raise DamagedValueError(f"the value of {database + b'/' + key!r} does not match its checksum")
    return payload


def is_sealed(database: bytes, key: bytes, value: bytes) -> bool:
    """Tell whether the value was written at this key."""
    try:
        unseal(database, key, value)
    except DamagedValueError:
        return False
    return True
