"""Malformed values as Hypothesis finds them: it begins small, and tells the smallest call that goes wrong.

It takes 25 times as long for a call as the dice of ``tools.torture.malformed`` (5.8 ms of CPU to 0.23 ms, the call
included): 100,000 calls would be ten minutes. So those make the many, and this looks into each.
"""

import string
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

import msgpack
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st

from streamstore.dialect import AWS, YANDEX
from tools.torture.malformed import (
    NUMBERS,
    OBJECTS,
    SOUND,
    TAKEN_FROM_THE_FILE,
    TOKENS_TAKEN,
    WORDS,
    Call,
)
from tools.torture.refusals import ACCEPTED, REFUSED

__all__ = ["look_for_calls"]

T = TypeVar("T")

Arguments = Mapping[str, object]


class _Given:
    """Arguments, which Hypothesis must not show: not all of them have a repr."""

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments


class _WrongError(Exception):
    """A call did what it must not."""


def look_for_calls(
    call: Call, tokens: Sequence[str], make: Callable[[Arguments], str], *, examples: int, seeded: str
) -> tuple[dict[str, int], str | None]:
    """Make so many calls. Return how often each word came, and what the smallest call that is wrong does, if any."""
    counts: dict[str, int] = {}

    @seed(seeded)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
        phases=(Phase.generate, Phase.shrink),
        verbosity=Verbosity.quiet,
        report_multiple_bugs=False,
    )
    @given(_arguments(call, tokens))
    def law(drawn: _Given) -> None:
        told = make(drawn.arguments)
        if told not in (REFUSED, ACCEPTED):
            raise _WrongError(told)
        counts[told] = counts.get(told, 0) + 1

    try:
        law()
    except _WrongError as error:
        return counts, str(error)
    return counts, None


@st.composite
def _arguments(draw: st.DrawFn, call: Call, tokens: Sequence[str]) -> _Given:
    """Return the arguments of a call, one or two of which may be anything: more would hide each other."""
    wrong: set[str] = set()
    if call.untrusted:
        wrong = draw(st.sets(st.sampled_from(call.untrusted), min_size=1, max_size=2))
    names = sorted({*call.needed, *wrong})
    return _Given({name: draw(_value_of(name, call, tokens, is_wrong=name in wrong)) for name in names})


def _value_of(name: str, call: Call, tokens: Sequence[str], *, is_wrong: bool) -> st.SearchStrategy[object]:
    if is_wrong:
        return _VALUES | _damaged(tokens)
    is_of_file = name in TAKEN_FROM_THE_FILE and name not in call.untrusted
    return _BYTES if is_of_file else _sound(name, tokens)


def _sound(name: str, tokens: Sequence[str]) -> st.SearchStrategy[object]:
    if name == "dialect":
        return _one_of_these((YANDEX, AWS))
    if name == "kind":
        return _one_of_these(("LATEST", "AT_TIMESTAMP", "AT_SEQUENCE_NUMBER", "TRIM_HORIZON"))
    if name in TOKENS_TAKEN:
        return _one_of_these(tokens)
    return st.just(SOUND.get(name))


def _one_of_these(values: Sequence[T]) -> st.SearchStrategy[T]:
    """Like ``sampled_from``, which shows all of them."""
    return st.integers(0, len(values) - 1).map(values.__getitem__)


@st.composite
def _damaged(draw: st.DrawFn, tokens: Sequence[str]) -> str:
    """Return a text with one character too few, too many, or another."""
    text = draw(_one_of_these((*tokens, "shard-000000", "TRIM_HORIZON", "s/consumer/c:1700000000")))
    place = draw(st.integers(0, len(text) - 1))
    character = draw(st.sampled_from(string.printable))
    return text[:place] + draw(st.sampled_from(("", character, character + text[place]))) + text[place + 1 :]


_TEXTS: Final = st.text(max_size=30) | _one_of_these(WORDS)
_SCALARS: Final = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), _TEXTS, st.binary(max_size=30), st.datetimes()
)
_VALUES: Final[st.SearchStrategy[object]] = st.recursive(
    _SCALARS | _one_of_these(NUMBERS) | _one_of_these(OBJECTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(_TEXTS | st.integers(), inner, max_size=2),
    ),
    max_leaves=6,
)
_PACKED: Final = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(),
        st.text(max_size=9),
        st.binary(max_size=40),
    ),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=12,
)
_BYTES: Final = st.binary(max_size=60) | _PACKED.map(msgpack.packb)
