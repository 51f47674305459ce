"""The part of the torture that lets syncs fail, and what it has found in the engine."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from streamstore.check import check_store
from tests.children import PROJECT, WAIT_S
from tools.torture.calls import compile_calls, environment_with, lacks_gcc, read_log
from tools.torture.disk import Timeline, replay
from tools.torture.images import ImageFolder, plan_images

pytestmark = pytest.mark.skipif(lacks_gcc() is not None, reason="needs gcc")

PUT_AROUND_A_FAILED_META_WRITE = """
import sys
from pathlib import Path
from streamstore import OutcomeUnknownError, StorageError, StreamStore
from tools.torture.calls import Calls, Fault, Kind
root, mode, place = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
calls = Calls.in_front()
calls.watch(root)
calls.record(root.with_name("log"))
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


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_calls(tmp_path_factory.mktemp("library"))


def recorded(library: Path, tmp_path: Path, *arguments: object) -> tuple[Timeline, list[str]]:
    """Run the program, and return what happened on the disk, and what it printed."""
    root = tmp_path / "root"
    root.mkdir()
    printed = subprocess.run(
        [sys.executable, "-c", PUT_AROUND_A_FAILED_META_WRITE, root, *map(str, arguments)],
        cwd=PROJECT,
        env=os.environ | environment_with(library),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    ).stdout
    return replay(read_log(tmp_path / "log"), root), printed.split()


def damaged_images(timeline: Timeline, folder: Path) -> Iterator[str]:
    """Yield what is wrong with the stores that a power loss can leave."""
    maker = ImageFolder(timeline, folder)
    for image in sorted(plan_images(timeline, Random(1), 250), key=lambda image: image.window):
        if "store/data.mdb" in image.names:
            maker.make(image)
            signal.alarm(WAIT_S)
            for problem in check_store(folder / "store"):
                yield f"In window {image.window}: {problem}"


@pytest.mark.parametrize(("sync", "place"), [("full", 2), ("normal", 1)])
def test_a_store_is_whole_behind_a_power_loss_whichever_syncs_had_failed(
    library: Path, tmp_path: Path, sync: str, place: int
) -> None:
    timeline, told = recorded(library, tmp_path, sync, place)
    assert told
    assert list(damaged_images(timeline, tmp_path / "image")) == []
