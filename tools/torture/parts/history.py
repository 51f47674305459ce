"""Histories: what many threads of two processes asked of one stream and were told, judged by the laws of a stream.

A window is a stream of its own in a store that survives all of them, so that the judge's memory stays bounded. In
every other window one of the processes is killed again and again, and another one takes its place.
"""

import os
import random
import time
from pathlib import Path
from typing import Final

from streamstore import StreamStore
from streamstore.check import check_store
from streamstore.errors import StreamStoreError
from tools.torture.actors import RETENTION_HOURS, STREAM, Actors, Run, create, events_of, opened
from tools.torture.forked import Forked, failures_in
from tools.torture.history import MS_PER_HOUR, Event, History, StoreClock, check_history
from tools.torture.part import Amount, Ordeal, Part

__all__ = ["PART"]

HOUR_NS: Final = 400_000_000
"""The retention is an hour: records expire while they are read."""
PRODUCERS_HERE: Final = 5
PRODUCERS_BESIDE: Final = 3
RECORDS_OF_WINDOWS: Final = (50, 100, 200, 400, 800, 1_600)
"""How many each producer puts, in turn."""
WINDOW: Final = 8
ALIVE_S: Final = (0.05, 0.3)
WINDOW_S_MAX: Final = 300.0
PROBLEMS_MAX: Final = 20
NEVER_DONE: Final = 1_000_000_000


class Window:
    """Two processes on a stream of their own, and all that anybody was told about it."""

    def __init__(self, path: Path, logs: Path, *, records: int, plant: str | None) -> None:
        self._path = path
        self._logs = logs
        self._records = records
        self._plant = plant
        self._clock = StoreClock(time.monotonic_ns(), HOUR_NS)
        self._problems: list[str] = []
        self.events: list[Event] = []
        create(path, self._clock, self.events.extend)

    def live(self, dice: random.Random, *, kills: bool) -> None:
        """Let the one process put its records while the other works beside it, or is killed and replaced."""
        roles = ("follow", "scan", "tail")
        changes = ("reshard", "trim")
        beside_changes = dice.choice((True, False))
        here = self._run("here", PRODUCERS_HERE, roles if beside_changes else roles + changes)
        beside = self._run("beside", PRODUCERS_BESIDE, roles + changes if beside_changes else roles)
        deadline_s = time.monotonic() + WINDOW_S_MAX
        with self._forked(here) as one:
            if kills:
                self._kill_beside(one, beside, dice, deadline_s)
            else:
                with self._forked(beside) as other:
                    self._wait(other, beside, deadline_s)
            self._wait(one, here, deadline_s)

    def problems(self, *, is_complete: bool) -> list[str]:
        """Return what breaks the laws, in sentences, and delete the stream."""
        if self._problems:
            return self._problems
        with opened(self._path, self._clock) as store:
            Actors(store, self.events.extend).read_all()
        problems = check_store(self._path)
        history = History(self._clock, retention_ms=RETENTION_HOURS * MS_PER_HOUR, is_complete=is_complete)
        history.add(self.events)
        problems += check_history(history)
        with StreamStore(self._path) as store:
            store.delete_stream(STREAM)
        return problems[:PROBLEMS_MAX]

    def _run(self, name: str, producers: int, roles: tuple[str, ...]) -> Run:
        log = self._logs / f"{name}.log"
        return Run(self._path, log, self._clock, name, producers, self._records, WINDOW, 0, roles, "off", self._plant)

    def _forked(self, run: Run) -> Forked:
        log = os.open(run.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            return Forked(run.act, log)
        finally:
            os.close(log)

    def _kill_beside(self, one: Forked, beside: Run, dice: random.Random, deadline_s: float) -> None:
        """Kill the process beside again and again, until the other one is done."""
        number = 0
        while not self._problems and time.monotonic() < deadline_s:
            name = f"beside{number}x"
            # One call at a time: of those that a kill leaves without an answer, the laws know one for each producer.
            run = beside._replace(name=name, log=self._logs / f"{name}.log", records=NEVER_DONE, window=0)
            with self._forked(run) as other:
                is_over = one.wait(dice.uniform(*ALIVE_S))
                other.kill()
            self._hear(run, other)
            number += 1
            if is_over:
                return

    def _wait(self, process: Forked, run: Run, deadline_s: float) -> None:
        if not process.wait(deadline_s - time.monotonic()):
            self._problems.append(f"The process {run.name} hangs.")
            process.kill()
        self._hear(run, process)

    def _hear(self, run: Run, process: Forked) -> None:
        lines = run.log.read_text().split("\n")[:-1]
        self._problems += [f"Process {run.name} failed: {each}." for each in failures_in(lines, process.status)]
        self.events += events_of(run.log)
        run.log.unlink()


def run(ordeal: Ordeal) -> None:
    path = ordeal.memory_folder / "store"
    for case in ordeal.cases():
        dice = ordeal.dice(case)
        kills = case % 2 == 1
        try:
            records = RECORDS_OF_WINDOWS[case % len(RECORDS_OF_WINDOWS)]
            window = Window(path, ordeal.memory_folder, records=records, plant=ordeal.plant)
            window.live(dice, kills=kills)
            problems = window.problems(is_complete=not kills)
        except StreamStoreError as error:
            problems, window = [f"The store cannot be used: {type(error).__name__}: {error}"], None
        ordeal.add("operations", 0 if window is None else len(window.events))
        for problem in problems:
            ordeal.found(case, problem)
        if problems:
            path = path.with_name(f"store{case}")


PART: Final = Part(
    name="history",
    what="Notes what many threads of two processes were told of one stream, with kills: it obeys the laws of a stream.",
    unit="windows",
    sizes={"ci": Amount(cases=18), "release": Amount(cases=820)},
    run=run,
)
