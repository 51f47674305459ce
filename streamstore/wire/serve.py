"""Serves a store over HTTP until the process is told to stop: who may come in, where, and how it begins and ends.

SIGTERM and SIGINT end it: what came is finished, the rest is refused with 503, then the store is closed by its opener.
SIGHUP reads the file of keys and opens the access log anew. Several processes may serve one store, each with its own
opening of it; one more watches over them.
"""

import asyncio
import contextlib
import gc
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple

import uvloop

from streamstore import StreamStore
from streamstore.wire.access_log import AccessLog
from streamstore.wire.actions import actions_of
from streamstore.wire.authorization import Gate, system_now
from streamstore.wire.counts import CountsBoard
from streamstore.wire.credentials import AccessKey, CredentialsError, load_credentials
from streamstore.wire.dispatch import Dispatcher
from streamstore.wire.http import Start
from streamstore.wire.listener import Listener, Tls, bind, bind_each
from streamstore.wire.metrics import Metrics
from streamstore.wire.notify import notify_systemd
from streamstore.wire.service import Service
from streamstore.wire.shard_traffic import ShardTraffic
from streamstore.wire.supervisor import supervise, tell_ready

__all__ = ["ServeError", "ServeOptions", "Tls", "serve", "serve_in_processes"]

FINISH_SECONDS_MAX: Final = 30.0  # for what is under way at the end; a subscription would take minutes
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
SHOW_COUNTS_S: Final = 1.0
COLLECTION_THRESHOLDS: Final = (20_000, 50, 100)
"""Requests leave no cycles: looking for some at Python's thresholds takes 4 of the 86 us of a put, HTTP not counted."""


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
    with contextlib.ExitStack() as open_sockets:
        (bound,) = _listen(options, open_sockets, 1)
        told = _Told(partial(_tell_ready, options, bound, on_ready), _tell_stopping, say)
        _Serving(store, options, _Post(bound, CountsBoard(1), 0), told).run()


def serve_in_processes(
    open_store: Callable[[], AbstractContextManager[StreamStore]],
    options: ServeOptions,
    process_count: int,
    *,
    on_ready: Callable[[str], None],
    say: Callable[[str], None],
) -> None:
    """Like ``serve``, with so many processes, which this one forks and watches over: it must have no other thread.

    ``open_store`` is called in each of them, and what it returns is closed at the end. Processes that are killed are
    followed by others. What a store keeps in memory only (quotas of reading, subscriptions), each has for itself.

    Raises what ``serve`` raises, and ``SystemExit``: in each of the processes at its end, and here if one of them has
    failed, which has said why.
    """
    with contextlib.ExitStack() as open_sockets:
        everywhere = _listen(options, open_sockets, process_count)
        board = CountsBoard(process_count)

        def work(place: int, channel: socket.socket) -> None:
            for bound in everywhere[:place] + everywhere[place + 1 :]:
                bound.close()
            # What they say of keys and logs they would all say.
            told = _Told(partial(tell_ready, channel), lambda: None, say if place == 0 else _say_nothing)
            with open_store() as store:
                _Serving(store, options, _Post(everywhere[place], board, place, channel), told).run()

        def stop() -> None:
            open_sockets.close()  # so that whoever comes when the others have closed theirs does not wait
            _tell_stopping()

        ready = partial(_tell_ready, options, everywhere[0], on_ready)
        supervise(work, process_count, on_ready=ready, on_stop=stop, say=say)


class _Post(NamedTuple):
    """Where a process serves, one of as many as the board has places. Once ``watcher`` is closed, it ends."""

    bound: socket.socket
    board: CountsBoard
    place: int
    watcher: socket.socket | None = None


class _Told(NamedTuple):
    """Who is told what becomes of a process."""

    on_ready: Callable[[], None]
    on_stop: Callable[[], None]
    say: Callable[[str], None]


class _Serving:
    """One run of the server, in one process. Closes the socket that it serves at."""

    def __init__(self, store: StreamStore, options: ServeOptions, post: _Post, told: _Told) -> None:
        self._store = store
        self._options = options
        self._post = post
        self._told = told
        self._gate = self._open_gate()
        self._access_log = self._open_access_log()
        self._metrics = Metrics(store, actions_of(store.dialect).keys(), post.board, post.place)
        self._told_to_stop = asyncio.Event()

    def run(self) -> None:
        try:
            uvloop.run(self._serve())
        finally:
            gc.unfreeze()
            if self._access_log is not None:
                self._access_log.close()

    async def _serve(self) -> None:
        service = self._service()
        listener = self._listener(service.start)
        self._listen_to_signals()
        serving = asyncio.ensure_future(listener.serve())
        stopping = asyncio.ensure_future(self._told_to_stop.wait())
        showing = asyncio.ensure_future(self._show_counts())
        gc.freeze()  # what is there by now stays, so that no collection looks at it again
        gc.set_threshold(*COLLECTION_THRESHOLDS)
        self._told.on_ready()
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        self._told.on_stop()
        await self._finish(service, listener, serving)
        stopping.cancel()
        showing.cancel()

    async def _show_counts(self) -> None:
        while True:
            self._metrics.show()
            await asyncio.sleep(SHOW_COUNTS_S)

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
            self._told.say("No --credentials: everybody on this machine may do everything; nobody else is let in.")
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
            traffic=ShardTraffic(self._store, self._metrics.counts),
        )
        return Service(
            self._store,
            dispatcher.start,
            self._metrics,
            access_log=self._access_log,
            metrics_for_all=self._options.metrics_for_all,
            clock_s=time.perf_counter,
            now=system_now,
        )

    def _listener(self, start: Start) -> Listener:
        try:
            return Listener(start, self._post.bound, tls=self._options.tls, now=system_now)
        except OSError as error:  # also what is wrong with a certificate
            raise ServeError(f"Cannot use the certificate and its key: {error}.") from error

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._told_to_stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        if self._post.watcher is not None:
            loop.add_reader(self._post.watcher, self._stop_unwatched, self._post.watcher)

    def _stop_unwatched(self, watcher: socket.socket) -> None:
        """The other end of the watcher is closed: it never says anything."""
        asyncio.get_running_loop().remove_reader(watcher)
        self._told_to_stop.set()

    def _reload(self) -> None:
        """Read the keys and open the access log anew. What cannot be used is said, and the old goes on."""
        try:
            if self._gate is not None and self._options.credentials is not None:
                self._gate.replace_keys(self._load_keys(self._options.credentials))
            if self._access_log is not None:
                self._access_log.reopen()
        except ServeError as error:
            self._told.say(f"{error} The keys of before stay in force.")
        except OSError as error:
            self._told.say(f"Cannot open the access log anew: {error.strerror}. The old one is written on.")
        else:
            self._told.say("Read the keys and opened the access log anew.")


def _listen(options: ServeOptions, open_sockets: contextlib.ExitStack, count: int) -> list[socket.socket]:
    """Return so many sockets for as many processes. The stack closes them."""
    if options.credentials is None and not _is_loopback(options.host):
        raise ServeError(
            f"Serving at {options.host} needs a file of keys: everybody who reaches it could read and write "
            "everything. Give --credentials FILE, or serve at 127.0.0.1."
        )
    try:
        everywhere = [bind(options.host, options.port)] if count == 1 else bind_each(options.host, options.port, count)
    except OSError as error:
        where = f"{options.host} port {options.port}"
        raise ServeError(f"Cannot listen at {where}: {error.strerror}.") from error
    for bound in everywhere:
        open_sockets.enter_context(bound)
    return everywhere


def _tell_ready(options: ServeOptions, bound: socket.socket, on_ready: Callable[[str], None]) -> None:
    host, port = bound.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    on_ready(f"{'http' if options.tls is None else 'https'}://{shown}:{port}")
    notify_systemd("READY=1")


def _tell_stopping() -> None:
    notify_systemd("STOPPING=1")


def _say_nothing(_: str) -> None:
    pass


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
