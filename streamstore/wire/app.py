"""The wire as an application of ASGI 3, for whoever has a server; ``streamstore serve`` has one of its own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, MutableMapping
from typing import Final, cast
from urllib.parse import quote

from streamstore import StreamStore
from streamstore.limits import REQUEST_BODY_BYTES_MAX
from streamstore.wire.dispatch import Authenticate, Dispatcher
from streamstore.wire.http import BODY_SECONDS_MAX, TOO_LATE, Answer, WireRequest, WireResponse

__all__ = ["App", "app"]

Message = MutableMapping[str, object]
Scope = MutableMapping[str, object]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
UNENCODED_IN_PATHS: Final = "/:@!$&'()*+,;=~"


class App:
    """Answers HTTP requests. What a client sends slowly or not at all costs one waiting task."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or the server's word that it starts or stops."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            try:
                request = await _read(scope, receive)
            except TimeoutError:
                await _write(TOO_LATE, receive, send)
                return
            if request is not None:
                await _write(await self._answer(request), receive, send)


def app(store: StreamStore, *, authenticate: Authenticate | None = None, transition_ms: int = 0) -> App:
    """Return an ASGI application that answers Kinesis clients from an open store, which its opener closes.

    ``authenticate`` and ``transition_ms``: see ``Dispatcher``; ``authenticate`` of None lets everybody in, so bind to
    loopback only.
    """
    return App(Dispatcher(store, authenticate=authenticate, transition_ms=transition_ms).answer_async)


async def _live(receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


async def _read(scope: Scope, receive: Receive) -> WireRequest | None:
    """Return the request when it has come whole; None if its client went away. Raises ``TimeoutError``."""
    headers = cast("Iterable[tuple[bytes, bytes]]", scope["headers"])
    async with asyncio.timeout(BODY_SECONDS_MAX):
        body = await _read_body(receive)
    if body is None:
        return None
    return WireRequest(
        method=cast("str", scope["method"]),
        path=_path_as_sent(scope),
        query=cast("bytes", scope["query_string"]).decode("latin-1"),
        headers={name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers},
        body=body,
        client=None if scope.get("client") is None else str(cast("tuple[str, int]", scope["client"])[0]),
    )


def _path_as_sent(scope: Scope) -> str:
    """Return the path with its percent signs, which a signature covers; ``path`` of ASGI is without them."""
    raw_path = cast("bytes | None", scope.get("raw_path"))
    if raw_path is None:
        return quote(cast("str", scope["path"]), safe=UNENCODED_IN_PATHS)
    return raw_path.partition(b"?")[0].decode("latin-1")


async def _read_body(receive: Receive) -> bytes | None:
    """Return the body, cut off behind the first byte too many; None if the client went away."""
    message = await receive()
    if message["type"] != "http.request":
        return None
    body = cast("bytes", message.get("body", b""))
    if not message.get("more_body", False):
        return body
    parts, size = [body], len(body)
    while message.get("more_body", False) and size <= REQUEST_BODY_BYTES_MAX:
        message = await receive()
        if message["type"] != "http.request":
            return None
        part = cast("bytes", message.get("body", b""))
        parts.append(part)
        size += len(part)
    return b"".join(parts)


async def _write(response: WireResponse, receive: Receive, send: Send) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
    body = response.body
    if isinstance(body, bytes):
        headers.append((b"content-length", str(len(body)).encode("ascii")))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return
    await send({"type": "http.response.start", "status": response.status, "headers": headers})

    async def send_frame(frame: bytes) -> None:
        await send({"type": "http.response.body", "body": frame, "more_body": True})

    async def client_disconnect() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    if await _send_frames(body, send_frame, client_disconnect()):
        await send({"type": "http.response.body", "body": b""})


async def _send_frames(
    frames: Iterator[bytes] | AsyncIterator[bytes],
    send_frame: Callable[[bytes], Awaitable[None]],
    client_disconnect: Awaitable[None],
) -> bool:
    """Send frames as they come, until there are no more or the client goes away. Return whether all were sent."""
    assert isinstance(frames, AsyncIterator)  # because the answer was awaited

    async def send_all() -> None:
        async for frame in frames:
            await send_frame(frame)

    async def leave() -> None:  # in a task, because what a server gives to be awaited need not be a whole future
        await client_disconnect

    sending = asyncio.ensure_future(send_all())
    leaving = asyncio.ensure_future(leave())
    try:
        await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        return sending.done() and sending.exception() is None
    finally:
        for task in (sending, leaving):
            task.cancel()
        await asyncio.gather(sending, leaving, return_exceptions=True)
