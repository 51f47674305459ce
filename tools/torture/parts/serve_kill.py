"""kill -9 of the server: it serves one surviving store over HTTP, and is killed and started again and again."""

import contextlib
import os
import shutil
import time
from pathlib import Path
from random import Random
from typing import Final, Self

from streamstore import StreamStore
from streamstore.check import check_store
from streamstore.errors import StreamStoreError
from tools.torture.forked import failures_in
from tools.torture.http_producers import Address, HttpProducers
from tools.torture.ledger import StreamLedger
from tools.torture.part import Amount, Ordeal, Part
from tools.torture.served import Served

__all__ = ["PART"]

STREAM: Final = "served"
SHARDS: Final = 4
PRODUCERS: Final = 8
ALIVE_S: Final = (0.02, 0.25)
STARTING_ONE_IN: Final = 8
"""Of so many rounds, the server of one is killed while it starts."""
STARTING_S_MAX: Final = 0.1
END_S_MAX: Final = 60.0
PROBLEMS_MAX: Final = 20


class Survivor:
    """A store, its server and the clients of that. Use it as a context manager: at its end nothing of it runs."""

    def __init__(self, folder: Path, plant: str | None, ordeal: Ordeal) -> None:
        self._path = folder / "served"
        self._log = folder / "served.log"
        self._ordeal = ordeal
        self._heard = 0
        self._stored = 0
        self._acknowledged: set[str] = set()
        self._ledger = StreamLedger(STREAM)
        self._running = contextlib.ExitStack()
        with StreamStore(self._path, dialect="aws") as store:
            store.create_stream(STREAM, shard_count=SHARDS, idempotency_window_seconds=3_600)
        self._served = self._running.enter_context(Served(self._path, plant))
        self._producers: HttpProducers | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._running.close()
        shutil.rmtree(self._path)
        self._log.unlink(missing_ok=True)

    def kill_the_server(self, dice: Random) -> list[str]:
        """Start the server, kill it, and return what is wrong then. The clients go on through all of it."""
        self._served.start()
        if self._producers is not None and dice.randrange(STARTING_ONE_IN) == 0:
            time.sleep(dice.uniform(0, STARTING_S_MAX))
        elif self._served.wait_until_ready():
            self._begin_to_produce()
            time.sleep(dice.uniform(*ALIVE_S))
        self._served.kill()
        return self._problems(fully=False)

    def end(self) -> list[str]:
        """Let each client end its put, and return what is wrong then: all of the store is looked at."""
        if self._producers is None:
            return []
        self._served.start()
        has_ended = self._served.wait_until_ready() and self._producers.end(END_S_MAX)
        self._served.kill()
        problems = [] if has_ended else ["The clients do not get their last answers."]
        problems += self._problems(fully=True)
        if has_ended and not problems:
            untold = sorted(self._ledger.labels - self._acknowledged)
            problems += [f"{label} is stored, and nobody was told." for label in untold]
        return problems[:PROBLEMS_MAX]

    def _begin_to_produce(self) -> None:
        if self._producers is not None:
            return
        address = Address(self._served.host, self._served.port, STREAM)
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            names = [f"c{number}" for number in range(PRODUCERS)]
            self._producers = self._running.enter_context(HttpProducers(address, names, log))
        finally:
            os.close(log)

    def _problems(self, *, fully: bool) -> list[str]:
        problems = self._served.failures() + self._hear()
        try:
            with StreamStore(self._path, create=False) as store:
                problems += self._ledger.check(store, fully=fully)
            if fully:
                problems += check_store(self._path)
        except StreamStoreError as error:
            problems.append(f"The store cannot be read: {type(error).__name__}: {error}")
        stored = len(self._ledger.labels)
        self._ordeal.add("records stored", stored - self._stored)
        self._stored = stored
        return problems[:PROBLEMS_MAX]

    def _hear(self) -> list[str]:
        """Take in what the clients have noted since the last time, and return what failed in them."""
        if self._producers is None:
            return []
        lines = self._new_lines()
        for line in lines:
            word, *rest = line.split()
            if word == "ack":
                _, shard_id, sequence, label, _ = rest
                self._ledger.hear(shard_id, sequence, label)
                self._acknowledged.add(label)
                self._ordeal.add("records acknowledged")
            elif word == "again":
                self._ordeal.add("puts sent again")
        return [f"A client failed: {reason}." for reason in failures_in(lines, self._producers.status or 0)]

    def _new_lines(self) -> list[str]:
        """Return the lines that have come whole since the last time."""
        with self._log.open("rb") as log:
            log.seek(self._heard)
            content = log.read()
        content = content[: content.rfind(b"\n") + 1]
        self._heard += len(content)
        return content.decode().splitlines()


def run(ordeal: Ordeal) -> None:
    cases = ordeal.cases()
    case = next(cases, None)
    while case is not None:
        with Survivor(ordeal.folder, ordeal.plant, ordeal) as survivor:
            problems, ended = list[str](), case
            while case is not None and not problems:
                ended = case
                problems = survivor.kill_the_server(ordeal.dice(case))
                for problem in problems:
                    ordeal.found(case, problem)
                case = next(cases, None)
            if not problems:
                for problem in survivor.end():
                    ordeal.found(ended, problem)


PART: Final = Part(
    name="serve-kill",
    what="Kills the server of a surviving store under its clients: what they were told is there, and each put once.",
    unit="kills",
    sizes={"ci": Amount(cases=50), "release": Amount(cases=5_000)},
    run=run,
)
