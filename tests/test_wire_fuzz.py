"""The fuzz of the wire in process: whatever is asked is answered, and what was acknowledged is stored, once.

``HYPOTHESIS_PROFILE=ci`` asks ten times as much, ``release`` a hundred times.
"""

import asyncio
import contextlib
import tempfile
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from pathlib import Path
from random import Random
from typing import Final, cast

import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from hypothesis import given
from hypothesis import strategies as st

from streamstore import DialectName, StreamStore
from streamstore.check import check_store
from streamstore.dialect import AWS
from streamstore.wire import Dispatcher, WireRequest, WireResponse
from streamstore.wire.authorization import Gate
from streamstore.wire.credentials import AccessKey
from streamstore.wire.denial import DeniedError
from tests.conftest import Clock, open_store
from tests.signing import KEY_ID, REGION, SECRET, signed
from tests.wire import decoded, frames_of
from tests.wire_fuzz import Client, Ledger, Sent, decoded_request, mutated_bytes, mutated_head

REQUESTS: Final = 50  # to one store
CHANGES: Final = 50  # of one signed request
STATUSES: Final = (200, 400, 403, 413)


class Fuzz:
    """One store, and what it was asked."""

    def __init__(self, store: StreamStore, random: Random) -> None:
        self.dispatcher = Dispatcher(store)
        self.client = Client(store.dialect, random)
        self.ledger = Ledger()
        store.create_stream("clicks", shard_count=2)
        consumer = store.register_stream_consumer("clicks", "reader")
        self.client.learn({"StreamARN": store.stream_arn("clicks"), "ConsumerARN": consumer.consumer_arn})
        self.client.learn({"ShardId": store.dialect.shard_id(0)})

    def ask(self, request: WireRequest) -> None:
        """Ask, and look at the answer."""
        response = self.dispatcher.answer(request)
        if isinstance(response.body, Iterator):
            with contextlib.closing(cast("Generator[bytes]", response.body)) as body:
                self._note_frames(decoded_request(request), [next(body)])
        else:
            self._note(request, response)

    async def ask_awaited(self, request: WireRequest) -> None:
        """Like ``ask``, the way of a server."""
        response = await self.dispatcher.answer_async(request)
        if isinstance(response.body, AsyncIterator):
            async with contextlib.aclosing(cast("AsyncGenerator[bytes]", response.body)) as body:
                self._note_frames(decoded_request(request), [await anext(body)])
        else:
            self._note(request, response)

    def _note(self, request: WireRequest, response: WireResponse) -> None:
        answer = decoded(response)
        assert answer.status in STATUSES, answer
        assert (answer.status == 200) == ("__type" not in answer.body) == ("x-amzn-errortype" not in answer.headers)
        assert answer.headers["x-amzn-requestid"]
        assert isinstance(response.body, bytes)
        if response.body:
            assert answer.headers["x-amz-crc32"] == str(zlib.crc32(response.body))
        if answer.status == 200:
            self.ledger.note(decoded_request(request), answer)
            self.client.learn(answer.body)

    def _note_frames(self, sent: Sent, frames: list[bytes]) -> None:
        assert sent.action == "SubscribeToShard"
        [(headers, _)] = frames_of(b"".join(frames))
        assert headers[":event-type"] == "initial-response"


@pytest.mark.parametrize("dialect", ["aws", "yandex"])
@given(seed=st.integers(0, 2**32 - 1))
def test_whatever_is_asked_is_answered_and_what_was_acknowledged_is_stored_once(
    dialect: DialectName, seed: int
) -> None:
    random = Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "store")
        with open_store(path, Clock(), dialect=dialect) as store, asyncio.Runner() as runner:
            fuzz = Fuzz(store, random)
            for _ in range(REQUESTS):
                request = fuzz.client.next_request()
                if random.random() < 0.5:
                    fuzz.ask(request)
                else:
                    runner.run(fuzz.ask_awaited(request))
            fuzz.ledger.check(store)
        assert check_store(path) == []


@given(seed=st.integers(0, 2**32 - 1))
def test_nothing_that_a_signed_request_says_can_be_changed(seed: int) -> None:
    """What is let in says what was signed; whatever else is made of it is refused in words."""
    random = Random(seed)
    gate = Gate({KEY_ID: AccessKey(KEY_ID, SECRET)}, region=REGION, dialect=AWS)
    url = f"http://localhost:4567/{random.choice(['', 'a/../b', '?a=1&b', '%20'])}"
    request = signed(url=url, auth=random.choice([SigV4Auth, SigV4QueryAuth]))
    gate.authenticate(request)
    admitted = 0
    for _ in range(CHANGES):
        changed = changed_request(random, request)
        try:
            gate.authenticate(changed)
        except DeniedError:
            continue
        admitted += 1
        assert said(changed) == said(request)
    assert admitted < CHANGES


def changed_request(random: Random, request: WireRequest) -> WireRequest:
    """Return the request with something changed, perhaps nothing that is signed."""
    match random.choice(["head", "body", "query", "path", "header"]):
        case "head":
            return mutated_head(random, request)
        case "body":
            return request._replace(body=mutated_bytes(random, request.body))
        case "query":
            return request._replace(query=mutated_bytes(random, request.query.encode()).decode("latin-1"))
        case "path":
            return request._replace(path=mutated_bytes(random, request.path.encode()).decode("latin-1"))
        case _:
            name = random.choice(sorted(request.headers))
            value = mutated_bytes(random, request.headers[name].encode()).decode("latin-1")
            return request._replace(headers={**request.headers, name: value})


def said(request: WireRequest) -> tuple[str, str | None, str | None, bytes]:
    """Return what tells the server what to do, to what, for whom."""
    target, content_type = (request.headers.get(name) for name in ("x-amz-target", "content-type"))
    return (
        request.method,
        target and " ".join(target.split()),
        content_type and " ".join(content_type.split()),
        request.body,
    )
