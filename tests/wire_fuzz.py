"""Requests that nobody would send: valid ones of every action, made from its shape, and what mutations make of them.

``Client`` remembers what it was answered, so that iterators, tokens, shards and consumers of its requests exist.
``Ledger`` remembers what was acknowledged: at the end that is in the store, each record once, and nothing else is.
"""

import base64
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Final, NamedTuple, cast

import cbor2

from streamstore import StreamStore
from streamstore.dialect import Dialect
from streamstore.wire import WireRequest
from streamstore.wire.actions import actions_of
from streamstore.wire.shapes import Blob, Flag, ListOf, MapOf, Moment, Shape, Structure, Text, Time, Whole
from tests.wire import CBOR, JSON, Answer, loads

__all__ = ["Client", "Ledger", "Sent", "decoded_request", "mutated_bytes", "mutated_head"]

NOW_MS: Final = 1_700_000_000_000  # of a test's clock
KNOWN_MAX: Final = 12
CODECS: Final = (JSON, CBOR, "application/json", "application/cbor", "application/x-amz-json-1.0")
CONTENT_TYPES: Final = (
    *CODECS,
    "Application/X-Amz-Json-1.1; charset=utf-8",
    "application/x-www-form-urlencoded",
    "text/plain",
    ";",
    "",
)
INVOCATION_IDS: Final = ("b7f1e5c2", "0e9b", "\u00e9\u00ff", "x" * 1_000, " ", "\ud800")
TARGETS: Final = ("", ".", "Kinesis_20131202.", "Kinesis_20131202", "kinesisApi.PutRecord", "Other.PutRecord", "\u00ff")
METHODS: Final = ("GET", "PUT", "OPTIONS", "", "post")
STREAM_NAMES: Final = ("clicks", "clicks", "orders")
# So that there is something to lose, and somewhere to read.
FREQUENT: Final = (
    *("PutRecord", "PutRecords") * 4,
    *("CreateStream", "GetShardIterator", "GetRecords", "SplitShard", "MergeShards", "SubscribeToShard"),
)
# What a member of an answer is called in a request.
ALSO_CALLED: Final[Mapping[str, tuple[str, ...]]] = {
    "ConsumerARN": ("ConsumerArn", "ResourceARN"),
    "NextShardIterator": ("ShardIterator",),
    "SequenceNumber": ("StartingSequenceNumber", "SequenceNumberForOrdering"),
    "ShardId": ("ShardToSplit", "ShardToMerge", "AdjacentShardToMerge", "ExclusiveStartShardId"),
    "StartingHashKey": ("ExplicitHashKey", "NewStartingHashKey"),
    "StreamARN": ("StreamArn", "ResourceARN"),
    "StreamNames": ("StreamName", "ExclusiveStartStreamName"),
}
SCALARS: Final[tuple[object, ...]] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**40, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "\ud800", "\x00", "x" * 257, "x" * 3_000, "0" * 200, "0", "-1", "eA==", "e===", "eA", "/", "arn:", "a/b"),
    *("clicks", "TRIM_HORIZON", "LATEST", "AT_TIMESTAMP", "shard-000000", "shardId-000000000000", "\u0661"),
    *(b"", b"\xff", bytes(1_048_577), Moment(0), Moment(2**63), Moment(-1)),
)
PATTERNED: Final = ("0", "7", "340282366920938463463374607431768211455", "9" * 39, "a.b-c_d", "1" * 129, "x", "-")
LETTERS: Final = "abcXYZ019 -_./:@\x00\n\u00e9\u1234\U0001f600\ud800"
BODIES: Final = (
    b"",
    b"null",
    b"[" * 100_000,
    b'{"StreamName":' * 10_000,
    b"\xef\xbb\xbf{}",
    "{}".encode("utf-16"),
    b"\x9f" * 100_000,
    b"\xbf\xff",
    b"\xd8\x1c\x81\xd8\x1d\x00",
    b"\x5f\x41x\xff",
    bytes(7 * 1_048_576 + 1),
)


class Sent(NamedTuple):
    """A request, and what it says if it says something: its members, by the name of its action."""

    request: WireRequest
    action: str
    members: Mapping[str, object]


class Client:
    """Makes up requests to one store. The same seed asks the same of the same answers."""

    def __init__(self, dialect: Dialect, random: Random) -> None:
        self._random = random
        self._shapes = {name: action.request for name, action in actions_of(dialect).items()}
        self._names = sorted(self._shapes)
        self._known: defaultdict[str, list[str]] = defaultdict(list)
        for name in ("StreamName", "ExclusiveStartStreamName"):
            self._known[name] = list(STREAM_NAMES)
        self._known["ConsumerName"] = ["billing", "dashboard"]
        self._sent: list[WireRequest] = []

    def next_request(self) -> WireRequest:
        """Return a request: four of ten are valid, as far as a shape can tell, and one is sent again."""
        random = self._random
        if self._sent and random.random() < 0.1:
            return random.choice(self._sent)
        self._sent.append(self._new_request())
        del self._sent[:-KNOWN_MAX]
        return self._sent[-1]

    def learn(self, answer: object) -> None:
        """Use what was answered in requests from now on."""
        for name, value in texts_of(answer):
            for called in (name, *ALSO_CALLED.get(name, ())):
                known = self._known[called]
                if value not in known:
                    known.append(value)
                    del known[:-KNOWN_MAX]

    def _new_request(self) -> WireRequest:
        random = self._random
        action = random.choice(random.choice([FREQUENT, self._names]))
        members: object = self._members(self._shapes[action])
        mutation = random.choice(["none"] * 4 + ["value"] * 3 + ["bytes", "header", "body"])
        if mutation == "value":
            members = self._mutated_value(members)
        codec = random.choice(CODECS)
        body = encoded(members, codec)
        if mutation == "bytes":
            body = mutated_bytes(random, body)
        elif mutation == "body":
            body = random.choice([*BODIES, random.randbytes(random.randrange(60))])
        headers = {"x-amz-target": f"Kinesis_20131202.{action}", "content-type": codec}
        if random.random() < 0.5:
            headers["amz-sdk-invocation-id"] = random.choice(INVOCATION_IDS[:2])
        request = WireRequest("POST", "/", "", headers, body)
        return mutated_head(random, request) if mutation == "header" else request

    def _members(self, shape: Structure) -> dict[str, object]:
        named = {self._random.choice(shape.first_of)} if shape.first_of else set[str]()
        return {
            name: self._value(name, member.shape)
            for name, member in shape.members.items()
            if name in named or member.required or (name not in shape.first_of and self._random.random() < 0.2)
        }

    def _value(self, name: str, shape: Shape) -> object:
        """Return a value of the shape, most often one that means something to the store."""
        random = self._random
        match shape:
            case Text():
                return self._text(name, shape)
            case Blob():
                return random.randbytes(random.randrange(40))
            case Whole():
                low = 0 if shape.minimum is None else shape.minimum
                return random.randint(low, min(low + 9, low + 9 if shape.maximum is None else shape.maximum))
            case Flag():
                return random.random() < 0.2
            case Time():
                return Moment(NOW_MS + random.randint(-10_000, 10_000))
            case ListOf():
                return [self._value(name, shape.member) for _ in range(shape.length_min + random.randrange(4))]
            case MapOf():
                count = shape.length_min + random.randrange(3)
                return {self._text("", shape.key): self._value("", shape.value) for _ in range(count)}
            case Structure():
                return self._members(shape)
            case _:
                raise AssertionError(shape)

    def _text(self, name: str, shape: Text) -> str:
        known = self._known[name]
        if known and self._random.random() < 0.9:
            return self._random.choice(known)
        if shape.choices:
            return self._random.choice(shape.choices)
        if shape.pattern is not None:
            return self._random.choice(PATTERNED)
        return random_text(self._random, shape.characters_min)

    def _mutated_value(self, value: object) -> object:
        """Return the value with something else somewhere in it."""
        random = self._random
        if isinstance(value, dict) and value:
            members = dict(cast("dict[str, object]", value))
            name = random.choice(sorted(members))
            match random.choice(["inside", "inside", "anything", "without", "renamed", "foreign"]):
                case "inside":
                    members[name] = self._mutated_value(members[name])
                case "anything":
                    members[name] = anything(random)
                case "without":
                    del members[name]
                case "renamed":
                    members[random.choice([name.lower(), f"{name}s", "", "__type"])] = members.pop(name)
                case _:
                    members.update(self._members(self._shapes[random.choice(self._names)]))
            return members
        if isinstance(value, list) and value and random.random() < 0.5:
            items = list(cast("list[object]", value))
            place = random.randrange(len(items))
            items[place] = self._mutated_value(items[place])
            return items * random.choice([1, 1, 2, 501])
        return anything(random)


class Ledger:
    """What the store must hold: the data of each record that was acknowledged, by its stream, shard and number."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str, str], bytes] = {}
        self._places: dict[tuple[str, bytes, int], tuple[str, str, str]] = {}

    def note(self, sent: Sent, answer: Answer) -> None:
        """Take down what an answer with the status 200 has acknowledged."""
        if sent.action == "PutRecord":
            self._note_record(sent, 0, sent.members, answer.body)
        elif sent.action == "PutRecords":
            entries = cast("list[dict[str, object]]", sent.members["Records"])
            results = answer.maps("Records")
            assert len(entries) == len(results)
            for index, (entry, result) in enumerate(zip(entries, results, strict=True)):
                if "ErrorCode" not in result:
                    self._note_record(sent, index, entry, result)
        elif sent.action == "DeleteStream":
            stream = stream_of(sent.members)
            self.records = {place: data for place, data in self.records.items() if place[0] != stream}
            self._places = {name: place for name, place in self._places.items() if place[0] != stream}

    def check(self, store: StreamStore) -> None:
        """Compare with everything that is stored."""
        stored = [
            ((stream, shard.shard_id, record.sequence_number), bytes(record.data))
            for stream in store.list_streams().stream_names
            for shard in store.list_shards(stream).shards
            for record in store.read(stream, shard.shard_id)
        ]
        assert dict(stored) == self.records
        assert len(stored) == len(self.records)

    def _note_record(self, sent: Sent, index: int, entry: Mapping[str, object], result: Mapping[str, object]) -> None:
        data = data_of(entry)
        place = (stream_of(sent.members), str(result["ShardId"]), str(result["SequenceNumber"]))
        invocation_id = sent.request.headers.get("amz-sdk-invocation-id")
        if invocation_id:
            known = self._places.setdefault((invocation_id, sent.request.body, index), place)
            assert known == place, "one request has stored two records"
            if place in self.records:
                assert self.records[place] == data
                return
        assert place not in self.records, "two requests have the same record"
        self.records[place] = data


def encoded(value: object, codec: str) -> bytes:
    """Return a value as the body of a request."""
    if "cbor" in codec:
        return cbor2.dumps(writable_in_cbor(value))
    return json.dumps(value, default=as_json).encode("utf-8")


def decoded_request(request: WireRequest) -> Sent:
    """Return what a request says that was answered with a success: it could be read."""
    action = request.headers["x-amz-target"].partition(".")[2]
    body = loads(request.body, request.headers["content-type"])
    return Sent(request, action, cast("dict[str, object]", body))


def as_json(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    assert isinstance(value, Moment)
    return value.ms / 1_000


def writable_in_cbor(value: object) -> object:
    """Return the value with times behind tag 1, and without what CBOR cannot write."""
    if isinstance(value, Moment):
        return cbor2.CBORTag(1, value.ms)
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        members = cast("dict[str, object]", value)
        return {writable_in_cbor(name): writable_in_cbor(member) for name, member in members.items()}
    if isinstance(value, list):
        return [writable_in_cbor(item) for item in cast("list[object]", value)]
    return value


def anything(random: Random, depth: int = 0) -> object:
    """Return a value that has nothing to do with what is asked for."""
    match random.choice(["scalar", "scalar", "scalar", "text", "number", "list", "map"] if depth < 3 else ["scalar"]):
        case "text":
            return random_text(random)
        case "number":
            return random.choice([random.randint(-(2**70), 2**70), random.uniform(-1e6, 1e6)])
        case "list":
            return [anything(random, depth + 1) for _ in range(random.randrange(4))]
        case "map":
            return {random_text(random): anything(random, depth + 1) for _ in range(random.randrange(4))}
        case _:
            return random.choice(SCALARS)


def random_text(random: Random, characters_min: int = 0) -> str:
    return "".join(random.choices(LETTERS, k=characters_min + random.randrange(12)))


def mutated_bytes(random: Random, body: bytes) -> bytes:
    """Return the body with some bytes changed, cut out, put in or sent twice."""
    start = random.randrange(len(body) + 1)
    stop = min(start + random.randrange(10), len(body))
    match random.choice(["change", "cut", "insert", "end", "twice"]):
        case "change":
            return body[:start] + random.randbytes(stop - start) + body[stop:]
        case "cut":
            return body[:start] + body[stop:]
        case "insert":
            return body[:start] + random.randbytes(random.randrange(10)) + body[start:]
        case "end":
            return body[:start]
        case _:
            return body[:stop] + body[start:]


def mutated_head(random: Random, request: WireRequest) -> WireRequest:
    """Return the request with another method, path, query or header."""
    text = random.randbytes(random.randrange(20)).decode("latin-1")

    def with_header(name: str, values: Sequence[str]) -> WireRequest:
        return request._replace(headers={**request.headers, name: random.choice([*values, text])})

    match random.choice(["method", "path", "type", "target", "id", "without", "other"]):
        case "method":
            return request._replace(method=random.choice(METHODS))
        case "path":
            return request._replace(path="/" + text, query=text)
        case "type":
            return with_header("content-type", CONTENT_TYPES)
        case "target":
            return with_header("x-amz-target", TARGETS)
        case "id":
            return with_header("amz-sdk-invocation-id", INVOCATION_IDS)
        case "without":
            left_out = random.choice(sorted(request.headers))
            kept = {name: value for name, value in request.headers.items() if name != left_out}
            return request._replace(headers=kept)
        case _:
            return with_header(random.choice(["authorization", "x-amz-date", "host", "x-amz-content-sha256"]), [])


def data_of(entry: Mapping[str, object]) -> bytes:
    data = entry["Data"]
    if isinstance(data, bytes):
        return data
    assert isinstance(data, str)
    return base64.b64decode(data, validate=True)


def stream_of(members: Mapping[str, object]) -> str:
    """Return the name of the stream that a request is about, which it was answered for."""
    for member in ("StreamARN", "StreamArn", "StreamName"):
        value = members.get(member)
        if value:
            assert isinstance(value, str)
            return value.rpartition("/")[2]
    raise AssertionError(members)


def texts_of(answer: object) -> Iterator[tuple[str, str]]:
    """Yield each text in an answer with the name of its member."""
    if isinstance(answer, dict):
        for name, value in cast("dict[str, object]", answer).items():
            if isinstance(value, str):
                yield name, value
            elif isinstance(value, list):
                for item in cast("list[object]", value):
                    yield from texts_of({name: item})
            else:
                yield from texts_of(value)
