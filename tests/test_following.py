"""Laws of Following: all that is put is handed out once, parents before children, however the stream is resharded."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamstore import CorruptRecordError, ResourceNotFoundException, StreamRecord, StreamStore
from streamstore.check import check_store
from streamstore.databases import records_database
from streamstore.dialect import YANDEX
from streamstore.disk_format import record_key
from streamstore.following import ROUND_RECORDS_MAX, Following, Round, latest_positions
from streamstore.model import StoredStream, StreamNumber
from streamstore.streams import StreamCatalog
from tests.commits import engine_of
from tests.conftest import Clock, open_store
from tests.damage import behind_the_back_of

HOUR_MS: Final = 3_600_000


def stored_stream(store: StreamStore) -> StoredStream:
    return engine_of(store).read(lambda transaction: StreamCatalog().load(transaction, "s")).stored


def follow(store: StreamStore, positions: Mapping[int, int] | None = None, *, not_before_ms: int = 0) -> Following:
    number = stored_stream(store).number
    return Following("s", number, StreamCatalog(), YANDEX, positions=positions or {}, not_before_ms=not_before_ms)


def look(store: StreamStore, following: Following, clock: Clock) -> Round:
    return engine_of(store).read(lambda transaction: following.look(transaction, now_ms=clock()))


def take(store: StreamStore, following: Following, clock: Clock, count: int = 10**9) -> list[StreamRecord]:
    """Return up to ``count`` records, less if there are no more."""
    records: list[StreamRecord] = []
    while len(records) < count:
        record = following.take()
        if record is not None:
            records.append(record)
        elif not following.accept(look(store, following, clock)):
            break
    return records


def put(store: StreamStore, number: int, key: str | None = None) -> tuple[str, str]:
    return store.put_record("s", b"%d" % number, key or f"key {number}")[:2]


def places(records: list[StreamRecord]) -> list[tuple[str, str]]:
    return [record[:2] for record in records]


@pytest.fixture
def stream(store: StreamStore) -> StreamStore:
    store.create_stream("s", shard_count=3, retention_hours=1)
    return store


@dataclass
class Lineage:
    """What was put, who descends from whom, and what was handed out so far."""

    clock: Clock
    put: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    ancestors: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    taken: list[StreamRecord] = field(default_factory=list[StreamRecord])

    def learn(self, store: StreamStore) -> None:
        for shard in store.list_shards("s").shards:
            parents = {shard.parent_shard_id, shard.adjacent_parent_shard_id} - {None}
            known = [self.ancestors.get(str(parent), set[str]()) | {str(parent)} for parent in parents]
            self.ancestors.setdefault(shard.shard_id, set()).update(*known)

    def check(self) -> None:
        places_taken = places(self.taken)
        assert len(places_taken) == len(set(places_taken)), "each is handed out once"
        assert set(places_taken) <= self.put.keys()
        last: dict[str, int] = {}
        for shard_id, sequence_number, _, _, _ in self.taken:
            assert int(sequence_number) > last.get(shard_id, -1), "in the order of their shard"
            last[shard_id] = int(sequence_number)
            for later, ancestors in self.ancestors.items():
                assert shard_id not in ancestors or later not in last, "parents before their children"

    def check_complete(self) -> None:
        self.check()
        for place in self.put.keys() - set(places(self.taken)):
            assert self.put[place] < self.clock() - HOUR_MS, "what is passed over has expired"


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 60)),
        st.tuples(st.just("split"), st.integers(0, 9)),
        st.tuples(st.just("merge"), st.integers(0, 9)),
        st.tuples(st.just("resize"), st.integers(1, 6)),
        st.tuples(st.just("take"), st.integers(1, 100)),
        st.tuples(st.just("go on from positions"), st.just(0)),
        st.tuples(st.just("pass"), st.sampled_from([1, HOUR_MS // 3, HOUR_MS + 1])),
        st.tuples(st.just("trim"), st.just(0)),
    ),
    max_size=30,
)


def make_step(store: StreamStore, clock: Clock, lineage: Lineage, step: str, number: int) -> None:
    is_open = [
        shard for shard in store.list_shards("s").shards if shard.sequence_number_range.ending_sequence_number is None
    ]
    is_open.sort(key=lambda shard: shard.hash_key_range.starting_hash_key)
    picked = is_open[number % len(is_open)]
    if step == "put":
        for _ in range(number):
            lineage.put[put(store, len(lineage.put))] = clock()
    elif step == "split":
        keys = picked.hash_key_range
        store.split_shard("s", picked.shard_id, str((keys.starting_hash_key + keys.ending_hash_key) // 2 + 1))
    elif step == "merge" and len(is_open) > 1:
        left = number % (len(is_open) - 1)
        store.merge_shards("s", is_open[left].shard_id, is_open[left + 1].shard_id)
    elif step == "resize":
        store.update_shard_count("s", number)
    elif step == "pass":
        clock.advance(number)
    elif step == "trim":
        store.trim()
    lineage.learn(store)


@given(steps=steps)
@example(steps=[("put", 1_100), ("resize", 3), ("put", 20)])  # a parent that is not read in one round
@example(steps=[("put", 39), ("split", 0), ("put", 2), ("resize", 1), ("put", 1)])  # an empty shard in between
def test_all_that_is_put_is_handed_out_once_in_the_order_of_its_lineage(steps: list[tuple[str, int]]) -> None:
    folder, clock = Path(tempfile.mkdtemp()), Clock()
    with open_store(folder / "store", clock) as store:
        store.create_stream("s", shard_count=2, retention_hours=1)
        lineage, following = Lineage(clock), follow(store)
        lineage.learn(store)
        for step, number in steps:
            if step == "take":
                lineage.taken += take(store, following, clock, number)
                lineage.check()
            elif step == "go on from positions":
                following = follow(store, following.positions())
            else:
                make_step(store, clock, lineage, step, number)
        lineage.taken += take(store, following, clock)
        lineage.check_complete()
    assert check_store(folder / "store") == []
    shutil.rmtree(folder)


def test_a_look_changes_nothing_until_it_is_accepted(stream: StreamStore, clock: Clock) -> None:
    following = follow(stream)
    stored = {put(stream, number) for number in range(20)}
    rounds = [look(stream, following, clock) for _ in range(3)]
    assert rounds[0] == rounds[1] == rounds[2]
    assert following.take() is None
    assert following.positions() == {}
    assert set(places(take(stream, following, clock))) == stored


def test_positions_are_behind_what_was_handed_out_not_behind_what_was_read(stream: StreamStore, clock: Clock) -> None:
    following = follow(stream)
    expected = [put(stream, number) for number in range(30)]
    taken: list[StreamRecord] = []
    for _ in range(30):
        taken += take(stream, following, clock, 1)
        rest = take(stream, follow(stream, following.positions()), clock)
        assert sorted(places(taken + rest)) == sorted(expected)


def test_positions_of_drained_shards_keep_their_children_from_waiting(stream: StreamStore, clock: Clock) -> None:
    for number in range(20):
        put(stream, number)
    following = follow(stream)
    take(stream, following, clock)
    stream.update_shard_count("s", 5)
    assert take(stream, following, clock) == []
    again = follow(stream, following.positions())
    expected = [put(stream, number) for number in range(20, 40)]
    assert sorted(places(take(stream, again, clock))) == sorted(expected)


def test_the_latest_positions_are_behind_everything_of_every_shard(stream: StreamStore, clock: Clock) -> None:
    for number in range(20):
        put(stream, number)
    stream.update_shard_count("s", 2)
    put(stream, 20)
    latest = engine_of(stream).read(lambda transaction: latest_positions(transaction, stored_stream(stream)))
    assert latest.keys() == stored_stream(stream).shards.keys()
    following = follow(stream, latest)
    assert take(stream, following, clock) == []
    stream.update_shard_count("s", 3)
    assert places(take(stream, following, clock)) == []
    place = put(stream, 21)
    assert places(take(stream, following, clock)) == [place]


def test_a_time_is_a_place_in_every_shard_and_in_those_to_come(stream: StreamStore, clock: Clock) -> None:
    early = [put(stream, number) for number in range(20)]
    clock.advance(10)
    late = [put(stream, number) for number in range(20, 40)]
    from_now, from_soon = (follow(stream, not_before_ms=clock() + ahead) for ahead in (0, 5))
    assert sorted(places(take(stream, from_now, clock))) == sorted(late)
    assert take(stream, from_soon, clock) == []
    stream.update_shard_count("s", 7)
    too_early = [put(stream, number) for number in range(40, 60)]
    assert sorted(places(take(stream, from_now, clock))) == sorted(too_early)
    assert take(stream, from_soon, clock) == []
    clock.advance(5)
    in_time = [put(stream, number) for number in range(60, 80)]
    assert sorted(places(take(stream, from_soon, clock))) == sorted(in_time)
    assert len({*early, *late, *too_early, *in_time}) == 80


def test_the_shards_take_turns(stream: StreamStore, clock: Clock) -> None:
    """However much one shard holds, the others are not kept waiting for all of it."""
    for shard in range(3):
        key = str(shard * 2**126 + 5)
        for _ in range(0, 2_000, 500):
            stream.put_records("s", [(b"", "k", key)] * 500)
    found = [record.shard_id for record in take(stream, follow(stream), clock)]
    assert len(found) == 6_000
    for shard_id in set(found):
        assert shard_id in found[: ROUND_RECORDS_MAX + 1]
    assert len(set(found[ROUND_RECORDS_MAX : 2 * ROUND_RECORDS_MAX])) > 1


def test_a_round_holds_little_more_than_a_page(stream: StreamStore, clock: Clock) -> None:
    for shard in range(3):
        for _ in range(12):
            stream.put_record("s", bytes(2**20), "k", explicit_hash_key=str(shard * 2**126 + 5))
    following = follow(stream)
    sizes: list[int] = []
    while (found := look(stream, following, clock)).found:
        sizes.append(len(found.found))
        following.accept(found)
        while following.take():
            pass
    assert sum(sizes) == 36
    assert max(sizes) <= 20


def test_a_shard_without_news_is_not_read(stream: StreamStore, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    following = follow(stream)
    first = put(stream, 0)
    take(stream, following, clock)
    read: list[int] = []
    read_page = Following.__dict__["_read"]

    def count(self: Following, transaction: object, stored: object, shard_index: int, *rest: object) -> object:
        read.append(shard_index)
        return read_page(self, transaction, stored, shard_index, *rest)

    monkeypatch.setattr(Following, "_read", count)
    assert take(stream, following, clock) == []
    assert put(stream, 1, "key 0")[0] == first[0]
    take(stream, following, clock)
    assert read == [int(first[0].removeprefix("shard-"))]


def test_a_damaged_record_is_named_once_and_its_neighbours_are_handed_out(store_path: Path, clock: Clock) -> None:
    with open_store(store_path, clock) as store:
        store.create_stream("s")
        stored = [put(store, number) for number in range(5)]
    with behind_the_back_of(store_path) as raw:
        raw.flip_last_bit(records_database(StreamNumber(1), 0), record_key(2))
    with open_store(store_path, clock) as store:
        following = follow(store)
        taken = take(store, following, clock, 2)
        with pytest.raises(CorruptRecordError) as named:
            take(store, following, clock)
        assert named.value.sequence_number == "2"
        assert places(taken + take(store, following, clock)) == [*stored[:2], *stored[3:]]


def test_a_stream_that_is_deleted_or_replaced_is_followed_no_further(stream: StreamStore, clock: Clock) -> None:
    following = follow(stream)
    stream.delete_stream("s")
    with pytest.raises(ResourceNotFoundException):
        take(stream, following, clock)
    stream.create_stream("s")
    put(stream, 0)
    with pytest.raises(ResourceNotFoundException):
        take(stream, following, clock)
