"""What a connection is, whatever it speaks: a client that may be slow, silent, gone, or never reads what it is told.

Nobody is waited for longer than a client may take. One look at all connections every second sees to that: a timer for
each request would cost as much as reading it.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import datetime
from email.utils import format_datetime
from typing import Final, cast

from streamstore.wire.http import LOG, Start, WireResponse

__all__ = [
    "HEAD_BYTES_MAX",
    "HEAD_SECONDS_MAX",
    "NEVER_S",
    "STALL_SECONDS_MAX",
    "Connection",
    "Hub",
    "frames_of",
]

HEAD_BYTES_MAX: Final = 65_536
HEAD_SECONDS_MAX: Final = 30.0  # from its first byte to its last, and of a connection that is idle
BODIES_BYTES_MAX: Final = 268_435_456  # of all requests that come or are answered; more is refused
BODY_BYTES_ALWAYS: Final = 65_536  # that each connection may have, whatever the others have
STALL_SECONDS_MAX: Final = 60.0  # that a client reads nothing of what it is told
NEVER_S: Final = float("inf")


class Hub:
    """What the connections of a server share. ``now_s``, on the clock of the loop, and ``date`` are of this second.

    ``body_bytes``: what is in memory of the bodies of requests.
    """

    def __init__(self, start: Start, loop: asyncio.AbstractEventLoop) -> None:
        self.start: Final = start
        self.loop: Final = loop
        self.connections: Final[set[Connection]] = set()
        self.is_empty: Final = asyncio.Event()
        """Set once it was stopped and the last connection has ended."""
        self.body_bytes = 0
        self._is_stopping = False
        self.now_s = loop.time()
        self.date = ""

    def tick(self, now: datetime) -> None:
        """Do what is due every second: tell the time, and end what has taken too long."""
        self.now_s = self.loop.time()
        self.date = format_datetime(now, usegmt=True)
        for connection in list(self.connections):
            try:
                connection.look_after()
            except Exception as error:  # the others are looked after all the same
                LOG.error("A connection met a mistake in streamstore.", exc_info=error)
                connection.transport.abort()

    def stop(self) -> None:
        """Take no further request on any connection. What came is answered."""
        self._is_stopping = True
        for connection in list(self.connections):
            connection.finish()
        self._see_whether_empty()

    def forget(self, connection: "Connection") -> None:
        """It has ended, or is another now."""
        self.connections.discard(connection)
        self._see_whether_empty()

    def _see_whether_empty(self) -> None:
        if self._is_stopping and not self.connections:
            self.is_empty.set()


class Connection(asyncio.Protocol, ABC):
    """One client. ``deadline_s`` is when it will have taken too long, on the clock of the loop."""

    transport: asyncio.Transport

    def __init__(self, hub: Hub) -> None:
        self.hub: Final = hub
        self.deadline_s = hub.now_s + HEAD_SECONDS_MAX
        self.client: str | None = None
        self._body_bytes_kept = 0
        self._writable: asyncio.Future[None] | None = None
        self._unread_bytes = 0
        self._read_last_s = hub.now_s
        self._is_held_back = False

    @property
    def is_writing_paused(self) -> bool:
        """Whether the client reads more slowly than it is told."""
        return self._writable is not None

    @abstractmethod
    def finish(self) -> None:
        """Close as soon as nothing is under way."""

    @abstractmethod
    def time_out(self) -> None:
        """The deadline has passed, and the client has read all that it was told."""

    @abstractmethod
    def abandon(self) -> None:
        """The client is gone: end what is done for it alone."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        peer = cast("tuple[str, int] | None", transport.get_extra_info("peername"))
        self.client = None if peer is None else peer[0]
        self.hub.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.hub.forget(self)
        self.let_go(self._body_bytes_kept)
        self._let_write()
        self.abandon()

    def look_after(self) -> None:
        """Every second: end it if its client has taken too long, be it to say something or to read what it is told."""
        now_s = self.hub.now_s
        unread_bytes = self.transport.get_write_buffer_size()
        if unread_bytes == 0 or unread_bytes != self._unread_bytes:
            self._unread_bytes = unread_bytes
            self._read_last_s = now_s
        elif now_s - self._read_last_s > STALL_SECONDS_MAX:
            self.transport.abort()
            return
        if unread_bytes == 0 and self.deadline_s <= now_s:
            self.time_out()

    def pause_writing(self) -> None:
        """The client reads more slowly than it is told. Nothing more is taken from it meanwhile."""
        self._writable = self.hub.loop.create_future()
        self._read_or_not()

    def resume_writing(self) -> None:
        self._let_write()
        self._read_or_not()

    def keep(self, body_bytes: int) -> bool:
        """Keep so much of a body in memory, until it is let go. Return False if the server has too much of that."""
        self._body_bytes_kept += body_bytes
        self.hub.body_bytes += body_bytes
        return self.hub.body_bytes <= BODIES_BYTES_MAX or self._body_bytes_kept <= BODY_BYTES_ALWAYS

    def let_go(self, body_bytes: int) -> None:
        """Its request is answered, or will not be. Where the connection is lost, everything was let go."""
        let_go = min(body_bytes, self._body_bytes_kept)
        self._body_bytes_kept -= let_go
        self.hub.body_bytes -= let_go

    def hold_back(self, is_held_back: bool) -> None:
        """Take nothing more from the client, or take it again."""
        self._is_held_back = is_held_back
        self._read_or_not()

    async def drain(self) -> None:
        """Return when the client has read enough for more to be written."""
        if self._writable is not None:
            await asyncio.shield(self._writable)

    def _read_or_not(self) -> None:
        if self.transport.is_closing():
            return
        if self._is_held_back or self._writable is not None:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def _let_write(self) -> None:
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None


async def frames_of(response: WireResponse) -> AsyncGenerator[bytes]:
    """Yield the frames of a stream. Whoever leaves before its end closes this, which ends the stream."""
    frames = response.body
    assert isinstance(frames, AsyncIterator)  # because the answer was awaited
    try:
        async for frame in frames:
            yield frame
    finally:
        response.close()
        if isinstance(frames, AsyncGenerator):
            await frames.aclose()
