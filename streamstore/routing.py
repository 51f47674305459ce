"""From a partition key to a hash key to a shard. Pure arithmetic.

Rule of YDB and Kinesis: the MD5 of the UTF-8 partition key, read as a big-endian unsigned integer, falls into
the range of exactly one open shard.
"""

from bisect import bisect_right
from collections.abc import Mapping
from hashlib import md5

from streamstore.dialect import Dialect
from streamstore.limits import HASH_KEY_MAX
from streamstore.model import HashKeyRange, StoredShard

__all__ = ["ShardRouter", "hash_key_of_partition_key", "slice_hash_keys"]


def hash_key_of_partition_key(partition_key: str) -> int:
    try:
        digest = md5(partition_key.encode(), usedforsecurity=False).digest()
    except ValueError as error:  # OpenSSL's word for it
        raise MemoryError(str(error)) from None
    return int.from_bytes(digest, "big")


def slice_hash_keys(shard_count: int, dialect: Dialect) -> list[HashKeyRange]:
    """Return the ranges of ``shard_count`` new shards, which tile [0, 2**128 - 1] in order."""
    assert shard_count >= 1
    width = dialect.hash_slice_dividend // shard_count
    starts = [index * width for index in range(shard_count)]
    ends = [start - 1 for start in starts[1:]] + [HASH_KEY_MAX]
    return [HashKeyRange(start, end) for start, end in zip(starts, ends, strict=True)]


class ShardRouter:
    """Finds the open shard of a hash key. Built once for each version of a stream's shard map."""

    __slots__ = ("_shard_indexes", "_starts")

    def __init__(self, shards: Mapping[int, StoredShard]) -> None:
        open_shards = sorted(
            (shard.hash_key_range.starting_hash_key, shard_index, shard.hash_key_range)
            for shard_index, shard in shards.items()
            if shard.next_sequence_at_close is None
        )
        _assert_tiling([hash_key_range for _, _, hash_key_range in open_shards])
        self._starts = [start for start, _, _ in open_shards]
        self._shard_indexes = [shard_index for _, shard_index, _ in open_shards]

    def shard_index_of(self, hash_key: int) -> int:
        return self._shard_indexes[bisect_right(self._starts, hash_key) - 1]


def _assert_tiling(ranges: list[HashKeyRange]) -> None:
    next_start = 0
    for hash_key_range in ranges:
        assert hash_key_range.starting_hash_key == next_start, "open shards must tile the hash keys"
        assert hash_key_range.ending_hash_key >= next_start
        next_start = hash_key_range.ending_hash_key + 1
    assert next_start == HASH_KEY_MAX + 1, "open shards must tile the hash keys"
