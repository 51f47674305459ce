"""Malformed input: every public call and every function that parses gets values that it must refuse.

The first cases give bytes to a target each, guided by coverage. Those behind them look with Hypothesis for the smallest
call that goes wrong, a case for each public call and each parser. All others are one call each, as the dice make it.
"""

import asyncio
import os
import random
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from streamstore import databases, disk_format
from tools.torture.fuzzing import Fuzzer, Fuzzing, lacks_atheris
from tools.torture.malformed import (
    CALLS,
    OF_AWAITED_STORES,
    OF_STORES,
    TAKEN_FROM_THE_FILE,
    arguments_of,
    hostile_bytes,
)
from tools.torture.part import Amount, Ordeal, Part, Size
from tools.torture.plants import plant
from tools.torture.refusals import ACCEPTED, REFUSED, Arguments, Stores, await_call, call_parser, call_store
from tools.torture.strategies import look_for_calls
from tools.torture.targets import TARGETS
from tools.torture.worker import Ended, Worker

__all__ = ["FIRST_CALL", "PART"]

CASES_PER_CHILD: Final = 2_000
LOOKS_PER_CHILD: Final = 3
AWAITED_EVERY: Final = 100
EXAMPLES: Final[dict[Size, int]] = {"ci": 15, "release": 2_000}
SECONDS_OF_TARGET: Final[dict[Size, int]] = {"ci": 300, "release": 600}
TARGETS_SHARE: Final = 0.8
"""Of the time of a part that is given so many seconds."""

FUZZED: Final = tuple(TARGETS)
LOOKED_FOR: Final = (*OF_STORES, *CALLS)
FIRST_LOOK: Final = len(FUZZED)
FIRST_CALL: Final = FIRST_LOOK + len(LOOKED_FOR)


class _Fuzzers:
    """Fuzz target after target; in a release, as many at a time as there are processors."""

    def __init__(self, ordeal: Ordeal) -> None:
        self._ordeal = ordeal
        self._running = ExitStack()
        count = (os.cpu_count() or 1) if ordeal.size == "release" else 1
        self._fuzzers = [Fuzzer(ordeal.memory_folder, plant=ordeal.plant) for _ in range(count)]
        self._next_case = 0

    def __enter__(self) -> Self:
        for fuzzer in self._fuzzers:
            self._running.enter_context(fuzzer)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        self._running.close()

    def fuzz(self, case: int) -> None:
        """Tell what came of a target."""
        lack = lacks_atheris()
        if lack is not None:
            self._ordeal.skip(f"needs {lack}")
            return
        self._next_case = max(self._next_case, case)
        while self._next_case < min(case + len(self._fuzzers), FIRST_LOOK):
            self._of(self._next_case).begin(self._fuzzing(self._next_case))
            self._next_case += 1
        fuzzed = self._of(case).told(self._ordeal.pulse)
        self._ordeal.add("executions of atheris", fuzzed.executions)
        self._ordeal.add("edges reached", fuzzed.edges)
        if fuzzed.finding is not None:
            self._ordeal.found(case, fuzzed.finding)

    def _of(self, case: int) -> Fuzzer:
        return self._fuzzers[case % len(self._fuzzers)]

    def _fuzzing(self, case: int) -> Fuzzing:
        name, ordeal = FUZZED[case], self._ordeal
        seconds = SECONDS_OF_TARGET[ordeal.size]
        if ordeal.seconds is not None:
            seconds = max(1, int(ordeal.seconds * TARGETS_SHARE / len(FUZZED)))
        is_timed = ordeal.size == "release" or ordeal.seconds is not None
        executions = None if is_timed else TARGETS[name].ci_executions
        return Fuzzing(name, ordeal.dice(case).randrange(1, 2**31), executions, seconds)


class _Caller:
    """Makes calls, in a forked child."""

    def __init__(self, ordeal: Ordeal) -> None:
        self._ordeal = ordeal
        self._stores = Stores(ordeal.memory_folder)

    def look_for_one(self, case: int) -> tuple[dict[str, int], str | None]:
        """Have Hypothesis look for a call of one function that goes wrong."""
        call = LOOKED_FOR[case - FIRST_LOOK]

        def make(arguments: Arguments) -> str:
            return call_store(call, arguments, self._stores) if call in OF_STORES else call_parser(call, arguments)

        examples, seeded = EXAMPLES[self._ordeal.size], f"{self._ordeal.seed} {call.name}"
        return look_for_calls(call, self._stores.tokens, make, examples=examples, seeded=seeded)

    def call(self, case: int) -> str:
        """Make the call of the dice."""
        dice, tokens = self._ordeal.dice(case), self._stores.tokens
        if case % AWAITED_EVERY == 0:
            call = dice.choice(OF_AWAITED_STORES)
            return asyncio.run(await_call(call, arguments_of(call, dice, tokens), self._stores))
        if case % 3 == 0:
            return _parse(dice, tokens)
        call = dice.choice(OF_STORES)
        return call_store(call, arguments_of(call, dice, tokens), self._stores)


def run(ordeal: Ordeal) -> None:
    plant(ordeal.plant)
    caller = _Caller(ordeal)
    with (
        _Fuzzers(ordeal) as fuzzers,
        Worker(caller.look_for_one, cases_of_one_child=LOOKS_PER_CHILD) as looking,
        Worker(caller.call, cases_of_one_child=CASES_PER_CHILD) as calling,
    ):
        for case in ordeal.cases():
            if case < FIRST_LOOK:
                fuzzers.fuzz(case)
            elif case < FIRST_CALL:
                _tell_of_look(ordeal, case, looking.do(case))
            else:
                _tell_of_call(ordeal, case, calling.do(case))


def _tell_of_look(ordeal: Ordeal, case: int, looked: tuple[dict[str, int], str | None] | Ended) -> None:
    if isinstance(looked, Ended):
        ordeal.found(case, looked.sentence)
        return
    counts, wrong = looked
    ordeal.add("examples of Hypothesis", sum(counts.values()))
    if wrong is not None:
        ordeal.found(case, wrong)


def _tell_of_call(ordeal: Ordeal, case: int, told: str | Ended) -> None:
    if isinstance(told, Ended):
        ordeal.found(case, told.sentence)
    elif told in (REFUSED, ACCEPTED):
        ordeal.add(told)
    else:
        ordeal.found(case, told)


def _parse(dice: random.Random, tokens: tuple[str, ...]) -> str:
    """Call a function that parses an argument, a token or bytes of the file."""
    call = dice.choice(CALLS)
    arguments = arguments_of(call, dice, tokens)
    if call.function.__module__ in (databases.__name__, disk_format.__name__):
        arguments |= {name: hostile_bytes(dice) for name in sorted(TAKEN_FROM_THE_FILE) if name in call.needed}
    return call_parser(call, arguments)


PART: Final = Part(
    name="malformed",
    what="Gives every public call and every parser values that they must refuse; typed errors, nothing changed.",
    unit="calls",
    sizes={"ci": Amount(cases=100_000), "release": Amount(cases=3_000_000)},
    run=run,
)
