"""The parts of the torture, in the order in which they are told."""

from typing import Final

from tools.torture.part import Part
from tools.torture.parts import (
    alarms,
    damage,
    disk_full,
    failed_sync,
    hazards,
    history,
    interrupts,
    io_faults,
    kill,
    malformed,
    memory,
    power_loss,
    real_power_loss,
    recovery,
    recovery_time,
    serve_kill,
)

__all__ = ["PARTS"]

_PARTS: Final[tuple[Part, ...]] = (
    power_loss.PART,
    real_power_loss.PART,
    kill.PART,
    serve_kill.PART,
    io_faults.PART,
    disk_full.PART,
    hazards.PART,
    failed_sync.PART,
    recovery.PART,
    damage.PART,
    malformed.PART,
    memory.PART,
    interrupts.PART,
    history.PART,
    recovery_time.PART,
)
_BY_NAME: Final[dict[str, Part]] = {part.name: part for part in _PARTS}
PARTS: Final[dict[str, Part]] = {**_BY_NAME, alarms.NAME: alarms.part_of(_BY_NAME)}
