"""One request and one answer, as far as the wire cares: no server and no client of HTTP is seen behind them."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import NamedTuple

__all__ = ["WireRequest", "WireResponse"]


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
