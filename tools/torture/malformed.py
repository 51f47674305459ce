"""Malformed values, and the calls that get them: every public call of a store, and every function that parses.

The calls come from the classes and modules themselves, so a new one cannot be forgotten: one whose arguments have no
sound value here ends the part.
"""

import inspect
import math
import pkgutil
import random
import string
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Final, NamedTuple

import msgpack

import streamstore
from streamstore import AsyncStreamStore, StreamStore, databases, disk_format, iterator
from streamstore.dialect import AWS, YANDEX
from streamstore.model import StreamNumber

__all__ = [
    "CALLS",
    "NOW_MS",
    "NUMBERS",
    "OBJECTS",
    "OF_AWAITED_STORES",
    "OF_STORES",
    "RAISING_WHEN_ITERATED",
    "SOUND",
    "TAKEN_FROM_THE_FILE",
    "TOKENS_TAKEN",
    "VALIDATORS",
    "WORDS",
    "Call",
    "arguments_of",
    "hostile_bytes",
    "hostile_value",
    "sound_value",
]

NOW_MS: Final = 1_700_000_000_000
SECRET: Final = bytes(32)
PARSERS: Final = "parse_"
DECODERS: Final = "decode_"
VALIDATORS: Final = [
    import_module(f"streamstore.{room.name}")
    for room in pkgutil.iter_modules(streamstore.__path__)
    if room.name.startswith("validate")
]

LEFT_OUT: Final = {
    "close": "ends the store",
    "backup": "writes where its argument says, and starts a process",
    "writer": "returns an object of the package's own",
    "observe_commits": "takes a function of the caller, called on the writer thread",
    "stream_arn": "takes a name that was validated",
    "of": "takes a store",
}
NEEDED_ALL_THE_SAME: Final = {  # of arguments each of which may be left out, if another one is given
    "list_shards": ("stream_name",),
    "describe_stream_consumer": ("stream_name", "consumer_name"),
    "deregister_stream_consumer": ("stream_name", "consumer_name"),
}
TRUSTED: Final = {"on_stored"}  # functions of the caller
TAKEN_FROM_THE_FILE: Final = frozenset(["key", "value", "database"])
TOKENS_TAKEN: Final = frozenset(["shard_iterator", "token", "next_token"])

# What an argument that must be given gets where it is not the one that is malformed.
SOUND: Final[dict[str, object]] = {
    "stream_name": "s",
    "consumer_name": "c",
    "consumer_arn": "s/consumer/c:1700000000",
    "data": b"data",
    "partition_key": "key",
    "explicit_hash_key": None,
    "sequence_number_for_ordering": None,
    "idempotency_key": None,
    "records": [(b"data", "key")],
    "tags": {"key": "value"},
    "tag_keys": ["key"],
    "shard_id": "shard-000000",
    "shard_iterator_type": "TRIM_HORIZON",
    "shard_to_merge": "shard-000000",
    "adjacent_shard_to_merge": "shard-000001",
    "shard_to_split": "shard-000000",
    "new_starting_hash_key": "1000",
    "starting_position": "TRIM_HORIZON",
    "starting_sequence_number": None,
    "timestamp": None,
    "idle_timeout_seconds": 0,
    "target_shard_count": 3,
    "stream_mode": "PROVISIONED",
    "shard_level_metrics": ["IncomingBytes"],
    # Of the functions that parse.
    "value": "s",
    "entry": (b"data", "key"),
    "key": b"",
    "database": b"",
    "shard_count": 1,
    "retention_hours": 12,
    "write_quota_kb_per_sec": 128,
    "read_quota": None,
    "idempotency_window_seconds": 300,
    "argument": "argument",
    "first": 1,
    "last": 10,
    "fewest": 1,
    "index": 3,
    "sent_ms": NOW_MS,
    "now_ms": NOW_MS,
    "secret": SECRET,
    "stream_number": StreamNumber(1),
    "shard_index": 0,
}
WORDS: Final = (
    *("s", "c", "shard-000000", "shard-000001", "shardId-000000000000", "0", "1", "-1", "00", "TRIM_HORIZON", "LATEST"),
    *("AT_TIMESTAMP", "AFTER_SEQUENCE_NUMBER", "ON_DEMAND", "yandex", "aws", str(2**128 - 1), str(2**128), "1" * 40),
    *(
        "",
        " ",
        "\0",
        "a" * 129,
        "k" * 257,
        "\ud800",
        "s\udfff",
        "\u0451" * 200,
        "☃" * 86,
        "1_000",
        "\u0661\u0662",
        "+1",
        "0x10",
        "1e3",
    ),
    *(
        "shard-0000000",
        "shard-\u0660\u0660\u0660\u0660\u0660\u0660",
        "s/consumer/c:1",
        "arn:aws:kinesis:x",
        "a" * 10_000,
        "=",
        "AAAA",
        "\n",
        "s\n",
    ),
)
NUMBERS: Final = (
    *(0, 1, -1, 2, 3, 24, 10_000, 10_001, 2**31, 2**63, 2**64, 2**128, -(2**200), 10**5_000),
    *(0.0, -0.5, 1.5, math.nan, math.inf, -math.inf, 1e308, True, False, 1j),
)


class Call(NamedTuple):
    """Something to call: its name, how it is found on a store or by itself, and its arguments."""

    name: str
    function: Callable[..., object]
    untrusted: tuple[str, ...]
    needed: tuple[str, ...]


class Odd:
    """An object of a foreign type whose every method is a trap."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    def __hash__(self) -> int:
        raise RuntimeError("no hash")

    def __len__(self) -> int:
        raise RuntimeError("no length")

    def __iter__(self) -> Iterator[object]:
        raise RuntimeError("no iteration")

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")


class OddText(str):
    """A str that is not what it says."""

    __slots__ = ()

    def __len__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


def _released() -> memoryview:
    view = memoryview(b"released")
    view.release()
    return view


RAISING_WHEN_ITERATED: Final = (Odd(), _released())
OBJECTS: Final[tuple[object, ...]] = (
    *RAISING_WHEN_ITERATED,
    *(None, OddText("s"), object(), type, {1, 2}, frozenset({"key"}), range(3)),
    *(b"", b"bytes", bytearray(b"b"), memoryview(bytearray(8))[::2], memoryview(b"1234").cast("H")),
    *(datetime(2023, 1, 1, tzinfo=UTC), datetime(1, 1, 1), datetime.max, timedelta(days=1)),
    *([(b"x", "k")] * 501, {"k" * 129: "v"}),
)
LARGE: Final[tuple[object, ...]] = (b"x" * 1_048_577, [(b"x" * 1_048_576, "k")] * 6)
LARGE_ONE_IN: Final = 500  # an error that shows one of them takes milliseconds
_EMPTY: Final[tuple[object, ...]] = ([], {})


def hostile_value(dice: random.Random, sound: object, tokens: tuple[str, ...]) -> object:
    """Return a value that is likely to be wrong: of another type, too long, out of range, or a damaged sound one."""
    if dice.randrange(LARGE_ONE_IN) == 0:
        return dice.choice(LARGE)
    kind = dice.randrange(8)
    if kind == 0:
        return dice.choice(WORDS)
    if kind == 1:
        return dice.choice(NUMBERS)
    if kind == 2:
        return _damaged_text(dice, dice.choice((*tokens, *WORDS, sound if isinstance(sound, str) else "s")))
    if kind == 3:
        return dice.choice(OBJECTS)
    if kind == 4:
        return [hostile_value(dice, sound, tokens) for _ in range(dice.randrange(4))]
    if kind == 5:
        return tuple(hostile_value(dice, sound, tokens) for _ in range(dice.randrange(6)))
    if kind == 6:
        names = [dice.choice(WORDS), dice.choice((*WORDS, *NUMBERS))][: dice.randrange(3)]
        return {name: hostile_value(dice, sound, tokens) for name in names}
    return "".join(dice.choices(string.printable + "\u0451\u0436\ud83d\0", k=dice.randrange(30)))


def hostile_bytes(dice: random.Random) -> bytes:
    """Return a value as it may lie in a file: garbage, or msgpack of the wrong things."""
    payload = dice.randbytes(dice.randrange(60))
    if dice.random() < 0.7:
        payload = msgpack.packb(_nested(dice, 0))
    if dice.random() < 0.3 and payload:
        cut = dice.randrange(len(payload))
        payload = payload[:cut] + dice.randbytes(dice.randrange(3)) + payload[cut + dice.randrange(3) :]
    return payload


def arguments_of(call: Call, dice: random.Random, tokens: tuple[str, ...]) -> dict[str, object]:
    """Return arguments, at least one of which is likely to be wrong if there are any."""
    wrong = {name for name in call.untrusted if dice.random() < 0.3} or {
        *dice.sample(call.untrusted, min(1, len(call.untrusted)))
    }
    return {
        name: hostile_value(dice, SOUND.get(name), tokens) if name in wrong else sound_value(name, dice, tokens)
        for name in sorted({*call.needed, *wrong})
    }


def sound_value(name: str, dice: random.Random, tokens: tuple[str, ...]) -> object:
    """Return a value that an argument of this name may have."""
    if name == "dialect":
        return dice.choice((YANDEX, AWS))
    if name == "kind":
        return dice.choice(("LATEST", "AT_TIMESTAMP", "AT_SEQUENCE_NUMBER", "TRIM_HORIZON"))
    if name == "retention_period_hours":
        return dice.choice((6, 24))  # less than the stream has, or more
    if name in TOKENS_TAKEN:
        return dice.choice(tokens)
    return SOUND[name]


def _calls_of(owner: type) -> list[Call]:
    found: list[Call] = []
    for name, function in inspect.getmembers(owner, callable):
        if not name.startswith("_") and name not in LEFT_OUT:
            parameters = list(inspect.signature(function).parameters.values())[1:]
            untrusted = tuple(each.name for each in parameters if each.name not in TRUSTED)
            needed = tuple(each.name for each in parameters if each.default is each.empty)
            found.append(Call(name, function, untrusted, needed + NEEDED_ALL_THE_SAME.get(name, ())))
    return found


def _functions() -> list[Call]:
    """Return every function that parses or decodes. What it must not be given wrong has another type than object."""
    found: list[Call] = []
    for module in (*VALIDATORS, iterator, databases, disk_format):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if name.startswith((PARSERS, DECODERS)) and function.__module__ == module.__name__:
                parameters = inspect.signature(function).parameters.values()
                untrusted = tuple(each.name for each in parameters if each.annotation is object)
                found.append(Call(name, function, untrusted, tuple(each.name for each in parameters)))
    return found


def _damaged_text(dice: random.Random, text: str) -> str:
    if not text:
        return text
    place = dice.randrange(len(text))
    return dice.choice(
        (
            text[:place] + dice.choice(string.printable) + text[place + 1 :],
            text[:place],
            text + dice.choice(string.printable),
            text[:place] + text[place + 1 :],
            text.swapcase(),
            text,
        )
    )


def _nested(dice: random.Random, depth: int) -> object:
    kind = dice.randrange(9 if depth < 4 else 6)
    if kind == 0:
        return dice.choice((0, 1, -1, 2**63, 2**64 - 1, -(2**63), 24, NOW_MS))
    if kind == 1:
        return dice.choice((None, True, False, 1.5, math.nan))
    if kind == 2:
        return dice.randbytes(dice.choice((0, 16, 40)))
    if kind == 3:
        return dice.choice(("", "key", "PROVISIONED", "x" * 300))
    if kind in (4, 5):
        return _EMPTY[dice.randrange(len(_EMPTY))]
    if kind == 6:
        return {dice.choice(("a", 1, None)): _nested(dice, depth + 1)}
    return [_nested(dice, depth + 1) for _ in range(dice.choice((2, 3, 5, 7, 8)))]


OF_STORES: Final = _calls_of(StreamStore)
OF_AWAITED_STORES: Final = _calls_of(AsyncStreamStore)
CALLS: Final = _functions()
