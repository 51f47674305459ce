"""Failed syncs: the pages of a sync that failed never reach the disk, and later syncs say that all is well."""

from typing import Final

from tools.torture.calls import lacks_gcc
from tools.torture.crashes import try_images
from tools.torture.part import Amount, Ordeal, Part

__all__ = ["PART"]


def run(ordeal: Ordeal) -> None:
    try_images(ordeal, are_syncs_failing=True)


PART: Final = Part(
    name="failed-sync",
    what=(
        "Lets syncs and synced writes of recorded work fail, whose pages the disk then never hears of again, and "
        "rebuilds what a power loss can leave: every acknowledged record is there, no refused one is."
    ),
    unit="images",
    sizes={"ci": Amount(cases=5_000), "release": Amount(cases=100_000)},
    run=run,
    lacks=lacks_gcc,
    needs="calls",
)
