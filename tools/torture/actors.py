"""Threads that put, reshard, trim and read one stream, and note each call with what it was answered.

    actors PATH LOG NAME ORIGIN_NS HOUR_NS PRODUCERS RECORDS [--reshards N] [--window N] [--role ROLE]...
        [--sync MODE] [--plant NAME]

First the shards are split, merged and resized ``--reshards`` times. Then ``PRODUCERS`` threads put ``RECORDS`` records
each; the other roles go on until they are done. The events of ``tools/torture/history.py`` are appended to LOG as soon
as the call has returned, with one write: "ack <kind> <events>", or "try" in front of a call that must not be forgotten.
"""

import argparse
import os
import pickle
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from streamstore import StreamStore
from streamstore.errors import ExpiredIteratorException, ResourceNotFoundException
from streamstore.model import PutRecordResult, Record, StreamRecord, SyncMode
from tools.torture import plants
from tools.torture.history import (
    HASH_KEYS,
    Event,
    ListedShard,
    Listing,
    Page,
    Put,
    Reshard,
    Seen,
    StoreClock,
    label_of,
    payload_of,
)

STREAM: Final = "history"
RETENTION_HOURS: Final = 1
SHARD_COUNT: Final = 2
OPEN_SHARDS_MAX: Final = 6
BATCH_RECORDS_MAX: Final = 8
PAGE_RECORDS_MAX: Final = 200
PAUSE_S: Final = 0.005
TAIL_IDLE_S: Final = 0.2
QUIET_KEY: Final = "=0"
QUIET_HASH_KEYS: Final = 2**64
PARTITION_KEYS: Final = (*(f"key{number}" for number in range(12)), f"={HASH_KEYS - 1}")

Note = Callable[[list[Event]], None]


class Actors:
    """The threads of one process."""

    def __init__(self, store: StreamStore, note: Note) -> None:
        self._store = store
        self._note = note
        self._ended = threading.Event()

    def act(self, name: str, *, producers: int, records: int, window: int, roles: Iterable[str]) -> None:
        """Put all records, with the other roles beside, and read everything at the end."""
        actors = {
            "reshard": self._reshard,
            "trim": self._trim,
            "follow": self._follow,
            "scan": self._scan,
            "tail": self._tail,
        }
        roles = list(roles)
        with ThreadPoolExecutor(producers + len(roles) + 1) as pool:
            others = [pool.submit(actors[role], random.Random(f"{name} {role}")) for role in roles]
            puts = [pool.submit(self._produce, f"{name}{number}", records, window) for number in range(producers)]
            try:
                for put in puts:
                    put.result()
            finally:
                self._ended.set()
            for other in others:
                other.result()
        self.read_all()

    def read_all(self) -> None:
        """Read every shard from its oldest record to its newest."""
        for shard in self._list().shards:
            self._read(shard.shard_id, 0)

    def _produce(self, producer: str, records: int, window: int) -> None:
        choose = random.Random(producer)
        waiting: deque[tuple[int, str, str, Future[PutRecordResult]]] = deque()
        call = stored = 0
        while stored < records:
            count = choose.randint(2, BATCH_RECORDS_MAX) if choose.random() < 0.2 else 1
            keys = [QUIET_KEY if choose.random() < 0.005 else choose.choice(PARTITION_KEYS) for _ in range(count)]
            labels = [f"{producer}/{call}/{entry}/{count}" for entry in range(count)]
            begin_ns = time.monotonic_ns()
            if count > 1:
                self._put_records(begin_ns, labels, keys)
            elif len(waiting) < window:
                data, explicit = payload_of(labels[0]), _explicit(keys[0])
                future = self._store.submit_record(STREAM, data, keys[0], explicit_hash_key=explicit)
                waiting.append((begin_ns, labels[0], keys[0], future))
            else:
                data, explicit = payload_of(labels[0]), _explicit(keys[0])
                result = self._store.put_record(STREAM, data, keys[0], explicit_hash_key=explicit)
                self._note([_put(begin_ns, labels[0], keys[0], result.shard_id, result.sequence_number)])
            while waiting and (waiting[0][3].done() or call % (4 * window) == 0 or stored + count >= records):
                submitted_ns, label, key, future = waiting.popleft()
                result = future.result()
                self._note([_put(submitted_ns, label, key, result.shard_id, result.sequence_number)])
            call += 1
            stored += count

    def _put_records(self, begin_ns: int, labels: list[str], keys: list[str]) -> None:
        entries = [(payload_of(label), key, _explicit(key)) for label, key in zip(labels, keys, strict=True)]
        results = self._store.put_records(STREAM, entries).records
        self._note(
            [
                _put(begin_ns, label, key, result.shard_id or "", result.sequence_number or "-1")
                for label, key, result in zip(labels, keys, results, strict=True)
            ]
        )

    def _reshard(self, choose: random.Random) -> None:
        while not self._ended.wait(choose.uniform(0, PAUSE_S)):
            self.reshard_once(choose)

    def reshard_once(self, choose: random.Random) -> None:
        """Split, merge or resize as the dice fall, and list the shards before and behind that."""
        listed = [shard for shard in self._list().shards if shard.ending_sequence is None]
        shards = sorted(listed, key=lambda shard: shard.starting_hash_key)
        starts = [shard.starting_hash_key for shard in shards]
        dice = choose.random()
        if dice < 0.2:
            count = choose.randint(1, OPEN_SHARDS_MAX)
            width = (HASH_KEYS - 1) // count
            self._note_reshard(
                [index * width for index in range(count)], lambda: self._store.update_shard_count(STREAM, count)
            )
        elif len(shards) > 1 and (dice < 0.5 or len(shards) >= OPEN_SHARDS_MAX):
            place = choose.randrange(len(shards) - 1)
            left, right = shards[place : place + 2]
            starts.remove(right.starting_hash_key)
            self._note_reshard(starts, lambda: self._store.merge_shards(STREAM, left.shard_id, right.shard_id))
        else:
            shard = choose.choice(shards)
            at = choose.randint(shard.starting_hash_key + 1, shard.ending_hash_key)
            if shard.starting_hash_key == 0 and shard.ending_hash_key > QUIET_HASH_KEYS:
                at = QUIET_HASH_KEYS  # a shard that seldom gets a record
            starts = sorted([*starts, at])
            self._note_reshard(starts, lambda: self._store.split_shard(STREAM, shard.shard_id, str(at)))
        self._list()

    def _note_reshard(self, starts: list[int], change: Callable[[], object]) -> None:
        begin_ns = time.monotonic_ns()
        self._note([Reshard(begin_ns, None, tuple(starts))])
        change()
        self._note([Reshard(begin_ns, time.monotonic_ns(), tuple(starts))])

    def _trim(self, choose: random.Random) -> None:
        while not self._ended.wait(choose.uniform(0, 2 * PAUSE_S)):
            self._store.trim(STREAM)

    def _scan(self, choose: random.Random) -> None:
        """Look at the oldest records of each shard, and now and then at all of one."""
        while not self._ended.wait(choose.uniform(0, 2 * PAUSE_S)):
            shards = self._list().shards
            for shard in shards:
                iterator = self._iterator(shard.shard_id, 0)
                if iterator is not None:
                    self._page(shard.shard_id, 0, iterator, limit=choose.randint(1, 5))
            self._read(choose.choice(shards).shard_id, 0)

    def _follow(self, choose: random.Random) -> None:
        """Read each shard to its end, then its children."""
        starts = {shard.shard_id: 0 for shard in self._list().shards}
        while not self._ended.wait(choose.uniform(0, PAUSE_S)):
            for shard_id, start in list(starts.items()):
                following = self._follow_shard(shard_id, start, choose)
                if following is None:
                    del starts[shard_id]
                else:
                    starts.update(following)
                    if shard_id not in following:
                        del starts[shard_id]
            if not starts:  # all of them expired
                starts = {shard.shard_id: 0 for shard in self._list().shards}

    def _follow_shard(self, shard_id: str, start: int, choose: random.Random) -> dict[str, int] | None:
        """Read up to the newest record, and return where to go on, in this shard or its children. None: it expired."""
        iterator = self._iterator(shard_id, start)
        while iterator is not None:
            answer = self._page(shard_id, start, iterator, limit=choose.randint(1, PAGE_RECORDS_MAX))
            if answer is None:
                return None
            page, iterator, children = answer
            if page.records:
                start = page.records[-1].sequence + 1
            if page.has_ended:
                return dict.fromkeys(children, 0)
            if page.is_newest:
                break
        return {shard_id: start}

    def _tail(self, choose: random.Random) -> None:
        del choose  # a tail decides nothing
        while not self._ended.is_set():
            self._tail_until_idle()

    def _tail_until_idle(self) -> None:
        """Note each record with the one before it in its shard, and at the end that no shard has more."""
        begin_ns = newest_ns = time.monotonic_ns()
        last: dict[str, Seen] = {}
        tail = self._store.tail(STREAM, starting_position="TRIM_HORIZON", idle_timeout_seconds=TAIL_IDLE_S)
        for record in tail:
            newest_ns = time.monotonic_ns()
            seen = _seen(record)
            run = (last[record.shard_id], seen) if record.shard_id in last else (seen,)
            start = run[0].sequence if len(run) > 1 else 0
            self._note([Page(begin_ns, newest_ns, record.shard_id, start, run, is_newest=False)])
            last[record.shard_id] = seen
        for shard in self._list().shards:
            start = last[shard.shard_id].sequence + 1 if shard.shard_id in last else 0
            self._note([Page(newest_ns, time.monotonic_ns(), shard.shard_id, start, (), is_newest=True)])

    def _iterator(self, shard_id: str, start: int) -> str | None:
        """Return an iterator at a number, or None if the shard has expired."""
        begin_ns = time.monotonic_ns()
        try:
            if start == 0:
                return self._store.get_shard_iterator(STREAM, shard_id, "TRIM_HORIZON")
            return self._store.get_shard_iterator(
                STREAM, shard_id, "AT_SEQUENCE_NUMBER", starting_sequence_number=str(start)
            )
        except ResourceNotFoundException:
            self._note([Page(begin_ns, time.monotonic_ns(), shard_id, start, (), is_newest=True)])
            return None

    def _page(
        self, shard_id: str, start: int, iterator: str, *, limit: int
    ) -> tuple[Page, str | None, list[str]] | None:
        """Read a page: what it holds, how to go on, and the children behind the last. None: the shard has expired."""
        begin_ns = time.monotonic_ns()
        try:
            result = self._store.get_records(iterator, limit=limit)
        except ExpiredIteratorException:
            return Page(begin_ns, begin_ns, shard_id, start, (), is_newest=False), None, []
        except ResourceNotFoundException:
            self._note([Page(begin_ns, time.monotonic_ns(), shard_id, start, (), is_newest=True)])
            return None
        has_ended = result.next_shard_iterator is None
        page = Page(
            begin_ns,
            time.monotonic_ns(),
            shard_id,
            start,
            tuple(map(_seen, result.records)),
            is_newest=result.millis_behind_latest == 0,
            has_ended=has_ended,
        )
        self._note([page])
        return page, result.next_shard_iterator, [child.shard_id for child in result.child_shards]

    def _read(self, shard_id: str, start: int) -> None:
        begin_ns = time.monotonic_ns()
        records: list[Record] = []
        try:
            for record in self._store.read(STREAM, shard_id, starting_sequence_number=str(start)):
                records.append(record)  # noqa: PERF402 - it may end in an error
        except ResourceNotFoundException:
            pass
        page = Page(begin_ns, time.monotonic_ns(), shard_id, start, tuple(map(_seen, records)), is_newest=True)
        self._note([page])

    def _list(self) -> Listing:
        begin_ns = time.monotonic_ns()
        shards = self._store.list_shards(STREAM).shards
        listed = tuple(
            ListedShard(
                shard.shard_id,
                shard.hash_key_range.starting_hash_key,
                shard.hash_key_range.ending_hash_key,
                tuple(each for each in (shard.parent_shard_id, shard.adjacent_parent_shard_id) if each is not None),
                int(shard.sequence_number_range.starting_sequence_number),
                None
                if shard.sequence_number_range.ending_sequence_number is None
                else int(shard.sequence_number_range.ending_sequence_number),
            )
            for shard in shards
        )
        listing = Listing(begin_ns, time.monotonic_ns(), listed)
        self._note([listing])
        return listing


def create(path: Path, clock: StoreClock, note: Note) -> None:
    """Create a store with the stream, and note how its shards begin."""
    with opened(path, clock) as store:
        begin_ns = time.monotonic_ns()
        store.create_stream(STREAM, shard_count=SHARD_COUNT, retention_hours=RETENTION_HOURS)
        width = (HASH_KEYS - 1) // SHARD_COUNT
        starts = tuple(index * width for index in range(SHARD_COUNT))
        note([Reshard(begin_ns, time.monotonic_ns(), starts)])


def opened(path: Path, clock: StoreClock, sync: SyncMode = "off") -> StreamStore:
    return StreamStore(path, sync=sync, clock=lambda: clock.at(time.monotonic_ns()))


def events_of(log: Path) -> list[Event]:
    """Return what a process noted. The last line may be cut off by its end."""
    lines = log.read_text().split("\n")[:-1]
    return [event for line in lines for event in _decoded(line)]


def _decoded(line: str) -> list[Event]:
    events: list[Event] = pickle.loads(bytes.fromhex(line.rsplit(maxsplit=1)[-1]))
    return events


def _put(begin_ns: int, label: str, partition_key: str, shard_id: str, sequence_number: str) -> Put:
    return Put(begin_ns, time.monotonic_ns(), label, partition_key, shard_id, int(sequence_number))


def _seen(record: Record | StreamRecord) -> Seen:
    return Seen(int(record.sequence_number), label_of(record.data), record.partition_key, record.arrival_ms)


def _explicit(partition_key: str) -> str | None:
    return partition_key[1:] if partition_key.startswith("=") else None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("name")
    parser.add_argument("origin_ns", type=int)
    parser.add_argument("hour_ns", type=int)
    parser.add_argument("producers", type=int)
    parser.add_argument("records", type=int)
    parser.add_argument("--reshards", type=int, default=0)
    parser.add_argument("--window", type=int, default=0)
    parser.add_argument("--role", action="append", default=[])
    parser.add_argument("--sync", choices=("full", "normal", "off"), default="full")
    parser.add_argument("--plant", choices=plants.NAMES)
    options = parser.parse_args()
    plants.plant(options.plant)
    log = os.open(options.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(events: list[Event]) -> None:
        word = "try" if isinstance(events[0], Reshard) and events[0].end_ns is None else "ack"
        os.write(log, f"{word} {type(events[0]).__name__} {pickle.dumps(events).hex()}\n".encode())

    with opened(options.path, StoreClock(options.origin_ns, options.hour_ns), options.sync) as store:
        os.write(sys.stdout.fileno(), b"open\n")
        actors = Actors(store, note)
        for number in range(options.reshards):
            actors.reshard_once(random.Random(number))
        actors.act(
            options.name,
            producers=options.producers,
            records=options.records,
            window=options.window,
            roles=options.role,
        )


if __name__ == "__main__":
    main()
