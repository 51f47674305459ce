"""Cuts copies of a store at every page, and beside it, and has a child of its own read each: LMDB may crash.

    damage PATH

Prints what the children found, a line each: "same", "error <class>", "SILENT <what>", "UNTYPED <class>" or
"signal <number>".
"""

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

from streamstore import CorruptRecordError, StorageError, StreamStore, StreamStoreError
from streamstore.engine import Engine

STREAM = "damage"
SHARD_COUNT = 3
PAGE_BYTES = 4096
CHILD_S = 20

Contents = dict[str, list[tuple[str, bytes, int]]]


def read_all(store: StreamStore, expected: Contents) -> str:
    """Read every record that the store gives, and say whether any of it is not what was written."""
    errors: set[str] = set()
    for shard_id, originals in expected.items():
        start = 0
        while start < len(originals):
            try:
                for record in store.read(STREAM, shard_id, starting_sequence_number=str(start)):
                    if int(record.sequence_number) != start:
                        return f"SILENT {shard_id} skips to {record.sequence_number}"
                    if (record.partition_key, record.data, record.arrival_ms) != originals[start]:
                        return f"SILENT record {start} of {shard_id}"
                    start += 1
                if start < len(originals):
                    return f"SILENT {shard_id} ends at {start}"
            except CorruptRecordError as error:
                errors.add(type(error).__name__)
                start = int(error.sequence_number) + 1
            except StreamStoreError as error:
                errors.add(type(error).__name__)
                break
    return f"error {' '.join(sorted(errors))}" if errors else "same"


def contents(path: Path) -> tuple[Contents, int]:
    """Return all records, and the bytes of the file that LMDB needs."""
    engine = Engine(path, initial=None, read_only=True, sync="full")
    engine.open()
    needed = (engine.info()["last_pgno"] + 1) * PAGE_BYTES
    engine.close()
    with StreamStore(path) as store:
        found = {
            shard.shard_id: [(r.partition_key, r.data, r.arrival_ms) for r in store.read(STREAM, shard.shard_id)]
            for shard in store.list_shards(STREAM).shards
        }
    return found, needed


def look(path: Path, expected: Contents) -> str:
    try:
        with StreamStore(path) as store:
            return read_all(store, expected)
    except StorageError as error:
        return f"error {type(error).__name__}"
    except Exception as error:
        return f"UNTYPED {type(error).__name__} {error}"


def look_in_child(path: Path, expected: Contents) -> str:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(CHILD_S)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # LMDB prints the assertion that it fails
        os.write(writing, look(path, expected).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    status = os.waitpid(child, 0)[1]
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else said


def cut(original: bytes, needed: int) -> Iterable[bytes]:
    for page_start in range(0, needed, PAGE_BYTES):
        for end in (page_start, page_start + 1, page_start + PAGE_BYTES - 1):
            yield original[:end]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    path: Path = parser.parse_args().path
    expected, needed = contents(path)
    original = (path / "data.mdb").read_bytes()
    work = path.with_name("damaged")
    for changed in cut(original, needed):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        (work / "data.mdb").write_bytes(changed)
        print(look_in_child(work, expected), flush=True)


if __name__ == "__main__":
    main()
