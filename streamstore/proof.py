"""Proves the pages of the file before LMDB may touch them: it checks none, and a damaged one can end the process.

Damage comes to a file that nobody has open. So a page is proved once behind the opening, when a call first needs it,
and one that LMDB has written since needs no proof. What is proved is kept as ranges of keys of each database: all
pages on the way to a key of the range, from the root to the value, are such as LMDB writes. LMDB keeps that so, in this
process and in others, as long as it touches nothing else; what it touches beside the way when it deletes is proved too.

The pages are read with ``pread``, never through the map, in the snapshot of the transaction that is about to use them.
Knows named databases and keys, never what they mean. Nothing here locks: two threads may prove the same twice.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice, repeat
from typing import Final, NamedTuple

from streamstore.errors import StoreFormatError
from streamstore.model import RECORDS_DATABASE_PREFIX
from streamstore.pages import (
    META_BYTES_MAX,
    DamagedPageError,
    Meta,
    Page,
    Tree,
    page_bytes_of,
    pages_of_value,
    parse_free_pages,
    parse_metas,
    parse_overflow,
    parse_page,
    parse_tree,
)

__all__ = ["Proof", "Run"]

SMALL_TREE_PAGES: Final = 16
"""A tree of so many pages is proved at once."""
LEAVES_AHEAD_MIN: Final = 32
LEAVES_AHEAD_MAX: Final = 256
"""Proved at once of what is read or deleted in order: twice as many each time, for the branches are read again."""
assert SMALL_TREE_PAGES <= LEAVES_AHEAD_MIN, "a small tree is proved by the first look"
PAGES_AT_ONCE: Final = 16
META_ATTEMPTS: Final = 20
PAGE_HEADER_BYTES: Final = 16
PAGES_MAX: Final = 2**48 // 512
BEHIND_ALL_KEYS: Final = b"\xff" * 511
MAIN: Final = "the list of databases"
FREE_LIST: Final = "the list of free pages"

ReadFile = Callable[[int, int], bytes]
"""Reads from a place in the file on so many bytes: fewer at its end."""
StoredTree = Callable[[bytes], bytes | None]
"""Returns what the snapshot holds of a named database in the list of databases."""


class Run(NamedTuple):
    """Keys that LMDB may iterate over from ``start`` on: so many, or all in front of ``stop``; None of both: all.

    Behind them it goes on at ``next_key``; None: nowhere.
    """

    start: bytes
    key_count: int | None = None
    stop: bytes | None = None
    next_key: bytes | None = None


class _Leaf(NamedTuple):
    """The keys from ``low`` on and in front of ``high`` (None: to the end): of a leaf, or those of a damaged page."""

    low: bytes
    high: bytes | None
    keys: list[bytes]
    bad_places: list[int]
    """The places of the keys whose values may not be touched."""
    problem: str | None
    """Why no key of it may be touched, or not each value."""


class _Ranges:
    """Ranges of keys; the last one may be open. Replaced as a whole, so that other threads see no half of a change."""

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


class _Proved:
    """What is proved of a database: to which keys LMDB may go, and which it may delete."""

    __slots__ = ("_leaves_ahead", "_next_key", "deletable", "reachable")

    def __init__(self) -> None:
        self.reachable = _Ranges()
        self.deletable = _Ranges()
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


class Proof:
    """What is proved of a file since it was opened.

    The functions that prove are given what returns the entry of a database in the snapshot of the caller. Their
    ``StoreFormatError`` leaves everything as it was, and so does an ``OSError``: what cannot be read is not damaged.
    """

    def __init__(self, read: ReadFile, *, is_layout_known: bool) -> None:
        self.whole: set[bytes] = set() if is_layout_known else _Everything()
        """The databases of which every page is proved: whoever uses one of them need not ask."""
        self.is_layout_known = is_layout_known
        self._read = read
        self._page_bytes = page_bytes_of(read(0, META_BYTES_MAX))
        self._proved: dict[bytes, _Proved] = {}
        self._is_free_list_proved = not is_layout_known

    def metas(self, *, alone: bool) -> tuple[Meta, Meta]:
        """Return what the meta pages say, the older one first. Unless we are alone, others may be writing them."""
        for attempts_left in reversed(range(1 if alone else META_ATTEMPTS)):
            try:
                return parse_metas(self._read(0, META_BYTES_MAX), self._page_bytes)
            except DamagedPageError as error:
                if attempts_left == 0:
                    raise _damaged("The file", str(error)) from error
        raise AssertionError

    def prove_databases(self, meta: Meta) -> None:
        """Prove the list of databases."""
        for leaf in self._leaves(b"", meta.main, b""):
            if leaf.problem is not None:
                raise _damaged(MAIN, leaf.problem)

    def prove_free_list(self) -> None:
        """In a write transaction: prove the list of free pages, of which LMDB takes those that it writes to.

        None of them is one that the lists themselves are on, or that a database begins with.
        """
        if self._is_free_list_proved:
            return
        _, meta = self.metas(alone=True)
        try:
            seen = self._pages_of_lists(meta)
            is_free = bytearray(meta.last_page + 1)
            count = 0
            for value in self._free_entries(meta, seen):
                numbers = parse_free_pages(value, meta.last_page)
                count += len(numbers)
                for number in numbers:
                    is_free[number] = 1
            if sum(is_free) != count:
                raise ValueError("it names a page twice")
            if any(is_free[number] for number in seen):
                raise ValueError("it names a page that is in use")
        except (DamagedPageError, ValueError, IndexError) as error:
            raise _damaged(FREE_LIST, str(error)) from error
        self._is_free_list_proved = True

    def prove_reach(self, database: bytes, key: bytes, stored_tree: StoredTree) -> None:
        """Prove the way to a key."""
        known = self._proved.get(database)
        if known is not None and known.reachable.around(key) is not None:
            return
        contact = self._contact(database, stored_tree)
        if contact is None:
            return
        proved, tree = contact
        leaf = next(self._leaves(database, tree, key))
        if leaf.problem is None:
            proved.reachable.add(leaf.low, leaf.high)
        elif not leaf.keys or any(leaf.keys[place] == key for place in leaf.bad_places):
            raise _damaged(_name(database), leaf.problem)

    def prove_end(self, database: bytes, stored_tree: StoredTree) -> None:
        """Prove the way to the last key, and so to all that come behind it."""
        self.prove_reach(database, BEHIND_ALL_KEYS, stored_tree)

    def prove_change(self, database: bytes, first: bytes, last: bytes, stored_tree: StoredTree) -> None:
        """Prove the ways to the keys from ``first`` to ``last``, and what LMDB touches beside them when it deletes."""
        known = self._proved.get(database)
        if known is not None:
            found = known.deletable.around(first)
            if found is not None and (found[1] is None or last < found[1]):
                return
        contact = self._contact(database, stored_tree)
        if contact is None:
            return
        proved, tree = contact
        assert tree.root is not None
        try:
            self._prove_beside(
                database, proved, tree, first, self._ahead(database, proved, tree, last) if last > first else last
            )
        except (DamagedPageError, OSError):  # perhaps only ahead
            try:
                self._prove_beside(database, proved, tree, first, last)
            except DamagedPageError as error:
                raise _damaged(_name(database), str(error)) from error

    def prove_whole(self, database: bytes, stored_tree: StoredTree) -> None:
        """Prove every page of a database."""
        while not self.prove_more(database, stored_tree):
            pass

    def prove_more(self, database: bytes, stored_tree: StoredTree) -> bool:
        """Prove some pages of a database that are not proved yet. True: now all of them are."""
        contact = self._contact(database, stored_tree)
        if contact is None:
            return True
        proved, tree = contact
        _, proved_to = proved.reachable.around(b"") or (b"", b"")
        damaged = self._reach_on(database, proved, tree, proved_to or b"")
        if damaged is not None:
            raise _damaged(_name(database), damaged.problem or "")
        return False  # the next look finds out whether it was the last

    def run(self, database: bytes, key: bytes, stored_tree: StoredTree, *, around_damage: bool) -> Run | None:
        """Prove some of the keys at and behind ``key``, and return how to iterate over them; None: there are no more.

        ``around_damage``: keys that cannot be reached are left out.
        """
        contact = self._contact(database, stored_tree)
        if contact is None:
            return Run(key)
        proved, tree = contact
        found = proved.reachable.around(key)
        if found is None:
            leaf = self._reach_on(database, proved, tree, key)
            found = proved.reachable.around(key)
            if found is None:
                assert leaf is not None, "it ended in front of a leaf that is sound"
                return _run_on_damaged(database, leaf, key, around_damage=around_damage)
        _, stop = found
        if stop is None:
            return Run(key)
        with suppress(OSError):  # which is for who goes on there
            self._reach_on(database, proved, tree, stop)
        if proved.reachable.around(stop) is not None:
            return Run(key, stop=stop, next_key=stop)
        return Run(key, key_count=self._count(database, tree, key, stop), next_key=stop)

    def _count(self, database: bytes, tree: Tree, key: bytes, stop: bytes) -> int:
        """Return how many keys there are from ``key`` on, up to the leaf that ends at ``stop`` or behind it."""
        count = 0
        for leaf in self._leaves(database, tree, key):
            count += len(leaf.keys) - bisect_left(leaf.keys, key)
            if leaf.high is None or leaf.high >= stop:
                break  # and what is at ``stop`` is not read, which perhaps cannot be
        return count

    def _contact(self, database: bytes, stored_tree: StoredTree) -> tuple[_Proved, Tree] | None:
        """Return what is proved of a database and its tree; None: it is all proved, as a small one is at once."""
        entry = stored_tree(database)
        try:
            tree = None if entry is None else parse_tree(entry)
        except ValueError as error:
            raise _damaged(_name(database), str(error)) from error
        if tree is None or tree.root is None:
            self.whole.add(database)
            return None
        proved = self._proved.get(database)
        if proved is None:
            proved = self._proved[database] = _Proved()
            if tree.tree_pages <= SMALL_TREE_PAGES:
                self._reach_on(database, proved, tree, b"")
        if proved.reachable.are_all():
            self.whole.add(database)
            return None
        return proved, tree

    def _reach_on(self, database: bytes, proved: _Proved, tree: Tree, key: bytes) -> _Leaf | None:
        """Prove the ways to the keys of some leaves from ``key`` on. Returns the damaged one that ended it."""
        low, high, damaged = None, None, None
        try:
            for leaf in islice(self._leaves(database, tree, key), proved.leaves_ahead(key)):
                if leaf.problem is not None:
                    damaged = leaf
                    break
                low, high = leaf.low if low is None else low, leaf.high
        except OSError:
            if low is None:
                raise
        if low is not None:
            proved.reachable.add(low, high)
            proved.reached(high)
        return damaged

    def _ahead(self, database: bytes, proved: _Proved, tree: Tree, key: bytes) -> bytes:
        """Return a key some leaves behind ``key``, so that the next change need not prove so much again."""
        last_key = key
        for leaf in islice(self._leaves(database, tree, key), proved.leaves_ahead(key)):
            if leaf.problem is None:
                last_key = leaf.keys[-1]
        return max(key, last_key)

    def _prove_beside(self, database: bytes, proved: _Proved, tree: Tree, first: bytes, last: bytes) -> None:
        assert tree.root is not None
        low, high = self._beside(database, tree.root, tree.depth, b"", None, first, last)
        proved.deletable.add(low, high)
        proved.reachable.add(low, high)

    def _beside(
        self, database: bytes, number: int, depth: int, low: bytes, high: bytes | None, first: bytes, last: bytes
    ) -> tuple[bytes, bytes | None]:
        """Prove the ways to some keys, and beside them; return the range of keys to which all ways are proved.

        A page that gets too empty is filled or merged with the one beside it. Of branches, that needs the first key
        below each of the two.
        """
        page = self._page(number, low, high, is_leaf=depth == 1)
        if depth == 1:
            _, problem = self._bad_places(database, page)
            if problem is not None:
                raise DamagedPageError(number, problem)
            return low, high
        ends = [*page.keys[1:], high]
        start, stop = bisect_right(page.keys, first, 1) - 1, bisect_right(page.keys, last, 1)
        ranges = [
            self._beside(
                database, page.children[place], depth - 1, page.keys[place] if place else low, ends[place], first, last
            )
            for place in range(start, stop)
        ]
        for place in {0, start - 1, stop} & set(range(len(page.children))) - set(range(start, stop)):
            self._prove_lowest(page.children[place], depth - 1, page.keys[place] if place else low, ends[place])
        return ranges[0][0], ranges[-1][1]

    def _prove_lowest(self, number: int, depth: int, low: bytes, high: bytes | None) -> None:
        """Prove the way to the first key below a page."""
        page = self._page(number, low, high, is_leaf=depth == 1)
        if depth > 1:
            self._prove_lowest(page.children[0], depth - 1, low, page.keys[1])

    def _leaves(self, database: bytes, tree: Tree, key: bytes) -> Iterator[_Leaf]:
        """Yield the leaves of a tree, from that of ``key`` on. The list of databases has an empty name."""
        if tree.root is not None:
            yield from self._below(database, tree.root, tree.depth, key, b"", None)

    def _below(
        self,
        database: bytes,
        number: int,
        depth: int,
        key: bytes,
        low: bytes,
        high: bytes | None,
        content: bytes = b"",
    ) -> Iterator[_Leaf]:
        """``content``: the page, if it has been read already."""
        try:
            page = self._page(number, low, high, is_leaf=depth == 1, content=content)
        except DamagedPageError as error:
            yield _Leaf(low, high, [], [], str(error))
            return
        if depth == 1:
            yield _Leaf(low, high, page.keys, *self._bad_places(database, page))
            return
        start = bisect_right(page.keys, key, 1) - 1
        contents = self._pages(page.children[start:]) if depth == 2 else repeat(b"")
        for place, content in zip(range(start, len(page.children)), contents, strict=False):
            child_low = page.keys[place] if place else low
            child_high = page.keys[place + 1] if place + 1 < len(page.keys) else high
            yield from self._below(database, page.children[place], depth - 1, key, child_low, child_high, content)

    def _pages(self, numbers: list[int]) -> Iterator[bytes]:
        """Yield the pages, read at once where they lie side by side, more and more; less of what cannot be read."""
        place, count_max = 0, 1
        while place < len(numbers):
            count = 1
            most = min(count_max, len(numbers) - place)
            while count < most and numbers[place + count] == numbers[place] + count:
                count += 1
            try:
                content = self._read_at(numbers[place], count * self._page_bytes)
            except (DamagedPageError, OSError):  # perhaps only of a page behind it
                content = b""
            for start in range(0, count * self._page_bytes, self._page_bytes):
                yield content[start : start + self._page_bytes]
            place += count
            count_max = min(2 * count_max, PAGES_AT_ONCE)

    def _page(self, number: int, low: bytes, high: bytes | None, *, is_leaf: bool, content: bytes = b"") -> Page:
        """Return a page whose keys must all be from ``low`` on and in front of ``high``."""
        if len(content) < self._page_bytes:
            content = self._page_at(number)
        page = parse_page(content, number)
        if bool(page.children) == is_leaf:
            raise DamagedPageError(number, "is not as deep in its tree as it should be")
        if page.keys[0 if is_leaf else 1] < low or (high is not None and page.keys[-1] >= high):
            raise DamagedPageError(number, "has keys that do not belong there")
        return page

    def _page_at(self, number: int) -> bytes:
        page = self._read_at(number, self._page_bytes)
        if len(page) < self._page_bytes:
            raise DamagedPageError(number, "is behind the end of the file")
        return page

    def _read_at(self, number: int, count_bytes: int) -> bytes:
        if number > PAGES_MAX:
            raise DamagedPageError(number, "is behind the end of any file")
        return self._read(number * self._page_bytes, count_bytes)

    def _bad_places(self, database: bytes, page: Page) -> tuple[list[int], str | None]:
        """Return the places of the keys whose large values are not where the page says, and what is wrong with one."""
        bad: list[int] = []
        problem = None
        for place, number, value_bytes in page.far_values:
            try:
                self._prove_far_value(number, value_bytes, is_exact=database.startswith(RECORDS_DATABASE_PREFIX))
            except DamagedPageError as error:
                bad.append(place)
                problem = str(error)
        return bad, problem

    def _prove_far_value(self, number: int, value_bytes: int, *, is_exact: bool) -> None:
        """A value that is written over a longer one keeps the pages of that. No record is ever written over."""
        count = parse_overflow(self._read_at(number, PAGE_HEADER_BYTES), number)
        needed = pages_of_value(value_bytes, self._page_bytes)
        if count < needed or (is_exact and count > needed):
            raise DamagedPageError(number, f"begins a value of {count} pages, which needs {needed}")
        if count > 1 and len(self._read_at(number + count - 1, self._page_bytes)) < self._page_bytes:
            raise DamagedPageError(number, "begins a value that goes on behind the end of the file")

    def _pages_of_lists(self, meta: Meta) -> set[int]:
        """Return the pages of the list of databases, and the root of each of these."""
        seen: set[int] = set()
        waiting = [] if meta.main.root is None else [meta.main.root]
        while waiting:
            number = waiting.pop()
            seen.add(number)
            page = parse_page(self._page_at(number), number)
            waiting += page.children
            seen.update(tree.root for tree in map(parse_tree, page.values.values()) if tree.root is not None)
        return seen

    def _free_entries(self, meta: Meta, seen: set[int]) -> Iterator[bytes]:
        """Yield the values of the list of free pages, and add its pages to those that were seen."""
        waiting = [] if meta.free.root is None else [(meta.free.root, meta.free.depth)]
        while waiting:
            number, depth = waiting.pop()
            if number in seen:
                raise DamagedPageError(number, "is in two places")
            seen.add(number)
            page = parse_page(self._page_at(number), number, is_free_list=True)
            if bool(page.children) == (depth == 1):
                raise DamagedPageError(number, "is not as deep in its tree as it should be")
            waiting += [(child, depth - 1) for child in page.children]
            yield from page.values.values()
            for _, first_page, value_bytes in page.far_values:
                self._prove_far_value(first_page, value_bytes, is_exact=False)
                seen.update(range(first_page, first_page + pages_of_value(value_bytes, self._page_bytes)))
                yield self._read_at(first_page, PAGE_HEADER_BYTES + value_bytes)[PAGE_HEADER_BYTES:]


class _Everything(set[bytes]):
    """All databases, of a file whose layout is not known here: nothing of it is proved."""

    def __contains__(self, database: object) -> bool:
        return True


def _run_on_damaged(database: bytes, leaf: _Leaf, key: bytes, *, around_damage: bool) -> Run | None:
    """Return how to go on where pages or values are damaged."""
    if not around_damage:
        raise _damaged(_name(database), leaf.problem or "")
    start = bisect_left(leaf.keys, key)
    sound_stop = next((place for place in leaf.bad_places if place >= start), len(leaf.keys))
    if start < sound_stop:
        behind = leaf.high if sound_stop == len(leaf.keys) else leaf.keys[sound_stop]
        return Run(key, key_count=sound_stop - start, next_key=behind)
    behind = leaf.keys[start + 1] if start + 1 < len(leaf.keys) else leaf.high
    return None if behind is None else Run(key, key_count=0, next_key=behind)


def _low(one: tuple[bytes, bytes | None]) -> bytes:
    return one[0]


def _reaches(end: bytes | None, low: bytes) -> bool:
    return end is None or end >= low


def _name(database: bytes) -> str:
    return f"The database {database.decode(errors='replace')}"


def _damaged(what: str, problem: str) -> StoreFormatError:
    return StoreFormatError(
        f"{what} is damaged: {problem}. Nothing was stored or changed; see what else with check, and save the rest "
        "with salvage, or restore a copy."
    )
