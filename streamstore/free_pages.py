"""The list of free pages: proves that LMDB may write to all that are on it, and that none is in use.

LMDB has every page that nothing uses on this list, by the number of the commit that left it. So the list also tells
whether a page that is said to be in use is one that an earlier commit left, and would show what was stored then. Every
commit but the first leaves some, for it moves the list of databases: so the list of the last one has its number.
"""

from bisect import bisect_left
from collections.abc import Iterator
from operator import neg
from typing import Final

from streamstore.page_reader import PageReader
from streamstore.pages import DamagedPageError, Meta, parse_free_pages, parse_page

__all__ = ["prove_free_pages", "staleness"]

WORD_BYTES: Final = 8


def staleness(reader: PageReader, newer: Meta, in_use: set[int], *, is_first: bool) -> str | None:
    """Return what shows that the newer meta page, or a page in use, is not of the last commit; None: nothing does.

    ``is_first``: no other commit is known, so that it need not have left any page. A damaged list shows nothing. Takes
    some 30 ms for each million free pages.
    """
    walk = _Walk(reader, newer)
    stale: int | None = None
    try:
        for value in walk.entries():
            numbers = memoryview(value[: len(value) // WORD_BYTES * WORD_BYTES]).cast("Q")[1:]
            for number in in_use:
                place = bisect_left(numbers, -number, key=neg)  # they fall
                if place < len(numbers) and numbers[place] == number:
                    stale = number
    except DamagedPageError:
        return None
    if not (is_first or walk.has_newest):
        return f"it is not of commit {newer.commit_number}, which has left no page"
    return None if stale is None else f"it leads to page {stale}, which an earlier commit has left"


def prove_free_pages(reader: PageReader, newer: Meta, in_use: set[int], *, is_first: bool) -> None:
    """Prove the whole list, or raise ``DamagedPageError`` or ``ValueError``. ``is_first``: as above."""
    walk = _Walk(reader, newer)
    is_free = bytearray(newer.last_page + 1)
    count = 0
    for value in walk.entries():
        numbers = parse_free_pages(value, newer.last_page)
        count += len(numbers)
        for number in numbers:
            is_free[number] = 1
    if sum(is_free) != count:
        raise ValueError("it names a page twice")
    if not (is_first or walk.has_newest):
        raise ValueError(f"it does not name what commit {newer.commit_number} has left")
    if walk.pages & in_use:
        raise ValueError(f"it is on page {min(walk.pages & in_use)}, which is in use otherwise")
    for number in walk.pages | in_use:
        if number > newer.last_page or is_free[number]:
            raise ValueError(f"it names page {number}, which is in use")


class _Walk:
    """A walk over the list that a meta page leads to. Behind its end it knows what it has come by."""

    def __init__(self, reader: PageReader, meta: Meta) -> None:
        self._reader = reader
        self._meta = meta
        self.pages: set[int] = set()
        """Those that the list is on."""
        self.has_newest = False
        """Whether there is an entry of the commit that wrote the meta page."""

    def entries(self) -> Iterator[bytes]:
        """Yield what each commit has left. ``DamagedPageError`` ends it."""
        free = self._meta.free
        waiting = [] if free.root is None else [(free.root, free.depth)]
        while waiting:
            number, depth = waiting.pop()
            if number in self.pages:
                raise DamagedPageError(number, "is in two places")
            self.pages.add(number)
            page = parse_page(self._reader.page_at(number), number, is_free_list=True)
            if bool(page.children) == (depth == 1):
                raise DamagedPageError(number, "is not as deep in its tree as it should be")
            waiting += [(child, depth - 1) for child in page.children]
            values = dict(page.values)
            for place, first_page, value_bytes in page.far_values:
                self.pages.update(self._reader.prove_far_value(first_page, value_bytes, is_exact=False))
                values[place] = self._reader.far_value(first_page, value_bytes)
            for place, value in values.items():
                self.has_newest |= int.from_bytes(page.keys[place], "little") == self._meta.commit_number
                yield value
