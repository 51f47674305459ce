"""The allocations of this process, by Python, LMDB and whoever else asks the C library: counted, and made to fail.

The other half of allocations.c. A process must be started with ``environment_of_allocations``, by which Python too asks
the C library for each object, instead of keeping memory of its own.
"""

import ctypes
import os
from pathlib import Path
from typing import Final, Self

__all__ = ["SOURCE", "Allocations", "environment_of_allocations"]

SOURCE: Final = Path(__file__).with_name("allocations.c")


class Allocations:
    """The library in this process."""

    def __init__(self, library: Path) -> None:
        if os.fspath(library) not in os.environ.get("LD_PRELOAD", ""):
            raise RuntimeError(f"This process was not started with {library} in front.")
        self._library = ctypes.CDLL(os.fspath(library))
        self._library.allocations_arm.argtypes = (ctypes.c_int64, ctypes.c_int64)
        self._library.allocations_arm.restype = None
        self._library.allocations_disarm.restype = ctypes.c_int64

    @classmethod
    def in_front(cls) -> Self:
        """Return the library that this process was started with."""
        return cls(Path(os.environ["LD_PRELOAD"]))

    def arm(self, place: int, *, times: int = 1) -> None:
        """Let an allocation fail: number ``place``, from 1 and from now on, of any thread, and ``times`` in a row.

        The first few are those of this call itself.
        """
        self._library.allocations_arm(place, times)

    def disarm(self) -> int:
        """Let no more fail. Return how many there were since ``arm``."""
        while True:
            try:
                seen: int = self._library.allocations_disarm()
                return seen
            except MemoryError:
                continue


def environment_of_allocations(library: Path) -> dict[str, str]:
    """Return what the environment of a program says that is to have the library in front of the C library."""
    return {"LD_PRELOAD": os.fspath(library), "PYTHONMALLOC": "malloc"}
