"""Shard iterators and paging tokens: any text, and tokens that the store has given out, whole and damaged."""

import base64
from collections.abc import Callable, Sequence
from typing import Final

from streamstore.errors import ExpiredIteratorException, ExpiredNextTokenException, InvalidArgumentException
from streamstore.iterator import (
    ConsumersPage,
    ShardPage,
    ShardPosition,
    StreamsPage,
    encode_consumers_token,
    encode_next_token,
    encode_shard_iterator,
    encode_streams_token,
    parse_consumers_token,
    parse_next_token,
    parse_shard_iterator,
    parse_shard_of_iterator,
    parse_stream_of_token,
    parse_streams_token,
)
from streamstore.model import StreamNumber, TimeSpan
from tools.torture.targets.target import BrokenLawError, Pieces, Target, written

__all__ = ["TARGETS"]

Page = ShardPosition | ShardPage | StreamsPage | ConsumersPage

SECRET: Final = bytes(range(32))
NOW_MS: Final = 1_700_000_000_000
NAME_CHARACTERS_MAX: Final = 128
EXPIRED: Final = (ExpiredIteratorException, ExpiredNextTokenException)
PARSERS: Final[tuple[Callable[[object], Page], ...]] = (
    lambda token: parse_shard_iterator(token, now_ms=NOW_MS, secret=SECRET),
    lambda token: parse_next_token(token, now_ms=NOW_MS, secret=SECRET),
    lambda token: parse_streams_token(token, now_ms=NOW_MS, secret=SECRET),
    lambda token: parse_consumers_token(token, now_ms=NOW_MS, secret=SECRET),
)


def _look_at_text(data: bytes) -> None:
    """Any text. Nobody but the store can make one that is good."""
    for text in (
        data.decode("utf-8", "surrogateescape"),
        data.decode("latin-1"),
        base64.urlsafe_b64encode(data).decode(),
    ):
        if text in GIVEN_OUT:
            continue
        _expect_refusal(text, PARSERS)
        if parse_stream_of_token(text, secret=SECRET) is not None:
            raise BrokenLawError(f"{text!r} is of a stream")
        if parse_shard_of_iterator(text, secret=SECRET) is not None:
            raise BrokenLawError(f"{text!r} is of a shard")


def _look_at_token(data: bytes) -> None:
    """A token of the store must come back as it was, be of no other kind, and be whole."""
    pieces = Pieces(data)
    kind, created_ms = pieces.number() % len(PARSERS), int.from_bytes(pieces.fixed(8), "big")
    damage, place = pieces.number(), pieces.number()
    page, token = _token(kind, created_ms, pieces)
    try:
        if PARSERS[kind](token) != page:
            raise BrokenLawError(f"{page} came back otherwise")
    except EXPIRED:
        pass
    shard = (page.stream_name, page.shard_index) if isinstance(page, ShardPosition) else None
    if parse_shard_of_iterator(token, secret=SECRET) != shard:
        raise BrokenLawError(f"{page} is of another shard")
    _expect_refusal(token, [parser for number, parser in enumerate(PARSERS) if number != kind])
    at = place % len(token)
    damaged = token[:at] + chr(damage) + token[at + 1 :]
    if damaged != token:
        _expect_refusal(damaged, PARSERS)


def _token(kind: int, created_ms: int, pieces: Pieces) -> tuple[Page, str]:
    numbers = [int.from_bytes(pieces.fixed(size), "big") for size in (4, 4, 8, 8)]
    number, index, first, second = StreamNumber(numbers[0]), *numbers[1:]
    name = pieces.rest()[:NAME_CHARACTERS_MAX].decode("ascii", "replace").replace("\ufffd", "?")
    if kind == 0:
        position = ShardPosition(name, number, index, first, second)
        return position, encode_shard_iterator(position, now_ms=created_ms, secret=SECRET)
    if kind == 1:
        page = ShardPage(name, number, index, TimeSpan(first, second))
        return page, encode_next_token(page, now_ms=created_ms, secret=SECRET)
    if kind == 2:
        return StreamsPage(name), encode_streams_token(StreamsPage(name), now_ms=created_ms, secret=SECRET)
    consumers = ConsumersPage(number, name)
    return consumers, encode_consumers_token(consumers, now_ms=created_ms, secret=SECRET)


def _expect_refusal(token: str, parsers: Sequence[Callable[[object], Page]]) -> None:
    for parse in parsers:
        try:
            page = parse(token)
        except InvalidArgumentException:
            continue
        raise BrokenLawError(f"{token!r} passed for {page}")


GIVEN_OUT: Final = [_token(kind, NOW_MS, Pieces(b"\1" * 24 + b"s"))[1] for kind in range(len(PARSERS))]
TARGETS: Final = (
    Target("token-text", _look_at_text, lambda: [token.encode() for token in GIVEN_OUT]),
    Target(
        "token",
        _look_at_token,
        lambda: [
            written(kind) + NOW_MS.to_bytes(8, "big") + written(65, 3) + b"\1" * 24 + b"s"
            for kind in range(len(PARSERS))
        ],
    ),
)
