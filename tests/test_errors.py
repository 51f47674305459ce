"""Laws of the errors: the drawn tree is the real one, each says what state it leaves, each pickles."""

import copy
import inspect
import pickle
import re
import tracemalloc

import pytest

import streamstore
from streamstore import errors
from streamstore.errors import (
    CorruptRecordError,
    ExpiredIteratorException,
    ExpiredNextTokenException,
    InvalidArgumentException,
    LimitExceededException,
    OutcomeUnknownError,
    ProvisionedThroughputExceededException,
    RequestError,
    ResourceInUseException,
    ResourceNotFoundException,
    StorageError,
    StoreClosedError,
    StoreForkedError,
    StoreFormatError,
    StoreFullError,
    StoreLockedError,
    StoreNotFoundError,
    StreamStoreError,
)

EXAMPLES: list[StreamStoreError] = [
    StreamStoreError("What happened."),
    RequestError("What happened."),
    InvalidArgumentException(argument="limit", value=0, constraint="be at least 1"),
    ResourceNotFoundException(resource="Stream s", remedy="create it"),
    ResourceInUseException(resource="Stream s", remedy="use it"),
    ProvisionedThroughputExceededException(stream_name="s", shard_id="shard-000000", retry_after_ms=5),
    LimitExceededException(limit="4000 shards per store", remedy="delete streams"),
    ExpiredIteratorException("What happened."),
    ExpiredNextTokenException("What happened."),
    StorageError("What happened."),
    StoreFullError("What happened."),
    StoreClosedError("What happened."),
    StoreLockedError("What happened."),
    StoreNotFoundError("What happened."),
    StoreFormatError("What happened."),
    StoreForkedError("What happened."),
    CorruptRecordError(shard_id="shard-000000", sequence_number="7", problem="it is missing"),
    OutcomeUnknownError("What happened."),
]
CLASSES = [type(example) for example in EXAMPLES]

STATE = re.compile(
    r"nothing (was|changed|happened|of it)|neighbours|stay readable|may or may not be stored|what is on disk",
    re.IGNORECASE,
)


def name_of(value: object) -> str:
    return value.__name__ if isinstance(value, type) else type(value).__name__


def classes_of_the_module() -> set[type[StreamStoreError]]:
    return {each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, StreamStoreError)}


def tree_in_the_docstring() -> dict[str, list[str]]:
    """Return each class that is drawn with the names of its bases: the one it hangs from, then those in brackets."""
    bases: dict[str, list[str]] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        drawn = re.fullmatch(r"([ |+]*)([A-Z]\w+(?:Error|Exception))(?: \((\w+)\))?(?: {2,}.*)?", line)
        if drawn:
            depth, name, builtin = len(drawn[1]), drawn[2], drawn[3]
            while path and path[-1][0] >= depth:
                path.pop()
            bases[name] = [path[-1][1] if path else "Exception", *([builtin] if builtin else [])]
            path.append((depth, name))
    return bases


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    real = {each.__name__: [base.__name__ for base in each.__bases__] for each in classes_of_the_module()}
    assert tree_in_the_docstring() == real


def test_every_error_is_in_the_front_door_in_all_and_here() -> None:
    names = {each.__name__ for each in classes_of_the_module()}
    assert set(errors.__all__) == names
    assert names <= set(streamstore.__all__)
    assert {each.__name__ for each in CLASSES} == names


@pytest.mark.parametrize("error_type", CLASSES, ids=name_of)
def test_every_error_says_in_its_docstring_what_state_it_leaves(error_type: type[StreamStoreError]) -> None:
    assert error_type.__doc__
    assert STATE.search(" ".join(error_type.__doc__.split()))


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_every_error_survives_pickling_and_copying(example: StreamStoreError) -> None:
    twins = [copy.copy(example), copy.deepcopy(example)]
    twins += [pickle.loads(pickle.dumps(example, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for twin in twins:
        assert type(twin) is type(example)
        assert (str(twin), repr(twin), twin.args) == (str(example), repr(example), example.args)
        assert vars(twin) == vars(example)


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_the_text_of_every_error_is_its_message_and_a_sentence(example: StreamStoreError) -> None:
    assert str(example) == example.message
    assert example.args == (example.message,)
    assert example.message.endswith(".")


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_request_errors_have_status_400_and_storage_errors_have_none(example: StreamStoreError) -> None:
    assert getattr(example, "http_status", None) == (400 if isinstance(example, RequestError) else None)
    assert not (isinstance(example, RequestError) and isinstance(example, StorageError))


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (-1.5, -1.5),
        ("text", "text"),
        ("\ud800", "\ud800"),
        (b"SECRET", "bytes of 6 bytes"),
        (bytearray(b"SECRET"), "bytearray of 6 bytes"),
        (memoryview(b"SECRET"), "memoryview of 6 bytes"),
        (10**5_000, "int of 16610 bits"),
        (-(10**5_000), "int of 16610 bits"),
        (["x", 1], "['x', 1]"),
        (Unprintable(), "object of type Unprintable"),
    ],
    ids=name_of,
)
def test_any_value_is_kept_small_printable_and_picklable(value: object, kept: object) -> None:
    error = InvalidArgumentException(argument="limit", value=value, constraint="be at least 1")
    assert error.value == kept
    assert type(error.value) is type(kept)
    assert str(error).startswith("limit must be at least 1; got ")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_value_of_a_class_that_no_other_process_has_survives_pickling() -> None:
    class Local(int):
        pass

    error = InvalidArgumentException(argument="limit", value=Local(7), constraint="be at least 8")
    assert pickle.loads(pickle.dumps(error)).value in (7, "7")


def test_a_long_value_is_shown_shortened_with_its_length() -> None:
    error = InvalidArgumentException(argument="partition_key", value="k" * 300, constraint="be shorter")
    assert str(error) == f"partition_key must be shorter; got '{'k' * 79}... (300 characters)."
    assert error.value == "k" * 300


def test_of_a_long_value_only_the_beginning_is_printed() -> None:
    value = "\ud800" * 10_000_000
    tracemalloc.start()
    try:
        error = InvalidArgumentException(argument="partition_key", value=value, constraint="be shorter")
        made_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert error.value is value
    assert made_bytes < 100_000


def test_the_documented_attributes_are_there() -> None:
    bad, missing, in_use, throttled, limited = EXAMPLES[2:7]
    assert (vars(bad)["argument"], vars(bad)["value"], vars(bad)["constraint"]) == ("limit", 0, "be at least 1")
    assert vars(missing)["resource"] == vars(in_use)["resource"] == "Stream s"
    assert (vars(throttled)["stream_name"], vars(throttled)["shard_id"]) == ("s", "shard-000000")
    assert vars(throttled)["retry_after_ms"] == 5
    assert vars(limited)["limit"] == "4000 shards per store"
    assert (vars(EXAMPLES[16])["shard_id"], vars(EXAMPLES[16])["sequence_number"]) == ("shard-000000", "7")
