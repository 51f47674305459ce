"""boto3 without a server: a real client, answered by a store in this process, with nothing sent anywhere."""

import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError, WaiterError

import streamstore.wire
from streamstore import StreamStore
from streamstore.wire import boto3_client
from streamstore.wire.actions import RUN
from tests.conftest import Clock, open_store

if TYPE_CHECKING:
    from botocore.eventstream import EventStream
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_kinesis.type_defs import (
        PaginatorConfigTypeDef,
        SubscribeToShardEventStreamTypeDef,
        WaiterConfigTypeDef,
    )

SHARD: Final = "shardId-000000000000"
THREE_SHARDS: Final = [f"shardId-{number:012}" for number in range(3)]
WAIT_S: Final = 60
PROGRAMS: Final = {  # what a program imports, and what that must not bring
    "import streamstore.wire": ("boto3", "botocore", "aiobotocore", "httptools", "pytest"),
    "from streamstore.wire import boto3_client": ("aiobotocore", "httptools", "pytest"),
    "from streamstore.wire import aiobotocore_client": ("boto3", "httptools", "pytest"),
}


@pytest.fixture(autouse=True)
def no_network_and_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*address: object) -> None:
        raise AssertionError(f"something was sent to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))


@pytest.fixture
def client(aws_store: StreamStore) -> "KinesisClient":
    made = boto3_client(aws_store, config=Config(retries={"total_max_attempts": 3}))
    made.create_stream(StreamName="clicks", ShardCount=1)
    return made


def code_of(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "")


def subscribe(
    client: "KinesisClient", consumer_arn: str, shard_id: str = SHARD
) -> "EventStream[SubscribeToShardEventStreamTypeDef]":
    return client.subscribe_to_shard(
        ConsumerARN=consumer_arn, ShardId=shard_id, StartingPosition={"Type": "TRIM_HORIZON"}
    )["EventStream"]


def stored(store: StreamStore, stream_name: str = "clicks") -> list[bytes]:
    return [
        record.data
        for shard in store.list_shards(stream_name).shards
        for record in store.read(stream_name, shard.shard_id)
    ]


def test_a_record_goes_in_and_comes_out_as_boto3_knows_it(client: "KinesisClient", clock: Clock) -> None:
    put = client.put_record(StreamName="clicks", Data=b"\x00hello\xff", PartitionKey="käse")
    assert (put["ShardId"], put["SequenceNumber"], put["EncryptionType"]) == (SHARD, "0", "NONE")
    assert put["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert len(put["ResponseMetadata"]["RequestId"]) == 36
    iterator = client.get_shard_iterator(StreamName="clicks", ShardId=SHARD, ShardIteratorType="TRIM_HORIZON")
    (record,) = client.get_records(ShardIterator=iterator["ShardIterator"])["Records"]
    assert (record["Data"], record.get("PartitionKey")) == (b"\x00hello\xff", "käse")
    arrived = record.get("ApproximateArrivalTimestamp")
    assert arrived is not None
    assert arrived.astimezone(UTC) == datetime.fromtimestamp(clock.now_ms / 1_000, UTC)


def test_every_action_of_the_service_is_an_operation_of_the_client(client: "KinesisClient") -> None:
    """So whatever the store answers can be asked."""
    operations = set(client.meta.service_model.operation_names)
    assert operations & RUN.keys() == RUN.keys() - {"UpdateStream", "SetWriteQuota"}, "these two are Yandex's"


def test_what_a_newer_boto3_asks_besides_is_refused_and_not_sent(client: "KinesisClient") -> None:
    methods = client.meta.method_to_api_mapping
    newer = [method for method, operation in methods.items() if operation == "ListChannels"]
    for method in newer:
        with pytest.raises(ClientError) as error:
            getattr(client, method)()
        assert code_of(error.value) == "UnknownOperationException"


def test_errors_are_the_exceptions_of_the_client(client: "KinesisClient") -> None:
    with pytest.raises(client.exceptions.ResourceNotFoundException, match="Stream none under account 000000000000"):
        client.describe_stream(StreamName="none")
    with pytest.raises(client.exceptions.ResourceInUseException):
        client.create_stream(StreamName="clicks", ShardCount=1)
    with pytest.raises(client.exceptions.InvalidArgumentException, match="Invalid ExplicitHashKey"):
        client.put_record(StreamName="clicks", Data=b"", PartitionKey="k", ExplicitHashKey=str(2**128))
    with pytest.raises(ClientError) as error:
        client.create_stream(StreamName="?", ShardCount=1)
    assert code_of(error.value) == "ValidationException"


def test_the_client_is_in_the_region_and_the_account_of_the_store(tmp_path: Path, clock: Clock) -> None:
    with StreamStore(
        tmp_path / "s", sync="off", clock=clock, dialect="aws", region="eu-west-3", account_id="123456789012"
    ) as store:
        client = boto3_client(store)
        client.create_stream(StreamName="clicks", ShardCount=1)
        assert client.meta.region_name == "eu-west-3"
        arn = client.describe_stream_summary(StreamName="clicks")["StreamDescriptionSummary"]["StreamARN"]
        assert arn == "arn:aws:kinesis:eu-west-3:123456789012:stream/clicks"
        assert client.put_record(StreamARN=arn, Data=b"x", PartitionKey="k")["SequenceNumber"] == "0"


def test_the_dialect_of_yandex_is_spoken_too(store: StreamStore) -> None:
    client = boto3_client(store)
    client.create_stream(StreamName="clicks", ShardCount=2)
    client.get_waiter("stream_exists").wait(StreamName="clicks")
    assert client.meta.region_name == "ru-central1"
    put = client.put_record(StreamName="clicks", Data=b"x", PartitionKey="k", ExplicitHashKey="0")
    assert (put["ShardId"], put["SequenceNumber"]) == ("shard-000000", "0")
    consumer = client.register_stream_consumer(StreamARN="clicks", ConsumerName="c")["Consumer"]
    stream = subscribe(client, consumer["ConsumerARN"], "shard-000000")
    for event in stream:
        assert [record["Data"] for record in event["SubscribeToShardEvent"]["Records"]] == [b"x"]
        stream.close()
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.describe_stream(StreamName="none")


def test_paginators_page_to_the_end(client: "KinesisClient", aws_store: StreamStore) -> None:
    names = [f"s{number}" for number in range(7)]
    for name in names:
        aws_store.create_stream(name, shard_count=3)
        aws_store.register_stream_consumer("clicks", name)
    two: PaginatorConfigTypeDef = {"PageSize": 2}
    streams = client.get_paginator("list_streams").paginate(PaginationConfig=two)
    assert [name for page in streams for name in page["StreamNames"]] == ["clicks", *names]
    described = client.get_paginator("describe_stream").paginate(StreamName="s0", PaginationConfig=two)
    assert [shard["ShardId"] for page in described for shard in page["StreamDescription"]["Shards"]] == THREE_SHARDS
    arn = aws_store.stream_arn("clicks")
    consumers = client.get_paginator("list_stream_consumers").paginate(StreamARN=arn, PaginationConfig=two)
    assert [consumer["ConsumerName"] for page in consumers for consumer in page["Consumers"]] == names


def test_the_paginator_of_shards_breaks_behind_its_first_page_as_it_does_at_the_service(
    client: "KinesisClient", aws_store: StreamStore
) -> None:
    """It names the stream beside the token, which the service refuses: boto/botocore#2009, open since 2020."""
    aws_store.create_stream("wide", shard_count=3)
    pages = client.get_paginator("list_shards").paginate(StreamName="wide")
    assert [shard["ShardId"] for page in pages for shard in page["Shards"]] == THREE_SHARDS
    pages = client.get_paginator("list_shards").paginate(StreamName="wide", PaginationConfig={"PageSize": 2})
    with pytest.raises(client.exceptions.InvalidArgumentException, match="NextToken and StreamName cannot be"):
        list(pages)
    first = client.list_shards(StreamName="wide", MaxResults=2)
    rest = client.list_shards(NextToken=first.get("NextToken", ""))
    assert [shard["ShardId"] for page in (first, rest) for shard in page["Shards"]] == THREE_SHARDS


def test_waiters_wait_until_the_stream_is_there_and_until_it_is_gone(
    client: "KinesisClient", aws_store: StreamStore
) -> None:
    """``stream_exists`` takes a stream that is not there for a failure; the other one waits while it is there."""
    quick: WaiterConfigTypeDef = {"Delay": 0, "MaxAttempts": 100}
    client.get_waiter("stream_exists").wait(StreamName="clicks", WaiterConfig=quick)
    looks: list[None] = []

    def delete_at_the_third(**_: object) -> None:
        looks.append(None)
        if len(looks) == 3:
            aws_store.delete_stream("clicks")

    client.meta.events.register_first("before-send.kinesis.DescribeStream", delete_at_the_third)
    client.get_waiter("stream_not_exists").wait(StreamName="clicks", WaiterConfig=quick)
    assert len(looks) == 3
    with pytest.raises(WaiterError):
        client.get_waiter("stream_exists").wait(StreamName="clicks", WaiterConfig=quick)


def test_a_put_that_is_sent_again_is_stored_once(client: "KinesisClient", aws_store: StreamStore) -> None:
    """botocore believes that the first answer was lost, and sends the request again as it sends all: under its id."""

    def lost_once(attempts: int, **_: object) -> int | None:
        return 0 if attempts == 1 else None  # the seconds to wait

    client.meta.events.register_first("needs-retry.kinesis", lost_once)  # type: ignore[arg-type]
    put = client.put_record(StreamName="clicks", Data=b"one", PartitionKey="k")
    assert (put["ResponseMetadata"]["RetryAttempts"], put["SequenceNumber"]) == (1, "0")
    puts = client.put_records(
        StreamName="clicks",
        Records=[{"Data": b"two", "PartitionKey": "k"}, {"Data": b"two", "PartitionKey": "k"}],
    )
    assert [entry.get("SequenceNumber") for entry in puts["Records"]] == ["1", "2"]
    assert puts["ResponseMetadata"]["RetryAttempts"] == 1
    assert stored(aws_store) == [b"one", b"two", b"two"]
    # Another call with the same record is another put.
    assert client.put_record(StreamName="clicks", Data=b"one", PartitionKey="k")["SequenceNumber"] == "3"


def test_what_is_throttled_is_tried_again_until_it_is_stored(tmp_path: Path, clock: Clock) -> None:
    def put_three(client: "KinesisClient") -> None:
        for _ in range(3):
            client.put_record(StreamName="metered", Data=bytes(100_000), PartitionKey="k")

    def let_time_pass(**_: object) -> None:
        clock.advance(600)

    with open_store(tmp_path / "s", clock) as store:
        store.create_stream("metered", write_quota_kb_per_sec=128)
        hasty = boto3_client(store, config=Config(retries={"total_max_attempts": 1}))
        with pytest.raises(hasty.exceptions.ProvisionedThroughputExceededException, match="Rate exceeded for shard"):
            put_three(hasty)
        before = len(stored(store, "metered"))
        client = boto3_client(store)
        client.meta.events.register("needs-retry.kinesis", let_time_pass)
        put_three(client)
        assert len(stored(store, "metered")) == before + 3


def test_a_closed_store_is_a_service_that_is_not_available(aws_store: StreamStore) -> None:
    client = boto3_client(aws_store, config=Config(retries={"total_max_attempts": 1}))
    aws_store.close()
    with pytest.raises(ClientError) as error:
        client.list_streams()
    assert code_of(error.value) == "ServiceUnavailable"


def test_threads_share_a_client_and_nothing_is_lost(client: "KinesisClient", aws_store: StreamStore) -> None:
    def put(number: int) -> str:
        return client.put_record(StreamName="clicks", Data=b"%d" % number, PartitionKey="k")["SequenceNumber"]

    with ThreadPoolExecutor(8) as threads:
        numbers = list(threads.map(put, range(200)))
    assert sorted(numbers, key=int) == [str(number) for number in range(200)]
    assert stored(aws_store) == [b"%d" % numbers.index(str(place)) for place in range(200)]


def test_threads_may_make_clients_at_once(aws_store: StreamStore) -> None:
    with ThreadPoolExecutor(8) as threads:
        clients = list(threads.map(boto3_client, [aws_store] * 16))
    assert all(client.list_streams()["StreamNames"] == [] for client in clients)


def test_clients_of_two_stores_are_kept_apart(aws_store: StreamStore, tmp_path: Path, clock: Clock) -> None:
    with open_store(tmp_path / "other", clock, dialect="aws") as other:
        first, second = boto3_client(aws_store), boto3_client(other)
        first.create_stream(StreamName="first", ShardCount=1)
        second.create_stream(StreamName="second", ShardCount=1)
        assert first.list_streams()["StreamNames"] == ["first"]
        assert second.list_streams()["StreamNames"] == ["second"]


@pytest.fixture
def consumer_arn(client: "KinesisClient", aws_store: StreamStore) -> str:
    arn = aws_store.stream_arn("clicks")
    return client.register_stream_consumer(StreamARN=arn, ConsumerName="dashboard")["Consumer"]["ConsumerARN"]


def test_a_subscription_gives_what_is_stored_and_what_comes(
    client: "KinesisClient", consumer_arn: str, aws_store: StreamStore
) -> None:
    aws_store.put_record("clicks", b"before", "k")
    got: list[bytes] = []
    stream = subscribe(client, consumer_arn)
    for event in stream:
        got += [record["Data"] for record in event["SubscribeToShardEvent"]["Records"]]
        if len(got) == 1:
            client.put_record(StreamName="clicks", Data=b"behind", PartitionKey="k")
        else:
            stream.close()
    assert got == [b"before", b"behind"]


def test_a_subscription_ends_with_its_shard(client: "KinesisClient", consumer_arn: str) -> None:
    client.split_shard(StreamName="clicks", ShardToSplit=SHARD, NewStartingHashKey="1000")
    (event,) = list(subscribe(client, consumer_arn))
    children = [child["ShardId"] for child in event["SubscribeToShardEvent"].get("ChildShards", [])]
    assert children == ["shardId-000000000001", "shardId-000000000002"]


def test_any_thread_ends_a_subscription_that_waits(client: "KinesisClient", consumer_arn: str) -> None:
    stream = subscribe(client, consumer_arn)
    reading = threading.Thread(target=list, args=(stream,))
    reading.start()
    reading.join(0.05)
    assert reading.is_alive()
    stream.close()
    reading.join(WAIT_S)
    assert not reading.is_alive()


def test_a_subscription_that_nobody_read_ends_when_it_is_closed(client: "KinesisClient", consumer_arn: str) -> None:
    stream = subscribe(client, consumer_arn)
    stream.close()
    assert list(stream) == []


def test_the_end_of_the_store_is_an_error_of_the_subscription(
    client: "KinesisClient", consumer_arn: str, aws_store: StreamStore
) -> None:
    stream = iter(subscribe(client, consumer_arn))
    aws_store.close()
    with pytest.raises(EventStreamError, match=r"ServiceUnavailable.*closed"):
        next(stream)


def test_two_subscriptions_at_once_are_refused_as_an_exception_of_the_client(
    client: "KinesisClient", consumer_arn: str
) -> None:
    stream = subscribe(client, consumer_arn)
    with pytest.raises(client.exceptions.ResourceInUseException):
        subscribe(client, consumer_arn)
    stream.close()


@pytest.mark.parametrize("program", PROGRAMS)
def test_nobody_pays_for_a_package_that_is_not_asked_for(program: str) -> None:
    code = f"import sys; {program}; print([name for name in {PROGRAMS[program]} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=WAIT_S)
    assert ran.stdout == "[]\n"


@pytest.mark.parametrize("name", ["boto3", "aiobotocore"])
def test_a_package_that_is_missing_is_named_with_its_remedy(name: str) -> None:
    code = f"import sys; sys.modules[{name!r}] = None; from streamstore.wire import {name}_client"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=WAIT_S)
    assert f"{name}_client needs {name}" in ran.stderr
    assert f"pip install 'streamstore[{name}]'" in ran.stderr


def test_a_name_that_is_not_there_is_no_client() -> None:
    with pytest.raises(AttributeError, match="no attribute 'boto4_client'"):
        getattr(streamstore.wire, "boto4_client")  # noqa: B009


SUITE: Final = {
    "conftest.py": """
pytest_plugins = ["streamstore.wire.fixtures"]
""",
    "test_suite.py": """
def test_puts(kinesis_client):
    kinesis_client.create_stream(StreamName="clicks", ShardCount=1)
    kinesis_client.put_record(StreamName="clicks", Data=b"x", PartitionKey="k")

def test_starts_empty(kinesis_client, kinesis_store, tmp_path):
    assert kinesis_client.list_streams()["StreamNames"] == []
    kinesis_store.create_stream("direct")
    assert kinesis_client.list_streams()["StreamNames"] == ["direct"]
    assert (tmp_path / "kinesis" / "data.mdb").exists()
""",
    "elsewhere/conftest.py": """
import pytest
from streamstore import StreamStore

@pytest.fixture
def kinesis_store(tmp_path):
    with StreamStore(tmp_path / "mine", dialect="aws", region="eu-west-3") as store:
        yield store
""",
    "elsewhere/test_elsewhere.py": """
def test_region(kinesis_client):
    assert kinesis_client.meta.region_name == "eu-west-3"
""",
}


def test_the_fixtures_bring_a_suite_a_store_for_each_test_and_it_may_have_another(tmp_path: Path) -> None:
    for name, text in SUITE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(tmp_path)],
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_S,
        cwd=tmp_path,
    )
    assert ran.stdout.splitlines()[-1].startswith("3 passed"), ran.stdout


def test_pytest_is_told_of_no_plugin_that_every_suite_would_load() -> None:
    assert [entry for entry in distribution("streamstore").entry_points if entry.group == "pytest11"] == []
