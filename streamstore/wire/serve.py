"""Serves a store over HTTP until the process is told to stop: who may come in, where, and how it begins and ends.

SIGTERM and SIGINT end it: what came is finished, the rest is refused with 503, then the store is closed by its opener.
SIGHUP reads the file of keys and opens the access log anew.
"""

import asyncio
import contextlib
import gc
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import uvloop
from prometheus_client import disable_created_metrics

from streamstore import StreamStore
from streamstore.wire.access_log import AccessLog
from streamstore.wire.actions import actions_of
from streamstore.wire.authorization import Gate, system_now
from streamstore.wire.credentials import AccessKey, CredentialsError, load_credentials
from streamstore.wire.dispatch import Dispatcher
from streamstore.wire.http import Start
from streamstore.wire.listener import Listener, Tls, bind
from streamstore.wire.metrics import Metrics
from streamstore.wire.notify import notify_systemd
from streamstore.wire.service import Service

__all__ = ["ServeError", "ServeOptions", "Tls", "serve"]

FINISH_SECONDS_MAX: Final = 30.0  # for what is under way at the end; a subscription would take minutes
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class ServeError(Exception):
    """The server cannot start as it was asked to. Its text is the sentence to print; nothing listens."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How to serve. ``port`` 0 takes a free one. Without ``credentials`` everybody who reaches the port may do all."""

    host: str
    port: int
    credentials: Path | None
    tls: Tls | None
    access_log: str | None
    metrics_for_all: bool
    transition_ms: int = 0


def serve(
    store: StreamStore, options: ServeOptions, *, on_ready: Callable[[str], None], say: Callable[[str], None]
) -> None:
    """Serve until a signal ends it. Leaves the store open.

    ``on_ready`` is told the URL when requests are answered, ``say`` what somebody should know.

    Raises ``ServeError``: no keys on an address that others reach, a file that cannot be used, a port that is taken.
    Raises ``InvalidArgumentException`` for ``transition_ms``.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the number of metrics
    uvloop.run(_Serving(store, options, on_ready, say).run())


class _Serving:
    """One run of the server."""

    def __init__(
        self, store: StreamStore, options: ServeOptions, on_ready: Callable[[str], None], say: Callable[[str], None]
    ) -> None:
        self._store = store
        self._options = options
        self._on_ready = on_ready
        self._say = say
        self._gate = self._open_gate()
        self._access_log = self._open_access_log()
        self._told_to_stop = asyncio.Event()

    async def run(self) -> None:
        try:
            await self._serve()
        finally:
            gc.unfreeze()
            if self._access_log is not None:
                self._access_log.close()

    async def _serve(self) -> None:
        service = self._service()
        bound = self._bind()
        url = self._url(bound)
        listener = self._listener(service.start, bound)
        self._handle_signals()
        serving = asyncio.ensure_future(listener.serve())
        stopping = asyncio.ensure_future(self._told_to_stop.wait())
        gc.freeze()  # what is there by now stays, so that no collection looks at it again
        self._on_ready(url)
        notify_systemd("READY=1")
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        notify_systemd("STOPPING=1")
        await self._finish(service, listener, serving)
        stopping.cancel()

    async def _finish(self, service: Service, listener: Listener, serving: "asyncio.Future[None]") -> None:
        """Answer what came, refuse what comes, and end the connections."""
        service.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FINISH_SECONDS_MAX):
                await service.finished()
                listener.stop()
                await serving

    def _open_gate(self) -> Gate | None:
        if self._options.credentials is None:
            if not _is_loopback(self._options.host):
                raise ServeError(
                    f"Serving at {self._options.host} needs a file of keys: everybody who reaches it could read and "
                    "write everything. Give --credentials FILE, or serve at 127.0.0.1."
                )
            self._say("No --credentials: everybody on this machine may do everything; nobody else is let in.")
            return None
        return Gate(self._load_keys(self._options.credentials), region=self._store.region, dialect=self._store.dialect)

    def _load_keys(self, path: Path) -> Mapping[str, AccessKey]:
        try:
            return load_credentials(path, actions_of(self._store.dialect).keys())
        except CredentialsError as error:
            raise ServeError(str(error)) from error

    def _open_access_log(self) -> AccessLog | None:
        if self._options.access_log is None:
            return None
        try:
            return AccessLog(self._options.access_log)
        except OSError as error:
            raise ServeError(f"Cannot write the access log {self._options.access_log}: {error.strerror}.") from error

    def _service(self) -> Service:
        dispatcher = Dispatcher(
            self._store,
            authenticate=None if self._gate is None else self._gate.admit,
            transition_ms=self._options.transition_ms,
        )
        return Service(
            self._store,
            dispatcher.start,
            Metrics(self._store, actions_of(self._store.dialect).keys()),
            access_log=self._access_log,
            metrics_for_all=self._options.metrics_for_all,
            clock_s=time.perf_counter,
            now=system_now,
        )

    def _bind(self) -> socket.socket:
        try:
            return bind(self._options.host, self._options.port)
        except OSError as error:
            where = f"{self._options.host} port {self._options.port}"
            raise ServeError(f"Cannot listen at {where}: {error.strerror}.") from error

    def _listener(self, start: Start, bound: socket.socket) -> Listener:
        try:
            return Listener(start, bound, tls=self._options.tls, now=system_now)
        except OSError as error:  # also what is wrong with a certificate
            bound.close()
            raise ServeError(f"Cannot use the certificate and its key: {error}.") from error

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._told_to_stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _reload(self) -> None:
        """Read the keys and open the access log anew. What cannot be used is said, and the old goes on."""
        try:
            if self._gate is not None and self._options.credentials is not None:
                self._gate.replace_keys(self._load_keys(self._options.credentials))
            if self._access_log is not None:
                self._access_log.reopen()
        except ServeError as error:
            self._say(f"{error} The keys of before stay in force.")
        except OSError as error:
            self._say(f"Cannot open the access log anew: {error.strerror}. The old one is written on.")
        else:
            self._say("Read the keys and opened the access log anew.")

    def _url(self, bound: socket.socket) -> str:
        host, port = bound.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        return f"{'http' if self._options.tls is None else 'https'}://{shown}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
