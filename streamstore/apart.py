"""Work in a child process that reports on the way: what ends the C library ends the child, and not its caller.

The child is a fresh interpreter, never a fork: other threads of the caller may hold any lock. It knows nothing of what
the caller has open, so that no lock of the caller is dropped by what the child closes.
"""

import importlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import BinaryIO, Final, cast

from streamstore.errors import StorageError, StreamStoreError

__all__ = ["ChildDiedError", "Report", "reports_of", "run_child"]

Report = Callable[[str | None], None]
"""Called by the work with something to say, or with None: it is still getting on."""
Work = Callable[[Report, Sequence[str]], None]

CHILD: Final = "from streamstore.apart import run_child; run_child()"
LAST_WORDS_BYTES_MAX: Final = 500
START_S: Final = 120.0  # longer than an interpreter takes on the busiest machine


class ChildDiedError(Exception):
    """The child ended before its work did, or got on no more. Its text completes "the child ..."."""


class _End:
    """The last thing that a child says: how its work ended."""

    def __init__(self, error: StreamStoreError | None) -> None:
        self.error = error


def reports_of(work: Work, arguments: Sequence[str], *, stall_s: float | None) -> Iterator[str | None]:
    """Call ``work``, a function of a module, in a child with these arguments, and yield what it reports.

    Raises the ``StreamStoreError`` that the work raised; ``ChildDiedError`` when the child died otherwise, or reported
    nothing for ``stall_s`` seconds (None: however long); ``StorageError`` when no child can be started. Whoever stops
    iterating ends the child.
    """
    receiving, sending = Pipe(duplex=False)
    with receiving, tempfile.TemporaryFile() as last_words:
        with sending:
            child = _start(work, arguments, sending.fileno(), last_words)
        try:
            _next_report(receiving, child, START_S, last_words)
            while not isinstance(report := _next_report(receiving, child, stall_s, last_words), _End):
                yield report
        finally:
            child.kill()
            child.wait()
    if report.error is not None:
        raise report.error


def run_child() -> None:
    """Be the child: the arguments of the process say where to report, what to call and with what."""
    descriptor, module, name, *arguments = sys.argv[1:]
    work = cast(Work, getattr(importlib.import_module(module), name))
    with Connection(int(descriptor), readable=False) as connection:
        connection.send(None)  # it has started
        try:
            work(connection.send, arguments)
        except StreamStoreError as error:
            connection.send(_End(error))
        else:
            connection.send(_End(None))


def _start(work: Work, arguments: Sequence[str], descriptor: int, last_words: BinaryIO) -> "subprocess.Popen[bytes]":
    if not sys.executable or getattr(sys, "frozen", False):
        raise StorageError("This needs a child process, and sys.executable is no Python interpreter; nothing was done.")
    # -P: a file of the working folder must not be taken for a module.
    called = [sys.executable, "-P", "-c", CHILD, str(descriptor), work.__module__, work.__name__, *arguments]
    paths = [os.fspath(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    try:
        return subprocess.Popen(
            called, pass_fds=(descriptor,), env=environment, stdin=subprocess.DEVNULL, stderr=last_words
        )
    except OSError as error:
        raise StorageError(f"A child process cannot be started ({error}); nothing was done.") from error


def _next_report(
    receiving: Connection, child: "subprocess.Popen[bytes]", stall_s: float | None, last_words: BinaryIO
) -> str | _End | None:
    try:
        if receiving.poll(stall_s):
            return cast(str | _End | None, receiving.recv())
    except (EOFError, OSError):  # it ended between two reports, or within one
        raise ChildDiedError(_how_it_ended(child.wait(), last_words)) from None
    raise ChildDiedError(f"hung: it got no further for {stall_s:g} s")


def _how_it_ended(status: int, last_words: BinaryIO) -> str:
    last_words.seek(max(0, last_words.seek(0, os.SEEK_END) - LAST_WORDS_BYTES_MAX))
    said = last_words.read().decode(errors="replace").strip()
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    return f"{how}, saying: {said.splitlines()[-1]}" if said else how
