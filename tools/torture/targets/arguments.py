"""The functions that parse arguments: any values, as msgpack writes them."""

import inspect
from collections.abc import Callable, Sequence
from typing import Final, cast

import msgpack

from streamstore import RequestError
from streamstore.dialect import AWS, YANDEX
from streamstore.limits import SEQUENCE_NUMBER_MAX
from streamstore.model import ShardFilter
from streamstore.validate_reading import SHARD_ITERATOR_TYPES
from tools.torture.malformed import CALLS, SOUND, VALIDATORS, Call
from tools.torture.targets.target import BrokenLawError, Pieces, Target, written

__all__ = ["TARGETS"]

OF_ARGUMENTS: Final = [call for call in CALLS if inspect.getmodule(call.function) in VALIDATORS]
DIALECTS: Final = (YANDEX, AWS)
KINDS: Final = SHARD_ITERATOR_TYPES
MADE_OF_EXTENSIONS: Final[tuple[Callable[[bytes], object], ...]] = (
    bytearray,
    lambda data: memoryview(data).cast("H") if len(data) % 2 == 0 else memoryview(data)[::2],
    lambda data: int.from_bytes(data, "big", signed=True),
    lambda data: tuple(_unpacked_list(data)),
    lambda data: set(map(repr, _unpacked_list(data))),
    lambda data: ShardFilter(*_unpacked_list(data)[:3]),  # type: ignore[arg-type] # which is what it is about
    lambda data: data.decode("utf-8", "surrogateescape"),
)
SOUND_FOR: Final[dict[str, object]] = {"parse_shard_level_metrics": ["IncomingBytes", "ALL"]}
"""What a parser takes that wants another value than most."""
# What a parser returns that has one value, and how that is written again.
SAME: Final[dict[str, Callable[[object], object]]] = {
    **dict.fromkeys(
        (
            *(
                "parse_stream_name",
                "parse_partition_key",
                "parse_idempotency_key",
                "parse_shard_id",
                "parse_account_id",
            ),
            *("parse_shard_iterator_type", "parse_shard_filter_type", "parse_consumer_name", "parse_region"),
            *("parse_whole_number", "parse_target_shard_count", "parse_retention", "parse_stream_mode", "parse_bool"),
            *("parse_sync_mode",),
        ),
        lambda result: result,
    ),
    **dict.fromkeys(("parse_hash_key", "parse_sequence_number"), str),
}


def _look(data: bytes) -> None:
    pieces = Pieces(data)
    call = OF_ARGUMENTS[pieces.number() % len(OF_ARGUMENTS)]
    dialect, kind = DIALECTS[pieces.number() % 2], KINDS[pieces.number() % len(KINDS)]
    try:
        values = _unpacked_list(pieces.rest())
    except Exception:  # these are no values
        return
    trusted: dict[str, object] = {"dialect": dialect, "kind": kind}
    given = dict(zip(call.untrusted, values, strict=False))
    arguments = {name: given.get(name, trusted.get(name, SOUND.get(name))) for name in call.needed}
    try:
        result = call.function(**arguments)
    except RequestError as error:
        str(error)
        return
    _check_result(call, arguments, result)


def _check_result(call: Call, arguments: dict[str, object], result: object) -> None:
    value = arguments.get("value")
    if call.name in SAME and SAME[call.name](result) != value:
        raise BrokenLawError(f"{call.name} made {result!r} of {value!r}")
    if call.name == "parse_position" and str(result) != value and result != SEQUENCE_NUMBER_MAX:
        raise BrokenLawError(f"{call.name} made {result!r} of {value!r}")
    if call.name == "parse_data" and result != memoryview(cast(bytes, value)).tobytes():
        raise BrokenLawError(f"parse_data made {result!r} of {value!r}")


def _unpacked_list(data: bytes) -> list[object]:
    values: object = msgpack.unpackb(
        data, strict_map_key=False, unicode_errors="surrogatepass", timestamp=3, ext_hook=_extension
    )
    return cast("list[object]", values) if isinstance(values, list) else [values]


def _extension(code: int, data: bytes) -> object:
    return MADE_OF_EXTENSIONS[code % len(MADE_OF_EXTENSIONS)](data)


def _seeds() -> Sequence[bytes]:
    return [_seed(number, call) for number, call in enumerate(OF_ARGUMENTS)]


def _seed(number: int, call: Call) -> bytes:
    values = [SOUND_FOR.get(call.name, SOUND.get(name)) for name in call.untrusted]
    return written(number, 0, 0) + msgpack.packb(values, use_bin_type=True)


TARGETS: Final = (Target("arguments", _look, _seeds, ci_executions=6_000),)
