"""What differs between Yandex Data Streams and Amazon Kinesis, as data.

A store is created with one dialect and keeps it. No other module asks which dialect it is.
"""

import re
from dataclasses import dataclass
from typing import Final

from streamstore.limits import HASH_KEY_MAX

__all__ = ["AWS", "DIALECTS", "YANDEX", "Dialect"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """The names, ids, slicing and bounds of one flavour of the service.

    ``hash_slice_dividend`` divided by the shard count, rounded down, is the width of a new shard's range. The smaller
    part of a split has more than ``split_margin_hash_keys``. ``resize_factor_max`` bounds one update of the shard
    count, up and down; None: no bound. ``consumers_per_stream_max`` bounds what may be registered.
    ``stream_arn_format`` takes ``region``, ``account_id`` and ``stream_name``.
    """

    name: str
    stream_name_pattern: re.Pattern[str]
    stream_name_rule: str
    shard_id_pattern: re.Pattern[str]
    shard_id_format: str
    hash_slice_dividend: int
    retention_hours_min: int
    retention_hours_max: int
    retention_hours_default: int
    split_margin_hash_keys: int
    resize_factor_max: int | None
    resizes_per_day_max: int | None
    consumers_per_stream_max: int
    stream_arn_format: str
    region_default: str

    def shard_id(self, shard_index: int) -> str:
        return self.shard_id_format.format(shard_index)

    def stream_arn(self, stream_name: str, *, region: str, account_id: str) -> str:
        return self.stream_arn_format.format(region=region, account_id=account_id, stream_name=stream_name)


# Sources: YDB and the Yandex documents; their limits page for consumers.
YANDEX: Final = Dialect(
    name="yandex",
    stream_name_pattern=re.compile(r"[a-zA-Z][a-zA-Z0-9-]*(?<!-)"),
    stream_name_rule="a letter, then letters, digits and hyphens, the last character not a hyphen",
    shard_id_pattern=re.compile(r"shard-([0-9]{6,10})"),
    shard_id_format="shard-{:06d}",
    hash_slice_dividend=HASH_KEY_MAX,
    retention_hours_min=1,
    retention_hours_max=24,
    retention_hours_default=24,
    split_margin_hash_keys=0,
    resize_factor_max=None,
    resizes_per_day_max=None,
    consumers_per_stream_max=5,
    stream_arn_format="{stream_name}",
    region_default="ru-central1",
)

# Sources: the Kinesis model for names and ids, the developer guide for bounds, kinesalite for slicing and splitting.
AWS: Final = Dialect(
    name="aws",
    stream_name_pattern=re.compile(r"[a-zA-Z0-9_.-]+"),
    stream_name_rule="letters, digits, '_', '.' and '-'",
    shard_id_pattern=re.compile(r"shardId-([0-9]{12})"),
    shard_id_format="shardId-{:012d}",
    hash_slice_dividend=HASH_KEY_MAX + 1,
    retention_hours_min=24,
    retention_hours_max=8_760,
    retention_hours_default=24,
    split_margin_hash_keys=1,
    resize_factor_max=2,
    resizes_per_day_max=10,
    consumers_per_stream_max=20,
    stream_arn_format="arn:aws:kinesis:{region}:{account_id}:stream/{stream_name}",
    region_default="us-east-1",
)

DIALECTS: Final = {dialect.name: dialect for dialect in (YANDEX, AWS)}
