"""Room in the data file: how far it is kept ahead of the data, and the reserve that only deleting may use up.

Deleting needs pages before it gives any back: LMDB writes each page that it changes to another place, and uses those
that a commit freed only two commits later. So every other commit leaves some, and a full disk can always be trimmed.

Knows sizes and the file, never LMDB's functions.
"""

import contextlib
import mmap
from collections.abc import Callable
from typing import Final

from streamstore.folder import FolderLock
from streamstore.library import OUT_OF_SPACE, translate

__all__ = ["FileRoom", "Need"]

PAGE_BYTES: Final = mmap.PAGESIZE
GROWTH_AHEAD_BYTES: Final = 512 * 1024

# Two commits that delete a record take pages before those of the first are used again: about a dozen each.
RESERVE_PAGES: Final = 32
# What settings, checkpoints and puts that trim on their way must leave: they free about as much as they take.
RESERVE_PAGES_OF_CHANGES: Final = 24

# The most pages that a change takes: the way from the root to a leaf, twice, as a commit writes what is free too.
COMMIT_PAGES: Final = 8
CHANGE_PAGES: Final = 4
PUT_PAGES: Final = 2
PAGE_HEADER_BYTES: Final = 16
NODE_BYTES: Final = 18  # header, key, and the offset that leads to it
LEAF_VALUE_BYTES_MAX: Final = (PAGE_BYTES - PAGE_HEADER_BYTES) // 2 - NODE_BYTES
"""A larger value has pages of its own, and nobody shares them."""

assert (RESERVE_PAGES + COMMIT_PAGES) * PAGE_BYTES < GROWTH_AHEAD_BYTES or PAGE_BYTES > 4096


class Need:
    """The most pages that a transaction takes, counted up change by change; and whether it gives some back."""

    __slots__ = ("appends", "frees", "pages")

    def __init__(self) -> None:
        self.pages = COMMIT_PAGES
        self.appends = False
        self.frees = False

    def put(self, value: bytes) -> None:
        self.pages += PUT_PAGES + len(value) // PAGE_BYTES

    def put_all(self, items: list[tuple[bytes, bytes]]) -> None:
        self.pages += PUT_PAGES * len(items)
        self.appends = True

    def delete(self) -> None:
        self.pages += CHANGE_PAGES
        self.frees = True

    def append(self, items: list[tuple[bytes, bytes]]) -> None:
        self.appends = True
        if len(items) == 1:
            self.pages += CHANGE_PAGES + 1 + len(items[0][1]) // PAGE_BYTES
            return
        sizes = [len(value) for _, value in items]
        large = [size for size in sizes if size > LEAF_VALUE_BYTES_MAX]
        shared = sum(sizes) - sum(large) + NODE_BYTES * len(sizes)
        # A leaf is left at least half full, and of a large value the last page is.
        self.pages += CHANGE_PAGES + 2 * shared // PAGE_BYTES + len(large) + sum(large) // PAGE_BYTES

    def bytes(self) -> int:
        return self.pages * PAGE_BYTES

    def reserve_pages(self) -> int:
        """Return how many pages it must leave for others."""
        if self.frees and not self.appends:
            return 0
        return RESERVE_PAGES_OF_CHANGES if self.frees or not self.appends else RESERVE_PAGES


class FileRoom:
    """Keeps the data file longer than its data, by zeros that later commits fill.

    A commit that must lengthen the file waits for the journal of the filesystem too; small ones find blocks there.
    """

    def __init__(self, lock: FolderLock) -> None:
        self._lock = lock
        self._ahead_bytes = 0  # at least, behind the commit ``_number``
        self._number = -1

    def make(self, need: Need, number: int, data_bytes: Callable[[], int]) -> bool:
        """See that commit ``number`` has its pages, and the reserve behind them. False: the disk is full.

        Belongs into the write transaction: then no other process is about to put data where the zeros go.
        """
        need_bytes = need.bytes()
        self._ahead_bytes -= need_bytes
        nobody_else_wrote = number == self._number + 1
        self._number = number
        wanted_bytes = need_bytes + RESERVE_PAGES * PAGE_BYTES
        if not nobody_else_wrote or self._ahead_bytes < wanted_bytes - need_bytes:
            end_bytes = data_bytes()
            if self._lock.data_file_bytes() - end_bytes < wanted_bytes:
                try:
                    self._lengthen(end_bytes + max(wanted_bytes, GROWTH_AHEAD_BYTES))
                except OSError as error:  # of any other kind, the commit will say so itself
                    if error.errno in OUT_OF_SPACE and self._lock.data_file_bytes() - end_bytes < wanted_bytes:
                        return False
            self._ahead_bytes = self._lock.data_file_bytes() - end_bytes - need_bytes
        return True

    def find(self, data_bytes: int) -> bool:
        """Lengthen the file, if it is possible and not done already. Belongs into the write transaction too."""
        size_bytes = self._lock.data_file_bytes()
        with contextlib.suppress(OSError):
            self._lengthen(data_bytes + GROWTH_AHEAD_BYTES)
        return self._lock.data_file_bytes() > size_bytes

    def refuse_full(self, error: BaseException, need: Need, data_bytes: int) -> None:
        """Tell a full disk from a broken one: LMDB calls a write that was cut short an input/output error."""
        try:
            self._lock.extend_data_file(data_bytes + max(need.bytes(), GROWTH_AHEAD_BYTES))
        except OSError as full:
            if full.errno in OUT_OF_SPACE:
                raise translate(full, "write") from error

    def _lengthen(self, size_bytes: int) -> None:
        missing_bytes = size_bytes - self._lock.data_file_bytes()
        if missing_bytes > GROWTH_AHEAD_BYTES:  # a large commit fills them at once
            self._lock.extend_data_file(size_bytes)
        elif missing_bytes > 0:
            self._lock.append_zeros(missing_bytes)
