"""What a put gives back, what a record carries, and what every refusal has in common."""

import copy
import pickle
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamstore import (
    InvalidArgumentException,
    PutRecordResult,
    RequestError,
    ResourceNotFoundException,
    StreamStore,
)
from tests.conftest import Clock

LONE_SURROGATE = "\ud800"


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@pytest.fixture
def stream(store: StreamStore) -> StreamStore:
    """A store with the stream "s" of one shard, which holds one record."""
    store.create_stream("s")
    store.put_record("s", b"first", "k")
    return store


def test_the_result_names_shard_number_and_encryption(stream: StreamStore) -> None:
    result = stream.put_record("s", b"", "k")
    assert isinstance(result, PutRecordResult)
    assert (result.shard_id, result.sequence_number, result.encryption_type) == ("shard-000000", "1", "NONE")
    assert all(type(field) is str for field in result)


def test_each_shard_counts_from_0_without_gaps(store: StreamStore) -> None:
    store.create_stream("many", shard_count=3)
    numbers: dict[str, list[int]] = {}
    for index in range(100):
        put = store.put_record("many", b"", str(index))
        numbers.setdefault(put.shard_id, []).append(int(put.sequence_number))
    assert sorted(numbers) == ["shard-000000", "shard-000001", "shard-000002"]
    for given_out in numbers.values():
        assert given_out == list(range(len(given_out)))


@given(keys=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=5), max_size=30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_partition_key_always_lands_in_one_shard(wide: StreamStore, keys: list[str]) -> None:
    shards = [wide.put_record("wide", b"", key).shard_id for key in [*keys, *keys]]
    assert shards[: len(keys)] == shards[len(keys) :]


@pytest.fixture
def wide(store: StreamStore) -> StreamStore:
    store.create_stream("wide", shard_count=16)
    return store


def test_a_record_carries_what_was_put_and_when(stream: StreamStore, clock: Clock) -> None:
    clock.advance(1_234)
    stream.put_record("s", b"data", "ключ", explicit_hash_key="7")
    record = list(stream.read("s", "shard-000000"))[1]
    assert (record.sequence_number, record.partition_key, record.data) == ("1", "ключ", b"data")
    assert record.approximate_arrival_timestamp == datetime(2023, 11, 14, 22, 13, 21, 234_000, UTC)
    assert record.encryption_type == "NONE"


def test_arrival_times_never_go_back_when_the_clock_does(stream: StreamStore, clock: Clock) -> None:
    start_ms = clock()
    for step_ms in (10, -3_600_000, 5, 3_600_000, -1):
        clock.advance(step_ms)
        stream.put_record("s", b"", "k")
    arrivals = [record.arrival_ms - start_ms for record in stream.read("s", "shard-000000")]
    assert arrivals == [0, 10, 10, 10, 15, 15]


def test_the_clock_of_one_shard_does_not_hold_up_another(store: StreamStore, clock: Clock) -> None:
    store.create_stream("two", shard_count=2)
    store.put_record("two", b"", "a")
    clock.advance(-60_000)
    put = store.put_record("two", b"", "k")
    assert next(store.read("two", put.shard_id)).arrival_ms == clock()


def test_an_unknown_stream_is_not_found(stream: StreamStore) -> None:
    with pytest.raises(ResourceNotFoundException, match="Stream t does not exist; create it") as refusal:
        stream.put_record("t", b"", "k")
    assert refusal.value.resource == "Stream t"
    assert len(list(stream.read("s", "shard-000000"))) == 1


def test_arguments_are_judged_before_the_stream_is_looked_up(stream: StreamStore) -> None:
    with pytest.raises(InvalidArgumentException):
        stream.put_record("unknown", b"", "")


def refusals(store: StreamStore) -> list[RequestError]:
    calls: list[Callable[[], object]] = [
        lambda: store.put_record("s\n", b"", "k"),
        lambda: store.put_record("s", bytes(1_048_577), "k"),
        lambda: store.put_record("s", b"", LONE_SURROGATE),
        lambda: store.put_record("s", b"", Unprintable()),  # type: ignore[arg-type]
        lambda: store.put_record("s", b"", "k", explicit_hash_key=10**5_000),  # type: ignore[arg-type]
        lambda: store.put_record("s", b"", "k", sequence_number_for_ordering="9"),
        lambda: store.put_record("unknown", b"", "k"),
    ]
    caught: list[RequestError] = []
    for call in calls:
        with pytest.raises(RequestError) as refusal:
            call()
        caught.append(refusal.value)
    return caught


def test_every_refusal_has_status_400_and_prints_a_sentence_with_a_remedy(stream: StreamStore) -> None:
    for error in refusals(stream):
        assert error.http_status == 400
        assert str(error).endswith(".")
        assert " must " in str(error) or "; " in str(error)
        assert len(str(error)) < 500


def test_every_refusal_survives_pickling_and_copying(stream: StreamStore) -> None:
    for error in refusals(stream):
        for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
            assert type(twin) is type(error)
            assert (str(twin), twin.args, vars(twin)) == (str(error), error.args, vars(error))


def test_a_bad_argument_is_a_value_error_and_a_missing_stream_a_lookup_error(stream: StreamStore) -> None:
    with pytest.raises(ValueError, match="partition_key must"):
        stream.put_record("s", b"", "")
    with pytest.raises(LookupError):
        stream.put_record("unknown", b"", "k")
