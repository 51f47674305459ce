"""Signature Version 4 of AWS: who signed a request, and whether it is what was signed. Pure; the time is passed in.

The order of the rules is that of the functions here: what is not signed at all, or incompletely, what is signed for
somewhere else, too long ago or too far ahead, and at last what is signed wrongly. Which keys there are is not known
here.

The body is always hashed here, never believed: a request that was signed without its body is refused. Both places of a
signature are understood, the header ``Authorization`` and the query of a presigned URL.

Sources: "Create a signed AWS API request" in the IAM user guide; the texts are those that Kinesis answers.
"""

import contextlib
import functools
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final
from urllib.parse import quote, unquote

from streamstore.wire.denial import Denial, DeniedError
from streamstore.wire.http import WireRequest

__all__ = [
    "RequestSignature",
    "check_scope",
    "check_signature",
    "check_time",
    "parse_signature",
    "signing_key",
]

ALGORITHM: Final = "AWS4-HMAC-SHA256"
TERMINATOR: Final = "aws4_request"
SERVICE: Final = "kinesis"  # of both dialects
CLOCK_SKEW_MAX: Final = timedelta(minutes=15)
PRESIGNED_S_MAX: Final = 604_800
TIME_FORMAT: Final = "%Y%m%dT%H%M%SZ"
TIME_PATTERN: Final = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z", re.ASCII)
SCOPE_PARTS: Final = 5
HEADER_PARAMETERS: Final = ("Credential", "Signature", "SignedHeaders")
QUERY_PARAMETERS: Final = (
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Signature",
    "X-Amz-SignedHeaders",
    "X-Amz-Date",
)
# What decides where a request goes and what it does; all else is in the string to sign, or changes nothing.
ALWAYS_SIGNED: Final = ("host", "x-amz-target")
AUTHORITY: Final = ":authority"  # the host by its name in HTTP/2, under which the client of JavaScript signs it
MISMATCH: Final = (
    "The request signature we calculated does not match the signature you provided. "
    "Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
)


@dataclass(frozen=True, slots=True)
class RequestSignature:
    """What a request says about its signature, before any of it is believed.

    ``valid_for`` is how long it may be used after ``signed_at``: the allowed skew, or what a presigned URL says.
    ``signed_at_text`` is ``signed_at`` as it was sent. ``query`` is the query that was signed, in its canonical form.
    """

    access_key_id: str
    date: str
    region: str
    service: str
    terminator: str
    signed_headers: tuple[str, ...]
    signature: str
    signed_at: datetime
    signed_at_text: str
    valid_for: timedelta
    session_token: str | None
    query: str

    @property
    def scope(self) -> str:
        return f"{self.date}/{self.region}/{self.service}/{self.terminator}"


def parse_signature(request: WireRequest) -> RequestSignature:
    """Return what the request says about its signature. Raises ``DeniedError`` if it says nothing, or not enough."""
    authorization = request.headers.get("authorization", "").strip()
    query = _query_parameters(request.query)
    if authorization.startswith("AWS4-") and "X-Amz-Algorithm" in query:
        raise DeniedError(
            Denial.WRONG_SIGNATURE,
            "Found both 'X-Amz-Algorithm' as a query-string param and 'Authorization' as HTTP header.",
        )
    if authorization.startswith("AWS4-"):
        return _parse_header(request, authorization)
    if "X-Amz-Algorithm" in query:
        return _parse_query(request, query)
    raise DeniedError(Denial.NOT_SIGNED, "Missing Authentication Token")


def check_scope(signature: RequestSignature, *, region: str) -> None:
    """Refuse what was signed for another region, service or day, or leaves open where a request goes."""
    problems: list[str] = []
    if signature.region != region:
        problems.append(
            f"Credential should be scoped to a valid region, not '{signature.region}': this is '{region}'. "
        )
    if signature.service != SERVICE:
        problems.append(f"Credential should be scoped to correct service: '{SERVICE}'. ")
    if signature.terminator != TERMINATOR:
        problems.append(
            f"Credential should be scoped with a valid terminator: '{TERMINATOR}', not '{signature.terminator}'. "
        )
    day = signature.signed_at_text[:8]
    if signature.date != day:
        problems.append(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
            f"'{signature.date}' != '{day}', from '{signature.signed_at_text}'. "
        )
    if problems:
        raise DeniedError(Denial.WRONG_SIGNATURE, "".join(problems).strip())


def check_time(signature: RequestSignature, *, now: datetime) -> None:
    """Refuse what was signed longer ago than it is valid for, or more than 15 minutes ahead."""
    earliest, latest = now - signature.valid_for, now + CLOCK_SKEW_MAX
    signed_at = signature.signed_at_text
    if signature.signed_at < earliest:
        minutes = signature.valid_for // timedelta(minutes=1)
        raise DeniedError(
            Denial.STALE,
            f"Signature expired: {signed_at} is now earlier than {earliest.strftime(TIME_FORMAT)} "
            f"({now.strftime(TIME_FORMAT)} - {minutes} min.)",
        )
    if signature.signed_at > latest:
        raise DeniedError(
            Denial.STALE,
            f"Signature not yet current: {signed_at} is still later than {latest.strftime(TIME_FORMAT)} "
            f"({now.strftime(TIME_FORMAT)} + 15 min.)",
        )


def check_signature(request: WireRequest, signature: RequestSignature, *, key: bytes) -> None:
    """Refuse a request that is not what was signed with the key of ``signing_key``."""
    signed = {_header_of(name) for name in signature.signed_headers}
    for name in ALWAYS_SIGNED:
        if name in request.headers and name not in signed:
            raise DeniedError(Denial.WRONG_SIGNATURE, f"'{name}' must be a 'SignedHeader' in the AWS Authorization.")
    body_hash = sha256(request.body).hexdigest()
    claimed_hash = request.headers.get("x-amz-content-sha256", body_hash)
    if not _are_equal(claimed_hash, body_hash):
        raise DeniedError(
            Denial.WRONG_SIGNATURE,
            "The header 'x-amz-content-sha256' is not the SHA-256 of the body, which must be signed as it is sent.",
        )
    canonical = _canonical_request(request, signature, body_hash)
    string_to_sign = "\n".join(
        (
            ALGORITHM,
            signature.signed_at_text,
            signature.scope,
            sha256(canonical.encode("latin-1", "replace")).hexdigest(),
        )
    )
    if not _are_equal(signature.signature, _hmac(key, string_to_sign).hex()):
        raise DeniedError(Denial.WRONG_SIGNATURE, MISMATCH)


@functools.lru_cache(maxsize=1_024)
def signing_key(secret_access_key: str, date: str, region: str, service: str) -> bytes:
    """Return the key that signs on one day, in one region, for one service. Kept, for it costs as much as the rest."""
    key = _hmac(f"AWS4{secret_access_key}".encode(), date)
    for part in (region, service, TERMINATOR):
        key = _hmac(key, part)
    return key


def _parse_header(request: WireRequest, authorization: str) -> RequestSignature:
    algorithm, _, rest = authorization.partition(" ")
    if algorithm != ALGORITHM:
        raise DeniedError(Denial.INCOMPLETE, f"Unsupported AWS 'algorithm': '{algorithm}'.")
    pairs = (part.partition("=") for part in re.split(r"[, ]+", rest) if part)
    parameters = {name: value for name, _, value in pairs}
    lacking = [
        f"Authorization header requires '{name}' parameter. " for name in HEADER_PARAMETERS if not parameters.get(name)
    ]
    date = request.headers.get("x-amz-date", "")
    if not date:
        lacking.append("Authorization header requires existence of a 'X-Amz-Date' header. ")
    if lacking:
        raise DeniedError(Denial.INCOMPLETE, "".join(lacking).strip())
    return _parse_parts(
        parameters["Credential"],
        signed_headers=parameters["SignedHeaders"],
        signature=parameters["Signature"],
        signed_at=date,
        valid_for=CLOCK_SKEW_MAX,
        session_token=request.headers.get("x-amz-security-token"),
        query=_canonical_query(request.query),
    )


def _parse_query(request: WireRequest, query: dict[str, str]) -> RequestSignature:
    lacking = [
        f"AWS query-string parameters must include '{name}'. " for name in QUERY_PARAMETERS if not query.get(name)
    ]
    if lacking:
        raise DeniedError(Denial.INCOMPLETE, "".join(lacking) + "Re-examine the query-string parameters.")
    if query["X-Amz-Algorithm"] != ALGORITHM:
        raise DeniedError(Denial.INCOMPLETE, f"Unsupported AWS 'algorithm': '{query['X-Amz-Algorithm']}'.")
    expires = query.get("X-Amz-Expires", str(int(CLOCK_SKEW_MAX.total_seconds())))
    if re.fullmatch(r"[0-9]{1,6}", expires) is None or not 1 <= int(expires) <= PRESIGNED_S_MAX:
        raise DeniedError(Denial.INCOMPLETE, f"X-Amz-Expires must be a whole number from 1 to {PRESIGNED_S_MAX}.")
    return _parse_parts(
        query["X-Amz-Credential"],
        signed_headers=query["X-Amz-SignedHeaders"],
        signature=query["X-Amz-Signature"],
        signed_at=query["X-Amz-Date"],
        valid_for=timedelta(seconds=int(expires)),
        session_token=query.get("X-Amz-Security-Token"),
        query=_canonical_query(request.query, without="X-Amz-Signature"),
    )


def _parse_parts(
    credential: str,
    *,
    signed_headers: str,
    signature: str,
    signed_at: str,
    valid_for: timedelta,
    session_token: str | None,
    query: str,
) -> RequestSignature:
    parts = credential.split("/")
    if len(parts) != SCOPE_PARTS:
        raise DeniedError(
            Denial.INCOMPLETE,
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term.",
        )
    access_key_id, date, region, service, terminator = parts
    return RequestSignature(
        access_key_id,
        date,
        region,
        service,
        terminator,
        signed_headers=tuple(sorted(signed_headers.lower().split(";"))),
        signature=signature,
        signed_at=_parse_time(signed_at),
        signed_at_text=signed_at,
        valid_for=valid_for,
        session_token=session_token,
        query=query,
    )


def _parse_time(text: str) -> datetime:
    match = TIME_PATTERN.fullmatch(text)
    if match:
        year, month, day, hour, minute, second = map(int, match.groups())
        with contextlib.suppress(ValueError):
            return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    raise DeniedError(Denial.INCOMPLETE, "X-Amz-Date must be of the form YYYYMMDDTHHMMSSZ, in UTC.")


def _query_parameters(query: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in query.split("&") if part)
    return {unquote(name): unquote(value) for name, _, value in pairs}


def _canonical_request(request: WireRequest, signature: RequestSignature, body_hash: str) -> str:
    values = ((name, request.headers.get(_header_of(name), "")) for name in signature.signed_headers)
    headers = (f"{name}:{' '.join(value.split())}\n" for name, value in values)
    return "\n".join(
        (
            request.method,
            _canonical_path(request.path),
            signature.query,
            "".join(headers),
            ";".join(signature.signed_headers),
            body_hash,
        )
    )


def _header_of(signed_name: str) -> str:
    return "host" if signed_name == AUTHORITY else signed_name


def _canonical_path(path: str) -> str:
    """Return the path without its dots and empty parts, encoded once more: every service but S3 does so."""
    kept: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del kept[-1:]
        elif part not in ("", "."):
            kept.append(part)
    end = "/" if kept and path.endswith("/") else ""
    return quote("/" + "/".join(kept) + end, safe="/~")


def _canonical_query(query: str, *, without: str | None = None) -> str:
    pairs = (part.partition("=") for part in query.split("&") if part)
    encoded = sorted((_encoded_once(name), _encoded_once(value)) for name, _, value in pairs)
    return "&".join(f"{name}={value}" for name, value in encoded if name != without)


def _encoded_once(text: str) -> str:
    return quote(unquote(text, errors="surrogateescape"), safe="-_.~", errors="surrogateescape")


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode("latin-1", "replace"), sha256)


def _are_equal(left: str, right: str) -> bool:
    return hmac.compare_digest(left.encode("latin-1", "replace"), right.encode("latin-1", "replace"))
