"""The check in a child process: what ends the C library there is a finding here, told in a sentence."""

import os
import re
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from unittest import mock

import pytest

import streamstore.check
from streamstore import StoreFormatError, StoreNotFoundError, check_store, check_store_apart
from streamstore.apart import Report
from streamstore.disk_format import record_key
from streamstore.pages import PageFile
from tests.conftest import Clock, open_store
from tests.damage import behind_the_back_of

PAGE_BYTES = 4096


@pytest.fixture
def path(store_path: Path, clock: Clock) -> Path:
    """A closed store of a few hundred pages."""
    with open_store(store_path, clock) as store:
        store.create_stream("s", shard_count=2)
        for number in range(40):
            store.put_records("s", [(bytes(300), f"{number}-{place}") for place in range(20)])
    return store_path


def test_a_sound_store_has_no_finding_and_one_that_writes_can_be_checked(path: Path, clock: Clock) -> None:
    assert check_store_apart(path) == []
    with open_store(path, clock) as store:
        store.put_record("s", b"", "k")
        assert check_store_apart(path) == []
        store.put_record("s", b"", "k")


def test_both_checks_find_the_same(path: Path) -> None:
    with behind_the_back_of(path) as raw:
        raw.flip_last_bit(b"records/1/0", record_key(3))
        raw.delete(b"records/1/1", record_key(4))
    assert check_store_apart(path) == check_store(path) != []


def test_what_cannot_be_opened_is_an_error_and_no_finding(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        check_store_apart(tmp_path / "nothing")
    (tmp_path / "data.mdb").write_bytes(b"hello")
    with pytest.raises(StoreFormatError):
        check_store_apart(tmp_path)


def die_of_SIGSEGV(report: Report, arguments: Sequence[str]) -> None:  # noqa: N802
    del arguments
    report("Found before.")
    os.kill(os.getpid(), signal.SIGSEGV)


def die_of_SIGBUS(report: Report, arguments: Sequence[str]) -> None:  # noqa: N802
    del arguments
    report("Found before.")
    os.kill(os.getpid(), signal.SIGBUS)


def fail(report: Report, arguments: Sequence[str]) -> None:
    report("Found before.")
    raise ValueError(f"planted in {len(arguments)}")


def hang(report: Report, arguments: Sequence[str]) -> None:
    del arguments
    report("Found before.")
    signal.pause()


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        (die_of_SIGSEGV, "was killed by SIGSEGV."),
        (die_of_SIGBUS, "was killed by SIGBUS."),
        (fail, "ended with status 1, saying: ValueError: planted in 1."),
        (hang, "hung: it got no further for 3 s."),
    ],
)
def test_however_the_child_ends_it_is_told_behind_what_was_found_before(
    tmp_path: Path, end: Callable[[Report, Sequence[str]], None], sentence: str
) -> None:
    with mock.patch.object(streamstore.check, "_check_in_child", end):
        findings = check_store_apart(tmp_path, stall_seconds=3)
    assert findings == [
        "Found before.",
        f"The check could not be finished: the process that read {tmp_path} {sentence}",
    ]


def test_a_damaged_page_of_one_shard_hides_nothing_of_the_others(path: Path) -> None:
    with behind_the_back_of(path) as raw:
        raw.flip_last_bit(b"records/1/1", record_key(5))
    with PageFile(path / "data.mdb") as pages:
        names = pages.nodes(pages.snapshots()[0].main, "names")
        (root,) = (node.tree.root for node in names if node.key == b"records/1/0" and node.tree)
    assert root is not None
    with (path / "data.mdb").open("r+b") as file:
        file.seek(root * PAGE_BYTES)
        file.write(bytes(PAGE_BYTES))
    first, *rest = check_store_apart(path)
    assert re.fullmatch(r"Records 0 to \d+ of Shard 0 of s are damaged: they are missing\.", first)
    assert "Record 5 of Shard 1 of s is damaged: its checksum does not match." in rest
    assert not any("MDB_BAD_TXN" in finding for finding in rest)


def test_pages_that_are_overwritten_are_found_and_kill_nobody(path: Path) -> None:
    original = (path / "data.mdb").read_bytes()
    random = Random(1)
    for start in range(2, 12):
        changed = bytearray(original)
        for page in range(start, len(original) // PAGE_BYTES, 10):  # some of them hold no live data
            changed[page * PAGE_BYTES + 16 : (page + 1) * PAGE_BYTES] = random.randbytes(PAGE_BYTES - 16)
        (path / "data.mdb").write_bytes(changed)
        try:
            assert check_store_apart(path)
        except StoreFormatError:
            pass  # it does not even open
    (path / "data.mdb").write_bytes(original)
    assert check_store_apart(path) == []
