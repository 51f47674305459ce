"""Laws of the tasks of AsyncStreamStore: one wake-up a commit, several loops, and no waiter harms another."""

import asyncio
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest

from streamstore import PutRecordResult, ResourceNotFoundException, StoreClosedError, StoreFullError
from tests.commits import WAIT_S, failing_commit, held_commits, in_thread, last_commit
from tests.conftest import Clock
from tests.test_aio import SHARD, inside, opened, placed, put, run, started, stored

# One writer for all


def test_many_tasks_share_commits_and_each_commit_wakes_the_loop_once(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> tuple[int, int]:
        async with opened(path, clock) as store:
            loop = asyncio.get_running_loop()
            wake = loop.call_soon_threadsafe
            wake_ups: list[object] = []

            def count(callback: Callable[[], object]) -> object:
                wake_ups.append(callback)
                return wake(callback)

            monkeypatch.setattr(loop, "call_soon_threadsafe", count)
            before = last_commit(inside(store))
            results = await asyncio.gather(*(put(store, number) for number in range(1_000)))
            commits = last_commit(inside(store)) - before
            monkeypatch.undo()
            assert results == placed(0, 1_000)
            assert await stored(store) == list(range(1_000))
            return commits, len(wake_ups)

    commits, wake_ups = run(scenario())
    assert wake_ups == commits
    assert commits < 100


def test_puts_need_no_thread_of_their_own(path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        async with opened(path, clock) as store:
            before = threading.active_count()
            with held_commits() as held:
                tasks = await started(*(put(store, number) for number in range(100)))
                assert threading.active_count() == before
                held.let_go()
                await asyncio.gather(*tasks)

    run(scenario())


def test_puts_of_one_task_are_stored_in_their_order(path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        async with opened(path, clock) as store:
            for number in range(0, 60, 3):
                assert (await put(store, number)).sequence_number == str(number)
                result = await store.put_records("s", [(b"%d" % each, "k") for each in (number + 1, number + 2)])
                assert [entry.sequence_number for entry in result.records] == [str(number + 1), str(number + 2)]
            assert await stored(store) == list(range(60))

    run(scenario())


def test_several_loops_in_several_threads_use_one_store(path: Path, clock: Clock) -> None:
    store = opened(path, clock)

    async def put_many(first: int) -> list[PutRecordResult]:
        return await asyncio.gather(*(put(store, number) for number in range(first, first + 300)))

    run(store.__aenter__())
    threads: list[Future[list[PutRecordResult]]] = [
        in_thread(lambda first=first: run(put_many(first)))  # type: ignore[misc]
        for first in range(0, 1_500, 300)
    ]
    results = [thread.result(WAIT_S) for thread in threads]
    records = run(stored(store))
    run(store.close())
    assert sorted(records) == list(range(1_500))
    for index, own in enumerate(results):
        sequences = [int(result.sequence_number) for result in own]
        assert sequences == sorted(sequences)
        assert [records[sequence] for sequence in sequences] == list(range(index * 300, index * 300 + 300))


def test_loops_that_are_closed_are_let_go(path: Path, clock: Clock) -> None:
    store = opened(path, clock)
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def put_one() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await put(store, 0)

    run(store.__aenter__())
    for _ in range(6):
        run(put_one())
    alive = [loop for loop in loops if loop() is not None]
    run(store.close())
    assert len(alive) <= 2


# Cancelling, closing, failing


def test_cancelling_one_waiter_harms_no_other_and_its_record_is_stored_or_not(path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        async with opened(path, clock) as store:
            with held_commits() as held:
                tasks = await started(*(put(store, number) for number in range(20)))
                for task in tasks[3:20:4]:
                    task.cancel()
                await asyncio.sleep(0)
                held.let_go()
                results = await asyncio.gather(*tasks, return_exceptions=True)
            records = await stored(store)
            for number, (task, result) in enumerate(zip(tasks, results, strict=True)):
                assert task.cancelled() == (number % 4 == 3)
                if isinstance(result, PutRecordResult):
                    assert records[int(result.sequence_number)] == number
            assert len(records) == len(set(records)) >= 15
            assert await put(store, 20) == PutRecordResult(SHARD, str(len(records)))

    run(scenario())


def test_a_loop_closed_while_its_puts_are_on_their_way_harms_nobody(path: Path, clock: Clock) -> None:
    store = opened(path, clock)

    async def put_and_leave() -> None:
        await started(*(put(store, number) for number in range(10)))

    run(store.__aenter__())
    with held_commits() as held:
        run(put_and_leave())
        other = in_thread(lambda: run(put(store, 10)))
        held.let_go()
        other.result(WAIT_S)
    assert run(stored(store)) == list(range(11))
    run(store.close())


def test_closing_stores_and_answers_what_waits(path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        async with opened(path, clock) as store:
            with held_commits() as held:
                tasks = await started(*(put(store, number) for number in range(50)))
                closing = asyncio.create_task(store.close())
                held.let_go()
                assert await asyncio.gather(*tasks) == placed(0, 50)
                await closing
            with pytest.raises(StoreClosedError):
                await put(store, 50)
        async with opened(path, clock) as store:
            assert await stored(store) == list(range(50))

    run(scenario())


def test_a_refused_or_failed_put_tells_its_own_task_only(path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        async with opened(path, clock) as store:
            outcomes = await asyncio.gather(
                put(store, 0), store.put_record("unknown", b"", "k"), put(store, 1), return_exceptions=True
            )
            assert [outcomes[0], outcomes[2]] == placed(0, 2)
            assert isinstance(outcomes[1], ResourceNotFoundException)
            with failing_commit("before"):
                failed = await asyncio.gather(*(put(store, number) for number in range(5)), return_exceptions=True)
            assert [type(error) for error in failed] == [StoreFullError] * 5
            assert len({id(error) for error in failed}) == 5
            with held_commits() as held, failing_commit("before"):
                tasks = await started(*(put(store, number) for number in range(5)))
                tasks[2].cancel()  # whose error nobody asks for
                held.let_go()
                await asyncio.gather(*tasks, return_exceptions=True)
            assert await stored(store) == [0, 1]

    run(scenario())
