"""Every error that streamstore raises, and what each says about the disk.

::

    StreamStoreError
    + RequestError                                the caller can mend it; nothing was stored; http_status 400
    |   InvalidArgumentException (ValueError)     .argument .value .constraint
    |   ResourceNotFoundException (LookupError)   .resource
    |   ResourceInUseException                    .resource
    |   ProvisionedThroughputExceededException    .stream_name .shard_id
    |   LimitExceededException                    .limit .shards_asked
    |   ExpiredIteratorException
    |   ExpiredNextTokenException
    + StorageError                                the machine or the store failed
        StoreFullError                            nothing stored; free space and retry, no restart needed
        StoreClosedError                          nothing stored
        StoreLockedError                          not opened
        StoreNotFoundError (FileNotFoundError)    not opened
        StoreFormatError                          not opened, or the damaged part refused
        StoreForkedError                          nothing stored
        CorruptRecordError                        nothing changed; .shard_id .sequence_number .last_sequence_number
        OutcomeUnknownError                       the request may or may not be stored

The names of the request errors are those of the Kinesis and Yandex Data Streams documents, where all of
them are answered with HTTP status 400.
"""

from typing import ClassVar, Final, NamedTuple, cast

__all__ = [
    "CorruptRecordError",
    "ExpiredIteratorException",
    "ExpiredNextTokenException",
    "InvalidArgumentException",
    "LimitExceededException",
    "OutcomeUnknownError",
    "ProvisionedThroughputExceededException",
    "RequestError",
    "ResourceInUseException",
    "ResourceNotFoundException",
    "StorageError",
    "StoreClosedError",
    "StoreForkedError",
    "StoreFormatError",
    "StoreFullError",
    "StoreLockedError",
    "StoreNotFoundError",
    "StreamStoreError",
]

SHOWN_CHARACTERS_MAX: Final = 80
INT_BITS_SHOWN_MAX: Final = 1024


class StreamStoreError(Exception):
    """Any error of this package. The class of the error says what is on disk."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[object, ...]:
        # Exception would call the class with self.args, which are not the arguments of our classes.
        return (_restore, (type(self), self.message, dict(self.__dict__)))


def _restore(error_type: type[StreamStoreError], message: str, attributes: dict[str, object]) -> StreamStoreError:
    error = error_type.__new__(error_type, message)
    error.args = (message,)
    error.__dict__.update(attributes)
    return error


class RequestError(StreamStoreError):
    """The service refuses the request. Nothing was stored and nothing changed."""

    http_status: ClassVar[int] = 400


class InvalidArgumentException(RequestError, ValueError):
    """An argument breaks a documented rule. Nothing was stored.

    ``argument`` is its name, ``value`` what was given (a payload by its length only, an object of a
    foreign type by its ``repr``), ``constraint`` the rule as a phrase that completes "must ...".
    """

    def __init__(self, *, argument: str, value: object, constraint: str) -> None:
        self.argument = argument
        self.value = _presentable(argument, value)
        self.constraint = constraint
        super().__init__(f"{argument} must {constraint}; got {_shown(self.value)}.")


class ResourceNotFoundException(RequestError, LookupError):
    """The named stream or shard does not exist. Nothing was stored."""

    def __init__(self, *, resource: str, remedy: str) -> None:
        self.resource = resource
        super().__init__(f"{resource} does not exist; {remedy}.")


class ResourceInUseException(RequestError):
    """The resource exists already, or is used by something that the request would harm. Nothing changed."""

    def __init__(self, *, resource: str, problem: str = "already exists", remedy: str) -> None:
        self.resource = resource
        super().__init__(f"{resource} {problem}; {remedy}.")


class ProvisionedThroughputExceededException(RequestError):
    """The shard's quota of writing or of reading is used up for now. Nothing was stored or read.

    Retry after ``retry_after_ms``.
    """

    def __init__(
        self,
        *,
        stream_name: str,
        shard_id: str,
        retry_after_ms: int,
        remedy: str = "spread the keys over more shards, or raise the quota",
    ) -> None:
        self.stream_name = stream_name
        self.shard_id = shard_id
        self.retry_after_ms = retry_after_ms
        super().__init__(
            f"Rate exceeded for shard {shard_id} in stream {stream_name}; retry in {retry_after_ms} ms, {remedy}."
        )


class ShardsAsked(NamedTuple):
    """How many open shards there are, how many there may be, and how many more a request would have made."""

    existing: int
    limit: int
    more: int


class LimitExceededException(RequestError):
    """The request would pass a limit of the store. Nothing changed.

    ``shards_asked`` is told where it is that of the open shards that the store was opened with.
    """

    def __init__(self, *, limit: str, remedy: str, shards_asked: ShardsAsked | None = None) -> None:
        self.limit = limit
        self.shards_asked = shards_asked
        super().__init__(f"The request would exceed the limit of {limit}; {remedy}.")


class ExpiredIteratorException(RequestError):
    """The shard iterator is older than 300 s. Nothing was read; ask for a new one."""


class ExpiredNextTokenException(RequestError):
    """The paging token is older than 300 s. Nothing was read; start the listing again."""


class StorageError(StreamStoreError):
    """The machine or the store failed. Unless a subclass says otherwise, nothing was stored."""


class StoreFullError(StorageError):
    """No space for the write (disk, quota or address space). Nothing was stored.

    Reading goes on, and writing resumes by itself once there is space: no restart is needed.
    """


class StoreClosedError(StorageError):
    """The store is closed. Nothing was stored; open it again."""


class StoreLockedError(StorageError):
    """The store is open in a way that forbids this opening. Nothing was opened or changed."""


class StoreNotFoundError(StorageError, FileNotFoundError):
    """There is no store at the path and creating one was not allowed. Nothing was created."""


class StoreFormatError(StorageError):
    """What lies at the path is not a store that this version can read, or is damaged. Nothing changed."""


class StoreForkedError(StorageError):
    """The process forked after it opened the store; only the parent may use it. Nothing was stored."""


class CorruptRecordError(StorageError):
    """A stored record does not prove itself: its checksum, number or shape is wrong.

    Nothing changed. The records before and after it stay readable: read on behind ``last_sequence_number``, which is
    ``sequence_number`` but where one error stands for a whole run of records: those that are missing, or that were
    lost when the store was salvaged.
    """

    def __init__(
        self, *, shard_id: str, sequence_number: str, problem: str, last_sequence_number: str | None = None
    ) -> None:
        self.shard_id = shard_id
        self.sequence_number = sequence_number
        self.last_sequence_number = last_sequence_number or sequence_number
        self.problem = problem
        which = f"Record {sequence_number} of {shard_id} is"
        if self.last_sequence_number != sequence_number:
            which = f"Records {sequence_number} to {last_sequence_number} of {shard_id} are"
        super().__init__(f"{which} damaged: {problem}.")


class OutcomeUnknownError(StorageError):
    """The commit failed and its outcome could not be found out.

    The request may or may not be stored. The store acknowledges nothing more until it has reopened its
    file, which the next write tries; then read the shard to see whether the record is there.
    """


def _presentable(argument: str, value: object) -> object:
    """Return ``value`` in a form that is small, holds no payload, and can be pickled and printed."""
    if isinstance(value, (bytes, bytearray)):
        return f"{type(value).__name__} of {len(value)} bytes"
    if isinstance(value, memoryview):
        try:
            return f"memoryview of {cast(memoryview, value).nbytes} bytes"
        except ValueError:
            return "memoryview that was released"
    if argument == "data" and value is not None:
        return f"str of {len(value)} characters" if isinstance(value, str) else f"object of type {type(value).__name__}"
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int) and value.bit_length() > INT_BITS_SHOWN_MAX:
        return f"int of {value.bit_length()} bits"  # Python refuses to print the longest ones
    if value is None or type(value) in (bool, int, float):
        return value
    try:
        return repr(value)
    except Exception:
        return f"object of type {type(value).__name__}"


def _shown(value: object) -> str:
    """Return the beginning of the ``repr``. Of a string no more is made: all of a long one takes milliseconds."""
    text = repr(value[:SHOWN_CHARACTERS_MAX] if isinstance(value, str) else value)
    characters = len(value if isinstance(value, str) else text)
    if max(characters, len(text)) <= SHOWN_CHARACTERS_MAX:
        return text
    return f"{text[:SHOWN_CHARACTERS_MAX]}... ({characters} characters)"
