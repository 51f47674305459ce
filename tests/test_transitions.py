"""Streams that are CREATING, UPDATING and DELETING for a while, as clients of the service know them."""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import boto3
import pytest
from botocore.exceptions import ClientError

from streamstore import InvalidArgumentException, StreamStore
from streamstore.wire import Dispatcher, aiobotocore_client, app, boto3_client
from tests.children import WAIT_S, started
from tests.conftest import Clock
from tests.test_serve import command, serving
from tests.wire import Wire, decoded

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_kinesis.type_defs import WaiterConfigTypeDef

MS: Final = 1_000
SHARD: Final = "shardId-000000000000"
SECOND_SHARD: Final = "shardId-000000000001"
NAME: Final = {"StreamName": "s"}
ARN: Final = {"ResourceARN": "arn:aws:kinesis:us-east-1:000000000000:stream/s"}
PUT: Final = {**NAME, "Data": b"x", "PartitionKey": "k"}
UNDER: Final = "Stream s under account 000000000000"
UPDATES: Final[list[tuple[str, Mapping[str, object]]]] = [
    ("SplitShard", {**NAME, "ShardToSplit": SHARD, "NewStartingHashKey": "9"}),
    ("MergeShards", {**NAME, "ShardToMerge": SHARD, "AdjacentShardToMerge": SECOND_SHARD}),
    ("UpdateShardCount", {**NAME, "TargetShardCount": 3, "ScalingType": "UNIFORM_SCALING"}),
    ("IncreaseStreamRetentionPeriod", {**NAME, "RetentionPeriodHours": 48}),
    ("DecreaseStreamRetentionPeriod", {**NAME, "RetentionPeriodHours": 24}),
    ("UpdateMaxRecordSize", {"StreamARN": ARN["ResourceARN"], "MaxRecordSizeInKiB": 1024}),
    (
        "UpdateStreamMode",
        {"StreamARN": ARN["ResourceARN"], "StreamModeDetails": {"StreamMode": "ON_DEMAND"}},
    ),
    ("EnableEnhancedMonitoring", {**NAME, "ShardLevelMetrics": ["ALL"]}),
    ("DisableEnhancedMonitoring", {**NAME, "ShardLevelMetrics": ["ALL"]}),
]
NEED_ACTIVE: Final[list[tuple[str, Mapping[str, object]]]] = [
    *UPDATES,
    ("DeleteStream", NAME),
    ("AddTagsToStream", {**NAME, "Tags": {"a": "b"}}),
    ("RemoveTagsFromStream", {**NAME, "TagKeys": ["a"]}),
    ("TagResource", {**ARN, "Tags": {"a": "b"}}),
    ("UntagResource", {**ARN, "TagKeys": ["a"]}),
    ("RegisterStreamConsumer", {"StreamARN": ARN["ResourceARN"], "ConsumerName": "c"}),
]
OF_YANDEX: Final[list[tuple[str, Mapping[str, object]]]] = [
    ("UpdateStream", {**NAME, "ShardCount": 3}),
    ("SetWriteQuota", {**NAME, "WriteQuotaKbPerSec": 128}),
]


BY_ARN: Final = {"StreamARN": ARN["ResourceARN"]}


@pytest.fixture
def wire(aws_store: StreamStore) -> Wire:
    return Wire(Dispatcher(aws_store, transition_ms=MS))


def status(wire: Wire) -> object:
    """Return the status that a stream has, as each of the actions tells it."""
    described = wire.ask("DescribeStream", NAME)
    if described.status == 400:
        assert wire.ask("DescribeStreamSummary", NAME).error == described.error
        return described.body["__type"]
    told = described.map("StreamDescription")["StreamStatus"]
    assert wire.ask("DescribeStreamSummary", NAME).map("StreamDescriptionSummary")["StreamStatus"] == told
    listed = [stream["StreamStatus"] for stream in wire.ask("ListStreams").maps("StreamSummaries")]
    assert listed == ([] if told == "DELETING" else [told])
    return told


def create(wire: Wire, shard_count: int = 2) -> None:
    assert wire.ask("CreateStream", {**NAME, "ShardCount": shard_count}).status == 200


def refuse_changes(wire: Wire, state: str) -> None:
    for action, members in NEED_ACTIVE:
        answer = wire.ask(action, members)
        assert answer.error == (400, "ResourceInUseException"), action
        assert str(answer.message).startswith(f"{UNDER} not ACTIVE, instead in state {state}"), action


def test_a_new_stream_is_creating_and_has_no_shards_yet(wire: Wire, clock: Clock) -> None:
    create(wire)
    for _ in range(2):
        assert status(wire) == "CREATING"
        description = wire.ask("DescribeStream", NAME).map("StreamDescription")
        assert (description["Shards"], description["HasMoreShards"]) == ([], False)
        assert wire.ask("DescribeStreamSummary", NAME).map("StreamDescriptionSummary")["OpenShardCount"] == 0
        clock.advance(MS // 2 - 1)
    clock.advance(2)
    assert status(wire) == "ACTIVE"
    assert len(wire.ask("DescribeStream", NAME).map("StreamDescription")["Shards"]) == 2  # type: ignore[arg-type]
    assert wire.ask("DescribeStreamSummary", NAME).map("StreamDescriptionSummary")["OpenShardCount"] == 2


def test_nothing_is_put_into_or_read_from_a_stream_that_is_creating(wire: Wire, clock: Clock) -> None:
    create(wire)
    start = {**NAME, "ShardId": SHARD, "ShardIteratorType": "LATEST"}
    for action, members, name, words in [
        ("PutRecord", PUT, "ResourceNotFoundException", f"{UNDER} not found."),
        ("PutRecords", {**NAME, "Records": [PUT]}, "ResourceNotFoundException", f"{UNDER} not found."),
        ("GetShardIterator", start, "ResourceNotFoundException", f"Shard {SHARD} in {UNDER.lower()} does not exist"),
        ("ListShards", NAME, "ResourceInUseException", f"{UNDER} not ACTIVE, instead in state CREATING"),
    ]:
        answer = wire.ask(action, members)
        assert (answer.error, str(answer.message).partition(";")[0]) == ((400, name), words)
        awaited = decoded(asyncio.run(wire.dispatcher.answer_async(wire.request(action, members))))
        assert (awaited.error, awaited.message) == (answer.error, answer.message)
    refuse_changes(wire, "CREATING")
    clock.advance(MS)
    assert wire.ask("PutRecord", PUT).text("SequenceNumber") == "0", "nothing was stored before"


@pytest.mark.parametrize(("action", "members"), UPDATES, ids=[action for action, _ in UPDATES])
def test_a_changed_stream_is_updating_and_read_and_written_meanwhile(
    wire: Wire, clock: Clock, action: str, members: Mapping[str, object]
) -> None:
    create(wire)
    clock.advance(MS)
    if action.startswith("Decrease"):
        wire.ask("IncreaseStreamRetentionPeriod", {**NAME, "RetentionPeriodHours": 48})
        clock.advance(MS)
    assert wire.ask(action, members).status == 200
    assert status(wire) == "UPDATING"
    put = wire.ask("PutRecord", PUT)
    place = {"ShardIteratorType": "AT_SEQUENCE_NUMBER", "StartingSequenceNumber": put.text("SequenceNumber")}
    iterator = wire.ask("GetShardIterator", {**NAME, "ShardId": put.text("ShardId"), **place}).text("ShardIterator")
    assert len(wire.ask("GetRecords", {"ShardIterator": iterator}).maps("Records")) == 1
    assert wire.ask("ListShards", NAME).status == 200
    assert len(wire.ask("DescribeStream", NAME).map("StreamDescription")["Shards"]) >= 2  # type: ignore[arg-type]
    refuse_changes(wire, "UPDATING")
    clock.advance(MS - 1)
    assert status(wire) == "UPDATING"
    clock.advance(1)
    assert status(wire) == "ACTIVE"


@pytest.mark.parametrize(("action", "members"), OF_YANDEX, ids=[action for action, _ in OF_YANDEX])
def test_a_stream_of_yandex_is_updating_too(
    store: StreamStore, clock: Clock, action: str, members: Mapping[str, object]
) -> None:
    wire = Wire(Dispatcher(store, transition_ms=MS))
    create(wire)
    clock.advance(MS)
    assert wire.ask(action, members).status == 200
    assert status(wire) == "UPDATING"
    assert wire.ask(action, members).error == (400, "ResourceInUseException")
    clock.advance(MS)
    assert wire.ask(action, members).status == 200


def test_a_deleted_stream_is_deleting_and_then_its_name_is_free(
    wire: Wire, aws_store: StreamStore, clock: Clock
) -> None:
    create(wire)
    clock.advance(MS)
    described = wire.ask("DescribeStream", NAME).map("StreamDescription")
    assert wire.ask("DeleteStream", NAME).status == 200
    assert aws_store.list_streams().stream_names == (), "what is stored is stored at once"
    assert status(wire) == "DELETING"
    deleting = wire.ask("DescribeStream", NAME).map("StreamDescription")
    assert deleting == {**described, "StreamStatus": "DELETING", "Shards": []}
    assert wire.ask("PutRecord", PUT).message == f"{UNDER} not found."
    assert wire.ask("ListShards", NAME).message == f"{UNDER} not found."
    refuse_changes(wire, "DELETING")
    again = wire.ask("CreateStream", {**NAME, "ShardCount": 1})
    assert again.error == (400, "ResourceInUseException")
    assert str(again.message).startswith(f"{UNDER} already exists")
    clock.advance(MS)
    assert status(wire) == "ResourceNotFoundException"
    create(wire)
    assert status(wire) == "CREATING"


def test_a_refused_change_begins_nothing(wire: Wire, clock: Clock) -> None:
    assert wire.ask("DeleteStream", NAME).message == f"{UNDER} not found."
    assert status(wire) == "ResourceNotFoundException"
    create(wire)
    clock.advance(MS)
    assert wire.ask("SplitShard", {**NAME, "ShardToSplit": SHARD, "NewStartingHashKey": "0"}).status == 400
    assert wire.ask("AddTagsToStream", {**NAME, "Tags": {"a": "b"}}).status == 200  # and tags change no status
    assert status(wire) == "ACTIVE"


def test_one_stream_waits_for_itself_only(wire: Wire) -> None:
    create(wire)
    assert wire.ask("CreateStream", {"StreamName": "t", "ShardCount": 1}).status == 200
    assert status_of_all(wire) == {"s": "CREATING", "t": "CREATING"}


def status_of_all(wire: Wire) -> dict[object, object]:
    return {each["StreamName"]: each["StreamStatus"] for each in wire.ask("ListStreams").maps("StreamSummaries")}


def test_what_somebody_else_made_of_the_name_is_shown_as_it_is(
    wire: Wire, aws_store: StreamStore, clock: Clock
) -> None:
    create(wire)
    aws_store.delete_stream("s")
    assert status(wire) == "ResourceNotFoundException"
    clock.advance(1)
    aws_store.create_stream("s")
    assert status(wire) == "ACTIVE"
    assert wire.ask("PutRecord", PUT).status == 200
    assert wire.ask("DeleteStream", NAME).status == 200
    clock.advance(1)
    aws_store.create_stream("s")
    assert status(wire) == "ACTIVE"


def test_all_has_ended_for_who_starts_anew_and_where_the_clock_is_set_back(
    wire: Wire, aws_store: StreamStore, clock: Clock
) -> None:
    create(wire)
    assert status(Wire(Dispatcher(aws_store, transition_ms=MS))) == "ACTIVE"
    clock.advance(-1)
    assert status(wire) == "ACTIVE"


def test_at_once_unless_asked(aws_store: StreamStore) -> None:
    wire = Wire(Dispatcher(aws_store))
    create(wire)
    assert status(wire) == "ACTIVE"
    assert wire.ask("DeleteStream", NAME).status == 200
    create(wire)


def test_of_two_changes_at_once_one_is_made(wire: Wire, aws_store: StreamStore, clock: Clock) -> None:
    create(wire)
    clock.advance(MS)
    update, both = aws_store.update_shard_count, threading.Barrier(2)

    def update_when_both_are_here(name: str, count: int) -> object:
        with suppress(threading.BrokenBarrierError):
            both.wait(timeout=1)
        return update(name, count)

    aws_store.__dict__["update_shard_count"] = update_when_both_are_here
    answers: list[object] = []

    def ask(count: int) -> None:
        members = {**NAME, "TargetShardCount": count, "ScalingType": "UNIFORM_SCALING"}
        answers.append(wire.ask("UpdateShardCount", members).body.get("__type", "made"))

    threads = [threading.Thread(target=ask, args=(count,)) for count in (3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    del aws_store.__dict__["update_shard_count"]
    assert sorted(map(str, answers)) == ["ResourceInUseException", "made"]


def register(wire: Wire, name: str = "c") -> str:
    """Return the ARN of a new consumer."""
    consumer = wire.ask("RegisterStreamConsumer", {**BY_ARN, "ConsumerName": name}).map("Consumer")
    assert consumer["ConsumerStatus"] == "CREATING"
    return str(consumer["ConsumerARN"])


def status_of_consumer(wire: Wire, arn: str, name: str = "c") -> object:
    """Return the status that a consumer has, as each of the actions tells it."""
    told = wire.ask("DescribeStreamConsumer", {"ConsumerARN": arn})
    by_name = wire.ask("DescribeStreamConsumer", {**BY_ARN, "ConsumerName": name})
    assert by_name.status == told.status
    listed = {
        each["ConsumerARN"]: each["ConsumerStatus"]
        for each in wire.ask("ListStreamConsumers", BY_ARN).maps("Consumers")
    }
    if told.status == 400:
        assert arn not in listed
        return told.body["__type"]
    description = told.map("ConsumerDescription")
    assert by_name.map("ConsumerDescription") == description
    assert listed.get(arn) == (None if description["ConsumerStatus"] == "DELETING" else description["ConsumerStatus"])
    return description["ConsumerStatus"]


def subscription(arn: str) -> Mapping[str, object]:
    return {"ConsumerARN": arn, "ShardId": SHARD, "StartingPosition": {"Type": "TRIM_HORIZON"}}


@pytest.fixture
def consumers(wire: Wire, clock: Clock) -> Wire:
    """A stream that is ACTIVE."""
    create(wire)
    clock.advance(MS)
    return wire


def test_a_new_consumer_is_creating_and_subscribes_behind_that(consumers: Wire, clock: Clock) -> None:
    arn = register(consumers)
    assert status_of_consumer(consumers, arn) == "CREATING"
    request = consumers.request("SubscribeToShard", subscription(arn))
    for refused in (
        consumers.ask("SubscribeToShard", subscription(arn)),
        decoded(asyncio.run(consumers.dispatcher.answer_async(request))),
    ):
        assert refused.error == (400, "ResourceInUseException")
        assert str(refused.message).startswith("Consumer c of stream s not ACTIVE, instead in state CREATING")
    clock.advance(MS - 1)
    assert status_of_consumer(consumers, arn) == "CREATING"
    clock.advance(1)
    assert status_of_consumer(consumers, arn) == "ACTIVE"
    response = consumers.dispatcher.answer(request)
    response.close()
    assert response.status == 200


def test_a_consumer_that_is_deregistered_is_deleting_and_then_its_name_is_free(
    consumers: Wire, aws_store: StreamStore, clock: Clock
) -> None:
    arn = register(consumers)
    clock.advance(MS)
    assert consumers.ask("DeregisterStreamConsumer", {"ConsumerARN": arn}).status == 200
    assert aws_store.list_stream_consumers("s").consumers == (), "what is stored is stored at once"
    assert status_of_consumer(consumers, arn) == "DELETING"
    again = consumers.ask("RegisterStreamConsumer", {**BY_ARN, "ConsumerName": "c"})
    assert again.error == (400, "ResourceInUseException")
    assert consumers.ask("SubscribeToShard", subscription(arn)).error == (400, "ResourceNotFoundException")
    assert consumers.ask("DeregisterStreamConsumer", {"ConsumerARN": arn}).error == (400, "ResourceNotFoundException")
    other = register(consumers, "other")
    assert status_of_consumer(consumers, other, "other") == "CREATING"
    clock.advance(MS)
    assert status_of_consumer(consumers, arn) == "ResourceNotFoundException"
    assert status_of_consumer(consumers, register(consumers)) == "CREATING"


def test_one_that_is_creating_may_be_deregistered(consumers: Wire) -> None:
    arn = register(consumers)
    assert consumers.ask("DeregisterStreamConsumer", {**BY_ARN, "ConsumerName": "c"}).status == 200
    assert status_of_consumer(consumers, arn) == "DELETING"


def test_five_consumers_of_a_stream_are_creating_at_once(consumers: Wire, aws_store: StreamStore, clock: Clock) -> None:
    assert consumers.ask("CreateStream", {"StreamName": "t", "ShardCount": 1}).status == 200
    clock.advance(MS)
    for number in range(5):
        register(consumers, f"c{number}")
    sixth = {**BY_ARN, "ConsumerName": "sixth"}
    refused = consumers.ask("RegisterStreamConsumer", sixth)
    assert refused.error == (400, "LimitExceededException")
    assert "5 consumers of a stream that are CREATING" in str(refused.message)
    assert len(aws_store.list_stream_consumers("s").consumers) == 5
    of_another = {"StreamARN": aws_store.stream_arn("t"), "ConsumerName": "c"}
    assert consumers.ask("RegisterStreamConsumer", of_another).status == 200
    aws_store.deregister_stream_consumer("s", "c3")
    assert consumers.ask("RegisterStreamConsumer", sixth).status == 200, "somebody else has taken one away"
    clock.advance(MS)
    register(consumers, "seventh")


def test_a_consumer_that_somebody_else_changed_is_shown_as_it_is(
    consumers: Wire, aws_store: StreamStore, clock: Clock
) -> None:
    arn = register(consumers)
    aws_store.deregister_stream_consumer("s", "c")
    assert status_of_consumer(consumers, arn) == "ResourceNotFoundException"
    assert consumers.ask("SubscribeToShard", subscription(arn)).error == (400, "ResourceNotFoundException")
    clock.advance(MS)
    arn = register(consumers)
    clock.advance(MS)
    assert consumers.ask("DeregisterStreamConsumer", {"ConsumerARN": arn}).status == 200
    clock.advance(MS - 1)
    again = aws_store.register_stream_consumer("s", "c")
    assert status_of_consumer(consumers, again.consumer_arn) == "ACTIVE"


def test_consumers_are_active_at_once_unless_asked(aws_store: StreamStore) -> None:
    wire = Wire(Dispatcher(aws_store))
    create(wire)
    consumer = wire.ask("RegisterStreamConsumer", {**BY_ARN, "ConsumerName": "c"}).map("Consumer")
    assert consumer["ConsumerStatus"] == "ACTIVE"
    assert wire.ask("DeregisterStreamConsumer", {"ConsumerARN": consumer["ConsumerARN"]}).status == 200
    assert wire.ask("RegisterStreamConsumer", {**BY_ARN, "ConsumerName": "c"}).status == 200


def test_waiters_of_boto3_wait_for_it_in_process(aws_store: StreamStore, clock: Clock) -> None:
    client = boto3_client(aws_store, transition_ms=MS)
    looks: list[None] = []

    def let_time_pass(**_: object) -> None:
        looks.append(None)
        clock.advance(MS // 2 - 1)

    client.meta.events.register_first("before-send.kinesis.DescribeStream", let_time_pass)
    wait_for(client, "stream_exists", lambda: client.create_stream(StreamName="s", ShardCount=1), delay_s=0)
    assert len(looks) == 3
    client.put_record(StreamName="s", Data=b"x", PartitionKey="k")
    wait_for(client, "stream_not_exists", lambda: client.delete_stream(StreamName="s"), delay_s=0)
    assert len(looks) == 6


def test_waiters_of_boto3_wait_for_it_at_a_server(tmp_path: Path) -> None:
    with serving(tmp_path / "store", "--transition-ms", MS) as server:
        client = boto3.client(  # pyright: ignore[reportUnknownMemberType]  # other services have no stubs here
            "kinesis",
            endpoint_url=server.url,
            region_name="us-east-1",
            aws_access_key_id="none",
            aws_secret_access_key="none",
        )
        begun_s = time.monotonic()
        wait_for(client, "stream_exists", lambda: client.create_stream(StreamName="s", ShardCount=1), delay_s=1)
        created_s = time.monotonic()
        client.put_record(StreamName="s", Data=b"x", PartitionKey="k")
        wait_for(client, "stream_not_exists", lambda: client.delete_stream(StreamName="s"), delay_s=1)
        assert created_s - begun_s > 0.9 * MS / 1_000
        assert time.monotonic() - created_s > 0.9 * MS / 1_000
        client.close()
        server.end()


def wait_for(client: "KinesisClient", waiter: str, change: Callable[[], object], *, delay_s: int) -> None:
    quick: WaiterConfigTypeDef = {"Delay": delay_s, "MaxAttempts": 60}
    change()
    if waiter == "stream_exists":
        client.get_waiter("stream_exists").wait(StreamName="s", WaiterConfig=quick)
    else:
        client.get_waiter("stream_not_exists").wait(StreamName="s", WaiterConfig=quick)


def test_a_client_of_aiobotocore_has_it_too(aws_store: StreamStore) -> None:
    async def run() -> None:
        async with aiobotocore_client(aws_store, transition_ms=MS) as client:
            await client.create_stream(StreamName="s", ShardCount=1)
            with pytest.raises(ClientError, match="not found"):
                await client.put_record(StreamName="s", Data=b"x", PartitionKey="k")

    asyncio.run(run())


@pytest.mark.parametrize("transition_ms", [-1, 3_600_001, True, 1.0, "1", None])
def test_it_lasts_from_nothing_to_an_hour(aws_store: StreamStore, transition_ms: int) -> None:
    for make in (Dispatcher, app, boto3_client, aiobotocore_client):
        with pytest.raises(InvalidArgumentException, match=r"transition_ms must be a whole number from 0 to 3,600,000"):
            make(aws_store, transition_ms=transition_ms)


def test_a_time_that_is_none_ends_the_command_with_a_sentence(tmp_path: Path) -> None:
    with started(command(tmp_path / "store", "--transition-ms", -1)) as process:
        said, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert said.splitlines()[-1] == "streamstore: transition_ms must be a whole number from 0 to 3,600,000; got -1."
