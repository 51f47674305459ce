"""Processes that a test starts: programs of ``tests/programs``, alone or under strace. None outlives its test."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Final

import pytest

PROJECT: Final = Path(__file__).parent.parent
WAIT_S: Final = 60
SIGKILLED: Final = -signal.SIGKILL

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def command(program: str, *arguments: object) -> list[str]:
    """Return what runs ``tests/programs/<program>.py``, or the module of this name if that has a dot."""
    module = program if "." in program else f"tests.programs.{program}"
    return [sys.executable, "-W", "error", "-m", module, *map(str, arguments)]


def code(source: str, *arguments: object) -> list[str]:
    """Return what runs a few lines of Python, which find the arguments in sys.argv[1:]."""
    return [sys.executable, "-W", "error", "-c", source, *map(str, arguments)]


def strace(log: Path, *options: str) -> list[str]:
    """Return what goes in front of a command to trace it, with all its threads, into ``log``."""
    return ["strace", "-f", "-y", "-qq", "-o", str(log), *options]


def run(arguments: Sequence[str], *, status: int | None = 0) -> str:
    """Return what the command prints. It must end in time, and with this status unless that is None."""
    result = subprocess.run(
        arguments, cwd=PROJECT, env=_environment(), capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    if status is not None:
        assert result.returncode == status, f"status {result.returncode}\n{result.stdout[-2000:]}\n{result.stderr}"
    return result.stdout


@contextlib.contextmanager
def started(arguments: Sequence[str], *, stdout: int | None = subprocess.PIPE) -> Generator[subprocess.Popen[str]]:
    """Start the command, and kill it, with its own children, at the end of the block."""
    process = subprocess.Popen(
        arguments,
        cwd=PROJECT,
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=stdout,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(WAIT_S)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def next_line(process: subprocess.Popen[str]) -> str:
    """Return the next line that the process prints; it must not end instead."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"the child ended with {process.wait(WAIT_S)}"
    return line.rstrip("\n")


def lines_until_killed(process: "subprocess.Popen[str]") -> list[str]:
    """Kill the process, with its own children, and return what else it had printed, without a line cut off by that."""
    assert process.stdout is not None
    os.killpg(process.pid, signal.SIGKILL)
    return process.stdout.read().split("\n")[:-1]


def tell(process: subprocess.Popen[str], line: str = "") -> None:
    """Give the process a line to read."""
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}
