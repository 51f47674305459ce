"""Backups: one moment of a store that is being written, whole or not there, and what was acknowledged is in it."""

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

import streamstore.backup
import streamstore.folder
from streamstore import (
    AsyncStreamStore,
    InvalidArgumentException,
    StorageError,
    StoreClosedError,
    StoreFormatError,
    StreamStore,
)
from streamstore.apart import Report
from streamstore.check import check_store
from streamstore.disk_format import record_key
from tests.children import code, command, lines_until_killed, needs_strace, next_line, run, started, strace
from tests.commits import WAIT_S, in_thread
from tests.conftest import Clock, open_store
from tests.damage import behind_the_back_of

SHARD = "shard-000000"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "copies" / "monday"


@pytest.fixture
def filled(store: StreamStore, target: Path) -> StreamStore:
    """A store of ten records, with nothing in the folder of the copy."""
    target.parent.mkdir()
    store.create_stream("s")
    for number in range(10):
        store.put_record("s", b"%d" % number, "k")
    return store


def data_of(path: Path, clock: Clock) -> list[bytes]:
    with open_store(path, clock) as copy:
        return [record.data for record in copy.read("s", SHARD)]


def nothing_is_left(target: Path) -> bool:
    return list(target.parent.iterdir()) == []


@pytest.mark.parametrize("compact", [False, True])
def test_a_backup_opens_to_what_the_store_held_then(
    filled: StreamStore, target: Path, clock: Clock, compact: bool
) -> None:
    filled.backup(target, compact=compact)
    filled.put_record("s", b"later", "k")
    assert os.listdir(target.parent) == ["monday"]
    assert check_store(target) == []
    assert data_of(target, clock) == [b"%d" % number for number in range(10)]
    with open_store(target, clock) as copy:
        assert copy.put_record("s", b"goes on", "k").sequence_number == "10"


def test_a_compact_backup_leaves_out_what_nothing_uses(filled: StreamStore, target: Path) -> None:
    filled.create_stream("gone")
    filled.put_records("gone", [(bytes(500_000), "k")] * 8)
    filled.delete_stream("gone")
    filled.backup(target)
    filled.backup(target.with_name("small"), compact=True)
    plain, small = ((path / "data.mdb").stat().st_size for path in (target, target.with_name("small")))
    assert small < plain / 10


ENDLESS_PUTS = """
import sys
from streamstore import StreamStore
with StreamStore(sys.argv[1]) as store:
    while True:
        print(store.put_record("s", b"", "k").sequence_number, flush=True)
"""


def test_every_record_acknowledged_before_the_call_by_any_process_is_in_the_backup(
    filled: StreamStore, target: Path, clock: Clock
) -> None:
    with started(code(ENDLESS_PUTS, filled.path)) as producer:
        acknowledged = int([next_line(producer) for _ in range(100)][-1])
        filled.backup(target)
        lines_until_killed(producer)
    assert check_store(target) == []
    assert len(data_of(target, clock)) > acknowledged


def test_every_backup_taken_while_threads_write_is_one_moment_of_the_store(
    filled: StreamStore, target: Path, clock: Clock
) -> None:
    """Also of threads that need the environment for themselves, to drop a database."""
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            filled.create_stream("t")
            filled.put_records("t", [(bytes(10_000), "k")] * 10)
            filled.put_record("s", b"more", "k")
            filled.delete_stream("t")

    thread = in_thread(write)
    try:
        for number in range(3):
            before = len(list(filled.read("s", SHARD)))
            filled.backup(target.with_name(f"copy{number}"), compact=number == 1)
            assert check_store(target.with_name(f"copy{number}")) == []
            assert len(data_of(target.with_name(f"copy{number}"), clock)) >= before
    finally:
        done.set()
        thread.result(WAIT_S)


def test_a_target_that_exists_is_refused_and_left_alone(filled: StreamStore, target: Path) -> None:
    target.mkdir()
    for existing in (target, filled.path):
        with pytest.raises(InvalidArgumentException, match="path must be new"):
            filled.backup(existing)
    assert list(target.iterdir()) == []
    target.rmdir()
    target.symlink_to("nowhere")
    with pytest.raises(InvalidArgumentException):
        filled.backup(target)


def test_a_target_without_a_folder_is_a_typed_error(filled: StreamStore, tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        filled.backup(tmp_path / "no" / "such" / "folder")


def test_arguments_of_a_wrong_type_are_refused(filled: StreamStore, target: Path) -> None:
    wrong: list[Callable[[], None]] = [
        lambda: filled.backup(None),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        lambda: filled.backup(target, compact=1),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    ]
    for call in wrong:
        with pytest.raises(InvalidArgumentException):
            call()
    assert nothing_is_left(target)


def test_a_damaged_store_is_not_backed_up_as_if_it_were_sound(store_path: Path, target: Path, clock: Clock) -> None:
    target.parent.mkdir()
    with open_store(store_path, clock) as store:
        store.create_stream("s")
        store.put_record("s", b"data", "k")
    with behind_the_back_of(store_path) as raw:
        raw.flip_last_bit(b"records/1/0", record_key(0))
    with (
        open_store(store_path, clock) as store,
        pytest.raises(StoreFormatError, match="Record 0 of Shard 0 of s is dam"),
    ):
        store.backup(target)
    assert nothing_is_left(target)


def die_of_a_signal(report: Report, arguments: list[str]) -> None:
    del report, arguments
    os.abort()


def test_a_copier_that_the_c_library_ends_is_a_typed_error(filled: StreamStore, target: Path) -> None:
    with (
        mock.patch.object(streamstore.backup, "_copy_and_check", die_of_a_signal),
        pytest.raises(StorageError, match="was killed by SIGABRT"),
    ):
        filled.backup(target)
    assert nothing_is_left(target)
    filled.put_record("s", b"goes on", "k")


@pytest.mark.parametrize("failing", ["sync_file", "sync_folder"])
def test_a_backup_that_is_not_surely_on_disk_is_not_there(filled: StreamStore, target: Path, failing: str) -> None:
    real = streamstore.folder.sync_file

    def fail_in_the_last_place(path: Path) -> None:
        if failing == "sync_file" or path == target.parent:
            raise OSError(errno.EIO, "planted by the test")
        real(path)

    with (
        mock.patch.object(streamstore.folder, failing, fail_in_the_last_place),
        pytest.raises(StorageError, match="planted"),
    ):
        filled.backup(target)
    assert nothing_is_left(target)


@needs_strace
@pytest.mark.parametrize("fault", ["fsync:error=EIO:when=1", "rename:error=EIO"])
def test_whichever_call_of_the_copying_fails_nothing_is_left(
    filled: StreamStore, target: Path, tmp_path: Path, fault: str
) -> None:
    traced = strace(tmp_path / "log", f"--trace={fault.partition(':')[0]}", f"--inject={fault}")
    assert run([*traced, *command("backup", filled.path, target)]).split()[0] == "StorageError"
    assert "INJECTED" in (tmp_path / "log").read_text()
    assert nothing_is_left(target)


def test_a_disk_that_is_too_small_for_the_copy_is_told_as_full(filled: StreamStore, target: Path) -> None:
    filled.put_records("s", [(bytes(100_000), "k")] * 10)
    assert run(command("backup", filled.path, target, 500_000)).split()[0] == "StoreFullError"
    assert nothing_is_left(target)
    assert run(command("backup", filled.path, target, 5_000_000)).split()[0] == "stored"


def test_a_closed_store_and_one_that_was_moved_say_so(filled: StreamStore, target: Path, clock: Clock) -> None:
    moved = filled.path.with_name("moved")
    filled.path.rename(moved)
    with pytest.raises(StorageError, match="Cannot find"):
        filled.backup(target)
    open_store(filled.path, clock).close()
    with pytest.raises(StorageError, match="Another store lies at"):
        filled.backup(target)
    for file in filled.path.iterdir():
        file.unlink()
    filled.path.rmdir()
    moved.rename(filled.path)
    filled.close()
    with pytest.raises(StoreClosedError):
        filled.backup(target)
    assert nothing_is_left(target)


def test_a_reader_and_a_task_of_an_event_loop_can_back_up_too(filled: StreamStore, target: Path, clock: Clock) -> None:
    filled.close()
    with open_store(filled.path, clock, read_only=True) as reader:
        reader.backup(target)

    async def back_up() -> None:
        async with AsyncStreamStore(filled.path) as store:
            await store.backup(target.with_name("tuesday"), compact=True)

    asyncio.run(back_up())
    assert data_of(target, clock) == data_of(target.with_name("tuesday"), clock)
