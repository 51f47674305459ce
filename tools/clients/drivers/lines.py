"""What the drivers of Python clients share: the lines, and the values of botocore in JSON and back."""

import base64
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple, cast

__all__ = ["Order", "answer", "as_sent", "as_told", "error_of", "method_of", "orders"]


class Order(NamedTuple):
    """What to do: a call, a wait or a subscription. ``meanwhile``: a call to make once the first event has come."""

    kind: str
    what: str
    members: dict[str, object]
    meanwhile: "Order | None" = None


def orders() -> Iterator[Order]:
    """Iterate over what is asked for, until there is no more."""
    for line in sys.stdin:
        yield _order_of(cast("dict[str, object]", json.loads(line)))


def answer(value: Mapping[str, object]) -> None:
    """Tell what came of the last order."""
    sys.__stdout__.write(json.dumps(value) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def as_sent(members: object) -> object:
    """Return the members of a request as botocore takes them."""
    return _mapped(members, base64.b64decode, lambda ms: datetime.fromtimestamp(ms / 1000, UTC))


def as_told(output: object) -> object:
    """Return what botocore gave, in JSON."""
    if isinstance(output, bytes):
        return base64.b64encode(output).decode("ascii")
    if isinstance(output, datetime):
        return round(output.timestamp() * 1000)
    if isinstance(output, list):
        return [as_told(each) for each in cast("list[object]", output)]
    if isinstance(output, dict):
        named = cast("dict[str, object]", output)
        return {
            name: as_told(value) for name, value in named.items() if name not in ("ResponseMetadata", "EventStream")
        }
    return output


def error_of(error: Exception) -> dict[str, object]:
    """Return what a ``ClientError`` of botocore says; anything else is raised."""
    response = cast("dict[str, dict[str, object]] | None", getattr(error, "response", None))
    if response is None:
        raise error
    return {
        "code": response["Error"]["Code"],
        "message": response["Error"].get("Message"),
        "status": response["ResponseMetadata"]["HTTPStatusCode"],
        "class": type(error).__name__,
    }


def method_of(action: str) -> str:
    """Return the name of an action as botocore has it."""
    snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in action)
    return snake.removeprefix("_")


def _order_of(fields: dict[str, object]) -> Order:
    members = cast("dict[str, object]", fields.pop("members"))
    meanwhile = cast("dict[str, object] | None", fields.pop("meanwhile", None))
    ((kind, what),) = fields.items()
    return Order(kind, str(what), members, None if meanwhile is None else _order_of(meanwhile))


def _mapped(value: object, data: Callable[[str], object], time: Callable[[float], object]) -> object:
    if isinstance(value, list):
        return [_mapped(each, data, time) for each in cast("list[object]", value)]
    if not isinstance(value, dict):
        return value
    named = cast("dict[str, object]", value)
    mapped: dict[str, object] = {}
    for name, each in named.items():
        if name == "Data" and isinstance(each, str):
            mapped[name] = data(each)
        elif name == "Timestamp" and isinstance(each, int):
            mapped[name] = time(each)
        else:
            mapped[name] = _mapped(each, data, time)
    return mapped
