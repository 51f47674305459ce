"""Shards are split, merged and resized: each resharding is on disk before it is answered, and whole.

The parts ``kill`` and ``history`` of the torture kill the processes that do this.
"""

import re
import time
from pathlib import Path
from typing import Final

import pytest

from streamstore.check import check_store
from tests.children import command, needs_strace, run, strace
from tests.test_crash import TRACED, Trace
from tools.torture.actors import create
from tools.torture.history import StoreClock

HOUR_NS: Final = 300_000_000
RESHARDS_TRACED: Final = 12


class Resharded:
    """A store in which the actors of the torture put records and reshard."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path / "store"
        self._log = tmp_path / "log"
        self._clock = StoreClock(time.monotonic_ns(), HOUR_NS)
        create(self.path, self._clock, note=lambda _: None)

    def command(self, name: str, records: int, *options: object) -> list[str]:
        words = (self._log, name, *self._clock, min(records, 1), records, *options)
        return command("tools.torture.actors", self.path, *words)


@pytest.mark.parametrize(
    ("plant", "seen"),
    [
        ("child-numbered-from-parent", r"does not start behind the last number of its parent"),
        ("parent-not-closed", r"do not tile the hash keys"),
    ],
)
def test_the_check_of_a_store_catches_a_resharding_that_goes_wrong(tmp_path: Path, plant: str, seen: str) -> None:
    resharded = Resharded(tmp_path)
    run(resharded.command("a", 20))
    run(resharded.command("b", 0, "--sync", "off", "--reshards", 1, "--plant", plant), status=None)
    assert re.search(seen, "\n".join(check_store(resharded.path)))


def traced(tmp_path: Path, *options: object) -> Trace:
    """Return the trace of splits, merges and resizings with nothing else beside them."""
    resharded = Resharded(tmp_path)
    log = tmp_path / "strace.log"
    program = resharded.command("traced", 0, "--reshards", RESHARDS_TRACED, *options)
    run([*strace(log, "-s", "100000", TRACED), *program])
    return Trace(log, resharded.path)


def not_on_disk_when_answered(trace: Trace) -> list[int]:
    """Return the places of the reshardings whose answer did not wait for the data, the sync and the meta page."""
    tried = [place for place, call in enumerate(trace.calls) if '"try Reshard' in call]
    hasty: list[int] = []
    assert tried
    for place in tried:
        answered = trace.after(place, '"ack Reshard')
        assert answered < len(trace.calls)
        written = trace.after(place, r"write\w*\(\d+<.*data.mdb")
        if trace.after(trace.after(written, trace.sync), trace.meta_write) >= answered:
            hasty.append(place)
    return hasty


@needs_strace
def test_every_resharding_is_on_disk_before_it_is_answered(tmp_path: Path) -> None:
    trace = traced(tmp_path)
    assert not_on_disk_when_answered(trace) == []
    assert len([call for call in trace.calls if '"ack Reshard' in call]) == RESHARDS_TRACED


@needs_strace
@pytest.mark.parametrize("options", [("--plant", "acknowledge-before-commit"), ("--sync", "normal")])
def test_the_checker_catches_reshardings_that_are_answered_before_they_are_on_disk(
    tmp_path: Path, options: tuple[str, str]
) -> None:
    assert len(not_on_disk_when_answered(traced(tmp_path, "--reshards", 1, *options))) == 1
