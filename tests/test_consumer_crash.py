"""A consumer that is killed again and again: what it stores with its checkpoints is stored exactly once."""

import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from streamstore import StreamStore
from streamstore.check import check_store
from tests.children import command, lines_until_killed, next_line, started
from tests.programs.doubler import SOURCE, TARGET

NUMBERS = 20_000


def create(path: Path) -> None:
    with StreamStore(path) as store:
        store.create_stream(SOURCE, shard_count=2)
        store.create_stream(TARGET, shard_count=2)
        store.ingest(SOURCE, ((b"%d" % number, f"k{number}") for number in range(NUMBERS)))


def doubled_until_killed(path: Path, after_s: float, *options: str) -> list[int]:
    """Let the program double for a while, kill it, and return what it said is stored."""
    with started(command("doubler", path, *options)) as process:
        assert next_line(process) == "open"
        signal.sigtimedwait([], after_s)
        return [int(line.removeprefix("double ")) for line in lines_until_killed(process)]


def doubles_stored(path: Path) -> Counter[int]:
    with StreamStore(path) as store:
        shards = store.list_shards(TARGET).shards
        return Counter(int(record.data) // 2 for shard in shards for record in store.read(TARGET, shard.shard_id))


@pytest.mark.parametrize("rounds", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_what_a_consumer_stores_with_its_checkpoints_is_stored_exactly_once(tmp_path: Path, rounds: int) -> None:
    path = tmp_path / "store"
    create(path)
    moments = random.Random(3)
    said: list[int] = []
    for _ in range(rounds):
        said += doubled_until_killed(path, moments.uniform(0.02, 0.08))
        with StreamStore(path) as store:
            store.update_shard_count(SOURCE, moments.randint(1, 3))
    assert check_store(path) == []
    stored = doubles_stored(path)
    assert set(stored.values()) == {1}
    assert stored.keys() >= set(said)
    assert len(said) > rounds
    with StreamStore(path) as store:
        lag = store.describe_consumer_lag(SOURCE, "doubler")
    assert lag.record_count == NUMBERS - len(stored), "nothing in front of the checkpoint is missing"


def test_the_checker_catches_a_checkpoint_in_a_commit_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "store"
    create(path)
    moments = random.Random(4)
    for _ in range(40):
        doubled_until_killed(path, moments.uniform(0.01, 0.03), "--plant", "checkpoint-apart")
        if set(doubles_stored(path).values()) != {1}:
            return
    pytest.fail("the checker sees nothing")
