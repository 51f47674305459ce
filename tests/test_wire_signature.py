"""Who signed a request: the vectors that AWS has published, what botocore signs, and every way to get it wrong."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final
from urllib.parse import quote, urlencode

import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from hypothesis import given
from hypothesis import strategies as st

from streamstore.dialect import AWS, YANDEX
from streamstore.wire.authorization import Gate
from streamstore.wire.credentials import AccessKey
from streamstore.wire.denial import Denial, DeniedError
from streamstore.wire.http import WireRequest
from streamstore.wire.signature import check_signature, parse_signature, signing_key
from tests.signing import BODY, KEY_ID, REGION, SECRET, TARGET, signed

VANILLA: Final = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
LETTERS: Final = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

# Of the test suite of Signature Version 4: method, path, query, more headers, body, and the signature to come out.
Vector = tuple[str, str, str, Mapping[str, str], bytes, str]
NO_HEADERS: Final[Mapping[str, str]] = {}
FORM: Final = "application/x-www-form-urlencoded"
VECTORS: Final[Mapping[str, Vector]] = {
    "get-vanilla": ("GET", "/", "", NO_HEADERS, b"", VANILLA),
    "get-relative": ("GET", "/example/..", "", NO_HEADERS, b"", VANILLA),
    "get-relative-relative": ("GET", "/example1/example2/../..", "", NO_HEADERS, b"", VANILLA),
    "get-slash": ("GET", "//", "", NO_HEADERS, b"", VANILLA),
    "get-slash-dot-slash": ("GET", "/./", "", NO_HEADERS, b"", VANILLA),
    "get-slashes": (
        "GET",
        "//example//",
        "",
        NO_HEADERS,
        b"",
        "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84",
    ),
    "get-slash-pointless-dot": (
        "GET",
        "/./example",
        "",
        NO_HEADERS,
        b"",
        "ef75d96142cf21edca26f06005da7988e4f8dc83a165a80865db7089db637ec5",
    ),
    "get-space": (
        "GET",
        "/example space/",
        "",
        NO_HEADERS,
        b"",
        "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741",
    ),
    "get-utf8": (
        "GET",
        "/\u1234",
        "",
        NO_HEADERS,
        b"",
        "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85",
    ),
    "get-unreserved": (
        "GET",
        f"/{LETTERS}",
        "",
        NO_HEADERS,
        b"",
        "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
    ),
    "get-vanilla-query-order-key-case": (
        "GET",
        "/",
        "Param2=value2&Param1=value1",
        NO_HEADERS,
        b"",
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    ),
    "get-vanilla-empty-query-key": (
        "GET",
        "/",
        "Param1=value1",
        NO_HEADERS,
        b"",
        "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb",
    ),
    "get-vanilla-query-unreserved": (
        "GET",
        "/",
        f"{LETTERS}={LETTERS}",
        NO_HEADERS,
        b"",
        "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197",
    ),
    "get-vanilla-utf8-query": (
        "GET",
        "/",
        "\u1234=bar",
        NO_HEADERS,
        b"",
        "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04",
    ),
    "get-header-key-duplicate": (
        "GET",
        "/",
        "",
        {"my-header1": "value2,value2,value1"},
        b"",
        "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
    ),
    "get-header-value-trim": (
        "GET",
        "/",
        "",
        {"my-header1": " value1", "my-header2": ' "a   b   c"'},
        b"",
        "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
    ),
    "post-vanilla": (
        "POST",
        "/",
        "",
        NO_HEADERS,
        b"",
        "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
    ),
    "post-header-key-sort": (
        "POST",
        "/",
        "",
        {"my-header1": "value1"},
        b"",
        "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
    ),
    "post-vanilla-query": (
        "POST",
        "/",
        "Param1=value1",
        NO_HEADERS,
        b"",
        "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
    ),
    "post-x-www-form-urlencoded": (
        "POST",
        "/",
        "",
        {"content-type": FORM},
        b"Param1=value1",
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    ),
    "post-x-www-form-urlencoded-parameters": (
        "POST",
        "/",
        "",
        {"content-type": f"{FORM}; charset=utf8"},
        b"Param1=value1",
        "1a72ec8f64bd914b0e42e42607c7fbce7fb2c7465f63e3092b3b0d39fa77a6fe",
    ),
}


def gate(
    *,
    region: str = REGION,
    age: timedelta = timedelta(),
    session_token: str | None = None,
    expires: datetime | None = None,
) -> Gate:
    """Return a gate with one key, whose clock is ahead by ``age``."""
    key = AccessKey(KEY_ID, SECRET, session_token=session_token, expires=expires)
    return Gate({KEY_ID: key}, region=region, dialect=AWS, now=lambda: datetime.now(UTC) + age)


def changed(request: WireRequest, **headers: str | None) -> WireRequest:
    """Return the request with other headers; None takes one away."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    kept = {name: value for name, value in request.headers.items() if name not in names}
    return request._replace(headers=kept | {name: value for name, value in names.items() if value is not None})


def denial_of(request: WireRequest, at: Gate | None = None) -> tuple[Denial, str]:
    with pytest.raises(DeniedError) as denied:
        (at or gate()).authenticate(request)
    assert SECRET not in denied.value.message
    return denied.value.denial, denied.value.message


@pytest.mark.parametrize("name", VECTORS)
def test_every_published_vector_comes_out(name: str) -> None:
    method, path, query, more, body, expected = VECTORS[name]
    headers = {"host": "example.amazonaws.com", "x-amz-date": "20150830T123600Z", **more}
    names = ";".join(sorted(headers))
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={KEY_ID}/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders={names}, Signature={expected}"
    )
    request = WireRequest(method, path, query, headers, body)
    key = signing_key(SECRET, "20150830", REGION, "service")
    check_signature(request, parse_signature(request), key=key)
    with pytest.raises(DeniedError):
        check_signature(request._replace(body=body + b" "), parse_signature(request), key=key)


def test_the_signing_key_is_that_of_the_published_example() -> None:
    key = signing_key(SECRET, "20120215", REGION, "iam")
    assert key.hex() == "f4780e2d9f65fa895f9c67b32ce1baf0b0d8a43505a000a1a9e090d414db404d"


@pytest.mark.parametrize("auth", [SigV4Auth, SigV4QueryAuth], ids=["in the header", "presigned"])
@pytest.mark.parametrize("url", ["http://localhost:4567/", "https://kinesis/ru-central1/b1g/etn%20x/?a=1&b=c%2Fd&a="])
def test_what_botocore_signs_is_let_in(auth: type[SigV4Auth], url: str) -> None:
    assert gate().authenticate(signed(url=url, auth=auth)).access_key_id == KEY_ID


@given(
    body=st.binary(max_size=200),
    path=st.text("aZ09-._~/%+ &=:@!$'()*,;\u00e9\u1234", max_size=20),
    query=st.lists(st.tuples(st.text(min_size=1, max_size=6), st.text(max_size=6)), max_size=4),
    headers=st.dictionaries(st.from_regex(r"x-[a-z0-9-]{1,8}", fullmatch=True), st.text(" a\tZ,=;", max_size=9)),
)
def test_whatever_botocore_signs_is_let_in_and_nothing_but_that(
    body: bytes, path: str, query: list[tuple[str, str]], headers: dict[str, str]
) -> None:
    url = "http://localhost/" + quote(path.lstrip("/")) + ("?" + urlencode(query, quote_via=quote) if query else "")
    request = signed(body=body, url=url, headers=headers)
    assert gate().authenticate(request).access_key_id == KEY_ID
    assert denial_of(request._replace(body=body + b"\0"))[0] is Denial.WRONG_SIGNATURE
    assert denial_of(request._replace(path=request.path + "x"))[0] is Denial.WRONG_SIGNATURE
    assert denial_of(request._replace(method="GET"))[0] is Denial.WRONG_SIGNATURE


def test_a_hash_of_the_body_that_is_signed_is_let_in_but_no_other_text_in_its_place() -> None:
    gate().authenticate(signed(headers={"X-Amz-Content-SHA256": sha256(BODY).hexdigest()}))
    for text in ("UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", sha256(b"").hexdigest(), ""):
        denial, message = denial_of(signed(headers={"X-Amz-Content-SHA256": text}))
        assert denial is Denial.WRONG_SIGNATURE
        assert "x-amz-content-sha256" in message or text == ""


Spoil = Callable[[WireRequest], WireRequest]
SPOILS: Final[list[Spoil]] = [
    lambda request: changed(request, x_amz_target="Kinesis_20131202.DeleteStream"),
    lambda request: changed(request, host="elsewhere"),
    lambda request: changed(request, x_amz_date=None, authorization=None),
    lambda request: request._replace(query="a=1"),
    lambda request: request._replace(body=request.body[:-1]),
    lambda request: request._replace(path="/x"),
    lambda request: request._replace(method="PUT"),
    lambda request: changed(request, authorization=request.headers["authorization"][:-1] + "x"),
    lambda request: changed(request, authorization=request.headers["authorization"][:-1]),
    lambda request: changed(request, authorization=request.headers["authorization"] + "\u00e9"),
]


@pytest.mark.parametrize("spoil", SPOILS)
def test_nothing_that_was_signed_can_be_changed(spoil: Spoil) -> None:
    request = signed()
    gate().authenticate(request)
    denial_of(spoil(request))


@pytest.mark.parametrize("name", ["host", "x-amz-target"])
def test_what_says_where_a_request_goes_must_be_signed(name: str) -> None:
    """A header that is not signed can be put in by anybody on the way, for an action that nobody asked for."""
    request = signed()
    names = request.headers["authorization"].split("SignedHeaders=")[1].split(",")[0]
    fewer = ";".join(one for one in names.split(";") if one != name)
    # Signed again without the header: everything but its absence is right.
    unsigned = changed(request, authorization=request.headers["authorization"].replace(names, fewer))
    denial, message = denial_of(unsigned)
    assert denial is Denial.WRONG_SIGNATURE
    assert f"'{name}' must be a 'SignedHeader'" in message


def test_a_wrong_secret_and_a_key_that_nobody_has_are_told_apart() -> None:
    denial, message = denial_of(signed(secret=SECRET + "x"))
    assert denial is Denial.WRONG_SIGNATURE
    assert message.startswith("The request signature we calculated does not match the signature you provided.")
    assert denial_of(signed(key_id="AKIDOTHER")) == (
        Denial.UNKNOWN_KEY,
        "The security token included in the request is invalid.",
    )


@pytest.mark.parametrize("auth", [SigV4Auth, SigV4QueryAuth], ids=["in the header", "presigned"])
def test_a_request_is_good_for_fifteen_minutes_and_as_long_as_a_presigned_one_says(auth: type[SigV4Auth]) -> None:
    request = signed(auth=auth)
    lasting = timedelta(minutes=15) if auth is SigV4Auth else timedelta(hours=1)
    slack = timedelta(seconds=60)  # for a test on a slow machine
    gate(age=lasting - slack).authenticate(request)
    denial, message = denial_of(request, gate(age=lasting + slack))
    assert denial is Denial.STALE
    assert message.startswith("Signature expired: ")
    gate(age=slack - timedelta(minutes=15)).authenticate(request)
    denial, message = denial_of(request, gate(age=-slack - timedelta(minutes=15)))
    assert denial is Denial.STALE
    assert message.startswith("Signature not yet current: ")


def test_an_old_request_with_a_new_date_is_refused() -> None:
    request = signed()
    later = gate(age=timedelta(days=1))
    assert denial_of(request, later)[0] is Denial.STALE
    redated = changed(request, x_amz_date=(datetime.now(UTC) + timedelta(days=1)).strftime("%Y%m%dT%H%M%SZ"))
    denial, message = denial_of(redated, later)
    assert denial is Denial.WRONG_SIGNATURE
    assert "Date in Credential scope does not match" in message


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (signed(region="eu-west-1"), "valid region, not 'eu-west-1'"),
        (signed(service="dynamodb"), "correct service: 'kinesis'"),
    ],
)
def test_what_was_signed_for_somewhere_else_is_refused(request_: WireRequest, words: str) -> None:
    denial, message = denial_of(request_)
    assert denial is Denial.WRONG_SIGNATURE
    assert words in message


def test_the_scope_ends_in_its_terminator() -> None:
    request = signed()
    authorization = request.headers["authorization"].replace("aws4_request", "aws4")
    assert "'aws4_request', not 'aws4'" in denial_of(changed(request, authorization=authorization))[1]


def test_a_key_of_yandex_signs_for_its_own_region() -> None:
    gate(region="ru-central1").authenticate(signed(region="ru-central1"))


@pytest.mark.parametrize("authorization", [None, "", "Bearer t1.9eu", "Basic YTpi", "aws4-hmac-sha256 Credential=x"])
def test_what_is_not_signed_at_all_is_missing_a_token(authorization: str | None) -> None:
    assert denial_of(changed(signed(), authorization=authorization)) == (
        Denial.NOT_SIGNED,
        "Missing Authentication Token",
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("Credential=", "Credentials=", "requires 'Credential' parameter"),
        ("SignedHeaders=", "Signed=", "requires 'SignedHeaders' parameter"),
        ("Signature=", "Sig=", "requires 'Signature' parameter"),
        ("/kinesis", "", "exactly 5 slash-delimited elements"),
        ("/kinesis", "/kinesis/x", "exactly 5 slash-delimited elements"),
        ("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256", "Unsupported AWS 'algorithm': 'AWS4-ECDSA-P256-SHA256'"),
    ],
)
def test_a_signature_that_lacks_a_part_says_which(old: str, new: str, words: str) -> None:
    request = signed()
    authorization = request.headers["authorization"].replace(old, new)
    denial, message = denial_of(changed(request, authorization=authorization))
    assert denial is Denial.INCOMPLETE
    assert words in message


@pytest.mark.parametrize("date", [None, "", "20150830", "2015-08-30T12:36:00Z", "20151330T123600Z", "\u0661" * 8])
def test_a_date_that_is_none_is_incomplete(date: str | None) -> None:
    assert denial_of(changed(signed(), x_amz_date=date))[0] is Denial.INCOMPLETE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("X-Amz-Credential=", "X-Amz-Credentia="),
        ("X-Amz-Signature=", "X-Amz-Sig="),
        ("X-Amz-Date=", "X-Amz-Dat="),
        ("X-Amz-Expires=3600", "X-Amz-Expires=0"),
        ("X-Amz-Expires=3600", "X-Amz-Expires=604801"),
        ("X-Amz-Expires=3600", "X-Amz-Expires=x"),
        ("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"),
    ],
)
def test_a_presigned_request_that_lacks_a_part_is_incomplete(old: str, new: str) -> None:
    request = signed(auth=SigV4QueryAuth)
    assert old in request.query
    assert denial_of(request._replace(query=request.query.replace(old, new)))[0] is Denial.INCOMPLETE


def test_a_request_that_is_signed_twice_is_refused() -> None:
    request = signed(auth=SigV4QueryAuth)
    twice = changed(request, authorization=signed().headers["authorization"])
    assert "Found both" in denial_of(twice)[1]


def test_a_key_with_a_session_token_needs_it_and_one_without_takes_none() -> None:
    token = "a token of a session"
    with_token = gate(session_token=token)
    with_token.authenticate(signed(token=token))
    assert denial_of(signed(token=token + "x"), with_token)[0] is Denial.UNKNOWN_KEY
    assert denial_of(signed(), with_token)[0] is Denial.UNKNOWN_KEY
    assert denial_of(signed(token=token))[0] is Denial.UNKNOWN_KEY


def test_a_key_that_has_expired_says_so_only_to_who_knows_its_secret() -> None:
    expired = gate(expires=datetime.now(UTC) - timedelta(seconds=1))
    assert denial_of(signed(), expired)[0] is Denial.KEY_EXPIRED
    assert denial_of(signed(secret=SECRET + "x"), expired)[0] is Denial.WRONG_SIGNATURE
    gate(expires=datetime.now(UTC) + timedelta(days=1)).authenticate(signed())


@given(
    authorization=st.text() | st.text().map(lambda text: "AWS4-HMAC-SHA256 " + text),
    query=st.text() | st.text().map(lambda text: "X-Amz-Algorithm=AWS4-HMAC-SHA256&" + text),
    date=st.text(),
    path=st.text(),
)
def test_garbage_is_denied_and_never_anything_else(authorization: str, query: str, date: str, path: str) -> None:
    headers = {"authorization": authorization, "x-amz-date": date, "x-amz-target": TARGET, "host": "h"}
    denial_of(WireRequest("POST", path, query, headers, BODY))


@given(
    names=st.text("abc;-: \u00e9\x00", max_size=20),
    signature=st.text(max_size=70),
    value=st.text(max_size=20),
)
def test_garbage_in_the_place_of_a_signature_is_denied_and_never_anything_else(
    names: str, signature: str, value: str
) -> None:
    request = signed()
    head = request.headers["authorization"].split("SignedHeaders=")[0]
    authorization = f"{head}SignedHeaders=host;x-amz-target;{names}, Signature=0{signature}"
    denial_of(changed(request, authorization=authorization, abc=value, x_amz_security_token=value))


# What the AWS SDK for JavaScript 3.1142 sent over HTTP/2 with the key "A" and the secret "B".
OF_JAVASCRIPT: Final[Mapping[str, str]] = {
    "content-type": "application/x-amz-json-1.1",
    "x-amz-target": "Kinesis_20131202.ListStreams",
    "content-length": "2",
    "x-amz-user-agent": "aws-sdk-js/3.1142.0",
    "amz-sdk-invocation-id": "ca334eeb-a4f7-445f-ab48-43208a566dde",
    "amz-sdk-request": "attempt=1; max=1",
    "x-amz-date": "20261126T160113Z",
    "x-amz-content-sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    "authorization": "AWS4-HMAC-SHA256 Credential=A/20261126/us-east-1/kinesis/aws4_request, "
    "SignedHeaders=:authority;amz-sdk-invocation-id;amz-sdk-request;content-length;content-type;x-amz-content-sha256;"
    "x-amz-date;x-amz-target;x-amz-user-agent, "
    "Signature=4c358748f2a4a25e2d20633a3c2f6cc2b9a5dfac08fd4d7b6c5801029de3f9c7",
}


def test_the_authority_of_http_2_may_be_signed_in_place_of_the_host() -> None:
    request = WireRequest("POST", "/", "", {**OF_JAVASCRIPT, "host": "127.0.0.1:9"}, b"{}")
    signature = parse_signature(request)
    key = signing_key("B", signature.date, signature.region, signature.service)
    check_signature(request, signature, key=key)
    elsewhere = request._replace(headers={**request.headers, "host": "127.0.0.1:10"})
    with pytest.raises(DeniedError, match="does not match"):
        check_signature(elsewhere, parse_signature(elsewhere), key=key)


@pytest.mark.parametrize("denial", Denial)
def test_every_denial_has_the_name_and_the_status_of_each_dialect(denial: Denial) -> None:
    aws = DeniedError(denial, "no").refusal(AWS)
    yandex = DeniedError(denial, "no").refusal(YANDEX)
    assert (aws.status, aws.message, yandex.message) == (400, "no", "no")
    assert aws.name.endswith("Exception")
    assert yandex.status == (403 if yandex.name in ("MissingAuthenticationToken", "InvalidClientTokenId") else 400)


def test_the_names_of_the_denials_are_the_documented_ones() -> None:
    names = {denial: [DeniedError(denial, "").refusal(dialect).name for dialect in (AWS, YANDEX)] for denial in Denial}
    assert names == {
        Denial.NOT_SIGNED: ["MissingAuthenticationTokenException", "MissingAuthenticationToken"],
        Denial.INCOMPLETE: ["IncompleteSignatureException", "IncompleteSignature"],
        Denial.UNKNOWN_KEY: ["UnrecognizedClientException", "InvalidClientTokenId"],
        Denial.KEY_EXPIRED: ["ExpiredTokenException", "AccessDeniedException"],
        Denial.STALE: ["InvalidSignatureException", "RequestExpired"],
        Denial.WRONG_SIGNATURE: ["InvalidSignatureException", "AccessDeniedException"],
        Denial.NOT_ALLOWED: ["AccessDeniedException", "AccessDeniedException"],
    }
