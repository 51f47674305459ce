"""The folder of a store: created whole or not at all, locked against what loses records, refused where it is unsafe."""

import _thread
import contextlib
import gc
import os
import shutil
import stat
import subprocess
import threading
from pathlib import Path
from typing import Final

import pytest

from streamstore import (
    InvalidArgumentException,
    StorageError,
    StoreFormatError,
    StoreLockedError,
    StoreNotFoundError,
    StreamStore,
    folder,
)
from streamstore.check import check_store
from streamstore.folder import filesystem_of
from tests.children import code, command, needs_root, needs_strace, next_line, run, started, strace, tell
from tests.interrupts import interrupted_everywhere

STREAM: Final = "s"
SHARD: Final = "shard-000000"
NOBODY: Final = 65534

OPENER: Final = """
import sys
from streamstore import StreamStore, StoreLockedError, folder
folder.JOIN_TIMEOUT_S = 0.2
try:
    with StreamStore(sys.argv[1]) as store:
        for _ in range(20):
            store.put_record("s", b"joiner", "key")
    print("joined")
except StoreLockedError:
    print("refused")
"""


def create(path: Path) -> None:
    with StreamStore(path) as store:
        store.create_stream(STREAM)


def datas(path: Path) -> list[bytes]:
    assert check_store(path) == []
    with StreamStore(path) as store:
        return [record.data for record in store.read(STREAM, SHARD)]


def open_and_close_lock_file(path: Path) -> None:
    (path / "lock.mdb").read_bytes()


def copy_folder(path: Path) -> None:
    shutil.copytree(path, path.with_name("copy"))


def unlink_lock_file(path: Path) -> None:
    (path / "lock.mdb").unlink()


def replace_lock_file(path: Path) -> None:
    (path / "lock.mdb").rename(path.with_name("old"))
    (path / "lock.mdb").write_bytes(b"")


@pytest.mark.parametrize("drop_locks", [open_and_close_lock_file, copy_folder, unlink_lock_file, replace_lock_file])
def test_nobody_joins_a_process_that_lost_the_lock_of_lmdb(tmp_path: Path, drop_locks: object) -> None:
    assert callable(drop_locks)
    path = tmp_path / "store"
    create(path)
    with StreamStore(path) as store:
        store.put_record(STREAM, b"before", "key")
        drop_locks(path)
        assert run(code(OPENER, path)) == "refused\n"
        for _ in range(20):
            store.put_record(STREAM, b"after", "key")
    assert datas(path) == [b"before"] + [b"after"] * 20
    assert run(code(OPENER, path)) == "joined\n"


def test_a_process_joins_while_another_one_still_holds_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "store"
    create(path)
    with StreamStore(path) as store, started(command("echo_puts", path)) as third:
        assert next_line(third) == "open"
        open_and_close_lock_file(path)
        store.put_record(STREAM, b"ours", "key")
        assert run(code(OPENER, path)) == "joined\n"
        tell(third, "third")
        assert next_line(third) == "21"
        store.put_record(STREAM, b"ours", "key")
    assert datas(path) == [b"ours"] + [b"joiner"] * 20 + [b"third", b"ours"]


def test_processes_join_each_other(tmp_path: Path) -> None:
    path = tmp_path / "store"
    create(path)
    with StreamStore(path) as store:
        store.put_record(STREAM, b"ours", "key")
        assert run(code(OPENER, path)) == "joined\n"
        store.put_record(STREAM, b"ours", "key")
    assert datas(path) == [b"ours"] + [b"joiner"] * 20 + [b"ours"]


def test_the_lock_survives_every_close_of_the_data_file(tmp_path: Path) -> None:
    path = tmp_path / "store"
    create(path)
    with StreamStore(path):
        (path / "data.mdb").read_bytes()
        with (path / "data.mdb").open("rb+"):
            pass
        locked = run(
            code(
                "import fcntl, sys\n"
                "try: fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
                "except BlockingIOError: print('locked')",
                path / "data.mdb",
            )
        )
    assert locked == "locked\n"


def test_a_store_is_open_once_in_a_process(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with StreamStore(path):
        (tmp_path / "link").symlink_to(path)
        for same in (path, tmp_path / "link"):
            with pytest.raises(StoreLockedError):
                StreamStore(same)
        with pytest.raises(StoreLockedError):
            StreamStore(path, read_only=True)
    StreamStore(path).close()


def test_two_threads_that_open_at_once_get_one_store(tmp_path: Path) -> None:
    outcomes: list[object] = []

    def open_store() -> None:
        try:
            outcomes.append(StreamStore(tmp_path / "store"))
        except StoreLockedError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=open_store) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    opened = [store for store in outcomes if isinstance(store, StreamStore)]
    assert len(opened) == 1
    assert len(outcomes) == 4
    opened[0].close()


@pytest.mark.parametrize("failing", ["sync_data_file", "share", "data_file_bytes"])
def test_an_opening_that_fails_leaves_nothing_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "store"
    create(path)

    def fail(_: object) -> None:
        raise OSError(5, "planted by the test")

    monkeypatch.setattr(folder.FolderLock, failing, fail)
    with pytest.raises(StorageError, match="planted") as held:
        StreamStore(path)
    monkeypatch.undo()
    StreamStore(path).close()
    assert held.tb is not None  # it holds on to all that the opening had open: nothing was closed by the collector


def test_a_close_that_fails_at_the_descriptor_has_closed_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux closes a descriptor whatever its close reports, and all that the store wrote was synced before."""
    path = tmp_path / "store"
    create(path)
    close, failing = os.close, False

    def close_and_fail(descriptor: int) -> None:
        is_data_file = os.readlink(f"/proc/self/fd/{descriptor}") == os.fspath(path / "data.mdb")
        close(descriptor)
        if failing and is_data_file:
            raise OSError(5, "planted by the test")

    monkeypatch.setattr(os, "close", close_and_fail)
    store = StreamStore(path)
    failing = True
    store.close()
    failing = False
    StreamStore(path).close()


@pytest.mark.parametrize("interrupted", ["share", "sync_data_file"])
def test_an_interrupted_opening_leaves_nothing_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: str
) -> None:
    path = tmp_path / "store"
    create(path)

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(folder.FolderLock, interrupted, interrupt)
    with pytest.raises(KeyboardInterrupt):
        StreamStore(path)
    monkeypatch.undo()
    StreamStore(path).close()


def test_an_opening_that_gets_no_thread_leaves_nothing_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", start)
    with pytest.raises(StorageError, match="Cannot start a thread"):
        StreamStore(tmp_path / "store")
    monkeypatch.undo()
    StreamStore(tmp_path / "store").close()


CREATING_CALLS: Final = {
    "openat": 12, "mkdir": 2, "fallocate": 2, "pwrite64": 3, "writev": 1, "fdatasync": 2, "fsync": 3, "rename": 1,
    "unlinkat": 2, "rmdir": 1, "flock": 3,
}  # fmt: skip
CREATE: Final = """
import sys
from streamstore import StreamStore
print("begin", flush=True)
StreamStore(sys.argv[1]).close()
"""


@needs_strace
@pytest.mark.slow
def test_killed_at_any_call_of_creation_there_is_no_store_or_a_whole_one(tmp_path: Path) -> None:
    found: set[str] = set()
    for call, count in CREATING_CALLS.items():
        for back in range(count):
            path = tmp_path / f"{call}-{back}"
            log = tmp_path / "log"
            trace = [f"--trace={call}", f"--trace-path={path}", f"--trace-path={path}/.creating"]
            names = [f"--trace-path={path}/{name}" for name in ("data.mdb", "lock.mdb", ".creating/data.mdb")]
            inject = f"--inject={call}:signal=SIGKILL:when={back + 1}"
            run([*strace(log, *trace, *names, inject), *code(CREATE, path)], status=None)
            found.add("store" if (path / "data.mdb").exists() else "none")
            create(path)
            assert check_store(path) == []
            assert set(os.listdir(path)) - {".creating"} == {"data.mdb", "lock.mdb"}
    assert found == {"store", "none"}


def test_processes_that_create_at_once_share_one_store(tmp_path: Path) -> None:
    path = tmp_path / "store"
    program = (
        "import sys; from streamstore import StreamStore\n"
        "sys.stdin.readline()\n"
        "with StreamStore(sys.argv[1]) as store: store.create_stream(sys.argv[2])\n"
        "print('created')"
    )
    with contextlib.ExitStack() as stack:
        creators = [stack.enter_context(started(code(program, path, name))) for name in "abc"]
        for creator in creators:
            tell(creator)
        assert [next_line(creator) for creator in creators] == ["created"] * 3
    with StreamStore(path) as store:
        assert store.list_streams().stream_names == ("a", "b", "c")


def test_a_crashed_creation_is_swept_away(tmp_path: Path) -> None:
    path = tmp_path / "store"
    (path / ".creating").mkdir(parents=True)
    (path / ".creating" / "data.mdb").write_bytes(b"half")
    create(path)
    assert not (path / ".creating").exists()


def test_a_folder_that_holds_anything_else_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear")
    with pytest.raises(StoreFormatError, match="letter"):
        StreamStore(tmp_path)
    assert os.listdir(tmp_path) == ["letter"]


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("dear")
    with pytest.raises(StorageError):
        StreamStore(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "dear"


def test_a_missing_parent_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        StreamStore(tmp_path / "parent" / "store")
    assert os.listdir(tmp_path) == []


def test_a_missing_store_is_not_created_unless_asked_for(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        StreamStore(tmp_path / "store", create=False)
    with pytest.raises(StoreNotFoundError):
        StreamStore(tmp_path / "store", read_only=True)
    assert os.listdir(tmp_path) == []


@needs_root
def test_a_folder_that_may_not_be_written_is_refused_untouched(tmp_path: Path) -> None:
    create(tmp_path / "store")
    (tmp_path / "empty").mkdir()
    for parent in [tmp_path, *tmp_path.parents]:
        if parent.stat().st_uid == os.getuid() and parent != Path(parent.anchor) and "pytest" in parent.name:
            parent.chmod(parent.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    program = (
        "import os, sys; from streamstore import StorageError, StreamStore\n"
        f"os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "for name in ('store', 'empty', 'new'):\n"
        "    try: StreamStore(sys.argv[1] + '/' + name)\n"
        "    except StorageError as error: print(type(error).__name__)"
    )
    assert run(code(program, tmp_path)) == "StorageError\n" * 3
    assert os.listdir(tmp_path / "empty") == []
    assert not (tmp_path / "new").exists()


MOUNTS: Final = r"""
22 1 0:21 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:30 / /mnt rw - ext4 /dev/disk rw
31 30 0:31 / /mnt/nfs rw - nfs4 server:/export rw
32 31 0:32 / /mnt/nfs/local rw - xfs /dev/other rw
33 30 0:33 / /mnt/with\040space rw - cifs //server/share rw
34 30 0:34 / /mnt/with\134slash rw - fuse.sshfs host: rw
35 30 0:35 / /mnt/over rw - nfs server:/under rw
36 35 0:36 / /mnt/over rw - tmpfs tmpfs rw
37 30 0:37 / /mnt/under rw - tmpfs tmpfs rw
38 37 0:38 / /mnt/under rw master:2 propagate_from:3 - 9p share rw
"""
ODD_MOUNT: Final = "/mnt/no\u00a0word\u2028no\u001cline"


@pytest.mark.parametrize(
    ("path", "filesystem"),
    [
        ("/elsewhere/store", "ext4"),
        ("/mnt/store", "ext4"),
        ("/mnt/nfs", "nfs4"),
        ("/mnt/nfs/deep/store", "nfs4"),
        ("/mnt/nfsnot/store", "ext4"),
        ("/mnt/nfs/local/store", "xfs"),
        ("/mnt/with space/store", "cifs"),
        ("/mnt/with\\slash/store", "fuse.sshfs"),
        ("/mnt/over/store", "tmpfs"),
        ("/mnt/under/store", "9p"),
        (f"{ODD_MOUNT}/store", "ceph"),
    ],
)
def test_the_filesystem_of_a_path_is_that_of_the_nearest_visible_mount(path: str, filesystem: str) -> None:
    mounts = f"{MOUNTS}39 30 0:39 / {ODD_MOUNT} rw - ceph host: rw\n"
    assert filesystem_of(Path(path), mounts) == filesystem


@pytest.mark.parametrize("filesystem", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "ceph", "lustre"])
def test_a_network_filesystem_is_refused_unless_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filesystem: str
) -> None:
    def anything(_path: Path, _mountinfo: str) -> str:
        return filesystem

    monkeypatch.setattr(folder, "filesystem_of", anything)
    with pytest.raises(InvalidArgumentException, match="allow_network_filesystem"):
        StreamStore(tmp_path / "store")
    StreamStore(tmp_path / "store", allow_network_filesystem=True).close()


def test_the_real_mounts_are_understood(tmp_path: Path) -> None:
    found = subprocess.run(
        ["df", "--output=fstype", tmp_path], capture_output=True, text=True, check=True
    ).stdout.split()[-1]
    assert filesystem_of(tmp_path, Path("/proc/self/mountinfo").read_text()) == found


@needs_root
def test_a_mount_with_bytes_as_its_name_is_in_nobodys_way(tmp_path: Path) -> None:
    program = """
import os, subprocess, sys
from streamstore import StreamStore
named = sys.argv[1] + os.fsdecode(b"/\\xe9")
os.mkdir(named)
if subprocess.run(["mount", "-t", "tmpfs", "none", named], stderr=subprocess.DEVNULL).returncode == 0:
    print("mounted", flush=True)
    for path in (f"{sys.argv[1]}/store", f"{named}/store"):
        StreamStore(path).close()
        print("opened", flush=True)
"""
    printed = run(["unshare", "--mount", *code(program, tmp_path)], status=None).split()
    if not printed:
        pytest.skip("needs a mount of its own")
    assert printed == ["mounted", "opened", "opened"]


def test_the_lock_file_has_all_its_blocks_before_it_is_mapped(tmp_path: Path) -> None:
    create(tmp_path / "store")
    (tmp_path / "store" / "lock.mdb").unlink()
    with StreamStore(tmp_path / "store"):
        status = (tmp_path / "store" / "lock.mdb").stat()
    assert status.st_size == folder.LOCK_FILE_BYTES
    assert status.st_blocks * 512 >= status.st_size


@needs_root
@pytest.mark.slow
def test_a_full_disk_is_an_error_and_never_a_signal(tmp_path: Path) -> None:
    """The program mounts 16 MB of its own, fills them, and prints what each attempt came to."""
    printed = run(command("full_disk", tmp_path), status=None).splitlines()
    if printed == ["cannot mount"]:
        pytest.skip("needs a loop mount")
    assert printed == [
        "create: StoreFullError",
        "open without a lock file: StoreFullError",
        "put: StoreFullError",
        "read: all there",
        "put again: StoreFullError",
        "put after space returned: stored",
        "check: []",
    ]


def test_a_file_size_limit_is_told_as_a_full_disk(tmp_path: Path) -> None:
    create(tmp_path / "store")
    with StreamStore(tmp_path / "store") as store:
        store.put_record(STREAM, b"first", "key")
    program = """
import resource, sys
from streamstore import StoreFullError, StreamStore
with StreamStore(sys.argv[1]) as store:
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, unlimited[1]))
    stored = 0
    for _ in range(3):
        try:
            while True:
                store.put_record("s", bytes(10_000), "key")
                stored += 1
        except StoreFullError:
            print("full", flush=True)
    assert len(list(store.read("s", "shard-000000"))) == 1 + stored
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    store.put_record("s", b"last", "key")
"""
    assert run(code(program, tmp_path / "store")) == "full\n" * 3
    stored = datas(tmp_path / "store")
    assert stored[-1] == b"last"
    assert set(stored[1:-1]) == {bytes(10_000)}


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning"
)  # a file object that nothing refers to closes itself
def test_an_opening_that_an_interrupt_ends_anywhere_leaves_the_store_free(tmp_path: Path) -> None:
    stores: list[StreamStore] = []

    def open_it() -> None:
        stores.append(StreamStore(path, allow_network_filesystem=True))

    path = tmp_path / "store"
    create(path)
    gc.collect()
    gc.disable()  # nothing may wait for that
    try:
        before = sorted(os.listdir("/proc/self/fd"))
        for _error in interrupted_everywhere(open_it):  # held, with all that its traceback holds
            while stores:
                stores.pop().close()
            assert sorted(os.listdir("/proc/self/fd")) == before
            StreamStore(path, allow_network_filesystem=True).close()
    finally:
        gc.enable()
