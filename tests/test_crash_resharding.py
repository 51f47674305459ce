"""Crashes while shards are split, merged, resized and trimmed: what was acknowledged is there, and nothing in part.

What the killed processes noted and what survives are one history, judged by the laws of
``tools/torture/history.py``. Every checker is shown a planted fault, and must see it.
"""

import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Final

import pytest

from streamstore.check import check_store
from tests.children import command, needs_strace, next_line, run, started, strace
from tests.test_crash import TRACED, Trace
from tools.torture.actors import RETENTION_HOURS, Actors, create, events_of, opened
from tools.torture.history import MS_PER_HOUR, Event, History, StoreClock, check_history

HOUR_NS: Final = 300_000_000  # longer than a round lasts, shorter than two
ALIVE_S: Final = (0.02, 0.15)
RESHARDS_TRACED: Final = 12


class Survivor:
    """One store, and all that anybody was told about it."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path / "store"
        self._logs = tmp_path
        self.clock = StoreClock(time.monotonic_ns(), HOUR_NS)
        self.events: list[Event] = []
        create(self.path, self.clock, self.events.extend)

    def command(self, name: str, producers: int, records: int, *options: object) -> list[str]:
        return command(
            "tools.torture.actors", self.path, self._logs / name, name, *self.clock, producers, records, *options
        )

    def hear(self, name: str) -> None:
        self.events += events_of(self._logs / name)

    def read_all(self) -> None:
        with opened(self.path, self.clock) as store:
            Actors(store, self.events.extend).read_all()

    def history(self) -> History:
        history = History(self.clock, retention_ms=RETENTION_HOURS * MS_PER_HOUR, is_complete=False)
        history.add(self.events)
        return history


def kill_two_writers(survivor: Survivor, number: int, alive_s: float) -> None:
    """Let two processes work on the store for a while, kill them, and look at what they leave."""
    first = survivor.command(f"{number}a", 3, 1_000_000, "--role", "reshard", "--role", "trim", "--role", "scan")
    second = survivor.command(f"{number}b", 1, 1_000_000, "--role", "follow")
    with started(first) as one, started(second) as other:
        for process in (one, other):
            assert next_line(process) == "open"
        signal.sigtimedwait([], alive_s)
        for process in (one, other):
            os.killpg(process.pid, signal.SIGKILL)
        for process in (one, other):
            process.wait()
    assert check_store(survivor.path) == [], number
    survivor.hear(f"{number}a")
    survivor.hear(f"{number}b")
    survivor.read_all()


def check_rounds(tmp_path: Path, *, rounds: int) -> None:
    survivor = Survivor(tmp_path)
    moments = random.Random(3)
    for number in range(rounds):
        kill_two_writers(survivor, number, moments.uniform(*ALIVE_S))
    with opened(survivor.path, survivor.clock) as store:  # and the store is written on
        Actors(store, survivor.events.extend).act("last", producers=2, records=50, window=8, roles=["reshard", "trim"])
    assert check_store(survivor.path) == []
    history = survivor.history()
    assert check_history(history) == []
    assert len(history.puts) > 20 * rounds
    assert len([reshard for reshard in history.reshards if reshard.end_ns is not None]) > rounds


def test_a_store_survives_kills_while_it_is_resharded_and_trimmed(tmp_path: Path) -> None:
    check_rounds(tmp_path, rounds=3)


@pytest.mark.slow
def test_a_store_survives_forty_kills_while_it_is_resharded_and_trimmed(tmp_path: Path) -> None:
    check_rounds(tmp_path, rounds=40)


@pytest.mark.parametrize(
    ("plant", "seen"),
    [
        ("child-numbered-from-parent", r"does not start behind the last number of its parent"),
        ("parent-not-closed", r"do not tile the hash keys"),
    ],
)
def test_the_check_of_a_store_catches_a_resharding_that_goes_wrong(tmp_path: Path, plant: str, seen: str) -> None:
    survivor = Survivor(tmp_path)
    with opened(survivor.path, survivor.clock) as store:
        Actors(store, survivor.events.extend).act("a", producers=1, records=20, window=0, roles=[])
    run(survivor.command("b", 0, 0, "--sync", "off", "--reshards", 1, "--plant", plant), status=None)
    assert re.search(seen, "\n".join(check_store(survivor.path)))


def test_the_laws_catch_children_that_take_the_last_number_of_their_parent(tmp_path: Path) -> None:
    survivor = Survivor(tmp_path)
    roles = ["--role", "reshard", "--sync", "off", "--plant", "child-numbered-from-parent"]
    run(survivor.command("a", 2, 200, *roles))
    survivor.hear("a")
    problems = "\n".join(check_history(survivor.history()))
    assert re.search(r"is numbered below \d+ of an ancestor", problems)


def test_the_laws_catch_a_trim_that_deletes_one_record_too_many(tmp_path: Path) -> None:
    survivor = Survivor(tmp_path)
    for number in range(10):
        roles = ["--role", "trim", "--role", "scan", "--plant", "trim-one-too-many"]
        run(survivor.command(str(number), 1, 200, *roles))
        survivor.hear(str(number))
        if re.search("which had not expired|is lost", "\n".join(check_history(survivor.history()))):
            return
    pytest.fail("the laws see nothing")


def test_the_laws_catch_answers_that_are_given_before_the_commit(tmp_path: Path) -> None:
    survivor = Survivor(tmp_path)
    moments = random.Random(4)
    for number in range(20):
        options = ["--role", "reshard", "--plant", "acknowledge-before-commit"]
        with started(survivor.command(str(number), 3, 1_000_000, *options)) as process:
            assert next_line(process) == "open"
            signal.sigtimedwait([], moments.uniform(0.01, 0.03))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        survivor.hear(str(number))
        survivor.read_all()
        if check_history(survivor.history()):
            return
    pytest.fail("the laws see nothing")


def traced(tmp_path: Path, *options: object) -> Trace:
    """Return the trace of splits, merges and resizings with nothing else beside them."""
    survivor = Survivor(tmp_path)
    log = tmp_path / "strace.log"
    program = survivor.command("traced", 0, 0, "--reshards", RESHARDS_TRACED, *options)
    run([*strace(log, "-s", "100000", TRACED), *program])
    return Trace(log, survivor.path)


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
