"""HTTP/2 on one connection, with and without TLS: what the client of JavaScript speaks by default.

h2 keeps the state of the protocol; here are the requests, the answers in the pieces that a client has room for, and the
bounds of both.
"""

import asyncio
from collections.abc import Generator, Iterable
from contextlib import aclosing, contextmanager, suppress
from typing import Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings
from hpack import Encoder, HeaderTuple
from hyperframe.frame import Frame, GoAwayFrame

from streamstore.limits import REQUEST_BODY_BYTES_MAX
from streamstore.wire.connection import (
    HEAD_BYTES_MAX,
    HEAD_SECONDS_MAX,
    NEVER_S,
    STALL_SECONDS_MAX,
    Connection,
    Hub,
    frames_of,
)
from streamstore.wire.http import BODY_SECONDS_MAX, LOG, TOO_BUSY, TOO_LATE, WireRequest, WireResponse

__all__ = ["PREFACE", "Http2Connection"]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
STREAMS_MAX: Final = 256  # of one connection at the same time; a client waits with more
RESETS_MAX: Final = 1_000  # of one connection: who takes back so many requests wants the work, not the answers
BYTES_WITHOUT_EVENT_MAX: Final = 2 * HEAD_BYTES_MAX  # h2 would wait for the end of any frame, which may have 16 MB
WINDOW_BYTES: Final = 1_048_576  # what a client may send of a request before it hears from us
CONFIGURATION: Final = H2Configuration(
    client_side=False,
    header_encoding="latin-1",
    validate_outbound_headers=False,  # they are ours, and in lower case
    normalize_outbound_headers=False,
)

_Header = HeaderTuple | tuple[bytes | str, bytes | str] | tuple[bytes | str, bytes | str, bool | None]


class _PlainEncoder(Encoder):
    """Writes headers without Huffman's code, which saves a quarter of their bytes for a tenth of a request's CPU."""

    def encode(self, headers: Iterable[_Header] | dict[bytes | str, bytes | str], huffman: bool = False) -> bytes:
        return super().encode(headers, huffman)


class _H2Connection(H2Connection):
    """h2 that hears a goodbye (GOAWAY) as what it is: no request comes any more, and those that came are answered.

    Its own takes it for the end of the connection, and what it has not sent yet is lost (h2, issue 1181). The client of
    JavaScript says goodbye as soon as it has the head of an answer.
    """

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        event = ConnectionTerminated()
        event.error_code = frame.error_code
        event.last_stream_id = frame.last_stream_id
        event.additional_data = frame.additional_data or None
        return [], [event]


class _Stream:
    """One request and its answer. ``deadline_s`` is when its client will have taken too long for its part of it."""

    def __init__(self, number: int, headers: dict[str, str], deadline_s: float) -> None:
        self.number: Final = number
        self.headers: Final = headers
        self.deadline_s = deadline_s
        self.body: list[bytes] = []
        self.body_bytes = 0
        self.has_come_whole = False
        self.is_asked = False
        self.sending: asyncio.Task[None] | None = None
        self.is_answered = False
        self.has_room: Final = asyncio.Event()

    def end(self) -> None:
        """Nobody waits for the answer any more. What is under way in the store goes on."""
        if self.sending is not None:
            self.sending.cancel()


class Http2Connection(Connection):
    """One connection that speaks HTTP/2."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self._streams: dict[int, _Stream] = {}
        self._resets = 0
        self._bytes_without_event = 0
        self._is_ending = False
        self._h2 = _H2Connection(CONFIGURATION)
        self._h2.encoder = _PlainEncoder()
        self._h2.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS_MAX,
                SettingCodes.MAX_HEADER_LIST_SIZE: HEAD_BYTES_MAX,
                SettingCodes.INITIAL_WINDOW_SIZE: WINDOW_BYTES,
            },
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(WINDOW_BYTES)
        self._flush()

    def data_received(self, data: bytes) -> None:
        try:
            events = self._h2.receive_data(data)
            for event in events:
                self._take(event)
        except H2Error:  # h2 has made ready what tells the client why
            self._flush()
            self.transport.close()
            return
        # Of what still comes of a request that was cut off there is no event, but an answer.
        has_answered = self._flush()
        if events or has_answered:
            self._bytes_without_event = 0
            self._set_deadline()
        else:
            self._bytes_without_event += len(data)
            if self._bytes_without_event > BYTES_WITHOUT_EVENT_MAX:
                self._dismiss(ErrorCodes.FRAME_SIZE_ERROR)
        self._close_if_done()

    def finish(self) -> None:
        self._is_ending = True
        self._close_if_done()

    def time_out(self) -> None:
        for stream in list(self._streams.values()):
            if stream.deadline_s > self.hub.now_s:
                continue
            if stream.is_asked:
                stream.end()
            else:
                self._reply(stream, TOO_LATE)
        if not self._streams:
            self.finish()
        self._set_deadline()

    def abandon(self) -> None:
        for stream in list(self._streams.values()):
            stream.end()
        self._streams.clear()

    def _set_deadline(self) -> None:
        # While there are requests, each is looked at every second.
        self.deadline_s = self.hub.now_s if self._streams else self.hub.now_s + HEAD_SECONDS_MAX

    def _take(self, event: Event) -> None:
        match event:
            case RequestReceived():
                self._begin(event)
            case DataReceived():
                self._take_data(event)
            case StreamEnded():
                self._take_end(self._streams.get(event.stream_id))
            case StreamReset():
                self._take_reset(event.stream_id)
            case WindowUpdated() | RemoteSettingsChanged():
                for stream in self._streams.values():
                    stream.has_room.set()
            case ConnectionTerminated():
                self._is_ending = True
            case _:
                pass

    def _begin(self, event: RequestReceived) -> None:
        assert event.stream_id is not None
        assert event.headers is not None
        headers = {str(name): str(value) for name, value in event.headers}
        stream = _Stream(event.stream_id, headers, self.hub.now_s + BODY_SECONDS_MAX)
        self._streams[stream.number] = stream
        if headers.get("expect", "").lower() == "100-continue":
            self._h2.send_headers(stream.number, [(":status", "100")])

    def _take_data(self, event: DataReceived) -> None:
        assert event.stream_id is not None
        self._h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
        stream = self._streams.get(event.stream_id)
        if stream is None or stream.is_asked:
            return
        data = event.data or b""
        stream.body.append(data)
        stream.body_bytes += len(data)
        if not self.keep(len(data)):
            stream.body = []
            self._reply(stream, TOO_BUSY)
        elif stream.body_bytes > REQUEST_BODY_BYTES_MAX:
            self._ask(stream)  # who answers sees that it is too long

    def _take_end(self, stream: _Stream | None) -> None:
        if stream is None:
            return
        stream.has_come_whole = True
        if not stream.is_asked:
            self._ask(stream)

    def _take_reset(self, stream_number: int | None) -> None:
        stream = None if stream_number is None else self._forget(stream_number)
        if stream is None:
            return
        stream.end()
        self._resets += 1
        if self._resets > RESETS_MAX:
            self._dismiss(ErrorCodes.ENHANCE_YOUR_CALM)

    def _ask(self, stream: _Stream) -> None:
        stream.is_asked = True
        stream.deadline_s = NEVER_S
        headers = {name: value for name, value in stream.headers.items() if not name.startswith(":")}
        if ":authority" in stream.headers:
            headers.setdefault("host", stream.headers[":authority"])
        path, _, query = stream.headers.get(":path", "/").partition("?")
        body = stream.body[0] if len(stream.body) == 1 else b"".join(stream.body)
        stream.body = []
        request = WireRequest(stream.headers.get(":method", ""), path, query, headers, body, self.client)
        self.hub.start(request, lambda response: self._reply(stream, response))

    def _reply(self, stream: _Stream, response: WireResponse) -> None:
        stream.is_asked = True
        body = response.body
        if self.transport.is_closing() or stream.number not in self._streams:
            response.close()
        elif isinstance(body, bytes) and self._has_room_for(stream, body):
            self._send_at_once(stream, response, body)
        else:
            stream.sending = self.hub.loop.create_task(self._send(stream, response))

    def _has_room_for(self, stream: _Stream, body: bytes) -> bool:
        """Tell whether the client takes the whole body now, in one piece."""
        if self.is_writing_paused or len(body) > self._h2.max_outbound_frame_size:
            return False
        return len(body) <= self._h2.local_flow_control_window(stream.number)

    def _send_at_once(self, stream: _Stream, response: WireResponse, body: bytes) -> None:
        """Send an answer without a task, which a put would notice."""
        with self._sending(stream):
            if self._send_head(stream, response, body):
                self._h2.send_data(stream.number, body, end_stream=True)
            self._flush()
            stream.is_answered = True

    async def _send(self, stream: _Stream, response: WireResponse) -> None:
        with self._sending(stream):
            if not isinstance(response.body, bytes):
                await self._send_frames(stream, response)
            elif self._send_head(stream, response, response.body):
                await self._send_data(stream, response.body, end_stream=True)
            self._flush()
            stream.is_answered = True

    @contextmanager
    def _sending(self, stream: _Stream) -> Generator[None]:
        """Forget the request behind the block, whatever becomes of its answer."""
        try:
            yield
            self._resets = max(0, self._resets - 1)
        except H2Error:  # the client has taken back its request
            pass
        except Exception as error:
            LOG.error("A stream met a mistake in streamstore.", exc_info=error)
        finally:
            if self._forget(stream.number) is not None:
                self._reset_unless_ended(stream)
            self._set_deadline()
            self._close_if_done()

    def _send_head(self, stream: _Stream, response: WireResponse, body: bytes) -> bool:
        """Begin an answer that is known whole. Return whether its body follows."""
        headers = [*self._headers(response), ("content-length", str(len(body)))]
        has_body = bool(body) and stream.headers.get(":method") != "HEAD"
        self._h2.send_headers(stream.number, headers, end_stream=not has_body)
        return has_body

    async def _send_frames(self, stream: _Stream, response: WireResponse) -> None:
        """Send frames as they come, until there are no more or the client goes away."""
        async with aclosing(frames_of(response)) as frames:
            self._h2.send_headers(stream.number, self._headers(response))
            self._flush()
            async for frame in frames:
                await self._send_data(stream, frame, end_stream=False)
        self._h2.end_stream(stream.number)

    def _headers(self, response: WireResponse) -> list[tuple[str, str]]:
        headers = [(":status", str(response.status)), ("date", self.hub.date)]
        return headers + [(name.lower(), value) for name, value in response.headers]

    async def _send_data(self, stream: _Stream, data: bytes, *, end_stream: bool) -> None:
        """Send it in the pieces that the client has room for."""
        sent = 0
        while sent < len(data):
            room = min(self._h2.local_flow_control_window(stream.number), self._h2.max_outbound_frame_size)
            if room <= 0:
                await self._wait_for_room(stream)
                continue
            piece = data[sent : sent + room]
            sent += len(piece)
            self._h2.send_data(stream.number, piece, end_stream=end_stream and sent == len(data))
            self._flush()
            await self.drain()

    async def _wait_for_room(self, stream: _Stream) -> None:
        stream.has_room.clear()
        stream.deadline_s = self.hub.now_s + STALL_SECONDS_MAX
        await stream.has_room.wait()
        stream.deadline_s = NEVER_S

    def _forget(self, number: int) -> _Stream | None:
        stream = self._streams.pop(number, None)
        if stream is not None:
            self.let_go(stream.body_bytes)
        return stream

    def _reset_unless_ended(self, stream: _Stream) -> None:
        """End a stream that its client still sends on, or that was not answered to its end."""
        if self.transport.is_closing() or (stream.has_come_whole and stream.is_answered):
            return
        error = ErrorCodes.NO_ERROR if stream.is_answered else ErrorCodes.INTERNAL_ERROR
        with suppress(H2Error):
            self._h2.reset_stream(stream.number, error)
        self._flush()

    def _close_if_done(self) -> None:
        if self._is_ending and not self._streams and not self.transport.is_closing():
            self._dismiss(ErrorCodes.NO_ERROR)

    def _dismiss(self, error: ErrorCodes) -> None:
        """End the connection, and tell why."""
        with suppress(H2Error):
            self._h2.close_connection(error)
        self._flush()
        self.transport.close()

    def _flush(self) -> bool:
        """Send what is ready, and return whether there was any."""
        data = self._h2.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)
        return bool(data)
