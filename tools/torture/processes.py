"""Parts in processes of their own: a part that hangs or is killed by a signal is a finding, not an end."""

import atexit
import contextlib
import functools
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import IO, Final, NamedTuple

from tools.torture import allocations, calls
from tools.torture.allocations import environment_of_allocations
from tools.torture.calls import compile_library, environment_with, lacks_gcc
from tools.torture.part import Amount, Finding, Part, Result, Size

__all__ = ["EARLY_END", "NO_CASE", "PROJECT", "EarlyEnd", "Task", "run_in_process"]

PROJECT: Final = Path(__file__).parent.parent.parent
SILENCE_S: Final = 600.0
"""A part that tells no progress for so long hangs."""
NO_CASE: Final = -1
EARLY_END: Final = signal.SIGUSR1
"""Tells the process of a part to begin no further case."""


class Task(NamedTuple):
    """A part to do, and how much of it."""

    part: Part
    seed: int
    amount: Amount
    folder: Path
    size: Size = "ci"
    plant: str | None = None
    first: int | None = None
    only: int | None = None
    first_finding_ends: bool = False
    behind: Result | None = None
    """What came of a run of the same seed, from which this one goes on."""

    def command(self) -> list[str]:
        words = [sys.executable, "-m", "tools.torture.child", self.part.name]
        words += ["--seed", str(self.seed), "--folder", str(self.folder), "--size", self.size]
        for option, value in (
            ("--count", self.amount.cases),
            ("--seconds", self.amount.seconds),
            ("--first", self.first),
            ("--only", self.only),
            ("--plant", self.plant),
            ("--behind", None if self.behind is None else self.behind.to_json()),
        ):
            if value is not None:
                words += [option, str(value)]
        return words + ["--first-finding-ends"] * self.first_finding_ends


class EarlyEnd:
    """Ends parts before their time, so that what they have done counts. Safe to ask for in a signal handler."""

    def __init__(self) -> None:
        self.was_asked_for = False
        self._processes: set[subprocess.Popen[str]] = set()

    def ask(self) -> None:
        self.was_asked_for = True
        for process in list(self._processes):
            process.send_signal(EARLY_END)

    def reach(self, process: "subprocess.Popen[str]") -> None:
        """Let it end this process too, which was heard and so can be told."""
        self._processes.add(process)
        if self.was_asked_for:
            process.send_signal(EARLY_END)

    def forget(self, process: "subprocess.Popen[str]") -> None:
        self._processes.discard(process)


def run_in_process(
    task: Task, on_progress: Callable[[int, int | None], None], early_end: EarlyEnd | None = None
) -> Result:
    """Do the part in a process of its own and return its result."""
    done = 0
    early_end = early_end or EarlyEnd()
    with tempfile.TemporaryFile("w+") as errors, _started(task, errors) as process:
        assert process.stdout is not None
        watch = _Watch(process)
        try:
            for line in process.stdout:
                watch.heard()
                early_end.reach(process)
                word, _, rest = line.rstrip("\n").partition(" ")
                if word == "result":
                    return Result.from_json(rest)
                done, total = _progress(rest)
                on_progress(done, total)
        finally:
            early_end.forget(process)
            watch.end()
        errors.seek(0)
        sentence = f"The part ended with {process.wait()} after {done} cases: {errors.read()[-2_000:].strip()}"
    finding = Finding(NO_CASE, sentence)
    return Result(task.part.name, task.part.unit, task.seed, task.plant, done, 0, {}, {}, (finding,))


def _progress(words: str) -> tuple[int, int | None]:
    done, _, total = words.partition(" ")
    return int(done), int(total) if total else None


@contextlib.contextmanager
def _started(task: Task, errors: IO[str]) -> Generator["subprocess.Popen[str]"]:
    """Start the process of a part in a session of its own, and kill what is left of that at the end."""
    process = subprocess.Popen(
        task.command(),
        cwd=PROJECT,
        env=_environment(task),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _environment(task: Task) -> dict[str, str]:
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}
    if task.part.needs is None or lacks_gcc() is not None:
        return environment
    if task.part.needs == "calls":
        return environment | environment_with(_library(calls.SOURCE, task.folder))
    return environment | environment_of_allocations(_library(allocations.SOURCE, task.folder))


@functools.cache
def _library(source: Path, folder: Path) -> Path:
    """Build the library once, in the folder, for all parts that this process runs. It is gone when the process ends."""
    built = tempfile.TemporaryDirectory(prefix="streamstore-library-", dir=folder)
    atexit.register(built.cleanup)
    return compile_library(source, Path(built.name))


class _Watch:
    """Kills a process that has not been heard for too long."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._timer = threading.Timer(SILENCE_S, self._kill)
        self._timer.start()

    def heard(self) -> None:
        self._timer.cancel()
        self._timer = threading.Timer(SILENCE_S, self._kill)
        self._timer.start()

    def end(self) -> None:
        self._timer.cancel()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
