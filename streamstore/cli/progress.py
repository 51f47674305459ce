"""The progress bar: on standard error, only when a person watches."""

import sys
import time
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["LineProgress"]

UPDATE_INTERVAL_S: Final = 0.1

import_module("rich")  # so that its absence is told before anything is done; what draws is imported to draw


class LineProgress:
    """Shows how far a file has been walked. ``bytes_total`` is None when nobody knows where it ends."""

    def __init__(self, title: str, bytes_total: int | None) -> None:
        # A bar that nobody sees is not made: what draws it takes as long to import as the store.
        self._shown: tuple[Progress, TaskID] | None = None
        if sys.stderr.isatty():
            progress = _bar()
            self._shown = progress, progress.add_task(title, total=bytes_total, records=0)
        self._next_update_s = 0.0

    def __enter__(self) -> Self:
        if self._shown is not None:
            self._shown[0].start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._shown is not None:
            self._shown[0].stop()

    def show(self, *, bytes_done: int, records: int) -> None:
        """Show the state, unless it was shown a moment ago: drawing costs more than storing a line."""
        now_s = time.monotonic()
        if now_s >= self._next_update_s:
            self._next_update_s = now_s + UPDATE_INTERVAL_S
            self.finish(bytes_done=bytes_done, records=records)

    def finish(self, *, bytes_done: int, records: int) -> None:
        """Show the state at the end, in any case."""
        if self._shown is not None:
            progress, task = self._shown
            progress.update(task, completed=bytes_done, records=records)


def _bar() -> "Progress":
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn  # noqa: PLC0415

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[records]:,} records"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        redirect_stdout=False,
        redirect_stderr=False,
    )
