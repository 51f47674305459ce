"""What a target of the fuzzer is, and how its input is cut into what a decoder takes."""

import base64
import zlib
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

__all__ = ["BrokenLawError", "Pieces", "Target", "input_as_text", "input_of_text", "written"]

PIECE_BYTES_MAX: Final = 255
VALUES_OF_LIST: Final = 16
# Those that stand for themselves, and then those that are followed by what they are.
KINDS_OF_VALUE: Final[tuple[object, ...]] = (None, True, False, 1.5, "integer", "bytes", "text", "list")
INTEGER, BYTES, TEXT, LIST = range(4, 8)


class BrokenLawError(Exception):
    """What a decoder made of its input is not what it must be."""


class Target(NamedTuple):
    """Something that bytes of any kind are given to.

    ``look`` returns when they were refused by a typed error, or meant something that encodes back to the same. It
    raises everything else.
    """

    name: str
    look: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    """Inputs made of sound values, to begin with."""
    bytes_max: int = 512
    """Of an input."""
    ci_executions: int = 3_000


class Pieces:
    """Cuts an input from its beginning. Behind its end there are zeros, and empty pieces."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def number(self) -> int:
        """Return a byte."""
        number, self._data = self._data[:1], self._data[1:]
        return int.from_bytes(number, "big")

    def piece(self) -> bytes:
        """Return bytes whose length stands in front of them."""
        length = self.number()
        piece, self._data = self._data[:length], self._data[length:]
        return piece

    def fixed(self, length: int) -> bytes:
        """Return so many bytes."""
        piece, self._data = self._data[:length], self._data[length:]
        return piece.ljust(length, b"\0")

    def value(self, depth_left: int = 3) -> object:
        """Return a value of the kinds that msgpack has: whatever becomes of the input, it is one."""
        kind = self.number() % (len(KINDS_OF_VALUE) if depth_left else LIST)
        if kind == INTEGER:
            return int.from_bytes(self.fixed(8), "big", signed=True)
        if kind == BYTES:
            return self.piece()
        if kind == TEXT:
            return self.piece().decode("utf-8", "replace")
        if kind == LIST:
            return [self.value(depth_left - 1) for _ in range(self.number() % VALUES_OF_LIST)]
        return KINDS_OF_VALUE[kind]

    def rest(self) -> bytes:
        rest, self._data = self._data, b""
        return rest


def written(*parts: int | bytes) -> bytes:
    """Return an input that begins with these numbers and pieces; the rest is to be put behind it."""
    return b"".join(
        bytes([part]) if isinstance(part, int) else bytes([len(part)]) + part
        for part in parts
        if isinstance(part, int) or len(part) <= PIECE_BYTES_MAX
    )


def input_as_text(data: bytes) -> str:
    """Return an input as a word of a command line."""
    return base64.urlsafe_b64encode(zlib.compress(data, 9)).decode("ascii")


def input_of_text(text: str) -> bytes:
    return zlib.decompress(base64.urlsafe_b64decode(text))
