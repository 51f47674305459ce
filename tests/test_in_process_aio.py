"""aiobotocore without a server: a real client, whose requests a store answers on the event loop."""

import asyncio
import socket
from typing import TYPE_CHECKING, Final

import pytest
from aiobotocore.config import AioConfig
from botocore.exceptions import ClientError, EventStreamError

from streamstore import StreamStore
from streamstore.wire import aiobotocore_client

if TYPE_CHECKING:
    from aiobotocore.eventstream import AioEventStream
    from types_aiobotocore_kinesis import KinesisClient
    from types_aiobotocore_kinesis.type_defs import SubscribeToShardEventStreamTypeDef

SHARD: Final = "shardId-000000000000"
WAIT_S: Final = 60


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*address: object) -> None:
        raise AssertionError(f"something was sent to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)


async def subscribe(
    client: "KinesisClient", store: StreamStore
) -> "AioEventStream[SubscribeToShardEventStreamTypeDef]":
    arn = store.register_stream_consumer("clicks", "dashboard").consumer_arn
    asked = await client.subscribe_to_shard(ConsumerARN=arn, ShardId=SHARD, StartingPosition={"Type": "TRIM_HORIZON"})
    return asked["EventStream"]


def test_tasks_share_a_client_and_what_they_put_is_read_back(aws_store: StreamStore) -> None:
    async def run() -> None:
        async with aiobotocore_client(aws_store) as client:
            await client.create_stream(StreamName="clicks", ShardCount=1)
            await client.get_waiter("stream_exists").wait(StreamName="clicks")
            puts = [
                client.put_record(StreamName="clicks", Data=b"%d" % number, PartitionKey="k") for number in range(100)
            ]
            numbers = [put["SequenceNumber"] for put in await asyncio.gather(*puts)]
            assert sorted(numbers, key=int) == [str(number) for number in range(100)]
            iterator = await client.get_shard_iterator(
                StreamName="clicks", ShardId=SHARD, ShardIteratorType="TRIM_HORIZON"
            )
            page = await client.get_records(ShardIterator=iterator["ShardIterator"])
            assert {record["SequenceNumber"]: record["Data"] for record in page["Records"]} == {
                number: b"%d" % place for place, number in enumerate(numbers)
            }

    asyncio.run(run())


def test_errors_are_the_exceptions_of_the_client(aws_store: StreamStore) -> None:
    async def run() -> None:
        async with aiobotocore_client(aws_store, config=AioConfig(retries={"total_max_attempts": 1})) as client:
            with pytest.raises(client.exceptions.ResourceNotFoundException, match="Stream none under account"):
                await client.describe_stream(StreamName="none")
            aws_store.close()
            with pytest.raises(ClientError, match="ServiceUnavailable"):
                await client.list_streams()

    asyncio.run(run())


def test_paginators_page_to_the_end(aws_store: StreamStore) -> None:
    names = [f"s{number}" for number in range(7)]
    for name in names:
        aws_store.create_stream(name)

    async def run() -> list[str]:
        async with aiobotocore_client(aws_store) as client:
            pages = client.get_paginator("list_streams").paginate(PaginationConfig={"PageSize": 2})
            return [name async for page in pages for name in page["StreamNames"]]

    assert asyncio.run(run()) == names


def test_a_put_that_is_sent_again_is_stored_once(aws_store: StreamStore) -> None:
    aws_store.create_stream("clicks")

    def lost_once(attempts: int, **_: object) -> int | None:
        return 0 if attempts == 1 else None  # the seconds to wait

    async def run() -> None:
        async with aiobotocore_client(aws_store) as client:
            client.meta.events.register_first("needs-retry.kinesis", lost_once)  # type: ignore[arg-type]
            put = await client.put_record(StreamName="clicks", Data=b"one", PartitionKey="k")
            assert (put["ResponseMetadata"]["RetryAttempts"], put["SequenceNumber"]) == (1, "0")

    asyncio.run(run())
    assert [record.data for record in aws_store.read("clicks", SHARD)] == [b"one"]


def test_a_subscription_gives_what_is_stored_and_what_comes(aws_store: StreamStore) -> None:
    aws_store.create_stream("clicks")
    aws_store.put_record("clicks", b"before", "k")

    async def run() -> list[bytes]:
        got: list[bytes] = []
        async with aiobotocore_client(aws_store) as client:
            stream = await subscribe(client, aws_store)
            async for event in stream:
                got += [record["Data"] for record in event["SubscribeToShardEvent"]["Records"]]
                if len(got) == 1:
                    await client.put_record(StreamName="clicks", Data=b"behind", PartitionKey="k")
                else:
                    stream.close()
        return got

    assert asyncio.run(run()) == [b"before", b"behind"]


def test_closing_a_subscription_ends_the_task_that_waits_for_it(aws_store: StreamStore) -> None:
    aws_store.create_stream("clicks")

    async def run() -> None:
        async with aiobotocore_client(aws_store) as client:
            stream = await subscribe(client, aws_store)

            async def read() -> int:
                return len([event async for event in stream])

            reading = asyncio.create_task(read())
            await asyncio.sleep(0.05)
            assert not reading.done()
            stream.close()
            assert await asyncio.wait_for(reading, WAIT_S) == 0

    asyncio.run(run())


def test_the_end_of_the_store_is_an_error_of_the_subscription(aws_store: StreamStore) -> None:
    aws_store.create_stream("clicks")

    async def run() -> None:
        async with aiobotocore_client(aws_store) as client:
            stream = await subscribe(client, aws_store)
            aws_store.close()
            with pytest.raises(EventStreamError, match="ServiceUnavailable"):
                [event async for event in stream]

    asyncio.run(run())
