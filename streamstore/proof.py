"""Proves the pages of the file before LMDB may touch them: it checks none, and a damaged one can end the process.

Damage comes to a file that nobody has open. So a page is proved once behind the opening, when a call first needs it,
and one that LMDB has written since needs no proof. What is proved is kept as ranges of keys of each database: all
pages on the way to a key of the range, from the root to the value, are such as LMDB writes. LMDB keeps that so, in this
process and in others, as long as it touches nothing else; what it touches beside the way when it deletes is proved too.

A page that LMDB could have written may still have a key that is another one than was written. So before a key is said
not to be there, the values beside its place must be sealed under the keys that they lie at: the one that was damaged
still lies between the same two, or else the keys of the page would not rise.

The pages are read with ``pread``, never through the map, in the snapshot of the transaction that is about to use them.
Knows named databases, keys and seals, never what they mean. Nothing here locks: two threads may prove the same twice.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice, repeat
from typing import Final, NamedTuple

from streamstore.databases import (
    RECORDS_DATABASE_PREFIX,
    SEALED_DATABASES,
    is_database_of_a_store,
    is_sealed,
)
from streamstore.free_pages import LeftPages, prove_free_pages, staleness
from streamstore.page_reader import PageReader, ReadFile, damaged
from streamstore.pages import (
    DamagedPageError,
    Meta,
    Page,
    Tree,
    parse_tree,
)
from streamstore.ranges import LEAVES_AHEAD_MIN, Proved

__all__ = ["LIST_OF_DATABASES", "Proof", "Run", "behind_all_that_begin_with"]

SMALL_TREE_PAGES: Final = 16
"""A tree of so many pages is proved at once."""
assert SMALL_TREE_PAGES <= LEAVES_AHEAD_MIN, "a small tree is proved by the first look"
BEHIND_ALL_KEYS: Final = b"\xff" * 511
LIST_OF_DATABASES: Final = b""
"""Stands for the name of a database where the one is meant that holds their names."""
MAIN: Final = "The list of databases"
FREE_LIST: Final = "The list of free pages"

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
    unsealed_places: list[int]
    """The places of the keys that their values were not written at, of a database whose values are sealed."""
    problem: str | None
    """Why no key of it may be touched, or not each value."""


class Proof:
    """What is proved of a file since it was opened.

    The functions that prove are given what returns the entry of a database in the snapshot of the caller. Their
    ``StoreFormatError`` leaves everything as it was, and so does an ``OSError``: what cannot be read is not damaged.
    """

    def __init__(self, read: ReadFile, *, is_layout_known: bool) -> None:
        self.whole: set[bytes] = set() if is_layout_known else _Everything()
        """The databases of which every page is proved: whoever uses one of them need not ask."""
        self.sound: set[bytes] = set() if is_layout_known else _Everything()
        """Those in which no damage hides a key."""
        self.is_layout_known = is_layout_known
        self.reader = PageReader(read)
        self._proved: dict[bytes, Proved] = {}
        self._is_free_list_proved = not is_layout_known
        self._foreign_name: bytes | None = None
        self._left = LeftPages(self.reader, found_commit=0)

    def prove_databases(self, older: Meta, newer: Meta, meta: Meta) -> None:
        """Prove the list of databases, as it was when ``meta`` was written, one of the two, and not before."""
        try:
            entries, pages = self._list_of_databases(meta.main)
        except DamagedPageError as error:
            raise damaged(MAIN, str(error)) from error
        if len(entries) != meta.main.entries:
            raise damaged(MAIN, f"it has {len(entries)} names, and should have {meta.main.entries}")
        if meta == newer:
            self._refuse_stale(older, newer, entries, pages)
        self._left = LeftPages(self.reader, meta.commit_number)
        self._foreign_name = next((name for name in entries if not is_database_of_a_store(name)), None)
        if self._foreign_name is None:
            self.sound.add(LIST_OF_DATABASES)

    def _refuse_stale(self, older: Meta, newer: Meta, entries: dict[bytes, bytes], pages: set[int]) -> None:
        try:
            problem = staleness(self.reader, newer, pages | _roots(entries), is_first=older.main.root is None)
        except ValueError:
            return  # whoever uses the database whose entry is damaged will be told
        if problem is not None:
            raise damaged(MAIN, problem)

    def prove_free_list(self) -> None:
        """In a write transaction: prove the list of free pages, of which LMDB takes those that it writes to."""
        if self._is_free_list_proved:
            return
        older, newer = self.reader.metas(alone=True)
        try:
            entries, pages = self._list_of_databases(newer.main)
            prove_free_pages(self.reader, newer, pages | _roots(entries), is_first=older.main.root is None)
        except (DamagedPageError, ValueError) as error:
            raise damaged(FREE_LIST, str(error)) from error
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
            _add(proved, leaf)
        elif not leaf.keys or any(leaf.keys[place] == key for place in leaf.bad_places):
            raise damaged(_name(database), leaf.problem)

    def prove_absence(self, database: bytes, key: bytes, stored_tree: StoredTree) -> None:
        """Prove that a key which is not there was never written, as far as its database is sealed.

        None of the sealed databases is missing from their list while all its names are those of a store.
        """
        if database == LIST_OF_DATABASES:
            if key not in SEALED_DATABASES:
                return
            raise damaged(MAIN, f"no store has a database {self._foreign_name!r}, which may have been {key!r}")
        known = self._proved.get(database)
        if known is not None and known.sound.around(key) is not None:
            return
        tree = self._tree(database, stored_tree) if database in SEALED_DATABASES else None
        if tree is None or tree.root is None:
            self.sound.add(database)
            return
        self._contact(database, stored_tree)
        proved = self._proved[database]
        if proved.sound.around(key) is None:
            self._prove_beside_place(database, proved, tree, key)
        if proved.sound.are_all():
            self.sound.add(database)

    def _prove_beside_place(self, database: bytes, proved: Proved, tree: Tree, key: bytes) -> None:
        leaf = next(self._leaves(database, tree, key))
        if leaf.problem is None:
            _add(proved, leaf)
        place = bisect_left(leaf.keys, key)
        if not leaf.keys or {place - 1, place} & {*leaf.unsealed_places, *leaf.bad_places}:
            raise damaged(_name(database), leaf.problem or f"what lies where {key!r} belongs was not written there")

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
                raise damaged(_name(database), str(error)) from error

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
        bad_leaf = self._reach_on(database, proved, tree, proved_to or b"")
        if bad_leaf is not None:
            raise damaged(_name(database), bad_leaf.problem or "")
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

    def _contact(self, database: bytes, stored_tree: StoredTree) -> tuple[Proved, Tree] | None:
        """Return what is proved of a database and its tree; None: it is all proved, as a small one is at once."""
        tree = self._tree(database, stored_tree)
        if tree is None or tree.root is None:
            self.whole.add(database)
            return None
        proved = self._proved.get(database)
        if proved is None:
            proved = self._proved[database] = Proved()
            if tree.tree_pages <= SMALL_TREE_PAGES:
                self._reach_on(database, proved, tree, b"")
        if proved.reachable.are_all():
            self.whole.add(database)
            return None
        return proved, tree

    def _tree(self, database: bytes, stored_tree: StoredTree) -> Tree | None:
        entry = stored_tree(database)
        try:
            return None if entry is None else parse_tree(entry)
        except ValueError as error:
            raise damaged(_name(database), str(error)) from error

    def _reach_on(self, database: bytes, proved: Proved, tree: Tree, key: bytes) -> _Leaf | None:
        """Prove the ways to the keys of some leaves from ``key`` on. Returns the damaged one that ended it."""
        is_any, bad_leaf = False, None
        high: bytes | None = None
        try:
            for leaf in islice(self._leaves(database, tree, key), proved.leaves_ahead(key)):
                if leaf.problem is not None:
                    bad_leaf = leaf
                    break
                _add(proved, leaf)
                is_any, high = True, leaf.high
        except OSError:
            if not is_any:
                raise
        if is_any:
            proved.reached(high)
        return bad_leaf

    def _ahead(self, database: bytes, proved: Proved, tree: Tree, key: bytes) -> bytes:
        """Return a key some leaves behind ``key``, so that the next change need not prove so much again."""
        last_key = key
        for leaf in islice(self._leaves(database, tree, key), proved.leaves_ahead(key)):
            if leaf.problem is None:
                last_key = leaf.keys[-1]
        return max(key, last_key)

    def _prove_beside(self, database: bytes, proved: Proved, tree: Tree, first: bytes, last: bytes) -> None:
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
        page = self._page(database, number, low, high, is_leaf=depth == 1)
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
            self._prove_lowest(
                database, page.children[place], depth - 1, page.keys[place] if place else low, ends[place]
            )
        return ranges[0][0], ranges[-1][1]

    def _prove_lowest(self, database: bytes, number: int, depth: int, low: bytes, high: bytes | None) -> None:
        """Prove the way to the first key below a page."""
        page = self._page(database, number, low, high, is_leaf=depth == 1)
        if depth > 1:
            self._prove_lowest(database, page.children[0], depth - 1, low, page.keys[1])

    def _leaves(self, database: bytes, tree: Tree, key: bytes) -> Iterator[_Leaf]:
        """Yield the leaves of a tree, from that of ``key`` on."""
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
            page = self._page(database, number, low, high, is_leaf=depth == 1, content=content)
        except DamagedPageError as error:
            yield _Leaf(low, high, [], [], [], str(error))
            return
        if depth == 1:
            bad_places, problem = self._bad_places(database, page)
            yield _Leaf(low, high, page.keys, bad_places, self._unsealed_places(database, page, bad_places), problem)
            return
        start = bisect_right(page.keys, key, 1) - 1
        contents = self.reader.pages(page.children[start:]) if depth == 2 else repeat(b"")
        for place, content in zip(range(start, len(page.children)), contents, strict=False):
            child_low = page.keys[place] if place else low
            child_high = page.keys[place + 1] if place + 1 < len(page.keys) else high
            yield from self._below(database, page.children[place], depth - 1, key, child_low, child_high, content)

    def _page(
        self, database: bytes, number: int, low: bytes, high: bytes | None, *, is_leaf: bool, content: bytes = b""
    ) -> Page:
        """Return a page of a database, unless an earlier commit has left it: a damaged branch may lead there.

        What stood there once would be shown again. Of records, the counter of their shard tells that.
        """
        page = self.reader.page(
            number, low, high, is_leaf=is_leaf, content=content, has_values=database in SEALED_DATABASES
        )
        is_root = low == b"" and high is None  # proved with the list of databases
        if not is_root and not database.startswith(RECORDS_DATABASE_PREFIX) and self._left.has(number):
            raise DamagedPageError(number, "is one that an earlier commit has left")
        return page

    def _bad_places(self, database: bytes, page: Page) -> tuple[list[int], str | None]:
        """Return the places of the keys whose large values are not where the page says, and what is wrong with one."""
        bad: list[int] = []
        problem = None
        for place, number, value_bytes in page.far_values:
            try:
                self.reader.prove_far_value(number, value_bytes, is_exact=database.startswith(RECORDS_DATABASE_PREFIX))
            except DamagedPageError as error:
                bad.append(place)
                problem = str(error)
        return bad, problem

    def _unsealed_places(self, database: bytes, page: Page, bad_places: list[int]) -> list[int]:
        if database not in SEALED_DATABASES:
            return []
        values = dict(page.values)
        for place, number, value_bytes in page.far_values:
            if place not in bad_places:
                values[place] = self.reader.far_value(number, value_bytes)
        return [place for place, value in values.items() if not is_sealed(database, page.keys[place], value)]

    def _list_of_databases(self, main: Tree) -> tuple[dict[bytes, bytes], set[int]]:
        """Prove and return what the list has of each database, by its name, and the pages that the list is on."""
        entries: dict[bytes, bytes] = {}
        pages: set[int] = set()
        waiting: list[tuple[int, int, bytes, bytes | None, bytes]] = []
        if main.root is not None:
            waiting.append((main.root, main.depth, b"", None, b""))
        while waiting:
            number, depth, low, high, content = waiting.pop()
            pages.add(number)
            page = self.reader.page(number, low, high, is_leaf=depth == 1, content=content)
            if depth == 1 and len(page.values) != len(page.keys):
                raise damaged(MAIN, "a name there is none of a database")
            entries.update((page.keys[place], entry) for place, entry in page.values.items())
            lows, highs = [low, *page.keys[1:]], [*page.keys[1:], high]
            contents = self.reader.pages(page.children) if depth == 2 else repeat(b"")
            waiting += reversed([*zip(page.children, repeat(depth - 1), lows, highs, contents, strict=False)])
        return entries, pages


class _Everything(set[bytes]):
    """All databases, of a file whose layout is not known here: nothing of it is proved."""

    def __contains__(self, database: object) -> bool:
        return True


def behind_all_that_begin_with(prefix: bytes) -> bytes:
    """Return what is greater than all keys with this prefix, and not greater than any that is greater than them."""
    start = prefix.rstrip(b"\xff")
    return start[:-1] + bytes([start[-1] + 1]) if start else BEHIND_ALL_KEYS


def _run_on_damaged(database: bytes, leaf: _Leaf, key: bytes, *, around_damage: bool) -> Run | None:
    """Return how to go on where pages or values are damaged."""
    if not around_damage:
        raise damaged(_name(database), leaf.problem or "")
    start = bisect_left(leaf.keys, key)
    sound_stop = next((place for place in leaf.bad_places if place >= start), len(leaf.keys))
    if start < sound_stop:
        behind = leaf.high if sound_stop == len(leaf.keys) else leaf.keys[sound_stop]
        return Run(key, key_count=sound_stop - start, next_key=behind)
    behind = leaf.keys[start + 1] if start + 1 < len(leaf.keys) else leaf.high
    return None if behind is None else Run(key, key_count=0, next_key=behind)


def _add(proved: Proved, leaf: _Leaf) -> None:
    proved.reachable.add(leaf.low, leaf.high)
    if not leaf.unsealed_places:
        proved.sound.add(leaf.low, leaf.high)


def _roots(entries: dict[bytes, bytes]) -> set[int]:
    """Return the root of each database. ``ValueError``: an entry is damaged."""
    return {tree.root for tree in map(parse_tree, entries.values()) if tree.root is not None}


def _name(database: bytes) -> str:
    return f"The database {database.decode(errors='replace')}"
