"""Every cell of the put_record contract: what is accepted, what is refused and how, and what comes back."""

import array
import ctypes
import mmap
from collections.abc import Callable
from enum import StrEnum

import pytest

from streamstore import (
    InvalidArgumentException,
    StreamStore,
)

HASH_KEY_MAX = 2**128 - 1
ARABIC_INDIC_SEVEN = "\u0667"
FULLWIDTH_SEVEN = "\uff17"
LONE_SURROGATE = "\ud800"


class Key(StrEnum):
    ONE = "one"


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def shown(value: object) -> str:
    """Name a case: its value if it is short and plain, else its type."""
    text = ascii(value) if isinstance(value, (str, int, float, bytes)) and value != 10**5_000 else type(value).__name__
    return text if len(text) <= 30 else f"{type(value).__name__}-{len(text)}"


@pytest.fixture
def stream(store: StreamStore) -> StreamStore:
    """A store with the stream "s" of one shard, which holds one record."""
    store.create_stream("s")
    store.put_record("s", b"first", "k")
    return store


def stored(store: StreamStore) -> list[tuple[str, str, bytes]]:
    return [(record.sequence_number, record.partition_key, record.data) for record in store.read("s", "shard-000000")]


def refusal_of(store: StreamStore, put: Callable[[], object]) -> InvalidArgumentException:
    """Return the refusal of a put, having seen that it stored nothing and used up no number."""
    before = stored(store)
    with pytest.raises(InvalidArgumentException) as caught:
        put()
    assert stored(store) == before
    assert store.put_record("s", b"next", "k").sequence_number == str(len(before))
    return caught.value


# stream_name

GOOD_STREAM_NAMES = ["a", "Z", "a1", "a-b", "a--b", "Clicks-2026", "a" * 128]
BAD_STREAM_NAMES = [
    "", "a" * 129, "1a", "-a", "a-", "-", "a_b", "a.b", "a b", "a/b", " a", "a ", "a\n", "\na", "a\0", "é", "aé",
    "ключ", "a" + ARABIC_INDIC_SEVEN, "a" + LONE_SURROGATE, None, True, 1, 1.5, b"a", bytearray(b"a"), ["a"],
    Unprintable(),
]  # fmt: skip


@pytest.mark.parametrize("name", GOOD_STREAM_NAMES)
def test_a_stream_name_of_letters_digits_and_inner_hyphens_is_accepted(store: StreamStore, name: str) -> None:
    store.create_stream(name)
    assert store.put_record(name, b"", "k").sequence_number == "0"


@pytest.mark.parametrize("name", BAD_STREAM_NAMES, ids=shown)
def test_any_other_stream_name_is_refused(stream: StreamStore, name: object) -> None:
    refusal = refusal_of(stream, lambda: stream.put_record(name, b"", "k"))  # type: ignore[arg-type]
    assert refusal.argument == "stream_name"
    assert "128 characters" in refusal.constraint


# data

BUFFERS = [
    b"abcd",
    bytearray(b"abcd"),
    memoryview(b"abcd"),
    memoryview(bytearray(b"abcd")),
    memoryview(b"a.b.c.d.")[::2],
    memoryview(b"dcba")[::-1],
    memoryview(b"abcd").cast("I"),
    memoryview(b"abcd").cast("B", (2, 2)),
    array.array("B", b"abcd"),
    array.array("H", b"abcd"),
    ctypes.create_string_buffer(b"abcd", 4),
]


@pytest.mark.parametrize("data", BUFFERS, ids=shown)
def test_any_bytes_like_object_is_stored_as_its_bytes(stream: StreamStore, data: bytes) -> None:
    stream.put_record("s", data, "k")
    assert stored(stream)[-1] == ("1", "k", b"abcd")


def test_a_mapped_file_is_stored_as_its_bytes(stream: StreamStore) -> None:
    with mmap.mmap(-1, 4) as mapped:
        mapped[:] = b"abcd"
        stream.put_record("s", mapped, "k")  # type: ignore[arg-type]
    assert stored(stream)[-1][2] == b"abcd"


@pytest.mark.parametrize("length", [0, 1, 1_048_575, 1_048_576])
def test_a_payload_of_up_to_1_mib_is_stored_as_given(stream: StreamStore, length: int) -> None:
    data = bytes(index % 251 for index in range(length))
    for same in (data, bytearray(data), memoryview(data)):
        stream.put_record("s", same, "k")
        assert stored(stream)[-1][2] == data


def test_the_limit_counts_the_bytes_of_a_view_not_its_items(stream: StreamStore) -> None:
    items = array.array("Q", bytes(1_048_576))
    stream.put_record("s", memoryview(items), "k")
    assert stored(stream)[-1][2] == bytes(1_048_576)
    items.append(0)
    refusal_of(stream, lambda: stream.put_record("s", memoryview(items), "k"))


def test_a_buffer_changed_after_the_put_changes_no_record(stream: StreamStore) -> None:
    data = bytearray(b"before")
    stream.put_record("s", data, "k")
    stream.put_record("s", memoryview(data), "k")
    data[:] = b"after!"
    assert [each for _, _, each in stored(stream)][1:] == [b"before", b"before"]


def released_view() -> memoryview:
    view = memoryview(b"SECRET")
    view.release()
    return view


SECRET = b"SECRET" * 200_000
BAD_DATA = [
    bytes(1_048_577), SECRET, bytearray(SECRET), memoryview(SECRET), array.array("B", SECRET), released_view(),
    "SECRET", "", None, True, 5, 1.5, [b"SECRET"], ("SECRET",), {"SECRET": 1}, Unprintable(), object(),
]  # fmt: skip


@pytest.mark.parametrize("data", BAD_DATA, ids=shown)
def test_data_that_is_too_long_or_no_buffer_is_refused_and_never_shown(stream: StreamStore, data: object) -> None:
    refusal = refusal_of(stream, lambda: stream.put_record("s", data, "k"))  # type: ignore[arg-type]
    assert refusal.argument == "data"
    assert "1,048,576 bytes" in refusal.constraint
    for text in (str(refusal), repr(refusal), repr(refusal.value), repr(vars(refusal))):
        assert "SECRET" not in text
        assert "83, 69, 67" not in text  # the same as numbers
        assert len(text) < 1_000


def test_a_payload_is_shown_by_its_length(stream: StreamStore) -> None:
    for data, shown in [
        (bytes(1_048_577), "bytes of 1048577 bytes"),
        (bytearray(1_048_577), "bytearray of 1048577 bytes"),
        (memoryview(bytes(1_048_584)).cast("Q"), "memoryview of 1048584 bytes"),
        ("x" * 11, "str of 11 characters"),
    ]:
        refusal = refusal_of(stream, lambda data=data: stream.put_record("s", data, "k"))  # type: ignore[misc]
        assert refusal.value == shown


# partition_key

GOOD_PARTITION_KEYS = [
    "k", " ", "\n", "\0", "ключ", "\U0001f600" * 256, "k" * 256, "é" * 256, "e\u0301", "\ufeff", "\uffff", "\u202e",
    Key.ONE,
]  # fmt: skip
BAD_PARTITION_KEYS = [
    "", "k" * 257, "\U0001f600" * 257, LONE_SURROGATE, "k" + LONE_SURROGATE, "\udc00\ud800", None, True, 1, 1.5, b"k",
    bytearray(b"k"), memoryview(b"k"), ["k"], Unprintable(),
]  # fmt: skip


@pytest.mark.parametrize("key", GOOD_PARTITION_KEYS, ids=shown)
def test_a_partition_key_of_1_to_256_characters_is_stored_as_given(stream: StreamStore, key: str) -> None:
    stream.put_record("s", b"", key)
    assert stored(stream)[-1][1] == key
    assert type(stored(stream)[-1][1]) is str


@pytest.mark.parametrize("key", BAD_PARTITION_KEYS, ids=shown)
def test_any_other_partition_key_is_refused(stream: StreamStore, key: object) -> None:
    refusal = refusal_of(stream, lambda: stream.put_record("s", b"", key))  # type: ignore[arg-type]
    assert refusal.argument == "partition_key"
    assert "1 to 256 characters" in refusal.constraint


# explicit_hash_key and sequence_number_for_ordering

MALFORMED_NUMBERS = [
    "", "00", "01", "-1", "-0", "+7", "1_0", " 1", "1 ", "1\n", "\n1", "1.0", "1e3", "0x1", "a", "1\0",
    ARABIC_INDIC_SEVEN, "1" + ARABIC_INDIC_SEVEN, FULLWIDTH_SEVEN, "²", "½", LONE_SURROGATE, True, False, 0, 1,
    10**5_000, 1.0, b"1", ["1"], Unprintable(),
]  # fmt: skip


@pytest.mark.parametrize("hash_key", ["0", "9", "10", "1" * 38, str(HASH_KEY_MAX - 1), str(HASH_KEY_MAX)])
def test_an_explicit_hash_key_up_to_2_128_1_is_accepted(stream: StreamStore, hash_key: str) -> None:
    assert stream.put_record("s", b"", "k", explicit_hash_key=hash_key).sequence_number == "1"


@pytest.mark.parametrize(
    "hash_key",
    [*MALFORMED_NUMBERS, str(HASH_KEY_MAX + 1), "9" * 39, "1" * 40, "1" * 5_000],
    ids=shown,
)
def test_any_other_explicit_hash_key_is_refused(stream: StreamStore, hash_key: object) -> None:
    refusal = refusal_of(
        stream,
        lambda: stream.put_record("s", b"", "k", explicit_hash_key=hash_key),  # type: ignore[arg-type]
    )
    assert refusal.argument == "explicit_hash_key"
    assert "2^128-1" in refusal.constraint


@pytest.mark.parametrize("number", [*MALFORMED_NUMBERS, "1" * 130, "9" * 130, "1" * 5_000], ids=shown)
def test_a_malformed_sequence_number_for_ordering_is_refused(stream: StreamStore, number: object) -> None:
    refusal = refusal_of(
        stream,
        lambda: stream.put_record("s", b"", "k", sequence_number_for_ordering=number),  # type: ignore[arg-type]
    )
    assert refusal.argument == "sequence_number_for_ordering"
    assert "129 digits" in refusal.constraint


@pytest.mark.parametrize("number", ["1", "2", str(2**64 - 1), str(2**64), "9" * 129])
def test_a_sequence_number_that_the_shard_has_not_passed_is_refused(stream: StreamStore, number: str) -> None:
    refusal = refusal_of(stream, lambda: stream.put_record("s", b"", "k", sequence_number_for_ordering=number))
    assert refusal.argument == "sequence_number_for_ordering"
    assert refusal.value == number
    assert "lower than 1" in refusal.constraint


def test_each_put_may_name_any_number_given_out_before(stream: StreamStore) -> None:
    last = "0"
    for expected in ("1", "2", "3"):
        last = stream.put_record("s", b"", "k", sequence_number_for_ordering=last).sequence_number
        assert last == expected
    assert stream.put_record("s", b"", "k", sequence_number_for_ordering="0").sequence_number == "4"


def test_ordering_is_judged_by_the_shard_that_the_explicit_hash_key_chooses(store: StreamStore) -> None:
    store.create_stream("two", shard_count=2)
    store.put_record("two", b"", "a")  # "a" belongs to shard 0
    store.put_record("two", b"", "a", sequence_number_for_ordering="0")
    with pytest.raises(InvalidArgumentException, match="shard-000001 has given out"):
        store.put_record("two", b"", "a", explicit_hash_key=str(HASH_KEY_MAX), sequence_number_for_ordering="0")
    put = store.put_record("two", b"", "k", explicit_hash_key="0", sequence_number_for_ordering="1")
    assert put == ("shard-000000", "2", "NONE")
