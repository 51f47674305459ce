"""Runs moto's own tests of Kinesis against the client in the process, then against ``streamstore serve``.

    python -m tools.moto

They come from moto's source package on PyPI, which pip fetches once into ``build/moto`` and whose checksum is proved.
Ends with 1 if a test fails that is not in ``failures.toml``, or passes that is. Without the package nothing is run, and
a line that begins with SKIPPED says so; that is no failure.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Final

VERSION: Final = "5.2.1"
SHA256: Final = "ccb2f3e1dfa82e50e054bda98b0be708d244d2668364dcc1d45e8d3de6091bde"
TEST_COUNT: Final = 79
# CloudFormation is another service, and the server is moto's own.
LEFT_OUT: Final = ("test_kinesis_cloudformation.py", "test_server.py")
ROOT: Final = Path(__file__).parent.parent.parent
FOLDER: Final = ROOT / "build" / "moto"
ARCHIVE: Final = FOLDER / f"moto-{VERSION}.tar.gz"
FETCH_SECONDS_MAX: Final = 300
RUN_SECONDS_MAX: Final = 600


def main() -> int:
    if not fetch():
        print(f"SKIPPED moto: its {TEST_COUNT} tests did not run, for pip could not fetch moto {VERSION}")
        return 0
    if hashlib.sha256(ARCHIVE.read_bytes()).hexdigest() != SHA256:
        print(f"{ARCHIVE} is not moto {VERSION}: its checksum is another one")
        return 1
    unpack()
    failed = [name for name, value in (("in process", "0"), ("server", "1")) if not run(name, is_server=value)]
    return 1 if failed else 0


def fetch() -> bool:
    """Return whether the source package is there. pip makes its metadata on the way, which is of no use here."""
    if ARCHIVE.exists():
        return True
    FOLDER.mkdir(parents=True, exist_ok=True)
    words = ["download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", str(FOLDER), f"moto=={VERSION}"]
    try:
        subprocess.run([sys.executable, "-m", "pip", *words], check=True, timeout=FETCH_SECONDS_MAX)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return False
    return ARCHIVE.exists()


def unpack() -> None:
    """Lay out the tests of Kinesis, and nothing else of moto."""
    tests = FOLDER / "tests"
    shutil.rmtree(tests, ignore_errors=True)
    kinesis = tests / "test_kinesis"
    kinesis.mkdir(parents=True)
    (tests / "__init__.py").write_text('DEFAULT_ACCOUNT_ID = "123456789012"\n', encoding="utf-8")
    prefix = f"moto-{VERSION}/tests/test_kinesis/"
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            name = member.name.removeprefix(prefix)
            content = archive.extractfile(member) if member.name.startswith(prefix) and "/" not in name else None
            if content is not None and name not in LEFT_OUT:
                (kinesis / name).write_bytes(content.read())


def run(name: str, *, is_server: str) -> bool:
    """Run all tests once; return whether each did what is expected of it."""
    print(f"--- moto {VERSION}: {name}", flush=True)
    words = ["-q", "-p", "tools.moto.stand_in", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(FOLDER)]
    environment = os.environ | {"STREAMSTORE_MOTO_SERVER": is_server, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *words, str(FOLDER / "tests")],
        cwd=FOLDER,
        env=environment,
        timeout=RUN_SECONDS_MAX,
        check=False,
    )
    return ran.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
