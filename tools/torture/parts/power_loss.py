"""Power loss, enumerated: real work is recorded, and what a power loss could have left of it is tried."""

from typing import Final

from tools.torture.calls import lacks_gcc
from tools.torture.crashes import try_images
from tools.torture.part import Amount, Ordeal, Part

__all__ = ["PART"]


def run(ordeal: Ordeal) -> None:
    try_images(ordeal, are_syncs_failing=False)


PART: Final = Part(
    name="power-loss",
    what=(
        "Rebuilds what a power loss can leave of recorded work on a store, synced pages and any of the rest: every "
        "acknowledged record is there, nothing is invented, and the store can be written on."
    ),
    unit="images",
    sizes={"ci": Amount(cases=20_000), "release": Amount(cases=1_000_000)},
    run=run,
    lacks=lacks_gcc,
    needs="calls",
)
