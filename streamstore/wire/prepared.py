"""What botocore has made ready to send, as a request of the wire; and with what a client is made that sends nothing.

Shared by the clients of boto3 and of aiobotocore; imports botocore and neither of them.
"""

from typing import Final, TypedDict
from urllib.parse import urlsplit

from botocore.awsrequest import AWSPreparedRequest

from streamstore import StreamStore
from streamstore.wire.http import WireRequest

__all__ = ["BEFORE_SEND", "ClientPlace", "client_place", "wire_request"]

BEFORE_SEND: Final = "before-send.kinesis"
"""The event of botocore whose answer takes the place of sending."""
NOWHERE: Final = "https://kinesis.invalid"  # a name that RFC 6761 keeps from leading anywhere


class ClientPlace(TypedDict):
    """Where a client believes to be, and who. The keys keep botocore from looking for some, over the network too."""

    region_name: str
    endpoint_url: str
    aws_access_key_id: str
    aws_secret_access_key: str


def client_place(store: StreamStore) -> ClientPlace:
    return {
        "region_name": store.region,
        "endpoint_url": NOWHERE,
        "aws_access_key_id": "none",
        "aws_secret_access_key": "none",
    }


def wire_request(prepared: AWSPreparedRequest) -> WireRequest:
    parts = urlsplit(prepared.url)
    return WireRequest(
        method=prepared.method,
        path=parts.path or "/",
        query=parts.query,
        headers={name.lower(): _text(value) for name, value in prepared.headers.items()},
        body=_bytes(prepared.body),
    )


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _bytes(body: object) -> bytes:
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode()
    assert isinstance(body, (bytes, bytearray))  # no action of Kinesis has a body that is read while it is sent
    return bytes(body)
