"""The HTTP server: sockets, HTTP/1.1, HTTP/2 with and without TLS. The only place that knows which server that is.

It is Granian, because that speaks HTTP/2 without TLS, which the client of JavaScript does by default, and parses
outside of Python's lock. It runs inside this process, on a socket that is bound here: so the port is known, and taken
by nobody else, which Granian alone would allow.
"""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings, HTTP2Settings
from granian.net import SocketHolder
from granian.server.embed import Server

from streamstore.wire.app import App

__all__ = ["Listener", "Tls", "bind"]

BACKLOG: Final = 2_048
CONNECTIONS_MAX: Final = 8_192  # at the same time; more wait in the backlog
HEAD_READ_TIMEOUT_MS: Final = 30_000  # of a request, and of a connection that is idle
HEAD_BYTES_MAX: Final = 65_536
STREAMS_PER_CONNECTION_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Tls:
    """The files of a certificate, with those that it is signed by, and of its key."""

    certificate: Path
    key: Path


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket, which nobody else can bind to. Raises ``OSError``."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(BACKLOG)
        bound.setblocking(False)
    except BaseException:
        bound.close()
        raise
    return bound


class Listener:
    """Carries requests from a socket to an application, from ``serve`` until ``stop``. Closes the socket."""

    def __init__(self, app: App, bound: socket.socket, *, tls: Tls | None) -> None:
        self._server = _ServerOnSocket(app, bound, tls)

    async def serve(self) -> None:
        """Return when it was stopped and the requests under way are answered. Raises what the server fails with."""
        await self._server.serve()

    def stop(self) -> None:
        """Take no more requests."""
        self._server.stop()


class _ServerOnSocket(Server):
    """Granian on a socket that is bound already."""

    def __init__(self, app: App, bound: socket.socket, tls: Tls | None) -> None:
        super().__init__(
            app,
            interface=Interfaces.RSGI,
            http=HTTPModes.auto,
            websockets=False,
            backlog=BACKLOG,
            backpressure=CONNECTIONS_MAX,
            http1_settings=HTTP1Settings(header_read_timeout=HEAD_READ_TIMEOUT_MS, max_buffer_size=HEAD_BYTES_MAX),
            http2_settings=HTTP2Settings(
                max_headers_size=HEAD_BYTES_MAX,
                max_concurrent_streams=STREAMS_PER_CONNECTION_MAX,
                keep_alive_interval=HEAD_READ_TIMEOUT_MS,
            ),
            log_enabled=False,
            ssl_cert=None if tls is None else tls.certificate,
            ssl_key=None if tls is None else tls.key,
            ssl_protocol_min=SSLProtocols.tls12,
        )
        self._bound = bound

    def _init_shared_socket(self) -> None:
        self._shd = SocketHolder(self._bound.detach(), False, BACKLOG)
