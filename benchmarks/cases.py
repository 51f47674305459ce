"""What is measured, as data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.contenders import BareLmdb, ContenderFactory, SqliteWalFull, Streamstore

__all__ = ["CASES", "Case"]


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison. ``contender`` is ours, and must reach ``bar`` times the speed of ``baseline`` in the median."""

    name: str
    durability: str
    payload_bytes: int
    batch_records: int
    producers: int
    contenders: Mapping[str, ContenderFactory]
    contender: str
    baseline: str
    bar: float


CASES: Final = (
    Case(
        name="put_record",
        durability="each record is synced to the device before its put returns",
        payload_bytes=1024,
        batch_records=1,
        producers=1,
        contenders={
            "streamstore": Streamstore,
            "bare py-lmdb": BareLmdb,
            "SQLite WAL FULL": SqliteWalFull,
        },
        contender="streamstore",
        baseline="bare py-lmdb",
        bar=0.85,
    ),
)
