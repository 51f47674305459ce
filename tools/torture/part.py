"""What a part of the torture is, and what it tells."""

import dataclasses
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple

__all__ = ["SIZES", "Amount", "Finding", "Ordeal", "Part", "Result", "Size"]

Size = Literal["ci", "release"]
SIZES: Final[tuple[Size, ...]] = ("ci", "release")
MEMORY_FOLDER: Final = Path("/dev/shm")
PLACES_ROUNDED_UP_TO: Final = 32


class Amount(NamedTuple):
    """How much of a part is done: so many cases, or as many as fit so many seconds, whichever ends first.

    Neither: all that there are, for a part whose cases are a list.
    """

    cases: int | None = None
    seconds: float | None = None


class Finding(NamedTuple):
    """A promise that did not hold in a case."""

    case: int
    sentence: str


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of a part."""

    part: str
    unit: str
    seed: int
    plant: str | None
    done: int
    seconds: float
    skipped: dict[str, int]
    """How many cases were left out, for each reason."""
    figures: dict[str, float]
    """What else was counted or measured; a name ends in its unit where it has one."""
    findings: tuple[Finding, ...]
    total: int | None = None
    """How many cases the run was to do; None: as many as fit its seconds, or it is not known."""
    listed: int | None = None
    """How many cases there are, where they are a list."""
    places: dict[str, int] = dataclasses.field(default_factory=dict[str, int])
    """What was counted to make the list."""

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Result":
        fields = json.loads(text)
        findings = tuple(Finding(*finding) for finding in fields.pop("findings"))
        return cls(**fields, findings=findings)


class Ordeal:
    """One run of a part: which cases to do, where to work, and the tally of what was found.

    ``behind``: what came of a run of the same seed that ended early. This one goes on with its next case, and tells
    what came of both.
    A part takes its cases from ``cases``, makes all its choices with ``dice(case)``, so that a case can be made again
    alone, and says ``found`` for each promise that did not hold.
    """

    def __init__(
        self,
        part: str,
        *,
        seed: int,
        amount: Amount,
        folder: Path,
        size: Size = "ci",
        plant: str | None = None,
        first: int = 0,
        only: int | None = None,
        first_finding_ends: bool = False,
        behind: Result | None = None,
        on_progress: Callable[[int, int | None], None] = lambda _done, _total: None,
    ) -> None:
        self.part = part
        self.seed = seed
        self.size: Size = size
        """For a part whose cases are larger in a release, not only more."""
        self.plant = plant
        """The fault that the programs of this run plant in themselves, see ``tools.torture.plants``."""
        self.folder = folder
        """On a disk. Everything in it is deleted at the end."""
        self.memory_folder = folder
        """The same, in memory where the machine has that: where a sync costs nothing."""
        self._amount = amount
        self._first = first if behind is None else behind.done
        self._behind = behind
        self._only = only
        self._first_finding_ends = first_finding_ends
        self._on_progress = on_progress
        self._started_s = time.monotonic()
        self._is_ended = False
        self._done = 0
        self._total: int | None = None
        self._listed: int | None = None
        self._places: dict[str, int] = {}
        self._skipped: dict[str, int] = {} if behind is None else dict(behind.skipped)
        self._figures: dict[str, float] = {} if behind is None else dict(behind.figures)
        self._findings: list[Finding] = [] if behind is None else list(behind.findings)

    def cases(self, total: int | None = None) -> Iterator[int]:
        """Iterate over the numbers of the cases to do, from the first; below ``total``, if there are no more.

        Ends at the amount that was asked for. Call it once in a run. Raises ``ValueError`` if there are others than
        there were in the run that this one goes on from.
        """
        self._listed = total
        if self._behind is not None and self._behind.listed not in (None, total):
            raise ValueError(f"{self.part} is a list of {total} cases, and was one of {self._behind.listed}")
        ends = [] if self._amount.cases is None else [self._first + self._amount.cases]
        end = min([*ends, total] if total is not None else ends, default=None)
        self._total = end
        if self._only is not None:
            yield self._only
            self._done = 1
            return
        case = self._first
        while (end is None or case < end) and not self._is_over():
            self._on_progress(case, end)
            yield case
            case += 1
            self._done = case - self._first

    def places(self, counted: Mapping[str, int]) -> Mapping[str, int]:
        """Return how many places there are in each thing, a few more than were counted: the list is made of them.

        The count differs a little between runs. This hides it: a case means the same in the next run, most often, and
        always in one that goes on from another. Raises ``ValueError`` if it has other places than that.
        """
        places = {name: -(-count // PLACES_ROUNDED_UP_TO) * PLACES_ROUNDED_UP_TO for name, count in counted.items()}
        if self._behind is not None and self._behind.places:
            before = self._behind.places
            if places.keys() != before.keys() or any(
                abs(count - before[name]) > PLACES_ROUNDED_UP_TO for name, count in places.items()
            ):
                raise ValueError(f"{self.part} is of {places} places, and was of {before}")
            places = before
        self._places = places
        return places

    @property
    def seconds(self) -> float | None:
        """How long the whole part may take, if that was asked for."""
        return self._amount.seconds

    def pulse(self) -> None:
        """Tell in a long case that it goes on."""
        self._on_progress(self._done, self._amount.cases)

    def dice(self, case: int | None = None) -> random.Random:
        """Return the dice of a case, or those of the whole run."""
        return random.Random(f"{self.part} {self.seed} {'' if case is None else case}")

    def found(self, case: int, sentence: str) -> None:
        """Tell that in this case a promise did not hold."""
        self._findings.append(Finding(case, sentence))

    def skip(self, reason: str, count: int = 1) -> None:
        """Tell that cases were left out, and why."""
        self._skipped[reason] = self._skipped.get(reason, 0) + count

    def add(self, figure: str, value: float = 1) -> None:
        """Add to a figure of the result."""
        self._figures[figure] = self._figures.get(figure, 0) + value

    def set(self, figure: str, value: float) -> None:
        """Set a figure of the result."""
        self._figures[figure] = value

    def end(self) -> None:
        """Begin no further case: what was done until now is the result."""
        self._is_ended = True

    @property
    def has_found_enough(self) -> bool:
        """Whether a finding has ended the run: what is left of a case does not matter then."""
        return self._first_finding_ends and bool(self._findings)

    def result(self, unit: str) -> Result:
        return Result(
            part=self.part,
            unit=unit,
            seed=self.seed,
            plant=self.plant,
            done=self._done + (0 if self._behind is None else self._behind.done),
            seconds=round(
                time.monotonic() - self._started_s + (0 if self._behind is None else self._behind.seconds), 3
            ),
            skipped=self._skipped,
            figures=self._figures,
            findings=tuple(self._findings),
            total=self._total,
            listed=self._listed,
            places=self._places,
        )

    def _is_over(self) -> bool:
        seconds = self._amount.seconds
        is_late = seconds is not None and time.monotonic() - self._started_s > seconds
        return self._is_ended or is_late or self.has_found_enough


class Part(NamedTuple):
    """A part of the torture."""

    name: str
    what: str
    """What is done to the store, and what must hold, in one sentence."""
    unit: str
    """What a case is, in the plural: "images"."""
    sizes: dict[Size, Amount]
    run: Callable[[Ordeal], None]
    lacks: Callable[[], str | None] = lambda: None
    """Return what the machine lacks for it, such as "root", or None."""
    needs: Literal["calls", "allocations"] | None = None
    """Which library is in front of the C library in its process, which needs gcc: that of the module of this name."""


def run_part(part: Part, ordeal: Ordeal) -> Result:
    """Do the part, or tell that the machine cannot."""
    lack = part.lacks()
    if lack is not None:
        ordeal.skip(f"needs {lack}")
        return ordeal.result(part.unit)
    with tempfile.TemporaryDirectory(prefix="streamstore-torture-", dir=_memory_folder(ordeal.folder)) as memory:
        ordeal.memory_folder = Path(memory)
        part.run(ordeal)
    return ordeal.result(part.unit)


def _memory_folder(otherwise: Path) -> Path:
    return MEMORY_FOLDER if os.access(MEMORY_FOLDER, os.W_OK) else otherwise
