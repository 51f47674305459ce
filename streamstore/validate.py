"""Raw arguments in, typed values out: records, and what many operations take. Pure: reads no clock and no store.

Each function refuses with ``InvalidArgumentException``, whose ``constraint`` completes "must ...".
Sources: the PutRecord document for put_record, the Kinesis model for the rest.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, TypeGuard

from streamstore.dialect import Dialect
from streamstore.errors import InvalidArgumentException
from streamstore.limits import (
    HASH_KEY_MAX,
    IDEMPOTENCY_KEY_CHARACTERS_MAX,
    PARTITION_KEY_CHARACTERS_MAX,
    PUT_RECORDS_BYTES_MAX,
    PUT_RECORDS_ENTRIES_MAX,
    RECORD_DATA_BYTES_MAX,
    SEQUENCE_NUMBER_DIGITS_MAX,
    SHARD_ID_CHARACTERS_MAX,
    STREAM_NAME_CHARACTERS_MAX,
)
from streamstore.model import NewRecord, bytes_of_record, new_named_tuple
from streamstore.routing import hash_key_of_partition_key

# [0-9], because \d matches the digits of every script. Always used with fullmatch.
HASH_KEY_PATTERN: Final = re.compile(r"0|([1-9][0-9]{0,38})")
SEQUENCE_NUMBER_PATTERN: Final = re.compile(rf"0|([1-9][0-9]{{0,{SEQUENCE_NUMBER_DIGITS_MAX - 1}}})")
SHARD_ID_PATTERN: Final = re.compile(r"[a-zA-Z0-9_.-]+")
PARTITION_KEYS_REMEMBERED: Final = 16_384
_hash_keys: Final[dict[str, int]] = {}
STREAM_NAMES_REMEMBERED: Final = 1_024


def parse_new_record(
    data: object,
    partition_key: object,
    explicit_hash_key: object,
    sequence_number_for_ordering: object,
    sent_ms: int,
    idempotency_key: object = None,
) -> NewRecord:
    """Return what put_record may store, with the hash key that decides its shard."""
    record_data = data if type(data) is bytes and len(data) <= RECORD_DATA_BYTES_MAX else parse_data(data)
    # The exact type, because the memory must not ask a foreign class whether two keys are equal.
    if type(partition_key) is str:
        key, hash_key = partition_key, _hash_keys.get(partition_key)
        if hash_key is None:
            hash_key = _hash_key_of_valid(partition_key)
    else:
        key = parse_partition_key(partition_key)
        hash_key = hash_key_of_partition_key(key)
    if explicit_hash_key is not None:
        hash_key = parse_hash_key("explicit_hash_key", explicit_hash_key)
    ordering = None
    if sequence_number_for_ordering is not None:
        ordering = parse_sequence_number("sequence_number_for_ordering", sequence_number_for_ordering)
    once = None if idempotency_key is None else parse_idempotency_key(idempotency_key)
    return new_named_tuple(NewRecord, (key, record_data, hash_key, ordering, sent_ms, once))


def parse_entries(records: object, *, sent_ms: int) -> tuple[list[NewRecord], int]:
    """Return what put_records may store, and its bytes of data and keys.

    A bad entry refuses them all, and the error names it: ``records[3].data``.
    """
    if not _is_sequence(records) or not 1 <= len(records) <= PUT_RECORDS_ENTRIES_MAX:
        raise InvalidArgumentException(
            argument="records",
            value=f"{len(records)} entries" if _is_sequence(records) else type(records).__name__,
            constraint=f"be a sequence of 1 to {PUT_RECORDS_ENTRIES_MAX} entries",
        )
    new_records = [parse_entry(entry, index, sent_ms=sent_ms) for index, entry in enumerate(records)]
    total_bytes = sum(map(bytes_of_record, new_records))
    if total_bytes > PUT_RECORDS_BYTES_MAX:
        raise InvalidArgumentException(
            argument="records",
            value=f"{len(new_records)} entries of {total_bytes:,} bytes",
            constraint=f"hold at most {PUT_RECORDS_BYTES_MAX:,} bytes of data and partition keys together",
        )
    return new_records, total_bytes


def parse_iterable(argument: str, value: object) -> Iterable[object]:
    if _is_iterable(value):
        return value
    raise InvalidArgumentException(argument=argument, value=type(value), constraint="be an iterable of entries")


def parse_entry(entry: object, index: int, *, sent_ms: int) -> NewRecord:
    """Return the record of a ``PutRecordsEntry`` or of a tuple like it."""
    try:
        if _is_tuple(entry):
            if len(entry) == 2:
                data, partition_key = entry
                return parse_new_record(data, partition_key, None, None, sent_ms)
            if len(entry) == 3:
                data, partition_key, explicit_hash_key = entry
                return parse_new_record(data, partition_key, explicit_hash_key, None, sent_ms)
            if len(entry) == 4:
                data, partition_key, explicit_hash_key, idempotency_key = entry
                return parse_new_record(data, partition_key, explicit_hash_key, None, sent_ms, idempotency_key)
        raise InvalidArgumentException(
            argument="", value=type(entry).__name__, constraint="be a PutRecordsEntry or a tuple like it"
        )
    except InvalidArgumentException as error:
        raise InvalidArgumentException(
            argument=f"records[{index}]{error.argument and '.'}{error.argument}",
            value=error.value,
            constraint=error.constraint,
        ) from None


def parse_stream_name(argument: str, value: object, dialect: Dialect) -> str:
    if isinstance(value, str):
        name = value if type(value) is str else str.__str__(value)  # a StrEnum's member, say
        if is_stream_name(name, dialect.stream_name_pattern):
            return name
    raise InvalidArgumentException(
        argument=argument,
        value=value,
        constraint=f"be a str of 1 to {STREAM_NAME_CHARACTERS_MAX} characters: {dialect.stream_name_rule}",
    )


@lru_cache(maxsize=STREAM_NAMES_REMEMBERED)
def is_stream_name(name: str, pattern: re.Pattern[str]) -> bool:
    return len(name) <= STREAM_NAME_CHARACTERS_MAX and pattern.fullmatch(name) is not None


def parse_data(value: object) -> bytes:
    """Return the payload as bytes of its own, so that a caller's later change cannot reach it."""
    try:
        view = memoryview(value)  # type: ignore[arg-type] # not a buffer: TypeError
    except (TypeError, ValueError, BufferError):  # no buffer, a released one, one that cannot be had now
        view = None
    if view is None or view.nbytes > RECORD_DATA_BYTES_MAX:
        raise InvalidArgumentException(
            argument="data",
            value=value,
            constraint=f"be a bytes-like object of 0 to {RECORD_DATA_BYTES_MAX:,} bytes",
        )
    return view.tobytes()


def parse_partition_key(value: object) -> str:
    if isinstance(value, str) and 1 <= len(value) <= PARTITION_KEY_CHARACTERS_MAX and encodes_to_utf8(value):
        return value
    raise InvalidArgumentException(
        argument="partition_key",
        value=value,
        constraint=f"be a str of 1 to {PARTITION_KEY_CHARACTERS_MAX} characters without lone surrogates",
    )


def parse_idempotency_key(value: object) -> str:
    if isinstance(value, str) and 1 <= len(value) <= IDEMPOTENCY_KEY_CHARACTERS_MAX and encodes_to_utf8(value):
        return value if type(value) is str else str.__str__(value)  # keys are compared: by no foreign class
    raise InvalidArgumentException(
        argument="idempotency_key",
        value=value,
        constraint=f"be None or a str of 1 to {IDEMPOTENCY_KEY_CHARACTERS_MAX} characters without lone surrogates",
    )


def parse_hash_key(argument: str, value: object) -> int:
    if isinstance(value, str) and HASH_KEY_PATTERN.fullmatch(value):
        hash_key = int(value)
        if hash_key <= HASH_KEY_MAX:
            return hash_key
    raise InvalidArgumentException(
        argument=argument,
        value=value,
        constraint="be a decimal number as str, without sign or leading zeros, in [0, 2^128-1]",
    )


def parse_sequence_number(argument: str, value: object) -> int:
    if isinstance(value, str) and SEQUENCE_NUMBER_PATTERN.fullmatch(value):
        return int(value)
    raise InvalidArgumentException(
        argument=argument,
        value=value,
        constraint=(
            "be a sequence number: a decimal number as str, without sign or leading zeros, "
            f"of at most {SEQUENCE_NUMBER_DIGITS_MAX} digits"
        ),
    )


def parse_shard_id(argument: str, value: object) -> str:
    if isinstance(value, str) and len(value) <= SHARD_ID_CHARACTERS_MAX and SHARD_ID_PATTERN.fullmatch(value):
        return value
    raise InvalidArgumentException(
        argument=argument,
        value=value,
        constraint=f"be a str of 1 to {SHARD_ID_CHARACTERS_MAX} letters, digits, '_', '.' and '-'",
    )


def parse_whole_number(argument: str, value: object, *, first: int, last: int) -> int:
    """Return an int in [first, last]; True and False are no numbers here."""
    if is_int(value) and first <= value <= last:
        return value
    raise InvalidArgumentException(
        argument=argument, value=value, constraint=f"be a whole number from {first:,} to {last:,}"
    )


def parse_bool(argument: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise InvalidArgumentException(argument=argument, value=value, constraint="be True or False")


def is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def refuse_beside(other_argument: str, argument: str, value: object) -> None:
    if value is not None:
        raise InvalidArgumentException(
            argument=argument, value=value, constraint=f"not be given together with {other_argument}"
        )


def _hash_key_of_valid(partition_key: str) -> int:
    """Prove the key and hash it. Keys come again and again, and this is half of what a put costs before its commit."""
    hash_key = hash_key_of_partition_key(parse_partition_key(partition_key))
    if len(_hash_keys) >= PARTITION_KEYS_REMEMBERED:
        _hash_keys.clear()  # for keys that never come again, lru_cache would cost more than the hashing
    _hash_keys[partition_key] = hash_key
    return hash_key


def encodes_to_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_sequence(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, memoryview))


def _is_iterable(value: object) -> TypeGuard[Iterable[object]]:
    return isinstance(value, Iterable)


def _is_tuple(value: object) -> TypeGuard[tuple[object, ...]]:
    return isinstance(value, tuple)
