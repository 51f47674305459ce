"""The pages of a data file of LMDB 0.9, read one by one and without LMDB, which a damaged page can make crash.

Knows LMDB's layout on 64-bit little-endian machines (the structs of mdb.c), and never
what keys and values mean: whoever reads them must prove them. Damage is passed over and noted in ``problems``;
nothing here raises for it. The file is read and not mapped, so one that ends early or has bad sectors costs only the
pages there.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple, Self

__all__ = ["Node", "PageFile", "Snapshot", "Tree"]

PAGE_BYTES_DEFAULT: Final = 4096
PAGE_BYTES_CHOICES: Final = tuple(2**power for power in range(9, 17))
META_PAGES: Final = 2
DEPTH_MAX: Final = 32
VALUE_BYTES_MAX: Final = 2**26  # no size that is damaged may take all memory

_MAGIC: Final = 0xBEEFC0DE
_DATA_VERSION: Final = 1
_NO_PAGE: Final = 2**64 - 1
_PAGE_HEADER: Final = struct.Struct("<QHHHH")  # number, pad, flags, lower, upper
_META: Final = struct.Struct("<IIQQ")  # magic, version, address, map size; then two trees
_META_END: Final = struct.Struct("<QQ")  # last page, transaction
_TREE: Final = struct.Struct("<IHHQQQQQ")  # pad, flags, depth, branches, leaves, overflows, entries, root
_NODE: Final = struct.Struct("<HHHH")  # two of the size or page number, flags or the rest of that, size of the key
_OFFSET_BYTES: Final = 2
_PAGE_NUMBER: Final = struct.Struct("<Q")

_BRANCH: Final = 0x01
_LEAF: Final = 0x02
_OVERFLOW: Final = 0x04
_META_PAGE: Final = 0x08
_IN_OVERFLOW_PAGES: Final = 0x01
_IS_TREE: Final = 0x02


class Tree(NamedTuple):
    """The tree of a database: its root page, None if it is empty, and how many keys it should have."""

    root: int | None
    entries: int


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
    *_, entries, root = _TREE.unpack_from(page, start)
    return Tree(None if root == _NO_PAGE else root, entries)
