"""HTTP/1.1 on one connection: requests in, one answered after the other, as few steps as there are between.

httptools parses, with the parser of Node.js. What that leaves to its user is here: how much a client may send, how long
it may take, and what becomes of a connection behind an answer.
"""

import asyncio
from collections import deque
from contextlib import aclosing
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from streamstore.limits import REQUEST_BODY_BYTES_MAX
from streamstore.wire.connection import HEAD_BYTES_MAX, HEAD_SECONDS_MAX, NEVER_S, Connection, Hub, frames_of
from streamstore.wire.http import BODY_SECONDS_MAX, LOG, REQUEST_TIMEOUT, UNAVAILABLE, WireRequest, WireResponse

__all__ = ["Http1Connection"]

BAD_REQUEST: Final = 400
HEAD_TOO_LARGE: Final = 431
WAITING_MAX: Final = 16
"""Requests that a client may send ahead; what comes behind them waits in its socket."""
LINGER_SECONDS: Final = 2.0
"""How long what a client still sends is thrown away before its connection ends, so that it gets to read its answer."""
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"
JOINED_BYTES_MAX: Final = (
    65_536  # of a body that is sent with its head; copying a larger one costs more than another call
)
STATUS_LINES: Final = {int(status): f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
OF_UPGRADE: Final = frozenset({"connection", "http2-settings", "upgrade"})


class _Asked(NamedTuple):
    request: WireRequest
    version: str
    is_kept_alive: bool


class Http1Connection(Connection):
    """One connection that speaks HTTP/1.1 or an older one."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self._parser = HttpRequestParser(self)
        self._waiting: deque[_Asked] = deque()
        self._asked: _Asked | None = None
        """What is being answered."""
        self._streaming: asyncio.Task[None] | None = None
        self._is_in_head = False
        self._is_in_body = False
        self._is_deaf = False  # what else comes is thrown away, and behind the answers the connection ends
        self._is_cut_off = False  # by us, within a request
        self._has_ended = False
        """The client will send nothing more. Who is gone cannot be told from that before something is written."""
        self._read_bytes = 0
        self._head_bytes = 0
        self._body_bytes = 0
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        self._read_bytes = len(data)
        if self._is_in_head:
            self._head_bytes += self._read_bytes
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(data[upgrade.args[0] :])
        except HttpParserError:
            self._refuse(BAD_REQUEST)
        if self._is_in_head and self._head_bytes > HEAD_BYTES_MAX:
            self._refuse(HEAD_TOO_LARGE)

    def eof_received(self) -> bool:
        """The client sends nothing more: it waits for an answer, or is gone. Return whether to stay open."""
        self._is_deaf = self._has_ended = True
        return self._asked is not None and self._streaming is None

    # What httptools calls, in the order of a request.

    def on_message_begin(self) -> None:
        self._is_in_head = True
        self._head_bytes = self._body_bytes = 0
        self._url = b""
        self._headers = {}
        self._body = []
        if self._asked is None:
            self.deadline_s = self.hub.now_s + HEAD_SECONDS_MAX

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1").rstrip(" \t")

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._is_in_body = True
        if self._read_bytes > HEAD_BYTES_MAX and self._size_of_head() > HEAD_BYTES_MAX:
            self._refuse(HEAD_TOO_LARGE)
        elif self._asked is None and not self._parser.should_upgrade():
            self.deadline_s = self.hub.now_s + BODY_SECONDS_MAX
            if self._headers.get("expect", "").lower() == "100-continue":
                self.transport.write(CONTINUE)

    def on_body(self, part: bytes) -> None:
        if self._is_deaf:
            return
        self._body.append(part)
        self._body_bytes += len(part)
        if not self.keep(len(part)):
            self._refuse(UNAVAILABLE)
        elif self._body_bytes > REQUEST_BODY_BYTES_MAX:
            self._is_cut_off = True
            self._ask(is_kept_alive=False)  # who answers sees that it is too long

    def on_message_complete(self) -> None:
        if not self._is_deaf and not self._parser.should_upgrade():
            self._ask(is_kept_alive=self._parser.should_keep_alive())

    def finish(self) -> None:
        self._is_deaf = True
        if self._asked is None:
            self.transport.close()

    def time_out(self) -> None:
        if self._is_deaf or not (self._is_in_head or self._is_in_body):
            self.transport.close()
        else:
            self._refuse(REQUEST_TIMEOUT)

    def abandon(self) -> None:
        self._waiting.clear()
        self._body = []
        del self._parser  # which knows us: what has come would stay until the next collection of cycles
        if self._streaming is not None:
            self._streaming.cancel()

    def _size_of_head(self) -> int:
        return len(self._url) + sum(len(name) + len(value) for name, value in self._headers.items())

    def _ask(self, *, is_kept_alive: bool) -> None:
        """Answer the request that has come, behind those before it."""
        self._is_in_body = False
        self._is_deaf = not is_kept_alive
        target, _, query = self._url.decode("latin-1").partition("?")
        body, self._body_bytes = self._body, 0
        request = WireRequest(
            self._parser.get_method().decode("ascii"),
            target if target.startswith("/") else urlsplit(target).path or "/",
            query,
            self._headers,
            body[0] if len(body) == 1 else b"".join(body),
            self.client,
        )
        asked = _Asked(request, self._parser.get_http_version(), is_kept_alive)
        if self._asked is None:
            self._start(asked)
            return
        self._waiting.append(asked)
        if len(self._waiting) == WAITING_MAX:
            self.hold_back(True)

    def _start(self, asked: _Asked) -> None:
        self._asked = asked
        self.deadline_s = NEVER_S
        self.hub.start(asked.request, self._reply)

    def _reply(self, response: WireResponse) -> None:
        asked = self._asked
        assert asked is not None
        body = response.body
        self.let_go(len(asked.request.body))
        if self.transport.is_closing():
            response.close()
        elif isinstance(body, bytes):
            self._write_whole(self._head(response, asked, f"content-length: {len(body)}\r\n"), body, asked)
        elif self._has_ended:  # nobody waits for minutes behind that
            response.close()
        else:
            self._streaming = self.hub.loop.create_task(self._stream(response, asked))
            return
        self._go_on()

    def _write_whole(self, head: bytes, body: bytes, asked: _Asked) -> None:
        if asked.request.method == "HEAD":
            self.transport.write(head)
        elif len(body) <= JOINED_BYTES_MAX:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)

    def _go_on(self) -> None:
        """Answer the next request that waits. Behind the last one, wait for more or end."""
        if self._waiting:
            if len(self._waiting) == WAITING_MAX:
                self.hold_back(False)
            self._start(self._waiting.popleft())
            return
        self._asked = None
        if self._is_deaf:
            self._end()
        else:
            self.deadline_s = self.hub.now_s + HEAD_SECONDS_MAX

    async def _stream(self, response: WireResponse, asked: _Asked) -> None:
        """Write frames as they come, until there are no more or the client goes away."""
        is_chunked = asked.version == "1.1"
        if not is_chunked:
            self._is_deaf = True  # the end of the connection is the end of the body
        self.transport.write(self._head(response, asked, "transfer-encoding: chunked\r\n" if is_chunked else ""))
        try:
            async with aclosing(frames_of(response)) as frames:
                async for frame in frames:
                    self.transport.write(b"%x\r\n%b\r\n" % (len(frame), frame) if is_chunked else frame)
                    await self.drain()
            if is_chunked:
                self.transport.write(LAST_CHUNK)
        except Exception as error:
            LOG.error("A stream met a mistake in streamstore.", exc_info=error)
            self.transport.abort()
        self._streaming = None
        self._go_on()

    def _head(self, response: WireResponse, asked: _Asked, of_body: str) -> bytes:
        connection = ""
        if self._is_deaf and not self._waiting:
            connection = "connection: close\r\n"
        elif asked.version == "1.0" and asked.is_kept_alive:
            connection = "connection: keep-alive\r\n"
        headers = "".join([f"{name}: {value}\r\n" for name, value in response.headers])
        line = STATUS_LINES[response.status]
        return f"{line}{headers}date: {self.hub.date}\r\n{connection}{of_body}\r\n".encode("latin-1")

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """Read the request as if it did not offer to change the protocol: nobody has to accept that."""
        method = self._parser.get_method()
        if method == b"CONNECT":
            self._refuse(BAD_REQUEST)
            return
        kept = "".join(f"{name}: {value}\r\n" for name, value in self._headers.items() if name not in OF_UPGRADE)
        head = b"%b %b HTTP/1.1\r\n%b\r\n" % (method, self._url, kept.encode("latin-1"))
        self._parser = HttpRequestParser(self)
        self.data_received(head + rest)

    def _refuse(self, status: int) -> None:
        """Answer what is no request with a status, behind those before it, or just end."""
        if self._is_deaf:
            return
        self._is_deaf = self._is_cut_off = True
        self._body = []
        self.let_go(self._body_bytes)
        if self._asked is None:
            self.transport.write(
                f"{STATUS_LINES[status]}connection: close\r\ncontent-length: 0\r\n\r\n".encode("ascii")
            )
            self._end()

    def _end(self) -> None:
        """Close; but who was cut off is still sending, and would lose its answer by a closed socket."""
        if not self._is_cut_off or self.transport.is_closing():
            self.transport.close()
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.deadline_s = self.hub.now_s + LINGER_SECONDS
