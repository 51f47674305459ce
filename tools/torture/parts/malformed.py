"""Malformed input: every public call and every function that parses gets values that it must refuse."""

import asyncio
import inspect
import random
import shutil
import zlib
from collections.abc import Iterator
from concurrent.futures import Future
from itertools import islice
from pathlib import Path
from typing import Final, cast
from unittest import mock

from streamstore import AsyncStreamStore, RequestError, StreamStore, disk_format
from streamstore.check import check_store
from streamstore.disk_format import DamagedValueError, RecordFormat, record_key
from streamstore.engine import Engine
from streamstore.feed import Feed
from streamstore.model import StreamNumber
from tools.torture.malformed import (
    CALLS,
    NOW_MS,
    OF_AWAITED_STORES,
    OF_STORES,
    RAISING_WHEN_ITERATED,
    Call,
    arguments_of,
    hostile_bytes,
)
from tools.torture.part import Amount, Ordeal, Part
from tools.torture.plants import plant
from tools.torture.worker import Ended, Worker

__all__ = ["PART"]

CASES_PER_CHILD: Final = 2_000
AWAITED_EVERY: Final = 100
SHOWN_CHARACTERS: Final = 300
WAIT_S: Final = 30.0


class Stores:
    """A store that is as it was before each case: one that a case has changed is put back."""

    def __init__(self, folder: Path) -> None:
        self._pristine = folder / "pristine"
        self._path = folder / "store"
        self._store: StreamStore | None = None
        other = folder / "other"
        self.tokens = (*_fill(self._pristine), *_fill(other))

    def store(self) -> StreamStore:
        if self._store is None:
            self._store = StreamStore(self.copy(), sync="off", clock=lambda: NOW_MS)
        return self._store

    def copy(self) -> Path:
        self.close()
        shutil.rmtree(self._path, ignore_errors=True)
        shutil.copytree(self._pristine, self._path)
        return self._path

    def close(self) -> list[str]:
        """Close the store, so that the next case gets a new one, and return what is wrong with this one."""
        if self._store is None:
            return []
        self._store.close()
        self._store = None
        return check_store(self._path)


def run(ordeal: Ordeal) -> None:
    plant(ordeal.plant)
    stores = Stores(ordeal.memory_folder)

    def look(case: int) -> str:
        dice = ordeal.dice(case)
        if case % AWAITED_EVERY == 0:
            return asyncio.run(_await(dice, stores))
        if case % 3 == 0:
            return _parse(dice, stores)
        return _call(dice, stores)

    with Worker(look, cases_of_one_child=CASES_PER_CHILD) as worker:
        for case in ordeal.cases():
            told = worker.do(case)
            if isinstance(told, Ended):
                ordeal.found(case, told.sentence)
            elif told in ("refused", "accepted"):
                ordeal.add(told)
            else:
                ordeal.found(case, told)


def _call(dice: random.Random, stores: Stores) -> str:
    """Call the store, which must refuse and be as it was, or do as it was told."""
    call = dice.choice(OF_STORES)
    arguments = arguments_of(call, dice, stores.tokens)
    store = stores.store()
    before = _commits(store)
    try:
        _use(getattr(store, call.name)(**arguments))
    except RequestError as error:
        if _commits(store) != before and call.name != "ingest":  # which stores what is in front of the wrong one
            return _told(call, arguments, f"refused and changed the store: {error}")
        return "refused"
    except Exception as error:
        if call.name == "ingest" and any(arguments["records"] is each for each in RAISING_WHEN_ITERATED):
            return "refused"  # it hands on what its iterable raises
        return _told(call, arguments, repr(error))
    if _commits(store) != before and (problems := stores.close()):
        return _told(call, arguments, f"left a store with problems: {problems}")
    return "accepted"


async def _await(dice: random.Random, stores: Stores) -> str:
    call = dice.choice(OF_AWAITED_STORES)
    arguments = arguments_of(call, dice, stores.tokens)
    async with AsyncStreamStore(stores.copy(), sync="off", clock=lambda: NOW_MS) as store:
        try:
            result = getattr(store, call.name)(**arguments)
            if inspect.isawaitable(result):
                await asyncio.wait_for(result, WAIT_S)
        except RequestError:
            return "refused"
        except Exception as error:
            return _told(call, arguments, f"awaited: {error!r}")
    return "accepted"


def _parse(dice: random.Random, stores: Stores) -> str:
    """Call a function that parses an argument, a token or bytes of the file."""
    call = dice.choice(CALLS)
    arguments = arguments_of(call, dice, stores.tokens)
    if call.function.__module__ == disk_format.__name__:
        arguments |= {name: hostile_bytes(dice) for name in ("key", "value", "database") if name in call.needed}
    try:
        # As if the checksum matched: what follows it must hold by itself.
        with mock.patch.object(disk_format, "_unseal", _payload):
            call.function(**arguments)
            _decode_record(dice)
    except (RequestError, DamagedValueError):
        return "refused"
    except Exception as error:
        return _told(call, arguments, repr(error))
    return "accepted"


def _payload(address: bytes, value: bytes) -> bytes:
    del address
    return value


def _decode_record(dice: random.Random) -> None:
    number, key, payload = StreamNumber(1), record_key(7), hostile_bytes(dice)
    checksum = zlib.crc32(payload, zlib.crc32(key, zlib.crc32(disk_format.counter_key(number, 0))))
    RecordFormat(number, 0).decode(key, checksum.to_bytes(4, "big") + payload)


def _use(result: object) -> None:
    """Wait for a future, and take a little of what iterates."""
    if isinstance(result, Future):
        cast("Future[object]", result).result(WAIT_S)
    elif isinstance(result, Feed):
        result.close()
    elif isinstance(result, Iterator):
        list(islice(cast(Iterator[object], result), 3))


def _commits(store: StreamStore) -> int:
    engine: object = vars(store)["_engine"]
    assert isinstance(engine, Engine)
    return engine.info()["last_txnid"]


def _fill(path: Path) -> tuple[str, ...]:
    """Make a store with a stream of three shards, and return a token of each kind."""
    with StreamStore(path, sync="off", clock=lambda: NOW_MS) as store:
        for name in ("s", "t"):
            store.create_stream(name, shard_count=3, retention_hours=12, tags={"key": "value"})
            store.put_records(name, [(b"data", f"key {number}") for number in range(10)])
        for name in ("c", "d"):
            store.register_stream_consumer("s", name)
        tokens = (
            store.get_shard_iterator("s", "shard-000000", "TRIM_HORIZON"),
            store.list_streams(limit=1).next_token,
            store.list_shards("s", max_results=1).next_token,
            store.list_stream_consumers("s", max_results=1).next_token,
        )
        return tuple(token for token in tokens if token is not None)


def _told(call: Call, arguments: dict[str, object], what: str) -> str:
    shown = ", ".join(f"{name}={_shown(value)}" for name, value in arguments.items())
    return f"{call.name}({shown}) {what}"[:SHOWN_CHARACTERS].replace("\n", " ")


def _shown(value: object) -> str:
    try:
        return repr(value)[:60]
    except Exception:
        return type(value).__name__


PART: Final = Part(
    name="malformed",
    what="Gives every public call and every parser values that they must refuse; typed errors, nothing changed.",
    unit="calls",
    sizes={"ci": Amount(cases=100_000), "release": Amount(cases=3_000_000)},
    run=run,
)
