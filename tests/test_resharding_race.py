"""Puts and reshardings on their way at once: each put lands in the shard that is open for its key in its commit."""

import random
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final
from unittest import mock

import pytest

from streamstore import StreamStore
from streamstore.check import check_store
from streamstore.request import Request
from streamstore.writer import Writer
from tests.commits import WAIT_S, held_commits, in_thread, last_commit
from tools.torture.actors import RETENTION_HOURS, Actors, create, opened
from tools.torture.history import MS_PER_HOUR, Event, History, StoreClock, check_history

STREAM: Final = "s"
MIDDLE: Final = 2**126  # inside the first of two shards

RESHARDINGS: Final[dict[str, tuple[Callable[[StreamStore], object], str, int]]] = {
    "split": (lambda store: store.split_shard(STREAM, "shard-000000", str(MIDDLE)), "shard-000002", 1),
    "merge": (lambda store: store.merge_shards(STREAM, "shard-000000", "shard-000001"), "shard-000002", 1),
    "resize": (lambda store: store.update_shard_count(STREAM, 4), "shard-000004", 2),
}
"""What reshards a stream of two shards, where hash key 0 belongs then, and how many generations away that is: those
between are born closed, and keep a number each for themselves.
"""


@contextmanager
def watched_queue() -> Generator[Callable[[], None]]:
    """Yield what waits until one more request is in a writer's queue."""
    arrived = threading.Semaphore(0)
    enqueue = vars(Writer)["_enqueue"]

    def enqueue_and_tell(writer: Writer, request: Request[object]) -> None:
        enqueue(writer, request)
        arrived.release()

    def wait() -> None:
        assert arrived.acquire(timeout=WAIT_S), "no request came"

    with mock.patch.object(Writer, "_enqueue", enqueue_and_tell):
        yield wait


@pytest.mark.parametrize("name", RESHARDINGS)
def test_a_put_in_front_of_a_resharding_is_in_the_parent_and_one_behind_it_in_the_child(
    store: StreamStore, name: str
) -> None:
    reshard, child_id, generations = RESHARDINGS[name]
    store.create_stream(STREAM, shard_count=2)
    put = partial(store.submit_record, STREAM, b"", "key", explicit_hash_key="0")
    with held_commits() as held, watched_queue() as wait_for_request:
        first = put()
        held.wait_for_one()  # the writer is busy: what comes now shares the next commit
        wait_for_request()
        commits = last_commit(store)
        in_front = put()
        wait_for_request()
        resharding = in_thread(lambda: reshard(store))
        wait_for_request()
        behind = put()
        held.let_go()
        resharding.result(WAIT_S)
    results = [future.result(WAIT_S)[:2] for future in (first, in_front, behind)]
    assert results == [("shard-000000", "0"), ("shard-000000", "1"), (child_id, str(1 + generations))]
    assert last_commit(store) == commits + 2


@pytest.mark.parametrize("name", RESHARDINGS)
def test_a_resharding_waits_for_the_commit_under_way(store: StreamStore, name: str) -> None:
    reshard, child_id, generations = RESHARDINGS[name]
    store.create_stream(STREAM, shard_count=2)
    put = partial(store.submit_record, STREAM, b"", "key", explicit_hash_key="0")
    with held_commits() as held:
        in_front = put()
        held.wait_for_one()
        resharding = in_thread(lambda: reshard(store))
        held.let_go()
        resharding.result(WAIT_S)
    assert in_front.result(WAIT_S)[:2] == ("shard-000000", "0")
    assert put().result(WAIT_S)[:2] == (child_id, str(generations))


def test_puts_of_eight_threads_land_in_open_shards_whatever_commit_is_held_back(tmp_path: Path) -> None:
    path, events = tmp_path / "store", list[Event]()
    clock = StoreClock(time.monotonic_ns(), hour_ns=60_000_000_000)
    create(path, clock, events.extend)
    choose = random.Random(5)
    with opened(path, clock) as store:
        actors = Actors(store, events.extend)
        putting = in_thread(partial(actors.act, "here", producers=8, records=100, window=4, roles=[]))
        for number in range(50):
            if number % 5:
                actors.reshard_once(choose)
                continue
            with held_commits() as held:
                resharding = in_thread(partial(actors.reshard_once, choose))
                held.wait_for_one()  # of a put or of the resharding
                held.let_go()
                resharding.result(WAIT_S)
        putting.result(WAIT_S)
        actors.read_all()
    history = History(clock, retention_ms=RETENTION_HOURS * MS_PER_HOUR, is_complete=True)
    history.add(events)
    assert check_history(history) == []
    assert check_store(path) == []
    assert len({put.shard_id for put in history.puts}) > 10
