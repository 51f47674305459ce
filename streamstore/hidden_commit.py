"""Finds the last commit where the number of its meta page was made less by two, so that LMDB would not see it.

A flipped bit does that. LMDB does it too, where the write of a meta page fails: it puts the number and the last page
back to what they were. Nobody was told that such a commit is stored, or that it is not; but one that was hidden by
damage may be acknowledged. So it is taken wherever it is whole. It is not where the file has become longer by it and
LMDB has put that back, or where another process has begun to write the next commit over its pages.

The pages that it took are those that were free before, or behind the last one, and are not free now. It uses them all,
so each must be found on the way from its meta page, and be what LMDB would have written there.
"""

from collections.abc import Iterator
from itertools import repeat

from streamstore.databases import SEALED_DATABASES, is_sealed
from streamstore.free_pages import free_pages_by_commit, newest_commit_that_left
from streamstore.page_reader import PageReader
from streamstore.pages import META_PAGES, DamagedPageError, Meta, Page, Tree, parse_tree

__all__ = ["hides_commit", "is_commit_whole", "number_of_hidden_commit"]


def number_of_hidden_commit(older: Meta) -> int:
    """Return the number that a meta page must have had, if it hides a commit."""
    return older.commit_number + META_PAGES


def hides_commit(reader: PageReader, older: Meta) -> bool:
    """Tell whether the meta page that says to be older seems to be of the commit behind the other one.

    Nobody needs what an older one leads to: where that is damaged, or cannot be read, it is older.
    """
    try:
        return newest_commit_that_left(reader, older.free) == number_of_hidden_commit(older)
    except (DamagedPageError, OSError):
        return False


def is_commit_whole(reader: PageReader, hidden: Meta, before: Meta) -> bool:
    """Tell whether a commit is as it was made, behind that of the meta page ``before``.

    ``OSError``: it cannot be read.
    """
    if hidden.last_page < before.last_page:
        return False  # LMDB has put it back: no commit makes a file shorter
    try:
        free_before, free = free_pages_by_commit(reader, before), free_pages_by_commit(reader, hidden)
        free_before.pop(before.commit_number, None)  # LMDB does not use again what the commit before has left
        reader.page_at(hidden.last_page)  # or the file would be as long as a damaged number says
        new = range(before.last_page + 1, hidden.last_page + 1)
        taken = set(new).union(*free_before.values()).difference(*free.values())
        if hidden.main.root not in taken:
            return False  # no commit is without a list of databases of its own
        way = _Way(reader, hidden.last_page, taken, set[int]().union(*free.values()))
        way.follow_free_list(hidden.free)
        way.follow_databases(hidden.main)
    except (DamagedPageError, ValueError):
        return False
    return way.seen == taken


class _Way:
    """The way from a meta page to the pages that its commit took. The others are where they were before.

    ``DamagedPageError`` or ``ValueError`` ends it where something is not as LMDB would have written it.
    """

    def __init__(self, reader: PageReader, last_page: int, taken: set[int], free: set[int]) -> None:
        self._reader = reader
        self._last_page = last_page
        self._taken = taken
        self._free = free
        self.seen: set[int] = set()

    def follow_free_list(self, tree: Tree) -> None:
        waiting = [] if tree.root is None else [(tree.root, tree.depth)]
        while waiting:
            number, depth = waiting.pop()
            if self._comes_by(number):
                page = self._reader.page_of_free_list(number, is_leaf=depth == 1)
                self._come_by_values(page)
                waiting += [(child, depth - 1) for child in page.children]

    def follow_databases(self, main: Tree) -> None:
        for page in self._pages(main, has_values=True):
            for place, entry in page.values.items():
                self._follow(page.keys[place], parse_tree(entry))

    def _follow(self, database: bytes, tree: Tree) -> None:
        is_sealed_database = database in SEALED_DATABASES
        for page in self._pages(tree, has_values=is_sealed_database):
            for place, value in page.values.items() if is_sealed_database else ():
                if not is_sealed(database, page.keys[place], value):
                    raise ValueError(f"the value of {page.keys[place]!r} is not what was written there")

    def _pages(self, tree: Tree, *, has_values: bool) -> Iterator[Page]:
        waiting: list[tuple[int, int, bytes, bytes | None]] = []
        if tree.root is not None:
            waiting.append((tree.root, tree.depth, b"", None))
        while waiting:
            number, depth, low, high = waiting.pop()
            if self._comes_by(number):
                page = self._reader.page(number, low, high, is_leaf=depth == 1, has_values=has_values)
                self._come_by_values(page)
                yield page
                lows, highs = [low, *page.keys[1:]], [*page.keys[1:], high]
                waiting += zip(page.children, repeat(depth - 1), lows, highs, strict=False)

    def _come_by_values(self, page: Page) -> None:
        for _, first_page, value_bytes in page.far_values:
            if self._comes_by(first_page):
                for number in self._reader.pages_of_far_value(first_page, value_bytes)[1:]:
                    if not self._comes_by(number):
                        raise DamagedPageError(number, "is in use by an earlier commit")

    def _comes_by(self, number: int) -> bool:
        """Tell whether the commit took the page."""
        if number > self._last_page or number in self._free:
            raise DamagedPageError(number, "is not in use")
        if number not in self._taken:
            return False
        if number in self.seen:
            raise DamagedPageError(number, "is in two places")
        self.seen.add(number)
        return True
