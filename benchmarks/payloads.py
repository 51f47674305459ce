"""Records that prove themselves: each payload holds its index and a CRC-32 over itself, so none can be lost unseen.

The rest of a payload is noise that does not compress, and differs from record to record.
"""

import random
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

__all__ = [
    "KEY_COUNT",
    "WrongDataError",
    "check_payload",
    "check_payloads",
    "generate_payloads",
    "iterate_batches",
    "make_payloads",
    "partition_key_of",
]

HEADER: Final = struct.Struct(">QI")  # index; CRC-32 over the index and the noise
INDEX: Final = struct.Struct(">Q")
NOISE: Final = random.Random(0).randbytes(2**20 + 2**16)
NOISE_STEP: Final = 7919  # a prime: neighbours share no bytes at the same place
KEY_COUNT: Final = 256
PARTITION_KEYS: Final = tuple(f"user-{number:03}" for number in range(KEY_COUNT))


class WrongDataError(Exception):
    """A store did not return what was put into it."""


def generate_payloads(first: int, count: int, payload_bytes: int) -> Iterator[bytes]:
    """Yield the payloads with the indexes from ``first`` on."""
    noise_bytes = payload_bytes - HEADER.size
    assert 0 <= noise_bytes <= 2**16
    for index in range(first, first + count):
        place = index * NOISE_STEP % 2**20
        noise = NOISE[place : place + noise_bytes]
        yield HEADER.pack(index, zlib.crc32(noise, zlib.crc32(INDEX.pack(index)))) + noise


def make_payloads(first: int, count: int, payload_bytes: int) -> list[bytes]:
    return list(generate_payloads(first, count, payload_bytes))


def partition_key_of(payload: bytes) -> str:
    """Return the key that every contender with keys stores beside the payload: one of 256 that take turns."""
    return PARTITION_KEYS[payload[INDEX.size - 1]]


def iterate_batches(payloads: Iterable[bytes], batch_records: int) -> Iterator[Sequence[bytes]]:
    iterator = iter(payloads)
    while batch := list(islice(iterator, batch_records)):
        yield batch


def check_payload(payload: bytes, payload_bytes: int) -> int:
    """Return the index of an unchanged payload. Raises ``WrongDataError``."""
    if len(payload) != payload_bytes:
        raise WrongDataError(f"a record has {len(payload)} bytes instead of {payload_bytes}")
    index, crc = HEADER.unpack_from(payload)
    if zlib.crc32(memoryview(payload)[HEADER.size :], zlib.crc32(payload[: INDEX.size])) != crc:
        raise WrongDataError(f"the record with the index {index} was changed")
    return int(index)


def check_payloads(payloads: Iterable[bytes], *, count: int, payload_bytes: int, ordered_records: int) -> None:
    """Raise ``WrongDataError`` unless these are the first ``count`` payloads, each once and unchanged.

    ``ordered_records``: that many consecutive payloads came from one producer, who sent them in this order; they
    must have kept it. 1 asks for no order.
    """
    seen = bytearray(count)
    last_of_producer: dict[int, int] = {}
    for payload in payloads:
        index = check_payload(payload, payload_bytes)
        if index >= count:
            raise WrongDataError(f"a record with the index {index} was never put")
        if seen[index]:
            raise WrongDataError(f"the record with the index {index} is stored twice")
        seen[index] = 1
        if ordered_records > 1:
            producer = index // ordered_records
            if index < last_of_producer.get(producer, -1):
                raise WrongDataError(f"the record with the index {index} came before one that was put earlier")
            last_of_producer[producer] = index
    if lost := seen.count(0):
        raise WrongDataError(f"{lost} of {count} records are lost; the first has the index {seen.index(0)}")
