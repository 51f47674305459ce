"""What the wire refuses: every error of the service with its status and its words, in both codecs."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from streamstore import (
    CorruptRecordError,
    ExpiredIteratorException,
    ExpiredNextTokenException,
    InvalidArgumentException,
    LimitExceededException,
    OutcomeUnknownError,
    ProvisionedThroughputExceededException,
    RequestError,
    ResourceInUseException,
    ResourceNotFoundException,
    StorageError,
    StoreFullError,
    StreamStore,
    StreamStoreError,
)
from streamstore.dialect import AWS, YANDEX
from streamstore.wire import Dispatcher, WireRequest
from streamstore.wire.refusal import refusal_of
from tests.conftest import Clock, open_store
from tests.wire import CBOR, JSON, Wire, decoded

ACCOUNT = "under account 000000000000"
SHARD = "shardId-000000000000"
PUT = {"StreamName": "clicks", "Data": b"x", "PartitionKey": "a"}
START = {"StreamName": "clicks", "ShardId": SHARD, "ShardIteratorType": "TRIM_HORIZON"}
SPLIT = {"StreamName": "clicks", "ShardToSplit": SHARD}
NO_STREAM = f"Stream none {ACCOUNT} not found."
NEEDS = (
    "Must either specify (1) AT_SEQUENCE_NUMBER or AFTER_SEQUENCE_NUMBER and StartingSequenceNumber or (2) "
    "TRIM_HORIZON or LATEST and no StartingSequenceNumber. Request specified"
)

# The action, its members, and the name and words of the error; the words may go on behind an ellipsis.
REFUSED: list[tuple[str, Mapping[str, object], str, str]] = [
    ("PutRecord", PUT | {"StreamName": "none"}, "ResourceNotFoundException", NO_STREAM),
    ("PutRecords", {"StreamName": "none", "Records": [PUT]}, "ResourceNotFoundException", NO_STREAM),
    ("DescribeStream", {"StreamName": "none"}, "ResourceNotFoundException", NO_STREAM),
    (
        "EnableEnhancedMonitoring",
        {"StreamName": "none", "ShardLevelMetrics": ["ALL"]},
        "ResourceNotFoundException",
        NO_STREAM,
    ),
    (
        "GetShardIterator",
        START | {"ShardId": "shardId-000000000009"},
        "ResourceNotFoundException",
        f"Shard shardId-000000000009 in stream clicks {ACCOUNT} does not exist",
    ),
    (
        "CreateStream",
        {"StreamName": "clicks", "ShardCount": 1},
        "ResourceInUseException",
        f"Stream clicks {ACCOUNT} already exists...",
    ),
    ("CreateStream", {"StreamName": "more", "ShardCount": 5_000}, "LimitExceededException", "..."),
    (
        "PutRecord",
        PUT | {"ExplicitHashKey": str(2**128)},
        "InvalidArgumentException",
        f"Invalid ExplicitHashKey. ExplicitHashKey must be in the range: [0, 2^128-1]. Specified value was {2**128}",
    ),
    (
        "PutRecords",
        {"StreamName": "clicks", "Records": [PUT, PUT | {"ExplicitHashKey": str(2**128)}]},
        "InvalidArgumentException",
        f"Invalid ExplicitHashKey. ExplicitHashKey must be in the range: [0, 2^128-1]. Specified value was {2**128}",
    ),
    (
        "PutRecord",
        PUT | {"SequenceNumberForOrdering": "7"},
        "InvalidArgumentException",
        f"ExclusiveMinimumSequenceNumber 7 used in PutRecord on stream clicks {ACCOUNT} is invalid.",
    ),
    ("GetRecords", {"ShardIterator": "AAAA"}, "InvalidArgumentException", "Invalid ShardIterator."),
    (
        "GetShardIterator",
        START | {"ShardIteratorType": "AT_SEQUENCE_NUMBER"},
        "InvalidArgumentException",
        f"{NEEDS} AT_SEQUENCE_NUMBER and no StartingSequenceNumber.",
    ),
    (
        "GetShardIterator",
        START | {"StartingSequenceNumber": "5"},
        "InvalidArgumentException",
        f"{NEEDS} TRIM_HORIZON and also a StartingSequenceNumber.",
    ),
    (
        "GetShardIterator",
        START | {"ShardIteratorType": "AT_TIMESTAMP"},
        "InvalidArgumentException",
        (
            "Must specify timestampInMillis parameter for iterator of type AT_TIMESTAMP. Current request has no "
            "timestamp parameter."
        ),
    ),
    (
        "SplitShard",
        SPLIT | {"NewStartingHashKey": "1"},
        "InvalidArgumentException",
        (
            f"NewStartingHashKey 1 used in SplitShard() on shard {SHARD} in stream clicks {ACCOUNT} is not both "
            f"greater than one plus the shard's StartingHashKey 0 and less than the shard's EndingHashKey {2**127 - 1}."
        ),
    ),
    (
        "MergeShards",
        {"StreamName": "clicks", "ShardToMerge": "shardId-000000000001", "AdjacentShardToMerge": SHARD},
        "InvalidArgumentException",
        (
            f"Shards shardId-000000000001 and {SHARD} in stream clicks {ACCOUNT} are not an adjacent pair of shards "
            "eligible for merging"
        ),
    ),
    (
        "DecreaseStreamRetentionPeriod",
        {"StreamName": "clicks", "RetentionPeriodHours": 23},
        "InvalidArgumentException",
        "Minimum allowed retention period is 24 hours. Requested retention period (23 hours) is too short.",
    ),
    (
        "IncreaseStreamRetentionPeriod",
        {"StreamName": "clicks", "RetentionPeriodHours": 8_761},
        "InvalidArgumentException",
        "Maximum allowed retention period is 8760 hours. Requested retention period (8761 hours) is too long.",
    ),
    (
        "DecreaseStreamRetentionPeriod",
        {"StreamName": "clicks", "RetentionPeriodHours": 48},
        "InvalidArgumentException",
        (
            "Requested retention period (48 hours) for stream clicks can not be longer than existing retention period "
            "(24 hours). Use IncreaseRetentionPeriod API."
        ),
    ),
    (
        "SplitShard",
        SPLIT | {"ShardToSplit": "shardId-000000000009", "NewStartingHashKey": "9"},
        "ResourceNotFoundException",
        f"Could not find shard shardId-000000000009 in stream clicks {ACCOUNT}.",
    ),
    (
        "MergeShards",
        {"StreamName": "clicks", "ShardToMerge": SHARD, "AdjacentShardToMerge": "shardId-000000000009"},
        "ResourceNotFoundException",
        f"Could not find shard shardId-000000000009 in stream clicks {ACCOUNT}.",
    ),
    (
        "PutRecords",
        {"StreamName": "clicks", "Records": [{"Data": bytes(1_048_576), "PartitionKey": "key"}] * 5},
        "InvalidArgumentException",
        "Records size exceeds 5 MB limit",
    ),
    (
        "DeleteResourcePolicy",
        {"ResourceARN": "arn:aws:kinesis:us-east-1:000000000000:stream/clicks"},
        "ResourceNotFoundException",
        "No resource policy found for resource ARN arn:aws:kinesis:us-east-1:000000000000:stream/clicks.",
    ),
    ("ListShards", {}, "InvalidArgumentException", "Either NextToken or StreamName should be provided."),
    (
        "ListShards",
        {"StreamName": "clicks", "NextToken": "AAAA"},
        "InvalidArgumentException",
        "NextToken and StreamName cannot be provided together.",
    ),
    (
        "ListShards",
        {"StreamARN": "arn:aws:kinesis:us-east-1:000000000000:stream/clicks", "NextToken": "AAAA"},
        "InvalidArgumentException",
        "NextToken and StreamARN cannot be provided together.",
    ),
    ("ListStreams", {"NextToken": "AAAA"}, "InvalidArgumentException", "nextToken must be a whole token..."),
    ("DescribeStreamConsumer", {}, "InvalidArgumentException", "..."),
    ("CreateStream", {"StreamName": "more"}, "ValidationException", "..."),
    (
        "CreateStream",
        {"StreamName": "more", "ShardCount": 1, "MaxRecordSizeInKiB": 2_048},
        "InvalidArgumentException",
        "...",
    ),
]


@pytest.fixture(params=[JSON, CBOR], ids=["json", "cbor"])
def wire(aws_store: StreamStore, request: pytest.FixtureRequest) -> Wire:
    """A client of a store of the dialect "aws" that has a stream with two shards."""
    assert isinstance(request.param, str)
    aws_store.create_stream("clicks", shard_count=2)
    return Wire(Dispatcher(aws_store), request.param)


@pytest.mark.parametrize(("action", "members", "name", "words"), REFUSED)
def test_what_is_refused_has_the_name_and_words_of_the_service(
    action: str, members: Mapping[str, object], name: str, words: str, wire: Wire
) -> None:
    answer = wire.ask(action, members)
    assert answer.error == (400, name)
    assert answer.headers["x-amzn-errortype"] == name
    start, ellipsis, _ = words.partition("...")
    message = answer.message
    assert isinstance(message, str)
    assert message.startswith(start) if ellipsis else message == words
    assert answer.headers["content-type"] == wire.codec


def test_a_closed_shard_is_not_split_again(wire: Wire) -> None:
    wire.ask("SplitShard", SPLIT | {"NewStartingHashKey": "1000"})
    answer = wire.ask("SplitShard", SPLIT | {"NewStartingHashKey": "500"})
    assert answer.error == (400, "InvalidArgumentException")
    assert answer.message == (
        f"Shard {SHARD} in stream clicks {ACCOUNT} has already been merged or split, and thus is not eligible for "
        "merging or splitting."
    )


def test_an_old_iterator_and_an_old_token_have_expired(wire: Wire, clock: Clock) -> None:
    iterator = wire.ask("GetShardIterator", START).text("ShardIterator")
    token = wire.ask("ListShards", {"StreamName": "clicks", "MaxResults": 1}).text("NextToken")
    clock.advance(300_000)
    assert wire.ask("GetRecords", {"ShardIterator": iterator}).error == (400, "ExpiredIteratorException")
    assert wire.ask("ListShards", {"NextToken": token}).error == (400, "ExpiredNextTokenException")


def test_a_quota_that_is_used_up_is_told_of_the_call_and_of_each_record(aws_store: StreamStore) -> None:
    aws_store.create_stream("slow", write_quota_kb_per_sec=128)
    wire = Wire(Dispatcher(aws_store))
    words = f"Rate exceeded for shard {SHARD} in stream slow {ACCOUNT}."
    put = {"StreamName": "slow", "Data": b"x" * 1_000_000, "PartitionKey": "a"}
    assert wire.ask("PutRecord", put).status == 200
    answer = wire.ask("PutRecord", put)
    assert answer.error == (400, "ProvisionedThroughputExceededException")
    assert answer.message == words
    result = wire.ask("PutRecords", {"StreamName": "slow", "Records": [{"Data": b"x", "PartitionKey": "a"}]})
    assert (result.status, result.body["FailedRecordCount"]) == (200, 1)
    assert result.maps("Records") == [{"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": words}]


def test_a_store_for_reading_only_denies_what_changes_it(store_path: Path, clock: Clock) -> None:
    open_store(store_path, clock, dialect="aws").close()
    with open_store(store_path, clock, read_only=True) as reader:
        answer = Wire(Dispatcher(reader)).ask("CreateStream", {"StreamName": "clicks", "ShardCount": 1})
        assert answer.error == (400, "AccessDeniedException")


def test_a_closed_store_is_unavailable(store_path: Path, clock: Clock) -> None:
    store = open_store(store_path, clock, dialect="aws")
    wire = Wire(Dispatcher(store))
    store.close()
    assert wire.ask("PutRecord", PUT).error == (503, "ServiceUnavailable")
    assert wire.ask("ListStreams").error == (503, "ServiceUnavailable")


def storage_errors() -> Iterator[StreamStoreError]:
    yield StoreFullError("full")
    yield OutcomeUnknownError("unknown")
    yield CorruptRecordError(shard_id=SHARD, sequence_number="0", problem="bad")
    yield StorageError("broken")


def test_errors_of_the_machine_have_the_status_that_clients_send_again() -> None:
    told = [refusal_of(error, dialect=AWS, account_id="", region="") for error in storage_errors()]
    assert [(refusal.name, refusal.status) for refusal in told] == [
        ("ServiceUnavailable", 503),
        ("InternalFailure", 500),
        ("InternalFailure", 500),
        ("ServiceUnavailable", 503),
    ]
    told = [refusal_of(error, dialect=YANDEX, account_id="", region="") for error in storage_errors()]
    assert {(refusal.name, refusal.status) for refusal in told} == {("Unavailable", 503), ("InternalError", 500)}


def request_errors() -> Iterator[RequestError]:
    yield ResourceNotFoundException(resource="x", remedy="y")
    yield ResourceInUseException(resource="x", remedy="y")
    yield ProvisionedThroughputExceededException(stream_name="x", shard_id="y", retry_after_ms=1)
    yield LimitExceededException(limit="x", remedy="y")
    yield ExpiredIteratorException("x")
    yield ExpiredNextTokenException("x")
    yield InvalidArgumentException(argument="x", value=1, constraint="be y")


def test_every_request_error_is_answered_under_its_own_name_with_status_400() -> None:
    assert {type(error) for error in request_errors()} == set(RequestError.__subclasses__())
    for error in request_errors():
        refusal = refusal_of(error, dialect=AWS, account_id="", region="")
        assert (refusal.name, refusal.status) == (type(error).__name__, 400)


TARGET = {"x-amz-target": "Kinesis_20131202.ListStreams"}


def request(
    *, method: str = "POST", headers: Mapping[str, str] = TARGET | {"content-type": JSON}, body: bytes = b"{}"
) -> WireRequest:
    return WireRequest(method, "/", "", headers, body)


ENVELOPES: list[tuple[WireRequest, tuple[int, str], tuple[int, str]]] = [
    (request(method="GET"), (403, "AccessDeniedException"), (403, "AccessDeniedException")),
    (
        request(headers=TARGET),
        (400, "UnknownOperationException"),
        (400, "InvalidArgumentException"),
    ),
    (
        request(headers=TARGET | {"content-type": "text/plain"}),
        (400, "UnknownOperationException"),
        (400, "InvalidArgumentException"),
    ),
    (request(headers={"content-type": JSON}), (400, "UnknownOperationException"), (400, "MissingAction")),
    (
        request(headers={"x-amz-target": "Kinesis_20131202.Fly", "content-type": JSON}),
        (400, "UnknownOperationException"),
        (400, "InvalidAction"),
    ),
    (request(body=b""), (400, "SerializationException"), (400, "InvalidArgumentException")),
    (request(body=b"{"), (400, "SerializationException"), (400, "InvalidArgumentException")),
    (request(body=b"\xff"), (400, "SerializationException"), (400, "InvalidArgumentException")),
    (request(body=b'{"Limit":NaN}'), (400, "SerializationException"), (400, "InvalidArgumentException")),
    (request(body=b"[" * 100_000), (400, "SerializationException"), (400, "InvalidArgumentException")),
    (request(body=b"[]"), (400, "SerializationException"), (400, "InvalidArgumentException")),
    (request(body=b"null"), (400, "SerializationException"), (400, "MissingParameter")),
    (
        request(body=b" " * (7 * 2**20 + 1)),
        (413, "RequestEntityTooLargeException"),
        (413, "RequestEntityTooLargeException"),
    ),
]


@pytest.mark.parametrize(("asked", "of_aws", "of_yandex"), ENVELOPES)
def test_what_is_no_request_is_refused_as_the_dialect_does(
    asked: WireRequest, of_aws: tuple[int, str], of_yandex: tuple[int, str], wire: Wire, tmp_path: Path, clock: Clock
) -> None:
    assert decoded(wire.dispatcher.answer(asked)).error == of_aws
    with open_store(tmp_path / "yandex", clock, dialect="yandex") as store:
        assert decoded(Dispatcher(store).answer(asked)).error == of_yandex


def test_an_unknown_member_is_ignored_by_aws_and_refused_by_yandex(wire: Wire, tmp_path: Path, clock: Clock) -> None:
    assert wire.ask("ListStreams", {"Colour": "red", "Limit": None}).status == 200
    with open_store(tmp_path / "yandex", clock, dialect="yandex") as store:
        answer = Wire(Dispatcher(store)).ask("ListStreams", {"Colour": "red"})
    assert answer.error == (400, "InvalidArgumentException")
    assert answer.message == "Unexpected json key: Colour"
