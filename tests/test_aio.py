"""Laws of AsyncStreamStore: it is StreamStore, awaited: the same operations, parameters, results and errors."""

import asyncio
import concurrent.futures
import contextlib
import gc
import inspect
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Final, TypeVar, cast

import pytest

from streamstore import (
    AsyncStreamStore,
    InvalidArgumentException,
    PutRecordResult,
    Record,
    ShardFilter,
    StoreClosedError,
    StoreNotFoundError,
    StreamStore,
    StreamStoreError,
)
from tests.commits import WAIT_S
from tests.conftest import Clock, open_store

T = TypeVar("T")
SHARD: Final = "shard-000000"

NOT_AWAITED: Final = {
    "ingest": "it waits in the thread that iterates; give it one of its own",
    "change_of_put_record": "for AsyncStreamStore itself",
    "change_of_put_records": "for AsyncStreamStore itself",
    "open_consumer": "for AsyncStreamStore itself",
    "source_of_tail": "for AsyncStreamStore itself",
    "source_of_subscription": "for AsyncStreamStore itself",
    "writer": "for AsyncStreamStore itself",
    "stream_of_token": "it reads nothing, so there is nothing to wait for",
    "shard_of_iterator": "it reads nothing, so there is nothing to wait for",
    "storage_info": "it reads no record, only figures that are at hand",
    "stream_arn": "it reads nothing, so there is nothing to wait for",
    "observe_commits": "it sets who is told, so there is nothing to wait for",
}

ITERATED: Final = {"consumer", "read", "tail", "subscribe_to_shard"}
"""What returns an iterator, and an asynchronous one here."""


def run(coroutine: Coroutine[object, object, T]) -> T:
    """Run it in a loop of its own. It must end in time, and leave the loop nothing to complain of."""
    complaints: list[dict[str, object]] = []

    async def limited() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with asyncio.timeout(WAIT_S):
            return await coroutine

    result = asyncio.run(limited())
    gc.collect()
    assert complaints == []
    return result


def opened(path: Path, clock: Clock) -> AsyncStreamStore:
    return AsyncStreamStore(path, sync="off", clock=clock)


def inside(store: AsyncStreamStore) -> StreamStore:
    return cast(StreamStore, vars(store)["_opened"])


async def put(store: AsyncStreamStore, number: int) -> PutRecordResult:
    return await store.put_record("s", b"%d" % number, "k")


async def stored(store: AsyncStreamStore) -> list[int]:
    records = [record async for record in store.read("s", SHARD)]
    assert [record.sequence_number for record in records] == [str(index) for index in range(len(records))]
    return [int(record.data) for record in records]


def placed(first: int, stop: int) -> list[PutRecordResult]:
    return [PutRecordResult(SHARD, str(sequence)) for sequence in range(first, stop)]


async def started(*coroutines: Coroutine[object, object, T]) -> list[asyncio.Task[T]]:
    """Return tasks that have run up to where they wait."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    await asyncio.sleep(0)
    return tasks


# The same operations


def operations_of(store_type: type[object]) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(member)
        for layer in reversed(store_type.__mro__)
        for name, member in vars(layer).items()
        if layer is not object
        if inspect.isfunction(member) and (not name.startswith("_") or name == "__init__")
    }


def test_every_operation_has_the_same_parameters() -> None:
    ours, awaited = operations_of(StreamStore), operations_of(AsyncStreamStore)
    assert awaited.keys() == ours.keys() - NOT_AWAITED.keys()
    assert ours.keys() >= NOT_AWAITED.keys()
    for name, signature in awaited.items():
        assert list(signature.parameters.values()) == list(ours[name].parameters.values()), name


def test_every_operation_returns_the_same_type() -> None:
    ours, awaited = operations_of(StreamStore), operations_of(AsyncStreamStore)
    for name in awaited.keys() - ITERATED - {"submit_record"}:  # whose future is one of asyncio
        assert awaited[name].return_annotation == ours[name].return_annotation, name


TOKEN: Final = object()
"""Stands for the token that the call before has returned."""
Call = tuple[str, tuple[object, ...], dict[str, object]]
ARN: Final = "t/consumer/fan-out:1700000000"
SCENARIO: Final[list[Call]] = [
    ("create_stream", ("t",), {"shard_count": 3, "retention_hours": 1, "write_quota_kb_per_sec": 128}),
    ("create_stream", ("t",), {}),
    ("create_stream", ("t",), {"shard_count": 0}),
    ("put_record", ("t", b"one", "k"), {}),
    ("put_record", ("t", b"two", "k"), {"explicit_hash_key": "0", "sequence_number_for_ordering": None}),
    ("put_record", ("t", b"two", "k"), {"explicit_hash_key": "0", "sequence_number_for_ordering": "0"}),
    ("put_record", ("t", b"two", "k"), {"sequence_number_for_ordering": "9"}),
    ("put_record", ("t", b"once", "k"), {"idempotency_key": "order 1"}),
    ("put_record", ("t", b"once", "k"), {"idempotency_key": "order 1"}),
    ("put_record", ("t", b"", "k"), {"idempotency_key": ""}),
    ("put_records", ("t", [(b"once", "k", None, "order 1"), (b"", "k", None, "order 2")]), {}),
    ("put_record", ("t", 5, "k"), {}),
    ("put_record", ("unknown", b"", "k"), {}),
    ("put_record", ("t", bytes(1_000_000), "a"), {"explicit_hash_key": "5"}),
    ("put_records", ("t", [(b"3", "k"), (bytes(500_000), "a"), (b"4", "a"), (b"5", "k", "7")]), {}),
    ("put_records", ("t", []), {}),
    ("put_records", ("unknown", [(b"", "k")]), {}),
    ("describe_stream", ("t",), {}),
    ("describe_stream", ("t",), {"limit": 1, "exclusive_start_shard_id": SHARD}),
    ("describe_stream", ("unknown",), {}),
    ("list_streams", (), {}),
    ("list_streams", (), {"limit": 1, "exclusive_start_stream_name": "a"}),
    ("list_streams", (), {"limit": 1}),
    ("list_streams", (), {"next_token": TOKEN}),
    ("list_shards", ("t",), {"exclusive_start_shard_id": SHARD}),
    ("list_shards", ("t",), {"max_results": 2}),
    ("list_shards", (), {"next_token": TOKEN}),
    ("list_shards", (), {"next_token": "x"}),
    ("list_shards", ("t",), {"shard_filter": ShardFilter("AT_LATEST"), "max_results": 1}),
    ("list_shards", (), {"next_token": TOKEN}),
    ("list_shards", ("t",), {"shard_filter": ShardFilter("AT_TIMESTAMP")}),
    ("register_stream_consumer", ("t", "one"), {}),
    ("register_stream_consumer", ("t", "one"), {}),
    ("register_stream_consumer", ("t", "two"), {}),
    ("describe_stream_consumer", ("t", "one"), {}),
    ("describe_stream_consumer", (), {"consumer_arn": "x"}),
    ("list_stream_consumers", ("t",), {"max_results": 1}),
    ("list_stream_consumers", ("t",), {"next_token": TOKEN}),
    ("get_shard_iterator", ("t", SHARD, "TRIM_HORIZON"), {}),
    ("get_records", (TOKEN,), {"limit": 1}),
    ("get_records", (TOKEN,), {}),
    ("get_records", ("x",), {}),
    ("get_shard_iterator", ("t", SHARD, "AT_SEQUENCE_NUMBER"), {"starting_sequence_number": "1"}),
    ("get_records", (TOKEN,), {}),
    ("get_shard_iterator", ("t", SHARD, "AT_TIMESTAMP"), {"timestamp": 0}),
    ("get_records", (TOKEN,), {}),
    ("get_shard_iterator", ("t", "shard-9", "LATEST"), {}),
    ("read", ("t", SHARD), {}),
    ("read", ("t", SHARD), {"starting_sequence_number": "1"}),
    ("read", ("t", SHARD), {"starting_sequence_number": "x"}),
    ("read", ("unknown", SHARD), {}),
    ("describe_stream_summary", ("t",), {}),
    ("describe_stream_summary", ("unknown",), {}),
    ("describe_limits", (), {}),
    ("update_stream", ("t",), {"write_quota_kb_per_sec": 512, "read_quota": True}),
    ("update_stream", ("t",), {"retention_hours": 25}),
    ("update_stream_mode", ("t", "ON_DEMAND"), {}),
    ("update_shard_count", ("t", 5), {}),
    ("update_stream_mode", ("t", "PROVISIONED"), {}),
    ("enable_enhanced_monitoring", ("t", ["IncomingBytes"]), {}),
    ("enable_enhanced_monitoring", ("t", ["IncomingByte"]), {}),
    ("disable_enhanced_monitoring", ("t", ["ALL"]), {}),
    ("disable_enhanced_monitoring", ("unknown", ["ALL"]), {}),
    ("increase_stream_retention_period", ("t", 2), {}),
    ("increase_stream_retention_period", ("t", 2), {}),
    ("decrease_stream_retention_period", ("t", 1), {}),
    ("decrease_stream_retention_period", ("t", 1), {}),
    ("add_tags_to_stream", ("t", {"a": "1", "b": "2"}), {}),
    ("add_tags_to_stream", ("t", {}), {}),
    ("remove_tags_from_stream", ("t", ["a"]), {}),
    ("remove_tags_from_stream", ("t", "a"), {}),
    ("list_tags_for_stream", ("t",), {"limit": 1}),
    ("list_tags_for_stream", ("t",), {"limit": 0}),
    ("tail", ("t",), {"starting_position": "TRIM_HORIZON", "idle_timeout_seconds": 0}),
    ("tail", ("t",), {"starting_position": "AT_TIMESTAMP", "timestamp": 0, "idle_timeout_seconds": 0}),
    ("tail", ("t",), {"idle_timeout_seconds": 0.01}),
    ("tail", ("t",), {"starting_position": "AT_SEQUENCE_NUMBER"}),
    ("tail", ("unknown",), {}),
    ("consumer", ("t", "billing"), {"idle_timeout_seconds": 0}),
    ("consumer", ("t", "billing"), {"starting_position": "LATEST", "idle_timeout_seconds": 0}),
    ("consumer", ("t", "late"), {"starting_position": "LATEST", "idle_timeout_seconds": 0}),
    ("consumer", ("t", ""), {}),
    ("consumer", ("unknown", "billing"), {}),
    ("describe_consumer_lag", ("t", "billing"), {}),
    ("describe_consumer_lag", ("t", "unknown"), {}),
    ("describe_consumer_lags", ("t",), {}),
    ("describe_consumer_lags", ("unknown",), {}),
    ("merge_shards", ("t", SHARD, "shard-000001"), {}),
    ("merge_shards", ("t", SHARD, "shard-000001"), {}),
    ("tail", ("t",), {"starting_position": "TRIM_HORIZON", "idle_timeout_seconds": 0}),
    ("register_stream_consumer", ("t", "fan-out"), {}),
    ("subscribe_to_shard", (ARN, SHARD, "TRIM_HORIZON"), {}),
    ("subscribe_to_shard", (ARN, SHARD, "TRIM_HORIZON"), {}),
    ("subscribe_to_shard", (ARN, "shard-000001", "AT_SEQUENCE_NUMBER"), {"starting_sequence_number": "1"}),
    ("subscribe_to_shard", (ARN, "shard-000001", "LATEST"), {"timestamp": 0}),
    ("subscribe_to_shard", ("t/consumer/unknown:1", SHARD, "LATEST"), {}),
    ("subscribe_to_shard", ("x", SHARD, "LATEST"), {}),
    ("deregister_stream_consumer", (), {"consumer_arn": ARN}),
    ("split_shard", ("t", "shard-000002", "2" * 39), {}),
    ("split_shard", ("t", "shard-000002", "x"), {}),
    ("list_shards", ("t",), {}),
    ("update_shard_count", ("t", 5), {}),
    ("update_shard_count", ("t", 0), {}),
    ("trim", (), {}),
    ("trim", ("unknown",), {}),
    ("backup", (5,), {}),
    ("backup", (".",), {"compact": True}),
    ("create_stream", ("throttled",), {"read_quota": True}),
    ("put_record", ("throttled", b"owed", "k"), {}),
    ("submit_record", ("s", b"submitted", "k"), {"idempotency_key": "once"}),
    ("submit_record", ("s", b"submitted", "k"), {"idempotency_key": "once"}),
    ("submit_record", ("unknown", b"", "k"), {}),
    ("submit_record", ("s", b"", ""), {}),
    ("get_shard_iterator", ("throttled", SHARD, "TRIM_HORIZON"), {}),
    ("get_records", (TOKEN,), {}),
    ("get_records", (TOKEN,), {}),
    ("deregister_stream_consumer", ("t", "one"), {}),
    ("deregister_stream_consumer", ("t", "one"), {}),
    ("delete_stream", ("t",), {}),
    ("delete_stream", ("t",), {"enforce_consumer_deletion": True}),
    ("delete_stream", ("t",), {}),
    ("get_records", (TOKEN,), {}),
    ("close", (), {}),
    ("close", (), {}),
    ("put_record", ("s", b"", "k"), {}),
    ("submit_record", ("s", b"", "k"), {}),
    ("list_streams", (), {}),
]


async def outcomes_of(store: object) -> list[object]:
    """Return what each call of the scenario returns or raises, its tokens taken out."""
    outcomes: list[object] = []
    token = ""
    for name, arguments, options in SCENARIO:
        method = cast(Callable[..., object], getattr(store, name))
        try:
            result = method(
                *(token if value is TOKEN else value for value in arguments),
                **{option: token if value is TOKEN else value for option, value in options.items()},
            )
            if isinstance(result, concurrent.futures.Future):
                result = cast(object, result.result())
            elif inspect.isawaitable(result):
                result = cast(object, await result)
            if name in ITERATED:
                result = await listed(result)
        except StreamStoreError as error:
            outcomes.append((type(error), error.message))
            continue
        found = result if isinstance(result, str) else next(filter(None, map(vars_of(result).get, TOKENS)), None)
        token = token if found is None else str(found)
        outcomes.append(repr(result).replace(token, "TOKEN") if token else repr(result))
    return outcomes


TOKENS: Final = ("next_shard_iterator", "next_token")


def vars_of(result: object) -> dict[str, object]:
    return {name: getattr(result, name, None) for name in TOKENS}


async def listed(records: object) -> list[object]:
    if isinstance(records, AsyncIterator):
        return [record async for record in cast(AsyncIterator[object], records)]
    return list(cast(Iterator[object], records))


def test_every_operation_has_the_same_results_and_errors(path: Path, tmp_path: Path, clock: Clock) -> None:
    async def awaited() -> list[object]:
        async with opened(path, clock) as store:
            return await outcomes_of(store)

    with open_store(tmp_path / "twin", clock) as twin:
        twin.create_stream("s")
        expected = asyncio.run(outcomes_of(twin))
    assert {name for name, _, _ in SCENARIO} | {"__init__"} == operations_of(AsyncStreamStore).keys()
    for call, ours, theirs in zip(SCENARIO, run(awaited()), expected, strict=True):
        assert ours == theirs, call


def test_it_opens_as_a_stream_store_does(tmp_path: Path, path: Path) -> None:
    async def opening(path: Path, *, create: bool = True, read_only: bool = False) -> list[object]:
        async with AsyncStreamStore(path, create=create, read_only=read_only) as store:
            return [(await store.list_streams()).stream_names, await store.put_record("s", b"0", "k")]

    with pytest.raises(StoreNotFoundError):
        run(opening(tmp_path / "missing", create=False))
    with pytest.raises(InvalidArgumentException):
        run(opening(path, read_only=True))
    assert run(opening(path)) == [("s",), *placed(0, 1)]


@pytest.mark.parametrize("call", SCENARIO, ids=[name for name, _, _ in SCENARIO])
def test_outside_of_async_with_every_operation_finds_the_store_closed(path: Path, clock: Clock, call: Call) -> None:
    name, arguments, options = call

    async def use(store: AsyncStreamStore) -> None:
        result = cast(Callable[..., object], getattr(store, name))(*arguments, **options)
        await (cast(Awaitable[object], result) if inspect.isawaitable(result) else listed(result))

    if name == "close":
        run(use(opened(path, clock)))
        return
    with pytest.raises(StoreClosedError):
        run(use(opened(path, clock)))


# Reading


def test_reading_goes_over_pages_up_to_the_newest_and_may_stop_anywhere(path: Path, clock: Clock) -> None:
    async def scenario() -> None:
        async with opened(path, clock) as store:
            for first in range(0, 2_500, 500):
                await store.put_records("s", [(b"%d" % number, "k") for number in range(first, first + 500)])
            assert await stored(store) == list(range(2_500))
            seen = 0
            async with contextlib.aclosing(cast(AsyncGenerator[Record], store.read("s", SHARD))) as records:
                async for _ in records:
                    seen += 1
                    if seen == 1_200:
                        break
            assert await put(store, 2_500) == PutRecordResult(SHARD, "2500")

    run(scenario())


@pytest.mark.parametrize("name", ["get_records", "create_stream", "delete_stream", "close"])
def test_what_may_take_long_does_not_hold_up_the_loop(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    go_on = threading.Event()
    method = cast(Callable[..., object], getattr(StreamStore, name))

    def wait_for_the_loop(*arguments: object, **options: object) -> object:
        assert go_on.wait(WAIT_S / 2), "the loop stands still"
        return method(*arguments, **options)

    async def scenario() -> None:
        async with opened(path, clock) as store:
            monkeypatch.setattr(StreamStore, name, wait_for_the_loop)
            token = await store.get_shard_iterator("s", SHARD, "TRIM_HORIZON")
            arguments = {"get_records": (token,), "create_stream": ("t",), "delete_stream": ("s",), "close": ()}[name]
            call = cast(Callable[..., Coroutine[object, object, object]], getattr(store, name))
            tasks = await started(call(*arguments))
            go_on.set()
            await asyncio.gather(*tasks)

    run(scenario())
