"""The wire in process: all actions are answered, in both dialects, and what they do is what the service does."""

from pathlib import Path

import pytest
from cbor2 import CBORTag

from streamstore import DialectName, StreamStore
from streamstore.dialect import AWS, YANDEX
from streamstore.wire import Dispatcher
from streamstore.wire.actions import actions_of
from tests.conftest import Clock, open_store
from tests.wire import CBOR, JSON, Wire

HASH_KEY_MAX = 2**128 - 1
ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/"
ACTIONS = {
    "AddTagsToStream",
    "CreateStream",
    "DecreaseStreamRetentionPeriod",
    "DeleteResourcePolicy",
    "DeleteStream",
    "DeregisterStreamConsumer",
    "DescribeAccountSettings",
    "DescribeLimits",
    "DescribeStream",
    "DescribeStreamConsumer",
    "DescribeStreamSummary",
    "DisableEnhancedMonitoring",
    "EnableEnhancedMonitoring",
    "GetRecords",
    "GetResourcePolicy",
    "GetShardIterator",
    "IncreaseStreamRetentionPeriod",
    "ListShards",
    "ListStreamConsumers",
    "ListStreams",
    "ListTagsForResource",
    "ListTagsForStream",
    "MergeShards",
    "PutRecord",
    "PutRecords",
    "PutResourcePolicy",
    "RegisterStreamConsumer",
    "RemoveTagsFromStream",
    "SplitShard",
    "StartStreamEncryption",
    "StopStreamEncryption",
    "SubscribeToShard",
    "TagResource",
    "UntagResource",
    "UpdateAccountSettings",
    "UpdateMaxRecordSize",
    "UpdateShardCount",
    "UpdateStreamMode",
    "UpdateStreamWarmThroughput",
}


@pytest.fixture(params=[JSON, CBOR], ids=["json", "cbor"])
def aws(aws_store: StreamStore, request: pytest.FixtureRequest) -> Wire:
    """A client of a store of the dialect "aws" that has a stream with two shards."""
    assert isinstance(request.param, str)
    wire = Wire(Dispatcher(aws_store), request.param)
    assert wire.ask("CreateStream", {"StreamName": "clicks", "ShardCount": 2}).status == 200
    return wire


@pytest.fixture
def yandex(store: StreamStore) -> Wire:
    """A client of a store of the dialect "yandex" that has a stream with two shards."""
    wire = Wire(Dispatcher(store))
    assert wire.ask("CreateStream", {"StreamName": "clicks", "ShardCount": 2}).status == 200
    return wire


def read_all(wire: Wire, shard_id: object) -> list[dict[str, object]]:
    start = {"StreamName": "clicks", "ShardId": shard_id, "ShardIteratorType": "TRIM_HORIZON"}
    iterator = wire.ask("GetShardIterator", start).text("ShardIterator")
    return wire.ask("GetRecords", {"ShardIterator": iterator}).maps("Records")


def shards(wire: Wire) -> list[dict[str, object]]:
    return wire.ask("ListShards", {"StreamName": "clicks"}).maps("Shards")


def consumer_arn(wire: Wire) -> str:
    register = {"StreamARN": f"{ARN}clicks", "ConsumerName": "reader"}
    arn = wire.ask("RegisterStreamConsumer", register).map("Consumer")["ConsumerARN"]
    assert isinstance(arn, str)
    return arn


def test_every_action_of_the_service_is_in_the_table() -> None:
    assert len(ACTIONS) == 39
    assert actions_of(AWS).keys() == ACTIONS
    assert actions_of(YANDEX).keys() == ACTIONS | {"UpdateStream", "SetWriteQuota"}


def test_a_record_comes_back_as_it_was_put(aws: Wire) -> None:
    put = aws.ask("PutRecord", {"StreamName": "clicks", "Data": b"\x00hi", "PartitionKey": "ключ"})
    assert put.body == {"ShardId": "shardId-000000000001", "SequenceNumber": "0", "EncryptionType": "NONE"}
    [record] = read_all(aws, put.body["ShardId"])
    assert record["Data"] == (b"\x00hi" if aws.codec == CBOR else "AGhp")
    assert (record["PartitionKey"], record["SequenceNumber"]) == ("ключ", "0")
    time = record["ApproximateArrivalTimestamp"]
    assert time == (("tag 1", 1_700_000_000_000) if aws.codec == CBOR else 1_700_000_000.0)


def test_an_iterator_starts_at_a_time_in_seconds_or_behind_the_tag_of_cbor(aws: Wire, clock: Clock) -> None:
    put = {"StreamName": "clicks", "PartitionKey": "a"}
    aws.ask("PutRecord", put | {"Data": b"old"})
    clock.advance(1_500)
    aws.ask("PutRecord", put | {"Data": b"new"})
    time = CBORTag(1, clock.now_ms) if aws.codec == CBOR else clock.now_ms / 1000
    start = {"ShardId": "shardId-000000000000", "ShardIteratorType": "AT_TIMESTAMP", "Timestamp": time}
    iterator = aws.ask("GetShardIterator", {"StreamName": "clicks", **start}).text("ShardIterator")
    [record] = aws.ask("GetRecords", {"ShardIterator": iterator}).maps("Records")
    assert record["Data"] == (b"new" if aws.codec == CBOR else "bmV3")


def test_times_have_milliseconds_and_no_exponent(aws_store: StreamStore, clock: Clock) -> None:
    clock.now_ms = 1_506_440_188_749
    dispatcher = Dispatcher(aws_store)
    Wire(dispatcher).ask("CreateStream", {"StreamName": "clicks", "ShardCount": 1})
    response = dispatcher.answer(Wire(dispatcher).request("DescribeStreamSummary", {"StreamName": "clicks"}))
    assert isinstance(response.body, bytes)
    assert b'"StreamCreationTimestamp":1506440188.749,' in response.body


@pytest.mark.parametrize("dialect", ["aws", "yandex"])
def test_keys_of_the_reference_go_to_its_shards(dialect: DialectName, store_path: Path, clock: Clock) -> None:
    """YDB's own vector: 30 keys on 5 shards, and the number of the record behind them."""
    with open_store(store_path, clock, dialect=dialect) as store:
        wire = Wire(Dispatcher(store))
        wire.ask("CreateStream", {"StreamName": "golden", "ShardCount": 5})
        entries = [{"Data": f"{number:04}".encode(), "PartitionKey": f"{number:04}"} for number in range(1, 31)]
        result = wire.ask("PutRecords", {"StreamName": "golden", "Records": entries})
        assert result.body["FailedRecordCount"] == 0
        ids = [entry["ShardId"] for entry in result.maps("Records")]
        assert [ids.count(store.dialect.shard_id(index)) for index in range(5)] == [9, 1, 8, 5, 7]
        put = wire.ask("PutRecord", {"StreamName": "golden", "Data": b"", "PartitionKey": "9876543210"})
        assert (put.body["ShardId"], put.body["SequenceNumber"]) == (store.dialect.shard_id(4), "7")


@pytest.mark.parametrize(("key", "index"), [("a", 0), ("b", 1), ("e", 2), ("f", 1), ("ключ", 2), ("user1", 0)])
def test_a_key_goes_to_its_shard_of_three(key: str, index: int, aws_store: StreamStore) -> None:
    wire = Wire(Dispatcher(aws_store))
    wire.ask("CreateStream", {"StreamName": "three", "ShardCount": 3})
    put = wire.ask("PutRecord", {"StreamName": "three", "Data": b"", "PartitionKey": key})
    assert put.body["ShardId"] == f"shardId-{index:012}"


@pytest.mark.parametrize(
    ("hash_key", "index"), [(HASH_KEY_MAX, 2), (2 * (2**128 // 3) - 1, 1), (2 * (2**128 // 3), 2), (0, 0)]
)
def test_an_explicit_hash_key_chooses_the_shard(hash_key: int, index: int, aws_store: StreamStore) -> None:
    wire = Wire(Dispatcher(aws_store))
    wire.ask("CreateStream", {"StreamName": "three", "ShardCount": 3})
    entry = {"Data": b"", "PartitionKey": "a", "ExplicitHashKey": str(hash_key)}
    assert wire.ask("PutRecord", {"StreamName": "three", **entry}).body["ShardId"] == f"shardId-{index:012}"
    result = wire.ask("PutRecords", {"StreamName": "three", "Records": [entry]})
    assert result.maps("Records")[0]["ShardId"] == f"shardId-{index:012}"


def test_a_split_shard_ends_with_its_children(aws: Wire) -> None:
    split = {"StreamName": "clicks", "ShardToSplit": "shardId-000000000000", "NewStartingHashKey": "1000"}
    assert aws.ask("SplitShard", split).status == 200
    start = {"StreamName": "clicks", "ShardId": "shardId-000000000000", "ShardIteratorType": "TRIM_HORIZON"}
    page = aws.ask("GetRecords", {"ShardIterator": aws.ask("GetShardIterator", start).text("ShardIterator")})
    assert "NextShardIterator" not in page.body
    assert [child["ShardId"] for child in page.maps("ChildShards")] == ["shardId-000000000002", "shardId-000000000003"]
    assert page.maps("ChildShards")[0]["ParentShards"] == ["shardId-000000000000"]
    assert page.maps("ChildShards")[0]["HashKeyRange"] == {"StartingHashKey": "0", "EndingHashKey": "999"}


def test_merged_shards_have_one_child(aws: Wire) -> None:
    both = {"ShardToMerge": "shardId-000000000000", "AdjacentShardToMerge": "shardId-000000000001"}
    assert aws.ask("MergeShards", {"StreamName": "clicks", **both}).status == 200
    child = shards(aws)[-1]
    assert child["ParentShardId"] == "shardId-000000000000"
    assert child["AdjacentParentShardId"] == "shardId-000000000001"
    assert [shard["SequenceNumberRange"] for shard in shards(aws)[:2]] == [
        {"StartingSequenceNumber": "0", "EndingSequenceNumber": "0"}
    ] * 2


def test_streams_are_listed_page_by_page(aws: Wire) -> None:
    aws.ask("CreateStream", {"StreamName": "visits", "ShardCount": 1})
    first = aws.ask("ListStreams", {"Limit": 1})
    assert (first.body["StreamNames"], first.body["HasMoreStreams"]) == (["clicks"], True)
    assert first.maps("StreamSummaries")[0]["StreamARN"] == f"{ARN}clicks"
    second = aws.ask("ListStreams", {"NextToken": first.body["NextToken"]})
    assert (second.body["StreamNames"], second.body["HasMoreStreams"]) == (["visits"], False)
    assert "NextToken" not in second.body


def test_an_empty_list_is_a_list(aws: Wire) -> None:
    aws.ask("DeleteStream", {"StreamName": "clicks"})
    assert aws.ask("ListStreams").body["StreamNames"] == []
    aws.ask("CreateStream", {"StreamName": "clicks", "ShardCount": 1})
    assert read_all(aws, "shardId-000000000000") == []
    assert aws.ask("ListTagsForStream", {"StreamName": "clicks"}).body == {"Tags": [], "HasMoreTags": False}


def test_a_stream_is_named_by_its_arn_as_well(aws: Wire) -> None:
    put = aws.ask("PutRecord", {"StreamARN": f"{ARN}clicks", "Data": b"x", "PartitionKey": "a"})
    assert put.status == 200
    assert aws.ask("DescribeStream", {"StreamARN": f"{ARN}clicks", "StreamName": "clicks"}).status == 200


def test_the_arn_of_another_account_names_no_stream_here(aws: Wire) -> None:
    arn = "arn:aws:kinesis:us-east-1:123456789012:stream/clicks"
    answer = aws.ask("DescribeStream", {"StreamARN": arn})
    assert answer.error == (400, "ResourceNotFoundException")
    assert answer.message == "Stream clicks under account 123456789012 not found."


def test_tags_are_those_of_the_stream_under_both_names_of_the_actions(aws: Wire) -> None:
    aws.ask("AddTagsToStream", {"StreamName": "clicks", "Tags": {"team": "web", "tier": ""}})
    aws.ask("TagResource", {"ResourceARN": f"{ARN}clicks", "Tags": {"team": "core"}})
    aws.ask("UntagResource", {"ResourceARN": f"{ARN}clicks", "TagKeys": ["tier"]})
    tags = [{"Key": "team", "Value": "core"}]
    assert aws.ask("ListTagsForResource", {"ResourceARN": f"{ARN}clicks"}).body == {"Tags": tags}
    assert aws.ask("ListTagsForStream", {"StreamName": "clicks"}).body == {"Tags": tags, "HasMoreTags": False}
    aws.ask("RemoveTagsFromStream", {"StreamName": "clicks", "TagKeys": ["team"]})
    assert aws.ask("ListTagsForStream", {"StreamName": "clicks"}).body["Tags"] == []


def test_a_consumer_is_known_by_its_arn_and_by_its_name(aws: Wire) -> None:
    arn = consumer_arn(aws)
    by_arn = aws.ask("DescribeStreamConsumer", {"ConsumerARN": arn}).map("ConsumerDescription")
    by_name = aws.ask("DescribeStreamConsumer", {"StreamARN": f"{ARN}clicks", "ConsumerName": "reader"})
    assert by_arn == by_name.map("ConsumerDescription")
    assert (by_arn["ConsumerStatus"], by_arn["StreamARN"]) == ("ACTIVE", f"{ARN}clicks")
    listed = aws.ask("ListStreamConsumers", {"StreamARN": f"{ARN}clicks"}).maps("Consumers")
    assert [consumer["ConsumerARN"] for consumer in listed] == [arn]
    assert aws.ask("DeregisterStreamConsumer", {"ConsumerARN": arn}).status == 200
    assert aws.ask("ListStreamConsumers", {"StreamARN": f"{ARN}clicks"}).body == {"Consumers": []}


def test_the_retention_period_goes_up_and_down(aws: Wire) -> None:
    def hours() -> object:
        return aws.ask("DescribeStream", {"StreamName": "clicks"}).map("StreamDescription")["RetentionPeriodHours"]

    aws.ask("IncreaseStreamRetentionPeriod", {"StreamName": "clicks", "RetentionPeriodHours": 48})
    assert hours() == 48
    assert aws.ask("IncreaseStreamRetentionPeriod", {"StreamName": "clicks", "RetentionPeriodHours": 48}).status == 200
    aws.ask("DecreaseStreamRetentionPeriod", {"StreamName": "clicks", "RetentionPeriodHours": 25})
    assert hours() == 25


def test_the_shard_count_and_the_mode_change(aws: Wire) -> None:
    update = {"StreamName": "clicks", "TargetShardCount": 4, "ScalingType": "UNIFORM_SCALING"}
    result = aws.ask("UpdateShardCount", update).body
    assert (result["CurrentShardCount"], result["TargetShardCount"]) == (2, 4)
    mode = {"StreamARN": f"{ARN}clicks", "StreamModeDetails": {"StreamMode": "ON_DEMAND"}}
    assert aws.ask("UpdateStreamMode", mode).status == 200
    summary = aws.ask("DescribeStreamSummary", {"StreamName": "clicks"}).map("StreamDescriptionSummary")
    assert summary["StreamModeDetails"] == {"StreamMode": "ON_DEMAND"}
    assert (summary["OpenShardCount"], summary["ConsumerCount"]) == (4, 0)
    refused = aws.ask("UpdateShardCount", update | {"TargetShardCount": 8})
    assert refused.error == (400, "ValidationException")
    assert refused.message == "Request is invalid. Stream clicks under account 000000000000 is in On-Demand mode."


def test_limits_are_those_of_the_store(aws: Wire) -> None:
    assert aws.ask("DescribeLimits").body == {
        "ShardLimit": 4_000,
        "OpenShardCount": 2,
        "OnDemandStreamCount": 0,
        "OnDemandStreamCountLimit": 50,
    }


def test_the_metrics_of_single_shards_are_enabled_shown_and_disabled(aws: Wire) -> None:
    def shown() -> object:
        stream = aws.ask("DescribeStream", {"StreamName": "clicks"}).map("StreamDescription")
        summary = aws.ask("DescribeStreamSummary", {"StreamName": "clicks"}).map("StreamDescriptionSummary")
        assert summary["EnhancedMonitoring"] == stream["EnhancedMonitoring"]
        return stream["EnhancedMonitoring"]

    assert shown() == [{"ShardLevelMetrics": []}]
    two = {"StreamARN": f"{ARN}clicks", "ShardLevelMetrics": ["OutgoingBytes", "IncomingBytes"]}
    assert aws.ask("EnableEnhancedMonitoring", two).body == {
        "StreamName": "clicks",
        "StreamARN": f"{ARN}clicks",
        "CurrentShardLevelMetrics": [],
        "DesiredShardLevelMetrics": ["IncomingBytes", "OutgoingBytes"],
    }
    assert shown() == [{"ShardLevelMetrics": ["IncomingBytes", "OutgoingBytes"]}]
    one = {"StreamName": "clicks", "ShardLevelMetrics": ["IncomingBytes"]}
    assert aws.ask("DisableEnhancedMonitoring", one).body == {
        "StreamName": "clicks",
        "StreamARN": f"{ARN}clicks",
        "CurrentShardLevelMetrics": ["IncomingBytes", "OutgoingBytes"],
        "DesiredShardLevelMetrics": ["OutgoingBytes"],
    }
    assert shown() == [{"ShardLevelMetrics": ["OutgoingBytes"]}]


def test_yandex_has_no_action_to_enable_metrics_of_single_shards_and_tells_what_there_is(
    yandex: Wire, store: StreamStore
) -> None:
    metrics = {"StreamName": "clicks", "ShardLevelMetrics": ["ALL"]}
    refused = yandex.ask("EnableEnhancedMonitoring", metrics)
    assert refused.error == (400, "InvalidAction")
    assert refused.message == "Method is not implemented yet. Yandex Data Streams has no metrics of single shards."
    assert yandex.ask("EnableEnhancedMonitoring", {**metrics, "StreamName": "none"}).error == (
        400,
        "ResourceNotFoundException",
    )
    store.enable_enhanced_monitoring("clicks", ["ALL"])
    stream = yandex.ask("DescribeStream", {"StreamName": "clicks"}).map("StreamDescription")
    assert stream["EnhancedMonitoring"] == [{"ShardLevelMetrics": ["ALL"]}]
    for current in (["ALL"], list[str]()):
        assert yandex.ask("DisableEnhancedMonitoring", metrics).body == {
            "StreamName": "clicks",
            "StreamARN": "clicks",
            "CurrentShardLevelMetrics": current,
            "DesiredShardLevelMetrics": [],
        }


@pytest.mark.parametrize("action", ["EnableEnhancedMonitoring", "DisableEnhancedMonitoring"])
@pytest.mark.parametrize("metrics", [[], ["ALL"] * 8, ["IncomingByte"]])
def test_what_are_no_metrics_of_shards_is_refused_in_the_words_of_the_service(
    metrics: list[str], action: str, aws: Wire
) -> None:
    answer = aws.ask(action, {"StreamName": "clicks", "ShardLevelMetrics": metrics})
    assert answer.error == (400, "ValidationException")
    assert "at 'shardLevelMetrics" in str(answer.message)


MEANINGLESS = {
    "StartStreamEncryption": (
        {"StreamName": "clicks", "EncryptionType": "KMS", "KeyId": "alias/aws/kinesis"},
        "KMSNotFoundException",
    ),
    "GetResourcePolicy": ({"ResourceARN": f"{ARN}clicks"}, "ResourceNotFoundException"),
    "PutResourcePolicy": ({"ResourceARN": f"{ARN}clicks", "Policy": "{}"}, "InvalidArgumentException"),
    "DeleteResourcePolicy": ({"ResourceARN": f"{ARN}clicks"}, "ResourceNotFoundException"),
    "UpdateStreamWarmThroughput": ({"StreamName": "clicks", "WarmThroughputMiBps": 1}, "InvalidArgumentException"),
    "UpdateMaxRecordSize": ({"StreamARN": f"{ARN}clicks", "MaxRecordSizeInKiB": 2048}, "InvalidArgumentException"),
    "UpdateAccountSettings": (
        {"MinimumThroughputBillingCommitment": {"Status": "ENABLED"}},
        "InvalidArgumentException",
    ),
}


@pytest.mark.parametrize("action", MEANINGLESS)
def test_what_has_no_meaning_here_is_refused_and_says_why(action: str, aws: Wire) -> None:
    members, error = MEANINGLESS[action]
    answer = aws.ask(action, members)
    assert answer.error == (400, error)
    assert answer.message


def test_what_is_true_without_doing_anything_is_answered(aws: Wire) -> None:
    encryption = {"StreamName": "clicks", "EncryptionType": "KMS", "KeyId": "alias/aws/kinesis"}
    assert aws.ask("StopStreamEncryption", encryption).status == 200
    assert aws.ask("UpdateMaxRecordSize", {"StreamARN": f"{ARN}clicks", "MaxRecordSizeInKiB": 1024}).status == 200
    disabled = {"MinimumThroughputBillingCommitment": {"Status": "DISABLED"}}
    assert aws.ask("UpdateAccountSettings", disabled).body == disabled
    assert aws.ask("DescribeAccountSettings").body == disabled


@pytest.mark.parametrize(
    ("action", "members"),
    [
        ("PutRecord", {"StreamName": "clicks", "Data": b"x", "PartitionKey": "a"}),
        ("PutRecords", {"StreamName": "clicks", "Records": [{"Data": b"x", "PartitionKey": "a"}]}),
    ],
)
def test_a_rehearsal_stores_nothing(action: str, members: dict[str, object], aws: Wire) -> None:
    assert aws.ask(action, {**members, "DryRun": True}).error == (400, "InvalidArgumentException")
    assert read_all(aws, "shardId-000000000000") == read_all(aws, "shardId-000000000001") == []


def test_yandex_takes_its_own_settings_and_a_path_for_a_name(yandex: Wire) -> None:
    create = {"StreamName": "quick", "ShardCount": 1, "WriteQuotaKbPerSec": 512, "RetentionPeriodHours": 4}
    assert yandex.ask("CreateStream", create).body == {}
    path = "/ru-central1/b1g0000/etn0000/quick"
    stream = yandex.ask("DescribeStream", {"StreamName": path}).map("StreamDescription")
    assert (stream["StreamARN"], stream["WriteQuotaKbPerSec"], stream["RetentionPeriodHours"]) == ("quick", 512, 4)
    update = {"StreamName": "quick", "ShardCount": 2, "RetentionPeriodHours": 12}
    assert yandex.ask("UpdateStream", update).body == {**update, "WriteQuotaKbPerSec": 512}
    assert yandex.ask("SetWriteQuota", {"StreamName": "quick", "WriteQuotaKbPerSec": 1024}).body == {}
    arn = yandex.ask("DescribeStream", {"StreamArn": "quick"}).map("StreamDescription")
    assert arn["WriteQuotaKbPerSec"] == 1024


@pytest.mark.parametrize("action", ["StopStreamEncryption", "StartStreamEncryption", "EnableEnhancedMonitoring"])
@pytest.mark.parametrize("path", ["/", "/ru-central1/"])
def test_a_path_without_a_name_is_no_name(path: str, action: str, yandex: Wire) -> None:
    members = {"StreamName": path} | (
        {"ShardLevelMetrics": ["ALL"]} if "Monitoring" in action else {"EncryptionType": "KMS", "KeyId": "k"}
    )
    assert yandex.ask(action, members).error == (400, "InvalidArgumentException")
