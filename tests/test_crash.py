"""What was acknowledged was on the disk before: the syncs are seen in the trace of the system calls.

Every checker is shown a planted fault, and must see it. What survives kills and power losses, the torture counts.
"""

import re
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest

from streamstore import StreamStore
from tests.children import command, needs_strace, run, strace
from tests.programs.workload import SHARD_COUNT, STREAM

TRACED: Final = "--trace=openat,close,pwrite64,pwritev,writev,write,fdatasync,fsync,ftruncate,fallocate,rename"


def create(path: Path) -> None:
    with StreamStore(path) as store:
        store.create_stream(STREAM, shard_count=SHARD_COUNT)


class Trace:
    """The system calls of a program that touch the store or acknowledge a record, in the order of their completion."""

    def __init__(self, log: Path, path: Path) -> None:
        self.path = path
        self.calls: list[str] = []
        unfinished: dict[str, str] = {}
        for line in log.read_text().splitlines():
            thread, call = line.split(maxsplit=1)
            if call.endswith("<unfinished ...>"):
                unfinished[thread] = call.removesuffix("<unfinished ...>").rstrip()
                if '"ack ' not in call:
                    continue  # an acknowledgement counts from its beginning, all else from its end
                call = unfinished[thread] + ") = 1"
            elif call.startswith("<... "):
                call = unfinished.pop(thread) + call.partition(" resumed>")[2]
                if '"ack ' in call:
                    continue
            self.calls.append(call)

    def after(self, start: int, pattern: str) -> int:
        """Return the place of the first call that matches at or behind ``start``; behind the end if there is none."""
        for place in range(start, len(self.calls)):
            if re.search(pattern, self.calls[place]):
                return place
        return len(self.calls)

    @property
    def sync(self) -> str:
        return rf"f(data)?sync\(\d+<{self.path}/data.mdb> ?\) += 0"  # strace writes the space when others came between

    @property
    def meta_write(self) -> str:
        """Matches the write of the meta page through the descriptor on which each write is synced."""
        opened = self.calls[self.after(0, r"openat.*/store/data.mdb.*O_DSYNC")]
        descriptor = re.findall(r"= (\d+)<", opened)[-1]
        return rf"pwrite64\({descriptor}<.* = 120$"

    def acknowledgements(self) -> dict[str, int]:
        """Return the place of each record's acknowledgement."""
        found = [(re.search(r'"ack \S+ \d+ (\S+)\\n"', call), place) for place, call in enumerate(self.calls)]
        return {match[1]: place for match, place in found if match}


def not_on_disk_when_acknowledged(trace: Trace, *, meta_synced: bool = True) -> list[str]:
    """Return the records whose acknowledgement did not wait for the data, then the sync, then the meta page."""
    hasty: list[str] = []
    for label, acknowledged in trace.acknowledgements().items():
        place = trace.after(0, rf"write\w*\(\d+<.*data.mdb.*{label} ")
        place = trace.after(place, trace.sync)
        if meta_synced:
            place = trace.after(place, trace.meta_write)
        if place >= acknowledged:
            hasty.append(label)
    return hasty


def unsynced_when_opened(trace: Trace) -> list[str]:
    """Return what a killed process may have left in the page cache and the opening did not put on disk."""
    said = trace.after(0, r"\"open\\n\"")
    opened = trace.after(0, r"/store/data.mdb.*O_RDWR\|O_CREAT")
    places = {
        "data": trace.after(opened, trace.sync),
        "name of the file": trace.after(0, rf"fsync\(\d+<{trace.path}>\) += 0"),
        "name of the folder": trace.after(0, rf"fsync\(\d+<{trace.path.parent}>\) += 0"),
    }
    return [name for name, place in places.items() if place >= said]


def traced(tmp_path: Path, *options: object, threads: int = 1) -> Trace:
    path = tmp_path / "store"
    create(path)
    log = tmp_path / "strace.log"
    run([*strace(log, "-s", "100000", TRACED), *command("workload", path, "traced", threads, 12, *options)])
    trace = Trace(log, path)
    assert len(trace.acknowledgements()) == 12 * threads
    return trace


@needs_strace
@pytest.mark.parametrize("threads", [1, 4])
def test_every_record_is_on_disk_before_it_is_acknowledged(tmp_path: Path, threads: int) -> None:
    assert not_on_disk_when_acknowledged(traced(tmp_path, threads=threads)) == []


@needs_strace
def test_opening_puts_on_disk_what_a_killed_process_left_in_the_cache(tmp_path: Path) -> None:
    assert unsynced_when_opened(traced(tmp_path)) == []


@needs_strace
def test_sync_normal_syncs_the_data_once_a_commit_and_the_last_meta_page_at_close(tmp_path: Path) -> None:
    trace = traced(tmp_path, "--sync", "normal")
    places = list(trace.acknowledgements().values())
    for earlier, later in pairwise(places):
        assert len([call for call in trace.calls[earlier:later] if re.search(trace.sync, call)]) == 1
    assert not_on_disk_when_acknowledged(trace, meta_synced=False) == []
    assert trace.after(places[-1], trace.sync) < len(trace.calls)


@needs_strace
def test_sync_off_syncs_nothing_before_close(tmp_path: Path) -> None:
    trace = traced(tmp_path, "--sync", "off")
    places = list(trace.acknowledgements().values())
    assert places[-1] < trace.after(places[0], trace.sync) < len(trace.calls)


@needs_strace
def test_the_checker_catches_acknowledgements_before_the_sync(tmp_path: Path) -> None:
    assert not_on_disk_when_acknowledged(traced(tmp_path, "--plant", "acknowledge-before-commit")) != []


@needs_strace
def test_the_checker_catches_acknowledgements_without_a_sync(tmp_path: Path) -> None:
    trace = traced(tmp_path, "--sync", "off")
    assert len(not_on_disk_when_acknowledged(trace, meta_synced=False)) == 12


@needs_strace
def test_the_checker_catches_a_meta_page_that_is_not_synced(tmp_path: Path) -> None:
    assert len(not_on_disk_when_acknowledged(traced(tmp_path, "--sync", "normal"))) == 12


@needs_strace
@pytest.mark.parametrize(
    ("plant", "unsynced"),
    [("no-sync-on-open", ["data"]), ("no-sync-of-names", ["name of the file", "name of the folder"])],
)
def test_the_checker_catches_an_opening_that_does_not_sync(tmp_path: Path, plant: str, unsynced: list[str]) -> None:
    assert unsynced_when_opened(traced(tmp_path, "--plant", plant)) == unsynced
