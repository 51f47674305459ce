"""The folder of a store: creating it so that a crash leaves none or a whole one, and locking it.

``whole_or_none`` is for a store that is not created but made of another one.

A store is a folder with ``data.mdb`` (everything) and ``lock.mdb`` (LMDB's, rebuilt when nobody has it open).
Knows files, never LMDB's functions: the caller fills a new file and opens an existing one.

LMDB keeps its lock file with POSIX record locks, which any ``close`` of that file in the same process drops; the
next process to open the store would then initialise the lock file under the first one's feet. So every opener
also holds a ``flock`` on ``data.mdb``, which nothing but its own descriptor can drop, and an opener that is not
alone joins only when LMDB's own lock still stands.
"""

import contextlib
import fcntl
import io
import os
import secrets
import struct
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from streamstore.errors import (
    InvalidArgumentException,
    StoreFormatError,
    StoreLockedError,
    StoreNotFoundError,
)
from streamstore.sections import taking

__all__ = [
    "NETWORK_FILESYSTEMS",
    "FolderLock",
    "StoreFolder",
    "filesystem_of",
    "nobody_else",
    "whole_or_none",
]

DATA_FILE: Final = "data.mdb"
LOCK_FILE: Final = "lock.mdb"
CREATING_FOLDER: Final = ".creating"
MAKING_SUFFIX: Final = ".unfinished"
FOLDER_ENTRIES_IGNORED: Final = {CREATING_FOLDER, "lost+found"}

LOCK_FILE_BYTES: Final = 128 * 1024  # 64 bytes a reader: room for READERS_MAX of the engine
JOIN_TIMEOUT_S: Final = 5.0
JOIN_POLL_S: Final = 0.01

# What mountinfo calls them. Their locks and shared maps do not keep what LMDB needs.
# fmt: off
NETWORK_FILESYSTEMS: Final = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse.ceph", "fuse.cephfs", "fuse.glusterfs", "fuse.rclone",
    "fuse.s3fs", "fuse.sshfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs",
    "smb2", "smb3", "smbfs", "virtiofs",
})
# fmt: on
_FLOCK_LAYOUT: Final = "hhqqi"  # struct flock on Linux: type, whence, start, length, pid


class StoreFolder:
    """The paths of one store."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data_path = path / DATA_FILE
        self.lock_path = path / LOCK_FILE

    def exists(self) -> bool:
        return self.data_path.exists()

    def create(self, fill: Callable[[Path], None]) -> None:
        """Create the store unless it exists. ``fill`` makes a complete data file in the folder it is given.

        The file is built and synced aside and renamed into place, so a crash leaves no store or a whole one.
        Creators of the same store wait for each other. Opening makes the new names durable.
        """
        if not self.path.exists():
            self.path.mkdir(exist_ok=True)
        for descriptor in taking(os.open, self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if not self.exists():
                    self._create_alone(fill)
            finally:
                os.close(descriptor)
            break

    def _create_alone(self, fill: Callable[[Path], None]) -> None:
        self._refuse_foreign_entries()
        creating = self.path / CREATING_FOLDER
        remove_folder(creating)  # of a creator that crashed: we are the only one
        creating.mkdir()
        preallocate(creating / LOCK_FILE, LOCK_FILE_BYTES)
        fill(creating)
        sync_file(creating / DATA_FILE)
        os.rename(creating / DATA_FILE, self.data_path)
        remove_folder(creating)

    def refuse_missing(self) -> None:
        if not self.exists():
            raise StoreNotFoundError(
                f"There is no store at {self.path}; create one with create=True, or mend the path."
            )

    def refuse_network_filesystem(self) -> None:
        mountinfo = os.fsdecode(Path("/proc/self/mountinfo").read_bytes())  # others' mounts may have any bytes as names
        filesystem = filesystem_of(self.path, mountinfo)
        if filesystem in NETWORK_FILESYSTEMS:
            raise InvalidArgumentException(
                argument="path",
                value=os.fspath(self.path),
                constraint=(
                    f"be on a local disk, not on {filesystem}, whose locks and maps can lose records (with "
                    "allow_network_filesystem=True it is accepted; then open it in one process only)"
                ),
            )

    def sync_names(self) -> None:
        """Put on disk the names of the data file and of the folder, which a killed creator left in the cache only."""
        path = self.path.resolve()
        for folder in (path, path.parent):
            with contextlib.suppress(PermissionError):  # of one that we may not read, we made no name
                sync_folder(folder)

    def identity(self) -> tuple[int, int]:
        """Return what makes two paths the same store."""
        status = self.data_path.stat()
        return status.st_dev, status.st_ino

    def _refuse_foreign_entries(self) -> None:
        foreign = sorted(set(os.listdir(self.path)) - FOLDER_ENTRIES_IGNORED)
        if foreign:
            raise StoreFormatError(
                f"{self.path} holds {foreign[0]} but no {DATA_FILE}: give an empty folder or a new path, or "
                f"restore the missing {DATA_FILE}."
            )


class FolderLock:
    """Held while the store is open, by every process that has it open.

    While it is ``alone``, the lock is exclusive and LMDB may initialise its lock file; ``share`` lets others in.
    """

    def __init__(self, folder: StoreFolder, *, writable: bool) -> None:
        # However an opening ends: a descriptor that nobody closes would lock the store as long as the process lives.
        # That of a file object closes with it.
        self._file = io.FileIO(folder.data_path, "r+" if writable else "r")
        try:
            self._descriptor = self._file.fileno()
            self.alone = self._acquire(folder)
        except BaseException:
            self.release()
            raise

    def sync_data_file(self) -> None:
        """Put on disk what a killed process left in the page cache, however it got there."""
        os.fdatasync(self._descriptor)

    def write_again(self, size_bytes: int) -> None:
        """Write the first bytes of the data file as they are, so that the next sync brings them to the disk."""
        os.pwrite(self._descriptor, os.pread(self._descriptor, size_bytes, 0), 0)

    def overwrite(self, start: int, content: bytes) -> None:
        """Write over a part of the data file. The next sync brings it to the disk."""
        os.pwrite(self._descriptor, content, start)

    def read(self, start: int, count_bytes: int) -> bytes:
        return os.pread(self._descriptor, count_bytes, start)

    def data_file_bytes(self) -> int:
        return os.fstat(self._descriptor).st_size

    def append_zeros(self, count_bytes: int) -> None:
        """Make the file longer. A full disk takes a part of it, as much as there is room for."""
        while count_bytes > 0:
            count_bytes -= os.pwrite(self._descriptor, bytes(count_bytes), self.data_file_bytes())

    def extend_data_file(self, size_bytes: int) -> None:
        """Make the file at least this long, with blocks: a hole would need them when the disk may be full.

        Unlike ftruncate, this never shortens what another process wrote.
        """
        missing_bytes = size_bytes - self.data_file_bytes()
        if missing_bytes > 0:
            os.posix_fallocate(self._descriptor, size_bytes - missing_bytes, missing_bytes)

    def watchable_path(self) -> str:
        """Return a path of the data file that stays good. Opening it would be harmless, too."""
        return f"/proc/self/fd/{self._descriptor}"

    def share(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)
        self.alone = False

    def release(self) -> None:
        """Close our descriptor. In a forked child this leaves the parent's lock in force."""
        try:
            self._file.close()
        except OSError:
            pass  # it is closed all the same, and what was written is synced

    def _acquire(self, folder: StoreFolder) -> bool:
        """Return whether we are alone; otherwise LMDB's lock of another process is known to stand."""
        deadline = time.monotonic() + JOIN_TIMEOUT_S
        while True:
            if self._try(fcntl.LOCK_EX):
                return True
            if self._try(fcntl.LOCK_SH):
                if _is_locked_by_another_process(folder.lock_path):
                    return False
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            # The others may be about to lock or to leave, but not for long.
            if time.monotonic() > deadline:
                raise StoreLockedError(
                    f"{folder.path} is open in a process that no longer holds LMDB's lock on {LOCK_FILE} "
                    "(something in it opened or removed that file). Writing beside it would lose records: "
                    "close the store there first."
                )
            time.sleep(JOIN_POLL_S)

    def _try(self, operation: int) -> bool:
        try:
            fcntl.flock(self._descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def whole_or_none(target: Path) -> Generator[Path]:
    """Give a new folder to make a store in, beside ``target``; behind the block it is put on disk and in its place.

    Nothing is under the name of ``target`` before, nor after a block that failed. Refuses a target that exists.
    """
    if os.path.lexists(target):
        raise InvalidArgumentException(
            argument="path", value=os.fspath(target), constraint="be new, in a folder that exists"
        )
    making = target.absolute().with_name(f".{target.name}.{secrets.token_hex(4)}{MAKING_SUFFIX}")
    making.mkdir()
    try:
        yield making
        (making / LOCK_FILE).unlink(missing_ok=True)  # of those who filled and checked it, who are gone
        sync_file(making / DATA_FILE)
        sync_folder(making)
        os.rename(making, target)
        try:
            sync_folder(making.parent)
        except BaseException:
            os.rename(target, making)
            raise
    except BaseException:
        remove_folder(making)
        raise


@contextmanager
def nobody_else(folder: StoreFolder) -> Generator[None]:
    """Keep everybody from opening the store, by its data file alone. Refuses one that is open."""
    folder.refuse_missing()
    descriptor = os.open(folder.data_path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise StoreLockedError(f"{folder.path} is open: close it first, nothing may write it meanwhile.") from error
    finally:
        os.close(descriptor)


def remove_folder(path: Path) -> None:
    """Remove a folder of files, if that can be. ``shutil.rmtree`` opens it, and an interrupt may leave it open."""
    with contextlib.suppress(OSError):
        for name in os.listdir(path):
            os.unlink(path / name)
        os.rmdir(path)


def preallocate(path: Path, size_bytes: int) -> None:
    """Give the file its blocks now: writing to a hole through a map kills the process when the disk is full."""
    for descriptor in taking(os.open, path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666):
        try:
            os.posix_fallocate(descriptor, 0, size_bytes)
        finally:
            os.close(descriptor)
        break


def sync_file(path: Path) -> None:
    for descriptor in taking(os.open, path, os.O_RDONLY | os.O_CLOEXEC):
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        break


sync_folder = sync_file  # the same call makes a new name in a folder durable


def filesystem_of(path: Path, mountinfo: str) -> str:
    """Return the filesystem type of ``path``, as the text of /proc/self/mountinfo tells it."""
    resolved = f"{path.resolve()}/"
    longest, filesystem = -1, ""
    for line in filter(None, mountinfo.split("\n")):  # a name may have any other separator of lines or of words
        fields, _, tail = line.partition(" - ")
        mount_point = _unescaped(fields.split(" ")[4]).rstrip("/")
        # The later of two mounts on one point hides the earlier.
        if resolved.startswith(f"{mount_point}/") and len(mount_point) >= longest:
            longest, filesystem = len(mount_point), tail.partition(" ")[0]
    return filesystem


def _is_locked_by_another_process(lock_path: Path) -> bool:
    """Tell whether LMDB in another process holds the byte of ``lock.mdb`` that every opener holds.

    Opening that file here is safe only because no environment of this process uses it yet.
    """
    wanted = struct.pack(_FLOCK_LAYOUT, fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
    with contextlib.suppress(FileNotFoundError):
        for descriptor in taking(os.open, lock_path, os.O_RDONLY | os.O_CLOEXEC):
            try:
                lock_type: int = struct.unpack(_FLOCK_LAYOUT, fcntl.fcntl(descriptor, fcntl.F_GETLK, wanted))[0]
                return lock_type != fcntl.F_UNLCK
            finally:
                os.close(descriptor)
    return False


def _unescaped(mount_point: str) -> str:
    # mountinfo writes space, tab, newline and backslash as three octal digits.
    for code in (r"\040", r"\011", r"\012", r"\134"):
        mount_point = mount_point.replace(code, chr(int(code[1:], 8)))
    return mount_point
