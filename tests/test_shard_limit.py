"""How many open shards a store may have, where its opener says so: in the store, on the wire, and of `serve`."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamstore import (
    AsyncStreamStore,
    InvalidArgumentException,
    LimitExceededException,
    StreamStore,
)
from streamstore.wire import Dispatcher
from tests.children import WAIT_S, started
from tests.conftest import Clock
from tests.test_serve import command, serving
from tests.wire import Wire

SHARD = "shardId-000000000000"


@pytest.fixture
def limited(store_path: Path, clock: Clock) -> Iterator[StreamStore]:
    """A store that may have four open shards, and has three: two of the stream "s", one of "t"."""
    with StreamStore(store_path, dialect="aws", sync="off", clock=clock, shard_limit=4) as opened:
        opened.create_stream("s", shard_count=2)
        opened.create_stream("t")
        yield opened


def split_both(store: StreamStore) -> None:
    store.split_shard("s", SHARD, str(2**126))
    store.split_shard("s", "shardId-000000000001", str(3 * 2**126))


GROWN: dict[str, Callable[[StreamStore], object]] = {
    "CreateStream": lambda store: store.create_stream("u", shard_count=2),
    "SplitShard": split_both,
    "UpdateShardCount": lambda store: store.update_shard_count("s", 4),
    "UpdateStream": lambda store: store.update_stream("s", shard_count=4),
}


@pytest.mark.parametrize("action", GROWN)
def test_more_open_shards_than_the_limit_are_refused(limited: StreamStore, action: str) -> None:
    with pytest.raises(LimitExceededException, match=r"the limit of 4 open shards.*: merge shards") as refusal:
        GROWN[action](limited)
    asked = refusal.value.shards_asked
    assert asked is not None
    assert (asked.existing + asked.more, asked.limit) == (5, 4)
    assert limited.describe_limits().open_shard_count <= 4
    assert limited.list_streams().stream_names == ("s", "t")


def test_exactly_the_limit_may_be_open_and_closed_shards_do_not_count(limited: StreamStore) -> None:
    assert limited.describe_limits().shard_limit == 4
    for step in range(3):
        first, second = [
            shard.shard_id
            for shard in limited.list_shards("s").shards
            if shard.sequence_number_range.ending_sequence_number is None
        ]
        limited.merge_shards("s", first, second)
        merged = limited.list_shards("s").shards[-1].shard_id
        limited.split_shard("s", merged, str(2**127))
        assert len(limited.list_shards("s").shards) == 2 + 3 * (step + 1)
    limited.create_stream("u")
    assert limited.describe_limits().open_shard_count == 4
    with pytest.raises(LimitExceededException):
        limited.create_stream("v")
    limited.delete_stream("t")
    limited.create_stream("v")


def test_a_store_above_a_limit_may_shrink_and_not_grow(store_path: Path) -> None:
    with StreamStore(store_path, dialect="aws") as store:
        store.create_stream("s", shard_count=4)
    with StreamStore(store_path, shard_limit=2) as store:
        with pytest.raises(LimitExceededException):
            store.split_shard("s", SHARD, "9")
        store.update_shard_count("s", 3)
        store.update_shard_count("s", 2)
    with StreamStore(store_path) as store:
        assert store.describe_limits().shard_limit == 4_000, "the store does not keep it"


@pytest.mark.parametrize("shard_limit", [0, -1, 4_001, True, 1.0, "4"])
def test_a_limit_is_a_whole_number_from_1_to_4_000(store_path: Path, shard_limit: object) -> None:
    with pytest.raises(InvalidArgumentException) as refusal:
        StreamStore(store_path, shard_limit=shard_limit)  # type: ignore[arg-type]
    assert (refusal.value.argument, refusal.value.constraint) == ("shard_limit", "be a whole number from 1 to 4,000")
    assert not store_path.exists()


def test_it_holds_for_an_awaited_store(store_path: Path) -> None:
    async def shard_limit() -> int:
        async with AsyncStreamStore(store_path, shard_limit=7) as store:
            return (await store.describe_limits()).shard_limit

    assert asyncio.run(shard_limit()) == 7


def test_clients_are_told_in_the_words_of_the_service(limited: StreamStore) -> None:
    wire = Wire(Dispatcher(limited))
    assert (wire.ask("DescribeLimits").body["ShardLimit"], wire.ask("DescribeLimits").body["OpenShardCount"]) == (4, 3)
    answer = wire.ask("CreateStream", {"StreamName": "u", "ShardCount": 5})
    assert answer.error == (400, "LimitExceededException")
    assert answer.message == (
        "This request would exceed the shard limit for the account 000000000000 in us-east-1. Current shard count for "
        "the account: 3. Limit: 4. Number of additional shards that would have resulted from this request: 5."
    )
    target = {"StreamName": "s", "TargetShardCount": 4, "ScalingType": "UNIFORM_SCALING"}
    assert wire.ask("UpdateShardCount", target).error == (400, "LimitExceededException")
    assert "from this request: 2." in str(wire.ask("UpdateShardCount", target).message)


def test_a_server_has_the_limit_that_its_command_gives(tmp_path: Path) -> None:
    with serving(tmp_path / "store", "--shard-limit", 2) as server:
        assert server.ask("DescribeLimits")["ShardLimit"] == 2
        assert server.do("CreateStream", {"StreamName": "s", "ShardCount": 3}).error() == "LimitExceededException"
        server.ask("CreateStream", StreamName="s", ShardCount=2)
        server.end()


def test_a_limit_that_is_none_ends_the_command_with_a_sentence(tmp_path: Path) -> None:
    with started(command(tmp_path / "store", "--shard-limit", 0)) as process:
        said, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert said == "streamstore: shard_limit must be a whole number from 1 to 4,000; got 0.\n"
