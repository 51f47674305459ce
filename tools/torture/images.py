"""The images that a power loss can leave: which ones are tried, and how they are made.

Images of one timeline are distinct and spread over all of its windows. Where a window leaves few, they are enumerated;
of many, some are drawn: all pages but one, one page alone, the first so many, any half, and pages torn at a sector.
"""

import itertools
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from tools.torture.disk import PAGE_BYTES, Names, Patch, Timeline, Window, apply_change, digest_of

__all__ = ["Image", "ImageFolder", "plan_images"]

SECTOR_BYTES: Final = 512
EXHAUSTIVE_MAX: Final = 64
"""A window with so many images or fewer is enumerated."""
TRIES_PER_IMAGE: Final = 32
STORE: Final = {"store", "store/data.mdb", "store/lock.mdb"}


class Image(NamedTuple):
    """What is on the disk behind a power loss in a window."""

    window: int
    patches: tuple[Patch, ...]
    """What differs from what was synced."""
    lengths: dict[int, int]
    names: Names
    pages_lost: int
    """How many pages are not as the process saw them last."""


class _Unsure(NamedTuple):
    """A page that may hold several things: the first is what was synced, the last what the process saw."""

    file: int
    page: int
    versions: tuple[bytes, ...]


def plan_images(timeline: Timeline, dice: Random, count: int) -> list[Image]:
    """Return so many distinct images, in any order; fewer if there are no more.

    What two windows can leave counts for the later one, which promises more.
    """
    digests: set[int] = set()
    makers = [
        _images_of(number, timeline.windows[number], dice, digests) for number in reversed(range(len(timeline.windows)))
    ]
    found: list[Image] = []
    while makers and len(found) < count:
        going_on: list[Iterator[Image]] = []
        for maker in makers:
            image = next(maker, None)
            if image is not None:
                found.append(image)
                going_on.append(maker)
        makers = going_on
    dice.shuffle(found)
    return found[:count]


def _images_of(number: int, window: Window, dice: Random, digests: set[int]) -> Iterator[Image]:
    """Yield images that nobody has made: all that there are if they are few, then drawn ones."""
    unsure = [
        _Unsure(file, page, versions)
        for file, view in window.files.items()
        for page, every in sorted(view.pages.items())
        if len(versions := tuple(dict.fromkeys(every))) > 1
    ]
    lengths = {file: sorted({view.synced_bytes, view.length_bytes}) for file, view in window.files.items()}
    cuts = range(len(window.changes) + 1)
    counts = [len(cuts), *map(len, lengths.values()), *(len(each.versions) for each in unsure)]
    if math.prod(counts) <= EXHAUSTIVE_MAX:
        for cut in cuts:
            for chosen_lengths in itertools.product(*lengths.values()):
                for contents in itertools.product(*(each.versions for each in unsure)):
                    chosen = dict(zip(lengths, chosen_lengths, strict=True))
                    if image := _image(number, window, _names(window, cut), chosen, unsure, contents, digests):
                        yield image
    misses = 0
    while misses < TRIES_PER_IMAGE:
        names = _names(window, dice.choice(cuts), lost_folder=dice.choice((None, None, "", "store")))
        chosen = {file: _draw_length(few, dice) for file, few in lengths.items()}
        image = _image(number, window, names, chosen, unsure, _draw_contents(unsure, dice), digests)
        if image is None:
            misses += 1
        else:
            misses = 0
            yield image


def _image(
    number: int,
    window: Window,
    names: Names,
    lengths: dict[int, int],
    unsure: list[_Unsure],
    contents: tuple[bytes, ...],
    digests: set[int],
) -> Image | None:
    """Return the image unless there is one with the same content already."""
    patches = tuple(
        Patch(each.file, each.page, content)
        for each, content in zip(unsure, contents, strict=True)
        if content is not each.versions[0]
        and each.page * PAGE_BYTES < lengths[each.file]
        and each.file in names.values()
    )
    there = {file: lengths[file] for file in set(names.values()) & window.files.keys()}
    before = {(each.file, each.page): each.versions[0] for each in unsure}
    digest = hash((frozenset(names.items()), frozenset(there.items())))
    for file in there:
        digest ^= window.files[file].digest
    for patch in patches:
        digest ^= digest_of(patch.page, before[patch.file, patch.page]) ^ digest_of(patch.page, patch.content)
    if digest in digests:
        return None
    digests.add(digest)
    lost = sum(content is not each.versions[-1] for each, content in zip(unsure, contents, strict=True))
    return Image(number, patches, there, names, lost)


def _names(window: Window, cut: int, *, lost_folder: str | None = None) -> Names:
    """Return the names with so many of the changes to them; but for those in a folder, if one is lost."""
    names = window.names.copy()
    for change in window.changes[:cut]:
        if change.folder != lost_folder:
            apply_change(names, change)
    return {path: file for path, file in names.items() if _is_reachable(path, names)}


def _is_reachable(path: str, names: Names) -> bool:
    folder = path.rpartition("/")[0]
    return folder == "" or (folder in names and _is_reachable(folder, names))


def _draw_length(lengths: list[int], dice: Random) -> int:
    shortest, longest = lengths[0], lengths[-1]
    if dice.random() < 0.8:
        return longest
    pages = dice.randrange(longest // PAGE_BYTES + 1)
    return dice.choice((shortest, max(shortest, pages * PAGE_BYTES)))


def _draw_contents(unsure: list[_Unsure], dice: Random) -> tuple[bytes, ...]:
    last = len(unsure) - 1
    way = dice.choice(("all but one", "one alone", "the first", "any half", "torn", "torn"))
    place = dice.randint(0, max(last, 0))
    contents: list[bytes] = []
    for number, each in enumerate(unsure):
        keeps = {
            "all but one": number != place,
            "one alone": number == place,
            "the first": number <= place,
        }.get(way, dice.random() < 0.5)
        newest = each.versions[-1] if len(each.versions) == 2 else dice.choice(each.versions[1:])
        is_torn = way == "torn" and dice.random() < 0.5
        contents.append(_torn(each.versions[0], newest, dice) if is_torn else newest if keeps else each.versions[0])
    return tuple(contents)


def _torn(old: bytes, new: bytes, dice: Random) -> bytes:
    torn = bytearray(old)
    for start in range(0, PAGE_BYTES, SECTOR_BYTES):
        if dice.random() < 0.5:
            torn[start : start + SECTOR_BYTES] = new[start : start + SECTOR_BYTES]
    return bytes(torn)


class ImageFolder:
    """A folder in which one image after the other is made. Quickest when their windows come in order."""

    def __init__(self, timeline: Timeline, folder: Path) -> None:
        self._windows = timeline.windows
        self._folder = folder
        self._window = -1
        self._contents: dict[int, bytearray] = {}
        self._made: Names | None = None

    def make(self, image: Image) -> None:
        """Make the folder what the image says it is. A lock file keeps what the store before left in it."""
        self._go_to(image.window)
        if image.names != self._made or not STORE.issuperset(image.names):
            self._make_names(image.names)
        for path, file in image.names.items():
            if file in image.lengths:
                self._fill(path, file, image)

    def _go_to(self, window: int) -> None:
        if window < self._window:
            self._window = -1
            self._contents = {}
        for number in range(self._window + 1, window + 1):
            for patch in self._windows[number].settled:
                content = self._contents.setdefault(patch.file, bytearray())
                start = patch.page * PAGE_BYTES
                if len(content) < start + PAGE_BYTES:
                    if not any(patch.content):
                        continue  # what the file is grown by ahead of its data
                    content.extend(bytes(start + PAGE_BYTES - len(content)))
                content[start : start + PAGE_BYTES] = patch.content
        self._window = window

    def _make_names(self, names: Names) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        for path, file in sorted(names.items()):
            if file == 0:
                (self._folder / path).mkdir()
            else:
                (self._folder / path).touch()
        self._made = names

    def _fill(self, path: str, file: int, image: Image) -> None:
        length = image.lengths[file]
        content = memoryview(self._contents.get(file, b""))[:length]
        descriptor = os.open(self._folder / path, os.O_WRONLY)
        try:
            os.ftruncate(descriptor, len(content))
            os.pwrite(descriptor, content, 0)
            os.ftruncate(descriptor, length)
            for patch in image.patches:
                if patch.file == file:
                    start = patch.page * PAGE_BYTES
                    os.pwrite(descriptor, patch.content[: length - start], start)
        finally:
            os.close(descriptor)
