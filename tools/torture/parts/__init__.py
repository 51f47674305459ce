"""The parts of the torture, in the order in which they are told."""

from typing import Final

from tools.torture.part import Part
from tools.torture.parts import alarms, failed_sync, kill, malformed, power_loss, recovery, recovery_time

__all__ = ["PARTS"]

_PARTS: Final[tuple[Part, ...]] = (
    power_loss.PART,
    kill.PART,
    failed_sync.PART,
    recovery.PART,
    recovery_time.PART,
    malformed.PART,
)
_BY_NAME: Final[dict[str, Part]] = {part.name: part for part in _PARTS}
PARTS: Final[dict[str, Part]] = {**_BY_NAME, alarms.NAME: alarms.part_of(_BY_NAME)}
