"""`streamstore serve` on a store that survives it: forked, so that a start costs no interpreter, and killed.

It comes back at the same address. That is one of this process's own, of the many that are this machine: at the usual
one, a client that asks for a port where nobody listens may be given that very port to ask from, and so keep it taken.
"""

import contextlib
import os
import select
import sys
import time
from functools import partial
from pathlib import Path
from typing import Final, Self

from streamstore.cli import app, main
from streamstore.wire import serve
from tools.torture import plants
from tools.torture.forked import SIGKILLED, Forked

__all__ = ["Served"]

READY: Final = "serving "
START_S_MAX: Final = 60.0
READ_BYTES: Final = 65_536

IMPORTED_ONCE_FOR_ALL_FORKS: Final = (app, serve)


def own_loopback_address() -> str:
    """Return an address of this machine that no other process of ours serves at."""
    pid = os.getpid()
    return f"127.{1 + pid // 62_500 % 250}.{1 + pid // 250 % 250}.{1 + pid % 250}"


class Served:
    """A server that is started and killed, again and again. Use it as a context manager: at its end it is dead."""

    def __init__(self, path: Path, plant: str | None, *options: str) -> None:
        self.host = own_loopback_address()
        self.port = 0
        """Known from the first start on."""
        self._path = path
        self._plant = plant
        self._options = options
        self._server: Forked | None = None
        self._output = -1
        self._said = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and return at once."""
        self._output, output = os.pipe()
        self._said = ""
        try:
            self._server = Forked(partial(self._serve, output), output)
        finally:
            os.close(output)

    def wait_until_ready(self) -> bool:
        """Wait until it answers. False: it has ended, or takes too long."""
        deadline_s = time.monotonic() + START_S_MAX
        while READY not in self._said or not self._said.endswith("\n"):
            ready, _, _ = select.select([self._output], [], [], max(0.0, deadline_s - time.monotonic()))
            content = os.read(self._output, READ_BYTES) if ready else b""
            if not content:
                return False
            self._said += content.decode()
        self.port = int(self._said.rpartition(":")[2])
        return True

    def kill(self) -> None:
        """Kill it with SIGKILL, wherever it is, if it is alive."""
        if self._server is None:
            return
        self._server.kill()
        while content := os.read(self._output, READ_BYTES):
            self._said += content.decode()
        os.close(self._output)

    def failures(self) -> list[str]:
        """Return what was wrong with the one that was killed last: it ended before, in a sentence."""
        status = None if self._server is None else self._server.status
        self._server = None
        return [] if status == SIGKILLED else [f"The server ended with {status}: {self._said.strip()[-1_000:]}"]

    def _serve(self, output: int) -> None:
        """The life of the server: the command, as the shell would start it."""
        os.dup2(output, 1)
        os.dup2(output, 2)
        plants.plant(self._plant)
        options = ["--host", self.host, "--port", str(self.port), "--dialect", "aws", *self._options]
        sys.argv = ["streamstore", "serve", os.fspath(self._path), *options]
        with contextlib.suppress(SystemExit):
            main()
