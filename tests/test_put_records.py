"""Laws of put_records: all or nothing but for the quota, in the order of the request, in one commit.

The cells of an entry are those of put_record, so the good and the bad ones are taken from there.
"""

from collections import UserList, deque
from collections.abc import Sequence
from typing import Final, Literal, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamstore import (
    InvalidArgumentException,
    ProvisionedThroughputExceededException,
    PutRecordsEntry,
    PutRecordsResult,
    PutRecordsResultEntry,
    ResourceNotFoundException,
    StoreClosedError,
    StoreFullError,
    StreamStore,
)
from streamstore.library import LMDB_LIB_VERSION
from tests.children import SIGKILLED, code, run
from tests.commits import failing_commit, last_commit
from tests.conftest import Clock, open_store
from tests.test_put_record import (
    BAD_DATA,
    BAD_PARTITION_KEYS,
    BAD_STREAM_NAMES,
    BUFFERS,
    GOOD_PARTITION_KEYS,
    HASH_KEY_MAX,
    MALFORMED_NUMBERS,
    SECRET,
    Unprintable,
    shown,
)

Entry = PutRecordsEntry | tuple[bytes, str] | tuple[bytes, str, str | None]
T = TypeVar("T")

MIB: Final = 1_048_576
LOW, HIGH = "0", str(HASH_KEY_MAX)
"""Explicit hash keys of the first and the last shard."""
GOOD: Final = (b"good", "k")


@pytest.fixture
def stream(store: StreamStore) -> StreamStore:
    """A store with the stream "s" of two shards; "a" belongs to the first one, "k" to the second."""
    store.create_stream("s", shard_count=2)
    return store


def stored(store: StreamStore, shard_index: int) -> list[bytes]:
    records = list(store.read("s", f"shard-{shard_index:06d}"))
    assert [record.sequence_number for record in records] == [str(index) for index in range(len(records))]
    return [record.data for record in records]


def refusal_of(store: StreamStore, records: object, *, stream_name: object = "s") -> InvalidArgumentException:
    """Return the refusal, having seen that it stored nothing, committed nothing and shows no payload."""
    before = last_commit(store)
    with pytest.raises(InvalidArgumentException) as caught:
        store.put_records(stream_name, records)  # type: ignore[arg-type]
    assert last_commit(store) == before
    for text in (str(caught.value), repr(caught.value), repr(caught.value.value), repr(vars(caught.value))):
        assert "SECRET" not in text
        assert "83, 69, 67" not in text  # the same as numbers
        assert len(text) < 1_000
    return caught.value


def among_good_ones(entry: T, index: int, count: int) -> list[T | tuple[bytes, str]]:
    entries: list[T | tuple[bytes, str]] = [GOOD] * count
    entries[index] = entry
    return entries


# What refuses the whole call


def test_a_bad_stream_name_is_refused(stream: StreamStore) -> None:
    for name in BAD_STREAM_NAMES:
        assert refusal_of(stream, [GOOD], stream_name=name).argument == "stream_name", shown(name)


@pytest.mark.parametrize(("index", "count"), [(0, 1), (2, 4), (499, 500)])
def test_bad_data_of_one_entry_refuses_all(stream: StreamStore, index: int, count: int) -> None:
    for data in BAD_DATA:
        refusal = refusal_of(stream, among_good_ones((data, "k"), index, count))
        assert refusal.argument == f"records[{index}].data", shown(data)
        assert "1,048,576 bytes" in refusal.constraint


def test_a_bad_partition_key_of_one_entry_refuses_all(stream: StreamStore) -> None:
    for key in BAD_PARTITION_KEYS:
        refusal = refusal_of(stream, among_good_ones((b"", key, "1"), 1, 3))
        assert refusal.argument == "records[1].partition_key", shown(key)
        assert "1 to 256 characters" in refusal.constraint


def test_a_bad_explicit_hash_key_of_one_entry_refuses_all(stream: StreamStore) -> None:
    for hash_key in [*MALFORMED_NUMBERS, str(HASH_KEY_MAX + 1), "9" * 39, "1" * 40]:
        refusal = refusal_of(stream, among_good_ones((b"", "k", hash_key), 2, 3))
        assert refusal.argument == "records[2].explicit_hash_key", shown(hash_key)
        assert "2^128-1" in refusal.constraint


@pytest.mark.parametrize(
    "entry",
    [
        (), (b"",), (b"", "k", None, None, None), [b"", "k"], {"data": b"", "partition_key": "k"}, "ab", b"ab", None, 1,
        Unprintable(), (SECRET,), [SECRET, "k"], SECRET,
    ],
    ids=shown,
)  # fmt: skip
def test_an_entry_of_another_shape_refuses_all(stream: StreamStore, entry: object) -> None:
    refusal = refusal_of(stream, among_good_ones(entry, 1, 3))
    assert refusal.argument == "records[1]"
    assert "PutRecordsEntry" in refusal.constraint


def test_the_first_bad_entry_is_the_one_that_is_named(stream: StreamStore) -> None:
    assert refusal_of(stream, [GOOD, (b"", ""), (5, "k")]).argument == "records[1].partition_key"


@pytest.mark.parametrize(
    "records",
    [
        [], (), deque[Entry](), [GOOD] * 501, (GOOD,) * 501, [(b"SECRET", "k")] * 501, iter([(b"SECRET", "k")]),
        (each for each in [GOOD]), map(tuple, [GOOD]), {(b"SECRET", "k")}, {"a": GOOD}, {"a": GOOD}.values(), "", "ab",
        b"", b"ab", bytearray(b"ab"), memoryview(b"ab"), range(0), SECRET, None, True, 1, 1.5, Unprintable(),
    ],
    ids=shown,
)  # fmt: skip
def test_anything_but_a_sequence_of_1_to_500_entries_is_refused(stream: StreamStore, records: object) -> None:
    refusal = refusal_of(stream, records)
    assert refusal.argument == "records"
    assert "1 to 500" in refusal.constraint


def test_data_and_keys_together_may_have_5_mib_and_no_byte_more(stream: StreamStore) -> None:
    key = "\U0001f600" * 256  # 1,024 bytes
    exactly = [*[(bytes(MIB - 1_024), key)] * 4, (bytes(MIB - 1_025), key), (b"", "k")]
    assert stream.put_records("s", exactly).failed_record_count == 0
    for one_more in ((b"1", "k"), (b"", "kk"), (b"", "é")):
        refusal = refusal_of(stream, [*exactly[:-1], one_more])
        assert refusal.argument == "records"
        assert refusal.value == "6 entries of 5,242,881 bytes"
        assert "5,242,880 bytes" in refusal.constraint


def test_an_unknown_stream_is_not_found(stream: StreamStore) -> None:
    before = last_commit(stream)
    with pytest.raises(ResourceNotFoundException, match="Stream t does not exist; create it"):
        stream.put_records("t", [GOOD])
    assert last_commit(stream) == before


def test_entries_are_judged_before_the_stream_is_looked_up(stream: StreamStore) -> None:
    assert refusal_of(stream, [(b"", "")], stream_name="unknown").argument == "records[0].partition_key"


def test_a_closed_store_and_one_open_for_reading_refuse(stream: StreamStore, clock: Clock) -> None:
    stream.close()
    with pytest.raises(StoreClosedError):
        stream.put_records("s", [GOOD])
    with open_store(stream.path, clock, read_only=True) as reading:
        assert refusal_of(reading, [GOOD]).argument == "read_only"


# What is stored, and where


@pytest.mark.parametrize("count", [1, 500])
@pytest.mark.parametrize("sequence_type", [list, tuple, deque, UserList])
def test_1_to_500_entries_in_any_sequence_are_stored(
    stream: StreamStore, count: int, sequence_type: type[list[Entry]]
) -> None:
    result = stream.put_records("s", sequence_type([(b"%d" % index, "k") for index in range(count)]))
    assert len(result.records) == count
    assert stored(stream, 1) == [b"%d" % index for index in range(count)]


def test_a_plain_tuple_is_as_good_as_an_entry(stream: StreamStore) -> None:
    entries: list[Entry] = [
        (b"two", "k"), (b"three", "k", None), PutRecordsEntry(b"entry", "k"), (b"low", "k", LOW),
        PutRecordsEntry(b"entry low", "k", explicit_hash_key=LOW),
    ]  # fmt: skip
    stream.put_records("s", entries)
    assert stored(stream, 1) == [b"two", b"three", b"entry"]
    assert stored(stream, 0) == [b"low", b"entry low"]


@pytest.mark.parametrize("data", BUFFERS, ids=shown)
def test_any_bytes_like_object_is_stored_as_its_bytes(stream: StreamStore, data: bytes) -> None:
    stream.put_records("s", [PutRecordsEntry(data, "k")])
    assert stored(stream, 1) == [b"abcd"]


@pytest.mark.parametrize("key", GOOD_PARTITION_KEYS, ids=shown)
def test_a_partition_key_is_stored_as_given_and_chooses_the_shard(stream: StreamStore, key: str) -> None:
    placed = stream.put_records("s", [(b"many", key)]).records[0]
    assert stream.put_record("s", b"one", key).shard_id == placed.shard_id
    assert [record.partition_key for record in stream.read("s", str(placed.shard_id))] == [key, key]


def test_a_buffer_changed_after_the_call_changes_no_record(stream: StreamStore) -> None:
    data = bytearray(b"before")
    stream.put_records("s", [PutRecordsEntry(data, "k"), PutRecordsEntry(memoryview(data), "k")])
    data[:] = b"after!"
    assert stored(stream, 1) == [b"before", b"before"]


def test_the_result_tells_of_each_entry_in_the_order_of_the_request(stream: StreamStore) -> None:
    stream.put_record("s", b"", "k")
    result = stream.put_records("s", [(b"0", "a"), (b"1", "k"), (b"2", "k", LOW), (b"3", "a", HIGH), (b"4", "k")])
    places = [("shard-000000", "0"), ("shard-000001", "1"), ("shard-000000", "1"), ("shard-000001", "2")]
    entries = [PutRecordsResultEntry(*place, None, None) for place in [*places, ("shard-000001", "3")]]
    assert result == PutRecordsResult(0, entries, "NONE")
    assert result.encryption_type == "NONE"


@given(keys=st.lists(st.sampled_from("abcdefghk"), min_size=1, max_size=60), one_by_one=st.integers(0, 60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_many_at_once_are_numbered_like_one_by_one(wide: StreamStore, keys: list[str], one_by_one: int) -> None:
    """On a twin stream that gets the same records one by one, beside which some come one by one here too."""
    entries = [(key.encode() + b"%d" % index, key) for index, key in enumerate(keys)]
    alone = [wide.put_record("twin", *entry) for entry in entries]
    together = [wide.put_record("wide", *entry) for entry in entries[:one_by_one]]
    placed = wide.put_records("wide", entries[one_by_one:]).records if entries[one_by_one:] else []
    assert [each[:2] for each in (*together, *placed)] == [each[:2] for each in alone]
    for shard in wide.describe_stream("twin").shards:
        assert list(wide.read("wide", shard.shard_id)) == list(wide.read("twin", shard.shard_id))


@pytest.fixture
def wide(store: StreamStore) -> StreamStore:
    store.create_stream("wide", shard_count=5)
    store.create_stream("twin", shard_count=5)
    return store


def test_one_call_is_one_commit_whatever_the_number_of_shards(wide: StreamStore) -> None:
    before = last_commit(wide)
    wide.put_records("wide", [(b"", str(index)) for index in range(500)])
    assert last_commit(wide) == before + 1


def test_records_of_one_call_have_one_arrival_time(stream: StreamStore, clock: Clock) -> None:
    clock.advance(1_234)
    stream.put_records("s", [GOOD] * 3)
    assert [record.arrival_ms for record in stream.read("s", "shard-000001")] == [clock()] * 3


# The write quota


@pytest.fixture
def throttled(store: StreamStore) -> StreamStore:
    """A store whose stream "s" of two shards lets 128 KB/s and 1,000 records/s into each."""
    store.create_stream("s", shard_count=2, write_quota_kb_per_sec=128)
    return store


def message_of(store: StreamStore, entry: tuple[bytes, str]) -> str:
    with pytest.raises(ProvisionedThroughputExceededException) as caught:
        store.put_record("s", *entry)
    return caught.value.message


def test_a_throttled_shard_fails_the_entry_and_those_behind_it_in_that_shard_only(throttled: StreamStore) -> None:
    big = bytes(100_000)
    entries = [(big, "a"), (big, "k"), (big + b"2", "a"), (b"3", "k"), (b"4", "a"), (b"5", "k")]
    result = throttled.put_records("s", entries)
    assert result.failed_record_count == 2
    message = message_of(throttled, entries[2])
    assert "shard-000000" in message
    failed = PutRecordsResultEntry(None, None, "ProvisionedThroughputExceededException", message)
    assert [entry.sequence_number for entry in result.records] == ["0", "0", None, "1", None, "2"]
    assert (result.records[2], result.records[4]) == (failed, failed)
    assert stored(throttled, 0) == [big]
    assert stored(throttled, 1) == [big, b"3", b"5"]


def test_a_failed_entry_takes_nothing_from_the_quota(throttled: StreamStore) -> None:
    throttled.put_records("s", [(bytes(100_000), "a"), (bytes(100_000), "a"), (b"", "a")])
    assert throttled.put_record("s", b"fits", "a").sequence_number == "1"


def test_putting_the_failed_ones_again_keeps_the_order_of_each_shard(throttled: StreamStore, clock: Clock) -> None:
    entries = [(b"%d " % index + bytes(index % 7 * 9_000), "ak"[index % 3 == 0]) for index in range(40)]
    left = entries
    while left:
        result = throttled.put_records("s", left)
        failed = [entry for entry, outcome in zip(left, result.records, strict=True) if outcome.error_code]
        assert result.failed_record_count == len(failed) < len(left)
        left = failed
        clock.advance(1_000)
    assert stored(throttled, 0) == [data for data, key in entries if key == "a"]
    assert stored(throttled, 1) == [data for data, key in entries if key == "k"]


def test_a_call_of_which_nothing_passes_commits_nothing(throttled: StreamStore) -> None:
    throttled.put_record("s", bytes(MIB), "a")
    before = last_commit(throttled)
    assert throttled.put_records("s", [(b"", "a")] * 3).failed_record_count == 3
    assert last_commit(throttled) == before


# Failing commits and sudden death


@pytest.mark.parametrize("moment", ["before", "after"])
def test_of_a_failed_commit_all_records_are_stored_or_none(
    stream: StreamStore, moment: Literal["before", "after"]
) -> None:
    entries = [(b"%d" % index, "ak"[index % 2]) for index in range(10)]
    with failing_commit(moment) as failed:
        if moment == "before":
            with pytest.raises(StoreFullError):
                stream.put_records("s", entries)
        else:
            assert stream.put_records("s", entries).failed_record_count == 0
    assert failed == [moment]
    kept: Sequence[tuple[bytes, str]] = entries if moment == "after" else []
    assert stored(stream, 0) + stored(stream, 1) == [data for data, _ in (*kept[::2], *kept[1::2])]


PUT_AND_DIE = """
import os, signal, sys
from streamstore import StreamStore, library
from streamstore.engine import Engine

path, moment, good_commits = sys.argv[1], sys.argv[2], int(sys.argv[3])
library.LMDB_LIB_VERSION = int(sys.argv[4])
store = StreamStore(path)
commit = Engine._commit

def commit_or_die(*arguments):
    global good_commits
    good_commits -= 1
    if good_commits < 0 and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    commit(*arguments)
    if good_commits < 0:
        os.kill(os.getpid(), signal.SIGKILL)

Engine._commit = commit_or_die
for batch in range(100):
    store.put_records("s", [(b"%d.%d" % (batch, index), "ak"[index % 2]) for index in range(100)])
    os.write(1, b"%d\\n" % batch)
"""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("good_commits", [0, 1, 7])
def test_acknowledged_calls_are_whole_after_a_sudden_death_and_the_last_one_is_whole_or_absent(
    stream: StreamStore, clock: Clock, moment: str, good_commits: int
) -> None:
    stream.close()
    acknowledged = run(code(PUT_AND_DIE, stream.path, moment, good_commits, LMDB_LIB_VERSION), status=SIGKILLED).split()
    assert acknowledged == [str(batch) for batch in range(good_commits)]
    with open_store(stream.path, clock) as reopened:
        for shard_index in (0, 1):
            expected = [
                b"%d.%d" % (batch, index)
                for batch in range(good_commits + (moment == "after"))
                for index in range(shard_index, 100, 2)
            ]
            assert stored(reopened, shard_index) == expected
