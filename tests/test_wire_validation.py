"""ValidationException and SerializationException in the words of the service; no malformed input is a 500."""

import json
from collections.abc import Mapping

import pytest

from streamstore import StreamStore
from streamstore.wire import Dispatcher, WireRequest
from tests.wire import CBOR, JSON, Wire, decoded

PUT: Mapping[str, object] = {"StreamName": "clicks", "Data": "eA==", "PartitionKey": "a"}


@pytest.fixture
def wire(aws_store: StreamStore) -> Wire:
    aws_store.create_stream("clicks")
    return Wire(Dispatcher(aws_store))


FAILS = "failed to satisfy constraint: Member must"
VIOLATIONS: list[tuple[str, Mapping[str, object], list[str]]] = [
    (
        "PutRecord",
        {"Data": ""},
        [
            f"Value null at 'streamName' {FAILS} not be null",
            f"Value null at 'partitionKey' {FAILS} not be null",
        ],
    ),
    ("PutRecord", {**PUT, "Data": None}, [f"Value null at 'data' {FAILS} not be null"]),
    (
        "PutRecord",
        {**PUT, "PartitionKey": "x" * 257, "ExplicitHashKey": "01"},
        [
            f"Value '{'x' * 257}' at 'partitionKey' {FAILS} have length less than or equal to 256",
            (
                rf"Value '01' at 'explicitHashKey' {FAILS} satisfy regular expression pattern: "
                r"0|([1-9]\d{0,38})"
            ),
        ],
    ),
    (
        "PutRecord",
        {**PUT, "SequenceNumberForOrdering": "-1"},
        [
            (
                rf"Value '-1' at 'sequenceNumberForOrdering' {FAILS} satisfy regular expression pattern: "
                r"0|([1-9]\d{0,128})"
            )
        ],
    ),
    (
        "PutRecords",
        {"StreamName": "clicks", "Records": [{"Data": "", "PartitionKey": "a"}, {"PartitionKey": ""}]},
        [
            f"Value null at 'records.2.member.data' {FAILS} not be null",
            f"Value '' at 'records.2.member.partitionKey' {FAILS} have length greater than or equal to 1",
        ],
    ),
    (
        "GetRecords",
        {"ShardIterator": "x", "Limit": 10_001},
        [f"Value '10001' at 'limit' {FAILS} have value less than or equal to 10000"],
    ),
    (
        "GetRecords",
        {"ShardIterator": "x", "Limit": 0.5},
        [f"Value '0' at 'limit' {FAILS} have value greater than or equal to 1"],
    ),
    (
        "CreateStream",
        {"StreamName": "a b", "ShardCount": 1},
        [
            (
                f"Value 'a b' at 'streamName' {FAILS} satisfy regular expression pattern: "
                r"[a-zA-Z0-9_.-]+"
            )
        ],
    ),
    (
        "ListShards",
        {"StreamName": "clicks", "ShardFilter": {"Type": "ALL"}},
        [
            (
                f"Value 'ALL' at 'shardFilter.type' {FAILS} satisfy enum value set: "
                "[AFTER_SHARD_ID, AT_TRIM_HORIZON, FROM_TRIM_HORIZON, AT_LATEST, AT_TIMESTAMP, FROM_TIMESTAMP]"
            )
        ],
    ),
]


@pytest.mark.parametrize(("action", "members", "violations"), VIOLATIONS)
def test_all_violations_are_told_in_one_message(
    action: str, members: Mapping[str, object], violations: list[str], wire: Wire
) -> None:
    answer = wire.ask(action, members)
    assert answer.error == (400, "ValidationException")
    plural = "s" if len(violations) > 1 else ""
    assert answer.message == f"{len(violations)} validation error{plural} detected: {'; '.join(violations)}"


def test_at_most_ten_violations_are_told(wire: Wire) -> None:
    answer = wire.ask("PutRecords", {"StreamName": "clicks", "Records": [{"Data": "", "PartitionKey": ""}] * 11})
    assert str(answer.message).startswith("10 validation errors detected: ")


@pytest.mark.parametrize("codec", [JSON, CBOR])
def test_a_record_may_have_a_mebibyte_and_not_a_byte_more(codec: str, aws_store: StreamStore) -> None:
    wire = Wire(Dispatcher(aws_store), codec)
    wire.ask("CreateStream", {"StreamName": "clicks", "ShardCount": 1})
    assert wire.ask("PutRecord", {**PUT, "Data": bytes(1_048_576)}).status == 200
    answer = wire.ask("PutRecord", {**PUT, "Data": bytes(1_048_577)})
    assert answer.message == (
        "1 validation error detected: Value 'java.nio.HeapByteBuffer[pos=0 lim=1048577 cap=1048577]' at 'data' "
        "failed to satisfy constraint: Member must have length less than or equal to 1048576"
    )


def test_five_mebibytes_in_one_call_are_the_limit(wire: Wire) -> None:
    entry = {"Data": bytes(1_048_576 - 1), "PartitionKey": "a"}
    assert wire.ask("PutRecords", {"StreamName": "clicks", "Records": [entry] * 5}).status == 200
    more = [*[entry] * 5, {"Data": b"", "PartitionKey": "a"}]
    assert wire.ask("PutRecords", {"StreamName": "clicks", "Records": more}).error == (400, "InvalidArgumentException")


NUMBER = "class com.amazon.coral.value.json.numbers.TruncatingBigNumber can not be converted to"
TYPES: list[tuple[dict[str, object], str]] = [
    (
        {"StreamName": 10},
        f"{NUMBER} an String",
    ),
    ({"StreamName": True}, "class java.lang.Boolean can not be converted to an String"),
    ({"StreamName": []}, "Start of list found where not expected"),
    ({"StreamName": {}}, "Start of structure or map found where not expected."),
    ({"Data": 4}, f"{NUMBER} a Blob"),
    (
        {"Data": "eA="},
        "'eA=' can not be converted to a Blob: Base64 encoded length is expected a multiple of 4 bytes but found: 3",
    ),
    ({"Data": "e A="}, "'e A=' can not be converted to a Blob: Invalid Base64 character: ' '"),
    ({"Data": "eA-_"}, "'eA-_' can not be converted to a Blob: Invalid Base64 character: '-'"),
    ({"Data": "eB=="}, "'eB==' can not be converted to a Blob: Invalid last non-pad Base64 character dectected"),
    ({"Data": "ключ"}, "'ключ' can not be converted to a Blob: Invalid Base64 character: 'к'"),
]


@pytest.mark.parametrize(("changed", "words"), TYPES)
def test_a_value_of_another_type_is_refused(changed: dict[str, object], words: str, wire: Wire) -> None:
    answer = wire.ask("PutRecord", {**PUT, **changed})
    assert answer.error == (400, "SerializationException")
    assert answer.body["Message"] == words


@pytest.mark.parametrize("limit", ["1", True, [1]])
def test_a_limit_is_a_number(limit: object, wire: Wire) -> None:
    assert wire.ask("ListStreams", {"Limit": limit}).error == (400, "SerializationException")


def test_a_lone_surrogate_is_no_partition_key(wire: Wire) -> None:
    assert wire.ask("PutRecord", {**PUT, "PartitionKey": "\ud800"}).error == (400, "InvalidArgumentException")


@pytest.mark.parametrize("limit", [float("nan"), float("inf")])
def test_what_no_number_is_told_of_is_refused(limit: float, wire: Wire) -> None:
    assert Wire(wire.dispatcher, CBOR).ask("ListStreams", {"Limit": limit}).error == (400, "SerializationException")


def test_a_value_that_holds_itself_is_refused(wire: Wire) -> None:
    headers = {"x-amz-target": "Kinesis_20131202.PutRecord", "content-type": CBOR}
    body = bytes.fromhex("d81c81d81d00")
    answer = decoded(wire.dispatcher.answer(WireRequest("POST", "/", "", headers, body)))
    assert answer.error == (400, "SerializationException")


def test_a_number_of_any_length_is_no_mistake_of_the_server(wire: Wire) -> None:
    body = b'{"Limit":' + b"9" * 5_000 + b"}"
    headers = {"x-amz-target": "Kinesis_20131202.ListStreams", "content-type": JSON}
    assert decoded(wire.dispatcher.answer(WireRequest("POST", "/", "", headers, body))).status == 400
    body = json.dumps({"Limit": 1e308}).encode()
    assert decoded(wire.dispatcher.answer(WireRequest("POST", "/", "", headers, body))).status == 400
