"""A client of boto3 whose requests a store answers in this process: no server, no network, no credentials."""

import threading
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Final

import boto3
from botocore import UNSIGNED
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.config import Config

from streamstore import StreamStore
from streamstore.wire.dispatch import Dispatcher
from streamstore.wire.http import WireResponse
from streamstore.wire.prepared import BEFORE_SEND, client_place, wire_request

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

__all__ = ["boto3_client"]

MAKING_A_CLIENT: Final = threading.Lock()  # boto3: threads may share a client, but not the session that makes it


def boto3_client(store: StreamStore, *, config: Config | None = None, transition_ms: int = 0) -> "KinesisClient":
    """Return a client of boto3 for Kinesis, answered by an open store, which its opener closes.

    It is what ``boto3.client("kinesis")`` returns, in everything but where its requests go: threads may share it, its
    waiters and paginators wait and page, its errors are ``client.exceptions``, and it sends again what was answered
    with 500, 503 or a throttle, as ``config`` says. It is in the region and the account of the store. When the store is
    closed, its calls are answered with ``ServiceUnavailable``, which it tries a few times.

    ``config``: see ``botocore.config.Config``; requests are never signed. ``transition_ms``: see ``Dispatcher``; what
    this client changes is shown as under way to itself, to others as it is.
    """
    dispatcher = Dispatcher(store, transition_ms=transition_ms)
    with MAKING_A_CLIENT:
        client = _session().client(  # pyright: ignore[reportUnknownMemberType]  # other services have no stubs here
            "kinesis",
            **client_place(store),
            config=(config or Config()).merge(Config(signature_version=UNSIGNED)),
        )
    answer = _InProcess(dispatcher).answer
    client.meta.events.register_first(BEFORE_SEND, answer)  # type: ignore[arg-type]  # what it returns is the answer
    return client


@cache
def _session() -> boto3.session.Session:
    """Return the session of all clients: a new one reads the models of the service again, which takes 0.1 s."""
    return boto3.session.Session()


class _InProcess:
    """Answers in place of the network."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def answer(self, request: AWSPreparedRequest, **_: object) -> AWSResponse:
        response = self._dispatcher.answer(wire_request(request))
        headers = dict(response.headers)
        return AWSResponse(request.url, response.status, headers, _Raw(response))  # type: ignore[arg-type]  # any map


class _Raw:
    """The body of an answer as botocore reads it from a connection."""

    def __init__(self, response: WireResponse) -> None:
        self._response = response

    def stream(self) -> Iterator[bytes]:
        body = self._response.body
        if isinstance(body, bytes):
            return iter((body,))
        assert isinstance(body, Iterator)  # because the answer was not awaited
        return body

    def close(self) -> None:
        """End a stream. Any thread may call it."""
        self._response.close()
