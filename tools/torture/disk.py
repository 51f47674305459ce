"""What a power loss can leave of a folder: the calls that were recorded on it, on a disk that keeps what was synced.

The disk writes whole pages, in any order, and of a page that it was writing any of the sectors. What was written and
not synced may be there or not, each page for itself; so may the new length of a file, and new names, these in their
order. A sync that failed is the last that the disk hears of its pages until they are written again: Linux marks them
clean.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tools.torture.calls import Entry, Kind

__all__ = [
    "PAGE_BYTES",
    "FileView",
    "NameChange",
    "Names",
    "Patch",
    "Timeline",
    "Window",
    "apply_change",
    "digest_of",
    "replay",
]

PAGE_BYTES: Final = 4096
NOT_MODELLED: Final = "lock.mdb"  # what is in it means nothing to the first who opens it

Names = dict[str, int]
"""The paths in the folder, relative to it, and the file behind each; 0 is a folder."""


class Patch(NamedTuple):
    """What a page of a file holds."""

    file: int
    page: int
    content: bytes


class FileView(NamedTuple):
    """What is not sure of a file."""

    pages: dict[int, tuple[bytes, ...]]
    """What may be on each page: the first is what was synced, the last what the process saw."""
    synced_bytes: int
    length_bytes: int
    digest: int
    """Of all that was synced."""


class NameChange(NamedTuple):
    """A name that was made, changed or removed, and is not synced: with the folder whose sync makes it last."""

    folder: str
    path: str
    file: int | None
    """What the path stands for now; None: nothing."""


class Window(NamedTuple):
    """The time in front of a sync: whatever was not synced in it may be lost."""

    settled: tuple[Patch, ...]
    """What was synced since the window before."""
    files: dict[int, FileView]
    names: Names
    changes: tuple[NameChange, ...]
    marks: int
    """How many marks the program had made at its end."""


class Timeline(NamedTuple):
    """Everything that happened to a folder."""

    windows: list[Window]
    marks: list[bytes]


class _File:
    """A file, as the process sees it and as it is on the disk."""

    def __init__(self) -> None:
        self._synced: dict[int, bytes] = {}
        self._unsure: dict[int, list[bytes]] = {}
        self._dirty: set[int] = set()
        self._synced_bytes = 0
        self._length_bytes = 0
        self._digest = 0

    def view(self) -> FileView:
        pages = {page: (self._on_disk(page), *versions) for page, versions in self._unsure.items()}
        return FileView(pages, self._synced_bytes, self._length_bytes, self._digest)

    def write(self, offset: int, data: bytes, *, is_lost: bool = False) -> None:
        """Write to the cache. ``is_lost``: what is told as failed is never written again."""
        for page in range(offset // PAGE_BYTES, -(-(offset + len(data)) // PAGE_BYTES)):
            start = page * PAGE_BYTES - offset
            written = data[max(0, start) : start + PAGE_BYTES]
            content = bytearray(self._seen(page))
            content[max(0, -start) : max(0, -start) + len(written)] = written
            self._unsure.setdefault(page, []).append(bytes(content))
            if is_lost:
                self._dirty.discard(page)
            else:
                self._dirty.add(page)
        self.lengthen(offset + len(data))

    def lengthen(self, length_bytes: int) -> None:
        self._length_bytes = max(self._length_bytes, length_bytes)

    def sync(self, pages: Sequence[int] | None = None) -> Iterator[tuple[int, bytes]]:
        """Bring what is dirty, or those pages, to the disk, and yield what each page holds now."""
        self._synced_bytes = self._length_bytes
        for page in sorted(self._dirty) if pages is None else pages:
            content = self._unsure.pop(page)[-1]
            self._dirty.discard(page)
            self._digest ^= digest_of(page, self._on_disk(page)) ^ digest_of(page, content)
            self._synced[page] = content
            yield page, content

    def fail_sync(self) -> None:
        self._dirty.clear()

    def _seen(self, page: int) -> bytes:
        versions = self._unsure.get(page)
        return versions[-1] if versions else self._on_disk(page)

    def _on_disk(self, page: int) -> bytes:
        return self._synced.get(page, _ZEROS)


_ZEROS: Final = bytes(PAGE_BYTES)


def digest_of(page: int, content: bytes) -> int:
    """Return a number for a page; those of all pages together, by exclusive or, tell images apart."""
    return 0 if content == _ZEROS else hash((page, content))


class _Replay:
    """Replays a log, entry by entry."""

    def __init__(self, root: Path) -> None:
        self._root = str(root.resolve())
        self._files: dict[int, _File] = {}
        self._synced_names: Names = {}
        self._names: Names = {}
        self._changes: list[NameChange] = []
        self._folders: dict[int, str] = {}
        self._settled: list[Patch] = []
        self.windows: list[Window] = []
        self.marks: list[bytes] = []

    def add(self, entry: Entry) -> None:
        if entry.kind == Kind.MARK:
            self.marks.append(entry.data)
        elif entry.kind == Kind.SYNC:
            self._sync(entry)
        elif entry.result >= 0 and entry.kind in (Kind.WRITE, Kind.TRUNCATE, Kind.ALLOCATE):
            self._change_file(entry)
        elif entry.result >= 0:
            self._change_names(entry)

    def end_window(self) -> None:
        self.windows.append(
            Window(
                tuple(self._settled),
                {number: file.view() for number, file in self._files.items()},
                self._synced_names.copy(),
                tuple(self._changes),
                len(self.marks),
            )
        )
        self._settled = []

    def _sync(self, entry: Entry) -> None:
        file = self._files.get(entry.file)
        if entry.result < 0 or entry.has_failed:
            if file is not None:
                file.fail_sync()
            return
        self.end_window()
        if file is not None:
            self._settled += [Patch(entry.file, page, content) for page, content in file.sync()]
        elif (folder := self._folders.get(entry.file)) is not None:
            kept = [change for change in self._changes if change.folder != folder]
            for change in self._changes:
                if change.folder == folder:
                    apply_change(self._synced_names, change)
            self._changes = kept

    def _change_file(self, entry: Entry) -> None:
        file = self._files.get(entry.file)
        if file is None:
            return
        if entry.kind == Kind.ALLOCATE:
            file.lengthen(entry.offset + entry.length)
            return
        if entry.kind == Kind.TRUNCATE:
            raise NotImplementedError("The engine shortens no file.")
        file.write(entry.offset, entry.data, is_lost=entry.has_failed)
        if entry.is_synced and entry.data:
            self.end_window()
            last = entry.offset + len(entry.data) - 1
            pages = range(entry.offset // PAGE_BYTES, last // PAGE_BYTES + 1)
            self._settled += [Patch(entry.file, page, content) for page, content in file.sync(pages)]

    def _change_names(self, entry: Entry) -> None:
        paths = [path.removeprefix(self._root).lstrip("/") for path in entry.paths]
        if entry.kind == Kind.OPEN:
            self._open(entry, paths[0])
        elif entry.kind == Kind.MAKE_FOLDER:
            self._change_name(paths[0], 0)
        elif entry.kind == Kind.RENAME:
            self._change_name(paths[1], self._names[paths[0]])
            self._change_name(paths[0], None)
        elif entry.kind in (Kind.UNLINK, Kind.REMOVE_FOLDER):
            self._change_name(paths[0], None)

    def _open(self, entry: Entry, path: str) -> None:
        self._folders[entry.file] = path  # of a file this is never asked
        if entry.has_created:
            if not path.endswith(NOT_MODELLED):
                self._files[entry.file] = _File()
            self._change_name(path, entry.file)

    def _change_name(self, path: str, file: int | None) -> None:
        change = NameChange(path.rpartition("/")[0], path, file)
        apply_change(self._names, change)
        self._changes.append(change)


def replay(entries: Iterable[Entry], root: Path) -> Timeline:
    """Return what happened in the folder, which was empty."""
    disk = _Replay(root)
    for entry in entries:
        disk.add(entry)
    disk.end_window()
    return Timeline(disk.windows, disk.marks)


def apply_change(names: Names, change: NameChange) -> None:
    if change.file is None:
        names.pop(change.path, None)
    else:
        names[change.path] = change.file
