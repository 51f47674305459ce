"""SubscribeToShard as ``vnd.amazon.eventstream``: each event is one frame, with its name in the frame's headers.

A frame is its length, the length of its headers, the CRC-32 of these eight bytes; headers; payload; and the CRC-32 of
all that. Source: the format as botocore reads it, which wants the event ``initial-response`` first.
"""

import struct
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Final

from streamstore import AsyncFeed, Feed
from streamstore.errors import StreamStoreError
from streamstore.model import SubscribeToShardEvent
from streamstore.wire.members import wire_value
from streamstore.wire.protocol import Codec
from streamstore.wire.refusal import Refusal

__all__ = ["await_frames", "frames"]

PRELUDE: Final = struct.Struct(">II")
CRC: Final = struct.Struct(">I")
STRING_HEADER: Final = 7
FRAME_BYTES_BESIDES: Final = PRELUDE.size + 2 * CRC.size
HEADER_BYTES_MAX: Final = 32_767
NAMES_IN_EVENTS: Final = {"InternalFailure": "InternalFailureException"}
EXCEPTIONS_OF_STREAM: Final = {  # botocore: SubscribeToShardEventStream; those of KMS are never met here
    "InternalFailureException",
    "ResourceInUseException",
    "ResourceNotFoundException",
}


def frames(
    feed: Feed[SubscribeToShardEvent], codec: Codec, refuse: Callable[[StreamStoreError], Refusal]
) -> Iterator[bytes]:
    """Yield a frame for each event, and one for the error that ends them, if any does."""
    yield encode_event("initial-response", {}, codec)
    try:
        with feed:
            for event in feed:
                yield encode_event("SubscribeToShardEvent", _members_of(event), codec)
    except StreamStoreError as error:
        yield encode_refusal(refuse(error), codec)


async def await_frames(
    feed: AsyncFeed[SubscribeToShardEvent], codec: Codec, refuse: Callable[[StreamStoreError], Refusal]
) -> AsyncIterator[bytes]:
    """Yield what ``frames`` does."""
    yield encode_event("initial-response", {}, codec)
    try:
        async with feed:
            async for event in feed:
                yield encode_event("SubscribeToShardEvent", _members_of(event), codec)
    except StreamStoreError as error:
        yield encode_refusal(refuse(error), codec)


def encode_event(name: str, members: Mapping[str, object], codec: Codec) -> bytes:
    headers = {":message-type": "event", ":event-type": name, ":content-type": codec.content_type}
    return _encode_frame(headers, codec.encode(members))


def encode_refusal(refusal: Refusal, codec: Codec) -> bytes:
    """Return the frame that ends the events. Clients read a name that they do not know from such headers only."""
    name = NAMES_IN_EVENTS.get(refusal.name, refusal.name)
    if name not in EXCEPTIONS_OF_STREAM:
        message = (refusal.message or "").encode()[:HEADER_BYTES_MAX].decode(errors="ignore")
        return _encode_frame({":message-type": "error", ":error-code": name, ":error-message": message}, b"")
    headers = {":message-type": "exception", ":exception-type": name, ":content-type": codec.content_type}
    return _encode_frame(headers, codec.encode({"message": refusal.message}))


def _members_of(event: SubscribeToShardEvent) -> Mapping[str, object]:
    members: dict[str, object] = {
        "Records": wire_value(event.records),
        "MillisBehindLatest": event.millis_behind_latest,
    }
    if event.continuation_sequence_number is not None:
        members["ContinuationSequenceNumber"] = event.continuation_sequence_number
    if event.child_shards:
        members["ChildShards"] = wire_value(event.child_shards)
    return members


def _encode_frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    head = b"".join(_encode_header(name, value) for name, value in headers.items())
    prelude = PRELUDE.pack(FRAME_BYTES_BESIDES + len(head) + len(payload), len(head))
    message = prelude + CRC.pack(zlib.crc32(prelude)) + head + payload
    return message + CRC.pack(zlib.crc32(message))


def _encode_header(name: str, value: str) -> bytes:
    """Return the length of the name, the name, the type, the length of the value, the value."""
    text = value.encode()
    return bytes([len(name)]) + name.encode() + bytes([STRING_HEADER]) + struct.pack(">H", len(text)) + text
