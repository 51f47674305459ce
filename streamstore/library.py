"""The LMDB library: which version of it, how many may read at once, and what its names and errors mean.

Everything that LMDB or the machine raises becomes an error of this package here and nowhere else.
"""

import contextlib
import errno
from collections.abc import Generator
from typing import Final

import lmdb

from streamstore.errors import StorageError, StoreFormatError, StoreFullError, StoreNotFoundError
from streamstore.sections import NO_MEMORY

__all__ = [
    "MACHINE_ERRORS",
    "OUT_OF_SPACE",
    "READERS_MAX",
    "lib_version",
    "name_end",
    "no_thread",
    "translate",
    "translated",
]

LMDB_LIB_VERSION: Final = 0  # LMDB 0.9 and its file format
READERS_MAX: Final = 1024

OUT_OF_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
MACHINE_ERRORS: Final = (lmdb.Error, OSError, *NO_MEMORY)


def lib_version() -> int:
    """Return which LMDB to use: the tests change it."""
    return LMDB_LIB_VERSION


def name_end() -> bytes:
    """Return what LMDB writes behind the name of a named database."""
    return b"" if LMDB_LIB_VERSION == 0 else b"\0"


def translate(error: BaseException, doing: str) -> StorageError:
    """Return the error of this package for one of LMDB or of the machine: the only place that does so."""
    reason = f"{error}; nothing was stored or changed"
    code = getattr(error, "errno", None) or getattr(error, "code", None)
    if isinstance(error, (lmdb.MapFullError, lmdb.DiskError)) or code in OUT_OF_SPACE:
        return StoreFullError(f"No space left to {doing} ({reason}). Free some and call again.")
    if isinstance(error, FileNotFoundError):
        return StoreNotFoundError(f"Cannot {doing}: {reason}.")
    if isinstance(error, (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.IncompatibleError)):
        return StoreFormatError(f"Cannot {doing}: {reason}. It is not a store, or one of another version.")
    if isinstance(error, (lmdb.CorruptedError, lmdb.PageNotFoundError)):
        return StoreFormatError(f"Cannot {doing}: {reason}. The file is damaged.")
    if isinstance(error, lmdb.ReadersFullError):
        return StorageError(f"Cannot {doing}: {READERS_MAX} readers are at work already. {reason}.")
    return StorageError(f"Cannot {doing}: {reason}.")


def no_thread(error: RuntimeError) -> StorageError:
    """Return the error for a thread that Python cannot start, for a lack of memory or a limit on threads."""
    return StorageError(f"Cannot start a thread: {error}; nothing was done. End some, or raise the limit (ulimit -u).")


@contextlib.contextmanager
def translated(doing: str) -> Generator[None]:
    try:
        yield
    except StorageError:
        raise
    except MACHINE_ERRORS as error:
        raise translate(error, doing) from error
