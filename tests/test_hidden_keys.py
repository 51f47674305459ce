"""Keys that damage has made other ones, on pages that LMDB could have written: nothing is missing because of that."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from streamstore import CorruptRecordError, StorageError, StoreFormatError
from streamstore.check import check_store
from streamstore.disk_format import consumer_key, idempotency_key_key, idempotency_time_key, position_key, record_key
from streamstore.limits import IDEMPOTENCY_WINDOW_MS_DEFAULT
from streamstore.model import StreamNumber
from tests.conftest import Clock, open_store
from tests.damage import behind_the_back_of

pytestmark = pytest.mark.skipif(
    "os.environ.get('STREAMSTORE_TEST_LMDB', '0') != '0'", reason="the layout of LMDB 1.0 is not known"
)
SHARD = "shard-000000"
STREAM_NUMBER = StreamNumber(1)


@pytest.mark.parametrize("name", [b"r", b"t", b"s\0"])
def test_a_stream_whose_name_is_damaged_is_not_told_to_be_missing(store_path: Path, clock: Clock, name: bytes) -> None:
    with open_store(store_path, clock) as store:
        store.create_stream("s")
    with behind_the_back_of(store_path) as raw:
        raw.put(b"streams", name, raw.get(b"streams", b"s"))
        raw.delete(b"streams", b"s")
    with open_store(store_path, clock) as store:
        for use in (
            lambda: store.put_record("s", b"", "k"),
            lambda: store.read("s", SHARD),
            lambda: store.list_shards("s"),
            lambda: store.delete_stream("s"),
        ):
            with pytest.raises(StoreFormatError, match="streams is damaged"):
                use()
    assert check_store(store.path) != []


def _replace(store_path: Path, written: bytes, damaged: bytes) -> None:
    """Damage a key where it lies."""
    data_path = store_path / "data.mdb"
    content = data_path.read_bytes()
    assert written in content
    data_path.write_bytes(content.replace(written, damaged))


def _flipped(key: bytes, place: int) -> bytes:
    return key[:place] + bytes([key[place] ^ 1]) + key[place + 1 :]


@pytest.mark.parametrize("place", [4, 12, 19])
def test_a_put_is_not_stored_again_where_its_idempotency_key_is_damaged(
    store_path: Path, clock: Clock, place: int
) -> None:
    with open_store(store_path, clock) as store:
        store.create_stream("s")
        for number in range(40):
            store.put_record("s", b"first", "k", idempotency_key=f"once {number}")
    key = idempotency_key_key(STREAM_NUMBER, "once 7")
    _replace(store_path, key, _flipped(key, place))
    with open_store(store_path, clock) as store:
        repeated: list[str] = []
        for number in range(40):
            with suppress(StoreFormatError):
                put = store.put_record("s", b"again", "k", idempotency_key=f"once {number}")
                repeated.append(put.sequence_number)
        assert repeated == [str(number) for number in range(40) if number != 7]
        with pytest.raises(StoreFormatError, match="idempotency_keys is damaged"):
            store.put_record("s", b"again", "k", idempotency_key="once 7")
    assert check_store(store_path) != []


def test_a_key_is_not_forgotten_early_because_its_time_is_damaged(store_path: Path, clock: Clock) -> None:
    with open_store(store_path, clock) as store:
        store.create_stream("s")
        store.put_record("s", b"first", "k", idempotency_key="once")
    key, sent_ms = idempotency_key_key(STREAM_NUMBER, "once"), clock.now_ms
    long_ago_ms = sent_ms ^ 1 << sent_ms.bit_length() - 1
    _replace(store_path, idempotency_time_key(key, sent_ms), idempotency_time_key(key, long_ago_ms))
    with open_store(store_path, clock) as store:
        store.put_record("s", b"another", "k", idempotency_key="another")
        assert store.put_record("s", b"again", "k", idempotency_key="once").sequence_number == "0"


@pytest.mark.parametrize("place", [0, 3, 6, 7, -1])
def test_a_consumer_whose_place_is_damaged_does_not_begin_anew(store_path: Path, clock: Clock, place: int) -> None:
    with open_store(store_path, clock) as store:
        store.create_stream("s")
        store.put_records("s", [(b"%d" % number, "k") for number in range(10)])
        for name in ("abc", "abd", "abe"):
            with store.consumer("s", name, idle_timeout_seconds=0) as consumer:
                for _ in range(5):
                    next(consumer)
                consumer.checkpoint()
    key = position_key(STREAM_NUMBER, "abd", 0)
    _replace(store_path, key, _flipped(key, place))
    with (
        open_store(store_path, clock) as store,
        pytest.raises(StoreFormatError, match="damaged"),
        store.consumer("s", "abd", idle_timeout_seconds=0),
    ):
        raise AssertionError("it was opened")
    assert check_store(store_path) != []


@pytest.mark.parametrize("place", [0, 3, 4, 6])
def test_a_consumer_whose_name_is_damaged_is_not_a_new_one(store_path: Path, clock: Clock, place: int) -> None:
    with open_store(store_path, clock) as store:
        store.create_stream("s")
        store.put_records("s", [(b"%d" % number, "k") for number in range(10)])
        with store.consumer("s", "abc", idle_timeout_seconds=0) as consumer:
            next(consumer)
            consumer.checkpoint()
    key = consumer_key(STREAM_NUMBER, "abc")
    _replace(store_path, key, _flipped(key, place))
    with open_store(store_path, clock) as store:
        for use in (
            lambda: store.consumer("s", "abc"),
            lambda: store.register_stream_consumer("s", "abc"),
            lambda: store.describe_stream_consumer("s", "abc"),
            lambda: store.list_stream_consumers("s"),
            lambda: store.delete_stream("s"),
        ):
            with pytest.raises(StoreFormatError, match="damaged"):
                use()


@pytest.mark.parametrize("name", [b"streams", b"idempotency_keys", b"positions", b"consumers"])
def test_what_a_database_holds_is_not_missing_because_its_name_is_damaged(
    store_path: Path, clock: Clock, name: bytes
) -> None:
    with open_store(store_path, clock) as store:
        store.create_stream("s")
        store.put_record("s", b"first", "k", idempotency_key="once")
        with store.consumer("s", "reader", idle_timeout_seconds=0) as consumer:
            next(consumer)
            consumer.checkpoint()
    _replace(store_path, name, name[:-1] + b"r")
    with open_store(store_path, clock) as store:
        uses: dict[bytes, Callable[[], object]] = {
            b"streams": store.list_streams,
            b"idempotency_keys": lambda: store.put_record("s", b"again", "k", idempotency_key="once"),
            b"positions": lambda: store.consumer("s", "reader"),
            b"consumers": lambda: store.consumer("s", "reader"),
        }
        with pytest.raises(StoreFormatError, match="list of databases is damaged"):
            uses[name]()
        if name != b"streams":
            assert [record.data for record in store.read("s", SHARD)] == [b"first"]
    assert check_store(store_path) != []


def test_no_stream_is_created_that_a_damaged_entry_may_be_of(store_path: Path, clock: Clock) -> None:
    with open_store(store_path, clock) as store:
        for name in ("m", "s", "u"):
            store.create_stream(name)
    with behind_the_back_of(store_path) as raw:
        raw.flip_last_bit(b"streams", b"s")
    with open_store(store_path, clock) as store:
        for name in ("n", "t"):
            with pytest.raises(StoreFormatError, match="streams is damaged"):
                store.create_stream(name)
        for name in ("a", "v"):
            store.create_stream(name)
            assert store.put_record(name, b"", "k").sequence_number == "0"


@pytest.mark.parametrize("many", [False, True])
def test_puts_that_are_refused_for_a_damaged_key_forget_it_when_its_time_has_come(
    store_path: Path, clock: Clock, many: bool
) -> None:
    with open_store(store_path, clock) as store:
        store.create_stream("s")
        store.put_record("s", b"first", "k", idempotency_key="once")
    with behind_the_back_of(store_path) as raw:
        raw.flip_last_bit(b"idempotency_keys", idempotency_key_key(STREAM_NUMBER, "once"))
    with open_store(store_path, clock) as store:

        def put_other() -> None:
            if many:
                store.put_records("s", [(b"", "k", None, "other")])
            else:
                store.put_record("s", b"", "k", idempotency_key="other")

        for _ in range(2):
            with pytest.raises(StoreFormatError):
                put_other()
            clock.advance(IDEMPOTENCY_WINDOW_MS_DEFAULT)
        put_other()
        assert len(list(store.read("s", SHARD))) == 2
    assert check_store(store_path) == []


def test_a_damaged_name_of_a_database_costs_what_is_in_it_only(store_path: Path, clock: Clock) -> None:
    """Also where a record is damaged: then it is looked up whether it is a known loss."""
    with open_store(store_path, clock) as store:
        store.create_stream("s", shard_count=2)
        for number in range(3):
            for hash_key in ("0", str(2**127)):
                store.put_record("s", b"%d" % number, "k", explicit_hash_key=hash_key)
    with behind_the_back_of(store_path) as raw:
        raw.flip_last_bit(b"records/1/1", record_key(0))
    _replace(store_path, b"records/1/0", b"recOrds/1/0")
    with open_store(store_path, clock) as store:
        with pytest.raises(CorruptRecordError, match="Record 0"):
            next(iter(store.read("s", "shard-000001")))
        found = store.read("s", "shard-000001", starting_sequence_number="1")
        assert [record.data for record in found] == [b"1", b"2"]
        assert store.put_record("s", b"3", "k", explicit_hash_key=str(2**127)).sequence_number == "3"
        with pytest.raises(StorageError):
            store.put_record("s", b"3", "k", explicit_hash_key="0")
        with pytest.raises(StorageError):
            next(iter(store.read("s", "shard-000000")))
