"""Reads pages of the data file one by one, and refuses those that LMDB could not have written.

With ``pread``, never through the map. ``DamagedPageError`` says what is wrong with a page; an ``OSError``, which says
nothing of what is on it, that it could not be read.
"""

from collections.abc import Callable, Iterator
from typing import Final

from streamstore.errors import StoreFormatError
from streamstore.pages import (
    META_BYTES_MAX,
    META_PAGES,
    DamagedPageError,
    Meta,
    Page,
    page_bytes_of,
    pages_of_value,
    parse_metas,
    parse_overflow,
    parse_page,
    place_of_meta,
    renumbered_meta,
)

__all__ = ["PageReader", "ReadFile", "damaged"]

PAGES_AT_ONCE: Final = 16
META_ATTEMPTS: Final = 20
PAGE_HEADER_BYTES: Final = 16
PAGES_MAX: Final = 2**48 // 512

ReadFile = Callable[[int, int], bytes]
"""Reads from a place in the file on so many bytes: fewer at its end."""


class PageReader:
    """The pages of an open file."""

    def __init__(self, read: ReadFile) -> None:
        self._read = read
        self._page_bytes = page_bytes_of(read(0, META_BYTES_MAX))

    def metas(self, *, alone: bool) -> tuple[Meta, Meta]:
        """Return what the meta pages say, the older one first. Unless we are alone, others may be writing them."""
        for attempts_left in reversed(range(1 if alone else META_ATTEMPTS)):
            try:
                return parse_metas(self._read(0, META_BYTES_MAX), self._page_bytes)
            except DamagedPageError as error:
                if attempts_left == 0:
                    raise damaged("The file", str(error)) from error
        raise AssertionError

    def renumbered(self, meta: Meta, commit_number: int) -> tuple[int, bytes]:
        """Return what a meta page says as if it were of another commit, and where in the file that belongs."""
        content = self.read_at(meta.commit_number % META_PAGES, self._page_bytes)
        return place_of_meta(commit_number, self._page_bytes), renumbered_meta(content, commit_number)

    def pages(self, numbers: list[int]) -> Iterator[bytes]:
        """Yield the pages, read at once where they lie side by side, more and more; less of what cannot be read."""
        place, count_max = 0, 1
        while place < len(numbers):
            count = 1
            most = min(count_max, len(numbers) - place)
            while count < most and numbers[place + count] == numbers[place] + count:
                count += 1
            try:
                content = self.read_at(numbers[place], count * self._page_bytes)
            except (DamagedPageError, OSError):  # perhaps only of a page behind it
                content = b""
            for start in range(0, count * self._page_bytes, self._page_bytes):
                yield content[start : start + self._page_bytes]
            place += count
            count_max = min(2 * count_max, PAGES_AT_ONCE)

    def page(
        self,
        number: int,
        low: bytes,
        high: bytes | None,
        *,
        is_leaf: bool,
        content: bytes = b"",
        has_values: bool = False,
    ) -> Page:
        """Return a page whose keys must all be from ``low`` on and in front of ``high``."""
        if len(content) < self._page_bytes:
            content = self.page_at(number)
        page = parse_page(content, number, has_values=has_values)
        _refuse_other_depth(page, number, is_leaf=is_leaf)
        if page.keys[0 if is_leaf else 1] < low or (high is not None and page.keys[-1] >= high):
            raise DamagedPageError(number, "has keys that do not belong there")
        return page

    def page_of_free_list(self, number: int, *, is_leaf: bool) -> Page:
        """Return a page of the list of free pages, with the values that are on it."""
        page = parse_page(self.page_at(number), number, is_free_list=True)
        _refuse_other_depth(page, number, is_leaf=is_leaf)
        return page

    def page_at(self, number: int) -> bytes:
        page = self.read_at(number, self._page_bytes)
        if len(page) < self._page_bytes:
            raise DamagedPageError(number, "is behind the end of the file")
        return page

    def read_at(self, number: int, count_bytes: int) -> bytes:
        if number > PAGES_MAX:
            raise DamagedPageError(number, "is behind the end of any file")
        return self._read(number * self._page_bytes, count_bytes)

    def prove_far_value(self, number: int, value_bytes: int, *, is_exact: bool) -> range:
        """Prove that a value of so many bytes begins on a page, and return the pages that it needs.

        One that is written over a longer one keeps the pages of that. ``is_exact``: none is ever written over.
        """
        pages, needed = self.pages_of_far_value(number, value_bytes), pages_of_value(value_bytes, self._page_bytes)
        if is_exact and len(pages) > needed:
            raise _of_wrong_length(number, len(pages), needed)
        if len(pages) > 1 and len(self.read_at(pages[-1], self._page_bytes)) < self._page_bytes:
            raise DamagedPageError(number, "begins a value that goes on behind the end of the file")
        return pages[:needed]

    def pages_of_far_value(self, number: int, value_bytes: int) -> range:
        """Return the pages that a value keeps. ``DamagedPageError``: they are not enough for it."""
        count = parse_overflow(self.read_at(number, PAGE_HEADER_BYTES), number)
        needed = pages_of_value(value_bytes, self._page_bytes)
        if count < needed:
            raise _of_wrong_length(number, count, needed)
        return range(number, number + count)

    def far_value(self, number: int, value_bytes: int) -> bytes:
        return self.read_at(number, PAGE_HEADER_BYTES + value_bytes)[PAGE_HEADER_BYTES:]


def _refuse_other_depth(page: Page, number: int, *, is_leaf: bool) -> None:
    if bool(page.children) == is_leaf:
        raise DamagedPageError(number, "is not as deep in its tree as it should be")


def _of_wrong_length(number: int, count: int, needed: int) -> DamagedPageError:
    return DamagedPageError(number, f"begins a value of {count} pages, which needs {needed}")


def damaged(what: str, problem: str) -> StoreFormatError:
    return StoreFormatError(
        f"{what} is damaged: {problem}. Nothing was stored or changed; see what else with check, and save the rest "
        "with salvage, or restore a copy."
    )
