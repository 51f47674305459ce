"""Processes forked from this one: as many as a part needs, without starting an interpreter for each."""

import contextlib
import os
import select
import signal
import traceback
from collections.abc import Callable
from typing import Final, Self

__all__ = ["Forked", "failure_line", "failures_in"]

FAILED: Final = "failed"
SIGKILLED: Final = -signal.SIGKILL


class Forked:
    """A process that does some work, and ends with 0 when that returns. Use it as a context manager, or ``kill`` it.

    What is raised in it becomes a line of ``log``, a descriptor.
    """

    def __init__(self, work: Callable[[], None], log: int) -> None:
        self.status: int | None = None
        """How it ended: an exit status, or minus the number of a signal."""
        self._pid = os.fork()
        if self._pid == 0:
            _live(work, log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()

    def wait(self, seconds: float) -> bool:
        """Wait for its end. False: it goes on."""
        if self.status is None:
            descriptor = os.pidfd_open(self._pid)
            try:
                ready, _, _ = select.select([descriptor], [], [], max(0.0, seconds))
            finally:
                os.close(descriptor)
            if not ready:
                return False
            self._reap()
        return True

    def kill(self) -> None:
        """Kill it, if it is alive."""
        if self.status is None:
            os.kill(self._pid, signal.SIGKILL)
            self._reap()

    def signal_kill(self) -> None:
        """Kill it without waiting for its end, which may take long where a disk is gone."""
        if self.status is None:
            os.kill(self._pid, signal.SIGKILL)

    def _reap(self) -> None:
        _, status = os.waitpid(self._pid, 0)
        self.status = os.waitstatus_to_exitcode(status)


def failure_line(error: BaseException) -> bytes:
    """Return the line of a log that tells of an error."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    reason = " ".join(f"{type(error).__name__} {error} at {where.name}:{where.lineno}".split())
    return f"{FAILED} {reason}\n".encode()


def failures_in(lines: list[str], status: int | None) -> list[str]:
    """Return the reasons for which a process ended otherwise than by its return or by SIGKILL."""
    failed = [line.partition(" ")[2] for line in lines if line.startswith(f"{FAILED} ")]
    if not failed and status not in (0, SIGKILLED):
        failed = [f"it ended with {status}"]
    return failed


def _live(work: Callable[[], None], log: int) -> None:
    """The whole life of a forked process: nothing of its parent may run in it."""
    status = 1
    try:
        work()
        status = 0
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(log, failure_line(error))
    finally:
        os._exit(status)
