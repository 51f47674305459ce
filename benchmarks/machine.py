"""Where the figures were made: what a reader must know to compare them with others. Nothing that names the machine."""

import os
import platform
import re
import shutil
import sqlite3
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import lmdb

from streamstore.databases import CRC_MODULE
from streamstore.folder import filesystem_of

__all__ = ["MEMORY_FILESYSTEMS", "describe_machine", "describe_versions", "filesystem_under"]

MEMORY_FILESYSTEMS: Final = ("tmpfs", "ramfs")
PACKAGES: Final = {
    "lmdb": "py-lmdb",
    "msgpack": "msgpack",
    "isal": "isal",
    "rocksdict": "rocksdict",
    "persist-queue": "persist-queue",
}

PROGRAMS: Final = {"wrk": "-v", "h2load": "--version", "node": "--version"}


def filesystem_under(folder: Path) -> str:
    return filesystem_of(folder, Path("/proc/self/mountinfo").read_text())


def describe_machine(folder: Path) -> dict[str, str]:
    return {
        "processor": _value("/proc/cpuinfo", "model name") or platform.machine(),
        "CPUs": str(len(os.sched_getaffinity(0))),
        "memory": f"{int(_value('/proc/meminfo', 'MemTotal').split()[0]) / 2**20:.0f} GiB",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "filesystem": filesystem_under(folder),
    }


def describe_versions() -> dict[str, str]:
    versions = {"Python": platform.python_version(), "SQLite": sqlite3.sqlite_version}
    versions["LMDB"] = ".".join(map(str, lmdb.version()))
    for package, shown in PACKAGES.items():
        try:
            versions[shown] = version(package)
        except PackageNotFoundError:
            versions[shown] = "not installed"
    versions["CRC-32 by"] = CRC_MODULE
    return versions | {program: _version_of_program(program, option) for program, option in PROGRAMS.items()}


def _version_of_program(program: str, option: str) -> str:
    if shutil.which(program) is None:
        return "not installed"
    done = subprocess.run([program, option], check=False, capture_output=True, text=True)
    found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
    return "of unknown version" if found is None else found[0]


def _value(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
