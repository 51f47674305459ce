"""The store and the oracle side by side through every operation: the same results, the same refusals.

On the way the store is closed and opened, restored from a backup of it and salvaged, opened for reading only, its clock
set forward and back, and its commits made to fail, before or after LMDB has written them.
"""

import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import ClassVar, Final, Literal, TypeVar, cast, get_args

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    multiple,
    rule,
    run_state_machine_as_test,
)

from streamstore import (
    DialectName,
    InvalidArgumentException,
    ShardFilter,
    StoreFullError,
    StreamStoreError,
    salvage_store,
)
from streamstore.check import check_store
from streamstore.library import LMDB_LIB_VERSION
from streamstore.model import (
    HashKeyRange,
    IngestResult,
    ListShardsResult,
    ListStreamConsumersResult,
    ListStreamsResult,
    PutRecordResult,
    PutRecordsResult,
    Record,
    SequenceNumberRange,
    Shard,
    ShardFilterType,
    ShardIteratorType,
    ShardLevelMetric,
    StreamMode,
    StreamRecord,
    TrimResult,
)
from tests.commits import WAIT_S, Moment, failing_commit
from tests.conftest import Clock, open_store
from tests.reference import AWS, YANDEX, Entry, Flavour, ReferenceStore

T = TypeVar("T")
TextT = TypeVar("TextT", str, str | None)
Listed = TypeVar("Listed", ListShardsResult, ListStreamsResult, ListStreamConsumersResult)
Tokens = tuple[str, str]
"""The store's token and the oracle's for the same place."""


def mostly(usual: st.SearchStrategy[T], *rare: T) -> st.SearchStrategy[T]:
    """Draw a rare value once in eight times: a run of which every step is refused tests nothing."""
    # Not 0, which Hypothesis draws far more often than its share, and shrinks to.
    return st.integers(0, 7).flatmap(lambda number: st.sampled_from(rare) if number == 5 else usual)


stream_names = mostly(st.sampled_from(["a", "clicks"]), "Z", "clicks-2", "x" * 128)
any_stream_names = mostly(stream_names, "", "a\n", "1a", "a-", "a_b", "é", "x" * 129)
shard_ids = mostly(st.sampled_from([f"shard-{index:06d}" for index in range(9)]), "shard-000099", "shard-0000001")
partition_keys = mostly(
    st.sampled_from(["k", "a", "e", "user1"]) | st.text(st.characters(codec="utf-8"), min_size=1, max_size=8),
    "ключ",
    "\U0001f600" * 256,
    "k" * 257,
)
# A large payload is drawn as its length: Hypothesis prints whatever it draws.
PAYLOAD_LENGTHS: list[bytes | int] = [0, 131_071, 131_072, 200_000, 1_048_576, 1_048_577]
payloads: st.SearchStrategy[bytes | int] = st.binary(max_size=64) | st.sampled_from(PAYLOAD_LENGTHS)
THIRD = (2**128 - 1) // 3
HASH_KEY_EDGES = (THIRD, 2 * THIRD, THIRD - 1, 2 * THIRD - 1, 0, 2**127 - 1, 2**127 - 2, 2**127, 2**128 - 1)
hash_keys: st.SearchStrategy[str | None] = mostly(
    st.none() | st.sampled_from([str(edge) for edge in HASH_KEY_EDGES]),
    *("00", "-1", "\u0661", "", str(2**128)),
)
sequence_numbers = mostly(st.integers(0, 12).map(str), str(2**64), "9" * 129, "01", "1" * 130)
orderings: st.SearchStrategy[str | None] = st.none() | st.none() | sequence_numbers
idempotency_keys: st.SearchStrategy[str | None] = mostly(
    st.none() | st.sampled_from(["once", "twice"]), "\U0001f600" * 128, "", "k" * 129
)
limits = mostly(st.sampled_from([1, 2, 3, 10_000]), 0, 10_001)
ITERATOR_TYPES: Final[list[ShardIteratorType]] = [
    "AT_SEQUENCE_NUMBER",
    "AFTER_SEQUENCE_NUMBER",
    "TRIM_HORIZON",
    "LATEST",
    "AT_TIMESTAMP",
]
FILTER_TYPES: Final[tuple[ShardFilterType, ...]] = get_args(ShardFilterType)
DrawnEntry = tuple[bytes | int, str, str | None, str | None]
TOO_MANY: list[DrawnEntry] = [(b"", "k", None, None)] * 501
TOO_LARGE: list[DrawnEntry] = [(1_048_576, "k", None, None)] * 5
small_payloads: st.SearchStrategy[bytes | int] = mostly(st.binary(max_size=64), 100_000, 131_072, 200_000, 1_048_577)
THROTTLED: list[DrawnEntry] = [
    (100_000, "k", None, None),
    (100_000, "k", None, "once"),
    (b"small", "k", None, "twice"),
    (b"small", "k", None, "once"),
]
drawn_entries: st.SearchStrategy[list[DrawnEntry]] = mostly(
    st.lists(st.tuples(small_payloads, partition_keys, hash_keys, idempotency_keys), max_size=8),
    TOO_MANY,
    TOO_LARGE,
    THROTTLED,
)
MODES: Final[list[StreamMode]] = ["PROVISIONED", "PROVISIONED", "PROVISIONED", "PROVISIONED", "ON_DEMAND"]
modes = st.sampled_from(MODES)
tag_keys = mostly(st.sampled_from(["a", "b", "team", "k" * 128]), "", "aws:x", "AWS:", "k" * 129)
drawn_tags = mostly(
    st.dictionaries(tag_keys, mostly(st.sampled_from(["", "one", "two"]), "v" * 256, "v" * 257), max_size=3),
    {f"{number}": "" for number in range(49)},
    {f"{number}": "" for number in range(51)},
)
METRICS: Final[tuple[ShardLevelMetric, ...]] = get_args(ShardLevelMetric)
NO_METRIC: Final = cast("ShardLevelMetric", "IncomingByte")
some_metrics = st.lists(st.sampled_from(METRICS[:3]), min_size=1, max_size=3)
more_metrics = mostly(some_metrics | st.just([*METRICS[-1:]]), [*METRICS], [*METRICS[:-1]], ["ALL", NO_METRIC])
fewer_metrics = mostly(some_metrics, [*METRICS[:0]], [*METRICS[-1:]], ["ALL", *METRICS[:2]])
consumer_names = mostly(st.sampled_from(["a", "ab", "b", "B", "c_", "d.e", "f-g"]), "", "a/b", "c" * 129)
failures: st.SearchStrategy[Moment | None] = mostly(st.none(), "before", "after")


class Refused(tuple[type[StreamStoreError], object]):
    """A refusal by its class and, if it has one, the argument."""


NOT_STORED = Refused((StoreFullError, None))


def outcome(call: Callable[[], T]) -> T | Refused:
    """Return what the call returns, or how it is refused."""
    try:
        return call()
    except StreamStoreError as error:
        return refused(error)


def refused(error: StreamStoreError) -> Refused:
    return Refused((type(error), error.argument if isinstance(error, InvalidArgumentException) else None))


def entries_of(drawn: list[DrawnEntry]) -> list[Entry]:
    return [(bytes(payload), key, hash_key, once) for payload, key, hash_key, once in drawn]


def continued(real: Callable[[], Listed], expected: Callable[[], Listed]) -> "MultipleResults[Tokens]":
    """Return the tokens of both listings, which must be the same but for those."""
    ours, theirs = outcome(real), outcome(expected)
    if isinstance(ours, Refused) or isinstance(theirs, Refused):
        assert ours == theirs
        return multiple()
    tokens = ours.next_token, theirs.next_token
    assert replace(ours, next_token=None) == replace(theirs, next_token=None)
    assert (tokens[0] is None) == (tokens[1] is None)
    return multiple() if not tokens[0] or not tokens[1] else multiple((tokens[0], tokens[1]))


class StoreAndOracle(RuleBasedStateMachine):
    iterators: Bundle[Tokens] = Bundle("iterators")
    pages: Bundle[Tokens] = Bundle("pages")
    dialect: ClassVar[DialectName] = "yandex"
    flavour: ClassVar[Flavour] = YANDEX
    stream_pages: Bundle[Tokens] = Bundle("stream_pages")
    consumer_pages: Bundle[Tokens] = Bundle("consumer_pages")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = Clock()
        self.store = open_store(self.folder / "store", self.clock, dialect=self.dialect)
        self.oracle = ReferenceStore(self.clock, self.flavour)
        self.last_put_ms = 0
        self.is_restored = False

    def teardown(self) -> None:
        try:
            self.everything_is_the_same()
        finally:
            self.store.close()  # a run that failed leaves no thread to the many that shrink it
        assert check_store(self.folder / "store") == []
        shutil.rmtree(self.folder)

    @initialize(step_ms=st.sampled_from([0, 3]))
    def start_with_two_streams(self, step_ms: int) -> None:
        self.create_stream("a", 3, 24, None, None, None)
        self.create_stream("clicks", 4, 24, 128, True, None)
        self.put_many("a", list("kabef1" * 2), step_ms)

    @rule(
        name=any_stream_names,
        shard_count=st.sampled_from([1, 2, 3, 4, 0]),
        retention_hours=mostly(st.sampled_from([1, 24]), 25, 8_761),
        write_quota=st.sampled_from([None, 128, 512, 1024, 127]),
        read_quota=st.sampled_from([None, True]),
        mode=modes,
        tags=drawn_tags,
        failure=failures,
    )
    def create_stream(
        self,
        name: str,
        shard_count: int,
        retention_hours: int,
        write_quota: int | None,
        failure: Moment | None,
        read_quota: bool | None = None,
        mode: StreamMode = "PROVISIONED",
        tags: dict[str, str] | None = None,
    ) -> None:
        self.change(
            lambda: self.store.create_stream(
                name,
                shard_count=shard_count,
                retention_hours=retention_hours,
                write_quota_kb_per_sec=write_quota,
                read_quota=bool(read_quota),
                stream_mode=mode,
                tags=tags,
            ),
            lambda: self.oracle.create_stream(
                name,
                shard_count=shard_count,
                retention_hours=retention_hours,
                write_quota=write_quota,
                read_quota=bool(read_quota),
                mode=mode,
                tags=tags or {},
            ),
            failure,
        )

    @rule(name=any_stream_names, enforce=st.booleans(), failure=failures)
    def delete_stream(self, name: str, enforce: bool, failure: Moment | None) -> None:
        self.change(
            lambda: self.store.delete_stream(name, enforce_consumer_deletion=enforce),
            lambda: self.oracle.delete_stream(name, enforce=enforce),
            failure,
        )

    @rule(
        name=any_stream_names,
        count=mostly(st.none() | st.integers(1, 5), 4_001),
        quota=mostly(st.sampled_from([None, 128, "keep"]), 127),
        hours=mostly(st.sampled_from([None, 1, 2, 24]), 25),
        read_quota=st.sampled_from([None, True, False]),
        failure=failures,
    )
    def update_stream(
        self,
        name: str,
        count: int | None,
        quota: int | Literal["keep"] | None,
        hours: int | None,
        read_quota: bool | None,
        failure: Moment | None,
    ) -> None:
        self.change(
            lambda: self.store.update_stream(
                name,
                shard_count=count,
                write_quota_kb_per_sec=quota,
                retention_hours=hours,
                read_quota=read_quota,
            ),
            lambda: self.oracle.update_stream(name, count, quota, hours, read_quota),
            failure,
        )

    @rule(name=any_stream_names, mode=modes, failure=failures)
    def update_stream_mode(self, name: str, mode: StreamMode, failure: Moment | None) -> None:
        self.change(
            lambda: self.store.update_stream_mode(name, mode),
            lambda: self.oracle.update_stream_mode(name, mode),
            failure,
        )

    @rule(name=stream_names, more=more_metrics, fewer=fewer_metrics, failure=failures)
    def monitor(
        self, name: str, more: list[ShardLevelMetric], fewer: list[ShardLevelMetric], failure: Moment | None
    ) -> None:
        """One behind the other: what the second does depends on the first."""
        self.change(
            lambda: self.store.enable_enhanced_monitoring(name, more),
            lambda: self.oracle.monitor(name, more, enable=True),
            failure,
        )
        self.change(
            lambda: self.store.disable_enhanced_monitoring(name, fewer),
            lambda: self.oracle.monitor(name, fewer, enable=False),
            failure,
        )

    @rule(name=any_stream_names, hours=mostly(st.sampled_from([1, 2, 24]), 0, 25), failure=failures)
    def increase_retention(self, name: str, hours: int, failure: Moment | None) -> None:
        self.change(
            lambda: self.store.increase_stream_retention_period(name, hours),
            lambda: self.oracle.change_retention(name, hours, increase=True),
            failure,
        )

    @rule(name=any_stream_names, hours=mostly(st.sampled_from([1, 2, 24]), 0, 25), failure=failures)
    def decrease_retention(self, name: str, hours: int, failure: Moment | None) -> None:
        self.change(
            lambda: self.store.decrease_stream_retention_period(name, hours),
            lambda: self.oracle.change_retention(name, hours, increase=False),
            failure,
        )

    @rule(name=stream_names, milliseconds=st.sampled_from([3_599_997, 3_600_000, 3_600_001]))
    def expire_and_increase_retention(self, name: str, milliseconds: int) -> None:
        """What expires in between must not come back."""
        self.decrease_retention(name, 1, None)
        self.clock.advance(milliseconds)
        self.increase_retention(name, 24, None)

    @rule(name=any_stream_names, tags=drawn_tags, failure=failures)
    def add_tags(self, name: str, tags: dict[str, str], failure: Moment | None) -> None:
        self.change(
            lambda: self.store.add_tags_to_stream(name, tags), lambda: self.oracle.add_tags(name, tags), failure
        )

    @rule(name=any_stream_names, keys=st.lists(tag_keys, max_size=4), failure=failures)
    def remove_tags(self, name: str, keys: list[str], failure: Moment | None) -> None:
        self.change(
            lambda: self.store.remove_tags_from_stream(name, keys), lambda: self.oracle.remove_tags(name, keys), failure
        )

    @rule(name=any_stream_names, after=st.none() | tag_keys, limit=mostly(st.sampled_from([1, 2, 50]), 0, 51))
    def list_tags(self, name: str, after: str | None, limit: int) -> None:
        assert outcome(
            lambda: self.store.list_tags_for_stream(name, exclusive_start_tag_key=after, limit=limit)
        ) == outcome(lambda: self.oracle.list_tags(name, after=after, limit=limit))

    @rule(name=any_stream_names, consumer_name=consumer_names, failure=failures)
    def register_consumer(self, name: str, consumer_name: str, failure: Moment | None) -> None:
        self.change(
            lambda: self.store.register_stream_consumer(name, consumer_name),
            lambda: self.oracle.register_consumer(name, consumer_name),
            failure,
        )

    @rule(name=any_stream_names, consumer_name=consumer_names, failure=failures)
    def deregister_consumer(self, name: str, consumer_name: str, failure: Moment | None) -> None:
        self.change(
            lambda: self.store.deregister_stream_consumer(name, consumer_name),
            lambda: self.oracle.deregister_consumer(name, consumer_name),
            failure,
        )

    @rule(name=any_stream_names, consumer_name=consumer_names)
    def describe_consumer(self, name: str, consumer_name: str) -> None:
        found = outcome(lambda: self.store.describe_stream_consumer(name, consumer_name))
        assert found == outcome(lambda: self.oracle.describe_consumer(name, consumer_name))
        if not isinstance(found, Refused):
            assert self.store.describe_stream_consumer(consumer_arn=found.consumer_arn) == found

    @rule(target=consumer_pages, name=any_stream_names, max_results=limits)
    def list_consumers(self, name: str, max_results: int) -> "MultipleResults[Tokens]":
        return self.list_consumers_from(name, (None, None), max_results)

    @rule(target=consumer_pages, name=stream_names, tokens=consumer_pages, max_results=limits)
    def list_more_consumers(self, name: str, tokens: Tokens, max_results: int) -> "MultipleResults[Tokens]":
        return self.list_consumers_from(name, tokens, max_results)

    @rule(name=stream_names, shard_count=st.sampled_from([1, 3]))
    def replace_stream(self, name: str, shard_count: int) -> None:
        self.delete_stream(name, True, None)
        self.create_stream(name, shard_count, 24, None, None)
        self.put_many(name, ["k"], 0)

    @rule(
        name=any_stream_names,
        pick=st.integers(0, 7),
        wrong_id=mostly(st.none(), "shard-000000", "shard-000099", "s/"),
        place=mostly(st.sampled_from([0.5, 1.0]), 0.0, 1.5),
        failure=failures,
    )
    def split_shard(self, name: str, pick: int, wrong_id: str | None, place: float, failure: Moment | None) -> None:
        """``place``: 0 is the shard's first hash key, which no split may have, 1 is its last."""
        shard = self.open_shard(name, pick)
        shard_id = self.shard_id(wrong_id) or shard.shard_id
        low, high = shard.hash_key_range.starting_hash_key, shard.hash_key_range.ending_hash_key
        hash_key = str(low + round((high - low) * Fraction(place)))
        self.change(
            lambda: self.store.split_shard(name, shard_id, hash_key),
            lambda: self.oracle.split_shard(name, shard_id, hash_key),
            failure,
        )

    @rule(
        name=any_stream_names,
        pick=st.integers(0, 7),
        wrong_id=mostly(st.none(), "shard-000000", "shard-000099", "s/"),
        failure=failures,
    )
    def merge_shards(self, name: str, pick: int, wrong_id: str | None, failure: Moment | None) -> None:
        shard_id, adjacent_id = (self.open_shard(name, each).shard_id for each in (pick, pick + 1))
        shard_id = self.shard_id(wrong_id) or shard_id
        self.change(
            lambda: self.store.merge_shards(name, shard_id, adjacent_id),
            lambda: self.oracle.merge_shards(name, shard_id, adjacent_id),
            failure,
        )

    @rule(name=any_stream_names, count=mostly(st.integers(1, 5), 0, 4_001), failure=failures)
    def update_shard_count(self, name: str, count: int, failure: Moment | None) -> None:
        self.change(
            lambda: self.store.update_shard_count(name, count),
            lambda: self.oracle.update_shard_count(name, count),
            failure,
        )

    @rule()
    def trim(self) -> None:
        self.store.trim()
        self.oracle.trim()
        assert self.store.trim() == TrimResult(0, 0)

    @rule(
        name=stream_names,
        payload=payloads,
        key=partition_keys,
        hash_key=hash_keys,
        ordering=orderings,
        once=idempotency_keys,
        failure=failures,
    )
    def put_record(
        self,
        name: str,
        payload: bytes | int,
        key: str,
        hash_key: str | None,
        ordering: str | None,
        once: str | None,
        failure: Moment | None,
    ) -> None:
        data = bytes(payload)
        self.last_put_ms = self.clock()
        self.change(
            lambda: self.store.put_record(
                name,
                data,
                key,
                explicit_hash_key=hash_key,
                sequence_number_for_ordering=ordering,
                idempotency_key=once,
            ),
            lambda: self.oracle.put_record(name, data, key, explicit_hash_key=hash_key, ordering=ordering, once=once),
            failure,
        )

    @rule(
        name=stream_names,
        keys=st.lists(st.sampled_from("kabef1"), min_size=1, max_size=20),
        step_ms=st.sampled_from([0, 3, -1]),
    )
    def put_many(self, name: str, keys: list[str], step_ms: int) -> None:
        for key in keys:
            self.put_record(name, key.encode(), key, None, None, None, None)
            if step_ms < 0:
                self.trim()  # as when the clock is set back
            self.clock.advance(step_ms)

    @rule(name=stream_names, after_ms=st.sampled_from([0, 299_999, 300_000, -299_999, -300_000]))
    def put_once_and_again(self, name: str, after_ms: int) -> None:
        self.put_record(name, b"first", "k", None, None, "once", None)
        if after_ms < 0:
            self.trim()  # as when the clock is set back
        self.clock.advance(after_ms)
        self.put_record(name, b"second", "a", None, None, "once", None)

    @rule(name=any_stream_names, drawn=drawn_entries, failure=failures)
    def put_records(self, name: str, drawn: list[DrawnEntry], failure: Moment | None) -> None:
        entries = entries_of(drawn)
        self.last_put_ms = self.clock()

        def put() -> PutRecordsResult:
            result = self.store.put_records(name, entries)
            assert all(bool(entry.error_code) == bool(entry.error_message) for entry in result.records)
            messages = ["" if entry.error_message else None for entry in result.records]
            told = [entry._replace(error_message=text) for entry, text in zip(result.records, messages, strict=True)]
            return replace(result, records=told)

        self.change(put, lambda: self.oracle.put_records(name, entries), failure)

    @rule(name=any_stream_names, drawn=drawn_entries, failure=failures)
    def submit_records(self, name: str, drawn: list[DrawnEntry], failure: Moment | None) -> None:
        entries = entries_of(drawn)
        self.last_put_ms = self.clock()
        with failing_commit(failure) if failure else nullcontext():
            submitted = [outcome(partial(self.submit, name, *entry)) for entry in entries]
            results = [
                receipt if isinstance(receipt, Refused) else outcome(partial(receipt.result, WAIT_S))
                for receipt in submitted
            ]
        if failure == "before":
            assert all(isinstance(result, Refused) for result in results)
            return
        for (data, key, hash_key, once), result in zip(entries, results, strict=True):
            put = partial(self.oracle.put_record, name, data, key, explicit_hash_key=hash_key, ordering=None, once=once)
            assert result == outcome(put)

    @rule(name=any_stream_names, drawn=drawn_entries, failure=failures, good_commits=st.integers(0, 3))
    def ingest(self, name: str, drawn: list[DrawnEntry], failure: Moment | None, good_commits: int) -> None:
        if name in self.oracle.streams and self.oracle.streams[name].write_quota is not None:
            return  # how long it waits there depends on the speed of the disk
        entries = entries_of(drawn)
        self.last_put_ms = self.clock()
        with failing_commit(failure, after=good_commits) if failure else nullcontext():
            try:
                result: IngestResult | Refused = self.store.ingest(name, iter(entries))
            except StoreFullError as error:
                assert failure == "before"
                stored_count = int(error.__notes__[0].split()[2].replace(",", ""))
                assert self.oracle.ingest(name, entries[:stored_count]).record_count == stored_count < len(entries)
                return
            except StreamStoreError as error:
                result = refused(error)
        assert result == outcome(lambda: self.oracle.ingest(name, entries))

    @rule(
        target=iterators,
        name=any_stream_names,
        shard_id=shard_ids,
        kind=st.sampled_from(ITERATOR_TYPES),
        start=sequence_numbers,
        after_ms=mostly(st.sampled_from([*range(-36, 0, 3), -1, 0, 1, 500, 10_000]), 10_001),
        wrong=mostly(st.just(value=False), True),
        limit=limits,
    )
    def get_shard_iterator(
        self, name: str, shard_id: str, kind: ShardIteratorType, start: str, after_ms: int, wrong: bool, limit: int
    ) -> "MultipleResults[Tokens]":
        shard_id = self.shard_id(shard_id)
        wants_number, wants_time = kind.endswith("SEQUENCE_NUMBER"), kind == "AT_TIMESTAMP"
        number = start if wants_number != wrong else None
        time_s = (self.last_put_ms + after_ms) / 1000 if wants_time != wrong else None
        real = outcome(
            lambda: self.store.get_shard_iterator(
                name, shard_id, kind, starting_sequence_number=number, timestamp=time_s
            )
        )
        expected = outcome(lambda: self.oracle.get_shard_iterator(name, shard_id, kind, number, time_s))
        if isinstance(real, Refused) or isinstance(expected, Refused):
            assert real == expected
            return multiple()
        return multiple((real, expected), *self.page_at((real, expected), limit))

    @rule(target=iterators, tokens=iterators, limit=limits)
    def get_records(self, tokens: Tokens, limit: int) -> "MultipleResults[Tokens]":
        return multiple(*self.page_at(tokens, limit))

    @rule(name=stream_names, shard_id=shard_ids, times=st.integers(1, 7), step_ms=st.sampled_from([0, 199, 200]))
    def poll(self, name: str, shard_id: str, times: int, step_ms: int) -> None:
        """Read at the end of a shard, which returns nothing, more often than a read quota allows."""
        shard_id = self.shard_id(shard_id)
        real = outcome(lambda: self.store.get_shard_iterator(name, shard_id, "LATEST"))
        expected = outcome(lambda: self.oracle.get_shard_iterator(name, shard_id, "LATEST", None, None))
        if isinstance(real, Refused) or isinstance(expected, Refused):
            assert real == expected
            return
        for _ in range(times):
            self.page_at((real, expected), 1)
            self.clock.advance(step_ms)

    @rule(target=pages, name=any_stream_names, max_results=limits)
    def list_shards(self, name: str, max_results: int) -> "MultipleResults[Tokens]":
        return self.list_shards_from(name, None, max_results)

    @rule(
        target=pages,
        name=any_stream_names,
        max_results=limits,
        kind=st.sampled_from(FILTER_TYPES),
        shard_id=shard_ids,
        pick=st.integers(0, 15),
        after_ms=mostly(st.sampled_from([-1, 0, 1]), 10_001, -300_000),
        after=mostly(st.none(), "shard-000001"),
        wrong=mostly(st.just(value=False), True),
    )
    def list_some_shards(
        self,
        name: str,
        max_results: int,
        kind: ShardFilterType,
        shard_id: str,
        pick: int,
        after_ms: int,
        after: str | None,
        wrong: bool,
    ) -> "MultipleResults[Tokens]":
        wants_time, wants_shard = kind.endswith("TIMESTAMP"), kind == "AFTER_SHARD_ID"
        shard_filter = ShardFilter(
            kind,
            self.shard_id(shard_id) if wants_shard else None,
            (self.time_of_resharding(name, pick) + after_ms) / 1000 if wants_time != wrong else None,
        )
        found = self.list_shards_from(name, None, max_results, self.shard_id(after), shard_filter)
        pages = list(found.values)
        while found.values:
            found = self.list_shards_from(None, found.values[-1], max_results)
            pages.extend(found.values)
        return multiple(*pages)

    @rule(target=pages, tokens=pages, max_results=limits)
    def list_more_shards(self, tokens: Tokens, max_results: int) -> "MultipleResults[Tokens]":
        return self.list_shards_from(None, tokens, max_results)

    @rule(name=any_stream_names, limit=limits, after=st.none() | shard_ids)
    def describe_stream(self, name: str, limit: int, after: str | None) -> None:
        after = self.shard_id(after)
        assert outcome(
            lambda: self.store.describe_stream(name, limit=limit, exclusive_start_shard_id=after)
        ) == outcome(lambda: self.oracle.describe_stream(name, limit=limit, after=after))

    @rule(target=stream_pages, limit=limits, after=stream_names)
    def list_streams(self, limit: int, after: str) -> "MultipleResults[Tokens]":
        return continued(
            lambda: self.store.list_streams(limit=limit, exclusive_start_stream_name=after),
            lambda: self.oracle.list_streams(limit=limit, after=after),
        )

    @rule(target=stream_pages, limit=limits, tokens=stream_pages)
    def list_more_streams(self, limit: int, tokens: Tokens) -> "MultipleResults[Tokens]":
        return continued(
            lambda: self.store.list_streams(limit=limit, next_token=tokens[0]),
            lambda: self.oracle.list_streams(limit=limit, after="", token=tokens[1]),
        )

    @rule(name=any_stream_names, shard_id=shard_ids, start=sequence_numbers)
    def read(self, name: str, shard_id: str, start: str) -> None:
        shard_id = self.shard_id(shard_id)
        assert outcome(lambda: list(self.store.read(name, shard_id, starting_sequence_number=start))) == outcome(
            lambda: self.oracle.read(name, shard_id, start=start)
        )

    @rule(name=any_stream_names)
    def tail(self, name: str) -> None:
        """All that a stream holds comes out, each shard in its order; in which order they come is not the oracle's."""

        def tail_shards() -> dict[str, list[Record]]:
            found: dict[str, list[Record]] = {}
            for record in self.store.tail(name, starting_position="TRIM_HORIZON", idle_timeout_seconds=0):
                found.setdefault(record.shard_id, []).append(Record(*record[1:]))
            return found

        assert outcome(tail_shards) == outcome(lambda: self.oracle.read_all(name))

    @rule(
        name=any_stream_names,
        consumer_name=consumer_names,
        count=st.sampled_from([0, 1, 5, 10_000]),
        checkpoints=st.booleans(),
    )
    def consume(self, name: str, consumer_name: str, count: int, checkpoints: bool) -> None:
        """What comes is what the consumer has not done, each shard in its order; what has no checkpoint comes again."""

        def consumed() -> list[StreamRecord]:
            consumer = self.store.consumer(name, consumer_name, idle_timeout_seconds=0)
            records = list(islice(consumer, count))
            if checkpoints:
                consumer.checkpoint()
            return records

        real, opened = outcome(consumed), outcome(lambda: self.oracle.open_consumer(name, consumer_name))
        if isinstance(real, Refused) or isinstance(opened, Refused):
            assert real == opened
            return
        unread = self.oracle.unread(name, consumer_name)
        assert len(real) == min(count, sum(map(len, unread.values())))
        for shard_id in {record.shard_id for record in real}:
            found = [Record(*record[1:]) for record in real if record.shard_id == shard_id]
            assert found == unread[shard_id][: len(found)]
        if checkpoints:
            self.oracle.streams[name].done[consumer_name] |= {record[:2] for record in real}
        left = sum(map(len, self.oracle.unread(name, consumer_name).values()))
        assert self.store.describe_consumer_lag(name, consumer_name).record_count == left

    @rule(milliseconds=st.sampled_from([1, 10, 999, 1_000, 8_001, 299_999, 300_000, 3_599_997, 3_600_000, 86_400_000]))
    def let_time_pass(self, milliseconds: int) -> None:
        self.clock.advance(milliseconds)

    @rule(milliseconds=st.sampled_from([1, 500, 10_000, 10_001]))
    def set_the_clock_back(self, milliseconds: int) -> None:
        self.trim()  # what had expired by now may be gone already, and must not come back on either side
        self.clock.advance(-milliseconds)

    @rule(shards_left=st.sampled_from([4_000, 0, 1, 2, -2]), name=any_stream_names, count=st.sampled_from([1, 2, 3]))
    def reopen(self, shards_left: int, name: str, count: int) -> None:
        self.store.close()
        self.oracle.forget_reading()
        with pytest.raises(InvalidArgumentException) as refusal:
            open_store(self.folder / "store", self.clock, dialect="aws" if self.dialect == "yandex" else "yandex")
        assert refusal.value.argument == "dialect"
        self.open(min(max(self.oracle.open_count() + shards_left, 1), 4_000))
        if shards_left < 3:  # so few that the next ones may be too many
            self.create_stream(name, count, 24, None, None)
            self.update_shard_count("a", count + 2, None)

    @rule(rarely=mostly(st.just(False), True), compact=st.booleans())
    def go_on_with_a_backup(self, rarely: bool, compact: bool) -> None:
        """Rarely, and once in a run: it takes a process and half a second."""
        if rarely and not self.is_restored and LMDB_LIB_VERSION == 0:
            self.is_restored = True
            self.store.backup(self.folder / "copy", compact=compact)
            self.store.close()
            self.take_in_place_of_the_store("copy")

    @rule(rarely=mostly(st.just(False), True))
    def go_on_with_what_is_salvaged(self, rarely: bool) -> None:
        if rarely and LMDB_LIB_VERSION == 0:
            self.store.close()
            assert salvage_store(self.folder / "store", self.folder / "salvaged").findings == ()
            self.take_in_place_of_the_store("salvaged")

    def take_in_place_of_the_store(self, name: str) -> None:
        shutil.rmtree(self.folder / "store")
        (self.folder / name).rename(self.folder / "store")
        self.oracle.forget_reading()
        self.open()
        self.everything_is_the_same()

    @rule()
    def reopen_for_reading_only(self) -> None:
        self.store.close()
        self.oracle.forget_reading()
        self.oracle.shard_limit = 4_000
        with open_store(self.folder / "store", self.clock, read_only=True) as self.store:
            self.everything_is_the_same()
            for change in (
                lambda: self.store.put_record("a", b"", "k"),
                lambda: self.store.create_stream("new"),
                lambda: self.store.delete_stream("a"),
            ):
                with pytest.raises(InvalidArgumentException) as refusal:
                    change()
                assert refusal.value.argument == "read_only"
        self.open()

    @rule()
    def everything_is_the_same(self) -> None:
        names = self.store.list_streams(limit=10_000).stream_names
        assert list(names) == sorted(self.oracle.streams)
        assert self.store.describe_limits() == self.oracle.describe_limits()
        for name in names:
            description = self.store.describe_stream(name)
            assert description == self.oracle.describe_stream(name, limit=100, after=None)
            assert self.store.describe_stream_summary(name) == self.oracle.describe_stream_summary(name)
            assert self.store.list_tags_for_stream(name) == self.oracle.list_tags(name, after=None, limit=50)
            consumers = self.oracle.list_consumers(name, max_results=10_000)
            assert self.store.list_stream_consumers(name) == consumers
            for shard in description.shards:
                assert list(self.store.read(name, shard.shard_id)) == self.oracle.read(name, shard.shard_id, start="0")

    def open(self, shard_limit: int = 4_000) -> None:
        self.oracle.shard_limit = shard_limit
        self.store = open_store(self.folder / "store", self.clock, shard_limit=shard_limit)

    def change(self, real: Callable[[], object], expected: Callable[[], object], failure: Moment | None) -> None:
        """Make the change on both sides; one whose commit fails is stored exactly when the store says so."""
        if failure is None:
            assert outcome(real) == outcome(expected)
            return
        with failing_commit(failure) as failed:
            result = outcome(real)
        if result == NOT_STORED:
            assert set(failed) == {"before"}  # what is deleted in front of a change is tried in smaller bites
        else:
            assert "before" not in failed
            assert result == outcome(expected)

    def submit(
        self, name: str, data: bytes, key: str, hash_key: str | None, once: str | None
    ) -> Future[PutRecordResult]:
        return self.store.submit_record(name, data, key, explicit_hash_key=hash_key, idempotency_key=once)

    def page_at(self, tokens: Tokens, limit: int) -> list[Tokens]:
        real = outcome(lambda: self.store.get_records(tokens[0], limit=limit))
        expected = outcome(lambda: self.oracle.get_records(tokens[1], limit=limit))
        if isinstance(real, Refused) or isinstance(expected, Refused):
            assert real == expected
            return []
        assert replace(real, next_shard_iterator=None) == replace(expected, next_shard_iterator=None)
        assert (real.next_shard_iterator is None) == (expected.next_shard_iterator is None) == bool(real.child_shards)
        if not real.next_shard_iterator or not expected.next_shard_iterator:
            return []
        return [(real.next_shard_iterator, expected.next_shard_iterator)]

    def open_shard(self, name: str, pick: int) -> Shard:
        """Return one of the stream's open shards; of a stream that does not exist, the whole range."""
        if name not in self.oracle.streams:
            return Shard(self.flavour.shard_name(0), HashKeyRange(0, 2**128 - 1), SequenceNumberRange("0"))
        stream = self.oracle.streams[name]
        shards = stream.open_shards()
        return stream.show(shards[pick % len(shards)], self.clock())

    def shard_id(self, drawn: TextT) -> TextT:
        """Return a shard id, which is drawn as one of Yandex, as one of the dialect."""
        return drawn if drawn is None or self.dialect == "yandex" else drawn.replace("shard-", "shardId-000000")

    def time_of_resharding(self, name: str, pick: int) -> int:
        """Return a time when a shard of the stream was created or closed, or now."""
        stream = self.oracle.streams.get(name)
        times_ms = {shard.created_ms for shard in stream.shards} if stream else set[int]()
        times_ms |= (
            {shard.closed_ms for shard in stream.shards if shard.closed_ms is not None} if stream else set[int]()
        )
        in_order = [*sorted(times_ms), self.clock()]
        return in_order[pick % len(in_order)]

    def list_shards_from(
        self,
        name: str | None,
        tokens: Tokens | None,
        max_results: int,
        after: str | None = None,
        shard_filter: ShardFilter | None = None,
    ) -> "MultipleResults[Tokens]":
        real_token, expected_token = tokens or (None, None)
        return continued(
            lambda: self.store.list_shards(
                name,
                next_token=real_token,
                max_results=max_results,
                exclusive_start_shard_id=after,
                shard_filter=shard_filter,
            ),
            lambda: self.oracle.list_shards(
                name or "", max_results=max_results, token=expected_token, after=after, shard_filter=shard_filter
            ),
        )

    def list_consumers_from(
        self, name: str, tokens: Tokens | tuple[None, None], max_results: int
    ) -> "MultipleResults[Tokens]":
        return continued(
            lambda: self.store.list_stream_consumers(name, next_token=tokens[0], max_results=max_results),
            lambda: self.oracle.list_consumers(name, token=tokens[1], max_results=max_results),
        )


QUICK_TO_FAIL = [Phase.reuse, Phase.generate, Phase.shrink]  # explaining a failure takes minutes here


class StoreAndOracleOfAws(StoreAndOracle):
    dialect = "aws"
    flavour = AWS


@pytest.mark.parametrize("machine", [StoreAndOracle, StoreAndOracleOfAws])
def test_store_and_oracle_agree_through_every_operation(machine: type[StoreAndOracle]) -> None:
    run_state_machine_as_test(machine, settings=settings(stateful_step_count=50, phases=QUICK_TO_FAIL))
