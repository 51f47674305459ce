"""Idempotent puts across SIGKILL: a producer that puts again whatever was not answered stores each record once."""

import os
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from streamstore import StreamStore
from streamstore.check import check_store
from tests.children import command, next_line, started
from tests.programs.retries import STREAM

THREADS: Final = 4


class Producer:
    """Runs the program again and again, and kills it each time."""

    def __init__(self, tmp_path: Path, seed: int, *options: object) -> None:
        self.path = tmp_path / "store"
        self.answered = tmp_path / "answered"
        self._moments = random.Random(seed)
        self._options = options
        with StreamStore(self.path) as store:
            store.create_stream(STREAM, idempotency_window_seconds=3_600)

    def run_and_kill(self) -> None:
        with started(command("retries", self.path, THREADS, self.answered, *self._options)) as process:
            assert next_line(process) == "open"
            signal.sigtimedwait([], self._moments.uniform(0, 0.05))
            os.killpg(process.pid, signal.SIGKILL)

    def problems(self) -> list[str]:
        """Return what is stored twice, or answered and not stored where the answer says, in sentences."""
        problems = check_store(self.path)
        with StreamStore(self.path) as store:
            labels = [record.data.decode() for record in store.read(STREAM, "shard-000000")]
        problems += [f"{label} is stored {count} times." for label, count in Counter(labels).items() if count > 1]
        for line in self.answered.read_text().splitlines():
            thread, number, sequence = line.split()
            if int(sequence) >= len(labels) or labels[int(sequence)] != f"{thread}/{number}":
                problems.append(f"{thread}/{number} was answered and is not stored there.")
        return problems


@pytest.mark.slow
def test_what_is_put_again_after_each_of_forty_kills_is_stored_once(tmp_path: Path) -> None:
    producer = Producer(tmp_path, 1)
    for number in range(40):
        producer.run_and_kill()
        assert producer.problems() == [], number
    assert len(producer.answered.read_text().splitlines()) > 40


def test_what_is_put_again_after_a_kill_is_stored_once(tmp_path: Path) -> None:
    producer = Producer(tmp_path, 2)
    for _ in range(3):
        producer.run_and_kill()
        assert producer.problems() == []


@pytest.mark.parametrize("plant", ["keys-in-a-later-commit", "no-keys"])
def test_the_checker_catches_keys_that_are_not_in_the_commit_of_their_records(tmp_path: Path, plant: str) -> None:
    producer = Producer(tmp_path, 3, "--plant", plant)
    for _ in range(30):
        producer.run_and_kill()
        if any("is stored 2 times" in problem for problem in producer.problems()):
            return
    pytest.fail("the crash checker sees nothing")
