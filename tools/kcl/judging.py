"""What the consumers of an application noted, held against what they should have been given."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

__all__ = ["Noted", "contradictions"]


class Noted(NamedTuple):
    """What the consumer of a shard noted: that it ``begins`` or ``ends``, or a ``record`` that it was given."""

    shard_id: str
    kind: str
    sequence: int = 0
    data: str = ""


def contradictions(
    noted: Sequence[Noted], acknowledged: AbstractSet[str], parents: Mapping[str, Sequence[str]]
) -> list[str]:
    """Return in sentences what an application must not have been given as it was.

    It may be given records again, from its checkpoint on, but never a later one before an earlier one.
    """
    wrong: list[str] = []
    ended: set[str] = set()
    last: dict[str, int] = {}
    given: set[tuple[str, int]] = set()
    for shard_id, kind, sequence, data in noted:
        if kind == "begins":
            wrong += [
                f"{shard_id} was begun before its parent {parent} had ended"
                for parent in parents.get(shard_id, ())
                if parent not in ended
            ]
        elif kind == "ends":
            ended.add(shard_id)
        elif kind == "record":
            if data not in acknowledged:
                wrong.append(f"{data!r} in {shard_id} was never put")
            if (shard_id, sequence) not in given and sequence < last.get(shard_id, 0):
                wrong.append(f"record {sequence} of {shard_id} came behind record {last[shard_id]}")
            given.add((shard_id, sequence))
            last[shard_id] = max(sequence, last.get(shard_id, 0))
    return wrong
