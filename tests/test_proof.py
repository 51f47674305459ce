"""Laws of the proof of pages: what LMDB writes is proved, once, and what is damaged is told before LMDB touches it."""

import contextlib
import errno
import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, Literal
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamstore import CorruptRecordError, StorageError, StoreFormatError, StreamStore
from streamstore.check import check_store
from streamstore.databases import (
    COUNTERS_DATABASE,
    IDEMPOTENCY_KEYS_DATABASE,
    IDEMPOTENCY_TIMES_DATABASE,
    LOSSES_DATABASE,
    records_database,
)
from streamstore.engine import Engine
from streamstore.folder import FolderLock
from streamstore.free_pages import LeftPages, free_pages_by_commit
from streamstore.hidden_commit import hides_commit, is_commit_whole
from streamstore.model import StreamNumber
from streamstore.pages import DamagedPageError, Page, Tree, parse_metas, parse_page, parse_tree
from streamstore.proof import Proof
from streamstore.transaction import ReadTransaction, WriteTransaction
from tests.commits import WAIT_S, in_thread
from tests.conftest import Clock, open_store
from tests.test_processes import engine_of

PAGE_BYTES: Final = 4096
HEADER_BYTES: Final = 16
STREAM: Final = "s"
SHARDS: Final = ("shard-000000", "shard-000001")
LOWER_HALF: Final = "0"
UPPER_HALF: Final = str(2**127)
RECORDS: Final = 400
"""In each shard, of a size that makes about a hundred leaves."""

pytestmark = pytest.mark.skipif(
    "os.environ.get('STREAMSTORE_TEST_LMDB', '0') != '0'", reason="the layout of LMDB 1.0 is not known"
)


Root = Literal["free", "main"]
ROOT_PLACES: dict[Root, int] = {"free": 80, "main": 128}
"""Where a meta page says on which page the list of free pages begins, and that of databases."""
COMMIT_PLACE = 144
"""Where it says of which commit it is."""


class DataFile:
    """The pages of the data file of a closed store."""

    def __init__(self, path: Path) -> None:
        self._path = path / "data.mdb"
        self.content = bytearray(self._path.read_bytes())
        self.older_meta, self.meta = parse_metas(bytes(self.content), PAGE_BYTES)

    def page(self, number: int) -> Page:
        return parse_page(self._content_of(number), number)

    def leaves(self, database: bytes) -> list[int]:
        """Return the numbers of the leaves of a database, in the order of their keys."""
        return self._leaves_of(self._tree(database))

    def branch(self, database: bytes) -> tuple[int, bytes]:
        """Return the root of a database and its number."""
        root = self._tree(database).root
        assert root is not None
        return root, self._content_of(root)

    def _tree(self, database: bytes) -> Tree:
        (tree,) = [
            parse_tree(page.values[place])
            for page in map(self.page, self._leaves_of(self.meta.main))
            for place, key in enumerate(page.keys)
            if key == database
        ]
        return tree

    def _leaves_of(self, tree: Tree) -> list[int]:
        numbers = [] if tree.root is None else [tree.root]
        for _ in range(tree.depth - 1):
            numbers = [child for number in numbers for child in self.page(number).children]
        return numbers

    def earlier_copies(self, number: int) -> list[int]:
        """Return the pages that have only keys of a leaf, but not all."""
        keys = set(self.page(number).keys)
        copies: list[int] = []
        for other in range(2, self.meta.last_page + 1):
            with contextlib.suppress(DamagedPageError):
                page = self.page(other)
                if not page.children and keys > set(page.keys):
                    copies.append(other)
        return copies

    def lead_branch(self, database: bytes, leaf: int, page: int) -> None:
        """Have the root of a database say that another page is at the place of a leaf."""
        root, content = self.branch(database)
        place = content.index(leaf.to_bytes(4, "little"), HEADER_BYTES)
        self._write(root, content[:place] + page.to_bytes(4, "little") + content[place + 4 :])

    def zero(self, number: int) -> None:
        self._write(number, bytes(PAGE_BYTES))

    def ruin(self, number: int) -> None:
        """Leave nothing but the header: LMDB would go wherever the rest says."""
        self._write(number, self._content_of(number)[:HEADER_BYTES].ljust(PAGE_BYTES, b"\xff"))

    def copy(self, source: int, target: int, *, with_number: bool) -> None:
        """Write a page into the place of another one; with its number there, or with its own."""
        content = self._content_of(source)
        self._write(target, target.to_bytes(8, "little") + content[8:] if with_number else content)

    def lead(self, root: Root, page: int) -> None:
        """Have the newer meta page say that a list begins on another page."""
        place = self.meta.commit_number % 2 * PAGE_BYTES + ROOT_PLACES[root]
        self.content[place : place + 8] = page.to_bytes(8, "little")
        self._path.write_bytes(self.content)

    def say_of_the_newer(self, *, commit_number: int, last_page: int | None = None) -> None:
        """Have the newer meta page say that it is of another commit, and that another page is the last."""
        place = self.meta.commit_number % 2 * PAGE_BYTES + COMMIT_PLACE
        last_page = self.meta.last_page if last_page is None else last_page
        self.content[place - 8 : place + 8] = last_page.to_bytes(8, "little") + commit_number.to_bytes(8, "little")
        self._path.write_bytes(self.content)

    def _content_of(self, number: int) -> bytes:
        return bytes(self.content[number * PAGE_BYTES : (number + 1) * PAGE_BYTES])

    def _write(self, number: int, content: bytes) -> None:
        self.content[number * PAGE_BYTES : (number + 1) * PAGE_BYTES] = content
        self._path.write_bytes(self.content)


@pytest.fixture
def path(tmp_path: Path, clock: Clock) -> Path:
    """Return where a store of two shards is, which is closed."""
    path = tmp_path / "store"
    with open_store(path, clock) as store:
        store.create_stream(STREAM, shard_count=2)
        for number in range(RECORDS):
            for hash_key in (LOWER_HALF, UPPER_HALF):
                store.put_record(STREAM, b"%d" % number * 300, "key", explicit_hash_key=hash_key)
    return path


def records(shard: int) -> bytes:
    return records_database(StreamNumber(1), shard)


def read_around_damage(store: StreamStore, shard_id: str) -> tuple[list[int], list[range]]:
    """Return the numbers of the records that are read, and of those that are told as damaged."""
    read: list[int] = []
    damaged: list[range] = []
    start = 0
    while start < RECORDS:
        try:
            for record in store.read(STREAM, shard_id, starting_sequence_number=str(start)):
                assert record.data.startswith(b"%d" % start)
                read.append(start)
                start += 1
        except CorruptRecordError as error:
            damaged.append(range(int(error.sequence_number), int(error.last_sequence_number) + 1))
            start = damaged[-1].stop
    return read, damaged


@pytest.mark.parametrize("damage", ["zero", "ruin", "copy", "copy with number"])
def test_a_damaged_leaf_costs_its_records_and_no_others(path: Path, clock: Clock, damage: str) -> None:
    file = DataFile(path)
    leaf, other = file.leaves(records(0))[50:52]
    lost = [int.from_bytes(key, "big") for key in file.page(leaf).keys]
    match damage:
        case "zero":
            file.zero(leaf)
        case "ruin":
            file.ruin(leaf)
        case _:
            file.copy(other, leaf, with_number=damage == "copy with number")
    with open_store(path, clock) as store:
        read, damaged = read_around_damage(store, SHARDS[0])
        assert [number for each in damaged for number in each] == lost
        assert read == [number for number in range(RECORDS) if number not in lost]
        assert read_around_damage(store, SHARDS[1]) == (list(range(RECORDS)), [])
        with pytest.raises(StoreFormatError, match=f"page {leaf} "):
            engine_of(store).prove([records(0)])
        engine_of(store).prove([records(1)])
    assert check_store(path) != []


def test_what_cannot_be_read_is_not_damaged_and_is_read_when_it_can_be(path: Path, clock: Clock) -> None:
    file = DataFile(path)
    leaf = file.leaves(records(0))[50]
    first = int.from_bytes(file.page(leaf).keys[0], "big")
    read = FolderLock.read

    def fail(lock: FolderLock, start: int, count_bytes: int) -> bytes:
        if start <= leaf * PAGE_BYTES < start + count_bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(lock, start, count_bytes)

    with open_store(path, clock) as store:
        with mock.patch.object(FolderLock, "read", fail):
            assert store.get_records(iterator_at(store, 0), limit=first).records[-1].sequence_number == str(first - 1)
            with pytest.raises(StorageError) as raised:
                store.get_records(iterator_at(store, first))
        assert type(raised.value) is StorageError
        assert read_around_damage(store, SHARDS[0]) == (list(range(RECORDS)), [])


def iterator_at(store: StreamStore, number: int) -> str:
    return store.get_shard_iterator(STREAM, SHARDS[0], "AT_SEQUENCE_NUMBER", starting_sequence_number=str(number))


def test_a_put_behind_a_damaged_end_is_refused_and_other_shards_go_on(path: Path, clock: Clock) -> None:
    file = DataFile(path)
    file.ruin(file.leaves(records(0))[-1])
    with open_store(path, clock) as store:
        for _ in range(2):
            with pytest.raises(StoreFormatError, match="damaged"):
                store.put_record(STREAM, b"new", "key", explicit_hash_key=LOWER_HALF)
        assert store.put_record(STREAM, b"new", "key", explicit_hash_key=UPPER_HALF).sequence_number == str(RECORDS)
        store.create_stream("t")
        assert store.put_record("t", b"new", "key").sequence_number == "0"


def test_a_put_goes_on_where_only_old_records_are_damaged(path: Path, clock: Clock) -> None:
    file = DataFile(path)
    file.zero(file.leaves(records(0))[50])
    with open_store(path, clock) as store:
        assert store.put_record(STREAM, b"new", "key", explicit_hash_key=LOWER_HALF).sequence_number == str(RECORDS)


def test_what_would_delete_over_damage_is_refused_and_deletes_nothing(path: Path, clock: Clock) -> None:
    file = DataFile(path)
    leaf = file.leaves(records(0))[50]
    file.zero(leaf)
    with open_store(path, clock) as store:
        with pytest.raises(StoreFormatError, match="damaged"):
            store.delete_stream(STREAM)
        assert store.list_streams().stream_names == (STREAM,)
        clock.advance(24 * 3_600_000 + 1)
        with pytest.raises(StoreFormatError, match="damaged"):
            store.trim(STREAM)
        store.put_record(STREAM, b"new", "key", explicit_hash_key=LOWER_HALF)


def test_damage_to_the_list_of_databases_is_told_when_the_store_is_opened(path: Path, clock: Clock) -> None:
    file = DataFile(path)
    assert file.meta.main.root is not None
    file.zero(file.meta.main.root)
    before = (path / "data.mdb").read_bytes()
    with pytest.raises(StoreFormatError, match="The list of databases is damaged"):
        open_store(path, clock)
    assert (path / "data.mdb").read_bytes() == before


@pytest.mark.parametrize("number", [0, 1])
def test_a_damaged_meta_page_is_told_when_the_store_is_opened(path: Path, clock: Clock, number: int) -> None:
    DataFile(path).zero(number)
    with pytest.raises(StoreFormatError, match=f"page {number} is not a meta page"):
        open_store(path, clock)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_list_of_databases_of_an_earlier_commit_is_not_taken_for_the_newest(
    path: Path, clock: Clock, read_only: bool
) -> None:
    """It holds together in itself, without what was stored since."""
    file = DataFile(path)
    assert file.older_meta.main.root is not None
    file.lead("main", file.older_meta.main.root)
    with pytest.raises(StoreFormatError, match="which an earlier commit has left"):
        open_store(path, clock, read_only=read_only)


def test_a_page_of_something_else_is_not_taken_for_the_list_of_databases(path: Path, clock: Clock) -> None:
    file = DataFile(path)
    file.lead("main", file.leaves(records(0))[0])
    with pytest.raises(StoreFormatError, match="a name there is none of a database"):
        open_store(path, clock)


def test_a_list_of_databases_that_lost_a_name_is_told(path: Path, clock: Clock) -> None:
    file = DataFile(path)
    place = file.meta.commit_number % 2 * PAGE_BYTES + ROOT_PLACES["main"] - 8
    file.content[place] += 1
    (path / "data.mdb").write_bytes(file.content)
    with pytest.raises(StoreFormatError, match="names, and should have"):
        open_store(path, clock)


def test_a_damaged_entry_in_the_list_of_databases_costs_that_database_only(path: Path, clock: Clock) -> None:
    file = DataFile(path)
    assert file.meta.main.root is not None
    (place,) = (
        file.content.index(value, file.meta.main.root * PAGE_BYTES)
        for page in [file.page(file.meta.main.root)]
        for place, value in page.values.items()
        if page.keys[place] == records(0)
    )
    file.content[place] ^= 1  # of the flags
    (path / "data.mdb").write_bytes(file.content)
    with open_store(path, clock) as store:
        with pytest.raises(StoreFormatError, match="the entry of a database is one of"):
            next(iter(store.read(STREAM, SHARDS[0])))
        assert read_around_damage(store, SHARDS[1]) == (list(range(RECORDS)), [])


def test_a_list_of_free_pages_of_an_earlier_commit_is_told(path: Path, clock: Clock) -> None:
    """What is free on it may be in use since."""
    file = DataFile(path)
    assert file.older_meta.free.root is not None
    file.lead("free", file.older_meta.free.root)
    with pytest.raises(StoreFormatError, match="which has left no page"):
        open_store(path, clock)


def test_a_meta_page_that_says_to_be_newer_than_the_newest_is_told(path: Path, clock: Clock) -> None:
    """What it leads to is all in its place, without the last commit."""
    file = DataFile(path)
    number = file.older_meta.commit_number
    place = number % 2 * PAGE_BYTES + COMMIT_PLACE
    file.content[place : place + 8] = (number + 2).to_bytes(8, "little")
    (path / "data.mdb").write_bytes(file.content)
    with pytest.raises(StoreFormatError, match=f"it is not of commit {number + 2}, which has left no page"):
        open_store(path, clock)


def test_a_branch_that_leads_to_an_earlier_copy_of_a_page_is_told(path: Path, clock: Clock) -> None:
    """What stands there belongs there, and was written there: without what was stored since."""
    keys = [f"key {number}" for number in range(300)]
    with open_store(path, clock) as store:
        for key in keys:
            store.put_record(STREAM, b"once", "key", idempotency_key=key)
    file = DataFile(path)
    leaf, earlier = next(
        (leaf, copy) for leaf in file.leaves(IDEMPOTENCY_KEYS_DATABASE) for copy in file.earlier_copies(leaf)
    )
    file.lead_branch(IDEMPOTENCY_KEYS_DATABASE, leaf, earlier)
    problem = f"page {earlier} is one that an earlier commit has left"
    assert any(problem in told for told in check_store(path))
    with open_store(path, clock) as store:
        refused = 0
        for key in keys:
            try:
                stored = store.put_record(STREAM, b"once", "key", idempotency_key=key)
                assert int(stored.sequence_number) < RECORDS + len(keys), "stored again"
            except StoreFormatError:
                refused += 1
        assert refused == len(file.page(leaf).keys)


def files_around_a_put(
    path: Path, clock: Clock, *, makes_longer: bool, hash_key: str = LOWER_HALF
) -> tuple[DataFile, DataFile]:
    """Return the files before and after a record is put, which comes from the end of the file or from free pages."""
    while True:
        before = DataFile(path)
        with open_store(path, clock) as store:
            store.put_record(STREAM, bytes(10_000 if makes_longer else 10), "key", explicit_hash_key=hash_key)
        after = DataFile(path)
        assert after.older_meta == before.meta
        if makes_longer == (after.meta.last_page > before.meta.last_page):
            return before, after


def put_number(path: Path, clock: Clock) -> int:
    with open_store(path, clock) as store:
        return int(store.put_record(STREAM, b"", "key", explicit_hash_key=LOWER_HALF).sequence_number)


@pytest.mark.parametrize("makes_longer", [False, True])
def test_a_commit_is_taken_though_its_meta_page_says_to_be_older(path: Path, clock: Clock, makes_longer: bool) -> None:
    """LMDB would take the commit before it: what was acknowledged last would be gone."""
    number = put_number(path, clock)
    _, file = files_around_a_put(path, clock, makes_longer=makes_longer)
    whole = bytes(file.content)
    file.say_of_the_newer(commit_number=file.meta.commit_number - 2)
    with pytest.raises(StoreFormatError, match="open the store to write, which mends it"):
        check_store(path)
    with open_store(path, clock):
        pass
    assert (path / "data.mdb").read_bytes() == whole
    assert put_number(path, clock) > number + 1
    assert check_store(path) == []


@pytest.mark.parametrize("makes_longer", [False, True])
def test_behind_a_failed_write_of_a_meta_page_a_commit_is_taken_or_not(
    path: Path, clock: Clock, makes_longer: bool
) -> None:
    """LMDB puts the number and the last page back then. Nobody was told what became of the commit."""
    number = put_number(path, clock)
    before, file = files_around_a_put(path, clock, makes_longer=makes_longer)
    file.say_of_the_newer(commit_number=before.older_meta.commit_number, last_page=before.older_meta.last_page)
    assert put_number(path, clock) in (number + 1, number + 2)
    assert check_store(path) == []


def test_behind_a_failed_write_the_last_page_is_none_of_two_commits_before(path: Path, clock: Clock) -> None:
    """It was put back too, and the commit between has made the file longer."""
    number = put_number(path, clock)
    while True:
        files_around_a_put(path, clock, makes_longer=True)
        before, file = files_around_a_put(path, clock, makes_longer=False, hash_key=UPPER_HALF)
        with (path / "data.mdb").open("rb") as opened:
            left = free_pages_by_commit(proof_of(opened).reader, file.meta).values()
        if max(map(max, left)) <= before.older_meta.last_page < file.meta.last_page:
            break
    file.say_of_the_newer(commit_number=before.older_meta.commit_number, last_page=before.older_meta.last_page)
    with open_store(path, clock):
        pass
    assert DataFile(path).meta == before.meta
    assert put_number(path, clock) > number
    assert check_store(path) == []


@pytest.mark.parametrize("makes_longer", [False, True])
def test_a_commit_that_is_written_over_in_part_is_not_taken(path: Path, clock: Clock, makes_longer: bool) -> None:
    """Behind a failed write of its meta page the next commit takes the same pages, and may end early."""
    number = put_number(path, clock)
    before, file = files_around_a_put(path, clock, makes_longer=makes_longer)
    file.say_of_the_newer(commit_number=before.older_meta.commit_number, last_page=before.older_meta.last_page)
    was, kept = bytes(before.content), bytes(file.content)
    for page in range(2, file.meta.last_page + 1):
        place = page * PAGE_BYTES
        if kept[place : place + PAGE_BYTES] != was[place : place + PAGE_BYTES]:
            file.content[:] = kept
            file.ruin(page)
            assert put_number(path, clock) == number + 1
            assert check_store(path) == []


@pytest.mark.parametrize("written_over", ["with a list of databases of before", "with another counter"])
def test_a_commit_is_not_taken_where_a_page_leads_past_it(path: Path, clock: Clock, written_over: str) -> None:
    before, file = files_around_a_put(path, clock, makes_longer=False)
    file.say_of_the_newer(commit_number=before.older_meta.commit_number)
    if written_over == "with another counter":
        (leaf,) = file.leaves(COUNTERS_DATABASE)
        file.content[(leaf + 1) * PAGE_BYTES - 1] ^= 1
        (path / "data.mdb").write_bytes(file.content)
    else:
        assert before.meta.main.root is not None
        assert file.meta.main.root is not None
        file.copy(before.meta.main.root, file.meta.main.root, with_number=True)
    with open_store(path, clock):
        pass
    file = DataFile(path)
    assert file.meta == before.meta
    assert file.older_meta.main == before.meta.main, "what comes next could be taken for a part of it"


def test_the_failed_commit_of_another_process_is_forgotten_before_the_next_one_takes_its_pages(
    path: Path, clock: Clock
) -> None:
    number = put_number(path, clock)
    before, failed = files_around_a_put(path, clock, makes_longer=False)
    (path / "data.mdb").write_bytes(before.content)
    older_lists: list[Tree] = []
    write_again = FolderLock.write_again

    def look(lock: FolderLock, count_bytes: int) -> None:
        older_lists.append(DataFile(path).older_meta.main)
        write_again(lock, count_bytes)

    with open_store(path, clock) as store:
        failed.say_of_the_newer(commit_number=before.older_meta.commit_number, last_page=before.older_meta.last_page)
        vars(engine_of(store))["_environment"].is_disk_sure = False
        with mock.patch.object(FolderLock, "write_again", look):
            stored = store.put_record(STREAM, b"", "key", explicit_hash_key=LOWER_HALF)
    assert older_lists == [before.meta.main]
    assert int(stored.sequence_number) == number + 1
    assert check_store(path) == []


def test_a_last_page_that_no_file_has_is_told_and_takes_no_memory(path: Path, clock: Clock) -> None:
    _, file = files_around_a_put(path, clock, makes_longer=True)
    file.say_of_the_newer(commit_number=file.meta.commit_number - 2, last_page=2**50)
    with pytest.raises(StoreFormatError, match="its last page is"):
        open_store(path, clock)


@pytest.mark.parametrize("error", [None, OSError(errno.EIO, "Input/output error")])
def test_what_only_an_older_commit_needs_is_not_needed(path: Path, clock: Clock, error: OSError | None) -> None:
    file = DataFile(path)
    root = file.older_meta.free.root
    assert root is not None

    def fail(lock: FolderLock, start: int, count_bytes: int) -> bytes:
        if start == root * PAGE_BYTES and error is not None:
            raise error
        return os.pread(vars(lock)["_descriptor"], count_bytes, start)

    if error is None:
        file.zero(root)
    with mock.patch.object(FolderLock, "read", fail), open_store(path, clock) as store:
        assert read_around_damage(store, SHARDS[0]) == (list(range(RECORDS)), [])


def test_a_last_page_that_was_further_behind_is_told(path: Path, clock: Clock) -> None:
    file = DataFile(path)
    file.say_of_the_newer(commit_number=file.meta.commit_number, last_page=file.older_meta.last_page - 1)
    with pytest.raises(StoreFormatError, match="its last page is"):
        open_store(path, clock)


def test_an_older_commit_is_not_taken_for_the_newest_though_its_list_of_free_pages_says_so(
    path: Path, clock: Clock
) -> None:
    number = put_number(path, clock)
    file = DataFile(path)
    older = file.older_meta
    assert older.free.root is not None
    key = older.commit_number.to_bytes(8, "little")
    place = file.content.index(key, older.free.root * PAGE_BYTES + HEADER_BYTES, (older.free.root + 1) * PAGE_BYTES)
    file.content[place : place + 8] = (older.commit_number + 2).to_bytes(8, "little")
    (path / "data.mdb").write_bytes(file.content)
    assert put_number(path, clock) == number + 1


def test_a_damaged_list_of_free_pages_refuses_each_change_and_no_reading(path: Path, clock: Clock) -> None:
    file = DataFile(path)
    assert file.meta.free.root is not None
    file.zero(file.meta.free.root)
    with open_store(path, clock) as store:
        with pytest.raises(StoreFormatError, match="The list of free pages is damaged"):
            store.put_record(STREAM, b"new", "key")
        for shard_id in SHARDS:
            assert read_around_damage(store, shard_id) == (list(range(RECORDS)), [])


def test_a_stream_is_proved_before_its_deletion_holds_up_the_others(path: Path, clock: Clock) -> None:
    puts: list[str] = []
    prove_more = ReadTransaction.prove_more

    def put_and_prove(transaction: ReadTransaction, database: bytes) -> bool:
        puts.append(in_thread(lambda: store.put_record("t", b"", "key")).result(WAIT_S).sequence_number)
        return prove_more(transaction, database)

    with open_store(path, clock) as store:
        store.create_stream("t")
        with mock.patch.object(ReadTransaction, "prove_more", put_and_prove):
            store.delete_stream(STREAM)
        assert store.list_streams().stream_names == ("t",)
    assert len(puts) > 4
    assert puts == [str(number) for number in range(len(puts))]
    assert check_store(path) == []


def test_what_is_proved_is_not_read_again(path: Path, clock: Clock) -> None:
    reads: list[int] = []
    read = FolderLock.read

    def count(lock: FolderLock, start: int, count_bytes: int) -> bytes:
        reads.append(start)
        return read(lock, start, count_bytes)

    with mock.patch.object(FolderLock, "read", count), open_store(path, clock) as store:
        opening_count = len(reads)
        for _ in range(3):
            for shard_id in SHARDS:
                assert read_around_damage(store, shard_id) == (list(range(RECORDS)), [])
        file = DataFile(path)
        leaf_count = sum(len(file.leaves(records(shard))) for shard in range(2))
        assert leaf_count <= len(reads) - opening_count
        proved_count = len(reads)
        for number in range(20):
            store.put_record(STREAM, b"%d" % (RECORDS + number), "key")
        written_count = len(reads) - proved_count  # the list of free pages, once
        store.put_record(STREAM, b"", "key")
        for shard_id in SHARDS:
            list(store.read(STREAM, shard_id))
        assert len(reads) == proved_count + written_count
        assert written_count < 10


def test_the_way_to_a_key_is_proved_once(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with StreamStore(path, sync="off"):
        pass
    items = [(b"%05d" % number, bytes(1_000)) for number in range(500)]
    for is_filling in (True, False):
        engine = Engine(path, initial=None, read_only=False, sync="off")
        engine.open()
        if is_filling:
            engine.write(partial(WriteTransaction.append, database=b"one", items=items))
        else:
            look = partial(ReadTransaction.get, database=b"one", key=items[300][0])
            with mock.patch.object(FolderLock, "read", side_effect=FolderLock.read, autospec=True) as read:
                assert engine.read(look) == items[300][1]
                count = read.call_count
                assert 0 < count < 10
                assert engine.read(look) == items[300][1]
                assert read.call_count == count
        engine.close()


def changes(dice: random.Random, model: dict[bytes, dict[bytes, bytes]]) -> Callable[[WriteTransaction], None]:
    """Return some changes of any kind, which the model has made behind the call."""
    steps: list[Callable[[WriteTransaction], None]] = []
    for _ in range(dice.randint(1, 30)):
        database = dice.choice(list(model))
        contents = model[database]
        key = dice.randbytes(dice.randint(1, 40))
        value = dice.randbytes(dice.choice((0, 10, 500, 3_000, 20_000)))
        match dice.choice(("put", "append", "delete", "delete_before")):
            case "put":
                contents[key] = value
                steps.append(partial(WriteTransaction.put, database=database, key=key, value=value))
            case "append":
                items = [
                    ((max(contents, default=b"") + bytes([each]))[:500], value) for each in range(dice.randint(1, 5))
                ]
                items = [item for item in sorted(dict(items).items()) if item[0] > max(contents, default=b"")]
                if items:
                    contents.update(items)
                    steps.append(partial(WriteTransaction.append, database=database, items=items))
            case "delete":
                if contents:
                    key = dice.choice(list(contents))
                    del contents[key]
                    steps.append(partial(WriteTransaction.delete, database=database, key=key))
            case _:
                if dice.random() < 0.2:
                    for each in [each for each in contents if each < key]:
                        del contents[each]
                    steps.append(partial(WriteTransaction.delete_before, database=database, key=key))

    def apply(transaction: WriteTransaction) -> None:
        for step in steps:
            step(transaction)

    return apply


def items_from(transaction: ReadTransaction, database: bytes, start: bytes) -> list[tuple[bytes, bytes]]:
    return list(transaction.items_from(database, start))


def put_all(path: Path, database: bytes, contents: dict[bytes, bytes]) -> None:
    engine = Engine(path, initial=None, read_only=False, sync="off")
    engine.open()
    engine.write(partial(WriteTransaction.put_all, database=database, items=list(contents.items())))
    engine.close()


def proof_of(file: BinaryIO) -> Proof:
    return Proof(lambda start, count_bytes: os.pread(file.fileno(), count_bytes, start), is_layout_known=True)


def refuse_unfound_commit(proof: Proof) -> None:
    older, newer = proof.reader.metas(alone=True)
    assert not hides_commit(proof.reader, older)
    hidden = newer._replace(commit_number=newer.commit_number - 2)
    assert hides_commit(proof.reader, hidden)
    assert is_commit_whole(proof.reader, hidden, older)
    assert not is_commit_whole(proof.reader, hidden._replace(last_page=hidden.last_page + 1), older)


def refuse_confused_pages(proof: Proof) -> None:
    """What a commit has left behind the opening may still be seen by a snapshot of before."""
    older, newer = proof.reader.metas(alone=True)
    left = free_pages_by_commit(proof.reader, newer)[newer.commit_number]
    assert all(map(LeftPages(proof.reader, newer.commit_number).has, left))
    assert not any(map(LeftPages(proof.reader, older.commit_number).has, left))


@pytest.mark.parametrize("seed", range(12))
def test_whatever_lmdb_has_written_is_proved(tmp_path: Path, seed: int) -> None:
    """Each opening begins with nothing proved, and changes and reads here and there.

    And whatever it commits is found, if the meta page says that it is older.
    """
    dice = random.Random(seed)
    path = tmp_path / "store"
    with StreamStore(path, sync="off"):
        pass
    many = {dice.randbytes(20): dice.randbytes(80) for _ in range(1_500)}
    model: dict[bytes, dict[bytes, bytes]] = {
        b"records/1/0": {},
        b"records/1/1": {},
        b"records/2/0": {},
        IDEMPOTENCY_TIMES_DATABASE: {},
        LOSSES_DATABASE: many,
    }
    put_all(path, LOSSES_DATABASE, many)
    for _ in range(8):
        engine = Engine(path, initial=None, read_only=False, sync="off")
        engine.open()
        try:
            for _ in range(dice.randint(0, 6)):
                engine.write(changes(dice, model))
                for database, contents in model.items():
                    start = dice.randbytes(dice.randint(0, 3))
                    expected = sorted(item for item in contents.items() if item[0] >= start)
                    look = partial(items_from, database=database, start=start)
                    assert engine.read(look) == expected
                with (path / "data.mdb").open("rb") as file:
                    refuse_unfound_commit(proof_of(file))
                    refuse_confused_pages(proof_of(file))
            if dice.random() < 0.5:
                engine.prove(engine.read(ReadTransaction.databases))
        finally:
            engine.close()


@pytest.fixture(scope="module")
def sound_pages(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Return pages of every kind."""
    path = tmp_path_factory.mktemp("sound") / "store"
    with StreamStore(path, sync="off") as store:
        store.create_stream(STREAM)
        for number in range(100):
            store.put_record(STREAM, bytes(number * 40), "key", idempotency_key=f"{number}")
    content = (path / "data.mdb").read_bytes()
    return [content[start : start + PAGE_BYTES] for start in range(0, len(content), PAGE_BYTES)]


def test_a_branch_of_records_is_parsed_at_once_as_it_is_one_by_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = DataFile(path)
    number, content = file.branch(records(0))
    dice = random.Random(1)
    pages = [content]
    for _ in range(2_000):
        changed = bytearray(content)
        for _ in range(dice.randint(1, 2)):
            changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
        pages.append(bytes(changed))
    at_once = [parsed_or_not(page, number) for page in pages]
    monkeypatch.setattr("streamstore.pages._RECORD_KEY_BYTES", -1)
    one_by_one = [parsed_or_not(page, number) for page in pages]
    assert at_once[0] is not None
    assert len(at_once[0].children) > 50
    assert at_once == one_by_one
    assert 100 < at_once.count(None) < len(pages) - 100


def parsed_or_not(page: bytes, number: int) -> Page | None:
    try:
        return parse_page(page, number)
    except DamagedPageError:
        return None


@given(
    page=st.integers(0, 60),
    changed=st.lists(st.tuples(st.integers(0, PAGE_BYTES - 1), st.integers(1, 255)), min_size=1, max_size=8),
    near_start=st.booleans(),
    is_free_list=st.booleans(),
)
def test_any_page_is_taken_or_refused_with_its_problem(
    sound_pages: list[bytes],
    page: int,
    changed: list[tuple[int, int]],
    near_start: bool,
    is_free_list: bool,
) -> None:
    content = bytearray(sound_pages[page])
    for place, mask in changed:
        content[place % 64 if near_start else place] ^= mask
    with contextlib.suppress(DamagedPageError):  # and nothing else
        assert parse_page(bytes(content), page, is_free_list=is_free_list).keys
