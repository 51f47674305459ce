"""The map of the file, from which LMDB takes the pages of a commit: it grows, and on a full disk it is limited.

A map is address space, and larger than the file; LMDB does not ask whether the disk has the page that it takes. So on
a full disk the map ends where the file does, until the file can be longer again: then LMDB itself says which commit
finds no page, and nothing of that is stored. What is tried for such a commit is in ``find_pages``.
"""

import time
from functools import partial
from typing import Final

import lmdb

from streamstore.environment import Environment
from streamstore.errors import StoreFullError
from streamstore.library import MACHINE_ERRORS
from streamstore.room import Need

__all__ = ["MemoryMap"]

# How long the writer waits for reads to end, and how often it looks.
OLDER_READERS_S_MAX: Final = 0.5
OLDER_READERS_LOOK_S: Final = 0.002


class MemoryMap:
    """The map of an environment. It is changed by whoever may write, between two transactions."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._ripe_commit: int | None = None
        self._awaited_commit: int | None = None

    def is_limited(self) -> bool:
        """Tell whether it ends where the file does."""
        return self._environment.map_bytes_unlimited is not None

    def grow(self) -> None:
        """Double it. Nothing was stored by the transaction that found it full."""
        self._resize(2 * self._environment.env.info()["map_size"])

    def adopt(self) -> None:
        """Take over the size that another process has given it."""
        self._environment.readers.alone(partial(self._environment.env.set_mapsize, 0))
        self._environment.map_bytes_unlimited = None

    def limit(self) -> None:
        """On a full disk: let it end with the file, so that LMDB itself says which commit finds no page."""
        env = self._environment.env
        page_bytes, map_bytes = env.stat()["psize"], env.info()["map_size"]
        # LMDB never uses the last page of a map.
        self._resize((self._environment.lock.data_file_bytes() // page_bytes + 1) * page_bytes)
        self._environment.map_bytes_unlimited = map_bytes

    def find_pages(self, need: Need) -> None:
        """Behind a commit that found no page: make room for it, or refuse it."""
        try:
            writing = self._environment.env.begin(write=True)
        except lmdb.MapResizedError:  # another process has found some
            self.adopt()
            return
        try:
            is_longer = self._environment.room.find(self._environment.data_bytes())
        finally:
            writing.abort()
        if is_longer and self._environment.map_bytes_unlimited is not None:
            self._resize(self._environment.map_bytes_unlimited)
            self._environment.map_bytes_unlimited = None
        elif self._ripe_commit != (commit := self._last_commit()):
            self._ripen_free_pages()
        elif need.reserve_pages() == 0 and self._awaited_commit != commit and self._has_older_readers(commit):
            self._awaited_commit = commit
            self._await_older_readers(commit)
        elif not is_longer:
            raise StoreFullError(
                "No space left to write (the disk is full; nothing was stored or changed). Free some, or trim what has "
                "expired, and call again."
            )

    def _resize(self, map_bytes: int) -> None:
        try:
            self._environment.readers.alone(partial(self._environment.env.set_mapsize, map_bytes))
        except MACHINE_ERRORS as error:
            self._environment.reopen()  # LMDB gives up an environment that it could not map again
            raise StoreFullError(
                f"The map cannot grow to {map_bytes} bytes ({error}); nothing was stored. Raise the limit on "
                "address space (ulimit -v)."
            ) from error

    def _ripen_free_pages(self) -> None:
        """Commit next to nothing: what a commit freed, LMDB uses two commits later, and no other gets through."""
        try:
            self._environment.commit_mark()
        except MACHINE_ERRORS:
            self._environment.is_disk_sure = False  # whatever it is, the next commit meets it too
        self._ripe_commit = self._last_commit()

    def _await_older_readers(self, commit: int) -> None:
        """Give reads that are under way, in any process, a moment to end: what they see cannot be used again."""
        deadline_s = time.monotonic() + OLDER_READERS_S_MAX
        while self._has_older_readers(commit) and time.monotonic() < deadline_s:
            time.sleep(OLDER_READERS_LOOK_S)

    def _has_older_readers(self, commit: int) -> bool:
        """Tell whether a read transaction sees less than this commit."""
        numbers = [line.split()[-1] for line in self._environment.env.readers().splitlines()[1:]]
        return any(number != "-" and int(number) < commit for number in numbers)

    def _last_commit(self) -> int:
        return self._environment.env.info()["last_txnid"]
