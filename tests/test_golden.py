"""Golden vectors of the service's reference, end to end through a store."""

import pytest

from streamstore import StreamStore
from streamstore.dialect import AWS, YANDEX
from streamstore.routing import hash_key_of_partition_key, slice_hash_keys

# Partition key, its MD5 as an integer, and its shard among 1, 2, 3, 4, 5 and 10. Reference, section 6.
VECTORS = [
    ("k", 187279361568289349169310600456257773043, (0, 1, 1, 2, 2, 5)),
    ("a", 16955237001963240173058271559858726497, (0, 0, 0, 0, 0, 0)),
    ("b", 195289424170611159128911017612795795343, (0, 1, 1, 2, 2, 5)),
    ("e", 299611584147932843547128611849858313266, (0, 1, 2, 3, 4, 8)),
    ("f", 190917122200326810055233066464581373159, (0, 1, 1, 2, 2, 5)),
    ("1", 261578874264819908609102035485573088411, (0, 1, 2, 3, 3, 7)),
    ("key", 80325066489831061459460196859901989661, (0, 0, 0, 0, 1, 2)),
    ("user1", 48900430532020830442050270794663993245, (0, 0, 0, 0, 0, 1)),
    ("0001", 50156873999644337104863089439005585458, (0, 0, 0, 0, 0, 1)),
    ("9876543210", 302444837598041814016620681783940830601, (0, 1, 2, 3, 4, 8)),
    ("partitionKey1", 259883753084267508317526128829441085549, (0, 1, 2, 3, 3, 7)),
    ("ключ", 259726384039714788407059515981389908711, (0, 1, 2, 3, 3, 7)),
]
SHARD_COUNTS = (1, 2, 3, 4, 5, 10)


@pytest.mark.parametrize("column", range(len(SHARD_COUNTS)))
def test_every_golden_key_lands_in_its_shard(store: StreamStore, column: int) -> None:
    store.create_stream("golden", shard_count=SHARD_COUNTS[column])
    for key, hash_key, shard_indexes in VECTORS:
        assert hash_key_of_partition_key(key) == hash_key
        expected = f"shard-{shard_indexes[column]:06d}"
        assert store.put_record("golden", b"", key).shard_id == expected
        assert store.put_record("golden", b"", "other", explicit_hash_key=str(hash_key)).shard_id == expected


def test_thirty_keys_over_five_shards_as_in_the_ydb_test(store: StreamStore) -> None:
    store.create_stream("ydb", shard_count=5)
    for number in range(1, 31):
        store.put_record("ydb", f"{number:04d}".encode(), f"{number:04d}")
    shard_ids = [shard.shard_id for shard in store.list_shards("ydb").shards]
    assert [len(list(store.read("ydb", shard_id))) for shard_id in shard_ids] == [9, 1, 8, 5, 7]
    put = store.put_record("ydb", b"", "9876543210")
    assert put == ("shard-000004", "7", "NONE")


@pytest.mark.parametrize(
    ("hash_key", "shard_id"),
    [
        (2**128 - 1, "shard-000002"),
        (2 * (2**128 // 3) - 1, "shard-000001"),
        (2 * (2**128 // 3), "shard-000002"),
        (0, "shard-000000"),
    ],
)
def test_explicit_hash_keys_of_the_kinesalite_test(store: StreamStore, hash_key: int, shard_id: str) -> None:
    store.create_stream("three", shard_count=3)
    assert store.put_record("three", b"", "k", explicit_hash_key=str(hash_key)).shard_id == shard_id


def test_ranges_of_three_shards_as_in_the_ydb_test(store: StreamStore) -> None:
    store.create_stream("three", shard_count=3)
    ranges = [shard.hash_key_range for shard in store.describe_stream("three").shards]
    assert [(each.starting_hash_key, each.ending_hash_key) for each in ranges] == [
        (0, 113427455640312821154458202477256070484),
        (113427455640312821154458202477256070485, 226854911280625642308916404954512140969),
        (226854911280625642308916404954512140970, 340282366920938463463374607431768211455),
    ]


@pytest.mark.parametrize(
    ("shard_count", "yandex_start"),
    [
        (2, 170141183460469231731687303715884105727),
        (4, 85070591730234615865843651857942052863),
        (8, 42535295865117307932921825928971026431),
        (16, 21267647932558653966460912964485513215),
    ],
)
def test_the_first_hash_key_of_the_second_shard_is_that_of_yandex(
    store: StreamStore, shard_count: int, yandex_start: int
) -> None:
    store.create_stream("powers", shard_count=shard_count)
    assert store.put_record("powers", b"", "k", explicit_hash_key=str(yandex_start - 1)).shard_id == "shard-000000"
    assert store.put_record("powers", b"", "k", explicit_hash_key=str(yandex_start)).shard_id == "shard-000001"


# The dialect "aws"


@pytest.mark.parametrize("column", range(len(SHARD_COUNTS)))
def test_every_golden_key_lands_in_its_shard_of_aws(aws_store: StreamStore, column: int) -> None:
    aws_store.create_stream("golden", shard_count=SHARD_COUNTS[column])
    for key, hash_key, shard_indexes in VECTORS:
        expected = f"shardId-{shard_indexes[column]:012d}"
        assert aws_store.put_record("golden", b"", key).shard_id == expected
        assert aws_store.put_record("golden", b"", "other", explicit_hash_key=str(hash_key)).shard_id == expected


@pytest.mark.parametrize(
    ("hash_key", "shard_id"),
    [
        (2**128 - 1, "shardId-000000000002"),
        (2 * (2**128 // 3) - 1, "shardId-000000000001"),
        (2 * (2**128 // 3), "shardId-000000000002"),
        (0, "shardId-000000000000"),
    ],
)
def test_explicit_hash_keys_of_the_kinesalite_test_under_aws(
    aws_store: StreamStore, hash_key: int, shard_id: str
) -> None:
    aws_store.create_stream("three", shard_count=3)
    assert aws_store.put_record("three", b"", "k", explicit_hash_key=str(hash_key)).shard_id == shard_id


@pytest.mark.parametrize(("key", "shard_index"), [("a", 0), ("b", 1), ("e", 2), ("f", 1)])
def test_partition_keys_of_the_kinesalite_test_under_aws(aws_store: StreamStore, key: str, shard_index: int) -> None:
    aws_store.create_stream("three", shard_count=3)
    assert aws_store.put_record("three", b"", key).shard_id == f"shardId-{shard_index:012d}"


@pytest.mark.parametrize(
    ("shard_count", "aws_start"),
    [
        (2, 170141183460469231731687303715884105728),
        (4, 85070591730234615865843651857942052864),
        (8, 42535295865117307932921825928971026432),
        (16, 21267647932558653966460912964485513216),
    ],
)
def test_the_first_hash_key_of_the_second_shard_is_that_of_aws(
    aws_store: StreamStore, shard_count: int, aws_start: int
) -> None:
    aws_store.create_stream("powers", shard_count=shard_count)
    put = aws_store.put_record("powers", b"", "k", explicit_hash_key=str(aws_start - 1))
    assert put.shard_id == "shardId-000000000000"
    assert aws_store.put_record("powers", b"", "k", explicit_hash_key=str(aws_start)).shard_id == "shardId-000000000001"


def test_below_200_shards_the_dialects_differ_for_powers_of_two_only() -> None:
    differing = [count for count in range(1, 200) if slice_hash_keys(count, AWS) != slice_hash_keys(count, YANDEX)]
    assert differing == [2, 4, 8, 16, 32, 64, 128]
