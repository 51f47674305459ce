"""What two clients were told, compared: they asked the same, in the same order."""

import difflib
import json
from collections.abc import Sequence
from typing import cast

from tools.clients.conversation import Talk

__all__ = ["compared", "lacks"]


def lacks(talk: Talk) -> bool:
    """Tell whether the client has nothing for what it was asked."""
    came = talk.came
    return isinstance(came, dict) and "lacks" in cast("dict[str, object]", came)


def compared(expected: Sequence[Talk], found: Sequence[Talk]) -> list[str]:
    """Return where two conversations differ, in words."""
    differences: list[str] = []
    for left, right in zip(expected, found, strict=False):
        if left.asked != right.asked:
            return [*differences, f"one asked {left.asked}", f"the other {right.asked}"]
        if lacks(left) or lacks(right) or known_of_both(left.came, right.came):
            continue
        before, behind = (json.dumps(talk.came, indent=1, sort_keys=True).splitlines() for talk in (left, right))
        differences += [left.asked, *difflib.unified_diff(before, behind, lineterm="", n=0)]
    if len(expected) != len(found):
        differences.append(f"one asked {len(expected)} times, the other {len(found)}")
    return differences


def known_of_both(left: object, right: object) -> bool:
    """Tell whether two clients were told the same. A command knows nothing of statuses and classes of errors."""
    if isinstance(left, dict) and isinstance(right, dict) and "code" in left and "code" in right:
        errors = cast("tuple[dict[str, object], dict[str, object]]", (left, right))
        return all(errors[0][name] == errors[1][name] for name in errors[0].keys() & errors[1].keys())
    return left == right
