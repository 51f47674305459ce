"""The parts of the torture that try crash images: power loss, failed syncs, faults during recovery.

What the disk of the model may lose, what the parts must see, and what they have found in the engine.
"""

import itertools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from streamstore import StreamStore
from streamstore.check import check_store
from tests.children import PROJECT, WAIT_S
from tools.torture import processes
from tools.torture.calls import SOURCE, Entry, Kind, compile_library, environment_with, lacks_gcc, read_log
from tools.torture.disk import PAGE_BYTES, Timeline, replay
from tools.torture.images import Image, ImageFolder, plan_images
from tools.torture.part import Amount, Result
from tools.torture.parts import PARTS
from tools.torture.processes import Task, run_in_process

needs_gcc = pytest.mark.skipif(lacks_gcc() is not None, reason="needs gcc")
IMAGE_PARTS = ["power-loss", "failed-sync", "recovery"]
FILE = 7

PREPARED = """
import sys
from pathlib import Path
from streamstore import StorageError, StreamStore
from tools.torture.calls import Calls, Fault, Kind
root = Path(sys.argv[1])
calls = Calls.in_front()
calls.watch(root)
calls.record(root.with_name("log"))
"""
PUTS_AROUND_FAILED_SYNCS = """
mode, place = sys.argv[2], int(sys.argv[3])
store = StreamStore(root / "store", sync=mode)
store.create_stream("s")
store.put_record("s", b"x" * 900, "key")
calls.arm(place, Fault.FAILED_AFTERWARDS, kinds=frozenset([Kind.SYNC, Kind.SYNCED_WRITE]), times=2)
try:
    store.put_record("s", b"y" * 900, "key")
except StorageError as error:
    print(type(error).__name__)
calls.disarm()
for number in range(3):
    store.put_record("s", b"z" * 900, "key")
"""
PUTS_IN_SYNC_NORMAL = """
store = StreamStore(root / "store", sync="normal")
store.create_stream("s")
for number in range(6):
    store.put_record("s", b"x" * 900, "key")
    calls.mark(b"acknowledged")
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_library(SOURCE, tmp_path_factory.mktemp("library"))


def entry(kind: Kind, *, page: int = 0, data: bytes = b"", path: str = "", is_created: bool = False) -> Entry:
    return Entry(
        kind=kind,
        file=FILE,
        offset=page * PAGE_BYTES,
        length=len(data),
        result=0,
        error=0,
        data=data,
        paths=(path,) if path else (),
        is_synced=False,
        has_created=is_created,
        has_emptied=False,
        has_failed=False,
    )


def write(page: int, letter: str) -> Entry:
    return entry(Kind.WRITE, page=page, data=letter.encode() * PAGE_BYTES)


CREATED = entry(Kind.OPEN, path="/f", is_created=True)
FOLDER_SYNCED = entry(Kind.SYNC)._replace(file=1)
IN_PLACE = (
    entry(Kind.OPEN, path="/")._replace(file=1),
    CREATED,
    FOLDER_SYNCED,
    write(0, "a"),
    write(1, "b"),
    entry(Kind.SYNC),
)


def images_of(*entries: Entry) -> list[Image]:
    """Return all that a power loss can leave behind the last of the entries, or of those in front of it."""
    timeline = replay([*IN_PLACE, *entries], Path("/"))
    last = len(timeline.windows) - 1
    return [image for image in plan_images(timeline, Random(1), 3_000) if image.window == last]


def contents(images: list[Image], base: str) -> set[str]:
    """Return the first letter of each page, for every image without torn pages."""
    found: set[str] = set()
    for image in images:
        letters = list(base.ljust(image.lengths[FILE] // PAGE_BYTES, "0"))
        for patch in image.patches:
            letters[patch.page] = chr(patch.content[0])
            if len(set(patch.content)) > 1:
                break
        else:
            found.add("".join(letters).replace("\0", "0"))
    return found


def test_each_page_that_was_not_synced_is_lost_or_kept_for_itself() -> None:
    kept = ["".join(pages) for pages in itertools.product("ax", "by")]
    assert contents(images_of(write(0, "x"), write(1, "y")), "ab") == set(kept)


def test_what_was_synced_is_in_every_image() -> None:
    assert contents(images_of(write(0, "x"), entry(Kind.SYNC), write(1, "y")), "xb") == {"xb", "xy"}


def test_a_page_may_be_torn_at_a_sector() -> None:
    patches = [patch for image in images_of(write(0, "x")) for patch in image.patches]
    assert {patch.content[place] for patch in patches for place in (0, 511)} == {ord("a"), ord("x")}
    assert all(len({*patch.content[start : start + 512]}) == 1 for patch in patches for start in range(0, 4096, 512))
    assert len(patches) > 8


def test_the_new_length_of_a_file_may_be_lost_with_the_pages_behind_the_old_one() -> None:
    found = contents(images_of(write(2, "z")), "ab")
    assert found == {"ab", "ab0", "abz"}


def test_pages_of_a_failed_sync_stay_lost_though_the_next_one_succeeds() -> None:
    failed = entry(Kind.SYNC)._replace(result=-1)
    assert contents(images_of(write(0, "x"), failed, write(1, "y"), entry(Kind.SYNC)), "ay") == {"ay", "xy"}


def test_pages_of_a_failed_sync_that_are_written_again_are_synced_with_the_next() -> None:
    failed = entry(Kind.SYNC)._replace(result=-1)
    assert contents(images_of(write(0, "x"), failed, write(0, "z"), entry(Kind.SYNC)), "zb") == {"zb"}


def test_a_name_is_lost_until_its_folder_is_synced() -> None:
    created = CREATED._replace(paths=("/g",), file=8)
    for is_synced in (False, True):
        synced = [FOLDER_SYNCED] if is_synced else []
        assert {"g" in image.names for image in images_of(created, *synced)} == {is_synced, True}


def test_images_of_one_timeline_are_distinct(tmp_path: Path) -> None:
    timeline = replay([*IN_PLACE, write(0, "x"), write(1, "y"), write(2, "z")], Path("/"))
    folder = ImageFolder(timeline, tmp_path / "image")
    found: Counter[bytes | None] = Counter()
    images = plan_images(timeline, Random(1), 100)
    for image in images:
        folder.make(image)
        file = tmp_path / "image" / "f"
        found[file.read_bytes() if file.exists() else None] += 1
    assert len(images) == 100
    assert set(found.values()) == {1}


def recorded(library: Path, tmp_path: Path, program: str, *arguments: object) -> tuple[Timeline, list[str]]:
    """Run the program, and return what happened on the disk, and what it printed."""
    root = tmp_path / "root"
    root.mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", PREPARED + program, root, *map(str, arguments)],
        cwd=PROJECT,
        env=os.environ | environment_with(library),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return replay(read_log(tmp_path / "log"), root), ended.stdout.split()


def made(timeline: Timeline, folder: Path, count: int) -> Iterator[Image]:
    """Make so many images of a store, one after the other."""
    maker = ImageFolder(timeline, folder)
    for image in sorted(plan_images(timeline, Random(1), count), key=lambda image: image.window):
        if "store/data.mdb" in image.names:
            maker.make(image)
            yield image


@needs_gcc
@pytest.mark.parametrize(("sync", "place"), [("full", 2), ("normal", 1)])
def test_a_store_is_whole_behind_a_power_loss_though_syncs_had_failed(
    library: Path, tmp_path: Path, sync: str, place: int
) -> None:
    timeline, told = recorded(library, tmp_path, PUTS_AROUND_FAILED_SYNCS, sync, place)
    assert told
    for image in made(timeline, tmp_path / "image", 250):
        assert check_store(tmp_path / "image" / "store") == [], image.window


@needs_gcc
def test_a_power_loss_takes_the_last_commit_of_sync_normal_and_never_more(library: Path, tmp_path: Path) -> None:
    timeline, _ = recorded(library, tmp_path, PUTS_IN_SYNC_NORMAL)
    lost: set[int] = set()
    for image in made(timeline, tmp_path / "image", 250):
        acknowledged = timeline.windows[image.window].marks
        if acknowledged:
            with StreamStore(tmp_path / "image" / "store") as store:
                lost.add(max(0, acknowledged - len(list(store.read("s", "shard-000000")))))
            assert check_store(tmp_path / "image" / "store") == []
    assert lost == {0, 1}


def result_of(name: str, folder: Path, *, count: int, plant: str | None = None, only: int | None = None) -> Result:
    task = Task(PARTS[name], 1, Amount(cases=count), folder, plant=plant, only=only, first_finding_ends=True)
    return run_in_process(task, lambda _done, _total: None)


@needs_gcc
@pytest.mark.parametrize("name", IMAGE_PARTS)
def test_a_few_images_of_each_part_keep_every_promise(tmp_path: Path, name: str) -> None:
    result = result_of(name, tmp_path, count=60)
    assert result.findings == ()
    assert (result.done, result.skipped) == (60, {})
    if name == "recovery":
        assert result.figures["refused"] > 20
        assert result.figures["killed"] > 5


@needs_gcc
def test_what_an_image_shows_is_found_again_by_its_seed_and_its_number(tmp_path: Path) -> None:
    finding = result_of("power-loss", tmp_path, count=60, plant="metasync-off").findings[0]
    again = result_of("power-loss", tmp_path, count=1, plant="metasync-off", only=finding.case)
    assert again.findings[0] == finding


@pytest.mark.parametrize("name", IMAGE_PARTS)
def test_without_gcc_a_part_is_skipped_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    monkeypatch.setattr(processes, "lacks_gcc", lambda: "gcc")
    assert result_of(name, tmp_path, count=5).skipped == {"needs gcc": 1}
