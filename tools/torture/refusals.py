"""Whether a call that was given malformed arguments did what it must: refuse by a typed error, and change nothing."""

import asyncio
import inspect
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from itertools import islice
from pathlib import Path
from typing import Final, cast
from unittest import mock

from streamstore import AsyncStreamStore, RequestError, StreamStore, disk_format
from streamstore.check import check_store
from streamstore.databases import DamagedValueError
from streamstore.engine import Engine
from streamstore.feed import Feed
from tools.torture.malformed import NOW_MS, RAISING_WHEN_ITERATED, Call

__all__ = [
    "ACCEPTED",
    "REFUSED",
    "Arguments",
    "Stores",
    "await_call",
    "call_parser",
    "call_store",
    "commits_of",
    "shown_call",
]

Arguments = Mapping[str, object]
REFUSED: Final = "refused"
ACCEPTED: Final = "accepted"
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


def call_store(call: Call, arguments: Arguments, stores: Stores) -> str:
    """Call the store, which must refuse and be as it was, or do as it was told."""
    store = stores.store()
    before = commits_of(store)
    try:
        _use(getattr(store, call.name)(**arguments))
    except RequestError as error:
        if commits_of(store) != before and call.name != "ingest":  # which stores what is in front of the wrong one
            return shown_call(call, arguments, f"refused and changed the store: {error}")
        return REFUSED
    except Exception as error:
        if call.name == "ingest" and any(arguments["records"] is each for each in RAISING_WHEN_ITERATED):
            return REFUSED  # it hands on what its iterable raises
        return shown_call(call, arguments, repr(error))
    if commits_of(store) != before and (problems := stores.close()):
        return shown_call(call, arguments, f"left a store with problems: {problems}")
    return ACCEPTED


async def await_call(call: Call, arguments: Arguments, stores: Stores) -> str:
    """Call the awaited form of the store."""
    async with AsyncStreamStore(stores.copy(), sync="off", clock=lambda: NOW_MS) as store:
        try:
            result = getattr(store, call.name)(**arguments)
            if inspect.isawaitable(result):
                await asyncio.wait_for(result, WAIT_S)
        except RequestError:
            return REFUSED
        except Exception as error:
            return shown_call(call, arguments, f"awaited: {error!r}")
    return ACCEPTED


def call_parser(call: Call, arguments: Arguments) -> str:
    """Call a function that parses an argument, a token or bytes of the file."""
    try:
        # As if the checksum matched: what follows it must hold by itself.
        with mock.patch.object(disk_format, "unseal", _payload):
            call.function(**arguments)
    except (RequestError, DamagedValueError):
        return REFUSED
    except Exception as error:
        return shown_call(call, arguments, repr(error))
    return ACCEPTED


def _payload(database: bytes, key: bytes, value: bytes) -> bytes:
    del database, key
    return value


def _use(result: object) -> None:
    """Wait for a future, and take a little of what iterates."""
    if isinstance(result, Future):
        cast("Future[object]", result).result(WAIT_S)
    elif isinstance(result, Feed):
        result.close()
    elif isinstance(result, Iterator):
        list(islice(cast(Iterator[object], result), 3))


def commits_of(store: StreamStore) -> int:
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


def shown_call(call: Call, arguments: Arguments, what: str) -> str:
    shown = ", ".join(f"{name}={_shown(value)}" for name, value in arguments.items())
    return f"{call.name}({shown}) {what}"[:SHOWN_CHARACTERS].replace("\n", " ")


def _shown(value: object) -> str:
    try:
        return repr(value)[:60]
    except Exception:
        return type(value).__name__
