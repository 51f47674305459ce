"""kill -9: processes that work on one surviving store are killed at random moments, again and again."""

import random
import shutil
import time
from pathlib import Path
from typing import Final

from tools.torture.crew import Crew, choose_shifts, create_streams, delete_streams
from tools.torture.ledger import Ledger
from tools.torture.part import Amount, Ordeal, Part

__all__ = ["PART"]

ALIVE_S: Final = (0.005, 0.05)
OPENING_ONE_IN: Final = 5
"""Of so many rounds, the processes of one are killed while they open the store."""
OPENING_S_MAX: Final = 0.01
FULL_CHECK_ROUNDS: Final = 25
STREAMS_LAST_ROUNDS: Final = 100
"""Then they are deleted and made anew, so that the ledger and a full check stay small."""


class Survivor:
    """A store that no kill may harm, and what is known of it."""

    def __init__(self, path: Path, logs: Path, plant: str | None) -> None:
        self._path = path
        self._logs = logs
        self._plant = plant
        self._rounds = 0
        create_streams(path)
        self._ledger = Ledger(path)

    def kill_a_crew(self, dice: random.Random, name: str, ordeal: Ordeal) -> list[str]:
        """Let some processes work, kill them one after the other, and return what is wrong then."""
        shifts = choose_shifts(dice, name=name, plant=self._plant)
        moments_s = sorted(dice.uniform(*ALIVE_S) for _ in shifts)
        is_opening = dice.randrange(OPENING_ONE_IN) == 0
        with Crew(self._path, self._logs, shifts, self._ledger.next_numbers) as crew:
            if is_opening:
                moments_s = [moment_s % OPENING_S_MAX for moment_s in moments_s]
            elif not crew.wait_until_open():
                return ["A process does not get the store open."]
            began_s = time.monotonic()
            for moment_s in moments_s:
                time.sleep(max(0.0, began_s + moment_s - time.monotonic()))
                crew.kill_one()
        ends = crew.ends()
        ordeal.add("processes killed", len(ends))
        ordeal.add("records acknowledged", self._ledger.hear(ends))
        self._rounds += 1
        problems = [failure for end in ends for failure in end.failures()]
        problems += self._ledger.check(fully=self._rounds % FULL_CHECK_ROUNDS == 0)
        if not problems and self._rounds % STREAMS_LAST_ROUNDS == 0:
            self._begin_anew()
        return problems

    def check(self) -> list[str]:
        return self._ledger.check(fully=True)

    def _begin_anew(self) -> None:
        delete_streams(self._path)
        create_streams(self._path)
        self._ledger = Ledger(self._path)


def run(ordeal: Ordeal) -> None:
    survivors: dict[Path, Survivor] = {}
    folders = (ordeal.memory_folder, ordeal.folder)
    case = -1
    for case in ordeal.cases():
        folder = folders[case % len(folders)]
        if folder not in survivors:
            survivors[folder] = Survivor(folder / "store", ordeal.memory_folder, ordeal.plant)
        problems = survivors[folder].kill_a_crew(ordeal.dice(case), f"k{case}", ordeal)
        for problem in problems:
            ordeal.found(case, problem)
        if problems:  # what is wrong once stays wrong: go on with another store
            del survivors[folder]
            shutil.rmtree(folder / "store")
    for survivor in survivors.values():
        for problem in survivor.check():
            ordeal.found(case, problem)


PART: Final = Part(
    name="kill",
    what="Kills processes that work on one surviving store at random moments: what was acknowledged is there.",
    unit="kills",
    sizes={"ci": Amount(cases=300), "release": Amount(cases=10_000)},
    run=run,
)
