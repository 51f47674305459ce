"""Salvage: what proves itself is in the new store under its number, all else is told, and nothing is invented."""

import fcntl
import os
import random
from pathlib import Path
from typing import Final

import pytest

from streamstore import (
    CorruptRecordError,
    InvalidArgumentException,
    SalvageResult,
    StoreFormatError,
    StoreLockedError,
    StoreNotFoundError,
    StreamStore,
    salvage_store,
)
from streamstore.check import check_store
from streamstore.disk_format import consumer_key, counter_key, idempotency_key_key, position_key, record_key
from streamstore.model import StreamNumber
from streamstore.pages import PageFile
from tests.conftest import Clock, open_store
from tests.damage import behind_the_back_of

PAGE_BYTES: Final = 4096
Contents = dict[tuple[str, str, int], tuple[str, bytes, int]]
"""Key, data and arrival of each record, by stream, shard and number."""


@pytest.fixture
def path(store_path: Path, clock: Clock) -> Path:
    """A closed store of "s", with two shards, branch pages and a big record, of "t", and of one that is deleted."""
    with open_store(store_path, clock) as store:
        store.create_stream("gone")
        store.put_records("gone", [(bytes(3_000), "k")] * 30)
        store.create_stream("s", shard_count=2, tags={"team": "a"})
        sizes = random.Random(1)
        for number in range(60):
            clock.advance(7)
            entries = [(sizes.randbytes(sizes.choice((0, 50, 400, 900))), f"key {number % 9}") for _ in range(6)]
            store.put_records("s", entries)
        store.put_record("s", sizes.randbytes(30_000), "k")
        store.put_record("s", b"once", "k", idempotency_key="once")
        store.delete_stream("gone")
        store.create_stream("t", retention_hours=5)
        for number in range(20):
            store.put_record("t", b"%d" % number, "k")
        consumer = store.consumer("t", "c", idle_timeout_seconds=0)
        for _ in range(3):
            next(consumer)
        consumer.checkpoint()
    assert check_store(store_path) == []
    return store_path


@pytest.fixture
def target(path: Path) -> Path:
    return path.with_name("salvaged")


def contents(path: Path, clock: Clock) -> tuple[Contents, dict[str, set[int]]]:
    """Return every record of a store, and the numbers that are errors, by stream and shard.

    A stream that had to be given a name is told by its number.
    """
    found: Contents = {}
    errors: dict[str, set[int]] = {}
    with open_store(path, clock) as store:
        for name in store.list_streams().stream_names:
            known_as = {"salvaged-2": "s", "salvaged-3": "t"}.get(name, name)
            for shard in store.list_shards(name).shards:
                start = 0
                while True:
                    try:
                        for record in store.read(name, shard.shard_id, starting_sequence_number=str(start)):
                            start = int(record.sequence_number) + 1
                            found[known_as, shard.shard_id, start - 1] = record[1:]
                        break
                    except CorruptRecordError as error:
                        first, last = int(error.sequence_number), int(error.last_sequence_number)
                        errors.setdefault(f"{name}/{shard.shard_id}", set()).update(range(first, last + 1))
                        start = last + 1
    return found, errors


def salvaged(path: Path, target: Path, clock: Clock, original: Contents) -> tuple[Contents, SalvageResult]:
    """Salvage, and hold what is told and what is there against what was."""
    before = (path / "data.mdb").read_bytes()
    result = salvage_store(path, target)
    assert (path / "data.mdb").read_bytes() == before
    assert check_store(target) == []
    found, errors = contents(target, clock)
    assert found.items() <= original.items(), "something was invented"
    told = {f"{each.stream_name}/{each.shard_id}": set[int]() for each in result.lost_records}
    for each in result.lost_records:
        numbers = range(int(each.first_sequence_number), int(each.last_sequence_number) + 1)
        told[f"{each.stream_name}/{each.shard_id}"].update(numbers)
    assert told == errors, "readers are told of something else"
    assert result.record_count == len(found)
    assert result.lost_record_count == sum(map(len, told.values()))
    assert all(finding.endswith(".") for finding in result.findings)
    return found, result


def test_of_a_sound_store_everything_is_copied_and_nothing_told(path: Path, target: Path, clock: Clock) -> None:
    original, _ = contents(path, clock)
    found, result = salvaged(path, target, clock, original)
    assert found == original
    assert result == SalvageResult(2, len(original), 0, (), ())
    with behind_the_back_of(path) as old, behind_the_back_of(target) as new:
        for database in (b"streams", b"counters", b"consumers", b"positions", b"format", b"idempotency_keys"):
            assert new.items(database) == old.items(database)
        for database in (b"records/2/0", b"records/2/1", b"idempotency_times"):
            assert new.items(database) == old.items(database)


def test_a_record_that_is_damaged_costs_itself_only(path: Path, target: Path, clock: Clock) -> None:
    original, _ = contents(path, clock)
    with behind_the_back_of(path) as raw:
        raw.flip_last_bit(b"records/3/0", record_key(4))
        raw.delete(b"records/3/0", record_key(19))
    found, result = salvaged(path, target, clock, original)
    assert original.keys() - found.keys() == {("t", "shard-000000", 4), ("t", "shard-000000", 19)}
    assert result.findings[1:] == (
        "Stream t, shard-000000: records 4 to 4 are lost.",
        "Stream t, shard-000000: records 19 to 19 are lost.",
    )
    with open_store(target, clock) as store:
        assert store.put_record("t", b"20", "k").sequence_number == "20"


def pages_of(path: Path, database: bytes) -> list[int]:
    """Return the root of a database, which is a leaf or a branch."""
    with PageFile(path / "data.mdb") as pages:
        names = pages.nodes(pages.snapshots()[0].main, "names")
        return [node.tree.root for node in names if node.key == database and node.tree and node.tree.root]


def overwrite(path: Path, page: int, content: bytes) -> None:
    with (path / "data.mdb").open("r+b") as file:
        file.seek(page * PAGE_BYTES)
        file.write(content)


def test_a_branch_page_that_is_gone_costs_no_record(path: Path, target: Path, clock: Clock) -> None:
    original, _ = contents(path, clock)
    (root,) = pages_of(path, b"records/2/0")
    overwrite(path, root, bytes(PAGE_BYTES))
    found, result = salvaged(path, target, clock, original)
    assert found == original
    assert "Of the" in result.findings[0]


@pytest.mark.parametrize("meta", [0, 1])
def test_one_meta_page_that_is_gone_costs_no_record(path: Path, target: Path, clock: Clock, meta: int) -> None:
    original, _ = contents(path, clock)
    overwrite(path, meta, bytes(PAGE_BYTES))
    found, result = salvaged(path, target, clock, original)
    assert found == original
    assert result.findings[0].startswith("A meta page is damaged")


def test_both_meta_pages_that_are_gone_cost_no_record(path: Path, target: Path, clock: Clock) -> None:
    original, _ = contents(path, clock)
    overwrite(path, 0, bytes(2 * PAGE_BYTES))
    result = salvage_store(path, target)
    assert check_store(target) == []
    found, _ = contents(target, clock)
    assert original.items() <= found.items()
    assert any("they were looked for on all pages" in finding for finding in result.findings)


def test_the_list_of_databases_that_is_gone_costs_no_record(path: Path, target: Path, clock: Clock) -> None:
    original, _ = contents(path, clock)
    with PageFile(path / "data.mdb") as pages:
        roots = [snapshot.main.root for snapshot in pages.snapshots()]
    for root in roots:
        assert root is not None
        overwrite(path, root, random.Random(1).randbytes(PAGE_BYTES))
    salvage_store(path, target)
    assert check_store(target) == []
    found, _ = contents(target, clock)
    assert original.items() <= found.items()


def test_a_stream_whose_entry_is_gone_is_salvaged_under_a_name_of_its_number(
    path: Path, target: Path, clock: Clock
) -> None:
    original, _ = contents(path, clock)
    for page in range(2, (path / "data.mdb").stat().st_size // PAGE_BYTES):
        place = (path / "data.mdb").read_bytes().find(b"PROVISIONED", page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
        if place >= 0:  # every version of every entry
            overwrite(path, page, bytes(PAGE_BYTES))
    result = salvage_store(path, target)
    assert check_store(target) == []
    found, _ = contents(target, clock)
    assert found == original
    assert any(
        "number 2 is lost: its records are in salvaged-2, with 2 equal shards" in each for each in result.findings
    )


@pytest.mark.parametrize(
    ("database", "key"),
    [
        (b"counters", counter_key(StreamNumber(2), 0)),
        (b"counters", counter_key(StreamNumber(3), 0)),
        (b"consumers", consumer_key(StreamNumber(3), "c")),
        (b"positions", position_key(StreamNumber(3), "c", 0)),
        (b"idempotency_keys", idempotency_key_key(StreamNumber(2), "once")),
        (b"streams", b"s"),
        (b"streams", b"t"),
        (b"format", b"secret"),
        (b"format", b"dialect"),
        (b"format", b"version"),
        (b"format", b"next_stream_number"),
        (b"format", b"shard_count"),
    ],
)
def test_an_entry_that_is_damaged_is_told_and_costs_no_record(
    path: Path, target: Path, clock: Clock, database: bytes, key: bytes
) -> None:
    original, _ = contents(path, clock)
    with behind_the_back_of(path) as raw:
        raw.flip_last_bit(database, key)
    found, result = salvaged(path, target, clock, original)
    assert found == original
    assert f"in {database.decode()}, " in result.findings[0]


def test_whichever_page_is_overwritten_nothing_is_invented_and_the_rest_is_there(
    path: Path, target: Path, clock: Clock
) -> None:
    original, _ = contents(path, clock)
    sound = (path / "data.mdb").read_bytes()
    noise = random.Random(2)
    worst = 0
    for page in range(len(sound) // PAGE_BYTES):
        if not any(sound[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]):
            continue
        overwrite(path, page, noise.randbytes(PAGE_BYTES) if page % 2 else bytes(PAGE_BYTES))
        folder = target.with_name(f"salvaged{page}")
        salvage_store(path, folder)
        assert check_store(folder) == [], page
        found, errors = contents(folder, clock)
        missing = original.keys() - found.keys()
        assert all(number in errors[f"{name}/{shard_id}"] for name, shard_id, number in missing), page
        of_streams = {key: record for key, record in found.items() if key[0] in "st"}
        assert of_streams.items() <= original.items(), page
        worst = max(worst, len(missing))
        (path / "data.mdb").write_bytes(sound)
    assert 0 < worst < 100, "one page of small records at most"


def test_a_file_that_ends_early_is_salvaged_up_to_there(path: Path, target: Path, clock: Clock) -> None:
    original, _ = contents(path, clock)
    os.truncate(path / "data.mdb", 60 * PAGE_BYTES)
    result = salvage_store(path, target)
    assert check_store(target) == []
    found, _ = contents(target, clock)
    assert 0 < len(found) < len(original)
    assert result.findings


def test_pages_that_changed_places_are_found_by_what_proves_itself_on_them(
    path: Path, target: Path, clock: Clock
) -> None:
    original, _ = contents(path, clock)
    sound = (path / "data.mdb").read_bytes()
    with PageFile(path / "data.mdb") as pages:
        for node in pages.nodes(pages.snapshots()[0].main, "names"):
            assert node.tree is None or list(pages.nodes(node.tree, "any"))
    leaves = [page for page in range(2, len(sound) // PAGE_BYTES) if sound[page * PAGE_BYTES + 10] == 2][:8]
    for left, right in zip(leaves[::2], leaves[1::2], strict=True):
        for here, there in ((left, right), (right, left)):
            overwrite(path, here, sound[there * PAGE_BYTES : (there + 1) * PAGE_BYTES])
    found, _ = salvaged(path, target, clock, original)
    assert found == original


def test_a_store_that_is_open_is_refused_and_goes_on(path: Path, target: Path, clock: Clock) -> None:
    with open_store(path, clock) as store:
        with pytest.raises(StoreLockedError, match="is open"):
            salvage_store(path, target)
        store.put_record("t", b"", "k")
    assert not target.exists()


def test_nobody_opens_the_store_while_it_is_salvaged(path: Path, target: Path) -> None:
    descriptor = os.open(path / "data.mdb", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(StoreLockedError):
            salvage_store(path, target)
    finally:
        os.close(descriptor)


def test_what_is_no_store_at_all_makes_none(tmp_path: Path, path: Path, target: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        salvage_store(tmp_path / "nothing", target)
    with pytest.raises(InvalidArgumentException):
        salvage_store(path, path)
    for content in (b"", b"hello", random.Random(3).randbytes(100_000)):
        (path / "data.mdb").write_bytes(content)
        with pytest.raises(StoreFormatError, match="Nothing in the file proves itself"):
            salvage_store(path, target)
        assert not target.exists()


def test_a_salvaged_store_can_be_damaged_and_salvaged_again(path: Path, target: Path, clock: Clock) -> None:
    original, _ = contents(path, clock)
    (root,) = pages_of(path, b"records/3/0")
    overwrite(path, root, bytes(PAGE_BYTES))
    first, _ = salvaged(path, target, clock, original)
    with behind_the_back_of(target) as raw:
        raw.flip_last_bit(b"records/2/0", record_key(0))
    again = target.with_name("again")
    second, result = salvaged(target, again, clock, original)
    assert second.keys() <= first.keys()
    assert result.lost_record_count >= len(original) - len(first)


def test_idempotency_keys_that_are_salvaged_still_answer(path: Path, target: Path, clock: Clock) -> None:
    with StreamStore(path, clock=clock) as store:
        before = store.put_record("s", b"once", "k", idempotency_key="once")
    salvage_store(path, target)
    with StreamStore(target, clock=clock) as store:
        assert store.put_record("s", b"once", "k", idempotency_key="once") == before
        consumer = store.consumer("t", "c", idle_timeout_seconds=0)
        assert next(consumer).data == b"3"
