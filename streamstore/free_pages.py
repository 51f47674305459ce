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


def staleness(reader: PageReader, older: Meta, newer: Meta, in_use: set[int]) -> str | None:
    """Return what shows that the newer meta page, or a page in use, is not of the last commit; None: nothing does.

    ``older``, ``newer``: what the meta pages say. A damaged list shows nothing. Takes some 30 ms for each million free
    pages.
    """
    stale: int | None = None
    is_newest = older.main.root is None
    try:
        for commit_number, value in _entries(reader, newer, set()):
            numbers = memoryview(value[: len(value) // WORD_BYTES * WORD_BYTES]).cast("Q")[1:]
            for number in in_use:
                place = bisect_left(numbers, -number, key=neg)  # they fall
                if place < len(numbers) and numbers[place] == number:
                    stale = number
            is_newest = is_newest or commit_number == newer.commit_number
    except DamagedPageError:
        return None
    if not is_newest:
        return f"it is not of commit {newer.commit_number}, which has left no page"
    return None if stale is None else f"it leads to page {stale}, which an earlier commit has left"


def prove_free_pages(reader: PageReader, older: Meta, newer: Meta, in_use: set[int]) -> None:
    """Prove the whole list, or raise ``DamagedPageError`` or ``ValueError``."""
    own_pages: set[int] = set()
    is_free = bytearray(newer.last_page + 1)
    count = 0
    is_newest = older.main.root is None
    for commit_number, value in _entries(reader, newer, own_pages):
        numbers = parse_free_pages(value, newer.last_page)
        count += len(numbers)
        for number in numbers:
            is_free[number] = 1
        is_newest = is_newest or commit_number == newer.commit_number
    if sum(is_free) != count:
        raise ValueError("it names a page twice")
    if not is_newest:
        raise ValueError(f"it does not name what commit {newer.commit_number} has left")
    if own_pages & in_use:
        raise ValueError(f"it is on page {min(own_pages & in_use)}, which is in use otherwise")
    for number in own_pages | in_use:
        if number > newer.last_page or is_free[number]:
            raise ValueError(f"it names page {number}, which is in use")


def _entries(reader: PageReader, meta: Meta, own_pages: set[int]) -> Iterator[tuple[int, bytes]]:
    """Yield the number of each commit and what it left, and collect the pages that the list is on."""
    waiting = [] if meta.free.root is None else [(meta.free.root, meta.free.depth)]
    while waiting:
        number, depth = waiting.pop()
        if number in own_pages:
            raise DamagedPageError(number, "is in two places")
        own_pages.add(number)
        page = parse_page(reader.page_at(number), number, is_free_list=True)
        if bool(page.children) == (depth == 1):
            raise DamagedPageError(number, "is not as deep in its tree as it should be")
        waiting += [(child, depth - 1) for child in page.children]
        values = dict(page.values)
        for place, first_page, value_bytes in page.far_values:
            own_pages.update(reader.prove_far_value(first_page, value_bytes, is_exact=False))
            values[place] = reader.far_value(first_page, value_bytes)
        for place, value in values.items():
            yield int.from_bytes(page.keys[place], "little"), value
