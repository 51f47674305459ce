"""What size does to a store: ours with 10,000,000 records against ours with 10,000. Only with ``--long``.

The filled stores are made once a run, each by a process of its own (``python -m benchmarks.growth``), which tells
what memory that took; they are proved before anything is measured in them.
"""

import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.contenders import Streamstore
from benchmarks.payloads import WrongDataError, check_payload, check_payloads, generate_payloads, make_payloads
from benchmarks.trials import Setup, StartTrial, Trial, settle

__all__ = ["GetTrial", "MemoryTrial", "OpenTrial", "PutTrial", "in_store_of"]

PROJECT: Final = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class FilledStore:
    """A store of one shard with the payloads 0 to ``records - 1``, and what its writer held in the end."""

    records: int
    private_kb: int


class FilledTrial:
    """A trial in the store of the library that was filled with ``records`` records, or with as many as are allowed."""

    def __init__(self, setup: Setup, records: int) -> None:
        self._setup = setup
        self._path = setup.library / f"filled-{records}"
        self._description_path = setup.library / f"filled-{records}.json"
        if self._description_path.exists():
            self._filled = FilledStore(**json.loads(self._description_path.read_text()))
        else:
            self._fill(setup.at_most(records))
        self._stored: int = self._filled.records

    def finish(self) -> None:
        """Nothing was put: what ``_prove`` has proved still holds."""

    def close(self) -> None:
        pass

    def _fill(self, records: int) -> None:
        self._path.mkdir()
        command = [sys.executable, "-m", __name__, str(self._path), str(records), str(self._setup.payload_bytes)]
        filled = subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE, text=True)
        self._prove(records)
        self._save(FilledStore(records, int(filled.stdout)))

    def _save(self, filled: FilledStore) -> None:
        self._filled = filled
        self._description_path.write_text(json.dumps(asdict(filled)))

    def _prove(self, records: int) -> None:
        with closing(Streamstore(self._path)) as store:
            check_payloads(
                store.read_back(),
                count=records,
                payload_bytes=self._setup.payload_bytes,
                ordered_records=records,
            )


class PutTrial(FilledTrial):
    """Microseconds of a durable put, the median of a turn."""

    def __init__(self, setup: Setup, records: int) -> None:
        super().__init__(setup, records)
        self._store = Streamstore(self._path)

    def turn(self) -> float:
        payloads = make_payloads(self._stored, self._setup.records, self._setup.payload_bytes)
        self._stored += len(payloads)
        settle()
        return 1e6 * statistics.median(_elapsed_s(partial(self._store.put, data)) for data in payloads)

    def finish(self) -> None:
        self._store.close()
        self._prove(self._stored)
        self._save(FilledStore(self._stored, self._filled.private_kb))

    def close(self) -> None:
        self._store.close()


class GetTrial(FilledTrial):
    """Microseconds from the number of a record to the record: an iterator and a page of one; the median of a turn."""

    def __init__(self, setup: Setup, records: int) -> None:
        super().__init__(setup, records)
        self._store = Streamstore(self._path)
        self._random = random.Random(0)

    def turn(self) -> float:
        settle()
        return 1e6 * statistics.median(self._elapsed_s() for _ in range(self._setup.records))

    def _elapsed_s(self) -> float:
        sequence = self._random.randrange(self._stored)
        start_s = time.perf_counter()
        record = self._store.read_at(sequence)
        elapsed_s = time.perf_counter() - start_s
        if check_payload(record.data, self._setup.payload_bytes) != sequence:
            raise WrongDataError(f"the record number {sequence} is another one")
        return elapsed_s

    def close(self) -> None:
        self._store.close()


class OpenTrial(FilledTrial):
    """Milliseconds from the path to the first record in hand, the file in the page cache; the median of a turn."""

    def turn(self) -> float:
        settle()
        return 1e3 * statistics.median(self._elapsed_s() for _ in range(self._setup.records))

    def _elapsed_s(self) -> float:
        start_s = time.perf_counter()
        with closing(Streamstore(self._path)) as store:
            record = store.read_at(0)
            elapsed_s = time.perf_counter() - start_s
        if check_payload(record.data, self._setup.payload_bytes) != 0:
            raise WrongDataError("the first record is another one")
        return elapsed_s


class MemoryTrial(FilledTrial):
    """Megabytes of private memory (RssAnon) of the process that has filled the store, at its end."""

    def turn(self) -> float:
        return self._filled.private_kb / 1e3


def in_store_of(records: int, kind: Callable[[Setup, int], Trial]) -> StartTrial:
    return lambda setup: kind(setup, records)


def _elapsed_s(call: Callable[[], None]) -> float:
    start_s = time.perf_counter()
    call()
    return time.perf_counter() - start_s


def _private_kb() -> int:
    """Return the memory of this process that no file backs: the map of the store is not part of it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def _fill(path: Path, records: int, payload_bytes: int) -> None:
    with closing(Streamstore(path)) as store:
        assert store.ingest(generate_payloads(0, records, payload_bytes)) == records
        print(_private_kb())


if __name__ == "__main__":
    _fill(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
