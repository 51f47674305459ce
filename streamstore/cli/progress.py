"""The progress bar: on standard error, only when a person watches."""

import sys
import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["LineProgress"]

UPDATE_INTERVAL_S: Final = 0.1


class LineProgress:
    """Shows how far a file has been walked. ``bytes_total`` is None when nobody knows where it ends."""

    def __init__(self, title: str, bytes_total: int | None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[records]:,} records"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            redirect_stdout=False,
            redirect_stderr=False,
        )
        # Not Progress(disable=...): some versions of rich end even a disabled bar with an empty line.
        self._is_shown = sys.stderr.isatty()
        self._task = self._progress.add_task(title, total=bytes_total, records=0)
        self._next_update_s = 0.0

    def __enter__(self) -> Self:
        if self._is_shown:
            self._progress.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_shown:
            self._progress.stop()

    def show(self, *, bytes_done: int, records: int) -> None:
        """Show the state, unless it was shown a moment ago: drawing costs more than storing a line."""
        now_s = time.monotonic()
        if now_s >= self._next_update_s:
            self._next_update_s = now_s + UPDATE_INTERVAL_S
            self.finish(bytes_done=bytes_done, records=records)

    def finish(self, *, bytes_done: int, records: int) -> None:
        """Show the state at the end, in any case."""
        self._progress.update(self._task, completed=bytes_done, records=records)
