"""A copy of an open store, whole or none, while its writers run.

A child process copies and checks: LMDB's copy syncs nothing, keeps the environment from growing while it runs, and ends
the process on a page that is damaged. The child opens the store like any other process, so it cannot drop the locks
of this one.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from streamstore.apart import ChildDiedError, Report, reports_of
from streamstore.check import check_store
from streamstore.engine import Engine
from streamstore.errors import StorageError, StoreFormatError
from streamstore.folder import StoreFolder, whole_or_none
from streamstore.library import translated

__all__ = ["back_up"]

COMPACT = "compact"


def back_up(source: Path, target: Path, *, compact: bool) -> None:
    """Copy the newest snapshot of the store in ``source`` to ``target``, which must be new.

    Raises ``InvalidArgumentException`` and ``StorageError``; then nothing is at ``target``.
    """
    with translated(f"back up to {target}"), whole_or_none(target) as making:
        try:
            for _ in reports_of(
                _copy_and_check, [os.fspath(source), os.fspath(making), COMPACT if compact else ""], stall_s=None
            ):
                pass
        except ChildDiedError as death:
            raise StorageError(
                f"The process that copied {source} {death}. Nothing was left at {target}. If this goes on, the store "
                "is damaged: see streamstore check."
            ) from death


def _copy_and_check(report: Report, arguments: Sequence[str]) -> None:
    del report
    source, making, compact = Path(arguments[0]), Path(arguments[1]), arguments[2] == COMPACT
    # The store is open in the process that asks, and so was let pass, wherever it lies.
    engine = Engine(source, initial=None, read_only=True, sync="full", allow_network_filesystem=True)
    try:
        engine.open()
        engine.copy_to(StoreFolder(making).data_path, compact=compact)
    finally:
        engine.close()
    findings = check_store(making, allow_network_filesystem=True)
    if findings:
        raise StoreFormatError(
            f"The copy is damaged, because the store is: {findings[0]} {len(findings)} such findings in all; see "
            "streamstore check, and streamstore salvage. Nothing was left of the copy."
        )
