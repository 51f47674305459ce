"""The library of the torture that records calls and lets them fail: what it tells and does is so."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.children import PROJECT, WAIT_S
from tools.torture.calls import SOURCE, Entry, Fault, Kind, compile_library, environment_with, lacks_gcc, read_log

pytestmark = pytest.mark.skipif(lacks_gcc() is not None, reason="needs gcc")

PREPARED = """
import os, sys
from pathlib import Path
from tools.torture.calls import Calls, Fault, Kind
library, folder = map(Path, sys.argv[1:])
calls = Calls(library)
calls.watch(folder)
calls.record(folder.with_name("log"))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_library(SOURCE, tmp_path_factory.mktemp("library"))


def run(library: Path, tmp_path: Path, program: str, *, status: int = 0) -> tuple[list[Entry], str]:
    """Run a few lines under the library, and return the log and what they printed."""
    folder = tmp_path / "folder"
    folder.mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", PREPARED + program, library, folder],
        cwd=PROJECT,
        env=os.environ | environment_with(library),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert ended.returncode == status, ended.stderr
    return list(read_log(tmp_path / "log")), ended.stdout


def test_the_log_holds_what_was_done_in_its_order(library: Path, tmp_path: Path) -> None:
    entries, _ = run(
        library,
        tmp_path,
        """
file = os.open(folder / "a", os.O_RDWR | os.O_CREAT | os.O_DSYNC)
os.write(file, b"one")
os.pwritev(file, [b"t", b"wo"], 8)
calls.mark(b"both")
os.fdatasync(file)
os.ftruncate(file, 5)
os.posix_fallocate(file, 0, 9)
os.close(file)
os.rename(folder / "a", folder / "b")
(folder.with_name("elsewhere")).write_bytes(b"not ours")
os.chdir(folder)
os.mkdir("c")
os.unlink("b")
os.rmdir("c")
""",
    )
    folder = str(tmp_path / "folder")
    assert [(entry.kind, entry.offset, entry.length, entry.data, entry.is_synced) for entry in entries[1:4]] == [
        (Kind.WRITE, 0, 3, b"one", True),
        (Kind.WRITE, 8, 3, b"two", True),
        (Kind.MARK, 0, 0, b"both", False),
    ]
    assert [entry.kind.name for entry in entries[4:8]] == ["SYNC", "TRUNCATE", "ALLOCATE", "CLOSE"]
    assert entries[0].has_created
    assert {entry.file for entry in entries[:3] + entries[4:9]} == {entries[0].file}
    assert [(entry.kind, entry.paths) for entry in entries[8:]] == [
        (Kind.RENAME, (f"{folder}/a", f"{folder}/b")),
        (Kind.MAKE_FOLDER, (f"{folder}/c",)),
        (Kind.UNLINK, (f"{folder}/b",)),
        (Kind.REMOVE_FOLDER, (f"{folder}/c",)),
    ]


@pytest.mark.parametrize(
    ("fault", "told", "stored"),
    [
        (Fault.NONE, "6", b"onetwo"),
        (Fault.REFUSED, "EIO", b""),
        (Fault.SHORT, "3", b"one"),
        (Fault.FAILED_AFTERWARDS, "EIO", b"onetwo"),
        (Fault.KILLED_BEFORE, "", b""),
        (Fault.KILLED_HALFWAY, "", b"one"),
        (Fault.KILLED_AFTERWARDS, "", b"onetwo"),
    ],
)
def test_a_fault_does_to_its_call_what_it_says(
    library: Path, tmp_path: Path, fault: Fault, told: str, stored: bytes
) -> None:
    is_killed = fault >= Fault.KILLED_BEFORE
    entries, printed = run(
        library,
        tmp_path,
        f"""
import errno
file = os.open(folder / "a", os.O_RDWR | os.O_CREAT | os.O_DSYNC)
os.write(file, b"")
calls.arm(2, Fault({fault}), kinds=frozenset([Kind.WRITE]))
os.write(file, b"")
try:
    print(os.write(file, b"onetwo"))
except OSError as error:
    print(errno.errorcode[error.errno])
os.write(file, b"")
print(calls.disarm())
""",
        status=-signal.SIGKILL if is_killed else 0,
    )
    assert printed.split() == ([] if is_killed else [told, "3"])
    assert (tmp_path / "folder" / "a").read_bytes() == stored
    written = [entry.data for entry in entries if entry.kind == Kind.WRITE and entry.data]
    assert written == ([stored] if stored else [])
    synced = [entry.is_synced for entry in entries if entry.data]
    assert synced == ([fault in (Fault.NONE, Fault.SHORT)] if stored else [])


def test_a_write_is_made_and_fails_and_those_behind_it_are_refused(library: Path, tmp_path: Path) -> None:
    entries, printed = run(
        library,
        tmp_path,
        """
file = os.open(folder / "a", os.O_RDWR | os.O_CREAT)
calls.arm(2, Fault.FAILED_THEN_REFUSED, kinds=frozenset([Kind.WRITE]), times=3)
for word in b"1", b"2", b"3", b"4", b"5":
    try:
        print(os.write(file, word))
    except OSError:
        print("failed")
""",
    )
    assert printed.split() == ["1", "failed", "failed", "failed", "1"]
    assert (tmp_path / "folder" / "a").read_bytes() == b"125"
    assert [entry.data for entry in entries if entry.kind == Kind.WRITE and entry.data] == [b"1", b"2", b"5"]


def test_every_kind_of_call_can_fail_once_or_for_ever(library: Path, tmp_path: Path) -> None:
    _, printed = run(
        library,
        tmp_path,
        """
import errno, fcntl, mmap
path = folder / "a"
path.write_bytes(bytes(4096))
file = os.open(path, os.O_RDWR)
synced = os.open(path, os.O_RDWR | os.O_DSYNC)
spare = [os.open(path, os.O_RDWR) for _ in range(3)]
act = {
    Kind.OPEN: lambda: os.close(os.open(path, os.O_RDONLY)),
    Kind.CLOSE: lambda: os.close(spare.pop()),
    Kind.READ: lambda: os.pread(file, 1, 0),
    Kind.WRITE: lambda: os.write(file, b"x"),
    Kind.SYNC: lambda: os.fsync(file),
    Kind.TRUNCATE: lambda: os.ftruncate(file, 4096),
    Kind.ALLOCATE: lambda: os.posix_fallocate(file, 0, 4096),
    Kind.RENAME: lambda: os.rename(path, path),
    Kind.UNLINK: lambda: os.unlink(path),
    Kind.MAKE_FOLDER: lambda: os.mkdir(folder / "b"),
    Kind.REMOVE_FOLDER: lambda: os.rmdir(folder / "b"),
    Kind.MAP: lambda: mmap.mmap(file, 4096, access=mmap.ACCESS_READ).close(),
    Kind.LOCK: lambda: fcntl.flock(file, fcntl.LOCK_SH),
    Kind.SYNCED_WRITE: lambda: os.write(synced, b"x"),
}
for times in (1, 2):
    for kind, call in act.items():
        calls.arm(1, Fault.REFUSED, kinds=frozenset([kind]), times=times, error=errno.ENOSPC)
        for _ in range(times):
            try:
                call()
            except OSError as error:
                print(kind.name, errno.errorcode[error.errno], error.errno == errno.ENOSPC)
        assert calls.disarm() == times
""",
    )
    kinds = [kind for kind in Kind if kind != Kind.MARK]
    told = [f"{kind.name} ENOSPC True" for times in (1, 2) for kind in kinds for _ in range(times)]
    assert printed.splitlines() == told


def test_forked_children_go_on_with_the_log_and_the_fault(library: Path, tmp_path: Path) -> None:
    entries, printed = run(
        library,
        tmp_path,
        """
file = os.open(folder / "a", os.O_RDWR | os.O_CREAT)
calls.arm(2, Fault.KILLED_AFTERWARDS, kinds=frozenset([Kind.WRITE]))
child = os.fork()
if child == 0:
    for letter in b"abc":
        os.write(file, bytes([letter]))
print(os.WTERMSIG(os.waitpid(child, 0)[1]))
calls.mark(b"killed")
os.write(file, b"d")
""",
    )
    assert printed.split() == [str(int(signal.SIGKILL))]
    assert [entry.data for entry in entries if entry.data] == [b"a", b"b", b"killed", b"d"]
