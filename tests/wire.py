"""A client of the wire for tests: requests in process, in either codec, with the headers that an SDK sends."""

import base64
import json
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple, cast

import cbor2

from streamstore.wire import Dispatcher, WireRequest, WireResponse

JSON = "application/x-amz-json-1.1"
CBOR = "application/x-amz-cbor-1.1"


class Answer(NamedTuple):
    """The status, the headers in lower case, and the decoded body, an empty map if there was none."""

    status: int
    headers: dict[str, str]
    body: dict[str, object]

    @property
    def error(self) -> tuple[int, object]:
        return self.status, self.body.get("__type")

    @property
    def message(self) -> object:
        return self.body.get("message", self.body.get("Message"))

    def text(self, member: str) -> str:
        value = self.body[member]
        assert isinstance(value, str)
        return value

    def maps(self, member: str) -> list[dict[str, object]]:
        return cast("list[dict[str, object]]", self.body[member])

    def map(self, member: str) -> dict[str, object]:
        return cast("dict[str, object]", self.body[member])


class Wire:
    """Asks a dispatcher. ``codec`` is the content type of requests, and so of answers."""

    def __init__(self, dispatcher: Dispatcher, codec: str = JSON) -> None:
        self.dispatcher = dispatcher
        self.codec = codec

    def ask(self, action: str, members: object = None, *, invocation_id: str | None = None) -> Answer:
        return decoded(self.dispatcher.answer(self.request(action, members, invocation_id=invocation_id)))

    def request(self, action: str, members: object = None, *, invocation_id: str | None = None) -> WireRequest:
        headers = {"x-amz-target": f"Kinesis_20131202.{action}", "content-type": self.codec}
        if invocation_id is not None:
            headers["amz-sdk-invocation-id"] = invocation_id
        given: object = {} if members is None else members
        body = cbor2.dumps(given) if self.codec == CBOR else json.dumps(given, default=as_base64).encode()
        return WireRequest("POST", "/", "", headers, body)


def decoded(response: WireResponse) -> Answer:
    assert isinstance(response.body, bytes)
    headers = {name.lower(): value for name, value in response.headers}
    body: object = {}
    if response.body:
        body = loads(response.body, headers["content-type"])
    return Answer(response.status, headers, cast("dict[str, object]", body))


def loads(body: bytes, content_type: str) -> object:
    """Return what a body says. A time in CBOR is the number behind its tag."""
    if "cbor" in content_type.lower():
        value: object = cbor2.loads(body, semantic_decoders={1: as_sent})
    else:
        value = json.loads(body)
    return value


def as_base64(value: object) -> str:
    assert isinstance(value, bytes)
    return base64.b64encode(value).decode()


def as_sent(value: object, immutable: bool) -> tuple[str, object]:
    """Return a time of CBOR as the number behind its tag."""
    del immutable
    return "tag 1", value


def frames_of(raw: bytes) -> Iterator[tuple[dict[str, str], bytes]]:
    """Yield the headers and payload of each frame; both checksums must be right."""
    while raw:
        size, head_size, prelude_crc = struct.unpack(">III", raw[:12])
        assert zlib.crc32(raw[:8]) == prelude_crc
        assert zlib.crc32(raw[: size - 4]) == struct.unpack(">I", raw[size - 4 : size])[0]
        head, headers = raw[12 : 12 + head_size], dict[str, str]()
        while head:
            name_end = 1 + head[0]
            assert head[name_end] == 7
            value_end = name_end + 3 + struct.unpack(">H", head[name_end + 1 : name_end + 3])[0]
            headers[head[1:name_end].decode()] = head[name_end + 3 : value_end].decode()
            head = head[value_end:]
        yield headers, raw[12 + head_size : size - 4]
        raw = raw[size:]
