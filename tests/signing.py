"""Requests that botocore has signed, as a server gets them."""

from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from streamstore.wire.http import WireRequest

KEY_ID: Final = "AKIDEXAMPLE"
SECRET: Final = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
REGION: Final = "us-east-1"
TARGET: Final = "Kinesis_20131202.PutRecord"
JSON: Final = "application/x-amz-json-1.1"
BODY: Final = b'{"StreamName": "clicks", "Data": "aGk=", "PartitionKey": "k"}'


def signed(
    *,
    body: bytes = BODY,
    url: str = "http://localhost:4567/",
    headers: Mapping[str, str] | None = None,
    region: str = REGION,
    service: str = "kinesis",
    key_id: str = KEY_ID,
    secret: str = SECRET,
    token: str | None = None,
    auth: Callable[[Credentials, str, str], SigV4Auth] = SigV4Auth,
) -> WireRequest:
    """Return a request that botocore has signed."""
    sent = AWSRequest("POST", url, headers={"X-Amz-Target": TARGET, "Content-Type": JSON, **(headers or {})}, data=body)
    auth(Credentials(key_id, secret, token), service, region).add_auth(sent)
    prepared = sent.prepare()
    parts = urlsplit(prepared.url)
    shown = {name.lower(): _text(value) for name, value in prepared.headers.items()}
    kept = body if auth is SigV4Auth else b""  # botocore moves the body of what it presigns into the query
    return WireRequest("POST", parts.path or "/", parts.query, {"host": parts.netloc, **shown}, kept)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()
