"""Shard-iterator and paging tokens: positions as opaque text. Pure; the time is passed in.

A token is the URL-safe Base64 of a packed position and a keyed BLAKE2 tag over it. The key belongs to the
store, so a damaged token and one of another store are refused alike, and reopening keeps tokens valid.
Never put anything into a token that its holder must not read: it is signed, not encrypted.
"""

import base64
import contextlib
import hmac
import re
import struct
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, NamedTuple

from streamstore.errors import (
    ExpiredIteratorException,
    ExpiredNextTokenException,
    InvalidArgumentException,
)
from streamstore.limits import (
    NEXT_TOKEN_ALIVE_MS,
    SHARD_ITERATOR_ALIVE_MS,
    TOKEN_CHARACTERS_MAX,
)
from streamstore.model import StreamNumber, TimeSpan

__all__ = [
    "ConsumersPage",
    "ShardPage",
    "ShardPosition",
    "StreamsPage",
    "encode_consumers_token",
    "encode_next_token",
    "encode_shard_iterator",
    "encode_streams_token",
    "parse_consumers_token",
    "parse_next_token",
    "parse_shard_iterator",
    "parse_shard_of_iterator",
    "parse_stream_of_token",
    "parse_streams_token",
]

CLOCK_SKEW_MS_MAX: Final = 10_000  # YDB: a token from the future is alive for this long
TAG_BYTES: Final = 12
SHARD_ITERATOR_LAYOUT: Final = struct.Struct(">BIIQQQ")
NEXT_TOKEN_LAYOUT: Final = struct.Struct(">BIIQQQ")
SHARD_ITERATOR_VERSION: Final = 3
STREAMS_TOKEN_LAYOUT: Final = struct.Struct(">BQ")
CONSUMERS_TOKEN_LAYOUT: Final = struct.Struct(">BIQ")
# Each differs from all others, so that no kind of token passes for another.
NEXT_TOKEN_VERSION: Final = 6
STREAMS_TOKEN_VERSION: Final = 4
CONSUMERS_TOKEN_VERSION: Final = 5
BASE64_PATTERN: Final = re.compile(r"[A-Za-z0-9_-]+={0,2}")


class ShardPosition(NamedTuple):
    """A place in a shard: the first record at or after ``sequence`` that arrived at or after ``not_before_ms``."""

    stream_name: str
    stream_number: StreamNumber
    shard_index: int
    sequence: int
    not_before_ms: int = 0


@dataclass(frozen=True, slots=True)
class ShardPage:
    """A place in the list of a stream's shards that were open in a span: behind ``after_shard_index``, -1 to start."""

    stream_name: str
    stream_number: StreamNumber
    after_shard_index: int
    open_in: TimeSpan


@dataclass(frozen=True, slots=True)
class StreamsPage:
    """A place in the list of streams: behind ``after_stream_name``, whether that still exists or not."""

    after_stream_name: str


@dataclass(frozen=True, slots=True)
class ConsumersPage:
    """A place in the list of a stream's consumers: behind ``after_consumer_name``, whether that still exists or not."""

    stream_number: StreamNumber
    after_consumer_name: str


def encode_shard_iterator(position: ShardPosition, *, now_ms: int, secret: bytes) -> str:
    return _encode(
        SHARD_ITERATOR_LAYOUT.pack(
            SHARD_ITERATOR_VERSION,
            position.stream_number,
            position.shard_index,
            position.sequence,
            position.not_before_ms,
            now_ms,
        )
        + position.stream_name.encode(),
        secret,
    )


def parse_shard_iterator(token: object, *, now_ms: int, secret: bytes) -> ShardPosition:
    payload = _parse(token, SHARD_ITERATOR_VERSION, secret, argument="shard_iterator")
    _, stream_number, shard_index, sequence, not_before_ms, created_ms = SHARD_ITERATOR_LAYOUT.unpack_from(payload)
    if not _alive(created_ms, now_ms, SHARD_ITERATOR_ALIVE_MS):
        raise ExpiredIteratorException(
            f"The shard iterator was made at {created_ms} ms, now is {now_ms} ms; it lives for "
            f"{SHARD_ITERATOR_ALIVE_MS} ms: call get_shard_iterator again."
        )
    stream_name = payload[SHARD_ITERATOR_LAYOUT.size :].decode()
    return ShardPosition(stream_name, StreamNumber(stream_number), shard_index, sequence, not_before_ms)


def encode_next_token(page: ShardPage, *, now_ms: int, secret: bytes) -> str:
    return _encode(
        NEXT_TOKEN_LAYOUT.pack(
            NEXT_TOKEN_VERSION,
            page.stream_number,
            page.after_shard_index,
            page.open_in.first_ms,
            page.open_in.last_ms,
            now_ms,
        )
        + page.stream_name.encode(),
        secret,
    )


def parse_next_token(token: object, *, now_ms: int, secret: bytes) -> ShardPage:
    payload = _parse(token, NEXT_TOKEN_VERSION, secret, argument="next_token")
    _, stream_number, after_shard_index, first_ms, last_ms, created_ms = NEXT_TOKEN_LAYOUT.unpack_from(payload)
    _refuse_expired_page(created_ms, now_ms)
    stream_name = payload[NEXT_TOKEN_LAYOUT.size :].decode()
    return ShardPage(stream_name, StreamNumber(stream_number), after_shard_index, TimeSpan(first_ms, last_ms))


def encode_streams_token(page: StreamsPage, *, now_ms: int, secret: bytes) -> str:
    return _encode(STREAMS_TOKEN_LAYOUT.pack(STREAMS_TOKEN_VERSION, now_ms) + page.after_stream_name.encode(), secret)


def parse_streams_token(token: object, *, now_ms: int, secret: bytes) -> StreamsPage:
    payload = _parse(token, STREAMS_TOKEN_VERSION, secret, argument="next_token")
    _, created_ms = STREAMS_TOKEN_LAYOUT.unpack_from(payload)
    _refuse_expired_page(created_ms, now_ms)
    return StreamsPage(payload[STREAMS_TOKEN_LAYOUT.size :].decode())


def encode_consumers_token(page: ConsumersPage, *, now_ms: int, secret: bytes) -> str:
    return _encode(
        CONSUMERS_TOKEN_LAYOUT.pack(CONSUMERS_TOKEN_VERSION, page.stream_number, now_ms)
        + page.after_consumer_name.encode(),
        secret,
    )


def parse_consumers_token(token: object, *, now_ms: int, secret: bytes) -> ConsumersPage:
    payload = _parse(token, CONSUMERS_TOKEN_VERSION, secret, argument="next_token")
    _, stream_number, created_ms = CONSUMERS_TOKEN_LAYOUT.unpack_from(payload)
    _refuse_expired_page(created_ms, now_ms)
    return ConsumersPage(StreamNumber(stream_number), payload[CONSUMERS_TOKEN_LAYOUT.size :].decode())


def parse_stream_of_token(token: object, *, secret: bytes) -> str | None:
    """Return the stream that a token of any kind and any age belongs to; None for a page in the list of streams."""
    for version, layout in ((SHARD_ITERATOR_VERSION, SHARD_ITERATOR_LAYOUT), (NEXT_TOKEN_VERSION, NEXT_TOKEN_LAYOUT)):
        with contextlib.suppress(InvalidArgumentException):
            return _parse(token, version, secret, argument="token")[layout.size :].decode()
    return None


def parse_shard_of_iterator(token: object, *, secret: bytes) -> tuple[str, int] | None:
    """Return the stream and the index of the shard that an iterator of any age is in; None if it is no iterator."""
    with contextlib.suppress(InvalidArgumentException):
        payload = _parse(token, SHARD_ITERATOR_VERSION, secret, argument="token")
        _, _, shard_index, *_ = SHARD_ITERATOR_LAYOUT.unpack_from(payload)
        return payload[SHARD_ITERATOR_LAYOUT.size :].decode(), shard_index
    return None


def _refuse_expired_page(created_ms: int, now_ms: int) -> None:
    if not _alive(created_ms, now_ms, NEXT_TOKEN_ALIVE_MS):
        raise ExpiredNextTokenException(
            f"The token was made at {created_ms} ms, now is {now_ms} ms; it lives for "
            f"{NEXT_TOKEN_ALIVE_MS} ms: start the listing again."
        )


def _encode(payload: bytes, secret: bytes) -> str:
    return base64.urlsafe_b64encode(payload + _tag(payload, secret)).decode("ascii")


def _parse(token: object, version: int, secret: bytes, *, argument: str) -> bytes:
    """Return the payload of a token that ``_encode`` made with this secret. Its tag proves its shape too."""
    if (
        isinstance(token, str)
        and len(token) <= TOKEN_CHARACTERS_MAX
        and BASE64_PATTERN.fullmatch(token)
        and len(token) % 4 == 0
    ):
        raw = base64.urlsafe_b64decode(token)
        payload = raw[:-TAG_BYTES]
        # Encoding again, rather than comparing tags, catches the unused bits of the last character too.
        if payload[:1] == bytes([version]) and hmac.compare_digest(_encode(payload, secret), token):
            return payload
    raise InvalidArgumentException(
        argument=argument, value=token, constraint="be a whole token that this store gave out"
    )


def _tag(payload: bytes, secret: bytes) -> bytes:
    return blake2b(payload, key=secret, digest_size=TAG_BYTES).digest()


def _alive(created_ms: int, now_ms: int, alive_ms: int) -> bool:
    return -CLOCK_SKEW_MS_MAX <= now_ms - created_ms < alive_ms
