"""The pages of a data file of LMDB 0.9, read one by one and without LMDB, which a damaged page can make crash.

Knows LMDB's layout on 64-bit little-endian machines (the structs of mdb.c), and never
what keys and values mean: whoever reads them must prove them.

``PageFile`` looks for what is left of a damaged file: damage is passed over and noted in ``problems``; nothing there
raises for it. The file is read and not mapped, so one that ends early or has bad sectors costs only the pages there.
``parse_page`` and the like refuse whatever LMDB could stumble over, with ``DamagedPageError``.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from operator import ge, le
from pathlib import Path
from typing import Final, NamedTuple, Self

__all__ = [
    "META_BYTES_MAX",
    "META_PAGES",
    "DamagedPageError",
    "FarValue",
    "Meta",
    "Node",
    "Page",
    "PageFile",
    "Snapshot",
    "Tree",
    "page_bytes_of",
    "pages_of_value",
    "parse_free_pages",
    "parse_metas",
    "parse_overflow",
    "parse_page",
    "parse_tree",
    "place_of_meta",
    "renumbered_meta",
]

PAGE_BYTES_DEFAULT: Final = 4096
PAGE_BYTES_CHOICES: Final = tuple(2**power for power in range(9, 17))
META_PAGES: Final = 2
META_BYTES_MAX: Final = META_PAGES * PAGE_BYTES_CHOICES[-1]
DEPTH_MAX: Final = 32
VALUE_BYTES_MAX: Final = 2**26  # no size that is damaged may take all memory
KEY_BYTES_MAX: Final = 511

_MAGIC: Final = 0xBEEFC0DE
_DATA_VERSION: Final = 1
_NO_PAGE: Final = 2**64 - 1
_PAGE_HEADER: Final = struct.Struct("<QHHHH")  # number, pad, flags, lower, upper
_META: Final = struct.Struct("<IIQQ")  # magic, version, address, map size; then two trees
_META_END: Final = struct.Struct("<QQ")  # last page, transaction
_TREE: Final = struct.Struct("<IHHQQQQQ")  # pad, flags, depth, branches, leaves, overflows, entries, root
_NODE: Final = struct.Struct("<HHHH")  # two of the size or page number, flags or the rest of that, size of the key
_RECORD_KEY_BYTES: Final = 8
_RECORD_NODE: Final = struct.Struct("<HHHH8s")
_OFFSET_BYTES: Final = 2
_INTEGER_KEYS: Final = 0x08  # of the list of free pages
_PAGE_NUMBER: Final = struct.Struct("<Q")

_BRANCH: Final = 0x01
_LEAF: Final = 0x02
_OVERFLOW: Final = 0x04
_META_PAGE: Final = 0x08
_IN_OVERFLOW_PAGES: Final = 0x01
_IS_TREE: Final = 0x02


class Tree(NamedTuple):
    """The tree of a database: its root page, None if it is empty, and how many keys and pages it should have."""

    root: int | None
    entries: int
    depth: int = 0
    tree_pages: int = 0
    """Branches and leaves."""


class Meta(NamedTuple):
    """A meta page that proves itself."""

    commit_number: int
    last_page: int
    free: Tree
    main: Tree


class FarValue(NamedTuple):
    """A value that is on pages of its own: at the ``place`` of which key, from which page on, and how long."""

    place: int
    page: int
    value_bytes: int


class Page(NamedTuple):
    """A page of a tree that proves itself: a branch, which has ``children``, or a leaf. A branch has no first key."""

    keys: list[bytes]
    children: list[int]
    far_values: list[FarValue]
    values: dict[int, bytes]
    """By the place of their key those that are trees, or all that are on the page itself."""


class DamagedPageError(Exception):
    """A page is not as LMDB would have written it."""

    def __init__(self, number: int, problem: str) -> None:
        super().__init__(f"page {number} {problem}")


class Node(NamedTuple):
    """A key and its value, or where the named database of that key begins."""

    key: bytes
    value: bytes
    tree: Tree | None


class Snapshot(NamedTuple):
    """What a meta page says: one commit of the whole file."""

    commit_number: int
    free: Tree
    main: Tree


class PageFile:
    """An open data file. Use it as a context manager."""

    def __init__(self, data_path: Path) -> None:
        self._descriptor = os.open(data_path, os.O_RDONLY | os.O_CLOEXEC)
        self.problems: dict[str, list[int]] = {}
        self._page_bytes = PAGE_BYTES_DEFAULT
        self._page_bytes = self._stored_page_bytes()
        self._page_count = -(-os.fstat(self._descriptor).st_size // self._page_bytes)
        self._visited = bytearray(self._page_count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._descriptor)

    def snapshots(self) -> list[Snapshot]:
        """Return what the sound meta pages say, the newest first. There should be two."""
        metas = [self._snapshot(self._page(number)) for number in range(META_PAGES)]
        return sorted(filter(None, metas), reverse=True)

    def nodes(self, tree: Tree, name: str) -> Iterator[Node]:
        """Yield the keys of a tree in their order, as far as its pages hold together."""
        if tree.root is not None:
            yield from self._walk(tree.root, name, DEPTH_MAX)

    def free_pages(self, snapshot: Snapshot) -> set[int]:
        """Return the pages that are known to hold nothing of the snapshot."""
        pages: set[int] = set()
        for node in self.nodes(snapshot.free, "the list of free pages"):
            numbers = [number for (number,) in _PAGE_NUMBER.iter_unpack(node.value[: len(node.value) // 8 * 8])]
            pages.update(numbers[1 : 1 + numbers[0]] if numbers else ())
        return pages

    def nodes_elsewhere(self, free: set[int]) -> Iterator[Node]:
        """Yield the keys on all pages that no tree has led to and that are not known to be free."""
        for number in range(META_PAGES, self._page_count):
            if not self._visited[number] and number not in free:
                page = self._page(number)
                own_number, _, flags, _, _ = _header(page)
                # One that was moved, or lost a part of its header, is good for what proves itself on it.
                if flags & _LEAF or (own_number == number and not flags & _OVERFLOW):
                    yield from self._nodes_on(page)

    def visited_again(self) -> None:
        """Let the trees be walked once more."""
        self._visited = bytearray(self._page_count)
        self.problems.clear()

    def _walk(self, number: int, name: str, depth_left: int) -> Iterator[Node]:
        if number >= self._page_count or self._visited[number] or depth_left == 0:
            self._note(name, number)
            return
        page = self._page(number)
        own_number, _, flags, lower, upper = _header(page)
        if own_number != number or not flags & (_BRANCH | _LEAF) or not _PAGE_HEADER.size <= lower <= upper:
            self._note(name, number)  # and leave it to those who look at all pages
            return
        self._visited[number] = 1
        if flags & _LEAF:
            yield from self._nodes_on(page)
            return
        for offset in self._offsets(page):
            low, high, highest, _ = _NODE.unpack_from(page, offset)
            yield from self._walk(low | high << 16 | highest << 32, name, depth_left - 1)

    def _nodes_on(self, page: bytes) -> Iterator[Node]:
        for offset in self._offsets(page):
            low, high, flags, key_bytes = _NODE.unpack_from(page, offset)
            start, value_bytes = offset + _NODE.size + key_bytes, low | high << 16
            key = page[offset + _NODE.size : start]
            if flags & _IN_OVERFLOW_PAGES and start + _PAGE_NUMBER.size <= len(page):
                (number,) = _PAGE_NUMBER.unpack_from(page, start)
                yield Node(key, self._overflow_value(number, value_bytes), None)
            elif flags & _IS_TREE and start + _TREE.size <= len(page):
                yield Node(key, b"", _tree(page, start))
            else:
                yield Node(key, page[start : start + value_bytes], None)

    def _offsets(self, page: bytes) -> Iterator[int]:
        """Yield where the nodes of a page begin, as far as that is on the page."""
        _, _, _, lower, _ = _header(page)
        end = lower if _PAGE_HEADER.size <= lower <= len(page) else len(page)
        for (offset,) in struct.iter_unpack("<H", page[_PAGE_HEADER.size : end - end % _OFFSET_BYTES]):
            if _PAGE_HEADER.size + _OFFSET_BYTES <= offset <= len(page) - _NODE.size:
                yield offset

    def _overflow_value(self, number: int, value_bytes: int) -> bytes:
        if number >= self._page_count or value_bytes > VALUE_BYTES_MAX:
            return b""
        start = number * self._page_bytes
        own_number, _, flags, _, _ = _header(self._read(start, _PAGE_HEADER.size).ljust(_PAGE_HEADER.size, b"\0"))
        if own_number == number and flags & _OVERFLOW:
            pages = -(-(_PAGE_HEADER.size + value_bytes) // self._page_bytes)
            self._visited[number : number + pages] = bytes([1]) * len(self._visited[number : number + pages])
        return self._read(start + _PAGE_HEADER.size, value_bytes)

    def _snapshot(self, page: bytes) -> Snapshot | None:
        magic, version, _, _ = _META.unpack_from(page, _PAGE_HEADER.size)
        trees_start = _PAGE_HEADER.size + _META.size
        _, commit_number = _META_END.unpack_from(page, trees_start + 2 * _TREE.size)
        if magic != _MAGIC or version != _DATA_VERSION or not _header(page)[2] & _META_PAGE:
            return None
        return Snapshot(commit_number, _tree(page, trees_start), _tree(page, trees_start + _TREE.size))

    def _stored_page_bytes(self) -> int:
        """Return the size of a page, which each meta page holds. The second is found only by trying."""
        for page_bytes in (0, *PAGE_BYTES_CHOICES):
            page = self._read(page_bytes, PAGE_BYTES_DEFAULT).ljust(PAGE_BYTES_DEFAULT, b"\0")
            if self._snapshot(page) is not None:
                stored, *_ = _TREE.unpack_from(page, _PAGE_HEADER.size + _META.size)
                if stored in PAGE_BYTES_CHOICES:
                    return int(stored)
        return PAGE_BYTES_DEFAULT

    def _page(self, number: int) -> bytes:
        return self._read(number * self._page_bytes, self._page_bytes).ljust(self._page_bytes, b"\0")

    def _read(self, start: int, count_bytes: int) -> bytes:
        """Return what can be read there: less behind the end of the file, nothing from a bad sector."""
        try:
            return os.pread(self._descriptor, count_bytes, start)
        except OSError:
            return b""

    def _note(self, name: str, number: int) -> None:
        self.problems.setdefault(name, []).append(number)


def _header(page: bytes) -> tuple[int, int, int, int, int]:
    number, pad, flags, lower, upper = _PAGE_HEADER.unpack_from(page)
    return number, pad, flags, lower, upper


def _tree(page: bytes, start: int) -> Tree:
    _, _, depth, branches, leaves, _, entries, root = _TREE.unpack_from(page, start)
    return Tree(None if root == _NO_PAGE else root, entries, depth, branches + leaves)


def page_bytes_of(start: bytes) -> int:
    """Return how many bytes a page has, as the first meta page says; not proved."""
    stored = int.from_bytes(start[_PAGE_HEADER.size + _META.size :][:4], "little")
    return stored if stored in PAGE_BYTES_CHOICES else PAGE_BYTES_DEFAULT


def parse_metas(start: bytes, page_bytes: int) -> tuple[Meta, Meta]:
    """Return what the two meta pages say, with which a file begins: the older one first.

    They are of two commits in a row. LMDB takes the one with the higher number, whatever it is, so a damaged number
    would take the store back by a commit unseen.
    """
    metas = [
        _parse_meta(start[number * page_bytes : (number + 1) * page_bytes], number) for number in range(META_PAGES)
    ]
    older, newer = sorted(metas)
    if newer.commit_number != older.commit_number + 1:
        raise DamagedPageError(
            older.commit_number % META_PAGES,
            f"is of commit {older.commit_number}, and the other one of {newer.commit_number}",
        )
    return older, newer


def place_of_meta(commit_number: int, page_bytes: int) -> int:
    """Return where in the file begins what the meta page of a commit says, behind its header."""
    return commit_number % META_PAGES * page_bytes + _PAGE_HEADER.size


def renumbered_meta(page: bytes, commit_number: int) -> bytes:
    """Return what a meta page says behind its header, as if it were of another commit."""
    end = _PAGE_HEADER.size + _META.size + 2 * _TREE.size
    last_page, _ = _META_END.unpack_from(page, end)
    return page[_PAGE_HEADER.size : end] + _META_END.pack(last_page, commit_number)


def parse_tree(value: bytes) -> Tree:
    """Return the tree of a named database of this package: no flags, and of a depth that LMDB can walk."""
    if len(value) != _TREE.size:
        raise ValueError(f"the entry of a database has {len(value)} bytes")
    pad, flags, depth, *_, root = _TREE.unpack(value)
    if pad or flags or depth > DEPTH_MAX or (depth == 0) != (root == _NO_PAGE):
        raise ValueError(f"the entry of a database is one of flags {flags}, depth {depth} and root {root}")
    return _tree(value, 0)


def parse_page(page: bytes, number: int, *, has_values: bool = False, is_free_list: bool = False) -> Page:
    """Return what a page of a tree says, if LMDB may touch it; ``has_values``: and the values that are on it.

    Its keys rise, and its nodes fill the space behind the free one without a gap: what LMDB moves when it changes the
    page is theirs.
    """
    if len(page) < _PAGE_HEADER.size:
        raise DamagedPageError(number, "is behind the end of the file")
    own_number, _, flags, lower, upper = _PAGE_HEADER.unpack_from(page)
    if own_number != number:
        raise DamagedPageError(number, f"says that it is page {own_number}")
    if flags not in (_BRANCH, _LEAF):
        raise DamagedPageError(number, f"is of a kind {flags:#x} that has no place there")
    if not _PAGE_HEADER.size < lower <= upper <= len(page) or lower % _OFFSET_BYTES:
        raise DamagedPageError(number, f"has free space from {lower} to {upper}")
    offsets = struct.unpack_from(f"<{(lower - _PAGE_HEADER.size) // _OFFSET_BYTES}H", page, _PAGE_HEADER.size)
    if min(offsets) < upper or max(offsets) > len(page) - _NODE.size:
        raise DamagedPageError(number, "has a key outside of its place")
    if flags == _BRANCH:
        parsed, ends = _parse_branch(page, number, offsets)
    else:
        parsed, ends = _parse_leaf(page, number, offsets, has_values=has_values or is_free_list)
    if not _are_packed(offsets, ends, upper, len(page)):
        raise DamagedPageError(number, "has keys and values that overlap, or a gap between them")
    _refuse_disorder(parsed, number, is_free_list=is_free_list)
    return parsed


def parse_free_pages(value: bytes, last_page: int) -> list[int]:
    """Return the numbers of an entry of the list of free pages. They fall, as LMDB keeps them."""
    if len(value) < _PAGE_NUMBER.size or len(value) % _PAGE_NUMBER.size:
        raise ValueError(f"an entry of the list of free pages has {len(value)} bytes")
    count, *numbers = struct.unpack(f"<{len(value) // _PAGE_NUMBER.size}Q", value)
    if count > len(numbers):
        raise ValueError(f"an entry of the list of free pages counts {count} in {len(value)} bytes")
    free = numbers[:count]
    if free and (free[0] > last_page or free[-1] < META_PAGES or any(map(le, free, free[1:]))):
        raise ValueError("the numbers of the list of free pages do not fall")
    return free


def parse_overflow(header: bytes, number: int) -> int:
    """Return how many pages a value takes that begins on this one."""
    if len(header) < _PAGE_HEADER.size:
        raise DamagedPageError(number, "is behind the end of the file")
    own_number, _, flags, low, high = _PAGE_HEADER.unpack(header)
    if own_number != number or flags != _OVERFLOW:
        raise DamagedPageError(number, "is not the first one of a large value")
    return int(low | high << 16)


def pages_of_value(value_bytes: int, page_bytes: int) -> int:
    """Return how many pages a large value takes."""
    return -(-(_PAGE_HEADER.size + value_bytes) // page_bytes)


def _parse_meta(page: bytes, number: int) -> Meta:
    if len(page) < _PAGE_HEADER.size + _META.size + 2 * _TREE.size + _META_END.size:
        raise DamagedPageError(number, "is behind the end of the file")
    own_number, _, kind, _, _ = _PAGE_HEADER.unpack_from(page)
    magic, version, _, _ = _META.unpack_from(page, _PAGE_HEADER.size)
    if own_number != number or kind != _META_PAGE or magic != _MAGIC or version != _DATA_VERSION:
        raise DamagedPageError(number, "is not a meta page of LMDB 0.9")
    starts = (_PAGE_HEADER.size + _META.size, _PAGE_HEADER.size + _META.size + _TREE.size)
    (page_bytes, free_flags, free_depth, *_), (pad, main_flags, main_depth, *_) = (
        _TREE.unpack_from(page, start) for start in starts
    )
    last_page, commit_number = _META_END.unpack_from(page, starts[1] + _TREE.size)
    if page_bytes != len(page) or pad or free_flags != _INTEGER_KEYS or main_flags:
        raise DamagedPageError(number, f"says that pages have {page_bytes} bytes, flags {free_flags} and {main_flags}")
    if commit_number % META_PAGES != number:
        raise DamagedPageError(number, f"is of commit {commit_number}, which belongs into the other one")
    free, main = (_tree(page, start) for start in starts)
    for tree, depth in ((free, free_depth), (main, main_depth)):
        if depth > DEPTH_MAX or (depth == 0) != (tree.root is None):
            raise DamagedPageError(number, f"has a tree of depth {depth} with the root {tree.root}")
    return Meta(commit_number, last_page, free, main)


def _parse_branch(page: bytes, number: int, offsets: Sequence[int]) -> tuple[Page, list[int]]:
    of_records = _parse_branch_of_records(page, offsets)
    if of_records is not None:
        return of_records
    keys: list[bytes] = []
    children: list[int] = []
    ends: list[int] = []
    unpack = _NODE.unpack_from
    for offset in offsets:
        low, high, highest, key_bytes = unpack(page, offset)
        end = offset + _NODE.size + key_bytes
        if key_bytes > KEY_BYTES_MAX or end > len(page):
            raise DamagedPageError(number, "has a key that goes on behind it")
        keys.append(page[offset + _NODE.size : end])
        children.append(low | high << 16 | highest << 32)
        ends.append(end + end % 2)
    return Page(keys, children, [], {}), ends


def _parse_branch_of_records(page: bytes, offsets: Sequence[int]) -> tuple[Page, list[int]] | None:
    """Return what a branch says that appending records has made, in a third of the time; None: it is another one.

    Its first key is empty, and the others of eight bytes lie in front of it, the last one first.
    """
    first_offset = len(page) - _NODE.size
    if offsets != tuple(range(first_offset, first_offset - _RECORD_NODE.size * len(offsets), -_RECORD_NODE.size)):
        return None
    low, high, highest, first_key_bytes = _NODE.unpack_from(page, first_offset)
    others = list(_RECORD_NODE.iter_unpack(page[offsets[-1] : first_offset]))
    others.reverse()
    if first_key_bytes != 0 or any(node[3] != _RECORD_KEY_BYTES for node in others):
        return None
    children = [low | high << 16 | highest << 32]
    children += [low | high << 16 | highest << 32 for low, high, highest, _, _ in others]
    return Page([b"", *(key for *_, key in others)], children, [], {}), [len(page), *offsets[:-1]]


def _parse_leaf(page: bytes, number: int, offsets: Sequence[int], *, has_values: bool) -> tuple[Page, list[int]]:
    keys: list[bytes] = []
    far_values: list[FarValue] = []
    values: dict[int, bytes] = {}
    ends: list[int] = []
    unpack = _NODE.unpack_from
    for offset in offsets:
        low, high, flags, key_bytes = unpack(page, offset)
        start = offset + _NODE.size + key_bytes
        if not 0 < key_bytes <= KEY_BYTES_MAX:
            raise DamagedPageError(number, f"has a key of {key_bytes} bytes")
        value_bytes = low | high << 16
        if flags == 0:
            end = start + value_bytes
        elif flags == _IN_OVERFLOW_PAGES:
            end = start + _PAGE_NUMBER.size
        else:
            end = start + value_bytes
            if flags != _IS_TREE or value_bytes != _TREE.size:
                raise DamagedPageError(number, f"has a value of a kind {flags:#x} that has no place there")
        if end > len(page):
            raise DamagedPageError(number, "has a value that goes on behind it")
        if flags == _IN_OVERFLOW_PAGES:
            (first_page,) = _PAGE_NUMBER.unpack_from(page, start)
            far_values.append(FarValue(len(keys), first_page, value_bytes))
        elif flags == _IS_TREE or has_values:
            values[len(keys)] = page[start:end]
        keys.append(page[offset + _NODE.size : start])
        ends.append(end + end % 2)
    return Page(keys, [], far_values, values), ends


def _are_packed(offsets: tuple[int, ...], ends: list[int], upper: int, page_bytes: int) -> bool:
    """Tell whether the nodes fill the page from ``upper`` on, each once and without a gap."""
    if offsets[-1] == upper and ends == [page_bytes, *offsets[:-1]]:
        return True  # in the order in which LMDB appends
    spans = sorted(zip(offsets, ends, strict=True))
    starts = [start for start, _ in spans]
    return starts[0] == upper and [end for _, end in spans] == [*starts[1:], page_bytes]


def _refuse_disorder(page: Page, number: int, *, is_free_list: bool) -> None:
    keys = page.keys[1:] if page.children else page.keys
    if page.children and not keys and not is_free_list:
        raise DamagedPageError(number, "is a branch of one page")
    if is_free_list:
        keys = [key[::-1] for key in keys]  # whole numbers, least significant byte first
        if any(len(key) != _PAGE_NUMBER.size for key in keys):
            raise DamagedPageError(number, "has a key of the list of free pages that is no number")
    if any(map(ge, keys, keys[1:])):
        raise DamagedPageError(number, "has keys that do not rise")
