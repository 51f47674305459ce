"""What the wire decodes: bodies, signatures, whole requests; and the event stream that it encodes."""

import asyncio
import json
import math
import tempfile
from collections.abc import Mapping, MutableMapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Final, cast

import cbor2
from botocore.eventstream import EventStreamBuffer

from streamstore import StreamStore
from streamstore.dialect import AWS, YANDEX, Dialect
from streamstore.model import DialectName
from streamstore.wire import app
from streamstore.wire.actions import actions_of
from streamstore.wire.app import App
from streamstore.wire.authorization import Gate
from streamstore.wire.credentials import AccessKey
from streamstore.wire.eventstream import encode_event
from streamstore.wire.http import WireRequest
from streamstore.wire.protocol import CODECS, JSON_1_1, Codec, answer_with_refusal, codec_of, open_envelope
from streamstore.wire.refusal import Refusal
from streamstore.wire.shapes import Moment
from streamstore.wire.validation import parse_request
from tools.torture.refusals import commits_of
from tools.torture.targets.target import BrokenLawError, Pieces, Target, written

__all__ = ["TARGETS"]

DIALECTS: Final = (AWS, YANDEX)
KINDS_OF_CODEC: Final = tuple(CODECS.values())
CBOR_1_1: Final = next(codec for codec in KINDS_OF_CODEC if codec.name == "CBOR")
ACTIONS: Final = {dialect.name: sorted(actions_of(dialect)) for dialect in DIALECTS}
NOW_MS: Final = 1_700_000_000_000
SIGNED_AT: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
REQUESTS_OF_ONE_STORE: Final = 500
WAIT_S: Final = 60.0
REFUSED: Final = 400
INTERNAL: Final = 500
CYCLE_DEPTH_MAX: Final = 100

# Signed by botocore, in the header and in the query.
BODY: Final = b'{"StreamName": "clicks", "Data": "aGk=", "PartitionKey": "k"}'
KEY: Final = AccessKey("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
IN_HEADER: Final = b"""POST /
host: localhost:4567
x-amz-target: Kinesis_20131202.PutRecord
content-type: application/x-amz-json-1.1
x-amz-date: 20260102T030405Z
authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260102/us-east-1/kinesis/aws4_request, \
SignedHeaders=content-type;host;x-amz-date;x-amz-target, \
Signature=e74b2ea2f06a938f68b1b01aa42b971bdf89be1502295432f283e501ed0cbd49

"""
IN_QUERY: Final = b"""POST /?StreamName=clicks&Data=aGk%3D&PartitionKey=k&X-Amz-Algorithm=AWS4-HMAC-SHA256\
&X-Amz-Credential=AKIDEXAMPLE%2F20260102%2Fus-east-1%2Fkinesis%2Faws4_request&X-Amz-Date=20260102T030405Z\
&X-Amz-Expires=3600&X-Amz-SignedHeaders=content-type%3Bhost%3Bx-amz-target\
&X-Amz-Signature=1805d85c84eba9eb8b17cf751ce9b3b94a6433791923c189df48d3032ce97b32
host: localhost:4567
x-amz-target: Kinesis_20131202.PutRecord
content-type: application/x-amz-json-1.1

"""
SIGNED: Final = {IN_HEADER + BODY, IN_QUERY}

BODIES: Final[Sequence[tuple[str, Mapping[str, object]]]] = (
    ("PutRecord", {"StreamName": "s", "Data": "aGk=", "PartitionKey": "k", "ExplicitHashKey": "0"}),
    ("PutRecords", {"StreamName": "s", "Records": [{"Data": "aGk=", "PartitionKey": "k"}]}),
    ("GetRecords", {"ShardIterator": "AAAA", "Limit": 5}),
    ("GetShardIterator", {"StreamName": "s", "ShardId": "shardId-000000000000", "ShardIteratorType": "LATEST"}),
    ("ListShards", {"StreamName": "s", "ShardFilter": {"Type": "AT_TIMESTAMP", "Timestamp": 1.5}}),
    ("CreateStream", {"StreamName": "new", "ShardCount": 1, "StreamModeDetails": {"StreamMode": "PROVISIONED"}}),
    ("AddTagsToStream", {"StreamName": "s", "Tags": {"key": "value"}}),
    ("DeleteStream", {"StreamName": "gone", "EnforceConsumerDeletion": True}),
    ("ListStreamConsumers", {"StreamARN": "arn:aws:kinesis:us-east-1:000000000000:stream/s", "MaxResults": 5}),
    ("SplitShard", {"StreamName": "s", "ShardToSplit": "shardId-000000000000", "NewStartingHashKey": "1000"}),
)


def _look_at_json(data: bytes) -> None:
    _check_body(JSON_1_1, data)


def _look_at_cbor(data: bytes) -> None:
    _check_body(CBOR_1_1, data)


def _check_body(codec: Codec, data: bytes) -> None:
    """A body is refused by one of the errors that the codec names, or comes back as it was."""
    try:
        value = codec.decode(data)
    except (ValueError, RecursionError):
        return
    if not _is_plain(value, CYCLE_DEPTH_MAX):
        return  # CBOR has more types than any request has
    again = codec.decode(codec.encode(value))
    if again != value:
        raise BrokenLawError(f"{value!r} came back as {again!r}")


def _is_plain(value: object, depth_left: int) -> bool:
    """Tell whether it is of the types that requests are made of, and one that is equal to itself."""
    if isinstance(value, dict) and depth_left:
        members = cast("dict[object, object]", value)
        return all(isinstance(key, str) and _is_plain(members[key], depth_left - 1) for key in members)
    if isinstance(value, list) and depth_left:
        return all(_is_plain(item, depth_left - 1) for item in cast("list[object]", value))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (bool, int, str, bytes, Moment))


def _look_at_request(data: bytes) -> None:
    """A request up to the values that an action gets."""
    pieces = Pieces(data)
    dialect, name, request = _request_for_action(pieces)
    try:
        _, _, body = open_envelope(request, dialect)
        values = parse_request(actions_of(dialect)[name].request, body, dialect)
    except Refusal as refusal:
        _check_answer(answer_with_refusal(refusal, codec_of(request, dialect)).body)
        return
    if not values.keys() <= actions_of(dialect)[name].request.members.keys():
        raise BrokenLawError(f"{name} was given {values}")


def _request_for_action(pieces: Pieces) -> tuple[Dialect, str, WireRequest]:
    dialect = DIALECTS[pieces.number() % len(DIALECTS)]
    codec = KINDS_OF_CODEC[pieces.number() % len(KINDS_OF_CODEC)]
    names = ACTIONS[dialect.name]
    name = names[pieces.number() % len(names)]
    more = pieces.piece().decode("latin-1")
    headers = {"content-type": codec.content_type + more, "x-amz-target": f"Kinesis_20131202.{name}"}
    return dialect, name, WireRequest("POST", "/", "", headers, pieces.rest())


def _check_answer(body: object) -> None:
    if not isinstance(body, bytes):
        raise BrokenLawError("a refusal is no body")


def _look_at_signature(data: bytes) -> None:
    """A request at the gate, as text: who has not signed it is refused, in words that can be sent."""
    request = _request_of_text(data)
    gate = Gate({KEY.access_key_id: KEY}, region="us-east-1", dialect=AWS, now=lambda: SIGNED_AT)
    try:
        gate.admit(request)
    except Refusal as refusal:
        for codec in (JSON_1_1, CBOR_1_1):
            answer_with_refusal(refusal, codec)
        if data in SIGNED:
            raise BrokenLawError(f"{data!r} was signed, and is refused: {refusal}") from refusal
        return
    if request.body not in (BODY, b"") or request.headers.get("host") != "localhost:4567":
        raise BrokenLawError(f"{data!r} was not signed, and came in")


def _request_of_text(data: bytes) -> WireRequest:
    head, _, body = data.partition(b"\n\n")
    line, *lines = head.decode("latin-1").split("\n")
    method, _, target = line.partition(" ")
    path, _, query = target.partition("?")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return WireRequest(method, path, query, headers, body)


class _Server:
    """The application in front of a store, which is made anew now and then."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._asked = 0
        self._loop = asyncio.new_event_loop()
        self._store: StreamStore | None = None

    def ask(self, request: WireRequest) -> None:
        """Ask, and raise what must not be: an internal error, or a refusal that has changed the store."""
        store = self._open()
        before = commits_of(store)
        status = self._loop.run_until_complete(asyncio.wait_for(_status_of(app(store), request), WAIT_S))
        if status is None or status >= INTERNAL:
            raise BrokenLawError(f"{request} was answered with {status}")
        has_changed = commits_of(store) != before
        if has_changed and status >= REFUSED:
            raise BrokenLawError(f"{request} was refused, and changed the store")
        if has_changed and "s" not in store.list_streams().stream_names:
            self._asked = 0  # nothing that is asked of it would be found

    def _open(self) -> StreamStore:
        if self._store is None or self._asked % REQUESTS_OF_ONE_STORE == 0:
            if self._store is not None:
                self._store.close()
            self._store = StreamStore(
                tempfile.mkdtemp(), sync="off", clock=lambda: NOW_MS, dialect=cast(DialectName, self._dialect.name)
            )
            self._store.create_stream("s", shard_count=2)
            self._store.put_records("s", [(b"data", f"key {number}") for number in range(10)])
            self._store.register_stream_consumer("s", "c")
        self._asked += 1
        return self._store


async def _status_of(application: App, request: WireRequest) -> int | None:
    """Return the status that a server gets in ASGI, which hands the body over in two pieces."""
    half = len(request.body) // 2
    messages: list[MutableMapping[str, object]] = [
        {"type": "http.request", "body": request.body[:half], "more_body": True},
        {"type": "http.request", "body": request.body[half:]},
    ]
    statuses: list[int] = []

    async def receive() -> MutableMapping[str, object]:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, object]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(cast(int, message["status"]))

    scope: MutableMapping[str, object] = {
        "type": "http",
        "method": request.method,
        "path": request.path,
        "query_string": request.query.encode("latin-1"),
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in request.headers.items()],
    }
    await application(scope, receive, send)
    return statuses[0] if len(statuses) == 1 else None


@cache
def _server(dialect: Dialect) -> _Server:
    return _Server(dialect)


def _look_at_exchange(data: bytes) -> None:
    """A whole request, up to what the store makes of it."""
    dialect, _, request = _request_for_action(Pieces(data))
    _server(dialect).ask(request)


def _look_at_event(data: bytes) -> None:
    """An event of a stream, as botocore reads it, which was not written from our code."""
    pieces = Pieces(data)
    codec = KINDS_OF_CODEC[pieces.number() % len(KINDS_OF_CODEC)]
    name = pieces.piece().decode("utf-8", "replace")
    members = {"Data": pieces.piece(), "Text": pieces.rest().decode("utf-8", "replace")}
    buffer = EventStreamBuffer()
    buffer.add_data(encode_event(name, members, codec))
    events = list(buffer)
    told = [(event.to_response_dict()["headers"][":event-type"], event.payload) for event in events]
    if told != [(name, codec.encode(members))]:
        raise BrokenLawError(f"{name} with {members} came as {told}")


def _json_seeds() -> Sequence[bytes]:
    return [json.dumps(body).encode() for _, body in BODIES]


def _cbor_seeds() -> Sequence[bytes]:
    return [*(cbor2.dumps(body) for _, body in BODIES), cbor2.dumps({"Timestamp": cbor2.CBORTag(1, NOW_MS)})]


def _request_seeds() -> Sequence[bytes]:
    return [
        written(number, kind, ACTIONS[dialect.name].index(name), b"")
        + (cbor2.dumps(body) if codec.name == "CBOR" else json.dumps(body).encode())
        for number, dialect in enumerate(DIALECTS)
        for kind, codec in enumerate(KINDS_OF_CODEC[:2])
        for name, body in BODIES
    ]


TARGETS: Final = (
    Target("json", _look_at_json, _json_seeds),
    Target("cbor", _look_at_cbor, _cbor_seeds),
    Target("request", _look_at_request, _request_seeds, ci_executions=6_000),
    Target("signature", _look_at_signature, lambda: sorted(SIGNED), bytes_max=1_024),
    Target("exchange", _look_at_exchange, _request_seeds, ci_executions=1_000),
    Target("event", _look_at_event, lambda: [written(0, b"SubscribeToShardEvent", b"data") + b"text"]),
)
