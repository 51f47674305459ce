"""Cases in forked children: one that dies by a signal or hangs is told of its case, and the rest goes on in a new one.

A fork costs a hundredth of a new interpreter. Fork while no store is open and no other thread runs.
"""

import contextlib
import os
import resource
import select
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

__all__ = ["Death", "look_in_children"]

SILENCE_S: Final = 60.0
LAST_WORDS_BYTES_MAX: Final = 300


class Death(NamedTuple):
    """How a child ended in the middle of a case."""

    sentence: str


def look_in_children(
    cases: Sequence[int], look: Callable[[int], str], *, silence_s: float = SILENCE_S
) -> Iterator[tuple[int, str | Death]]:
    """Yield what ``look`` returns for each case, in a line without a line break, or how it ended the child."""
    left = list(cases)
    while left:
        for case, told in _one_child(tuple(left), look, silence_s):
            assert case == left.pop(0)
            yield case, told


def _one_child(cases: Sequence[int], look: Callable[[int], str], silence_s: float) -> Iterator[tuple[int, str | Death]]:
    """Yield what a child tells of the first cases, up to the one that ends it."""
    last_words = os.memfd_create("last words")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _be_child(cases, look, writing, last_words)
    os.close(writing)
    done = 0
    try:
        for line in _lines(reading, silence_s):
            yield cases[done], line
            done += 1
        if done < len(cases):
            is_open = not select.select([reading], [], [], 0)[0]
            yield cases[done], Death("hung" if is_open else _ending(child, last_words))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)
        os.close(reading)
        os.close(last_words)


def _be_child(cases: Sequence[int], look: Callable[[int], str], writing: int, last_words: int) -> None:
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for descriptor in (1, 2):  # LMDB prints the assertion that it fails
            os.dup2(last_words, descriptor)
        for case in cases:
            os.write(writing, f"{look(case)}\n".encode(errors="replace"))
    except BaseException as error:
        os.write(last_words, f"{error!r}".encode(errors="replace"))
        os._exit(1)
    os._exit(0)


def _lines(descriptor: int, silence_s: float) -> Iterator[str]:
    """Yield whole lines, until the end or so long a silence."""
    text = b""
    while select.select([descriptor], [], [], silence_s)[0] and (more := os.read(descriptor, 65_536)):
        *lines, text = (text + more).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")


def _ending(child: int, last_words: int) -> str:
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = os.pread(last_words, 2**20, 0)[-LAST_WORDS_BYTES_MAX:].decode(errors="replace").strip()
    how = signal.Signals(-status).name if status < 0 else f"status {status}"
    return f"ended by {how}{', saying ' + said if said else ''}"
