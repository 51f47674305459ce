"""Laws of the mailbox: while commits are shared, what a loop submits is gathered; nothing is lost, doubled, held up."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Final
from unittest import mock

import pytest

from streamstore import (
    AsyncStreamStore,
    CommitReport,
    OutcomeUnknownError,
    PutRecordResult,
    ResourceNotFoundException,
    StoreClosedError,
)
from streamstore import mailbox as mailbox_room
from streamstore.request import Request
from streamstore.writer import Writer
from tests.commits import WAIT_S, held_commits
from tests.conftest import Clock, open_store
from tests.test_aio import inside, opened, placed, put, run, started, stored

Operation = Callable[[AsyncStreamStore], Coroutine[object, object, None]]
FIRST: Final = 3
"""How many records are stored before a test begins, in two commits, of which the last was shared."""


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes turn by turn is waited for, however slow the machine is."""
    monkeypatch.setattr(mailbox_room, "GATHERING_S_MAX", WAIT_S)


async def share_a_commit(store: AsyncStreamStore) -> list[CommitReport]:
    """Have the next puts gathered. Return a list of the commits to come."""
    with held_commits() as held:
        tasks = await started(*(put(store, number) for number in range(FIRST)))
        held.wait_for_one()
        held.let_go()
        assert await asyncio.gather(*tasks) == placed(0, FIRST)
    reports: list[CommitReport] = []
    inside(store).observe_commits(reports.append)
    return reports


async def delete_at_once(store: AsyncStreamStore) -> None:
    store.opened.delete_stream("s")


async def delete_awaited(store: AsyncStreamStore) -> None:
    await store.delete_stream("s")


async def put_after(store: AsyncStreamStore, number: int, turns: int) -> PutRecordResult:
    for _ in range(turns):
        await asyncio.sleep(0)
    return await put(store, number)


@pytest.mark.usefixtures("patient")
def test_what_comes_turn_by_turn_is_one_commit(path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        async with opened(path, clock) as store:
            reports = await share_a_commit(store)
            numbers = range(FIRST, FIRST + 200)
            results = await asyncio.gather(*(put_after(store, number, number - FIRST) for number in numbers))
            assert results == placed(FIRST, FIRST + 200)
            await put(store, FIRST + 200)
            assert reports[0].requests == 200
            assert await stored(store) == list(range(FIRST + 201))

    run(scenario())


def test_who_puts_alone_is_not_gathered(path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        async with opened(path, clock) as store:
            await share_a_commit(store)
            await put(store, FIRST)
            loop = asyncio.get_running_loop()
            with mock.patch.object(loop, "call_soon", side_effect=AssertionError):
                future = store.submit_record("s", b"4", "k")
            await future
            assert await stored(store) == list(range(FIRST + 2))

    run(scenario())


def test_what_never_pauses_is_stored_all_the_same(path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox_room, "GATHERED_REQUESTS_MAX", 10**9)

    async def scenario() -> None:
        async with opened(path, clock) as store:
            await share_a_commit(store)
            futures = [store.submit_record("s", b"3", "k")]
            while not futures[0].done():
                await asyncio.sleep(0)
                futures.append(store.submit_record("s", b"%d" % (FIRST + len(futures)), "k"))
            await asyncio.gather(*futures)
            assert await stored(store) == list(range(FIRST + len(futures)))

    run(scenario())


@pytest.mark.usefixtures("patient")
def test_a_task_that_submits_without_a_pause_is_not_gathered_without_end(path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        async with opened(path, clock) as store:
            reports = await share_a_commit(store)
            numbers = range(FIRST, FIRST + mailbox_room.GATHERED_REQUESTS_MAX)
            futures = [store.submit_record("s", b"%d" % number, "k") for number in numbers]
            deadline_s = time.monotonic() + WAIT_S
            while sum(report.requests for report in reports) < len(futures):  # and the loop has no turn
                assert time.monotonic() < deadline_s
                time.sleep(0.001)
            await asyncio.gather(*futures)

    run(scenario())


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("operation", [delete_at_once, delete_awaited, AsyncStreamStore.close])
def test_other_operations_come_behind_what_was_submitted_before(
    path: Path, clock: Clock, operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once(call: Callable[..., object], *args: object) -> object:
        return call(*args)

    async def scenario() -> None:
        async with opened(path, clock) as store:
            await share_a_commit(store)
            monkeypatch.setattr(asyncio, "to_thread", at_once)  # so that the loop has no turn
            future = store.submit_record("s", b"3", "k")
            await operation(store)
            assert await future == placed(FIRST, FIRST + 1)[0]

    run(scenario())


@pytest.mark.usefixtures("patient")
def test_a_refusal_tells_its_own_task_only(path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        async with opened(path, clock) as store:
            await share_a_commit(store)
            outcomes = await asyncio.gather(
                put(store, 3), store.put_record("unknown", b"", "k"), put(store, 4), return_exceptions=True
            )
            assert [outcomes[0], outcomes[2]] == placed(FIRST, FIRST + 2)
            assert isinstance(outcomes[1], ResourceNotFoundException)

    run(scenario())


@pytest.mark.usefixtures("patient")
def test_what_is_gathered_when_another_closes_the_store_is_refused(path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        with open_store(path, clock) as underneath:
            store = AsyncStreamStore.of(underneath)
            await share_a_commit(store)
            futures = [store.submit_record("s", b"%d" % number, "k") for number in range(20)]
            underneath.close()
            outcomes = await asyncio.gather(*futures, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [StoreClosedError] * 20
            with pytest.raises(StoreClosedError):
                store.submit_record("s", b"", "k")

    run(scenario())
    with open_store(path, clock) as store:
        assert len(list(store.read("s", "shard-000000"))) == FIRST


def test_a_lack_of_memory_neither_loses_nor_doubles_what_is_gathered(path: Path, clock: Clock) -> None:
    calls = 0
    submit = Writer.submit

    def submit_at_times(writer: Writer, request: Request[object]) -> None:
        nonlocal calls
        calls += 1
        if calls % 3:
            raise MemoryError
        submit(writer, request)

    async def scenario() -> None:
        async with opened(path, clock) as store:
            await share_a_commit(store)
            with mock.patch.object(Writer, "submit", submit_at_times):
                results = await asyncio.gather(*(put(store, number) for number in range(FIRST, 23)))
            assert results == placed(FIRST, 23)
            assert await stored(store) == list(range(23))

    run(scenario())
    assert calls == 60


def test_behind_an_interrupt_each_task_is_told_that_it_is_unknown_and_nothing_is_stored_twice(
    path: Path, clock: Clock
) -> None:
    submit = Writer.submit
    calls = 0

    def submit_and_interrupt(writer: Writer, request: Request[object]) -> None:
        nonlocal calls
        calls += 1
        submit(writer, request)
        if calls == 2:
            raise KeyboardInterrupt

    async def scenario() -> None:
        async with opened(path, clock) as store:
            await share_a_commit(store)
            futures = [store.submit_record("s", b"%d" % number, "k") for number in range(FIRST, 13)]
            with mock.patch.object(Writer, "submit", submit_and_interrupt), pytest.raises(KeyboardInterrupt):
                assert store.opened  # which gives the writer what was gathered
            outcomes = await asyncio.gather(*futures, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [OutcomeUnknownError] * 10
            assert await put(store, 5) == placed(5, 6)[0]
            assert await stored(store) == list(range(6))

    run(scenario())
