"""Small filesystems in files, mounted by a loop device: to lose their power, and to be filled.

They are mounted in a mount namespace of this process: whatever becomes of it, nothing stays mounted. Needs root.
"""

import contextlib
import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Disk", "Format", "MountError", "lacks_disks"]

CLONE_NEWNS: Final = 0x00020000
FS_IOC_SHUTDOWN: Final = 0x8004587D
NO_LOG_FLUSH: Final = struct.pack("I", 2)
PROBE_BYTES: Final = 2**20
MOUNT_S_MAX: Final = 2.0
MOUNT_PAUSE_S: Final = 0.02
REPAIRED: Final = 2
"""The highest status of e2fsck with which all is mended."""


class MountError(Exception):
    """A filesystem could not be made, mounted or unmounted."""


class Format(NamedTuple):
    """How an ext4 is made and mounted."""

    name: str
    features: str = ""
    mount_options: str = ""
    has_journal: bool = True


class Disk:
    """An ext4 of so many bytes in ``folder``."""

    def __init__(self, folder: Path, size_bytes: int, disk_format: Format) -> None:
        self._image = folder / "image"
        self._format = disk_format
        self.mount_point = folder / "disk"
        self.checks = 0
        """How often e2fsck was needed."""
        self.mount_point.mkdir(parents=True)
        with self._image.open("wb") as file:
            file.truncate(size_bytes)
        features = ["-O", disk_format.features] if disk_format.features else []
        _run("mkfs.ext4", "-q", "-m", "0", *features, self._image)

    @contextlib.contextmanager
    def mounted(self) -> Generator[Path]:
        """Mount it for the length of the block."""
        options = ",".join(("loop", self._format.mount_options)).rstrip(",")
        self._mount(options)
        try:
            yield self.mount_point
        finally:
            try:
                _run("umount", self.mount_point)
            except MountError:  # a process that dies slowly has it
                _run("umount", "--lazy", self.mount_point)

    def _mount(self, options: str) -> None:
        """Mount it. While the loop device of the last mount is on its way out, that is refused."""
        deadline_s = time.monotonic() + MOUNT_S_MAX
        while True:
            try:
                return _run("mount", "-t", "ext4", "-o", options, self._image, self.mount_point)
            except MountError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(MOUNT_PAUSE_S)

    def _can_be_mounted(self) -> bool:
        try:
            with self.mounted():
                return True
        except MountError:
            return False

    def lose_power(self) -> None:
        """From now on nothing gets to the disk, not even what the journal has waiting."""
        descriptor = os.open(self.mount_point, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, FS_IOC_SHUTDOWN, NO_LOG_FLUSH)
        finally:
            os.close(descriptor)

    def repair(self) -> str | None:
        """Do what a machine does when it starts. Returns what could not be mended, if anything could not.

        Mounting replays the journal. Once in hundreds of power losses the kernel cannot replay one with fast commits
        ("Structure needs cleaning"); then, and without a journal, e2fsck does it.
        """
        if self._format.has_journal and self._can_be_mounted():
            return None
        self.checks += 1
        result = subprocess.run(["e2fsck", "-f", "-y", self._image], capture_output=True, text=True, check=False)
        return None if result.returncode <= REPAIRED else result.stdout[-500:]


def lacks_disks() -> str | None:
    """Return what the machine lacks for them, or None. In a process of its own: it tries it."""
    if os.geteuid() != 0:
        return "root"
    for program in ("mkfs.ext4", "e2fsck", "mount"):
        if shutil.which(program) is None:
            return program
    with tempfile.TemporaryDirectory(prefix="streamstore-disk-") as folder:
        try:
            _own_mounts()
            with Disk(Path(folder), PROBE_BYTES, Format("probe", "^has_journal")).mounted():
                return None
        except (OSError, MountError):
            return "loop mounts"


def _own_mounts() -> None:
    """Give this process mounts of its own, which end with it and which nobody else sees."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    _run("mount", "--make-rprivate", "/")


def _run(*words: str | Path) -> None:
    result = subprocess.run([*words], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise MountError(f"{' '.join(map(str, words))}: {result.stderr.strip()}")
