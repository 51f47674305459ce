"""The names of members: ``partition_key`` inside is ``PartitionKey`` on the wire. The only place that turns one into
the other.

What the store returns becomes a map of the wire here, field by field; what is None is left out.
"""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import cast

from streamstore.model import HashKeyRange, Record
from streamstore.wire.shapes import Moment

__all__ = ["camel", "lower_camel", "moment_of", "wire_value"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


@cache
def camel(name: str) -> str:
    """Return the member that is called so inside: ``stream_arn`` is ``StreamARN``."""
    return "".join("ARN" if part == "arn" else part[:1].upper() + part[1:] for part in name.split("_"))


def lower_camel(name: str) -> str:
    """Return the member as errors of the service write it."""
    member = camel(name)
    return member[:1].lower() + member[1:]


def moment_of(time: datetime) -> Moment:
    return Moment((time - EPOCH) // MILLISECOND)


def wire_value(value: object) -> object:
    """Return a result of the store as maps, lists and plain values of the wire."""
    if isinstance(value, Record):
        return {
            "SequenceNumber": value.sequence_number,
            "ApproximateArrivalTimestamp": Moment(value.arrival_ms),
            "Data": value.data,
            "PartitionKey": value.partition_key,
            "EncryptionType": value.encryption_type,
        }
    if isinstance(value, HashKeyRange):
        return {"StartingHashKey": str(value.starting_hash_key), "EndingHashKey": str(value.ending_hash_key)}
    if isinstance(value, datetime):
        return moment_of(value)
    if is_dataclass(value) and not isinstance(value, (type, Moment)):
        return {
            camel(field.name): wire_value(given)
            for field in fields(value)
            if (given := getattr(value, field.name)) is not None
        }
    if isinstance(value, (tuple, list)):
        return [wire_value(item) for item in cast("Sequence[object]", value)]
    return value
