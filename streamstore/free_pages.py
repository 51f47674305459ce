"""The list of free pages: proves that LMDB may write to all that are on it, and that none is in use.

LMDB has every page that nothing uses on this list, by the number of the commit that left it. So the list also tells
whether a page that is said to be in use is one that an earlier commit left, and would show what was stored then. Every
commit but the first leaves some, for it moves the list of databases: so the list of the last one has its number.

No page that a commit has left is written to while a transaction goes on that sees less than this commit, and so none of
the pages of a list that is walked in a transaction.
"""

from bisect import bisect_left
from collections.abc import Iterator
from operator import neg
from typing import Final

from streamstore.page_reader import PageReader
from streamstore.pages import DamagedPageError, Meta, Tree, parse_free_pages

__all__ = ["LeftPages", "free_pages_by_commit", "newest_commit_that_left", "prove_free_pages", "staleness"]

WORD_BYTES: Final = 8


def staleness(reader: PageReader, newer: Meta, in_use: set[int], *, is_first: bool) -> str | None:
    """Return what shows that the newer meta page, or a page in use, is not of the last commit; None: nothing does.

    ``is_first``: no other commit is known, so that it need not have left any page. A damaged list shows nothing. Takes
    some 30 ms for each million free pages.
    """
    walk = _Walk(reader, newer)
    stale: int | None = None
    try:
        for _, value in walk.entries():
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
    for _, value in walk.entries():
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


def newest_commit_that_left(reader: PageReader, free: Tree) -> int | None:
    """Return the number of the newest commit that is on a list. ``DamagedPageError``: it cannot be found."""
    number = free.root
    for depth in range(free.depth, 0, -1):
        assert number is not None
        page = reader.page_of_free_list(number, is_leaf=depth == 1)
        if depth == 1:
            return int.from_bytes(page.keys[-1], "little")
        number = page.children[-1]
    return None


def free_pages_by_commit(reader: PageReader, meta: Meta) -> dict[int, list[int]]:
    """Return what is on the list. ``DamagedPageError`` or ``ValueError``: it is damaged."""
    return {number: parse_free_pages(value, meta.last_page) for number, value in _Walk(reader, meta).entries()}


class LeftPages:
    """The pages that commits up to the one that was found at the opening have left, and none has used again.

    A branch that leads to one of them was damaged while nobody had the file open. Ask in a transaction.
    """

    def __init__(self, reader: PageReader, found_commit: int) -> None:
        self._reader = reader
        self._found_commit = found_commit
        self._is_left: bytearray | None = None

    def has(self, number: int) -> bool:
        """Tell whether the page is one of them. A damaged list shows nothing."""
        if self._is_left is None:
            self._is_left = self._look()
        elif self._knows(number):
            self._is_left = self._look()  # a commit may have used it since
        return self._knows(number)

    def _knows(self, number: int) -> bool:
        return self._is_left is not None and number < len(self._is_left) and bool(self._is_left[number])

    def _look(self) -> bytearray:
        _, newer = self._reader.metas(alone=False)
        is_left = bytearray(newer.last_page + 1)
        try:
            for commit_number, value in _Walk(self._reader, newer).entries():
                # LMDB may put pages under an earlier commit than the one that left them, but none that a snapshot sees.
                if commit_number <= self._found_commit:
                    for number in parse_free_pages(value, newer.last_page):
                        is_left[number] = 1
        except (DamagedPageError, ValueError):
            return bytearray()
        return is_left


class _Walk:
    """A walk over the list that a meta page leads to. Behind its end it knows what it has come by."""

    def __init__(self, reader: PageReader, meta: Meta) -> None:
        self._reader = reader
        self._meta = meta
        self.pages: set[int] = set()
        """Those that the list is on."""
        self.has_newest = False
        """Whether there is an entry of the commit that wrote the meta page."""

    def entries(self) -> Iterator[tuple[int, bytes]]:
        """Yield the number of each commit and what it has left. ``DamagedPageError`` ends it."""
        free = self._meta.free
        waiting = [] if free.root is None else [(free.root, free.depth)]
        while waiting:
            number, depth = waiting.pop()
            if number in self.pages:
                raise DamagedPageError(number, "is in two places")
            self.pages.add(number)
            page = self._reader.page_of_free_list(number, is_leaf=depth == 1)
            waiting += [(child, depth - 1) for child in page.children]
            values = dict(page.values)
            for place, first_page, value_bytes in page.far_values:
                self.pages.update(self._reader.prove_far_value(first_page, value_bytes, is_exact=False))
                values[place] = self._reader.far_value(first_page, value_bytes)
            for place, value in values.items():
                commit_number = int.from_bytes(page.keys[place], "little")
                self.has_newest |= commit_number == self._meta.commit_number
                yield commit_number, value
