"""Recovery time: kill -9 at work, then the time from opening to the first read, in small stores and in large ones.

Time says little on a busy machine, so only a release is held to it. What an opening looks at is counted too: as many
bytes of the file in a large store as in a small one.
"""

import contextlib
import math
import multiprocessing
import os
import random
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, NamedTuple, cast

from streamstore import StreamStore
from tools.torture import plants
from tools.torture.part import Amount, Ordeal, Part, Size

__all__ = ["PART"]

STORES: Final[dict[Size, dict[str, int]]] = {
    "ci": {"1 MB": 10**6, "256 MB": 256 * 10**6},
    "release": {"1 MB": 10**6, "256 MB": 256 * 10**6, "10 GB": 10**10},
}
RECOVERY_MS_MAX: Final = 10.0
"""For 99 of 100 openings, from the call to the first record in hand."""
GROWTH_MAX: Final = 2.0
"""How many times longer than in the smallest store the median of the openings of another may be."""
TOUCHED_BYTES_MAX: Final = 4 * 10**6
"""Three times what it is: LMDB looks at some pages on the way to a record, and Linux maps the 15 around each."""

FILLING: Final = "filling"
WORK: Final = "work"
SHARD: Final = "shard-000000"
RECORD_BYTES: Final = 1_000
BATCH_RECORDS_MAX: Final = 100
BATCH_ONE_IN: Final = 10
ALIVE_S_MAX: Final = 0.02
START_MS: Final = 1_700_000_000_000
MS_PER_CASE: Final = 1_800_000
"""Half the retention of the stream that is worked on: its oldest records are trimmed, and the store stays as large."""


class Opening(NamedTuple):
    """What it took to open a store and to read a record."""

    data: bytes
    real_ms: float
    cpu_ms: float
    touched_bytes: int
    """Of the file: what is mapped of it in the end, and what was read by calls."""


class Opener:
    """A process that opens stores and never forks: behind a fork, a process pays for each page that it writes to."""

    def __init__(self, plant: str | None) -> None:
        forking = multiprocessing.get_context("fork")
        self._connection, its_end = forking.Pipe()
        self._process = forking.Process(target=_open_what_is_asked, args=(its_end, plant), daemon=True)
        self._process.start()
        its_end.close()

    def open(self, path: Path, now_ms: int, sequence_number: str) -> Opening:
        self._connection.send((path, now_ms, sequence_number))
        return cast(Opening, self._connection.recv())

    def close(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.join()


class KilledStore:
    """A store with so many bytes of records, in which processes are killed."""

    def __init__(self, path: Path, size_bytes: int, opener: Opener) -> None:
        self.name = path.name
        self.openings: dict[int, Opening] = {}
        self._path = path
        self._opener = opener
        with StreamStore(path, sync="off", clock=lambda: START_MS) as store:
            store.create_stream(FILLING)
            store.create_stream(WORK, retention_hours=1)
            store.ingest(FILLING, ((payload_of(str(number)), "key") for number in range(size_bytes // RECORD_BYTES)))
            put = store.put_record(WORK, payload_of("first"), "key")
        opener.open(path, START_MS, put.sequence_number)  # whatever a process pays once

    def kill_and_open(self, case: int, dice: random.Random) -> Iterator[str]:
        """Let a process work, kill it, open the store to the last record that was acknowledged; yield what is wrong."""
        now_ms = START_MS + case * MS_PER_CASE
        answers = _work_of_a_killed(self._path, dice, now_ms)
        if answers[-1:] in ([], [""]):
            yield f"The process that worked in the store of {self.name} failed."
            return
        sequence_number, label = answers[-1].split()
        opening = self.openings[case] = self._opener.open(self._path, now_ms, sequence_number)
        if opening.data != payload_of(label):
            yield f"Record {sequence_number} of the store of {self.name} was acknowledged as {label}, and is not."
        if opening.touched_bytes > TOUCHED_BYTES_MAX:
            yield f"Opening the store of {self.name} looked at {opening.touched_bytes:,} bytes of it."

    def p99_ms(self) -> float:
        times_ms = sorted(opening.real_ms for opening in self.openings.values())
        return times_ms[math.ceil(0.99 * len(times_ms)) - 1]

    def median_ms(self) -> float:
        return statistics.median(opening.real_ms for opening in self.openings.values())

    def slowest(self) -> int:
        """Return the case whose opening took longest."""
        return max(self.openings, key=lambda case: self.openings[case].real_ms)

    def figures(self) -> dict[str, float]:
        cpu_ms = statistics.median(opening.cpu_ms for opening in self.openings.values())
        touched_bytes = max(opening.touched_bytes for opening in self.openings.values())
        return {
            "ms p99": round(self.p99_ms(), 2),
            "ms median": round(self.median_ms(), 2),
            "ms CPU median": round(cpu_ms, 2),
            "KB looked at": touched_bytes // 1000,
        }


def run(ordeal: Ordeal) -> None:
    with contextlib.closing(Opener(ordeal.plant)) as opener:
        stores = [KilledStore(ordeal.folder / name, size, opener) for name, size in STORES[ordeal.size].items()]
        for case in ordeal.cases():
            dice = ordeal.dice(case)
            for store in dice.sample(stores, len(stores)):  # in turns, so that noise falls on all alike
                for problem in store.kill_and_open(case, dice):
                    ordeal.found(case, problem)
    measured = [store for store in stores if store.openings]
    for store in measured:
        for figure, value in store.figures().items():
            ordeal.set(f"{figure} at {store.name}", value)
    if ordeal.size == "release":
        _judge_times(measured, ordeal)


def _judge_times(stores: list[KilledStore], ordeal: Ordeal) -> None:
    for store in stores:
        if store.p99_ms() > RECOVERY_MS_MAX:
            ordeal.found(
                store.slowest(), f"One of 100 openings of the store of {store.name} took {store.p99_ms():.1f} ms."
            )
        if store.median_ms() > GROWTH_MAX * stores[0].median_ms():
            smallest = f"{stores[0].median_ms():.2f} ms at {stores[0].name}"
            ordeal.found(store.slowest(), f"Opening takes {store.median_ms():.2f} ms at {store.name}, {smallest}.")


def _open_what_is_asked(connection: "Connection[Opening, tuple[Path, int, str]]", plant: str | None) -> None:
    plants.plant(plant)
    with contextlib.suppress(EOFError):  # nobody asks any more
        while True:
            connection.send(_open(*connection.recv()))


def _open(path: Path, now_ms: int, sequence_number: str) -> Opening:
    read_bytes = _bytes_read()
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    with StreamStore(path, create=False, clock=lambda: now_ms) as store:
        iterator = store.get_shard_iterator(WORK, SHARD, "AT_SEQUENCE_NUMBER", starting_sequence_number=sequence_number)
        record = store.get_records(iterator, limit=1).records[0]
        real_ms, cpu_ms = (time.perf_counter() - start_s) * 1e3, (time.process_time() - start_cpu_s) * 1e3
        touched_bytes = _bytes_mapped(path / "data.mdb") + _bytes_read() - read_bytes
    return Opening(record.data, real_ms, cpu_ms, touched_bytes)


def _work_of_a_killed(path: Path, dice: random.Random, now_ms: int) -> list[str]:
    """Fork a process that puts records, kill it, and return a line for each answer that it had."""
    seed, alive_s = dice.random(), dice.uniform(0, ALIVE_S_MAX)
    heard, told = os.pipe()
    child = os.fork()
    if child == 0:
        _put_until_killed(path, random.Random(seed), told, now_ms)
    os.close(told)
    with os.fdopen(heard, "rb") as pipe:
        first = pipe.readline()  # it is at work
        time.sleep(alive_s)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        rest = pipe.read()
    return (first + rest).decode().split("\n")[:-1]


def _put_until_killed(path: Path, dice: random.Random, told: int, now_ms: int) -> None:
    """The life of a forked process. Never returns: nothing of its parent may run in it."""
    try:
        with StreamStore(path, create=False, clock=lambda: now_ms) as store:
            number = 0
            while True:
                count = dice.randint(2, BATCH_RECORDS_MAX) if dice.randrange(BATCH_ONE_IN) == 0 else 1
                labels = [f"{number}/{place}" for place in range(count)]
                results = store.put_records(WORK, [(payload_of(label), label) for label in labels]).records
                os.write(told, f"{results[-1].sequence_number} {labels[-1]}\n".encode())
                number += 1
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os.write(told, b"\n")
    finally:
        os._exit(1)


def payload_of(label: str) -> bytes:
    return label.encode().ljust(RECORD_BYTES, b".")


def _bytes_read() -> int:
    """Return how many bytes this process has had from calls that read."""
    return int(Path("/proc/self/io").read_text().split()[1])


def _bytes_mapped(file: Path) -> int:
    """Return how much of a file's map is in the memory of this process."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    sizes_kb = (
        next(int(about.split()[1]) for about in lines if about.startswith("Rss:"))
        for line in lines
        if line.endswith(f" {file}")
    )
    return sum(sizes_kb) * 1024


def _lacks_accounts() -> str | None:
    return None if os.access("/proc/self/io", os.R_OK) else "/proc/self/io"


PART: Final = Part(
    name="recovery-time",
    what=(
        "Kills a process at work and opens its store to the first read, at several sizes: an opening looks at a few "
        "pages of any; in a release, 99 of 100 take 10 ms or less, and the median does not double."
    ),
    unit="kills at each size",
    sizes={"ci": Amount(cases=100), "release": Amount(cases=1_000)},
    run=run,
    lacks=_lacks_accounts,
)
