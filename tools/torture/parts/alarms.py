"""Faults planted in the engine: a part of the torture that stays green with one is no alarm."""

from typing import Final

from tools.torture.alarms import ALARMS
from tools.torture.part import Amount, Ordeal, Part
from tools.torture.parts import PARTS
from tools.torture.processes import Task, run_in_process

__all__ = ["PART"]


def _run(ordeal: Ordeal) -> None:
    for case in ordeal.cases(len(ALARMS)):
        alarm = ALARMS[case]
        task = Task(
            PARTS[alarm.part],
            ordeal.seed,
            alarm.amount,
            ordeal.folder,
            plant=alarm.plant,
            first=alarm.first,
            first_finding_ends=True,
        )
        result = run_in_process(task, lambda _done, _total: None)
        for reason, count in result.skipped.items():
            ordeal.skip(f"{alarm.part} {reason}", count)
        if result.findings:
            ordeal.add("rang")
        elif not result.skipped:
            ordeal.found(case, f"{alarm.plant} was planted, and {alarm.part} saw nothing in {result.done} cases.")


PART: Final = Part(
    name="alarms",
    what="Plants a fault in the engine; the part that is there to see it turns red.",
    unit="faults",
    sizes={"ci": Amount(), "release": Amount()},
    run=_run,
)
