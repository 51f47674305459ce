"""The disks that lose their power: one that its journal cannot bring back is mended as a machine does it."""

from pathlib import Path

import pytest

from tests.children import code, needs_root, run

BREAK_JOURNAL = """
import subprocess, sys
from pathlib import Path
from tools.torture.mounts import Disk, Format, MountError, lacks_disks

if (lacking := lacks_disks()) is not None:
    print("lacks", lacking)
    raise SystemExit
folder = Path(sys.argv[1])
disk = Disk(folder, 32 * 2**20, Format("small"))
with disk.mounted() as root:
    (root / "file").write_text("synced")
print(disk.repair(), disk.checks)
journal_without_a_type = "set_inode_field <8> mode 0"
subprocess.run(["debugfs", "-w", "-R", journal_without_a_type, folder / "image"], check=True, capture_output=True)
try:
    with disk.mounted():
        print("is mounted")
except MountError as error:
    print("cleaning" in str(error))
print(disk.repair(), disk.checks)
with disk.mounted() as root:
    print((root / "file").read_text())
"""


@needs_root
@pytest.mark.slow
def test_a_disk_that_cannot_be_mounted_is_checked_and_then_mounted(tmp_path: Path) -> None:
    printed = run(code(BREAK_JOURNAL, tmp_path), status=None).splitlines()
    if printed and printed[0].startswith("lacks "):
        pytest.skip(f"needs {printed[0].removeprefix('lacks ')}")
    assert printed == ["None 0", "True", "None 1", "synced"]
