"""ValidationException: every constraint that a request breaks, in one message, in the words of the service."""

from typing import Final

from streamstore.dialect import YANDEX, Dialect
from streamstore.wire.refusal import Refusal
from streamstore.wire.shapes import Structure, WrongTypeError

__all__ = ["parse_request"]

VIOLATIONS_TOLD_MAX: Final = 10  # kinesalite


def parse_request(shape: Structure, body: object, dialect: Dialect) -> dict[str, object]:
    """Return the members of a valid request. Raises ``Refusal``."""
    try:
        values = shape.parse(body, refuse_unknown=dialect is YANDEX)
    except WrongTypeError as error:
        name = "InvalidArgumentException" if dialect is YANDEX else "SerializationException"
        raise Refusal(name, str(error)) from None
    broken = shape.violations(values, "")[:VIOLATIONS_TOLD_MAX]
    if broken:
        counted = f"{len(broken)} validation error{'s' if len(broken) > 1 else ''} detected"
        raise Refusal("ValidationException", f"{counted}: {'; '.join(map(str, broken))}")
    return values
