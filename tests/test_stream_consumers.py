"""Laws of the registry of consumers: registered, found by name and by ARN, listed, and gone with their stream."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from streamstore import (
    Consumer,
    ConsumerDescription,
    ExpiredNextTokenException,
    InvalidArgumentException,
    LimitExceededException,
    ListStreamConsumersResult,
    ResourceInUseException,
    ResourceNotFoundException,
    StreamStore,
)
from streamstore.check import check_store
from streamstore.disk_format import consumer_key, encode_position, position_key
from streamstore.model import StreamNumber
from tests.commits import last_commit
from tests.conftest import Clock, open_store
from tests.damage import behind_the_back_of

NOW = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)  # when the clock of the tests starts: 1,700,000,000 s
BAD_CONSUMER_NAMES = ["", "c\n", "c d", "c/d", "c:1", "é", "x" * 129, None, 1, True, b"c"]
BAD_ARNS = ["", "s", "s/consumer/c", "s/consumer/c:", "s/consumer/:1", "s/consumer/c:1\n", "/consumer/c:1"]
LONG_BAD_ARNS = ["s_/consumer/c:1", "s/consumer/" + "c" * 129 + ":1", "s/consumer/c:" + "1" * 2_040]


def shown(value: object) -> str:
    return ascii(value)[:24]


def refused(argument: str, call: Callable[[], object]) -> None:
    with pytest.raises(InvalidArgumentException) as refusal:
        call()
    assert refusal.value.argument == argument


@pytest.fixture
def stream(store: StreamStore) -> StreamStore:
    """A store with the stream "s"."""
    store.create_stream("s")
    return store


def register(store: StreamStore, *names: str) -> list[Consumer]:
    return [store.register_stream_consumer("s", name) for name in names]


def names_of(page: ListStreamConsumersResult) -> list[str]:
    return [consumer.consumer_name for consumer in page.consumers]


# register and describe


def test_a_registered_consumer_is_active_and_found_by_name_and_by_arn(stream: StreamStore, clock: Clock) -> None:
    consumer = stream.register_stream_consumer("s", "a.b-c_D")
    assert consumer == Consumer("a.b-c_D", "s/consumer/a.b-c_D:1700000000", "ACTIVE", NOW)
    clock.advance(5_000)
    expected = ConsumerDescription("a.b-c_D", "s/consumer/a.b-c_D:1700000000", "ACTIVE", NOW, stream_arn="s")
    assert stream.describe_stream_consumer("s", "a.b-c_D") == expected
    assert stream.describe_stream_consumer(consumer_arn=consumer.consumer_arn) == expected


def test_a_consumer_is_still_there_when_the_store_is_opened_again(
    stream: StreamStore, store_path: Path, clock: Clock
) -> None:
    (consumer,) = register(stream, "c")
    stream.close()
    with open_store(store_path, clock) as again:
        assert again.list_stream_consumers("s").consumers == (consumer,)


def test_a_name_is_registered_once_a_stream(stream: StreamStore, clock: Clock) -> None:
    (consumer,) = register(stream, "c")
    clock.advance(5_000)
    with pytest.raises(ResourceInUseException, match="Consumer c of stream s already exists; use it"):
        register(stream, "c")
    assert stream.list_stream_consumers("s").consumers == (consumer,)
    stream.create_stream("t")
    assert stream.register_stream_consumer("t", "c").consumer_arn == "t/consumer/c:1700000005"


def test_a_stream_has_five_consumers_and_another_once_one_is_gone(stream: StreamStore) -> None:
    register(stream, *"abcde")
    before = last_commit(stream)
    with pytest.raises(LimitExceededException, match="limit of 5 consumers per stream; deregister one of stream s"):
        register(stream, "f")
    with pytest.raises(ResourceInUseException):
        register(stream, "a")
    assert last_commit(stream) == before
    stream.create_stream("t")
    stream.register_stream_consumer("t", "f")
    stream.deregister_stream_consumer("s", "a")
    register(stream, "f")
    assert names_of(stream.list_stream_consumers("s")) == list("bcdef")


@pytest.mark.parametrize("name", BAD_CONSUMER_NAMES, ids=shown)
def test_a_bad_consumer_name_is_refused_by_every_operation(stream: StreamStore, name: object) -> None:
    refused("consumer_name", lambda: stream.register_stream_consumer("s", name))  # type: ignore[arg-type]
    refused("consumer_name", lambda: stream.describe_stream_consumer("s", name))  # type: ignore[arg-type]
    refused("consumer_name", lambda: stream.deregister_stream_consumer("s", name))  # type: ignore[arg-type]


@pytest.mark.parametrize("arn", [*BAD_ARNS, *LONG_BAD_ARNS, 1, True, b"s/consumer/c:1"], ids=shown)
def test_what_is_no_arn_of_a_consumer_is_refused(stream: StreamStore, arn: object) -> None:
    refused("consumer_arn", lambda: stream.describe_stream_consumer(consumer_arn=arn))  # type: ignore[arg-type]
    refused("consumer_arn", lambda: stream.deregister_stream_consumer(consumer_arn=arn))  # type: ignore[arg-type]


def test_a_consumer_is_named_by_stream_and_name_or_by_its_arn_not_both(stream: StreamStore) -> None:
    (consumer,) = register(stream, "c")
    for call in (stream.describe_stream_consumer, stream.deregister_stream_consumer):
        refused("stream_name", lambda call=call: call("s", consumer_arn=consumer.consumer_arn))  # type: ignore[misc]
        refused("consumer_name", lambda call=call: call(None, "c", consumer_arn=consumer.consumer_arn))  # type: ignore[misc]
        refused("stream_name", lambda call=call: call())  # type: ignore[misc]
        refused("consumer_name", lambda call=call: call("s"))  # type: ignore[misc]
    assert stream.list_stream_consumers("s").consumers == (consumer,)


def test_the_arn_of_a_consumer_registered_again_since_is_that_of_no_consumer(stream: StreamStore, clock: Clock) -> None:
    (old,) = register(stream, "c")
    stream.deregister_stream_consumer("s", "c")
    clock.advance(1_000)
    (new,) = register(stream, "c")
    for call in (stream.describe_stream_consumer, stream.deregister_stream_consumer):
        with pytest.raises(ResourceNotFoundException, match=f"the one of this name is {new.consumer_arn}"):
            call(consumer_arn=old.consumer_arn)
        with pytest.raises(ResourceNotFoundException):
            call(consumer_arn=f"arn:of:another/{new.consumer_arn}")
    assert stream.list_stream_consumers("s").consumers == (new,)


def test_a_consumer_or_stream_that_does_not_exist_is_not_found(stream: StreamStore) -> None:
    for call in (stream.describe_stream_consumer, stream.deregister_stream_consumer):
        with pytest.raises(ResourceNotFoundException, match="Consumer c of stream s does not exist; register it"):
            call("s", "c")
        with pytest.raises(ResourceNotFoundException, match="Consumer c of stream s does not exist"):
            call(consumer_arn="s/consumer/c:1")
        with pytest.raises(ResourceNotFoundException, match="Stream t does not exist"):
            call("t", "c")
    with pytest.raises(ResourceNotFoundException, match="Stream t does not exist"):
        stream.register_stream_consumer("t", "c")
    with pytest.raises(ResourceNotFoundException, match="Stream t does not exist"):
        stream.list_stream_consumers("t")


# list_stream_consumers


@pytest.mark.parametrize("max_results", range(1, 7))
def test_pages_of_consumers_join_up_in_bytewise_order(stream: StreamStore, max_results: int) -> None:
    register(stream, "b", "B", "a-a", "a", "a.b")
    stream.create_stream("t")
    stream.register_stream_consumer("t", "c")
    page = stream.list_stream_consumers("s", max_results=max_results)
    found = names_of(page)
    while page.next_token is not None:
        assert len(page.consumers) == max_results
        page = stream.list_stream_consumers("s", next_token=page.next_token, max_results=max_results)
        found += names_of(page)
    assert found == ["B", "a", "a-a", "a.b", "b"]


def test_a_page_continues_behind_the_last_name_whatever_came_or_went(stream: StreamStore) -> None:
    register(stream, *"bcde")
    token = stream.list_stream_consumers("s", max_results=2).next_token
    stream.deregister_stream_consumer("s", "c")
    stream.deregister_stream_consumer("s", "d")
    register(stream, "a", "f")
    assert names_of(stream.list_stream_consumers("s", next_token=token)) == ["e", "f"]


def test_a_token_of_consumers_is_good_for_its_stream_and_for_300_seconds(stream: StreamStore, clock: Clock) -> None:
    register(stream, "a", "b")
    token = stream.list_stream_consumers("s", max_results=1).next_token
    stream.create_stream("t")
    refused("next_token", lambda: stream.list_stream_consumers("t", next_token=token))
    clock.advance(299_999)
    assert names_of(stream.list_stream_consumers("s", next_token=token)) == ["b"]
    clock.advance(1)
    with pytest.raises(ExpiredNextTokenException, match="start the listing again"):
        stream.list_stream_consumers("s", next_token=token)
    token = stream.list_stream_consumers("s", max_results=1).next_token
    stream.delete_stream("s", enforce_consumer_deletion=True)
    stream.create_stream("s")
    refused("next_token", lambda: stream.list_stream_consumers("s", next_token=token))


@pytest.mark.parametrize("limit", [0, -1, 10_001, True, None, 1.0, "1"], ids=shown)
def test_bad_max_results_list_no_consumers(stream: StreamStore, limit: object) -> None:
    refused("max_results", lambda: stream.list_stream_consumers("s", max_results=limit))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "1a", "a_b", None, 1], ids=shown)
def test_a_bad_stream_name_has_no_consumers(stream: StreamStore, name: object) -> None:
    refused("stream_name", lambda: stream.register_stream_consumer(name, "c"))  # type: ignore[arg-type]
    refused("stream_name", lambda: stream.describe_stream_consumer(name, "c"))  # type: ignore[arg-type]
    refused("stream_name", lambda: stream.list_stream_consumers(name))  # type: ignore[arg-type]
    refused("stream_name", lambda: stream.deregister_stream_consumer(name, "c"))  # type: ignore[arg-type]


# Gone


def test_a_deregistered_consumer_is_gone_and_its_neighbours_are_not(stream: StreamStore) -> None:
    a, b, c = register(stream, "a", "ab", "b")
    stream.deregister_stream_consumer("s", "ab")
    assert stream.list_stream_consumers("s").consumers == (a, c)
    stream.deregister_stream_consumer(consumer_arn=a.consumer_arn)
    assert stream.list_stream_consumers("s").consumers == (c,)
    with pytest.raises(ResourceNotFoundException):
        stream.deregister_stream_consumer(consumer_arn=b.consumer_arn)


def test_a_stream_with_consumers_is_deleted_only_when_enforced(stream: StreamStore) -> None:
    register(stream, "a", "b")
    before = last_commit(stream)
    with pytest.raises(
        ResourceInUseException,
        match="Stream s has consumers, 2 of them; deregister them first, or pass enforce_consumer_deletion=True",
    ):
        stream.delete_stream("s")
    assert last_commit(stream) == before
    stream.delete_stream("s", enforce_consumer_deletion=True)
    assert last_commit(stream) == before + 1
    stream.create_stream("s")
    assert stream.list_stream_consumers("s").consumers == ()
    stream.delete_stream("s")


@pytest.mark.parametrize("value", [None, 0, 1, "yes"], ids=shown)
def test_consumer_deletion_is_enforced_by_true_and_by_nothing_else(stream: StreamStore, value: object) -> None:
    register(stream, "a")
    refused(
        "enforce_consumer_deletion",
        lambda: stream.delete_stream("s", enforce_consumer_deletion=value),  # type: ignore[arg-type]
    )
    assert stream.list_streams().stream_names == ("s",)


def positions_left(path: Path) -> list[bytes]:
    with behind_the_back_of(path) as raw:
        return [key for key, _ in raw.items(b"positions")]


@pytest.fixture
def path_with_positions(store_path: Path, clock: Clock) -> Path:
    """A closed store: streams "s" and "t" (numbers 1 and 2) of two shards, consumers "a" and "ab", positions of all."""
    with open_store(store_path, clock) as store:
        for name in "st":
            store.create_stream(name, shard_count=2)
            for consumer_name in ("a", "ab"):
                store.register_stream_consumer(name, consumer_name)
    with behind_the_back_of(store_path) as raw:
        for key in every_position():
            raw.put(b"positions", key, encode_position(key, 0))
    assert check_store(store_path) == []
    return store_path


def every_position() -> list[bytes]:
    return [
        position_key(StreamNumber(number), name, index) for number in (1, 2) for name in ("a", "ab") for index in (0, 1)
    ]


def test_a_deregistered_consumer_takes_its_positions_along_and_no_others(
    path_with_positions: Path, clock: Clock
) -> None:
    with open_store(path_with_positions, clock) as store:
        store.deregister_stream_consumer("s", "a")
    gone = [position_key(StreamNumber(1), "a", index) for index in (0, 1)]
    assert positions_left(path_with_positions) == [key for key in every_position() if key not in gone]
    assert check_store(path_with_positions) == []


def test_a_deleted_stream_takes_consumers_and_positions_along_and_no_others(
    path_with_positions: Path, clock: Clock
) -> None:
    with open_store(path_with_positions, clock) as store:
        store.delete_stream("s", enforce_consumer_deletion=True)
        assert names_of(store.list_stream_consumers("t")) == ["a", "ab"]
    assert positions_left(path_with_positions) == every_position()[4:]
    with behind_the_back_of(path_with_positions) as raw:
        assert [key for key, _ in raw.items(b"consumers")] == [consumer_key(StreamNumber(2), n) for n in ("a", "ab")]
    assert check_store(path_with_positions) == []
