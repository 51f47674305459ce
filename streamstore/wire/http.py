"""One request and one answer, as far as the wire cares: no server and no client of HTTP is seen behind them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Final, NamedTuple

__all__ = [
    "BODY_SECONDS_MAX",
    "LOG",
    "REQUEST_TIMEOUT",
    "TOO_BUSY",
    "TOO_LATE",
    "UNAVAILABLE",
    "Answer",
    "Reply",
    "Start",
    "WireRequest",
    "WireResponse",
    "answered",
]

BODY_SECONDS_MAX: Final = 30.0  # from a head to the end of its body
REQUEST_TIMEOUT: Final = 408
UNAVAILABLE: Final = 503
LOG: Final = logging.getLogger("streamstore.wire")


def _nothing_to_close() -> None:
    """What has come whole holds nothing."""


class WireRequest(NamedTuple):
    """A request that has come whole. ``headers`` have lower-case names; ``query`` is without its question mark."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    client: str | None = None  # the address that it came from, if a server knows it


class WireResponse(NamedTuple):
    """An answer. A body that is no bytes is a stream: it comes in frames, and is awaited if the answer was.

    ``close`` ends a stream at once, and the waiting for its next frame; any thread may call it.
    """

    status: int
    headers: list[tuple[str, str]]
    body: bytes | Iterator[bytes] | AsyncIterator[bytes]
    close: Callable[[], None] = _nothing_to_close


TOO_BUSY: Final = WireResponse(UNAVAILABLE, [], b"")
"""The answer to who sends a body while the server has too much of others. SDKs send it again."""
TOO_LATE: Final = WireResponse(REQUEST_TIMEOUT, [], b"")
"""The answer to who does not send a body in time."""


Answer = Callable[[WireRequest], Awaitable[WireResponse]]
"""Answers a request that has come whole. Never raises for anything in it."""
Reply = Callable[[WireResponse], None]
Start = Callable[[WireRequest, Reply], None]
"""Like ``Answer``, without a task: the reply is called in the thread of the loop, once, when this has returned."""


async def answered(start: Start, request: WireRequest) -> WireResponse:
    """Return the answer when it is known. A stream whose waiter was cancelled is closed."""
    answer: asyncio.Future[WireResponse] = asyncio.get_running_loop().create_future()

    def reply(response: WireResponse) -> None:
        if answer.done():
            response.close()
        else:
            answer.set_result(response)

    start(request, reply)
    return await answer
