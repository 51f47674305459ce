"""Laws of the tokens: only a whole token of this store, of the right kind and not too old, means anything."""

import string
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamstore import ExpiredIteratorException, ExpiredNextTokenException, InvalidArgumentException
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
    parse_streams_token,
)
from streamstore.model import StreamNumber

SECRET = b"s" * 32
NOW_MS = 1_700_000_000_000
POSITION = ShardPosition("clicks", StreamNumber(3), 2, 77, 1_699_999_999_999)
PAGE = ShardPage("clicks", StreamNumber(3), 2)

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
times_ms = st.integers(0, 2**60)
secrets = st.binary(min_size=32, max_size=32)
stream_names = st.from_regex(r"[a-zA-Z0-9-]{1,128}", fullmatch=True)
positions = st.builds(ShardPosition, stream_names, u32.map(StreamNumber), u32, u64, u64)
pages = st.builds(ShardPage, stream_names, u32.map(StreamNumber), u32)
streams_pages = st.builds(StreamsPage, stream_names)
consumers_pages = st.builds(
    ConsumersPage, u32.map(StreamNumber), st.from_regex(r"[a-zA-Z0-9_.-]{1,128}", fullmatch=True)
)


@dataclass(frozen=True)
class Kind:
    """A kind of token: how a place of it is written and read."""

    encode: Callable[[int], str]
    parse: Callable[[object, int], object]
    place: object


def kinds_of(position: ShardPosition, page: ShardPage, streams: StreamsPage, consumers: ConsumersPage) -> list[Kind]:
    return [
        Kind(
            lambda now_ms: encode_shard_iterator(position, now_ms=now_ms, secret=SECRET),
            lambda token, now_ms: parse_shard_iterator(token, now_ms=now_ms, secret=SECRET),
            position,
        ),
        Kind(
            lambda now_ms: encode_next_token(page, now_ms=now_ms, secret=SECRET),
            lambda token, now_ms: parse_next_token(token, now_ms=now_ms, secret=SECRET),
            page,
        ),
        Kind(
            lambda now_ms: encode_streams_token(streams, now_ms=now_ms, secret=SECRET),
            lambda token, now_ms: parse_streams_token(token, now_ms=now_ms, secret=SECRET),
            streams,
        ),
        Kind(
            lambda now_ms: encode_consumers_token(consumers, now_ms=now_ms, secret=SECRET),
            lambda token, now_ms: parse_consumers_token(token, now_ms=now_ms, secret=SECRET),
            consumers,
        ),
    ]


KINDS = kinds_of(POSITION, PAGE, StreamsPage("clicks"), ConsumersPage(StreamNumber(3), "billing"))
PAGE_KINDS = KINDS[1:]


def name_of(kind: Kind) -> str:
    return type(kind.place).__name__


def argument_of(kind: Kind) -> str:
    return "next_token" if kind in PAGE_KINDS else "shard_iterator"


@given(positions, times_ms, secrets)
def test_a_shard_iterator_reads_as_written(position: ShardPosition, now_ms: int, secret: bytes) -> None:
    token = encode_shard_iterator(position, now_ms=now_ms, secret=secret)
    assert 1 <= len(token) <= 512
    assert parse_shard_iterator(token, now_ms=now_ms, secret=secret) == position


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_any_changed_character_is_refused(kind: Kind) -> None:
    token = kind.encode(NOW_MS)
    for index, character in enumerate(token):
        for other in set(string.printable + "é") - {character}:
            with pytest.raises(InvalidArgumentException) as refusal:
                kind.parse(token[:index] + other + token[index + 1 :], NOW_MS)
            assert refusal.value.argument == argument_of(kind)


def test_any_shortened_or_lengthened_token_is_refused() -> None:
    token = encode_shard_iterator(POSITION, now_ms=NOW_MS, secret=SECRET)
    shortened = [token[:length] for length in range(len(token))] + [token[start:] for start in range(1, len(token))]
    lengthened = [token + extra for extra in ("=", "==", "A", "AAAA", "\n", " ", token)] + [" " + token]
    for changed in shortened + lengthened:
        with pytest.raises(InvalidArgumentException):
            parse_shard_iterator(changed, now_ms=NOW_MS, secret=SECRET)


@pytest.mark.parametrize("token", [None, 5, True, b"AAAA", "", "A" * 513, "=" * 4, "ключ", "\ud800", ["AAAA"]])
def test_what_is_no_token_is_refused(token: object) -> None:
    for kind in KINDS:
        with pytest.raises(InvalidArgumentException):
            kind.parse(token, NOW_MS)


@given(st.text())
def test_garbage_is_refused_as_invalid_and_never_as_expired(text: str) -> None:
    with pytest.raises(InvalidArgumentException):
        parse_shard_iterator(text, now_ms=NOW_MS, secret=SECRET)


@given(positions, secrets, secrets)
def test_a_token_of_another_store_is_refused(position: ShardPosition, secret: bytes, other_secret: bytes) -> None:
    if secret != other_secret:
        token = encode_shard_iterator(position, now_ms=NOW_MS, secret=secret)
        with pytest.raises(InvalidArgumentException):
            parse_shard_iterator(token, now_ms=NOW_MS, secret=other_secret)


@given(positions, pages, streams_pages, consumers_pages, times_ms)
def test_every_kind_of_token_reads_as_written(
    position: ShardPosition, page: ShardPage, streams: StreamsPage, consumers: ConsumersPage, now_ms: int
) -> None:
    for kind in kinds_of(position, page, streams, consumers):
        token = kind.encode(now_ms)
        assert 1 <= len(token) <= 512
        assert kind.parse(token, now_ms) == kind.place


@given(positions, pages, streams_pages, consumers_pages)
def test_no_kind_of_token_passes_for_another(
    position: ShardPosition, page: ShardPage, streams: StreamsPage, consumers: ConsumersPage
) -> None:
    for kind, other in permutations(kinds_of(position, page, streams, consumers), 2):
        with pytest.raises(InvalidArgumentException):
            other.parse(kind.encode(NOW_MS), NOW_MS)


def test_a_next_token_as_long_as_a_shard_iterator_does_not_pass_for_one() -> None:
    page = replace(PAGE, stream_name="x" * 22)
    token = encode_next_token(page, now_ms=NOW_MS, secret=SECRET)
    assert len(token) == len(encode_shard_iterator(POSITION, now_ms=NOW_MS, secret=SECRET))
    with pytest.raises(InvalidArgumentException):
        parse_shard_iterator(token, now_ms=NOW_MS, secret=SECRET)


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_a_token_is_alive_for_299_999_ms_and_expired_at_300_000(kind: Kind) -> None:
    token = kind.encode(NOW_MS)
    assert kind.parse(token, NOW_MS + 299_999) == kind.place
    with pytest.raises(ExpiredNextTokenException if kind in PAGE_KINDS else ExpiredIteratorException):
        kind.parse(token, NOW_MS + 300_000)


def test_a_token_from_the_future_is_alive_while_the_clock_is_at_most_10_s_behind() -> None:
    iterator = encode_shard_iterator(POSITION, now_ms=NOW_MS, secret=SECRET)
    assert parse_shard_iterator(iterator, now_ms=NOW_MS - 10_000, secret=SECRET) == POSITION
    with pytest.raises(ExpiredIteratorException):
        parse_shard_iterator(iterator, now_ms=NOW_MS - 10_001, secret=SECRET)
