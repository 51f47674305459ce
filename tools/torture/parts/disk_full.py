"""A full disk: a store on a small filesystem is filled, read, trimmed and filled again, without being opened anew.

The disk is filled to its last block, by the store and then by a file beside it. Another process reads meanwhile, and
one goes on with a read that it began before the last pages were used up: none that is freed then can be used again.
"""

import contextlib
import os
import random
import select
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from streamstore import ResourceNotFoundException, StoreFullError, StreamStore
from streamstore.check import check_store
from streamstore.errors import StorageError
from tools.torture import plants
from tools.torture.forked import Forked, failures_in
from tools.torture.mounts import Disk, Format, lacks_disks
from tools.torture.part import Amount, Ordeal, Part

__all__ = ["PART"]

STREAM: Final = "s"
LITTLE: Final = "little"
EXPIRED: Final = "expired"
SHARD_COUNTS: Final = (2, 3, 4)
RETENTION_HOURS: Final = 1
RETENTION_MS: Final = 3_600_000
DISK_BYTES: Final = 16 * 2**20
FOREIGN_BYTES_MAX: Final = 6 * 2**20
RECORD_BYTES: Final = (100, 1_000, 3_000, 10_000, 60_000)
BATCH_RECORDS: Final = (1, 20, 200)
FILLED_BYTES_A_PUT: Final = range(8_000, 4_000_000)
"""Smaller puts, one commit each, take long to fill a disk; larger ones are refused."""
SINGLE_PUTS_MAX: Final = 100
PUTS_WHILE_FULL: Final = 5
LITTLE_PUTS_MAX: Final = DISK_BYTES // 4_096
"""More than use up all pages of the disk where none is used again."""
EXPIRED_RECORDS: Final = 200
PUTS_BEHIND: Final = 5
READS_S_MAX: Final = 10.0
"""How long a read of the other process may keep what was trimmed from being used again."""
CYCLE_S_MAX: Final = 120.0
FULL: Final = "full"
DONE: Final = "done while full"
BESIDE: Final = "trimmed beside a read"
FOUND: Final = "found "
END: Final = b"end\n"
HOLD: Final = b"h"
LET_GO: Final = b"g"


class Kept(NamedTuple):
    """A record that was acknowledged."""

    sequence: int
    data: bytes
    arrival_ms: int


class Cycles:
    """A store on a small disk, and all that it has acknowledged and not let expire."""

    def __init__(self, folder: Path, tell: Callable[[str], None], tell_holder: Callable[[bytes], None]) -> None:
        self._foreign = folder / "foreign"
        self._tell = tell
        self._tell_holder = tell_holder
        self._now_ms = 1_700_000_000_000
        self._number = 0
        self._kept: dict[str, list[Kept]] = {}
        self._store = StreamStore(folder / "store", clock=lambda: self._now_ms)
        for name in (STREAM, LITTLE):
            self._store.create_stream(name, shard_count=SHARD_COUNTS[0], retention_hours=RETENTION_HOURS)
        self._store.register_stream_consumer(STREAM, "reader")
        self._consumer = self._store.consumer(STREAM, "reader", idle_timeout_seconds=0)

    def cycle(self, dice: random.Random, *, trims_beside_a_read: bool) -> None:
        """Fill the disk, read while it is full, make room, and go on writing."""
        trims_beside_a_read &= self._put_expired()
        _write_until_full(self._foreign, dice.randrange(FOREIGN_BYTES_MAX))
        record_bytes = dice.choice(RECORD_BYTES)
        batches = [count for count in BATCH_RECORDS if count * record_bytes in FILLED_BYTES_A_PUT]
        self._fill(record_bytes, dice.choice(batches))
        with self._foreign.open("ab") as file:
            _fill_up(file.fileno())
        self._tell(FULL)
        self._read_all("while the disk was full")
        self._change_while_full(dice)
        if trims_beside_a_read:
            self._trim_beside_a_read()
        self._trim(dice, record_bytes, has_reserve=not trims_beside_a_read)
        self._read_all("behind it")
        self._foreign.unlink()

    def _put_expired(self) -> bool:
        """Put records that have expired by now, but for the last; that put trims only some of them.

        False: the cycle before has left no room for them.
        """
        now_ms = self._now_ms
        try:
            if EXPIRED in self._store.list_streams(limit=100).stream_names:
                self._store.delete_stream(EXPIRED)  # in the old one, they would arrive later than the last did
            self._store.create_stream(EXPIRED, retention_hours=RETENTION_HOURS)
            self._now_ms -= RETENTION_MS + 1
            self._store.put_records(EXPIRED, [(b"." * RECORD_BYTES[1], "key")] * EXPIRED_RECORDS)
            self._now_ms = now_ms
            self._store.put_record(EXPIRED, b"kept", "key")
        except StoreFullError:
            return False
        finally:
            self._now_ms = now_ms
        return True

    def _fill(self, record_bytes: int, batch_records: int) -> None:
        while self._put(record_bytes, batch_records):
            pass
        for _ in range(SINGLE_PUTS_MAX):  # which need less room than the batch
            if not self._put(record_bytes, 1):
                return

    def _put(self, record_bytes: int, count: int) -> bool:
        """Put records of this size. False: the disk is full."""
        self._now_ms += 1
        payloads = [f"{self._number + place} ".encode() + b"." * record_bytes for place in range(count)]
        self._number += count
        key = f"key {self._number}" if self._number % 3 == 0 else None
        try:
            entries = [(payload, f"p{self._number + place}", None, key) for place, payload in enumerate(payloads[:1])]
            entries += [(payload, f"p{self._number + place}", None, None) for place, payload in enumerate(payloads[1:])]
            results = self._store.put_records(STREAM, entries).records
        except StoreFullError:
            return False
        for payload, result in zip(payloads, results, strict=True):
            kept = Kept(int(result.sequence_number or -1), payload, self._now_ms)
            self._kept.setdefault(result.shard_id or "", []).append(kept)
        return True

    def _change_while_full(self, dice: random.Random) -> None:
        """Try what else takes room: it is done, or refused and nothing of it is there."""
        for _ in range(PUTS_WHILE_FULL):
            self._put(dice.choice(RECORD_BYTES), 1)
        new, tags = f"new{self._number}", {f"t{number}": "x" * 200 for number in range(40)}
        had_tags = bool(self._store.list_tags_for_stream(STREAM).tags)
        created = self._try(lambda: self._store.create_stream(new, shard_count=4))
        tagged = self._try(lambda: self._store.add_tags_to_stream(STREAM, tags))
        self._try(lambda: self._store.update_shard_count(STREAM, dice.choice(SHARD_COUNTS)))
        self._try(lambda: self._store.put_record(LITTLE, b"little", "key", idempotency_key=new))
        self._try(self._consume)
        if (new in self._store.list_streams(limit=100).stream_names) is not created:
            self._tell(f"{FOUND}A stream was {'created' if created else 'refused'}, and the list says otherwise.")
        if len(self._store.list_tags_for_stream(STREAM).tags) != (len(tags) if tagged or had_tags else 0):
            self._tell(f"{FOUND}Tags were {'added' if tagged else 'refused'}, and the list says otherwise.")
        if created:
            self._store.delete_stream(new)
        if tagged:
            self._try(lambda: self._store.remove_tags_from_stream(STREAM, list(tags)))

    def _trim_beside_a_read(self) -> None:
        """Use up all pages but the reserve, while a read keeps what is freed from being used again; and trim."""
        self._tell_holder(HOLD)
        for _ in range(LITTLE_PUTS_MAX):
            try:
                self._store.put_record(LITTLE, b"little", "key")
            except StoreFullError:
                break
        else:
            self._tell(f"{FOUND}{LITTLE_PUTS_MAX} puts had room on a full disk, where no page is used again.")
        try:
            trimmed = self._store.trim(EXPIRED).record_count
        except StoreFullError as error:
            self._tell(f"{FOUND}A trim was refused beside a read: {error}")
        else:
            self._tell(BESIDE)
            if trimmed == 0:
                self._tell(f"{FOUND}Nothing was trimmed beside a read, and records had expired.")
        self._tell_holder(LET_GO)

    def _consume(self) -> None:
        next(self._consumer)
        self._consumer.checkpoint()

    def _try(self, change: Callable[[], object]) -> bool:
        try:
            change()
        except (StoreFullError, StopIteration):
            return False
        self._tell(DONE)
        return True

    def _trim(self, dice: random.Random, record_bytes: int, *, has_reserve: bool) -> None:
        """Let all records expire, or the older ones, and trim them, with not a byte of room on the disk; put again.

        Where the reserve was used up just now, a read of the other process may keep freed pages for a moment.
        """
        arrivals_ms = sorted(kept.arrival_ms for shard in self._kept.values() for kept in shard)
        everything = dice.random() < 0.5
        horizon_ms = arrivals_ms[-1] + 1 if everything else arrivals_ms[len(arrivals_ms) // 2] + 1
        self._now_ms = max(self._now_ms, horizon_ms + RETENTION_MS)
        deadline_s = time.monotonic() + (0.0 if has_reserve else READS_S_MAX)
        while True:
            try:
                self._store.trim(STREAM)
                break
            except StoreFullError as error:
                if time.monotonic() > deadline_s:
                    self._tell(f"{FOUND}A trim was refused: {error}")
                    break
        size_bytes = record_bytes if everything else RECORD_BYTES[0]  # a large one needs pages that lie side by side
        deadline_s = time.monotonic() + READS_S_MAX
        for _ in range(PUTS_BEHIND):
            while not self._put(size_bytes, 1):
                if time.monotonic() > deadline_s:
                    self._tell(f"{FOUND}There was room again, and a put of {size_bytes} bytes was refused.")
                    return

    def _read_all(self, when: str) -> None:
        for shard_id, acknowledged in self._kept.items():
            kept = [each for each in acknowledged if each.arrival_ms >= self._now_ms - RETENTION_MS]
            self._kept[shard_id] = kept
            try:
                records = list(self._store.read(STREAM, shard_id))
            except ResourceNotFoundException:
                records = []  # a closed shard of which nothing is left
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


def _fill_up(descriptor: int) -> None:
    """Take every block that is left."""
    for piece_bytes in (65_536, 4_096, 512):
        try:
            while True:
                os.write(descriptor, bytes(piece_bytes))
        except OSError:
            continue


class Holder:
    """How a process is told to begin a read of a store, and to end it."""

    def __init__(self) -> None:
        self._asked, self._ask = os.pipe()
        self._told, self._tell = os.pipe()

    def tell(self, what: bytes) -> None:
        """Return when it has done what it was told."""
        os.write(self._ask, what)
        os.read(self._told, 1)

    def close(self) -> None:
        for descriptor in (self._asked, self._ask, self._told, self._tell):
            os.close(descriptor)

    def live(self, path: Path) -> None:
        """All that the process does."""
        with HeldStore(path, read_only=True) as store:
            while os.read(self._asked, 1):
                store.read_until(self._begin_and_wait)
                os.write(self._tell, LET_GO)

    def _begin_and_wait(self) -> None:
        os.write(self._tell, HOLD)
        os.read(self._asked, 1)


class HeldStore(StreamStore):
    """A store of which one read goes on as long as is wished."""

    def read_until(self, wait: Callable[[], None]) -> None:
        """Begin a read, and end it when ``wait`` returns."""
        self._engine.read(lambda _transaction: wait())


class Filled:
    """A process that goes through cycles with one store, which it opens once, and two that read it."""

    def __init__(self, folder: Path, ordeal: Ordeal) -> None:
        folder.mkdir()
        self._store = folder / "store"
        asked, self._ask = os.pipe()
        self._told, tell = os.pipe()
        self._holder = Holder()
        self._log = ordeal.memory_folder / "log"
        descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            self._process = Forked(partial(_live, folder, ordeal, asked, tell, self._holder), descriptor)
            self._readers: list[Forked] = []
            self._descriptor = os.dup(descriptor)
        finally:
            for each in (asked, tell, descriptor):
                os.close(each)

    def check(self) -> list[str]:
        """Return what is wrong with the store, which stays open meanwhile."""
        return check_store(self._store)

    def close(self) -> None:
        """End it, and delete its store."""
        for process in (self._process, *self._readers):
            process.kill()
        self._holder.close()
        shutil.rmtree(self._store.parent)
        for descriptor in (self._ask, self._told, self._descriptor):
            os.close(descriptor)

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
                self._process.wait(CYCLE_S_MAX)
                return [*told.decode().splitlines(), *self._failures(self._process)]
            told += piece
            if not self._readers and self._store.exists():
                for live in (_read_on, self._holder.live):
                    self._readers.append(Forked(partial(live, self._store), self._descriptor))
        failures = [failure for reader in self._readers if reader.wait(0) for failure in self._failures(reader)]
        return [*told.decode().splitlines(), *failures]

    def _failures(self, process: Forked) -> list[str]:
        reasons = failures_in(self._log.read_text().splitlines(), process.status)
        return [f"{FOUND}A process failed: {reason}." for reason in reasons]


def _live(folder: Path, ordeal: Ordeal, asked: int, tell: int, holder: Holder) -> None:
    plants.plant(ordeal.plant)
    cycles = Cycles(folder, lambda line: _say(tell, line), holder.tell)
    while case := os.read(asked, 100):
        cycles.cycle(ordeal.dice(int(case)), trims_beside_a_read=int(case) % 2 == 0)
        os.write(tell, END)


def _read_on(path: Path) -> None:
    """Read all there is, again and again; whatever is raised ends it."""
    with StreamStore(path, read_only=True) as store:
        while True:
            for shard in store.list_shards(STREAM).shards:
                with contextlib.suppress(ResourceNotFoundException):  # it was closed, and is gone
                    for _ in store.read(STREAM, shard.shard_id):
                        pass


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
                ordeal.add("changes done while full", told.count(DONE))
                ordeal.add("trims beside a read", told.count(BESIDE))
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
    what=(
        "Fills a small disk to its last block under a store that another process reads, trims it, fills it again: "
        "nothing is lost, no trim is refused, nothing is restarted."
    ),
    unit="cycles",
    sizes={"ci": Amount(cases=5), "release": Amount(cases=100)},
    run=run,
    lacks=lacks_disks,
)
