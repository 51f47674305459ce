"""Coverage-guided fuzzing of the targets, in a process of its own: the half that asks for it."""

import importlib.util
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

__all__ = ["Fuzzed", "Fuzzer", "Fuzzing", "lacks_atheris"]

PROJECT: Final = Path(__file__).parent.parent.parent
LOOK_S: Final = 1.0
LATE_S: Final = 180.0
"""How much longer than it was given a target may take before it is said to hang."""


class Fuzzing(NamedTuple):
    """A target to fuzz: so many executions, or as many as fit the seconds, whichever ends first."""

    target: str
    seed: int
    executions: int | None
    seconds: int


class Fuzzed(NamedTuple):
    """What became of a target."""

    executions: int
    edges: int
    """How many places of the package were reached."""
    finding: str | None


class Fuzzer:
    """The process that fuzzes; started when there is something to do. Use it as a context manager."""

    def __init__(self, folder: Path, *, plant: str | None) -> None:
        self._folder = folder
        self._plant = plant
        self._begun: Fuzzing | None = None
        self._end_s = 0.0
        self._process: subprocess.Popen[str] | None = None
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        self._end()
        self._errors.close()

    def begin(self, fuzzing: Fuzzing) -> None:
        """Begin to fuzz a target; ask for what became of it before anything else."""
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        process.stdin.write(f"{json.dumps(fuzzing._asdict())}\n")
        process.stdin.flush()
        self._begun = fuzzing
        self._end_s = time.monotonic() + fuzzing.seconds + LATE_S

    def told(self, on_pulse: Callable[[], None]) -> Fuzzed:
        """Wait for the target that was begun, and return what became of it."""
        fuzzing, process = self._begun, self._process
        assert fuzzing is not None
        assert process is not None
        assert process.stdout is not None
        while not select.select([process.stdout], [], [], LOOK_S)[0]:
            on_pulse()
            if time.monotonic() > self._end_s:
                self._end()
                return Fuzzed(0, 0, f"{fuzzing.target} hangs.")
        line = process.stdout.readline()
        if not line:
            return self._died(fuzzing)
        return Fuzzed(**json.loads(line))

    def _died(self, fuzzing: Fuzzing) -> Fuzzed:
        self._end()
        self._errors.seek(0)
        return Fuzzed(0, 0, f"{fuzzing.target}: the fuzzer ended: {self._errors.read()[-2_000:].strip()}")

    def _start(self) -> "subprocess.Popen[str]":
        plant = [] if self._plant is None else ["--plant", self._plant]
        return subprocess.Popen(
            [sys.executable, "-m", "tools.torture.fuzzer", *plant],
            cwd=PROJECT,
            env=os.environ | {"TMPDIR": os.fspath(self._folder.resolve())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def lacks_atheris() -> str | None:
    """Return what the machine lacks for it, or None."""
    return None if importlib.util.find_spec("atheris") else "atheris"
