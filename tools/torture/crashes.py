"""Crash images, one after the other: of recorded workloads, each tried in a forked child.

A child tries many. If it dies or hangs, that is told of the image that it was at, and another one goes on behind it.
Where cases are numbers of images, so many in a row are of one workload.
"""

import json
import os
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from streamstore.errors import StreamStoreError
from tools.torture.calls import Calls
from tools.torture.disk import Timeline
from tools.torture.images import Image, ImageFolder, plan_images
from tools.torture.part import Ordeal
from tools.torture.promises import CheckedStore, Mark, Promises, Trial
from tools.torture.workload import Workload, WorkloadEndedError, record

__all__ = ["Crash", "try_and_write_on", "try_images"]

IMAGES_PER_WORKLOAD: Final = 500
IMAGES_PER_CHILD: Final = 250
IMAGE_S: Final = 60
"""An image whose trial takes so long hangs."""


class Crash(NamedTuple):
    """An image on the disk, and what was promised by then."""

    path: Path
    promises: Promises
    dice: Random
    calls: Calls
    tally: Counter[str]
    """What the trial counts, for the figures of the part."""

    def open(self) -> CheckedStore:
        """Open the store. It may be missing if nobody was told that there is one."""
        return CheckedStore(
            self.path,
            clock=lambda: self.promises.now_ms,
            create=not self.promises.is_opened,
            allow_network_filesystem=True,  # which saves a tenth of the time
        )


TryCrash = Callable[[Crash], Iterable[str]]
"""Opens what a crash left, and yields each promise that does not hold."""
_Said = tuple[int, str | None, dict[str, int]]
"""What a child says: the case that it is at, what is wrong with it, and what it counted."""


def try_and_write_on(crash: Crash) -> Iterator[str]:
    """Open the store, hold it against the promises, and write on."""
    with crash.open() as store:
        trial = Trial(store, crash.promises)
        problems = list(trial.problems())
        yield from problems
        if not problems:
            yield from trial.write_on()


def try_images(ordeal: Ordeal, *, are_syncs_failing: bool, try_crash: TryCrash = try_and_write_on) -> None:
    """Do all cases of a part: a case is an image."""
    calls = Calls.in_front()
    for number, cases in groupby(ordeal.cases(), lambda case: case // IMAGES_PER_WORKLOAD):
        first = number * IMAGES_PER_WORKLOAD
        folder = ordeal.memory_folder / f"workload-{number}"
        workload = Workload(f"{ordeal.part} {ordeal.seed} {number}", ordeal.plant, are_syncs_failing=are_syncs_failing)
        try:
            timeline = record(workload, calls, folder)
        except WorkloadEndedError as error:
            ordeal.found(first, str(error))
            for _ in cases:
                pass
            continue
        images = plan_images(timeline, ordeal.dice(first), IMAGES_PER_WORKLOAD)
        trials = _Trials(ordeal, timeline, calls, folder / "image", try_crash)
        while batch := list(islice(cases, IMAGES_PER_CHILD)):
            trials.do({case: images[(case - first) % len(images)] for case in batch})
        ordeal.add("workloads")
        ordeal.add("windows", len(timeline.windows))
        shutil.rmtree(folder)


class _Trials:
    """Tries images of one timeline in children."""

    def __init__(self, ordeal: Ordeal, timeline: Timeline, calls: Calls, folder: Path, try_crash: TryCrash) -> None:
        self._ordeal = ordeal
        self._timeline = timeline
        self._calls = calls
        self._folder = folder
        self._try_crash = try_crash

    def do(self, images: dict[int, Image]) -> None:
        """Try each image and tell what is found. They are quickest in the order of their windows."""
        waiting = sorted(images, key=lambda case: images[case].window)
        while waiting:
            case, status = self._try_in_child({case: images[case] for case in waiting})
            if status == 0 or self._ordeal.has_found_enough:
                return
            self._ordeal.found(case, f"{_place(images[case])}: the process ended with {status}.")
            waiting = waiting[waiting.index(case) + 1 :]

    def _try_in_child(self, images: dict[int, Image]) -> tuple[int, int]:
        """Try the images in a child. Return which was the last, and how it ended: below 0, by which signal."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            self._be_child(images, writing)
        os.close(writing)
        case = next(iter(images))
        with os.fdopen(reading, encoding="utf-8") as pipe:
            for line in pipe:
                if line.endswith("\n"):  # a line is cut short where the child was killed
                    case = self._hear(json.loads(line), images)
                if self._ordeal.has_found_enough:
                    os.kill(child, signal.SIGKILL)
                    break
        return case, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _hear(self, said: _Said, images: dict[int, Image]) -> int:
        case, problem, figures = said
        if problem is not None:
            self._ordeal.found(case, f"{_place(images[case])}: {problem}")
        for figure, count in figures.items():
            self._ordeal.add(figure, count)
        return case

    def _be_child(self, images: dict[int, Image], said: int) -> None:
        """Try the images. Does not return."""

        def say(case: int, problem: str | None, figures: dict[str, int]) -> None:
            os.write(said, json.dumps((case, problem, figures)).encode() + b"\n")

        try:
            self._try_all(images, say)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)

    def _try_all(self, images: dict[int, Image], say: Callable[[int, str | None, dict[str, int]], None]) -> None:
        folder = ImageFolder(self._timeline, self._folder)
        self._calls.watch(self._folder)
        promises, marks = Promises(), 0
        for case, image in images.items():
            signal.alarm(IMAGE_S)
            stop = self._timeline.windows[image.window].marks
            for mark in self._timeline.marks[marks:stop]:
                promises.add(Mark.decode(mark))
            marks = stop
            say(case, None, {})
            folder.make(image)
            crash = Crash(self._folder / "store", promises, self._ordeal.dice(case), self._calls, Counter())
            for problem in _problems_of(crash, self._try_crash):
                say(case, problem, {})
            if crash.tally:
                say(case, None, crash.tally)


def _problems_of(crash: Crash, try_crash: TryCrash) -> Iterator[str]:
    try:
        yield from try_crash(crash)
    except StreamStoreError as error:
        yield f"{type(error).__name__}: {error}"
    except Exception as error:
        yield f"An error without a type, {error!r}: {traceback.format_exc(limit=-3)}"


def _place(image: Image) -> str:
    return f"In window {image.window}, with {image.pages_lost} pages lost"
