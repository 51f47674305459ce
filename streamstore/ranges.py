"""What is proved of a database, as ranges of its keys. Knows keys, and never what proves them.

Objects here are changed by replacing what they hold as a whole, so other threads see no half of a change.
"""

from bisect import bisect_left, bisect_right
from typing import Final

__all__ = ["LEAVES_AHEAD_MIN", "Proved", "Ranges"]

LEAVES_AHEAD_MIN: Final = 32
LEAVES_AHEAD_MAX: Final = 256
"""Proved at once of what is read or deleted in order: twice as many each time, for the branches are read again."""


class Ranges:
    """Ranges of keys; the last one may be open."""

    __slots__ = ("_ranges",)

    def __init__(self) -> None:
        self._ranges: tuple[tuple[bytes, bytes | None], ...] = ()

    def around(self, key: bytes) -> tuple[bytes, bytes | None] | None:
        """Return the range that the key is in."""
        ranges = self._ranges
        place = bisect_right(ranges, key, key=_low)
        if place == 0:
            return None
        found = ranges[place - 1]
        return found if found[1] is None or key < found[1] else None

    def add(self, low: bytes, high: bytes | None) -> None:
        ranges = self._ranges
        start = bisect_left(ranges, low, key=_low)
        if start > 0 and _reaches(ranges[start - 1][1], low):
            start -= 1
        stop = start
        while stop < len(ranges) and _reaches(high, ranges[stop][0]):
            stop += 1
        if start < stop:
            low = min(low, ranges[start][0])
            last = ranges[stop - 1][1]
            high = None if high is None or last is None else max(high, last)
        self._ranges = (*ranges[:start], (low, high), *ranges[stop:])

    def are_all(self) -> bool:
        return self._ranges == ((b"", None),)


class Proved:
    """What is proved of a database: to which keys LMDB may go, which it may delete, and where nothing is hidden."""

    __slots__ = ("_leaves_ahead", "_next_key", "deletable", "reachable", "sound")

    def __init__(self) -> None:
        self.reachable = Ranges()
        self.deletable = Ranges()
        self.sound = Ranges()
        """Where each value was written at its key, so that a key that is not there never was."""
        self._leaves_ahead = LEAVES_AHEAD_MIN
        self._next_key: bytes | None = None

    def leaves_ahead(self, key: bytes) -> int:
        """Return how many leaves to prove from the key on."""
        in_order = key == self._next_key
        count = self._leaves_ahead = min(2 * self._leaves_ahead, LEAVES_AHEAD_MAX) if in_order else LEAVES_AHEAD_MIN
        return count

    def reached(self, next_key: bytes | None) -> None:
        """Remember to where that came: who goes on there reads in order."""
        self._next_key = next_key


def _low(one: tuple[bytes, bytes | None]) -> bytes:
    return one[0]


def _reaches(end: bytes | None, low: bytes) -> bool:
    return end is None or end >= low
