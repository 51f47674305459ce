"""Cases in a forked child, which may die or hang: that is told as the end of its case, and another child goes on."""

import contextlib
import ctypes
import faulthandler
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, NoReturn, Self, TypeVar, cast

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = ["Ended", "Worker", "run_in_child"]

T = TypeVar("T")

CASES_OF_ONE_CHILD: Final = 200
CPU_S_MAX: Final = 60
"""Of one child: what is still at work behind that turns in circles."""
ASLEEP_S: Final = 6.0
"""A child that has slept for so long, with all its threads, waits for what never comes. It is not the clock that tells:
on a busy machine a child is slow, but ready to run."""
CASE_S_MAX: Final = 180
"""None takes nearly so long. A child that hangs may be awake: who waits for the interpreter looks every 5 ms."""
LOOK_S: Final = 0.25
PR_SET_PDEATHSIG: Final = 1
ERRORS_SHOWN_BYTES: Final = 3_000


class Ended(NamedTuple):
    """What a child did instead of telling what became of its case."""

    sentence: str


class Worker(Generic[T]):
    """Does cases one after the other in a forked child, and forks off another one when that is gone.

    The process that has it must have no other thread, and no store open.
    """

    def __init__(
        self, work: Callable[[int], T], *, cases_of_one_child: int = CASES_OF_ONE_CHILD, asleep_s: float = ASLEEP_S
    ) -> None:
        self._work = work
        self._asleep_s = asleep_s
        self._cases_of_one_child = cases_of_one_child
        self._child: _Child[T] | None = None

    def do(self, case: int) -> T | Ended:
        """Return what became of the case, in the words of ``work`` or, if it did not come so far, in ours."""
        self.begin(case)
        return self.told()

    def begin(self, case: int) -> None:
        """Let the child do the case; ask for what became of it before anything else."""
        if self._child is None or self._child.cases_done == self._cases_of_one_child:
            self.start_anew()
            self._child = _Child(self._work, self._asleep_s)
        self._child.begin(case)

    def told(self) -> T | Ended:
        """Wait for the case that was begun, and return what became of it."""
        assert self._child is not None
        told = self._child.told()
        if isinstance(told, Ended):
            self.start_anew()
        return told

    def start_anew(self) -> None:
        """Let another child do the next case."""
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        self.start_anew()


def run_in_child(work: Callable[[], T], *, asleep_s: float = ASLEEP_S) -> T | Ended:
    """Do one piece of work in a child of its own, which hangs when it has slept for so long."""
    with Worker(lambda _case: work(), asleep_s=asleep_s) as worker:
        return worker.do(0)


class _Child(Generic[T]):
    def __init__(self, work: Callable[[int], T], asleep_s: float) -> None:
        self.cases_done = 0
        self._asleep_s = asleep_s
        self._is_gone = False
        self._errors = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - closed by end()
        self._pipe, theirs = multiprocessing.Pipe()
        parent_pid = os.getpid()
        sys.stdout.flush()
        self._pid = os.fork()
        if self._pid == 0:
            self._pipe.close()
            _be_child(work, theirs, self._errors.fileno(), parent_pid)
        theirs.close()

    def begin(self, case: int) -> None:
        self.cases_done += 1
        with contextlib.suppress(ConnectionError):  # which ``told`` will tell
            self._pipe.send(case)

    def told(self) -> T | Ended:
        try:
            if not self._waits_for_answer():
                os.kill(self._pid, signal.SIGABRT)  # which has it write the stack of each thread
                return self._ended("hangs")
            return cast(T, self._pipe.recv())
        except (EOFError, ConnectionError):
            return self._ended("died")

    def end(self) -> None:
        self._pipe.close()
        if not self._is_gone:
            os.kill(self._pid, signal.SIGKILL)
            self._wait()
        self._errors.close()

    def _waits_for_answer(self) -> bool:
        """Return True when there is an answer or the end, False when there will be none."""
        sleep = _Sleep(self._pid)
        deadline_s = time.monotonic() + CASE_S_MAX
        while not self._pipe.poll(LOOK_S):
            if sleep.lasts_s() > self._asleep_s or time.monotonic() > deadline_s:
                return self._pipe.poll(0)
        return True

    def _wait(self) -> int:
        self._is_gone = True
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def _ended(self, how: str) -> Ended:
        status = self._wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()[-ERRORS_SHOWN_BYTES:]
        how = how if status < 0 else f"ended with {status}"
        signal_name = f" by {signal.Signals(-status).name}" if status < 0 and how == "died" else ""
        return Ended(f"The process {how}{signal_name}. {said}".rstrip())


def _be_child(work: Callable[[int], T], pipe: "Connection[object, object]", errors: int, parent_pid: int) -> NoReturn:
    """Do cases until the parent is gone or has had enough."""
    status = 1
    try:
        die_with_parent(parent_pid)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S_MAX, CPU_S_MAX + 1))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(errors, sys.stderr.fileno())
        faulthandler.enable(errors)
        with contextlib.suppress(EOFError):
            while True:
                pipe.send(work(cast(int, pipe.recv())))
        status = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def die_with_parent(parent_pid: int) -> None:
    """Have Linux kill this process when the one that forked it off ends, however that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)  # it was gone before


class _Sleep:
    """How long a process has been asleep, with its threads and its children."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ticks = 0
        self._since_s = time.monotonic()

    def lasts_s(self) -> float:
        tasks = [_state_and_ticks(task) for task in _tasks(self._pid)]
        ticks = sum(ticks for _, ticks in tasks)
        is_asleep = all(state == "S" for state, _ in tasks)
        if not is_asleep or ticks != self._ticks:
            self._ticks = ticks
            self._since_s = time.monotonic()
        return time.monotonic() - self._since_s


def _tasks(pid: int) -> Iterator[Path]:
    """Iterate over the threads of a process and of those that it has started."""
    with contextlib.suppress(OSError):  # one that has just ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            yield task
            for child in (task / "children").read_text().split():
                yield from _tasks(int(child))


def _state_and_ticks(task: Path) -> tuple[str, int]:
    try:
        fields = (task / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "X", 0  # it has just ended
    return fields[0], int(fields[11]) + int(fields[12])
