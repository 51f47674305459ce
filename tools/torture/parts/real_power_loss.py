"""Power loss of a real filesystem: an ext4 is shut down under processes that write, in each of its modes.

What the page cache and the journal had waiting is gone, as it is for a machine whose power ends. The last mode has no
journal: ext4 promises nothing there about what is not synced, and needs e2fsck, as such a machine runs when it starts;
what the store has synced must be there all the same.
"""

import random
import time
from pathlib import Path
from typing import Final

from tools.torture.crew import Crew, choose_shifts, create_streams, delete_streams
from tools.torture.ledger import Ledger
from tools.torture.mounts import Disk, Format, MountError, lacks_disks
from tools.torture.part import Amount, Ordeal, Part

__all__ = ["PART"]

FORMATS: Final = (
    Format("ordered", mount_options="data=ordered"),
    Format("writeback", mount_options="data=writeback"),
    Format("fast_commit", features="fast_commit"),
    Format("no journal", features="^has_journal", has_journal=False),
)
DISK_BYTES: Final = 128 * 2**20
ALIVE_S: Final = (0.02, 0.2)
OPENING_ONE_IN: Final = 6
"""Of so many rounds, the power of one ends while the processes open the store."""
OPENING_S_MAX: Final = 0.02
AFTERLIFE_S: Final = 0.01
"""How long the processes go on without a disk: whatever they are told then is checked too."""
STREAMS_LAST_ROUNDS: Final = 25


class Machine:
    """A store on a disk that loses its power again and again, and what is known of it."""

    def __init__(self, folder: Path, disk_format: Format, plant: str | None) -> None:
        self._disk = Disk(folder, DISK_BYTES, disk_format)
        self._path = self._disk.mount_point / "store"
        self._logs = folder
        self._plant = plant
        self._rounds = 0
        with self._disk.mounted():
            create_streams(self._path)
        self._ledger = Ledger(self._path)

    def lose_power(self, dice: random.Random, name: str, ordeal: Ordeal) -> list[str]:
        """Let some processes work, end their power, start again and return what is wrong then."""
        shifts = choose_shifts(dice, name=name, plant=self._plant)
        is_opening = dice.randrange(OPENING_ONE_IN) == 0
        with (
            self._disk.mounted(),
            Crew(self._path, self._logs, shifts, self._ledger.next_numbers) as crew,
        ):
            if is_opening:
                time.sleep(dice.uniform(0, OPENING_S_MAX))
            elif not crew.wait_until_open():
                return ["A process does not get the store open."]
            else:
                time.sleep(dice.uniform(*ALIVE_S))
            self._disk.lose_power()
            time.sleep(AFTERLIFE_S)
        ordeal.add("records acknowledged", self._ledger.hear(crew.ends()))
        checks_before = self._disk.checks
        damage = self._disk.repair()
        ordeal.add("rounds that needed e2fsck", self._disk.checks - checks_before)
        if damage is not None:
            return [f"e2fsck could not mend the disk: {damage}"]
        with self._disk.mounted():
            problems = self._ledger.check(fully=True)
            self._rounds += 1
            if not problems and self._rounds % STREAMS_LAST_ROUNDS == 0:
                delete_streams(self._path)
                create_streams(self._path)
                self._ledger = Ledger(self._path)
        return problems


def run(ordeal: Ordeal) -> None:
    machines: dict[str, Machine] = {}
    for case in ordeal.cases():
        mode = FORMATS[case % len(FORMATS)]
        try:
            if mode.name not in machines:
                folder = ordeal.memory_folder / f"{mode.name} {case}"
                machines[mode.name] = Machine(folder, mode, ordeal.plant)
        except MountError:
            ordeal.skip(f"no ext4 with {mode.name} here")
            continue
        problems = machines[mode.name].lose_power(ordeal.dice(case), f"p{case}", ordeal)
        ordeal.add(f"rounds {mode.name}")
        for problem in problems:
            ordeal.found(case, f"{mode.name}: {problem}")
        if problems:  # what is wrong once stays wrong: go on with another disk
            del machines[mode.name]


PART: Final = Part(
    name="real-power-loss",
    what="Shuts down an ext4 under processes that write: what was acknowledged is there when it is mounted again.",
    unit="power losses",
    sizes={"ci": Amount(cases=30), "release": Amount(cases=1_000)},
    run=run,
    lacks=lacks_disks,
)
