"""Truncated files, and what does not fit together: a typed error. The part damage of the torture has more damage."""

import os
import random
from functools import partial
from pathlib import Path
from unittest import mock

import pytest

from streamstore import CorruptRecordError, StoreFormatError, StreamStore
from streamstore.check import check_store
from streamstore.databases import COUNTERS_DATABASE, records_database
from streamstore.disk_format import counter_key, encode_counter, record_key
from streamstore.engine import Engine
from streamstore.environment import Environment
from streamstore.model import ShardCounter, StreamNumber
from streamstore.room import FileRoom
from streamstore.transaction import WriteTransaction
from tests.children import command, run
from tests.commits import engine_of
from tests.programs.damage import SHARD_COUNT, STREAM


def fill(path: Path) -> None:
    """Make a store of small and large records, and of pages that nothing uses any more."""
    sizes = random.Random(3)
    with StreamStore(path, sync="off") as store:
        store.create_stream(STREAM, shard_count=SHARD_COUNT)
        for number in range(120):
            store.put_record(STREAM, sizes.randbytes(sizes.choice((0, 10, 100, 1_000, 9_000))), f"key {number}")


@pytest.mark.slow
def test_a_file_cut_anywhere_is_refused_and_never_kills_the_process(tmp_path: Path) -> None:
    fill(tmp_path / "store")
    printed = run(command("damage", tmp_path / "store"))
    assert set(printed.splitlines()) == {"error StoreFormatError"}
    assert len(printed.splitlines()) > 100


def test_a_file_that_holds_all_its_pages_and_no_more_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "store"
    fill(path)
    engine = Engine(path, initial=None, read_only=True, sync="full")
    engine.open()
    needed = (engine.info()["last_pgno"] + 1) * os.sysconf("SC_PAGE_SIZE")
    engine.close()
    os.truncate(path / "data.mdb", needed)
    with StreamStore(path) as store:
        assert len(store.list_shards(STREAM).shards) == SHARD_COUNT
    assert check_store(path) == []


def test_a_sound_file_that_is_short_of_free_pages_only_is_opened(tmp_path: Path) -> None:
    """LMDB leaves out a page at the end that the same transaction took and freed."""

    def put_and_delete(transaction: WriteTransaction) -> None:
        for number in range(200):
            transaction.put(b"recoveries", b"%d" % number, bytes(1_000))
        for number in range(200):
            transaction.delete(b"recoveries", b"%d" % number)

    path = tmp_path / "store"
    with mock.patch.object(Environment, "keep_file_whole"), mock.patch.object(FileRoom, "make", return_value=True):
        fill(path)
        with StreamStore(path, sync="off") as store:
            engine = engine_of(store)
            engine.write(put_and_delete)
            needed = (engine.info()["last_pgno"] + 1) * os.sysconf("SC_PAGE_SIZE")
    assert (path / "data.mdb").stat().st_size < needed
    with StreamStore(path) as store:
        store.put_record(STREAM, b"after", "key")
    assert check_store(path) == []


def test_a_commit_that_leaves_the_file_short_makes_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "store"
    fill(path)
    with StreamStore(path, sync="off") as store, mock.patch.object(FileRoom, "make", return_value=True):
        engine = engine_of(store)
        for number in range(30):
            store.create_stream(f"t{number}", shard_count=5)
            store.put_record(f"t{number}", bytes(100_000), "key")
            store.delete_stream(f"t{number}")
            needed = (engine.info()["last_pgno"] + 1) * os.sysconf("SC_PAGE_SIZE")
            assert (path / "data.mdb").stat().st_size >= needed


def test_a_missing_or_misplaced_record_is_told_and_its_neighbours_are_read(tmp_path: Path) -> None:
    path = tmp_path / "store"
    database = records_database(StreamNumber(1), 0)
    with StreamStore(path, sync="off") as store:
        store.create_stream(STREAM)
        for number in range(8):
            store.put_record(STREAM, b"%d" % number, "key")
        engine = engine_of(store)

        def remove_and_swap(transaction: WriteTransaction) -> None:
            transaction.delete(database, record_key(2))
            values = [transaction.get(database, record_key(number)) for number in (4, 5)]
            for number, value in zip((5, 4), values, strict=True):
                assert value is not None
                transaction.put(database, record_key(number), value)

        engine.write(remove_and_swap)
        found: list[str] = []
        start = 0
        while start < 8:
            try:
                for record in store.read(STREAM, "shard-000000", starting_sequence_number=str(start)):
                    found.append(record.data.decode())
                    start = int(record.sequence_number) + 1
            except CorruptRecordError as error:
                found.append("damaged")
                start = int(error.sequence_number) + 1
        assert found == ["0", "1", "damaged", "3", "damaged", "damaged", "6", "7"]
    assert len(check_store(path)) == 3


def test_a_counter_that_does_not_fit_its_records_stops_writing(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with StreamStore(path, sync="off") as store:
        store.create_stream(STREAM)
        store.put_record(STREAM, b"0", "key")
        engine = engine_of(store)
        key = counter_key(StreamNumber(1), 0)
        for next_sequence in (0, 2):
            wrong = encode_counter(StreamNumber(1), 0, ShardCounter(next_sequence=next_sequence))
            engine.write(partial(WriteTransaction.put, database=COUNTERS_DATABASE, key=key, value=wrong))
            with pytest.raises(StoreFormatError, match="comes next"):
                store.put_record(STREAM, b"1", "key")
    assert check_store(path) != []


def test_what_is_no_lmdb_file_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"hello", bytes(100_000), os.urandom(100_000)):
        (tmp_path / "data.mdb").write_bytes(content)
        with pytest.raises(StoreFormatError):
            StreamStore(tmp_path)
        assert (tmp_path / "data.mdb").read_bytes() == content
