"""A full disk: a store on a small filesystem is filled, read, trimmed and filled again, without being opened anew."""

import os
import random
import select
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from streamstore import StoreFullError, StreamStore
from streamstore.check import check_store
from streamstore.errors import StorageError
from tools.torture import plants
from tools.torture.forks import Forked, failures_in
from tools.torture.mounts import Disk, Format, lacks_disks
from tools.torture.part import Amount, Ordeal, Part

__all__ = ["PART"]

STREAM: Final = "s"
SHARD_COUNT: Final = 2
RETENTION_HOURS: Final = 1
RETENTION_MS: Final = 3_600_000
DISK_BYTES: Final = 10 * 2**20
RECORD_BYTES: Final = (500, 3_000, 10_000, 60_000)
BATCH_RECORDS_MAX: Final = 40
FOREIGN_BYTES_MAX: Final = 4 * 2**20
FOREIGN_BYTES_MIN: Final = 2**20
"""What makes room for more puts when it is deleted."""
PUTS_WHILE_FULL: Final = 5
PUTS_BEHIND: Final = 5
CYCLE_S_MAX: Final = 120.0
END: Final = b"end\n"
FULL: Final = "full"
FOUND: Final = "found "


class Kept(NamedTuple):
    """A record that was acknowledged."""

    sequence: int
    data: bytes
    arrival_ms: int


class Cycles:
    """A store on a small disk, and all that it has acknowledged and not let expire."""

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self._path = folder / "store"
        self._foreign = folder / "foreign"
        self._tell = tell
        self._now_ms = 1_700_000_000_000
        self._number = 0
        self._store = StreamStore(self._path, clock=lambda: self._now_ms)
        self._store.create_stream(STREAM, shard_count=SHARD_COUNT, retention_hours=RETENTION_HOURS)
        self._kept: dict[str, list[Kept]] = {shard.shard_id: [] for shard in self._store.list_shards(STREAM).shards}

    def cycle(self, dice: random.Random) -> None:
        """Fill the disk, read while it is full, make room, and go on writing."""
        foreign_bytes = dice.choice((0, dice.randrange(FOREIGN_BYTES_MAX)))
        _write_until_full(self._foreign, foreign_bytes)  # what the store has taken once stays its own
        record_bytes = dice.choice(RECORD_BYTES)
        batch_records = dice.choice((1, 1, BATCH_RECORDS_MAX))
        self._fill(record_bytes, batch_records)
        self._tell(FULL)
        self._read_all("while the disk was full")
        for _ in range(PUTS_WHILE_FULL):
            self._put(dice.choice(RECORD_BYTES), 1)
        if self._foreign.stat().st_size >= FOREIGN_BYTES_MIN and dice.random() < 0.5:
            self._foreign.unlink()
        else:
            self._trim(dice)
        for _ in range(PUTS_BEHIND):  # small ones: a large one needs pages that lie side by side
            if not self._put(RECORD_BYTES[0], 1):
                self._tell(f"{FOUND}There was room again, and a put was refused.")
        self._read_all("behind it")
        self._foreign.unlink(missing_ok=True)

    def _fill(self, record_bytes: int, batch_records: int) -> None:
        while self._put(record_bytes, batch_records):
            pass
        while self._put(record_bytes, 1):  # which needs less room than the batch
            pass

    def _put(self, record_bytes: int, count: int) -> bool:
        """Put records of this size. False: the disk is full."""
        self._now_ms += 1
        payloads = [f"{self._number + entry} ".encode() + b"." * record_bytes for entry in range(count)]
        self._number += count
        try:
            entries = [(payload, f"key{self._number + place}") for place, payload in enumerate(payloads)]
            results = self._store.put_records(STREAM, entries).records
        except StoreFullError:
            return False
        for payload, result in zip(payloads, results, strict=True):
            kept = Kept(int(result.sequence_number or -1), payload, self._now_ms)
            self._kept[result.shard_id or ""].append(kept)
        return True

    def _trim(self, dice: random.Random) -> None:
        """Let all records expire, or the older ones, and trim them, with not a byte of room on the disk."""
        arrivals_ms = sorted(kept.arrival_ms for shard in self._kept.values() for kept in shard)
        horizon_ms = arrivals_ms[-1] + 1 if dice.random() < 0.5 else arrivals_ms[len(arrivals_ms) // 2] + 1
        self._now_ms = max(self._now_ms, horizon_ms + RETENTION_MS)
        try:
            self._store.trim(STREAM)
        except StoreFullError:
            self._tell(f"{FOUND}The full disk could not be trimmed.")

    def _read_all(self, when: str) -> None:
        for shard_id, acknowledged in self._kept.items():
            kept = [each for each in acknowledged if each.arrival_ms >= self._now_ms - RETENTION_MS]
            self._kept[shard_id] = kept
            try:
                records = list(self._store.read(STREAM, shard_id))
            except StorageError as error:
                self._tell(f"{FOUND}{shard_id} could not be read {when}: {error}")
                continue
            found = [(int(record.sequence_number), record.data) for record in records]
            if found != [(each.sequence, each.data) for each in kept]:
                self._tell(f"{FOUND}{shard_id} held {len(found)} records {when}, and not the {len(kept)} acknowledged.")


def _write_until_full(path: Path, size_bytes: int) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while size_bytes > 0:
                size_bytes -= file.write(bytes(min(size_bytes, 65_536)))
        except OSError:
            return


class Filled:
    """A process that goes through cycles with one store, which it opens once."""

    def __init__(self, folder: Path, ordeal: Ordeal) -> None:
        folder.mkdir()
        self._store = folder / "store"
        asked, self._ask = os.pipe()
        self._told, tell = os.pipe()
        self._log = ordeal.memory_folder / "log"
        descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            self.process = Forked(partial(_live, folder, ordeal, asked, tell), descriptor)
        finally:
            for each in (asked, tell, descriptor):
                os.close(each)

    def check(self) -> list[str]:
        """Return what is wrong with the store, which stays open meanwhile."""
        return check_store(self._store)

    def close(self) -> None:
        """End it, and delete its store."""
        self.process.kill()
        shutil.rmtree(self._store.parent)
        os.close(self._ask)
        os.close(self._told)

    def cycle(self, case: int) -> list[str]:
        """Let it go through a cycle, and return what it tells, and at last how it ended if it did."""
        os.write(self._ask, b"%d\n" % case)
        told = b""
        while not told.endswith(END):
            ready, _, _ = select.select([self._told], [], [], CYCLE_S_MAX)
            if not ready:
                return [*told.decode().splitlines(), f"{FOUND}The process hangs."]
            piece = os.read(self._told, 65_536)
            if not piece:
                self.process.wait(CYCLE_S_MAX)
                reasons = failures_in(self._log.read_text().splitlines(), self.process.status)
                return [*told.decode().splitlines(), *(f"{FOUND}The process failed: {reason}." for reason in reasons)]
            told += piece
        return told.decode().splitlines()


def _live(folder: Path, ordeal: Ordeal, asked: int, tell: int) -> None:
    plants.plant(ordeal.plant)
    cycles = Cycles(folder, lambda line: _say(tell, line))
    while case := os.read(asked, 100):
        cycles.cycle(ordeal.dice(int(case)))
        os.write(tell, END)


def _say(descriptor: int, line: str) -> None:
    os.write(descriptor, f"{' '.join(line.split())}\n".encode())


def run(ordeal: Ordeal) -> None:
    with Disk(ordeal.memory_folder, DISK_BYTES, Format("small")).mounted() as disk:
        filled: Filled | None = None
        try:
            for case in ordeal.cases():
                filled = filled or Filled(disk / f"{case}", ordeal)
                told = filled.cycle(case)
                ordeal.add("times full", told.count(FULL))
                problems = [line.removeprefix(FOUND) for line in told if line.startswith(FOUND)]
                problems += filled.check()
                for problem in problems:
                    ordeal.found(case, problem)
                if problems:  # what is wrong once stays wrong: go on with another store
                    filled.close()
                    filled = None
        finally:
            if filled is not None:
                filled.close()


PART: Final = Part(
    name="disk-full",
    what="Fills a small disk under a store, reads and trims it, fills it again: nothing is lost, nothing restarted.",
    unit="cycles",
    sizes={"ci": Amount(cases=5), "release": Amount(cases=100)},
    run=run,
    lacks=lacks_disks,
)
