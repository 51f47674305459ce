"""The wire awaited: the application of ASGI, group commits, retries that never duplicate, subscriptions."""

import asyncio
import importlib
import json
import zlib
from collections.abc import Iterator, MutableMapping
from pathlib import Path

import pytest

from streamstore import StreamStore
from streamstore.wire import Dispatcher, Permit, WireRequest, WireResponse, app
from tests.commits import WAIT_S, HeldCommits, held_commits, last_commit
from tests.conftest import Clock, open_store
from tests.wire import CBOR, JSON, Wire, decoded, frames_of

Message = MutableMapping[str, object]
PUT = {"StreamName": "clicks", "Data": b"x", "PartitionKey": "a"}
ENTRY = {"Data": b"x", "PartitionKey": "a"}
SHARD = "shardId-000000000000"


@pytest.fixture
def wire(aws_store: StreamStore) -> Wire:
    aws_store.create_stream("clicks")
    return Wire(Dispatcher(aws_store))


def stored(store: StreamStore) -> int:
    return len(list(store.read("clicks", SHARD)))


@pytest.mark.parametrize("invocation_id", ["\u00e9\u00ff", "\U0001f600", "\ud800", "x" * 60_000])
def test_the_name_of_a_request_may_be_any_text(invocation_id: str, wire: Wire, aws_store: StreamStore) -> None:
    first = wire.ask("PutRecord", PUT, invocation_id=invocation_id)
    assert first.status == 200
    assert wire.ask("PutRecord", PUT, invocation_id=invocation_id).body == first.body
    assert stored(aws_store) == 1


def test_a_put_sent_again_stores_one_record_and_has_the_same_answer(wire: Wire, aws_store: StreamStore) -> None:
    first = wire.ask("PutRecord", PUT, invocation_id="one")
    assert wire.ask("PutRecord", PUT, invocation_id="one").body == first.body
    assert stored(aws_store) == 1
    many = {"StreamName": "clicks", "Records": [ENTRY, ENTRY]}
    first = wire.ask("PutRecords", many, invocation_id="two")
    assert wire.ask("PutRecords", many, invocation_id="two").body == first.body
    assert stored(aws_store) == 3  # equal entries of one request are two records


def test_a_put_without_a_name_or_with_another_body_is_a_put_of_its_own(wire: Wire, aws_store: StreamStore) -> None:
    wire.ask("PutRecord", PUT)
    wire.ask("PutRecord", PUT)
    wire.ask("PutRecord", PUT, invocation_id="one")
    wire.ask("PutRecord", PUT | {"Data": b"y"}, invocation_id="one")
    assert [record.data for record in aws_store.read("clicks", SHARD)] == [b"x", b"x", b"x", b"y"]


def test_a_put_sent_again_to_a_server_that_started_anew_stores_one_record(store_path: Path, clock: Clock) -> None:
    with open_store(store_path, clock, dialect="aws") as store:
        wire = Wire(Dispatcher(store))
        wire.ask("CreateStream", {"StreamName": "clicks", "ShardCount": 1})
        first = wire.ask("PutRecord", PUT, invocation_id="one").body
    with open_store(store_path, clock) as store:
        assert Wire(Dispatcher(store)).ask("PutRecord", PUT, invocation_id="one").body == first
        assert stored(store) == 1


@pytest.mark.parametrize("codec", [JSON, CBOR])
def test_an_answer_has_an_id_of_its_own_and_proves_its_body(codec: str, aws_store: StreamStore) -> None:
    wire = Wire(Dispatcher(aws_store), codec)
    responses = [wire.dispatcher.answer(wire.request("ListStreams")) for _ in range(2)]
    for response in responses:
        assert isinstance(response.body, bytes)
        assert decoded(response).headers["x-amz-crc32"] == str(zlib.crc32(response.body))
    ids = {decoded(response).headers["x-amzn-requestid"] for response in responses}
    assert len(ids) == 2
    assert all(len(one) == 36 for one in ids)


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/cbor", "application/x-amz-json-1.1; charset=utf-8", "Application/JSON"],
)
def test_an_answer_is_written_as_its_request(content_type: str, wire: Wire) -> None:
    codec = CBOR if "cbor" in content_type else JSON
    asked = Wire(wire.dispatcher, codec).request("ListStreams")
    response = wire.dispatcher.answer(asked._replace(headers={**asked.headers, "content-type": content_type}))
    assert decoded(response).headers["content-type"] == content_type.partition(";")[0].lower()
    assert decoded(response).body["StreamNames"] == ["clicks"]


def test_who_asks_is_asked_for_before_the_body_is_looked_at_and_told_the_stream(aws_store: StreamStore) -> None:
    aws_store.create_stream("clicks")
    told: list[tuple[str, str | None]] = []

    def authenticate(request: WireRequest) -> Permit:
        assert request.body
        return lambda action, name: told.append((action, name))

    wire = Wire(Dispatcher(aws_store, authenticate=authenticate))
    start = {"StreamName": "clicks", "ShardId": SHARD, "ShardIteratorType": "LATEST"}
    iterator = wire.ask("GetShardIterator", start).text("ShardIterator")
    wire.ask("GetRecords", {"ShardIterator": iterator})
    wire.ask("ListTagsForResource", {"ResourceARN": aws_store.stream_arn("clicks")})
    wire.ask("ListStreams")
    assert told == [
        ("GetShardIterator", "clicks"),
        ("GetRecords", "clicks"),
        ("ListTagsForResource", "clicks"),
        ("ListStreams", None),
    ]


def subscription(wire: Wire, store: StreamStore) -> WireRequest:
    arn = store.register_stream_consumer("clicks", "reader").consumer_arn
    start = {"Type": "TRIM_HORIZON"}
    return wire.request("SubscribeToShard", {"ConsumerARN": arn, "ShardId": SHARD, "StartingPosition": start})


def test_a_subscription_is_an_event_stream_that_ends_with_the_children(wire: Wire, aws_store: StreamStore) -> None:
    wire.ask("PutRecord", PUT)
    aws_store.split_shard("clicks", SHARD, "1000")
    response = wire.dispatcher.answer(subscription(wire, aws_store))
    assert (response.status, dict(response.headers)["Content-Type"]) == (200, "application/vnd.amazon.eventstream")
    assert isinstance(response.body, Iterator)
    frames = list(frames_of(b"".join(response.body)))
    assert [headers[":event-type"] for headers, _ in frames] == ["initial-response", "SubscribeToShardEvent"]
    event = json.loads(frames[1][1])
    assert [record["Data"] for record in event["Records"]] == ["eA=="]
    assert len(event["ChildShards"]) == 2


def test_a_subscription_that_fails_ends_in_an_exception(wire: Wire, aws_store: StreamStore) -> None:
    wire.ask("PutRecord", PUT)
    response = wire.dispatcher.answer(subscription(wire, aws_store))
    assert isinstance(response.body, Iterator)
    assert len(list(frames_of(next(response.body) + next(response.body)))) == 2
    aws_store.delete_stream("clicks", enforce_consumer_deletion=True)
    [(headers, payload)] = frames_of(b"".join(response.body))
    assert headers[":message-type"] == "exception"
    assert headers[":exception-type"] == "ResourceNotFoundException"
    assert json.loads(payload)["message"] == "Stream clicks under account 000000000000 not found."


class AsgiClient:
    """Asks an ASGI application: what it is sent comes from ``messages``, what it sends is kept in ``sent``."""

    def __init__(self, asked: WireRequest, *messages: Message) -> None:
        self.scope: Message = {
            "type": "http",
            "method": asked.method,
            "path": asked.path,
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in asked.headers.items()],
        }
        whole: Message = {"type": "http.request", "body": asked.body, "more_body": False}
        self.messages = list(messages or [whole])
        self.sent: list[Message] = []
        self.gone = asyncio.Event()
        self.first_frame = asyncio.Event()

    async def receive(self) -> Message:
        if self.messages:
            return self.messages.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body":
            self.first_frame.set()

    @property
    def body(self) -> object:
        body = self.sent[1]["body"]
        assert isinstance(body, bytes)
        return json.loads(body)


def test_an_asgi_server_gets_whole_answers(wire: Wire, aws_store: StreamStore) -> None:
    async def put() -> AsgiClient:
        asked = wire.request("PutRecord", PUT)
        half = len(asked.body) // 2
        client = AsgiClient(
            asked,
            {"type": "http.request", "body": asked.body[:half], "more_body": True},
            {"type": "http.request", "body": asked.body[half:]},
        )
        await app(aws_store)(client.scope, client.receive, client.send)
        return client

    client = asyncio.run(put())
    assert client.sent[0]["status"] == 200
    assert client.body == {"ShardId": SHARD, "SequenceNumber": "0", "EncryptionType": "NONE"}


def test_half_a_request_stores_nothing_and_is_not_answered(wire: Wire, aws_store: StreamStore) -> None:
    async def break_off() -> AsgiClient:
        asked = wire.request("PutRecord", PUT)
        client = AsgiClient(
            asked,
            {"type": "http.request", "body": asked.body, "more_body": True},
            {"type": "http.disconnect"},
        )
        await app(aws_store)(client.scope, client.receive, client.send)
        return client

    assert asyncio.run(break_off()).sent == []
    assert stored(aws_store) == 0


def test_a_body_that_does_not_come_is_waited_for_no_longer_than_its_time(
    wire: Wire, aws_store: StreamStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("streamstore.wire.app"), "BODY_SECONDS_MAX", 0.02)

    async def dawdle() -> AsgiClient:
        asked = wire.request("PutRecord", PUT)
        client = AsgiClient(asked, {"type": "http.request", "body": asked.body, "more_body": True})
        await app(aws_store)(client.scope, client.receive, client.send)
        return client

    sent = asyncio.run(dawdle()).sent
    assert [message.get("status") for message in sent] == [408, None]
    assert sent[0]["headers"] == [(b"content-length", b"0")]
    assert stored(aws_store) == 0


def test_a_body_without_end_is_refused_behind_the_limit(wire: Wire, aws_store: StreamStore) -> None:
    async def pour() -> AsgiClient:
        piece: Message = {"type": "http.request", "body": bytes(2**20), "more_body": True}
        client = AsgiClient(wire.request("PutRecord", PUT), *([piece] * 100))
        await app(aws_store)(client.scope, client.receive, client.send)
        return client

    client = asyncio.run(pour())
    assert client.sent[0]["status"] == 413
    assert len(client.messages) == 92  # the rest is never read


def test_a_subscription_ends_with_its_client(wire: Wire, aws_store: StreamStore) -> None:
    async def subscribe_and_leave() -> int:
        client = AsgiClient(subscription(wire, aws_store))
        answering = asyncio.create_task(app(aws_store)(client.scope, client.receive, client.send))
        await client.first_frame.wait()
        client.gone.set()
        await answering
        return len(client.sent)

    assert asyncio.run(subscribe_and_leave()) >= 2


def test_puts_that_wait_together_share_a_commit(wire: Wire, aws_store: StreamStore) -> None:
    asked = [wire.request("PutRecord", PUT | {"PartitionKey": str(number)}) for number in range(200)]

    async def put_all(held: HeldCommits) -> list[WireResponse]:
        answers = [asyncio.ensure_future(wire.dispatcher.answer_async(asked[0]))]
        await asyncio.to_thread(held.wait_for_one)
        answers += [asyncio.ensure_future(wire.dispatcher.answer_async(one)) for one in asked[1:]]
        await asyncio.sleep(0)  # which starts them all: each runs to where it waits for its commit
        held.let_go()
        return await asyncio.gather(*answers)

    before = last_commit(aws_store)
    with held_commits() as held:
        responses = asyncio.run(put_all(held))
    assert {response.status for response in responses} == {200}
    assert [decoded(response).text("SequenceNumber") for response in responses] == [str(n) for n in range(200)]
    assert last_commit(aws_store) == before + 2


def test_the_awaited_answer_is_the_one_in_process(wire: Wire) -> None:
    asked = [
        wire.request("PutRecord", PUT | {"StreamName": "none"}),
        wire.request("PutRecord", PUT | {"SequenceNumberForOrdering": "99"}),
        wire.request("PutRecords", {"StreamName": "clicks", "Records": []}),
        wire.request("DescribeStream", {"StreamName": "clicks"}),
        wire.request("Fly"),
    ]
    for one in asked:
        awaited, here = asyncio.run(wire.dispatcher.answer_async(one)), wire.dispatcher.answer(one)
        assert (awaited.status, awaited.body) == (here.status, here.body)


def test_a_mistake_on_the_way_of_a_refusal_leaves_nobody_waiting(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def err(*_: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(Dispatcher, "_refusal_of", err)
    asked = wire.request("PutRecord", {**PUT, "StreamName": "unknown"})
    answer = asyncio.run(asyncio.wait_for(wire.dispatcher.answer_async(asked), WAIT_S))
    assert answer.status == 500
    assert "a mistake" in caplog.text


def test_the_application_answers_the_server_that_starts_and_stops(aws_store: StreamStore) -> None:
    async def live() -> list[object]:
        messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
        sent: list[object] = []

        async def receive() -> Message:
            return dict(next(messages))

        async def send(message: Message) -> None:
            sent.append(message["type"])

        await app(aws_store)({"type": "lifespan"}, receive, send)
        return sent

    assert asyncio.run(live()) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
