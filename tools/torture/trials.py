"""Trials: an operation each, made on a store of its own while something fails in one place, and judged behind it.

A forked child makes the operation; this process reads what became of the store.
"""

import itertools
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from tools.torture import plants
from tools.torture.operations import Operation, make_template
from tools.torture.part import Ordeal
from tools.torture.truth import Expected, Fault, Told, contradictions, copy_store, expect, make
from tools.torture.worker import Ended, Worker, run_in_child

__all__ = ["Places", "Trial", "Trials", "in_child", "spread"]

T = TypeVar("T")


class Trial(NamedTuple):
    """An operation, and what fails in which place of it."""

    operation: Operation
    kind: str
    place: int

    def __str__(self) -> str:
        return f"{self.operation.name}, {self.kind} in place {self.place}"


class Places(NamedTuple):
    """The places in an operation that a kind of fault can hit, from 1 to the last."""

    operation: Operation
    kind: str
    last: int


def spread(ordeal: Ordeal, places: Iterable[Places]) -> list[Trial]:
    """Return a trial for each place, in an order that the dice have shaken: any number of the first are a sample.

    The kinds take turns, so that one that has few places is in a small sample too.
    """
    kinds: dict[str, list[Trial]] = {}
    for operation, kind, last in places:
        kinds.setdefault(kind, []).extend(Trial(operation, kind, number) for number in range(1, last + 1))
    dice = ordeal.dice()
    for trials in kinds.values():
        dice.shuffle(trials)
    return [trial for turn in itertools.zip_longest(*kinds.values()) for trial in turn if trial is not None]


class Trials:
    """Where trials take place."""

    def __init__(self, ordeal: Ordeal) -> None:
        self._ordeal = ordeal
        self._folder = ordeal.memory_folder
        self._template = self._folder / "template"
        self._expected: dict[str, Expected] = {}
        self._is_planted = False
        in_child(lambda: make_template(self._template))

    def expect(self, operation: Operation) -> Expected:
        """Return what the operation does when nothing fails."""
        expected = self._expected.get(operation.name)
        if expected is None:
            folder = self._folder / operation.name
            expected = self._expected[operation.name] = in_child(lambda: expect(operation, self._template, folder))
            shutil.rmtree(folder)
        return expected

    def make(self, operation: Operation, path: Path, fault: Fault, *, beside: bool = False) -> Told:
        """Make the operation on a store of its own."""
        if not operation.is_new:
            copy_store(self._template, path)
        return make(operation, path, fault, beside=beside)

    def run(self, trials: Sequence[Trial], fault_of: Callable[[Trial], Fault]) -> None:
        """Do the cases of the ordeal, each a trial, and tell what was found."""

        def work(case: int) -> Told:
            self._plant_once()
            beside = self._ordeal.dice(case).random() < 0.5
            return self.make(trials[case].operation, self._path(case), fault_of(trials[case]), beside=beside)

        with Worker(work) as worker:
            made: tuple[int, Told | Ended] | None = None
            for case in self._ordeal.cases(len(trials)):
                worker.begin(case)
                is_sound = made is None or self._tell(trials, *made)
                made = case, worker.told()
                if not is_sound:
                    worker.start_anew()
            if made is not None:
                self._tell(trials, *made)

    def _tell(self, trials: Sequence[Trial], case: int, told: Told | Ended) -> bool:
        """Judge a case, while the next one is made, and tell what came of it. True: nothing was found."""
        found = self._judge(told, trials[case].operation, self._path(case))
        for sentence in found:
            self._ordeal.found(case, f"{trials[case]}: {sentence}")
        if not isinstance(told, Ended):
            self._ordeal.add(told.word)
        shutil.rmtree(self._path(case), ignore_errors=True)
        return not found

    def _plant_once(self) -> None:
        """In a child: what is planted there must not blind who judges it."""
        if not self._is_planted:
            plants.plant(self._ordeal.plant)
            self._is_planted = True

    def _judge(self, told: Told | Ended, operation: Operation, path: Path) -> list[str]:
        if isinstance(told, Ended):
            return [told.sentence]
        return list(contradictions(told, operation, path, self.expect(operation)))

    def _path(self, case: int) -> Path:
        return self._folder / f"store {case}"


def in_child(work: Callable[[], T]) -> T:
    """Do in a forked child what opens stores: so this process stays without threads."""
    done = run_in_child(work)
    if isinstance(done, Ended):
        raise RuntimeError(done.sentence)
    return done
