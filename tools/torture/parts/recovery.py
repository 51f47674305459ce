"""Faults during recovery: what a crash left is opened while calls fail, and then once more."""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from typing import Final

from streamstore.errors import StorageError
from tools.torture import plants
from tools.torture.calls import FOR_EVER, Fault, lacks_gcc
from tools.torture.crashes import Crash, try_and_write_on, try_images
from tools.torture.part import Amount, Ordeal, Part
from tools.torture.promises import CheckedStore

__all__ = ["PART"]

CALLS_OF_OPENING: Final = 30
CALLS_OF_CREATION: Final = 60
FAULTS: Final = (Fault.REFUSED, Fault.SHORT, Fault.FAILED_AFTERWARDS)
KILLS: Final = (Fault.KILLED_BEFORE, Fault.KILLED_HALFWAY, Fault.KILLED_AFTERWARDS)
KILLED_ONE_IN: Final = 4
"""Of so many openings one is killed in a call: the fork costs as much as the opening."""


def run(ordeal: Ordeal) -> None:
    plants.plant(ordeal.plant)  # the opening that is tried has it too
    try_images(ordeal, are_syncs_failing=False, try_crash=_try_under_faults)


def _try_under_faults(crash: Crash) -> Iterator[str]:
    """Open the store while a call fails or the process is killed in it; then open it again, and hold it to its word."""
    descriptors = len(os.listdir("/proc/self/fd"))
    if crash.dice.randrange(KILLED_ONE_IN) == 0:
        yield from _open_killed(crash)
    else:
        yield from _open_failing(crash)
    left = len(os.listdir("/proc/self/fd")) - descriptors
    if left:
        yield f"{left} descriptors are open behind an opening that failed."
    yield from try_and_write_on(crash)


def _open_failing(crash: Crash) -> Iterator[str]:
    fault = crash.dice.choice(FAULTS)
    error = crash.dice.choice((errno.EIO, errno.ENOSPC))
    times = crash.dice.choice((1, 1, 1, 2, FOR_EVER))
    place = crash.dice.randint(1, _calls(crash))
    crash.calls.arm(place, fault, error=error, times=times)
    opened: CheckedStore | None = None
    try:
        opened = crash.open()
    except StorageError:
        crash.tally["refused"] += 1
    except Exception as other:
        yield f"Opening under {fault.name} at call {place} raised {other!r}: {traceback.format_exc(limit=-3)}"
    if crash.calls.disarm() < place:
        crash.tally["without a fault"] += 1
    elif opened is not None:
        crash.tally["opened all the same"] += 1
    if opened is not None:
        opened.close()


def _open_killed(crash: Crash) -> Iterator[str]:
    fault = crash.dice.choice(KILLS)
    place = crash.dice.randint(1, _calls(crash))
    child = os.fork()
    if child == 0:
        try:
            crash.calls.arm(place, fault)
            crash.open()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    crash.tally["killed" if status else "without a fault"] += 1
    if status not in (0, -signal.SIGKILL):
        yield f"Opening under {fault.name} at call {place} ended with {status}."


def _calls(crash: Crash) -> int:
    return CALLS_OF_OPENING if crash.promises.is_opened else CALLS_OF_CREATION


PART: Final = Part(
    name="recovery",
    what=(
        "Opens what a power loss can leave of recorded work while calls fail or the process is killed in one: a typed "
        "error or a store, and behind that everything that was acknowledged."
    ),
    unit="images",
    sizes={"ci": Amount(cases=2_000), "release": Amount(cases=50_000)},
    run=run,
    lacks=lacks_gcc,
    needs="calls",
)
