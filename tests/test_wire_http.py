"""The server's connections, over real sockets: HTTP/1.1 and HTTP/2, clients that are quick, slow, silent or gone.

Whoever answers is a stand-in here: what is asked is looked at as it comes out of the connection.
"""

import asyncio
import contextlib
import gc
import weakref
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

import pytest
import uvloop
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.settings import SettingCodes
from hyperframe.frame import DataFrame, GoAwayFrame

from streamstore.limits import REQUEST_BODY_BYTES_MAX
from streamstore.wire import connection, http1, http2, listener
from streamstore.wire.http import Reply, WireRequest, WireResponse
from streamstore.wire.listener import Listener, bind
from tests.commits import WAIT_S
from tests.signing import signed
from tests.test_wire_signature import gate

T = TypeVar("T")

NOW: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DATE: Final = "Fri, 02 Jan 2026 03:04:05 GMT"
PLAIN: Final[Mapping[str, str]] = {"x-a": "b"}
BIG: Final = bytes(range(256)) * 16_384  # 4 MiB: more than any socket keeps


class Service:
    """Answers what the path says, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[WireRequest] = []
        self.go_on = asyncio.Event()
        self.streams_closed = 0
        self.streams_ended = 0
        self.under_way = 0
        self.most_under_way = 0
        self._answering: set[asyncio.Task[None]] = set()

    def start(self, request: WireRequest, reply: Reply) -> None:
        self.asked.append(request)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        task = asyncio.ensure_future(self._answer(request, reply))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, request: WireRequest, reply: Reply) -> None:
        if request.path.startswith("/held"):
            await self.go_on.wait()
        await asyncio.sleep(0)
        self.under_way -= 1
        if request.path.startswith("/stream"):
            reply(WireResponse(200, [("X-Kind", "stream")], self._frames(request.path), self._close))
        elif request.path == "/big":
            reply(WireResponse(200, [], BIG))
        elif len(request.body) > REQUEST_BODY_BYTES_MAX:
            reply(WireResponse(413, [], b"too long"))
        else:
            reply(WireResponse(200, [("X-Number", str(len(self.asked)))], request.body or b"nothing"))

    async def _frames(self, path: str) -> AsyncIterator[bytes]:
        try:
            if path == "/stream-held":
                await self.go_on.wait()
            for number in range(3):
                yield b"frame %d" % number
            if path == "/stream-on":
                await asyncio.Event().wait()
            while path == "/stream-much":
                yield BIG
        finally:
            self.streams_ended += 1

    def _close(self) -> None:
        self.streams_closed += 1


class Place:
    """A server that runs in this loop."""

    def __init__(self, service: Service, server: Listener, port: int, serving: "asyncio.Future[None]") -> None:
        self.service = service
        self.server = server
        self.serving = serving
        self._port = port
        self._opened: list[asyncio.StreamWriter] = []

    def body_bytes(self) -> int:
        """Return what the server keeps of bodies."""
        loop = asyncio.get_running_loop()
        (hub,) = [each for each in gc.get_objects() if isinstance(each, connection.Hub) and each.loop is loop]
        return hub.body_bytes

    async def connect(self) -> "Client":
        return Client(*await self._open())

    async def connect_2(self, **settings: int) -> "Client2":
        client = Client2(*await self._open(), settings)
        await client.flush()
        return client

    async def close(self) -> None:
        """End all clients, and the server."""
        for writer in self._opened:
            writer.transport.abort()
        self.service.go_on.set()
        self.server.stop()
        await asyncio.wait_for(self.serving, WAIT_S)

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._opened.append(writer)
        return reader, writer


class Client:
    """A client of HTTP/1.1, which sends what it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def answer(self, *, has_body: bool = True) -> tuple[int, dict[str, str], bytes]:
        """Return the status, the headers and the body of the next answer."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        assert lines[0].startswith("HTTP/1.1 ")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:-2])
        body = await self.reader.readexactly(int(headers.get("content-length", "0"))) if has_body else b""
        return int(lines[0].split()[1]), headers, body

    async def rest(self) -> bytes:
        """Return what comes until the server ends the connection."""
        return await self.reader.read()

    def close(self) -> None:
        self.writer.close()


class Client2:
    """A client of HTTP/2."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, settings: dict[str, int]) -> None:
        self.reader = reader
        self.writer = writer
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        if settings:
            self.h2.update_settings({SettingCodes[name]: value for name, value in settings.items()})
        self.events: deque[Event] = deque()
        self.acknowledges = True

    async def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())
        await self.writer.drain()

    async def ask(
        self,
        path: str = "/",
        body: bytes = b"",
        *,
        method: str = "POST",
        ends: bool = True,
        headers: Mapping[str, str] = PLAIN,
    ) -> int:
        """Begin a request, and end it if it is to end. Return its number."""
        number = self.h2.get_next_available_stream_id()
        where = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "here:1")]
        self.h2.send_headers(number, [*where, *headers.items()], end_stream=ends and not body)
        await self.send(number, body, ends=ends)
        return number

    async def send(self, number: int, body: bytes, *, ends: bool = True) -> None:
        while body:
            room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
            if room <= 0:
                await self.flush()
                await self.receive()
                continue
            piece, body = body[:room], body[room:]
            self.h2.send_data(number, piece, end_stream=ends and not body)
        await self.flush()

    async def receive(self) -> bool:
        """Take what comes next. Return False behind the end of the connection."""
        data = b""
        with contextlib.suppress(ConnectionError):
            data = await self.reader.read(65_536)
        if not data:
            return False
        for event in self.h2.receive_data(data):
            self.events.append(event)
            if isinstance(event, DataReceived) and self.acknowledges:
                assert event.stream_id is not None
                self.h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
        with contextlib.suppress(ConnectionError):
            await self.flush()
        return True

    async def wait_for(self, number: int, kind: type[Event]) -> list[Event]:
        """Return what came for a request, once something of this kind has."""
        while True:
            mine = [event for event in self.events if getattr(event, "stream_id", None) == number]
            if any(isinstance(event, kind) for event in mine):
                return mine
            assert await self.receive(), self.events

    async def answer(self, number: int) -> tuple[dict[str, str], bytes]:
        """Return the headers and the body that a request is answered with."""
        mine = await self.wait_for(number, StreamEnded)
        body = b"".join(event.data or b"" for event in mine if isinstance(event, DataReceived))
        (head,) = [event for event in mine if isinstance(event, ResponseReceived)]
        assert head.headers is not None
        return {str(name): str(value) for name, value in head.headers}, body

    async def rest(self) -> list[Event]:
        """Return what comes until the server ends the connection."""
        while await self.receive():
            pass
        return list(self.events)

    def close(self) -> None:
        self.writer.close()


def serving(test: Callable[[Place], Coroutine[object, object, T]]) -> T:
    """Run the test with a server, and end that."""

    async def run() -> T:
        async with place_of(Service()) as place:
            return await asyncio.wait_for(test(place), WAIT_S)

    return uvloop.run(run())


@contextlib.asynccontextmanager
async def place_of(service: Service) -> AsyncGenerator[Place]:
    bound = bind("127.0.0.1", 0)
    port = int(bound.getsockname()[1])
    server = Listener(service.start, bound, tls=None, now=lambda: NOW)
    running = asyncio.ensure_future(server.serve())
    place = Place(service, server, port, running)
    try:
        yield place
    finally:
        await place.close()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give clients no time."""
    monkeypatch.setattr(listener, "TICK_S", 0.02)
    for module, name, seconds in (
        (connection, "HEAD_SECONDS_MAX", 0.1),
        (connection, "STALL_SECONDS_MAX", 0.5),
        (http1, "HEAD_SECONDS_MAX", 0.1),
        (http1, "BODY_SECONDS_MAX", 0.1),
        (http1, "LINGER_SECONDS", 0.1),
        (http2, "HEAD_SECONDS_MAX", 0.1),
        (http2, "BODY_SECONDS_MAX", 0.1),
        (http2, "STALL_SECONDS_MAX", 0.5),
    ):
        monkeypatch.setattr(module, name, seconds)


def post(path: str = "/", body: bytes = b"", *headers: str, version: str = "1.1") -> bytes:
    lines = "".join(f"{header}\r\n" for header in ("Host: here", *headers))
    return f"POST {path} HTTP/{version}\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


# HTTP/1.1


def test_a_request_comes_out_as_it_was_sent_however_it_is_cut() -> None:
    sent = post("/a%20b/?x=%20&y=?", b"body", "X-Amz-Target: T.A", "x-AMZ-date:  now ")
    expected = WireRequest(
        "POST",
        "/a%20b/",
        "x=%20&y=?",
        {"host": "here", "x-amz-target": "T.A", "x-amz-date": "now", "content-length": "4"},
        b"body",
        "127.0.0.1",
    )

    async def test(place: Place) -> list[WireRequest]:
        client = await place.connect()
        for cut in range(1, len(sent)):
            await client.send(sent[:cut], sent[cut:])
            assert (await client.answer())[2] == b"body"
        await client.send(*[sent[place : place + 1] for place in range(len(sent))])
        status, headers, body = await client.answer()
        assert (status, headers["date"], body) == (200, DATE.lower(), b"body")
        return place.service.asked

    assert serving(test) == [expected] * len(sent)


def test_requests_that_are_sent_ahead_are_answered_in_their_order_one_at_a_time() -> None:
    async def test(place: Place) -> int:
        client = await place.connect()
        await client.send(b"".join(post("/held" if number == 7 else "/", b"%d" % number) for number in range(500)))
        for number in range(500):
            if number == 7:
                place.service.go_on.set()
            assert (await client.answer())[2] == b"%d" % number
        return place.service.most_under_way

    assert serving(test) == 1


@pytest.mark.parametrize(
    ("headers", "version", "stays", "told"),
    [
        ((), "1.1", True, None),
        (("Connection: close",), "1.1", False, "close"),
        ((), "1.0", False, "close"),
        (("Connection: keep-alive",), "1.0", True, "keep-alive"),
    ],
)
def test_a_connection_stays_as_long_as_its_client_wants(
    headers: Sequence[str], version: str, stays: bool, told: str | None
) -> None:
    async def test(place: Place) -> None:
        client = await place.connect()
        await client.send(post("/", b"one", *headers, version=version))
        _, answered, body = await client.answer()
        assert (answered.get("connection"), body) == (told, b"one")
        if stays:
            await client.send(post("/", b"two", "Connection: close"))
            assert (await client.answer())[2] == b"two"
        assert await client.rest() == b""

    serving(test)


def test_what_has_no_body_of_its_own_is_answered_as_it_must_be() -> None:
    async def test(place: Place) -> list[str]:
        client = await place.connect()
        await client.send(b"HEAD / HTTP/1.1\r\nHost: here\r\n\r\n")
        status, headers, _ = await client.answer(has_body=False)
        assert (status, headers["content-length"]) == (200, "7")
        await client.send(b"GET http://here:1/path?query HTTP/1.1\r\nHost: here\r\n\r\n")
        assert (await client.answer())[2] == b"nothing"
        await client.send(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        assert (await client.answer())[2] == b"abcde"
        return [f"{request.method} {request.path}?{request.query}" for request in place.service.asked]

    assert serving(test) == ["HEAD /?", "GET /path?query", "POST /?"]


def test_who_asks_whether_to_send_a_body_is_told_to() -> None:
    async def test(place: Place) -> None:
        client = await place.connect()
        head, _, body = post("/", b"body", "Expect: 100-continue").partition(b"\r\n\r\n")
        await client.send(head + b"\r\n\r\n")
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(body)
        assert (await client.answer())[2] == b"body"

    serving(test)


def test_who_offers_another_protocol_is_answered_in_this_one() -> None:
    """Java's client offers HTTP/2 with its first request, whatever that is."""

    async def test(place: Place) -> list[WireRequest]:
        client = await place.connect()
        upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAA")
        await client.send(post("/", b"one", *upgrade) + post("/", b"two"))
        assert (await client.answer())[2] == b"one"
        assert (await client.answer())[2] == b"two"
        await client.send(b"CONNECT here:1 HTTP/1.1\r\n\r\n")
        assert (await client.answer())[0] == 400
        assert await client.rest() == b""
        return place.service.asked

    first, second = serving(test)
    assert first.headers.keys() == {"host", "content-length"} == second.headers.keys()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"no HTTP at all\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\na", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 500_000, 431),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 500_000, 431),
    ],
)
def test_what_is_no_request_is_refused_behind_what_was_one(sent: bytes, status: int) -> None:
    async def test(place: Place) -> None:
        client = await place.connect()
        await client.send(sent)
        assert (await client.answer())[0] == status
        assert await client.rest() == b""
        client.close()
        client = await place.connect()
        await client.send(post("/held", b"asked") + sent)
        await asyncio.sleep(0.01)
        place.service.go_on.set()
        assert (await client.answer())[2] == b"asked"
        assert await client.rest() == b""
        assert len(place.service.asked) == 1

    serving(test)


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_that_is_too_long_is_cut_off_and_its_sender_gets_to_read_the_answer(is_chunked: bool) -> None:
    async def test(place: Place) -> WireRequest:
        client = await place.connect()
        piece = bytes(65_536)
        framing = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: %d" % (2 * REQUEST_BODY_BYTES_MAX)
        await client.send(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n")
        for _ in range(2 * REQUEST_BODY_BYTES_MAX // len(piece)):
            await client.send(b"10000\r\n%b\r\n" % piece if is_chunked else piece)
        _, headers, body = await client.answer()
        assert headers["connection"] == "close"
        assert body == b"too long"
        assert await client.rest() == b""
        client.close()
        (asked,) = place.service.asked
        return asked

    assert REQUEST_BODY_BYTES_MAX < len(serving(test).body) < REQUEST_BODY_BYTES_MAX + 2**20


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", None),
        (b"PRI * HTTP/2", None),
        (b"POST / HTTP/1.1\r\nHost: h", 408),
        (post("/", b"whole")[:-1], 408),
    ],
)
def test_who_says_too_little_is_waited_for_no_longer_than_its_time(sent: bytes, status: int | None) -> None:
    async def test(place: Place) -> list[WireRequest]:
        client = await place.connect()
        await client.send(sent)
        if status is not None:
            assert (await client.answer())[0] == status
        assert await client.rest() == b""
        return place.service.asked

    assert serving(test) == []


@pytest.mark.usefixtures("hurried")
def test_an_answer_takes_as_long_as_it_takes_and_an_idle_connection_ends() -> None:
    async def test(place: Place) -> None:
        client = await place.connect()
        await client.send(post("/held", b"one"))
        await asyncio.sleep(0.5)
        place.service.go_on.set()
        assert (await client.answer())[2] == b"one"
        assert await client.rest() == b""

    serving(test)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("path", ["/big", "/stream-much"])
def test_who_does_not_read_is_given_up_and_holds_nothing(path: str) -> None:
    async def test(place: Place) -> None:
        client = await place.connect()
        await client.send(post(path) * 3)
        await asyncio.sleep(2.0)
        with contextlib.suppress(ConnectionError):
            await client.rest()
        assert place.service.streams_ended == place.service.streams_closed == (path != "/big")
        assert len(place.service.asked) <= 3

    serving(test)


@pytest.mark.usefixtures("hurried")
def test_who_reads_slowly_gets_all() -> None:
    async def test(place: Place) -> None:
        client = await place.connect()
        await client.send(post("/big", b"", "Connection: close"))
        await client.reader.readuntil(b"\r\n\r\n")
        read = b""
        while len(read) < len(BIG):
            read += await client.reader.readexactly(131_072)
            await asyncio.sleep(0.02)
        assert read == BIG
        assert await client.rest() == b""

    serving(test)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_stream_comes_frame_by_frame_and_ends(version: str) -> None:
    async def test(place: Place) -> None:
        client = await place.connect()
        await client.send(post("/stream", version=version))
        _, headers, _ = await client.answer(has_body=False)
        assert headers["x-kind"] == "stream"
        if version == "1.0":
            assert await client.rest() == b"frame 0frame 1frame 2"
        else:
            assert headers["transfer-encoding"] == "chunked"
            for number in range(3):
                assert await client.reader.readline() == b"7\r\n"
                assert await client.reader.readline() == b"frame %d\r\n" % number
            assert await client.reader.readuntil(b"\r\n\r\n") == b"0\r\n\r\n"
            await client.send(post("/", b"more"))
            assert (await client.answer())[2] == b"more"
        client.close()
        assert place.service.streams_ended == place.service.streams_closed == 1

    serving(test)


def test_a_stream_ends_with_its_client() -> None:
    async def test(place: Place) -> None:
        client = await place.connect()
        await client.send(post("/stream-on"))
        await client.reader.readuntil(b"frame 2")
        client.close()
        while place.service.streams_closed == 0 or place.service.streams_ended == 0:
            await asyncio.sleep(0.01)

    serving(test)


def test_who_ends_its_side_still_gets_its_answers() -> None:
    async def test(place: Place) -> None:
        client = await place.connect()
        await client.send(post("/held", b"one") + post("/", b"two") + b"POST / HT")
        client.writer.write_eof()
        await asyncio.sleep(0.01)
        place.service.go_on.set()
        assert (await client.answer())[2] == b"one"
        assert (await client.answer())[2] == b"two"
        assert await client.rest() == b""

    serving(test)


def test_a_stop_answers_what_came_and_ends_all_connections() -> None:
    async def test(place: Place) -> None:
        waiting, idle, silent, second = [await place.connect() for _ in range(4)]
        await waiting.send(post("/held", b"one"))
        await idle.send(post())
        await idle.answer()
        second_2 = await place.connect_2()
        number = await second_2.ask("/held", b"two")
        idle_2 = await place.connect_2()
        await idle_2.answer(await idle_2.ask())
        place.server.stop()
        for client in (idle, silent, second):
            assert await client.rest() == b""
        assert any(isinstance(event, ConnectionTerminated) for event in await idle_2.rest())
        with pytest.raises(ConnectionError):
            await place.connect()
        assert not place.serving.done()
        place.service.go_on.set()
        _, headers, body = await waiting.answer()
        assert (headers["connection"], body) == ("close", b"one")
        assert (await second_2.answer(number))[1] == b"two"
        await second_2.rest()
        await place.serving

    serving(test)


def test_what_a_connection_held_goes_with_it() -> None:
    """Without a collection of cycles: a body of megabytes would wait for it."""

    async def test(place: Place) -> None:
        client = await place.connect()
        await client.send(post("/", bytes(1_000_000))[:-1])
        await asyncio.sleep(0.05)
        held = [weakref.ref(one) for one in gc.get_objects() if isinstance(one, http1.Http1Connection)]
        assert len(held) == 1
        client.close()
        while held[0]() is not None:
            await asyncio.sleep(0.01)

    gc.collect()
    gc.disable()
    try:
        serving(test)
    finally:
        gc.enable()


def test_bodies_that_are_too_much_for_the_server_are_refused_and_small_ones_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "BODIES_BYTES_MAX", 950_000)
    most = bytes(900_000)

    async def test(place: Place) -> None:
        half, other, over_http_2 = await place.connect(), await place.connect(), await place.connect_2()
        await half.send(post("/", most)[:-1])  # which it keeps from the server's other clients
        while place.body_bytes() < len(most) - 1:
            await asyncio.sleep(0.01)
        await other.send(post("/", most))
        status, headers, _ = await other.answer()
        assert (status, headers["connection"]) == (503, "close")
        assert place.body_bytes() == len(most) - 1
        refused = await over_http_2.ask("/", most, ends=False)
        assert (await over_http_2.answer(refused))[0][":status"] == "503"
        small = bytes(60_000)
        assert (await over_http_2.answer(await over_http_2.ask("/", small)))[1] == small
        third = await place.connect()
        await third.send(post("/held", small))
        half.close()
        while place.body_bytes() > len(small):
            await asyncio.sleep(0.01)
        place.service.go_on.set()
        assert (await third.answer())[2] == small
        assert (await over_http_2.answer(await over_http_2.ask("/", most)))[1] == most
        await third.send(post("/", most))
        assert (await third.answer())[2] == most
        gone = await over_http_2.ask("/", most, ends=False)
        over_http_2.h2.reset_stream(gone)
        await over_http_2.flush()
        while place.body_bytes() > 0:
            await asyncio.sleep(0.01)

    serving(test)


# HTTP/2


def test_requests_of_http_2_are_answered_as_they_are_ready() -> None:
    async def test(place: Place) -> list[WireRequest]:
        client = await place.connect_2()
        held = await client.ask("/held?q=1", b"first")
        assert await client.answer(await client.ask("/%20", b"second")) == (
            {":status": "200", "date": DATE, "x-number": "2", "content-length": "6"},
            b"second",
        )
        place.service.go_on.set()
        assert (await client.answer(held))[1] == b"first"
        assert await client.answer(await client.ask("/", method="HEAD")) == (
            {":status": "200", "date": DATE, "x-number": "3", "content-length": "7"},
            b"",
        )
        return place.service.asked

    first, second, _ = serving(test)
    assert first == WireRequest("POST", "/held", "q=1", {"x-a": "b", "host": "here:1"}, b"first", "127.0.0.1")
    assert second.path == "/%20"


def test_bodies_go_both_ways_in_pieces_that_there_is_room_for() -> None:
    async def test(place: Place) -> None:
        client = await place.connect_2(INITIAL_WINDOW_SIZE=1_000)
        numbers = [await client.ask("/big"), await client.ask("/", BIG)]
        for number in numbers:
            assert (await client.answer(number))[1] == BIG

    serving(test)


def test_who_asks_over_http_2_whether_to_send_a_body_is_told_to() -> None:
    async def test(place: Place) -> None:
        client = await place.connect_2()
        number = await client.ask("/", ends=False, headers={"expect": "100-continue"})
        await client.wait_for(number, InformationalResponseReceived)
        await client.send(number, b"body")
        assert (await client.answer(number))[1] == b"body"

    serving(test)


def test_a_body_of_http_2_that_is_too_long_is_cut_off_and_answered() -> None:
    async def test(place: Place) -> int:
        client = await place.connect_2()
        number = await client.ask("/", bytes(REQUEST_BODY_BYTES_MAX + 1), ends=False)
        await client.answer(number)
        reset = next(event for event in await client.wait_for(number, StreamReset) if isinstance(event, StreamReset))
        assert reset.error_code == ErrorCodes.NO_ERROR
        for _ in range(16):  # what was on its way when the client was told
            client.writer.write(DataFrame(number, bytes(16_384)).serialize())
        assert (await client.answer(await client.ask("/", b"more")))[1] == b"more"
        return len(place.service.asked[0].body)

    assert serving(test) == REQUEST_BODY_BYTES_MAX + 1


@pytest.mark.usefixtures("hurried")
def test_half_a_request_of_http_2_is_waited_for_no_longer_than_its_time() -> None:
    async def test(place: Place) -> list[WireRequest]:
        client = await place.connect_2()
        number = await client.ask("/", b"half", ends=False)
        assert (await client.answer(number))[0][":status"] == "408"
        await client.wait_for(number, StreamReset)
        assert any(isinstance(event, ConnectionTerminated) for event in await client.rest())  # it says nothing more
        return place.service.asked

    assert serving(test) == []


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("path", ["/big", "/stream-much"])
def test_who_gives_an_answer_no_room_is_given_up(path: str) -> None:
    async def test(place: Place) -> None:
        client = await place.connect_2()
        client.acknowledges = False
        await client.wait_for(await client.ask(path), StreamReset)
        client.close()
        assert place.service.streams_ended == place.service.streams_closed == (path != "/big")

    serving(test)


def test_a_stream_of_http_2_comes_frame_by_frame_and_ends_or_is_taken_back() -> None:
    async def test(place: Place) -> None:
        client = await place.connect_2()
        assert (await client.answer(await client.ask("/stream")))[1] == b"frame 0frame 1frame 2"
        assert place.service.streams_ended == place.service.streams_closed == 1
        number = await client.ask("/stream-on")
        await client.wait_for(number, DataReceived)
        client.h2.reset_stream(number)
        await client.flush()
        while (place.service.streams_ended, place.service.streams_closed) != (2, 2):
            await asyncio.sleep(0.01)
        await client.wait_for(await client.ask("/stream-on"), DataReceived)
        client.close()
        while (place.service.streams_ended, place.service.streams_closed) != (3, 3):
            await asyncio.sleep(0.01)

    serving(test)


def test_who_says_goodbye_over_http_2_still_gets_its_answers() -> None:
    async def test(place: Place) -> None:
        client = await place.connect_2(INITIAL_WINDOW_SIZE=1_000)
        held, big, half = [await client.ask("/held"), await client.ask("/big"), await client.ask("/", ends=False)]
        client.writer.write(GoAwayFrame(0).serialize())
        place.service.go_on.set()
        assert (await client.answer(held))[1] == b"nothing"
        assert (await client.answer(big))[1] == BIG
        await client.send(half, b"the other half")
        assert (await client.answer(half))[1] == b"the other half"
        assert any(isinstance(event, ConnectionTerminated) for event in await client.rest())

    serving(test)


def test_a_stream_of_http_2_goes_on_behind_the_goodbye_of_its_client() -> None:
    async def test(place: Place) -> None:
        client = await place.connect_2()
        number = await client.ask("/stream-held")
        await client.wait_for(number, ResponseReceived)
        client.writer.write(GoAwayFrame(0).serialize())
        await asyncio.sleep(0.05)
        place.service.go_on.set()
        assert (await client.answer(number))[1] == b"frame 0frame 1frame 2"

    serving(test)


def test_who_takes_back_one_request_after_the_other_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2, "RESETS_MAX", 10)

    async def test(place: Place) -> None:
        client = await place.connect_2()
        for _ in range(20):
            await client.answer(await client.ask())
            client.h2.reset_stream(await client.ask("/held"))  # as often as it reads an answer: that is its right
            await client.flush()
        for _ in range(11):
            client.h2.reset_stream(await client.ask("/held"))
            await client.flush()
        ends = [event for event in await client.rest() if isinstance(event, ConnectionTerminated)]
        assert [event.error_code for event in ends] == [ErrorCodes.ENHANCE_YOUR_CALM]

    serving(test)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("garbage", "told"),
    [
        (bytes(1_000), ErrorCodes.PROTOCOL_ERROR),  # an empty frame of data without a request
        (b"\x7f" * 500_000, ErrorCodes.FRAME_SIZE_ERROR),  # the first of a frame of 8 MB
        (b"\x7f" * 1_000, ErrorCodes.NO_ERROR),  # as long as it does not go on
    ],
)
def test_garbage_behind_the_hello_of_http_2_ends_the_connection(garbage: bytes, told: ErrorCodes) -> None:
    async def test(place: Place) -> list[ErrorCodes | int | None]:
        client = await place.connect_2()
        client.writer.write(garbage)
        return [event.error_code for event in await client.rest() if isinstance(event, ConnectionTerminated)]

    assert serving(test) == [told]


@pytest.mark.parametrize("is_http_2", [False, True])
@pytest.mark.parametrize("path", ["/", "/ru-central1/b1g/etn%20x/", "/a:b@c!$&'()*+,;=~"])
def test_a_request_that_was_taken_apart_is_still_what_was_signed(path: str, is_http_2: bool) -> None:
    request = signed(url=f"http://here:1{path}")

    async def test(place: Place) -> None:
        if is_http_2:
            client = await place.connect_2()
            kept = {name: value for name, value in request.headers.items() if name != "host"}
            await client.answer(await client.ask(path, request.body, headers=kept))
        else:
            kept = {name: value for name, value in request.headers.items() if name != "content-length"}
            lines = [f"{name}: {value}" for name, value in kept.items()]
            plain = await place.connect()
            await plain.send(post(path, request.body, *lines))
            await plain.answer()
        (asked,) = place.service.asked
        gate().authenticate(asked)

    serving(test)


def test_too_many_connections_are_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "CONNECTIONS_MAX", 2)

    async def test(place: Place) -> None:
        first, second = await place.connect(), await place.connect()
        await first.send(post("/", b"one"))
        await first.answer()
        third = await place.connect()
        with contextlib.suppress(ConnectionError):
            assert await third.rest() == b""
        first.close()
        while True:
            fourth = await place.connect()
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await fourth.send(post("/", b"four"))
                assert (await fourth.answer())[2] == b"four"
                break
        second.close()

    serving(test)
