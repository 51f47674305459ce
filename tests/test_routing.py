"""Laws of routing: from a partition key to a hash key to exactly one open shard."""

import hashlib
from dataclasses import replace
from itertools import pairwise
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamstore import HashKeyRange
from streamstore.dialect import YANDEX
from streamstore.model import StoredShard
from streamstore.routing import ShardRouter, hash_key_of_partition_key, slice_hash_keys

HASH_KEY_MAX = 2**128 - 1

shard_counts = st.one_of(st.integers(1, 200), st.sampled_from([256, 1_000, 2**10, 4_000]))
any_hash_keys = st.integers(0, HASH_KEY_MAX)


def router_of(shard_count: int) -> ShardRouter:
    return ShardRouter(dict(enumerate(map(StoredShard, slice_hash_keys(shard_count, YANDEX)))))


@given(shard_counts)
def test_new_shards_tile_all_hash_keys_in_order(shard_count: int) -> None:
    ranges = slice_hash_keys(shard_count, YANDEX)
    assert len(ranges) == shard_count
    assert ranges[0].starting_hash_key == 0
    assert ranges[-1].ending_hash_key == HASH_KEY_MAX
    for left, right in pairwise(ranges):
        assert left.starting_hash_key <= left.ending_hash_key == right.starting_hash_key - 1


@given(shard_counts, any_hash_keys)
def test_every_hash_key_has_exactly_one_shard(shard_count: int, hash_key: int) -> None:
    ranges = slice_hash_keys(shard_count, YANDEX)
    assert [index for index, each in enumerate(ranges) if hash_key in each] == [
        router_of(shard_count).shard_index_of(hash_key)
    ]


@given(shard_counts, any_hash_keys)
def test_routing_agrees_with_division_by_the_slice(shard_count: int, hash_key: int) -> None:
    slice_width = HASH_KEY_MAX // shard_count
    expected = min(hash_key // slice_width, shard_count - 1)
    assert router_of(shard_count).shard_index_of(hash_key) == expected


@pytest.mark.parametrize("shard_count", range(1, 130))
def test_both_ends_of_every_range_are_routed_to_it(shard_count: int) -> None:
    router = router_of(shard_count)
    for index, each in enumerate(slice_hash_keys(shard_count, YANDEX)):
        assert router.shard_index_of(each.starting_hash_key) == index
        assert router.shard_index_of(each.ending_hash_key) == index


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_hash_key_is_the_md5_of_the_utf8_key_read_from_its_most_significant_digit(partition_key: str) -> None:
    assert hash_key_of_partition_key(partition_key) == int(hashlib.md5(partition_key.encode()).hexdigest(), 16)


@given(any_hash_keys)
def test_a_closed_shard_gets_no_hash_key(hash_key: int) -> None:
    parent = StoredShard(HashKeyRange(0, HASH_KEY_MAX), next_sequence_at_close=7)
    low, high = (StoredShard(each, parent_indexes=(0,)) for each in slice_hash_keys(2, YANDEX))
    router = ShardRouter({0: parent, 1: high, 2: low})
    assert router.shard_index_of(hash_key) == (2 if hash_key in low.hash_key_range else 1)


@pytest.mark.parametrize(
    "ranges",
    [
        [],
        [HashKeyRange(1, HASH_KEY_MAX)],
        [HashKeyRange(0, HASH_KEY_MAX - 1)],
        [HashKeyRange(0, 10), HashKeyRange(12, HASH_KEY_MAX)],
        [HashKeyRange(0, 10), HashKeyRange(10, HASH_KEY_MAX)],
    ],
)
def test_open_shards_that_do_not_tile_are_no_router(ranges: list[HashKeyRange]) -> None:
    with pytest.raises(AssertionError, match="tile"):
        ShardRouter(dict(enumerate(map(StoredShard, ranges))))


def test_ranges_of_a_power_of_two_are_those_of_yandex_not_of_aws() -> None:
    starts = {count: slice_hash_keys(count, YANDEX)[1].starting_hash_key for count in (2, 4, 8, 16)}
    assert starts == {
        2: 170141183460469231731687303715884105727,
        4: 85070591730234615865843651857942052863,
        8: 42535295865117307932921825928971026431,
        16: 21267647932558653966460912964485513215,
    }
    aws = replace(YANDEX, hash_slice_dividend=2**128)
    assert slice_hash_keys(2, aws)[1].starting_hash_key == 170141183460469231731687303715884105728


def test_a_hash_for_which_there_is_no_memory_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ValueError("[digital envelope routines] initialization error")
    monkeypatch.setattr("streamstore.routing.md5", mock.Mock(side_effect=error))
    with pytest.raises(MemoryError):
        hash_key_of_partition_key("key")
