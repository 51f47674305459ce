"""The HTTP server: a socket, who comes there, HTTP/1.1 and HTTP/2 on one port, with and without TLS.

It is our own, on uvloop, httptools and h2, since what lies between a socket and a put decides how many puts there are.
Granian, the quickest of the well-kept servers, takes a request through two threads: a third of the CPU of a put.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from streamstore.wire.connection import Connection, Hub
from streamstore.wire.http import Start
from streamstore.wire.http1 import Http1Connection
from streamstore.wire.http2 import PREFACE, Http2Connection

__all__ = ["Listener", "Tls", "bind", "bind_each"]

BACKLOG: Final = 2_048
CONNECTIONS_MAX: Final = 8_192  # at the same time; who comes then is sent away
TICK_S: Final = 1.0
TLS_SECONDS_MAX: Final = 30.0  # to agree on a connection, and to end it
PROTOCOLS: Final = ["h2", "http/1.1"]


@dataclass(frozen=True, slots=True)
class Tls:
    """The files of a certificate, with those that it is signed by, and of its key."""

    certificate: Path
    key: Path


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket, which nobody else can bind to. Raises ``OSError``."""
    return _listening(host, port, is_shared=False)


def bind_each(host: str, port: int, count: int) -> list[socket.socket]:
    """Return so many listening sockets at one address, for a process each: Linux shares out who comes there.

    Fails if somebody listens there already; behind that, only the same user could join. Raises ``OSError``.
    """
    with bind(host, port) as probe:
        port = probe.getsockname()[1]
    with contextlib.ExitStack() as open_sockets:
        bound = [open_sockets.enter_context(_listening(host, port, is_shared=True)) for _ in range(count)]
        open_sockets.pop_all()
    return bound


def _listening(host: str, port: int, *, is_shared: bool) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
        bound.listen(BACKLOG)
        bound.setblocking(False)
    except BaseException:
        bound.close()
        raise
    return bound


class Listener:
    """Carries requests from a socket to who answers them, from ``serve`` until ``stop``. Closes the socket.

    ``now``: the time of day, which every answer tells. Raises ``OSError`` for files that are no certificate and key.
    """

    def __init__(self, start: Start, bound: socket.socket, *, tls: Tls | None, now: Callable[[], datetime]) -> None:
        self._start = start
        self._bound = bound
        self._tls = None if tls is None else _tls_context(tls)
        self._now = now
        self._stopped = asyncio.Event()

    async def serve(self) -> None:
        """Return when it was stopped, the requests under way are answered, and all connections have ended."""
        loop = asyncio.get_running_loop()
        hub = Hub(self._start, loop)
        hub.tick(self._now())
        server = await loop.create_server(
            lambda: _Arrival(hub),
            sock=self._bound,
            ssl=self._tls,
            ssl_handshake_timeout=None if self._tls is None else TLS_SECONDS_MAX,
            ssl_shutdown_timeout=None if self._tls is None else TLS_SECONDS_MAX,
        )
        ticking = asyncio.ensure_future(self._tick(hub))
        try:
            await self._stopped.wait()
            server.close()
            hub.stop()
            await hub.is_empty.wait()
        finally:
            ticking.cancel()

    def stop(self) -> None:
        """Take no more requests."""
        self._stopped.set()

    async def _tick(self, hub: Hub) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            hub.tick(self._now())


class _Arrival(Connection):
    """A connection whose first bytes tell what it speaks."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self._begun = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self.hub.connections) > CONNECTIONS_MAX:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self._begun += data
        if self._begun.startswith(PREFACE):
            self._become(Http2Connection(self.hub))
        elif not PREFACE.startswith(self._begun):
            self._become(Http1Connection(self.hub))

    def finish(self) -> None:
        self.transport.close()

    def time_out(self) -> None:
        self.transport.close()

    def abandon(self) -> None:
        pass

    def _become(self, connection: Connection) -> None:
        self.transport.set_protocol(connection)
        connection.connection_made(self.transport)
        self.hub.forget(self)
        connection.data_received(self._begun)


def _tls_context(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.certificate, tls.key)
    context.set_alpn_protocols(PROTOCOLS)
    return context
