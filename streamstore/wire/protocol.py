"""The envelope: content types, the name of the action, JSON and CBOR in and out, and the headers of an answer.

Knows nothing of any action. Sources: the AWS JSON 1.1 protocol, and the HTTP proxy of Yandex Data Streams.
"""

import base64
import json
import os
import zlib
from binascii import b2a_base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from random import Random
from typing import Final, NoReturn

import cbor2
import msgspec

from streamstore.dialect import YANDEX, Dialect
from streamstore.limits import REQUEST_BODY_BYTES_MAX
from streamstore.wire.http import WireRequest, WireResponse
from streamstore.wire.refusal import Refusal
from streamstore.wire.shapes import Moment

__all__ = ["CODECS", "JSON_1_1", "Codec", "answer_with", "answer_with_refusal", "open_envelope", "stream_headers"]

TARGET_PREFIXES: Final = ("Kinesis_20131202", "kinesisApi")
DEPTH_MAX: Final = 64
EPOCH_TAG: Final = 1
NO_CONTENT: Final = b""
REQUEST_ID_BYTES: Final = 16
EXTENDED_ID_BYTES: Final = 72

Headers = list[tuple[str, str]]

# Names of answers need not be secrets, for which the kernel takes twice as long. The dice are our own: those of Python
# belong to the program around us, which may have given them a seed and count on what they show.
_dice: Final = Random()
os.register_at_fork(after_in_child=_dice.seed)


@dataclass(frozen=True, slots=True)
class Codec:
    """One way to write values. ``decode`` raises ``ValueError`` or ``RecursionError`` for what is none."""

    name: str
    content_type: str
    decode: Callable[[bytes], object]
    encode: Callable[[object], bytes]


def open_envelope(request: WireRequest, dialect: Dialect) -> tuple[str, Codec, object]:
    """Return the name of the action, how it is written, and the decoded body. Raises ``Refusal``."""
    codec = codec_of(request, dialect)
    if request.method != "POST":
        raise Refusal("AccessDeniedException", f"{request.method} is not answered here: POST.", status=403)
    if codec is None:
        if dialect is YANDEX:
            raise Refusal("InvalidArgumentException", "Unknown ContentType")
        raise Refusal("UnknownOperationException", "The Content-Type names no protocol of this service.")
    if len(request.body) > REQUEST_BODY_BYTES_MAX:
        raise Refusal(
            "RequestEntityTooLargeException", f"A request has at most {REQUEST_BODY_BYTES_MAX} bytes.", status=413
        )
    body = _decode_body(request.body, codec, dialect)
    if body is None and dialect is YANDEX:
        raise Refusal("MissingParameter", "The request has no parameters: not even an empty map of them.")
    return _action_of(request.headers.get("x-amz-target", ""), dialect), codec, body


def codec_of(request: WireRequest, dialect: Dialect) -> Codec | None:
    """Return what the request is written in, None if in nothing that is known."""
    content_type = request.headers.get("content-type", "")
    codec = CODECS.get(content_type)
    if codec is None:
        codec = CODECS.get(content_type.partition(";")[0].strip().lower())
    if codec is not None and dialect is YANDEX:
        return CBOR_1_1 if codec.name == "CBOR" else JSON_1_1
    return codec


def answer_with(value: object, codec: Codec, dialect: Dialect) -> WireResponse:
    """Return a success. None has no body in the dialect "aws", and an empty map in "yandex"."""
    if value is None and dialect is not YANDEX:
        return WireResponse(200, [*_identity(), ("Content-Type", codec.content_type)], NO_CONTENT)
    body = codec.encode({} if value is None else value)
    return WireResponse(200, _headers(codec, body), body)


def answer_with_refusal(refusal: Refusal, codec: Codec | None) -> WireResponse:
    """Return an error. The name is in the body and in a header, because some clients read only one of them."""
    codec = codec or JSON_1_1
    fields: dict[str, object] = {"__type": refusal.name}
    if refusal.message is not None:
        fields["Message" if refusal.name == "SerializationException" else "message"] = refusal.message
    body = codec.encode(fields)
    return WireResponse(refusal.status, [*_headers(codec, body), ("x-amzn-ErrorType", refusal.name)], body)


def stream_headers() -> Headers:
    """Return the headers of an event stream, whose body is written as its events come."""
    return [*_identity(), ("Content-Type", "application/vnd.amazon.eventstream")]


def _decode_body(body: bytes, codec: Codec, dialect: Dialect) -> object:
    try:
        return codec.decode(body)
    except (ValueError, RecursionError) as error:
        if dialect is YANDEX:
            problem = f"Can not parse request body from {codec.name}" if body else "Empty body"
            raise Refusal("InvalidArgumentException", problem) from error
        raise Refusal("SerializationException", None) from error


def _action_of(target: str, dialect: Dialect) -> str:
    prefix, dot, action = target.partition(".")
    if dot and action and (dialect is YANDEX or prefix in TARGET_PREFIXES):
        return action
    if dialect is YANDEX:
        raise Refusal("MissingAction", "The header X-Amz-Target names no action.")
    raise Refusal("UnknownOperationException", None)


def _identity() -> Headers:
    random = _dice.randbytes(REQUEST_ID_BYTES + EXTENDED_ID_BYTES)
    name = random[:REQUEST_ID_BYTES].hex()
    request_id = f"{name[:8]}-{name[8:12]}-4{name[13:16]}-a{name[17:20]}-{name[20:]}"
    extended_id = b2a_base64(random[REQUEST_ID_BYTES:], newline=False).decode("ascii")
    return [("x-amzn-RequestId", request_id), ("x-amz-id-2", extended_id)]


def _headers(codec: Codec, body: bytes) -> Headers:
    return [*_identity(), ("Content-Type", codec.content_type), ("x-amz-crc32", str(zlib.crc32(body)))]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _decode_json(body: bytes) -> object:
    try:
        value: object = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        # Python's own takes what is no Unicode too, and numbers of any size. Decoded here, because it guesses UTF-16.
        value = _JSON_DECODER.decode(body.decode("utf-8"))
    return value


def _encode_json(value: object) -> bytes:
    try:
        return msgspec.json.encode(value, enc_hook=_json_of_other)  # bytes in Base64
    except UnicodeEncodeError:  # what quotes a text that is no Unicode
        return _JSON_ENCODER.encode(value).encode("ascii")


def _json_of_other(value: object) -> object:
    if isinstance(value, bytes):  # which only Python's own asks for
        return base64.b64encode(value).decode("ascii")
    assert isinstance(value, Moment)
    return value.ms / 1000  # printed with three decimals and no exponent: so few digits need none


def _decode_cbor(body: bytes) -> object:
    stream = BytesIO(body)
    try:
        value: object = cbor2.load(
            stream, semantic_decoders=SEMANTIC_DECODERS, max_depth=DEPTH_MAX, strict_hashable_types=True
        )
    except cbor2.CBORError as error:
        raise ValueError(str(error)) from error
    if stream.tell() != len(body):
        raise ValueError("there is something behind the end")
    return value


def _encode_cbor(value: object) -> bytes:
    return cbor2.dumps(value, default=_write_other)


def _write_other(encoder: cbor2.CBOREncoder, value: object) -> None:
    assert isinstance(value, Moment)
    encoder.encode(cbor2.CBORTag(EPOCH_TAG, value.ms))


def _decode_epoch(value: object, immutable: bool) -> Moment:
    """The service counts milliseconds behind the tag that the standard has for seconds."""
    del immutable
    if isinstance(value, int) and not isinstance(value, bool):
        return Moment(value)
    raise ValueError("a time must be a whole number of milliseconds")


SEMANTIC_DECODERS: Final = {EPOCH_TAG: _decode_epoch}
_JSON_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)
_JSON_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), default=_json_of_other)

JSON_1_1: Final = Codec("JSON", "application/x-amz-json-1.1", _decode_json, _encode_json)
CBOR_1_1: Final = Codec("CBOR", "application/x-amz-cbor-1.1", _decode_cbor, _encode_cbor)
CODECS: Final[Mapping[str, Codec]] = {
    codec.content_type: codec
    for codec in (
        JSON_1_1,
        CBOR_1_1,
        Codec("JSON", "application/x-amz-json-1.0", _decode_json, _encode_json),
        Codec("JSON", "application/json", _decode_json, _encode_json),
        Codec("CBOR", "application/cbor", _decode_cbor, _encode_cbor),
    )
}
