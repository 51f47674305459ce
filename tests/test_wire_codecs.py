"""JSON and Base64 of the wire mean what Python's own mean, though quicker libraries read and write them."""

import base64
import binascii
import json
import math
import random
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamstore.wire.protocol import JSON_1_1, stream_headers
from streamstore.wire.shapes import Blob, Moment, WrongTypeError
from tests.children import code, run

VALUES: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=())),  # lone surrogates among them
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
BASE_64: Final = st.text("ABab01+/=\n é-_") | st.binary().map(lambda data: base64.b64encode(data).decode())

NAMES_OF_CHILDREN: Final = """
import os
from streamstore.wire.protocol import stream_headers

for _ in range(3):
    if os.fork() == 0:
        print(*(value for name, value in stream_headers() if "id" in name.lower()), flush=True)
        os._exit(0)
    os.wait()
"""


def of_python(body: bytes) -> object:
    """Return what Python's own decoder says; a text where it refuses."""

    def refuse(name: str) -> object:
        raise ValueError(name)

    try:
        return repr(json.loads(body.decode("utf-8"), parse_constant=refuse))
    except (ValueError, RecursionError):
        return "refused"


def of_ours(body: bytes) -> object:
    try:
        return repr(JSON_1_1.decode(body))
    except (ValueError, RecursionError):
        return "refused"


@given(
    VALUES.map(lambda value: json.dumps(value).encode())
    | VALUES.map(repr).map(lambda text: text.encode("utf-8", "replace"))
)
@example(b'{"a": 1, "a": 2}')
@example(b"[NaN]")
@example(b"1e400")
@example(b"-0")
@example(b"1" * 100)
@example(b"1" * 5_000)
@example(b'"\\ud800"')
@example(b'"\\ud83d\\ude00"')
@example(b'"\xff"')
@example(b'"\x01"')
@example(b"\xef\xbb\xbf1")
@example(b" \t\r\n1 ")
@example(b"\x0b1")
@example(b"01")
@example(b"[1,]")
@example(b"")
@example(b"[" * 200 + b"]" * 200)
@example(b"[" * 100_000)
def test_json_is_read_as_python_reads_it(body: bytes) -> None:
    assert of_ours(body) == of_python(body)


@given(VALUES)
def test_json_that_is_written_is_read_back(value: object) -> None:
    assert json.loads(JSON_1_1.encode({"value": value})) == {"value": value}


def test_what_is_no_unicode_is_written_beside_bytes_and_times() -> None:
    written = JSON_1_1.encode({"Text": "\ud800", "Data": b"\x00hi", "Time": Moment(1_500)})
    assert written == b'{"Text":"\\ud800","Data":"AGhp","Time":1.5}'


@pytest.mark.parametrize("ms", [0, 1, 999, 1_700_000_000_000, 1_700_000_000_123, 253_402_300_799_999])
def test_bytes_and_times_are_written_as_the_service_writes_them(ms: int) -> None:
    written = JSON_1_1.encode({"Data": b"\x00hi", "Time": Moment(ms)}).decode()
    assert written == f'{{"Data":"AGhp","Time":{json.dumps(ms / 1_000)}}}'
    assert math.isclose(json.loads(written)["Time"] * 1_000, ms)


@given(BASE_64)
@example("aB/b=")
@example("QQ=")
@example("QR==")
@example("QQ==QQ==")
def test_only_the_one_base_64_of_its_bytes_is_taken(text: str) -> None:
    try:
        data = binascii.a2b_base64(text.encode("ascii"))
        expected = data if base64.b64encode(data).decode() == text else None
    except ValueError:
        expected = None
    try:
        assert Blob(2**20).parse(text, refuse_unknown=False) == expected
    except WrongTypeError:
        assert expected is None


def test_processes_that_are_forked_give_no_two_answers_the_same_name() -> None:
    names = run(code(NAMES_OF_CHILDREN)).split()
    assert len(set(names)) == len(names) == 6


def test_the_dice_of_the_program_are_neither_thrown_nor_followed_for_the_name_of_an_answer() -> None:
    state = random.getstate()
    try:
        random.seed(1)
        first = stream_headers()
        shown = random.random()
        random.seed(1)
        assert random.random() == shown
        random.seed(1)
        assert stream_headers() != first
    finally:
        random.setstate(state)
