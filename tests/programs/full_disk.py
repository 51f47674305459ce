"""Fills a small filesystem of its own under a store, and says what became of each attempt. Needs root."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

from streamstore import StorageError, StreamStore
from streamstore.check import check_store

DISK_BYTES = 16 * 2**20
RECORD_BYTES = 5_000


@contextlib.contextmanager
def small_disk(folder: Path) -> Generator[Path]:
    image, mount_point = folder / "image", folder / "disk"
    mount_point.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    try:
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", image, mount_point], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        print("cannot mount")
        sys.exit(0)
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", mount_point], check=True)


def fill(path: Path) -> None:
    """Write until the last block is taken."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for piece_bytes in (2**20, 4096, 512):
            with contextlib.suppress(OSError):
                while True:
                    os.write(file.fileno(), bytes(piece_bytes))


def attempt(name: str, action: Callable[[], object]) -> None:
    try:
        action()
    except StorageError as error:
        print(f"{name}: {type(error).__name__}")
    else:
        print(f"{name}: stored")


def main() -> None:
    with small_disk(Path(sys.argv[1])) as disk:
        fill(disk / "filling")
        attempt("create", lambda: StreamStore(disk / "store"))
        (disk / "filling").unlink()
        with StreamStore(disk / "store") as store:
            store.create_stream("s")
            store.put_record("s", b"first", "key")
        (disk / "store" / "lock.mdb").unlink()
        fill(disk / "filling")
        attempt("open without a lock file", lambda: StreamStore(disk / "store"))
        (disk / "filling").unlink()
        with StreamStore(disk / "store") as store:
            fill(disk / "filling")
            stored = 1

            def put() -> None:
                nonlocal stored
                while True:
                    store.put_record("s", bytes(RECORD_BYTES), "key")
                    stored += 1

            attempt("put", put)
            found = len(list(store.read("s", "shard-000000")))
            print("read: all there" if found == stored else f"read: {found} of {stored}")
            attempt("put again", put)
            (disk / "filling").unlink()
            attempt("put after space returned", lambda: store.put_record("s", bytes(RECORD_BYTES), "key"))
        print("check:", check_store(disk / "store"))


if __name__ == "__main__":
    main()
