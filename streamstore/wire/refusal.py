"""What the wire answers when it refuses: a name, a status and a sentence, in the words of the service.

The store says what is wrong and how to mend it; here its errors become those of the table of the service.
"""

import re
from typing import Final

from streamstore.dialect import YANDEX, Dialect
from streamstore.errors import (
    CorruptRecordError,
    InvalidArgumentException,
    LimitExceededException,
    OutcomeUnknownError,
    ProvisionedThroughputExceededException,
    RequestError,
    ResourceInUseException,
    ResourceNotFoundException,
    StorageError,
    StreamStoreError,
)

__all__ = ["Refusal", "refusal_of"]

BAD_REQUEST: Final = 400
INTERNAL: Final = 500
UNAVAILABLE: Final = 503
MAY_HAVE_CHANGED_OR_DAMAGED: Final = (CorruptRecordError, OutcomeUnknownError)
NAMED_RESOURCE: Final = re.compile(r"Stream \S+|(Shard \S+ in stream \S+)")


class Refusal(Exception):
    """A request that is answered with an error. ``name`` is what clients know it by; nothing was changed."""

    def __init__(self, name: str, message: str | None, *, status: int = BAD_REQUEST) -> None:
        super().__init__(name, message, status)
        self.name = name
        self.message = message
        self.status = status


def refusal_of(error: StreamStoreError, *, dialect: Dialect, account_id: str, region: str) -> Refusal:
    """Return how the service names and words an error of the store."""
    if isinstance(error, StorageError):
        return _refusal_of_storage_error(error, dialect)
    assert isinstance(error, RequestError)
    if isinstance(error, InvalidArgumentException) and error.argument == "read_only":
        return Refusal("AccessDeniedException", "The store is open for reading only.")
    return Refusal(type(error).__name__, _words(error, account_id, region), status=error.http_status)


def _refusal_of_storage_error(error: StorageError, dialect: Dialect) -> Refusal:
    """Clients send again what is answered so, under the same invocation id, so that nothing is stored twice."""
    if isinstance(error, MAY_HAVE_CHANGED_OR_DAMAGED):
        return Refusal("InternalError" if dialect is YANDEX else "InternalFailure", error.message, status=INTERNAL)
    return Refusal("Unavailable" if dialect is YANDEX else "ServiceUnavailable", error.message, status=UNAVAILABLE)


def _words(error: RequestError, account_id: str, region: str) -> str:
    if isinstance(error, ResourceNotFoundException) and (match := NAMED_RESOURCE.fullmatch(error.resource)):
        end = "does not exist" if match[1] else "not found."
        return f"{error.resource} under account {account_id} {end}"
    if isinstance(error, ResourceInUseException) and NAMED_RESOURCE.fullmatch(error.resource):
        return f"{error.resource} under account {account_id} {error.message.removeprefix(error.resource).lstrip()}"
    if isinstance(error, ProvisionedThroughputExceededException):
        return f"Rate exceeded for shard {error.shard_id} in stream {error.stream_name} under account {account_id}."
    if isinstance(error, LimitExceededException) and error.shards_asked is not None:
        existing, limit, more = error.shards_asked
        return (
            f"This request would exceed the shard limit for the account {account_id} in {region}. Current shard count "
            f"for the account: {existing}. Limit: {limit}. Number of additional shards that would have resulted from "
            f"this request: {more}."
        )
    return error.message
