"""Laws of the dialects: a store is created with one and keeps it, and each has its own names, ids and bounds."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from streamstore import (
    AsyncStreamStore,
    DialectName,
    HashKeyRange,
    InvalidArgumentException,
    LimitExceededException,
    ResourceNotFoundException,
    StoreNotFoundError,
    StreamStore,
)
from streamstore.check import check_store
from streamstore.dialect import AWS, DIALECTS, YANDEX
from tests.conftest import Clock, open_store

DIALECT_NAMES: tuple[DialectName, ...] = get_args(DialectName)
FIRST_SHARD = {"yandex": "shard-000000", "aws": "shardId-000000000000"}
DAY_MS = 86_400_000


def refused(argument: str, call: Callable[[], object]) -> InvalidArgumentException:
    with pytest.raises(InvalidArgumentException) as refusal:
        call()
    assert refusal.value.argument == argument
    return refusal.value


def other_than(dialect: DialectName) -> DialectName:
    return "aws" if dialect == "yandex" else "yandex"


def open_shard_count(store: StreamStore) -> int:
    shards = store.list_shards("s").shards
    return sum(shard.sequence_number_range.ending_sequence_number is None for shard in shards)


# A store has one dialect


def test_the_names_of_the_dialects_are_those_of_the_type() -> None:
    assert tuple(DIALECTS) == DIALECT_NAMES
    assert all(dialect.name == name for name, dialect in DIALECTS.items())


def test_a_new_store_is_yandex_unless_asked(store: StreamStore) -> None:
    store.create_stream("s")
    assert store.put_record("s", b"", "k").shard_id == FIRST_SHARD["yandex"]


@pytest.mark.parametrize("dialect", DIALECT_NAMES)
@pytest.mark.parametrize("read_only", [False, True])
def test_a_store_keeps_its_dialect_whether_or_not_it_is_named_again(
    store_path: Path, clock: Clock, dialect: DialectName, read_only: bool
) -> None:
    with open_store(store_path, clock, dialect=dialect) as store:
        store.create_stream("s")
        assert store.put_record("s", b"", "k") == (FIRST_SHARD[dialect], "0", "NONE")
    for named in (None, dialect):
        with open_store(store_path, clock, dialect=named, read_only=read_only) as store:
            assert [shard.shard_id for shard in store.list_shards("s").shards] == [FIRST_SHARD[dialect]]
            assert len(list(store.read("s", FIRST_SHARD[dialect]))) == 1


@pytest.mark.parametrize("dialect", DIALECT_NAMES)
@pytest.mark.parametrize("read_only", [False, True])
def test_a_dialect_that_contradicts_the_store_is_refused_and_nothing_changes(
    store_path: Path, clock: Clock, dialect: DialectName, read_only: bool
) -> None:
    with open_store(store_path, clock, dialect=dialect) as store:
        store.create_stream("s")
    before = (store_path / "data.mdb").read_bytes()
    other = other_than(dialect)
    refusal = refused("dialect", lambda: open_store(store_path, clock, dialect=other, read_only=read_only))
    assert str(refusal) == (
        f"dialect must be {dialect}, which the store was created with and keeps, or None; got {other!r}."
    )
    assert (store_path / "data.mdb").read_bytes() == before
    with open_store(store_path, clock) as store:  # the refused one has left nothing open
        store.put_record("s", b"", "k")
    assert check_store(store_path) == []


@pytest.mark.parametrize("dialect", ["", "AWS", "kinesis", 1, True, b"aws", ["aws"]])
def test_an_unknown_dialect_is_refused_and_nothing_is_created(store_path: Path, clock: Clock, dialect: object) -> None:
    refused("dialect", lambda: open_store(store_path, clock, dialect=dialect))  # type: ignore[arg-type]
    assert not store_path.exists()


def test_a_dialect_creates_no_store_where_none_may_be_created(store_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        StreamStore(store_path, create=False, dialect="aws")
    assert not store_path.exists()


def test_a_store_for_asyncio_has_the_dialect_and_the_arns_too(store_path: Path) -> None:
    async def use() -> tuple[str, str]:
        async with AsyncStreamStore(store_path, dialect="aws", account_id="1" * 12, region="eu-west-1") as store:
            await store.create_stream("s")
            put = await store.put_record("s", b"", "k")
            return put.shard_id, (await store.describe_stream("s")).stream_arn

    assert asyncio.run(use()) == (FIRST_SHARD["aws"], f"arn:aws:kinesis:eu-west-1:{'1' * 12}:stream/s")


# Names and ids

AWS_ONLY_NAMES = ["1a", "a-", "-", "a_b", "a.b", "0", "_", ".", "x" * 127 + "-"]


@pytest.mark.parametrize("name", AWS_ONLY_NAMES)
def test_aws_has_stream_names_that_yandex_has_not(store_path: Path, clock: Clock, name: str) -> None:
    with open_store(store_path, clock) as store:
        refused("stream_name", lambda: store.create_stream(name))
    with open_store(store_path.with_name("aws"), clock, dialect="aws") as store:
        store.create_stream(name)
        assert store.put_record(name, b"", "k").sequence_number == "0"
        assert store.list_streams().stream_names == (name,)
    assert check_store(store_path.with_name("aws")) == []


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a\n", "a:b", "\u00e9", "\u0661", "x" * 129])
def test_aws_refuses_other_stream_names(aws_store: StreamStore, name: str) -> None:
    refusal = refused("stream_name", lambda: aws_store.create_stream(name))
    assert refusal.constraint == "be a str of 1 to 128 characters: letters, digits, '_', '.' and '-'"
    assert aws_store.list_streams().stream_names == ()


@pytest.mark.parametrize("name", ["x" * 128, "A-z_0.9"])
def test_tokens_of_aws_are_good_whatever_the_name(aws_store: StreamStore, name: str) -> None:
    aws_store.create_stream(name, shard_count=2)
    aws_store.put_record(name, b"data", "a")
    iterator = aws_store.get_shard_iterator(name, FIRST_SHARD["aws"], "TRIM_HORIZON")
    assert [record.data for record in aws_store.get_records(iterator).records] == [b"data"]
    token = aws_store.list_shards(name, max_results=1).next_token
    assert [shard.shard_id for shard in aws_store.list_shards(next_token=token).shards] == ["shardId-000000000001"]


@pytest.mark.parametrize(
    "shard_id", ["shard-000000", "shardId-000000", "shardId-0000000000000", "shardId-000000000001", "0"]
)
def test_aws_knows_a_shard_by_its_exact_id_only(aws_store: StreamStore, shard_id: str) -> None:
    aws_store.create_stream("s")
    with pytest.raises(ResourceNotFoundException, match=f"Shard {shard_id} in stream s does not exist"):
        aws_store.get_shard_iterator("s", shard_id, "LATEST")


def test_a_yandex_store_does_not_know_shard_ids_of_aws(store: StreamStore) -> None:
    store.create_stream("s")
    with pytest.raises(ResourceNotFoundException):
        store.read("s", FIRST_SHARD["aws"])


# Bounds


@pytest.mark.parametrize("hours", [0, 1, 23, 8_761, 10**9])
def test_aws_refuses_retention_outside_24_to_8_760_hours(aws_store: StreamStore, hours: int) -> None:
    refusal = refused("retention_hours", lambda: aws_store.create_stream("s", retention_hours=hours))
    assert refusal.constraint == "be a whole number from 24 to 8,760"
    assert aws_store.list_streams().stream_names == ()


@pytest.mark.parametrize(("asked", "hours"), [(None, 24), (24, 24), (168, 168), (8_760, 8_760)])
def test_aws_keeps_records_24_to_8_760_hours(
    aws_store: StreamStore, clock: Clock, asked: int | None, hours: int
) -> None:
    aws_store.create_stream("s", retention_hours=asked)
    assert aws_store.describe_stream("s").retention_period_hours == hours
    aws_store.put_record("s", b"", "k")
    clock.advance(hours * 3_600_000)
    assert len(list(aws_store.read("s", FIRST_SHARD["aws"]))) == 1
    clock.advance(1)
    assert list(aws_store.read("s", FIRST_SHARD["aws"])) == []


@pytest.mark.parametrize("hash_key", [0, 1, 2**128 - 1])
def test_aws_splits_no_closer_than_two_hash_keys_to_the_ends(aws_store: StreamStore, hash_key: int) -> None:
    aws_store.create_stream("s")
    refused("new_starting_hash_key", lambda: aws_store.split_shard("s", FIRST_SHARD["aws"], str(hash_key)))
    assert open_shard_count(aws_store) == 1


@pytest.mark.parametrize("hash_key", [2, 2**128 - 2])
def test_aws_splits_at_the_second_hash_key_and_the_last_but_one(aws_store: StreamStore, hash_key: int) -> None:
    aws_store.create_stream("s")
    aws_store.split_shard("s", FIRST_SHARD["aws"], str(hash_key))
    _, low, high = aws_store.list_shards("s").shards
    assert (low.shard_id, high.shard_id) == ("shardId-000000000001", "shardId-000000000002")
    assert low.hash_key_range == HashKeyRange(0, hash_key - 1)
    assert high.hash_key_range == HashKeyRange(hash_key, 2**128 - 1)
    assert low.parent_shard_id == high.parent_shard_id == FIRST_SHARD["aws"]


@pytest.mark.parametrize("hash_key", [1, 2**128 - 1])
def test_yandex_splits_at_the_very_ends(store: StreamStore, hash_key: int) -> None:
    store.create_stream("s")
    store.split_shard("s", FIRST_SHARD["yandex"], str(hash_key))
    assert open_shard_count(store) == 2


@pytest.mark.parametrize("current", [1, 2, 3, 4, 5, 7, 8])
def test_aws_resizes_to_at_most_double_and_at_least_half(aws_store: StreamStore, current: int) -> None:
    for target in range(1, 20):
        aws_store.create_stream("s", shard_count=current)
        if current / 2 <= target <= current * 2:
            assert aws_store.update_shard_count("s", target).current_shard_count == current
            assert open_shard_count(aws_store) == target
        else:
            refusal = refused("target_shard_count", lambda: aws_store.update_shard_count("s", target))  # noqa: B023
            assert f"between {(current + 1) // 2} and {2 * current}," in refusal.constraint
            assert open_shard_count(aws_store) == current
        aws_store.delete_stream("s")


def test_yandex_resizes_by_any_factor_and_any_number_of_times(store: StreamStore) -> None:
    store.create_stream("s")
    for target in [20, 1] * 6:
        store.update_shard_count("s", target)
    assert open_shard_count(store) == 1


def test_aws_resizes_ten_times_in_24_hours_and_each_is_forgotten_a_day_later(
    aws_store: StreamStore, clock: Clock
) -> None:
    aws_store.create_stream("s")
    aws_store.update_shard_count("s", 2)
    clock.advance(1)
    for target in [1, 2, 1, 2, 1, 2, 1, 2, 1]:
        aws_store.update_shard_count("s", target)
    clock.advance(DAY_MS - 2)
    with pytest.raises(LimitExceededException, match="limit of 10 updates of the shard count a day") as refusal:
        aws_store.update_shard_count("s", 2)
    assert refusal.value.limit == "10 updates of the shard count a day"
    assert open_shard_count(aws_store) == 1
    clock.advance(1)  # the first was a day ago
    aws_store.update_shard_count("s", 2)
    with pytest.raises(LimitExceededException):
        aws_store.update_shard_count("s", 1)
    clock.advance(1)  # and so were the other nine
    for target in [1, 2, 1, 2, 1, 2, 1, 2, 1]:
        aws_store.update_shard_count("s", target)
    with pytest.raises(LimitExceededException):
        aws_store.update_shard_count("s", 2)


def test_a_refused_resize_is_not_counted(aws_store: StreamStore) -> None:
    aws_store.create_stream("s")
    for _ in range(20):
        refused("target_shard_count", lambda: aws_store.update_shard_count("s", 3))
    aws_store.update_shard_count("s", 2)


def test_consumers_of_a_stream_are_bounded_as_documented() -> None:
    assert (YANDEX.consumers_per_stream_max, AWS.consumers_per_stream_max) == (5, 20)


# ARNs


def test_an_arn_of_aws_names_region_account_and_stream(store_path: Path, clock: Clock) -> None:
    with open_store(store_path, clock, dialect="aws") as store:
        store.create_stream("my.stream")
        assert store.describe_stream("my.stream").stream_arn == (
            "arn:aws:kinesis:us-east-1:000000000000:stream/my.stream"
        )
    with StreamStore(store_path, account_id="123456789012", region="ru-central1") as store:
        assert store.describe_stream("my.stream").stream_arn == (
            "arn:aws:kinesis:ru-central1:123456789012:stream/my.stream"
        )


def test_an_arn_of_yandex_is_the_name_of_the_stream(store_path: Path) -> None:
    with StreamStore(store_path, sync="off", account_id="123456789012", region="ru-central1") as store:
        store.create_stream("clicks")
        assert store.describe_stream("clicks").stream_arn == "clicks"


@pytest.mark.parametrize(("dialect", "region"), [("aws", "us-east-1"), ("yandex", "ru-central1")])
def test_a_store_is_in_a_region_of_its_dialect_unless_asked(
    store_path: Path, dialect: DialectName, region: str
) -> None:
    with StreamStore(store_path, sync="off", dialect=dialect) as store:
        assert (store.region, store.account_id) == (region, "000000000000")


@pytest.mark.parametrize("account_id", ["", "1" * 11, "1" * 13, "1" * 11 + "a", "\u0661" * 12, "1" * 12 + "\n", 10**11])
def test_an_account_id_has_12_digits(store_path: Path, account_id: object) -> None:
    refused("account_id", lambda: StreamStore(store_path, account_id=account_id))  # type: ignore[arg-type]
    assert not store_path.exists()


@pytest.mark.parametrize("region", ["", "US-EAST-1", "us--east", "-us", "us-", "us east", "us:1", "x" * 33, 1])
def test_a_region_is_lowercase_words_and_digits_with_hyphens(store_path: Path, region: object) -> None:
    refused("region", lambda: StreamStore(store_path, region=region))  # type: ignore[arg-type]
    assert not store_path.exists()
