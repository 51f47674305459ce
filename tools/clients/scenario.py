"""What every client does, and what must come of it: the whole life of a stream, with its errors.

The conversation keeps all that the client was told, to be compared with the others; what is asserted here would be
wrong even if all agreed.
"""

import base64
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, cast

from tools.clients.conversation import Conversation, Members, Outcome

__all__ = ["Lost", "live", "live_over_tls", "read_only", "wrong_secret"]

STREAM: Final = "orders"
OTHER: Final = "narrow"
ARN: Final = f"arn:aws:kinesis:us-east-1:000000000000:stream/{STREAM}"
SHARD: Final = "shardId-{:012}"
HASH_KEYS: Final = 2**128
ALL_BYTES: Final = base64.b64encode(bytes(range(256))).decode()
SECOND_S: Final = 1.05
"""Some clients send times in whole seconds."""


class Lost(NamedTuple):
    """A way to have the next answer get lost, and to know of the put requests that the server has answered."""

    lose_next_answer: Callable[[], None]
    answers_lost: Callable[[], int]
    puts_answered: Callable[[], int]


def live(client: Conversation, lost: Lost) -> None:
    """Create a stream, fill it, read it in all ways, change it, and delete it."""
    create(client)
    stored = put(client)
    stored += put_what_gets_lost(client, lost)
    list_shards(client)
    position(client, stored[0])
    stored += reshard(client)
    consume(client, stored)
    subscribe(client)
    settle(client)
    be_refused(client)
    delete(client)


def text(data: str) -> str:
    return base64.b64encode(data.encode()).decode()


def create(client: Conversation) -> None:
    client.call("CreateStream", StreamName=STREAM, ShardCount=2)
    client.wait("StreamExists", StreamName=STREAM)
    summary = cast(Members, client.call("DescribeStreamSummary", StreamName=STREAM).map()["StreamDescriptionSummary"])
    assert (summary["StreamStatus"], summary["OpenShardCount"], summary["StreamARN"]) == ("ACTIVE", 2, ARN)
    created_ms = cast(int, summary["StreamCreationTimestamp"])
    assert abs(created_ms - time.time_ns() // 1_000_000) < 600_000
    client.call("CreateStream", StreamName=OTHER, ShardCount=1)
    first = client.call("ListStreams", Limit=1)
    second = client.call("ListStreams", NextToken=first.text("NextToken"))
    assert (first.map()["StreamNames"], first.map()["HasMoreStreams"]) == ([OTHER], True)
    assert (second.map()["StreamNames"], second.map()["HasMoreStreams"]) == ([STREAM], False)
    client.call("DescribeStream", StreamARN=ARN)
    client.call("DescribeLimits")


def put(client: Conversation) -> list[str]:
    """Return the data that were put, in their order in the shard of the first."""
    first = client.call("PutRecord", StreamName=STREAM, Data=ALL_BYTES, PartitionKey="user1", ExplicitHashKey="0")
    assert first.text("ShardId") == SHARD.format(0)
    client.call(
        "PutRecord",
        StreamARN=ARN,
        Data=text("later"),
        PartitionKey="ключ 🔑",
        ExplicitHashKey="0",
        SequenceNumberForOrdering=first.text("SequenceNumber"),
    )
    many = [text(f"{number} ö €") for number in range(10)]
    records = [{"Data": data, "PartitionKey": f"user{number}"} for number, data in enumerate(many)]
    result = client.call("PutRecords", StreamName=STREAM, Records=records)
    assert (result.map()["FailedRecordCount"], len(result.maps("Records"))) == (0, 10)
    return [ALL_BYTES, text("later"), *many]


def put_what_gets_lost(client: Conversation, lost: Lost) -> list[str]:
    """Put while answers get lost. The client puts again by itself, and each record is stored once."""
    data = [text(f"lost {number}") for number in range(3)]
    before = lost.puts_answered(), lost.answers_lost()
    lost.lose_next_answer()
    client.call("PutRecord", StreamName=STREAM, Data=data[0], PartitionKey="lost", ExplicitHashKey="0").map()
    lost.lose_next_answer()
    records = [{"Data": each, "PartitionKey": "lost", "ExplicitHashKey": "0"} for each in data[1:]]
    client.call("PutRecords", StreamName=STREAM, Records=records).map()
    assert (lost.puts_answered(), lost.answers_lost()) == (before[0] + 4, before[1] + 2)
    return data


def list_shards(client: Conversation) -> None:
    page = client.call("ListShards", StreamName=STREAM, MaxResults=1)
    rest = client.call("ListShards", NextToken=page.text("NextToken"), MaxResults=1)
    assert [shard["ShardId"] for shard in page.maps("Shards") + rest.maps("Shards")] == [
        SHARD.format(0),
        SHARD.format(1),
    ]
    assert "NextToken" not in rest.map()
    client.call("ListShards", StreamName=STREAM, ShardFilter={"Type": "AT_LATEST"})


def iterator(client: Conversation, shard_id: str, kind: str, **members: object) -> str:
    answer = client.call("GetShardIterator", StreamName=STREAM, ShardId=shard_id, ShardIteratorType=kind, **members)
    return answer.text("ShardIterator")


def pages(client: Conversation, token: str, limit: int) -> Iterator[Outcome]:
    """Read until the shard ends, or nothing newer is there."""
    while True:
        page = client.call("GetRecords", ShardIterator=token, Limit=limit)
        yield page
        if page.map().get("NextShardIterator") is None or page.map()["MillisBehindLatest"] == 0:
            return
        token = page.text("NextShardIterator")


def data_from(client: Conversation, shard_id: str, kind: str, **members: object) -> list[object]:
    read = pages(client, iterator(client, shard_id, kind, **members), limit=4)
    return [record["Data"] for page in read for record in page.maps("Records")]


def position(client: Conversation, first: str) -> None:
    """Read from each kind of place in the first shard."""
    shard_id = SHARD.format(0)
    everything = data_from(client, shard_id, "TRIM_HORIZON")
    assert everything[:2] == [first, text("later")]
    place = iterator(client, shard_id, "TRIM_HORIZON")
    record = client.call("GetRecords", ShardIterator=place, Limit=1).maps("Records")[0]
    number = record["SequenceNumber"]
    assert abs(cast(int, record["ApproximateArrivalTimestamp"]) - time.time_ns() // 1_000_000) < 600_000
    assert data_from(client, shard_id, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=number) == everything
    assert data_from(client, shard_id, "AFTER_SEQUENCE_NUMBER", StartingSequenceNumber=number) == everything[1:]
    latest = iterator(client, shard_id, "LATEST")
    time.sleep(SECOND_S)
    client.call("PutRecord", StreamName=STREAM, Data=text("new"), PartitionKey="k", ExplicitHashKey="0")
    page = client.call("GetRecords", ShardIterator=latest)
    assert [record["Data"] for record in page.maps("Records")] == [text("new")]
    arrival_ms = cast(int, page.maps("Records")[0]["ApproximateArrivalTimestamp"])
    second_ms = arrival_ms // 1000 * 1000
    assert data_from(client, shard_id, "AT_TIMESTAMP", Timestamp=second_ms) == [text("new")]
    assert data_from(client, shard_id, "AT_TIMESTAMP", Timestamp=second_ms - 3_600_000) == [*everything, text("new")]


def reshard(client: Conversation) -> list[str]:
    """Split the first shard, merge one half with the second, and put before, between and behind."""
    client.call(
        "SplitShard", StreamName=STREAM, ShardToSplit=SHARD.format(0), NewStartingHashKey=str(HASH_KEYS // 4)
    ).map()
    client.wait("StreamExists", StreamName=STREAM)
    client.call("PutRecord", StreamName=STREAM, Data=text("split"), PartitionKey="k", ExplicitHashKey="0")
    client.call(
        "MergeShards", StreamName=STREAM, ShardToMerge=SHARD.format(3), AdjacentShardToMerge=SHARD.format(1)
    ).map()
    client.wait("StreamExists", StreamName=STREAM)
    last = str(HASH_KEYS - 1)
    client.call("PutRecord", StreamName=STREAM, Data=text("merged"), PartitionKey="k", ExplicitHashKey=last)
    return [text("new"), text("split"), text("merged")]


def consume(client: Conversation, stored: list[str]) -> None:
    """Read as a consumer does: the shards without parents to their end, then their children."""
    listed = client.call("ListShards", StreamName=STREAM).maps("Shards")
    waiting = [str(shard["ShardId"]) for shard in listed if "ParentShardId" not in shard]
    assert waiting == [SHARD.format(0), SHARD.format(1)]
    done: list[str] = []
    seen: list[object] = []
    while waiting:
        shard_id = waiting.pop(0)
        done.append(shard_id)
        for page in pages(client, iterator(client, shard_id, "TRIM_HORIZON"), limit=3):
            seen += [record["Data"] for record in page.maps("Records")]
            for child in page.maps("ChildShards"):
                parents = cast("list[str]", child["ParentShards"])
                if set(parents) <= set(done):
                    waiting.append(str(child["ShardId"]))
    assert done == [SHARD.format(number) for number in range(5)], done
    assert sorted(map(str, seen)) == sorted(stored)
    in_order = [data for data in seen if data in (ALL_BYTES, text("later"), text("new"), text("split"))]
    assert in_order == [ALL_BYTES, text("later"), text("new"), text("split")]


def subscribe(client: Conversation) -> None:
    """Register a consumer, and read a shard that has ended and one that is put to meanwhile, as events."""
    registered = client.call("RegisterStreamConsumer", StreamARN=ARN, ConsumerName="dashboard")
    consumer_arn = cast(Members, registered.map()["Consumer"])["ConsumerARN"]
    client.call("DescribeStreamConsumer", StreamARN=ARN, ConsumerName="dashboard")
    assert len(client.call("ListStreamConsumers", StreamARN=ARN).maps("Consumers")) == 1
    last, new = str(HASH_KEYS - 1), text("put while it is subscribed")
    put_new: Members = {"StreamName": STREAM, "Data": new, "PartitionKey": "k", "ExplicitHashKey": last}
    for shard, records, meanwhile in ((0, 1_000, None), (4, 2, ("PutRecord", put_new))):
        everything = data_from(client, SHARD.format(shard), "TRIM_HORIZON")
        events = client.subscribe(
            records,
            meanwhile,
            ConsumerARN=consumer_arn,
            ShardId=SHARD.format(shard),
            StartingPosition={"Type": "TRIM_HORIZON"},
        )
        if events.lacks is not None:
            continue
        if meanwhile is not None:
            everything.append(new)
        told = cast("list[Members]", events.output)
        found = [record["Data"] for event in told for record in cast("list[Members]", event["Records"])]
        assert found == everything, (found, everything)
        children = [child["ShardId"] for child in cast("list[Members]", told[-1].get("ChildShards") or [])]
        assert children == ([SHARD.format(2), SHARD.format(3)] if shard == 0 else [])


def settle(client: Conversation) -> None:
    """Change what can be changed."""
    client.call("AddTagsToStream", StreamName=STREAM, Tags={"team": "shop", "cost": "низкая"}).map()
    client.call("RemoveTagsFromStream", StreamName=STREAM, TagKeys=["team"]).map()
    assert client.call("ListTagsForStream", StreamName=STREAM).maps("Tags") == [{"Key": "cost", "Value": "низкая"}]
    client.call("TagResource", ResourceARN=ARN, Tags={"a": "b"}).map()
    client.call("UntagResource", ResourceARN=ARN, TagKeys=["a"]).map()
    assert len(client.call("ListTagsForResource", ResourceARN=ARN).maps("Tags")) == 1
    client.call("IncreaseStreamRetentionPeriod", StreamName=STREAM, RetentionPeriodHours=48).map()
    client.call("DecreaseStreamRetentionPeriod", StreamName=STREAM, RetentionPeriodHours=36).map()
    client.call("UpdateShardCount", StreamName=OTHER, TargetShardCount=2, ScalingType="UNIFORM_SCALING").map()
    client.wait("StreamExists", StreamName=OTHER)
    summary = cast(Members, client.call("DescribeStreamSummary", StreamName=STREAM).map()["StreamDescriptionSummary"])
    assert (summary["RetentionPeriodHours"], summary["ConsumerCount"], summary["OpenShardCount"]) == (36, 1, 2)


def be_refused(client: Conversation) -> None:
    """Ask for what cannot be."""
    record = {"Data": text("x"), "PartitionKey": "k"}
    place = {"ShardId": SHARD.format(0), "ShardIteratorType": "TRIM_HORIZON"}
    refused: list[tuple[str, str, Members]] = [
        ("ResourceNotFoundException", "DescribeStreamSummary", {"StreamName": "missing"}),
        ("ResourceNotFoundException", "PutRecord", {"StreamName": "missing", **record}),
        ("ResourceNotFoundException", "GetShardIterator", {"StreamName": STREAM, **place, "ShardId": SHARD.format(99)}),
        ("ResourceNotFoundException", "DescribeStreamConsumer", {"StreamARN": ARN, "ConsumerName": "missing"}),
        ("ResourceInUseException", "CreateStream", {"StreamName": STREAM, "ShardCount": 1}),
        ("ResourceInUseException", "RegisterStreamConsumer", {"StreamARN": ARN, "ConsumerName": "dashboard"}),
        ("ResourceInUseException", "DeleteStream", {"StreamName": STREAM}),
        ("ValidationException", "PutRecord", {"StreamName": "no name!", **record}),
        ("ValidationException", "PutRecord", {"StreamName": STREAM, **record, "ExplicitHashKey": "zero"}),
        ("InvalidArgumentException", "PutRecord", {"StreamName": STREAM, **record, "ExplicitHashKey": str(HASH_KEYS)}),
        ("InvalidArgumentException", "GetRecords", {"ShardIterator": "AAAA"}),
        ("InvalidArgumentException", "ListShards", {"StreamName": STREAM, "NextToken": "AAAA"}),
        (
            "InvalidArgumentException",
            "IncreaseStreamRetentionPeriod",
            {"StreamName": STREAM, "RetentionPeriodHours": 1},
        ),
        (
            "InvalidArgumentException",
            "SplitShard",
            {"StreamName": STREAM, "ShardToSplit": SHARD.format(2), "NewStartingHashKey": "0"},
        ),
        (
            "InvalidArgumentException",
            "MergeShards",
            {"StreamName": STREAM, "ShardToMerge": SHARD.format(2), "AdjacentShardToMerge": SHARD.format(2)},
        ),
    ]
    for code, action, members in refused:
        assert client.call(action, **members).code() == code, (code, client.talks[-1])


def delete(client: Conversation) -> None:
    client.call("DeregisterStreamConsumer", StreamARN=ARN, ConsumerName="dashboard").map()
    for stream in (STREAM, OTHER):
        client.call("DeleteStream", StreamName=stream, EnforceConsumerDeletion=True).map()
        client.wait("StreamNotExists", StreamName=stream)
    assert client.call("ListStreams").map()["StreamNames"] == []
    assert client.call("DescribeStream", StreamName=STREAM).code() == "ResourceNotFoundException"


def wrong_secret(client: Conversation) -> None:
    """Nothing is answered to who signs with another secret."""
    for asked in (
        client.call("ListStreams"),
        client.call("CreateStream", StreamName=STREAM, ShardCount=1),
    ):
        assert asked.code() == "InvalidSignatureException"
        assert "signature we calculated does not match" in str((asked.error or {})["message"])


def read_only(client: Conversation) -> None:
    """Who may only read is told so."""
    assert client.call("ListStreams").map()["StreamNames"] == []
    assert client.call("CreateStream", StreamName=STREAM, ShardCount=1).code() == "AccessDeniedException"


def live_over_tls(client: Conversation) -> None:
    """A short life of a stream, encrypted on its way."""
    client.call("CreateStream", StreamName=STREAM, ShardCount=1).map()
    data = [text(f"secret {number}") for number in range(3)]
    for each in data:
        client.call("PutRecord", StreamName=STREAM, Data=each, PartitionKey="k").map()
    assert data_from(client, SHARD.format(0), "TRIM_HORIZON") == data
    client.call("DeleteStream", StreamName=STREAM).map()
