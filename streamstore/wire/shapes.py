"""What a request may look like, as data: the types of its members and their constraints.

A shape takes a decoded JSON or CBOR value apart twice. ``parse`` proves its types, because nothing can be said of a
name that is a number; ``violations`` says which constraints the typed value breaks. The rules themselves are those of
``limits.py``, ``dialect.py`` and the rooms of ``validate.py``; this room only knows how AWS words them.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeGuard

import pybase64

__all__ = [
    "Blob",
    "Flag",
    "ListOf",
    "MapOf",
    "Member",
    "Moment",
    "Shape",
    "Structure",
    "Text",
    "Time",
    "Violation",
    "Whole",
    "WrongTypeError",
]

INT_MIN: Final = -(2**31)
INT_MAX: Final = 2**31 - 1
NOT_BASE64: Final = re.compile(r"[^a-zA-Z0-9+/=]|=[^=]")
SHOWN_CHARACTERS_MAX: Final = 2_048
NONE_BROKEN: Final[Sequence[str]] = ()


class WrongTypeError(Exception):
    """A member has a value of another type than its shape; the text is what the service says."""


class Moment:
    """A time on the wire, in milliseconds since 1970: what JSON writes as seconds, and CBOR with tag 1.

    No dataclass, because msgspec would write one as a map.
    """

    __slots__ = ("ms",)

    def __init__(self, ms: int) -> None:
        self.ms: Final = ms

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Moment) and self.ms == other.ms

    def __hash__(self) -> int:
        return hash(self.ms)

    def __repr__(self) -> str:
        return f"Moment({self.ms})"


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken constraint: ``value`` as the service prints it, ``path`` in lowerCamelCase."""

    value: str
    path: str
    constraint: str

    def __str__(self) -> str:
        return f"Value {self.value} at '{self.path}' failed to satisfy constraint: {self.constraint}"


NO_VIOLATIONS: Final[Sequence[Violation]] = ()


class Shape(ABC):
    """The type of a value and its constraints."""

    @abstractmethod
    def parse(self, value: object, *, refuse_unknown: bool) -> object:
        """Return the value as Python has it. Raises ``WrongTypeError``."""

    @abstractmethod
    def violations(self, value: object, path: str) -> Sequence[Violation]:
        """Return what a parsed value breaks."""


@dataclass(frozen=True, slots=True)
class Text(Shape):
    """A str. ``pattern`` must match all of it."""

    characters_min: int = 0
    characters_max: int | None = None
    pattern: re.Pattern[str] | None = None
    choices: tuple[str, ...] = ()

    def parse(self, value: object, *, refuse_unknown: bool) -> str:
        del refuse_unknown
        if isinstance(value, str):
            return value
        raise WrongTypeError(_unconvertible(value, "an String"))

    def violations(self, value: object, path: str) -> Sequence[Violation]:
        assert isinstance(value, str)
        broken: list[str] = []
        if self.choices and value not in self.choices:
            broken.append(f"Member must satisfy enum value set: [{', '.join(self.choices)}]")
        if self.pattern is not None and self.pattern.fullmatch(value) is None:
            pattern = self.pattern.pattern.replace("[0-9]", r"\d")
            broken.append(f"Member must satisfy regular expression pattern: {pattern}")
        broken += _broken_lengths(len(value), self.characters_min, self.characters_max)
        return [Violation(_quoted(value), path, constraint) for constraint in broken] if broken else NO_VIOLATIONS


@dataclass(frozen=True, slots=True)
class Blob(Shape):
    """Bytes: raw in CBOR, in strict Base64 in JSON."""

    bytes_max: int

    def parse(self, value: object, *, refuse_unknown: bool) -> bytes:
        del refuse_unknown
        if isinstance(value, bytes):
            return value
        if isinstance(value, str):
            return _parse_base64(value)
        raise WrongTypeError(_unconvertible(value, "a Blob"))

    def violations(self, value: object, path: str) -> Sequence[Violation]:
        assert isinstance(value, bytes)
        size = len(value)
        broken = _broken_lengths(size, 0, self.bytes_max)
        if not broken:
            return NO_VIOLATIONS
        shown = f"'java.nio.HeapByteBuffer[pos=0 lim={size} cap={size}]'"
        return [Violation(shown, path, constraint) for constraint in broken]


@dataclass(frozen=True, slots=True)
class Whole(Shape):
    """An int. Fractions are cut off and huge values clamped, as the service does."""

    minimum: int | None = None
    maximum: int | None = None

    def parse(self, value: object, *, refuse_unknown: bool) -> int:
        del refuse_unknown
        if not _is_number(value):
            raise WrongTypeError(_unconvertible(value, "an Integer"))
        return int(min(max(value, INT_MIN), INT_MAX))

    def violations(self, value: object, path: str) -> Sequence[Violation]:
        assert isinstance(value, int)
        if self.minimum is not None and value < self.minimum:
            return [Violation(f"'{value}'", path, f"Member must have value greater than or equal to {self.minimum}")]
        if self.maximum is not None and value > self.maximum:
            return [Violation(f"'{value}'", path, f"Member must have value less than or equal to {self.maximum}")]
        return NO_VIOLATIONS


@dataclass(frozen=True, slots=True)
class Flag(Shape):
    """A bool."""

    def parse(self, value: object, *, refuse_unknown: bool) -> bool:
        del refuse_unknown
        if isinstance(value, bool):
            return value
        raise WrongTypeError(_unconvertible(value, "an Boolean"))

    def violations(self, value: object, path: str) -> Sequence[Violation]:
        del value, path
        return NO_VIOLATIONS


@dataclass(frozen=True, slots=True)
class Time(Shape):
    """A point in time: seconds since 1970 in JSON, a ``Moment`` from CBOR. Parsed to seconds."""

    def parse(self, value: object, *, refuse_unknown: bool) -> float:
        del refuse_unknown
        if isinstance(value, Moment):
            return value.ms / 1000
        if _is_number(value):
            return value
        raise WrongTypeError(_unconvertible(value, "a Timestamp"))

    def violations(self, value: object, path: str) -> Sequence[Violation]:
        del value, path
        return NO_VIOLATIONS


@dataclass(frozen=True, slots=True)
class ListOf(Shape):
    """A list of values of one shape."""

    member: Shape
    length_min: int = 0
    length_max: int | None = None

    def parse(self, value: object, *, refuse_unknown: bool) -> list[object]:
        if not _is_list(value):
            raise WrongTypeError(_unexpected_structure(value, "list"))
        # One too many is as wrong as a million, which would take seconds.
        looked_at = value if self.length_max is None else value[: self.length_max + 1]
        return [self.member.parse(_not_null(member), refuse_unknown=refuse_unknown) for member in looked_at]

    def violations(self, value: object, path: str) -> Sequence[Violation]:
        assert _is_list(value)
        shown = _quoted(f"[{', '.join(member if isinstance(member, str) else '...' for member in value)}]")
        broken = [
            Violation(shown, path, constraint)
            for constraint in _broken_lengths(len(value), self.length_min, self.length_max)
        ]
        for number, member in enumerate(value, start=1):
            broken += self.member.violations(member, f"{path}.{number}.member")
        return broken


@dataclass(frozen=True, slots=True)
class MapOf(Shape):
    """A map of text to values of one shape."""

    key: Text
    value: Shape
    length_min: int = 0
    length_max: int | None = None

    def parse(self, value: object, *, refuse_unknown: bool) -> dict[str, object]:
        if not _is_map(value):
            raise WrongTypeError(_unexpected_structure(value, "map"))
        return {
            self.key.parse(key, refuse_unknown=refuse_unknown): self.value.parse(
                _not_null(value[key]), refuse_unknown=refuse_unknown
            )
            for key in value
        }

    def violations(self, value: object, path: str) -> Sequence[Violation]:
        assert _is_map(value)
        shown = _quoted(f"{{{', '.join(f'{key}={value[key]}' for key in value)}}}")
        broken = [
            Violation(shown, path, constraint)
            for constraint in _broken_lengths(len(value), self.length_min, self.length_max)
        ]
        for key in value:
            broken += self.key.violations(key, f"{path}.key")
            broken += self.value.violations(value[key], f"{path}.{key}.member")
        return broken


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a structure. One that is not required may be left out, or be null."""

    shape: Shape
    required: bool = False


@dataclass(frozen=True, slots=True)
class Structure(Shape):
    """A map with known members. ``first_of`` names members of which one is needed: the first, where none is given."""

    members: Mapping[str, Member]
    first_of: tuple[str, ...] = ()
    _in_order: tuple[tuple[str, Shape, bool, str], ...] = field(init=False)
    """Of each member its name, shape, whether it is required, and its name in lowerCamelCase."""

    def __post_init__(self) -> None:
        in_order = tuple(
            (name, member.shape, member.required, name[0].lower() + name[1:]) for name, member in self.members.items()
        )
        object.__setattr__(self, "_in_order", in_order)

    def parse(self, value: object, *, refuse_unknown: bool) -> dict[str, object]:
        if not _is_map(value):
            raise WrongTypeError(_unexpected_structure(value, "map"))
        if refuse_unknown:
            for name in value:
                if name not in self.members:
                    raise WrongTypeError(f"Unexpected json key: {_cut(str(name))}")
        return {
            name: shape.parse(given, refuse_unknown=refuse_unknown)
            for name, shape, _, _ in self._in_order
            if (given := value.get(name)) is not None
        }

    def violations(self, value: object, path: str) -> Sequence[Violation]:
        assert _is_map(value)
        prefix = path and f"{path}."
        lacks_one = bool(self.first_of) and value.keys().isdisjoint(self.first_of)
        broken: list[Violation] = []
        for name, shape, is_required, own_path in self._in_order:
            if name in value:
                broken += shape.violations(value[name], prefix + own_path)
            elif is_required or (lacks_one and name == self.first_of[0]):
                broken.append(Violation("null", prefix + own_path, "Member must not be null"))
        return broken


def _broken_lengths(length: int, length_min: int, length_max: int | None) -> Sequence[str]:
    if length < length_min:
        return [f"Member must have length greater than or equal to {length_min}"]
    if length_max is not None and length > length_max:
        return [f"Member must have length less than or equal to {length_max}"]
    return NONE_BROKEN


def _parse_base64(text: str) -> bytes:
    """Decode what encodes back to the same text; everything else is refused in the words of the service."""
    try:
        data = pybase64.b64decode(text, validate=True)
        # The last characters may have bits that are in no byte, or the padding of none.
        if text.endswith(pybase64.b64encode_as_string(data[-(len(data) % 3 or 3) :])):
            return data
    except ValueError:
        pass
    shown = f"'{_cut(text)}' can not be converted to a Blob: "
    if len(text) % 4:
        raise WrongTypeError(f"{shown}Base64 encoded length is expected a multiple of 4 bytes but found: {len(text)}")
    wrong = NOT_BASE64.search(text)
    if wrong is not None:
        raise WrongTypeError(f"{shown}Invalid Base64 character: '{wrong[0][0]}'")
    raise WrongTypeError(f"{shown}Invalid last non-pad Base64 character dectected")


def _unconvertible(value: object, wanted: str) -> str:
    if isinstance(value, bool):
        return f"class java.lang.Boolean can not be converted to {wanted}"
    if isinstance(value, (int, float)):
        return f"class com.amazon.coral.value.json.numbers.TruncatingBigNumber can not be converted to {wanted}"
    if isinstance(value, str):
        return f"class java.lang.String can not be converted to {wanted}"
    if isinstance(value, list):
        return "Start of list found where not expected"
    if isinstance(value, dict):
        return "Start of structure or map found where not expected."
    return f"A value of this type can not be converted to {wanted}"


def _unexpected_structure(value: object, wanted: str) -> str:
    if isinstance(value, list):
        return "Start of list found where not expected"
    if isinstance(value, dict):
        return "Start of structure or map found where not expected."
    return f"Expected {wanted} or null"


def _not_null(value: object) -> object:
    if value is None:
        raise WrongTypeError("A list or map must not hold null")
    return value


def _quoted(text: str) -> str:
    return f"'{_cut(text)}'"


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[:SHOWN_CHARACTERS_MAX]}..."


def _is_number(value: object) -> TypeGuard[int | float]:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _is_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)


def _is_map(value: object) -> TypeGuard[Mapping[object, object]]:
    return isinstance(value, dict)
