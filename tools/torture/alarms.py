"""The alarms: faults planted in the engine, each with the part that must turn red.

``python -m tools.torture alarms`` runs them as the last part; a case is an alarm.
"""

from typing import Final, NamedTuple

from tools.torture.part import Amount

__all__ = ["ALARMS", "Alarm"]


class Alarm(NamedTuple):
    """A fault of ``tools.torture.plants`` and the part that must see it within the amount."""

    plant: str
    part: str
    amount: Amount
    first: int = 0
    """The case that it begins with, where a part does different things one after the other."""


# The first cases of "malformed" are the targets of atheris, the next the calls that Hypothesis looks for.
ALARMS: Final[tuple[Alarm, ...]] = (
    Alarm("acknowledge-before-commit", "power-loss", Amount(cases=2_000)),
    Alarm("sync-off", "power-loss", Amount(cases=2_000)),
    Alarm("metasync-off", "power-loss", Amount(cases=2_000)),
    Alarm("no-sync-on-open", "power-loss", Amount(cases=10_000)),
    Alarm("no-sync-of-names", "power-loss", Amount(cases=2_000)),
    Alarm("checkpoint-before-effect", "power-loss", Amount(cases=4_000)),
    Alarm("acknowledge-before-commit", "kill", Amount(cases=200)),
    Alarm("keys-in-a-later-commit", "kill", Amount(cases=200)),
    Alarm("checkpoint-before-effect", "kill", Amount(cases=200)),
    Alarm("counter-cached", "kill", Amount(cases=200)),
    Alarm("acknowledge-before-commit", "serve-kill", Amount(cases=100)),
    Alarm("keys-in-a-later-commit", "serve-kill", Amount(cases=100)),
    Alarm("sync-off", "real-power-loss", Amount(cases=30)),
    Alarm("metasync-off", "real-power-loss", Amount(cases=100)),
    Alarm("parent-not-closed", "kill", Amount(cases=200)),
    Alarm("trim-one-too-many", "history", Amount(cases=12)),
    Alarm("child-numbered-from-parent", "history", Amount(cases=12)),
    Alarm("trim-one-too-many", "kill", Amount(cases=200)),
    Alarm("counter-cached", "failed-sync", Amount(cases=10_000)),
    Alarm("failed-sync-believed", "failed-sync", Amount(cases=10_000)),
    Alarm("errors-not-translated", "recovery", Amount(cases=500)),
    Alarm("no-sync-of-names", "recovery", Amount(cases=2_000)),
    Alarm("walk-on-open", "recovery-time", Amount(cases=1)),
    Alarm("any-partition-key", "malformed", Amount(cases=20_000), first=127),
    Alarm("fields-not-proved", "malformed", Amount(cases=26)),
    Alarm("limit-not-parsed", "malformed", Amount(cases=101), first=26),
    Alarm("no-crc", "damage", Amount(cases=200)),
    Alarm("no-proof", "damage", Amount(cases=200)),
    Alarm("absence-not-proved", "damage", Amount(cases=600)),
    Alarm("old-lists-believed", "damage", Amount(cases=500)),
    Alarm("sequence-not-checked", "damage", Amount(cases=200)),
    Alarm("swallowed-commit-error", "io-faults", Amount(cases=200)),
    Alarm("interrupted-read-kept", "interrupts", Amount(cases=200)),
    Alarm("writer-gives-up", "memory", Amount(cases=400)),
    Alarm("not-stored-behind-commit", "memory", Amount(cases=400)),
    Alarm("outcome-not-looked-up", "io-faults", Amount(cases=500)),
    Alarm("stored-though-full", "disk-full", Amount(cases=5)),
    Alarm("no-reserve", "disk-full", Amount(cases=2)),
    Alarm("wrong-thread", "hazards", Amount(cases=2)),
    Alarm("no-crc", "hazards", Amount()),
)
