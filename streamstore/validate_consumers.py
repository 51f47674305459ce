"""Raw arguments in, typed values out: the names and the ARN of a registered consumer. See ``validate.py``."""

import re
from typing import Final, TypeGuard

from streamstore.dialect import Dialect
from streamstore.errors import InvalidArgumentException
from streamstore.limits import ARN_CHARACTERS_MAX, CONSUMER_NAME_CHARACTERS_MAX
from streamstore.validate import is_stream_name, parse_stream_name, refuse_beside

# [0-9], because \d matches the digits of every script. Always used with fullmatch.
CONSUMER_NAME_PATTERN: Final = re.compile(r"[a-zA-Z0-9_.-]+")
CONSUMER_ARN_PATTERN: Final = re.compile(rf"(?:.*/)?([^/]+)/consumer/({CONSUMER_NAME_PATTERN.pattern}):[0-9]+")


def parse_consumer_name(value: object) -> str:
    if _is_consumer_name(value):
        return value
    raise InvalidArgumentException(
        argument="consumer_name",
        value=value,
        constraint=f"be a str of 1 to {CONSUMER_NAME_CHARACTERS_MAX} letters, digits, '_', '.' and '-'",
    )


def parse_consumer_address(
    stream_name: object, consumer_name: object, consumer_arn: object, dialect: Dialect
) -> tuple[str, str]:
    """Return the names of a stream and of its consumer, as they were given, or as the consumer's ARN says."""
    if consumer_arn is None:
        return parse_stream_name("stream_name", stream_name, dialect), parse_consumer_name(consumer_name)
    refuse_beside("consumer_arn", "stream_name", stream_name)
    refuse_beside("consumer_arn", "consumer_name", consumer_name)
    return parse_consumer_arn(consumer_arn, dialect)[1:]


def parse_consumer_arn(value: object, dialect: Dialect) -> tuple[str, str, str]:
    """Return the ARN of a consumer, and the names of the stream and the consumer in it."""
    if isinstance(value, str) and len(value) <= ARN_CHARACTERS_MAX:
        match = CONSUMER_ARN_PATTERN.fullmatch(value)
        if match and is_stream_name(match[1], dialect.stream_name_pattern) and _is_consumer_name(match[2]):
            return value, match[1], match[2]
    raise InvalidArgumentException(
        argument="consumer_arn",
        value=value,
        constraint="be the ARN of a consumer, a str that ends in <stream name>/consumer/<consumer name>:<seconds>",
    )


def _is_consumer_name(value: object) -> TypeGuard[str]:
    return (
        isinstance(value, str)
        and len(value) <= CONSUMER_NAME_CHARACTERS_MAX
        and CONSUMER_NAME_PATTERN.fullmatch(value) is not None
    )
