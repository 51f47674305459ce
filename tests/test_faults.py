"""System calls that fail: what each call says is true, nothing acknowledged is lost, and writing goes on.

strace makes the calls fail, in a program that knows nothing of it. The torture does it to each call, in its I/O faults.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from streamstore import StreamStore
from streamstore.check import check_store
from tests.children import command, needs_strace, run, strace
from tests.programs.puts import STREAM, payload_of

pytestmark = needs_strace

FIRST = 3
COUNT = 6
PLACES = range(1, 15)
"""Of each system call: from the first one of the opening to the last one of the last put."""


@dataclass
class Outcome:
    """What the program said of its puts, and what the store holds afterwards."""

    acknowledged: dict[int, int]
    refused: dict[int, str]
    unknown: list[int]
    stored: list[int]
    ended_well: bool


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a few records, and no zeros ahead of them."""
    path = tmp_path_factory.mktemp("faults") / "store"
    with StreamStore(path) as store:
        store.create_stream(STREAM)
        for number in range(FIRST):
            store.put_record(STREAM, payload_of(number), "key")
    return path


def put_under(prepared: Path, tmp_path: Path, *injections: str) -> Outcome:
    """Run the program on a copy of the store while system calls fail, and hold every word of it against the store."""
    path = tmp_path / "store"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(prepared, path)
    calls = ",".join({injection.partition(":")[0] for injection in injections})
    options = [f"--trace={calls}", *(f"--inject={injection}" for injection in injections)]
    if not any("signal=" in injection for injection in injections):
        options.append("--seccomp-bpf")  # faster, but it swallows the signals
    traced = [*strace(tmp_path / "strace.log", *options), *command("puts", path, FIRST, COUNT)]
    printed = run(traced, status=None)  # it may have been killed
    outcome = _outcome(printed.splitlines(), path)
    _check_truth(outcome)
    return outcome


def _outcome(lines: list[str], path: Path) -> Outcome:
    said = [line.split(maxsplit=3) for line in lines]
    assert check_store(path) == []
    with StreamStore(path) as store:
        records = list(store.read(STREAM, "shard-000000"))
    assert [record.sequence_number for record in records] == [str(index) for index in range(len(records))]
    stored = [int(record.data.split(b" ")[0]) for record in records]
    assert [record.data for record in records] == [payload_of(number) for number in stored]
    return Outcome(
        acknowledged={int(words[1]): int(words[2]) for words in said if words[0] == "ack"},
        refused={int(words[1]): words[2] for words in said if words[0] == "refused"},
        unknown=[int(words[1]) for words in said if words[0] == "unknown"],
        stored=stored,
        ended_well="closed" in lines,
    )


def _check_truth(outcome: Outcome) -> None:
    for number, sequence in outcome.acknowledged.items():
        assert outcome.stored[sequence] == number, outcome
    assert not set(outcome.refused) & set(outcome.stored), outcome
    assert outcome.stored == sorted(set(outcome.stored)), outcome
    said = {*range(FIRST), *outcome.acknowledged, *outcome.unknown}
    assert len(set(outcome.stored) - said) <= (0 if outcome.ended_well else 1), outcome


def meta_writes(prepared: Path, tmp_path: Path) -> list[tuple[int, int]]:
    """Return for each put which of all pwrite64 writes its meta page, and which fdatasync is the next after it."""
    put_under(prepared, tmp_path, "pwrite64:delay_enter=0", "fdatasync:delay_enter=0")
    found: list[tuple[int, int]] = []
    writes, syncs = 0, 0
    for line in (tmp_path / "strace.log").read_text().splitlines():
        writes += "pwrite64(" in line
        syncs += "fdatasync(" in line
        if re.search(r"pwrite64\(.*, 120, ", line):
            found.append((writes, syncs + 1))
    assert len(found) == COUNT
    return found


def test_a_failed_meta_write_is_found_out_and_the_next_put_works(prepared: Path, tmp_path: Path) -> None:
    write, _ = meta_writes(prepared, tmp_path)[2]
    outcome = put_under(prepared, tmp_path, f"pwrite64:error=EIO:when={write}")
    assert outcome.refused == {FIRST + 2: "StorageError"}
    assert len(outcome.acknowledged) == COUNT - 1


def test_a_full_disk_at_the_meta_write_is_told_as_a_full_disk(prepared: Path, tmp_path: Path) -> None:
    write, _ = meta_writes(prepared, tmp_path)[2]
    outcome = put_under(prepared, tmp_path, f"pwrite64:error=ENOSPC:when={write}")
    assert outcome.refused == {FIRST + 2: "StoreFullError"}


def test_the_outcome_is_unknown_only_when_the_file_cannot_be_reopened(prepared: Path, tmp_path: Path) -> None:
    write, sync = meta_writes(prepared, tmp_path)[2]
    outcome = put_under(prepared, tmp_path, f"pwrite64:error=EIO:when={write}", f"fdatasync:error=EIO:when={sync}")
    assert outcome.unknown == [FIRST + 2]
    assert len(outcome.acknowledged) == COUNT - 1  # writing resumed as soon as the file could be reopened


def test_a_failed_sync_of_the_data_stores_nothing_and_the_next_put_works(prepared: Path, tmp_path: Path) -> None:
    _, sync = meta_writes(prepared, tmp_path)[2]
    outcome = put_under(prepared, tmp_path, f"fdatasync:error=EIO:when={sync}..{sync + 1}")
    assert outcome.refused == {FIRST + 3: "StorageError", FIRST + 4: "StorageError"}
    assert len(outcome.acknowledged) == COUNT - 2


@pytest.mark.slow
def test_killed_at_whichever_call_what_was_acknowledged_is_stored(prepared: Path, tmp_path: Path) -> None:
    acknowledged: set[int] = set()
    for place in PLACES:
        for call in ("fdatasync", "pwrite64", "writev"):
            outcome = put_under(prepared, tmp_path, f"{call}:signal=SIGKILL:when={place}")
            acknowledged.add(len(outcome.acknowledged))
    assert acknowledged == set(range(COUNT + 1))
