"""A client of aiobotocore whose requests a store answers in this process, with no thread for those that wait."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from aiobotocore.awsrequest import AioAWSResponse
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore import UNSIGNED
from botocore.awsrequest import AWSPreparedRequest

from streamstore import StreamStore
from streamstore.wire.dispatch import Dispatcher
from streamstore.wire.http import WireResponse
from streamstore.wire.prepared import BEFORE_SEND, client_place, wire_request

if TYPE_CHECKING:
    from aiobotocore.session import ClientCreatorContext
    from types_aiobotocore_kinesis import KinesisClient

__all__ = ["aiobotocore_client"]


def aiobotocore_client(
    store: StreamStore, *, config: AioConfig | None = None, transition_ms: int = 0
) -> "ClientCreatorContext[KinesisClient]":
    """Return what ``async with`` makes a client of aiobotocore for Kinesis of, answered by an open store.

    All that ``boto3_client`` says holds here too; tasks in place of threads.
    """
    session = AioSession()
    session.register(BEFORE_SEND, _InProcess(Dispatcher(store, transition_ms=transition_ms)).answer)
    return session.create_client(  # pyright: ignore[reportUnknownMemberType]  # other services have no stubs here
        "kinesis",
        **client_place(store),
        config=(config or AioConfig()).merge(AioConfig(signature_version=UNSIGNED)),
    )


class _InProcess:
    """Answers in place of the network."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    async def answer(self, request: AWSPreparedRequest, **_: object) -> AioAWSResponse:
        response = await self._dispatcher.answer_async(wire_request(request))
        headers = dict(response.headers)
        return AioAWSResponse(request.url, response.status, headers, _Raw(response))  # type: ignore[arg-type]  # any map


class _Raw:
    """The body of an answer as aiobotocore reads it from a connection, whose ``content`` has the chunks."""

    def __init__(self, response: WireResponse) -> None:
        self._response = response
        self.content = self

    async def read(self) -> bytes:
        body = self._response.body
        return body if isinstance(body, bytes) else b"".join([chunk async for chunk, _ in self.iter_chunks()])

    async def iter_chunks(self) -> AsyncIterator[tuple[bytes, bool]]:
        """Yield each frame, and that it ends a chunk."""
        body = self._response.body
        assert isinstance(body, AsyncIterator)  # because the answer was awaited
        async for frame in body:
            yield frame, True

    def close(self) -> None:
        """End a stream."""
        self._response.close()
