"""The part "hazards" of the torture: no row of the table of what LMDB is known for is forgotten."""

from pathlib import Path
from typing import Final

import pytest

from tools.torture.calls import lacks_gcc
from tools.torture.hazards import HAZARDS
from tools.torture.part import Amount
from tools.torture.parts import PARTS
from tools.torture.processes import Task, run_in_process

ROWS: Final = {
    "a write transaction finished on another thread",
    "the lock file closed, copied or removed",
    "fork with an open store",
    "kill -9 inside the meta write",
    "the sync of the data fails",
    "the meta write fails",
    "an interrupt or a lack of memory around commit",
    "a full disk without a lock file",
    "a map that is written, on a full disk",
    "a truncated data file",
    "damaged pages",
    "no checksums",
    "a crash while the environment is created",
    "a copy without a sync",
    "a new name without a sync",
    "a full map",
    "one long reader",
    "killed readers",
    "a full disk",
    "little address space",
    "a network filesystem",
    "open already, closed, missing",
    "hostile bytes",
}


def test_every_hazard_that_lmdb_is_known_for_has_a_case() -> None:
    assert HAZARDS.keys() == ROWS
    assert all(HAZARDS.values())


@pytest.mark.skipif(lacks_gcc() is not None, reason="needs gcc")
def test_a_transaction_that_another_thread_ends_is_seen_as_a_hang(tmp_path: Path) -> None:
    task = Task(PARTS["hazards"], 1, Amount(cases=1), tmp_path, plant="wrong-thread")
    (finding,) = run_in_process(task, lambda _done, _total: None).findings
    assert "hangs" in finding.sentence
