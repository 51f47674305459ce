"""The parts of the torture, in the order in which they are told.

A part is imported when it is asked for: a process that does one of them needs nothing of the others.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Final, cast

from tools.torture.part import Part

__all__ = ["PARTS"]

_NAMES: Final = (
    "power-loss",
    "real-power-loss",
    "kill",
    "serve-kill",
    "io-faults",
    "disk-full",
    "hazards",
    "failed-sync",
    "recovery",
    "damage",
    "malformed",
    "memory",
    "interrupts",
    "history",
    "recovery-time",
    "alarms",
)


class _Parts(Mapping[str, Part]):
    """Each part by its name, which is that of its module."""

    def __getitem__(self, name: str) -> Part:
        if name not in _NAMES:
            raise KeyError(name)
        module = import_module(f"{__name__}.{name.replace('-', '_')}")
        return cast(Part, vars(module)["PART"])

    def __iter__(self) -> Iterator[str]:
        return iter(_NAMES)

    def __len__(self) -> int:
        return len(_NAMES)


PARTS: Final[Mapping[str, Part]] = _Parts()
