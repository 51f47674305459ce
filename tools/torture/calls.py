"""The calls by which a process touches the files of one folder: recorded, and made to fail. The other half of calls.c.

A program that is started with ``environment_with`` has the library in front of the C library. It says itself which
folder is meant, where the log is, and which call is to fail: one process can try many places. Recording and failing
are independent of each other.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import struct
import subprocess
from collections.abc import Generator, Iterator
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple, Self

__all__ = [
    "EVERY_KIND",
    "SOURCE",
    "Calls",
    "Entry",
    "Fault",
    "Kind",
    "compile_library",
    "environment_with",
    "lacks_gcc",
    "read_log",
]

SOURCE: Final = Path(__file__).with_name("calls.c")
FOR_EVER: Final = 2**62
_ENTRY: Final = struct.Struct("=IIQqqqII")

_IS_SYNCED: Final = 1
_HAS_CREATED: Final = 2
_HAS_EMPTIED: Final = 4
_HAS_FAILED: Final = 8


class Kind(IntEnum):
    """What a call does. Reading, mapping and locking can fail, and are not in the log; a mark is the program's own."""

    OPEN = 0
    CLOSE = 1
    READ = 2
    WRITE = 3
    SYNC = 4
    TRUNCATE = 5
    ALLOCATE = 6
    RENAME = 7
    UNLINK = 8
    MAKE_FOLDER = 9
    REMOVE_FOLDER = 10
    MAP = 11
    LOCK = 12
    MARK = 13
    SYNCED_WRITE = 14
    """A write through a descriptor on which each is synced; in the log it is a write like others."""


EVERY_KIND: Final = frozenset(Kind) - {Kind.MARK}


class Fault(IntEnum):
    """What becomes of a call."""

    NONE = 0
    REFUSED = 1
    """It is not made, and returns the error."""
    SHORT = 2
    """It writes or reads half of the bytes, and says so. What moves no bytes is refused."""
    FAILED_AFTERWARDS = 3
    """It is made, and returns the error all the same."""
    KILLED_BEFORE = 4
    KILLED_HALFWAY = 5
    """The process is killed when half of the bytes are written; or behind the call, where it moves none."""
    KILLED_AFTERWARDS = 6
    """The process is killed when the call is made. A write through a synced descriptor may still be lost."""
    FAILED_THEN_REFUSED = 7
    """It is made, and returns the error all the same; those behind it are not made. LMDB answers a meta page that
    failed with a write of the old one: only where that fails too does the file keep what the caller is told failed."""


class Entry(NamedTuple):
    """A call that was made, or a mark."""

    kind: Kind
    file: int
    """The inode number of the file or folder."""
    offset: int
    length: int
    """How many bytes the call was to write or to allocate, or the length that it gives the file."""
    result: int
    """What the call returned, or -1."""
    error: int
    data: bytes
    """What was written, or the mark."""
    paths: tuple[str, ...]
    """The path; or the old and the new one."""
    is_synced: bool
    """The write was on the disk when the call returned."""
    has_created: bool
    has_emptied: bool
    has_failed: bool
    """The sync or synced write was made, and the caller was told that it had failed."""


class Calls:
    """The library in this process, which must have been started with ``environment_with``."""

    def __init__(self, library: Path) -> None:
        if os.fspath(library) not in os.environ.get("LD_PRELOAD", ""):
            raise RuntimeError(f"This process was not started with {library} in front.")
        self._library = ctypes.CDLL(os.fspath(library), use_errno=True)
        self._library.calls_watch.argtypes = (ctypes.c_char_p,)
        self._library.calls_record.argtypes = (ctypes.c_char_p,)
        self._library.calls_mark.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
        self._library.calls_arm.argtypes = (
            ctypes.c_uint32,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_int,
            ctypes.c_int,
        )
        self._library.calls_disarm.restype = ctypes.c_int64

    @classmethod
    def in_front(cls) -> Self:
        """Return the library that this process was started with."""
        return cls(Path(os.environ["LD_PRELOAD"]))

    def watch(self, folder: Path) -> None:
        """From now on, the calls are those that touch this folder, or descriptors of it that are opened from now on."""
        self._library.calls_watch(os.fsencode(folder.resolve()))

    def record(self, log: Path | None) -> None:
        """From now on, append each call to the log; or to none."""
        if self._library.calls_record(None if log is None else os.fsencode(log)) != 0:
            raise OSError(ctypes.get_errno(), "cannot record", os.fspath(log or ""))

    def mark(self, data: bytes) -> None:
        """Put an entry of our own into the log, behind the calls that have returned."""
        self._library.calls_mark(data, len(data))

    def arm(
        self,
        place: int,
        fault: Fault,
        *,
        kinds: frozenset[Kind] = EVERY_KIND,
        error: int = errno.EIO,
        times: int = 1,
    ) -> None:
        """Let a call fail: number ``place`` of those kinds, from 1 and from now on, and ``times`` in a row."""
        bits = sum(1 << kind for kind in kinds)
        self._library.calls_arm(bits, place, times, fault, error)

    def disarm(self) -> int:
        """Let no more calls fail. Return how many there were since ``arm``: the fault struck if it was among them."""
        seen: int = self._library.calls_disarm()
        return seen

    @contextlib.contextmanager
    def counting(self, kinds: frozenset[Kind] = EVERY_KIND) -> Generator[list[int]]:
        """Count the calls in the block: how many is in the list at its end."""
        counted: list[int] = []
        self.arm(0, Fault.NONE, kinds=kinds)
        try:
            yield counted
        finally:
            counted.append(self.disarm())


def lacks_gcc() -> str | None:
    """Return what the machine lacks to build the library, or None."""
    return None if shutil.which("gcc") else "gcc"


def compile_library(source: Path, folder: Path) -> Path:
    """Build a library in the folder, and return its path."""
    library = folder.resolve() / source.with_suffix(".so").name
    command = ["gcc", "-O2", "-shared", "-fPIC", "-o", os.fspath(library), os.fspath(source), "-ldl", "-lpthread"]
    subprocess.run(command, check=True, capture_output=True)
    return library


def environment_with(library: Path) -> dict[str, str]:
    """Return what the environment of a program says that is to have the library in front of the C library."""
    return {"LD_PRELOAD": os.fspath(library)}


def read_log(log: Path) -> Iterator[Entry]:
    """Iterate over the entries of a log. One that a kill cut short ends it."""
    content = log.read_bytes()
    place = 0
    while place + _ENTRY.size <= len(content):
        kind, flags, file, offset, length, result, error, size = _ENTRY.unpack_from(content, place)
        data = content[place + _ENTRY.size : place + _ENTRY.size + size]
        place += _ENTRY.size + size
        if len(data) < size:
            return
        is_text = kind not in (Kind.WRITE, Kind.MARK)
        yield Entry(
            kind=Kind(kind),
            file=file,
            offset=offset,
            length=length,
            result=result,
            error=error,
            data=b"" if is_text else data,
            paths=tuple(map(os.fsdecode, data.split(b"\0")[:-1])) if is_text else (),
            is_synced=bool(flags & _IS_SYNCED),
            has_created=bool(flags & _HAS_CREATED),
            has_emptied=bool(flags & _HAS_EMPTIED),
            has_failed=bool(flags & _HAS_FAILED),
        )
