"""Histories: what callers asked of one stream, when, and what they were told; and the laws that no history may break.

Pure: it knows no store. The times of calls are readings of one monotonic clock, which all processes of a machine
share, so that a call that ended before another began came first, whoever made them. ``check_history`` yields what no
stream could have answered. It never takes a coincidence for a fault: a record that may have expired while it was
looked for may be missing.

A record's data begins with its label, ``producer/call/entry/entries``: a producer is a thread that makes one call
after the other, numbered from 0, and puts so many entries with it.
"""

import hashlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

HASH_KEYS: Final = 2**128
BASE_MS: Final = 1_700_000_000_000
MS_PER_HOUR: Final = 3_600_000
FILLING_BYTES_MAX: Final = 500
NEVER_NS: Final = 2**63
DAMAGED: Final = "damaged "


class StoreClock(NamedTuple):
    """A clock on which an hour passes in ``hour_ns`` of the machine's monotonic time, the same in every process."""

    origin_ns: int
    hour_ns: int

    def at(self, time_ns: int) -> int:
        return BASE_MS + (time_ns - self.origin_ns) * MS_PER_HOUR // self.hour_ns


class Put(NamedTuple):
    """A record that was acknowledged."""

    begin_ns: int
    end_ns: int
    label: str
    partition_key: str
    shard_id: str
    sequence: int


class Seen(NamedTuple):
    """A record as it was read."""

    sequence: int
    label: str
    partition_key: str
    arrival_ms: int


class Page(NamedTuple):
    """What a reader got who asked for the records of a shard from number ``start`` on.

    ``is_newest``: it was told that nothing newer is stored, or that the shard is gone. ``has_ended``: that nothing
    will ever follow.
    """

    begin_ns: int
    end_ns: int
    shard_id: str
    start: int
    records: tuple[Seen, ...]
    is_newest: bool
    has_ended: bool = False


class ListedShard(NamedTuple):
    """A shard of a listing; ``ending_sequence`` is None while it is open."""

    shard_id: str
    starting_hash_key: int
    ending_hash_key: int
    parent_ids: tuple[str, ...]
    starting_sequence: int
    ending_sequence: int | None


class Listing(NamedTuple):
    """All shards of the stream in the order of their ids."""

    begin_ns: int
    end_ns: int
    shards: tuple[ListedShard, ...]

    def open_starts(self) -> tuple[int, ...]:
        return tuple(sorted(shard.starting_hash_key for shard in self.shards if shard.ending_sequence is None))


class Reshard(NamedTuple):
    """A split, merge or resizing after which the open shards start at ``starts``. ``end_ns`` is None without an answer.

    One thread at a time reshards. It notes each twice: before the call, and with the answer.
    """

    begin_ns: int
    end_ns: int | None
    starts: tuple[int, ...]


Event = Put | Page | Listing | Reshard


class _Shard:
    """All that anybody was told about one shard."""

    def __init__(self) -> None:
        self.puts: list[Put] = []
        self.pages: list[Page] = []
        self.labels: dict[int, set[str]] = defaultdict(set)
        self.partition_keys: dict[int, set[str]] = defaultdict(set)
        self.arrivals_ms: dict[int, set[int]] = defaultdict(set)
        self.known_ns: dict[int, int] = {}  # since when somebody knows that the record is stored
        self.floors_ms: dict[int, int] = {}  # before which it did not arrive

    def learn(self, sequence: int, label: str, partition_key: str, *, known_ns: int, floor_ms: int) -> None:
        self.labels[sequence].add(label)
        self.partition_keys[sequence].add(partition_key)
        self.known_ns[sequence] = min(known_ns, self.known_ns.get(sequence, NEVER_NS))
        self.floors_ms[sequence] = max(floor_ms, self.floors_ms.get(sequence, 0))

    def settle(self) -> None:
        """Sort what was learnt. Arrival times never go back in a shard, so a floor holds for all behind it."""
        self.puts.sort(key=lambda put: put.sequence)
        self.sequences = sorted(self.known_ns)
        self.rising_floors_ms = list(accumulate((self.floors_ms[each] for each in self.sequences), max))
        self.known_from_here_ns = list(accumulate((self.known_ns[each] for each in reversed(self.sequences)), min))
        self.known_from_here_ns.reverse()

    @property
    def lowest(self) -> int:
        return self.sequences[0] if self.sequences else NEVER_NS

    @property
    def highest(self) -> int:
        return self.sequences[-1] if self.sequences else -1

    def lasting_from(self, horizon_ms: int) -> int:
        """Return the first number whose record, and all behind it, arrived at or after the horizon for certain."""
        place = bisect_left(self.rising_floors_ms, horizon_ms)
        return self.sequences[place] if place < len(self.sequences) else NEVER_NS

    def known_between(self, start: int, stop: int) -> Iterator[int]:
        place = bisect_left(self.sequences, start)
        while place < len(self.sequences) and self.sequences[place] < stop:
            yield self.sequences[place]
            place += 1

    def is_known_at_or_after(self, sequence: int, time_ns: int) -> bool:
        place = bisect_left(self.sequences, sequence)
        return place < len(self.sequences) and self.known_from_here_ns[place] < time_ns


class History:
    """The events of one stream. ``is_complete``: every call was answered, no process was killed in the middle."""

    def __init__(self, clock: StoreClock, *, retention_ms: int, is_complete: bool) -> None:
        self.clock = clock
        self.retention_ms = retention_ms
        self.is_complete = is_complete
        self.puts: list[Put] = []
        self.pages: list[Page] = []
        self.listings: list[Listing] = []
        self.reshards: list[Reshard] = []
        self.shards: dict[str, _Shard] = {}
        self.shapes: dict[str, ListedShard] = {}

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, Put):
                self.puts.append(event)
            elif isinstance(event, Page):
                self.pages.append(event)
            elif isinstance(event, Listing):
                self.listings.append(event)
            else:
                self.reshards.append(event)

    def horizon_ms(self, time_ns: int) -> int:
        return self.clock.at(time_ns) - self.retention_ms

    def settle(self) -> None:
        """Sort the events, and gather what they tell of each shard."""
        self.listings.sort(key=lambda listing: listing.begin_ns)
        self.pages.sort(key=lambda page: page.end_ns)
        answers_last = sorted(self.reshards, key=lambda reshard: reshard.end_ns or 0)
        reshards = {reshard.begin_ns: reshard for reshard in answers_last}
        self.reshards = [reshards[begin_ns] for begin_ns in sorted(reshards)]
        shards: dict[str, _Shard] = defaultdict(_Shard)
        for put in self.puts:
            shard = shards[put.shard_id]
            shard.puts.append(put)
            floor_ms = self.clock.at(put.begin_ns)
            shard.learn(put.sequence, put.label, put.partition_key, known_ns=put.end_ns, floor_ms=floor_ms)
        for page in self.pages:
            shard = shards[page.shard_id]
            shard.pages.append(page)
            for sequence, label, partition_key, arrival_ms in page.records:
                shard.learn(sequence, label, partition_key, known_ns=page.end_ns, floor_ms=arrival_ms)
                shard.arrivals_ms[sequence].add(arrival_ms)
        for shard in shards.values():
            shard.settle()
        self.shards = dict(shards)
        for listing in self.listings:
            for shape in listing.shards:
                if self.shapes.get(shape.shard_id, shape).ending_sequence is None:
                    self.shapes[shape.shard_id] = shape


Law = Callable[[History], Iterator[str]]


def check_history(history: History) -> list[str]:
    """Return what breaks the laws, in sentences."""
    history.settle()
    return [problem for law in LAWS for problem in law(history)]


def payload_of(label: str) -> bytes:
    """Return the data of a record: its label, and filling that differs in length."""
    return f"{label} ".encode() + b"." * (sum(label.encode()) * 7919 % FILLING_BYTES_MAX)


def label_of(data: bytes) -> str:
    """Return the label of a record, or a text that is none if the data are not what was put."""
    label = data.partition(b" ")[0].decode(errors="replace")
    return label if data == payload_of(label) else f"{DAMAGED}{label}"


def hash_key_of(partition_key: str) -> int:
    """Return where a record belongs. A key like "=123" was put with the explicit hash key 123."""
    if partition_key.startswith("="):
        return int(partition_key[1:])
    return int.from_bytes(hashlib.md5(partition_key.encode()).digest(), "big")


def _place_of(label: str) -> tuple[str, int, int]:
    """Return the producer, and the place of the record in what it put."""
    producer, call, entry, _ = label.split("/")
    return producer, int(call), int(entry)


def _records_stay_what_they_are(history: History) -> Iterator[str]:
    for shard_id, shard in history.shards.items():
        for sequence, labels in shard.labels.items():
            if len(labels) > 1 or len(shard.partition_keys[sequence]) > 1 or len(shard.arrivals_ms[sequence]) > 1:
                yield f"Record {sequence} of {shard_id} changed: {sorted(labels)}."


def _no_record_is_stored_twice(history: History) -> Iterator[str]:
    addresses: dict[str, tuple[str, int]] = {}
    for shard_id, shard in history.shards.items():
        for sequence, labels in shard.labels.items():
            for label in labels:
                first = addresses.setdefault(label, (shard_id, sequence))
                if first != (shard_id, sequence):
                    yield f"{label} is stored twice, at {first} and {(shard_id, sequence)}."


def _records_come_from_producers(history: History) -> Iterator[str]:
    """Whoever was killed may leave the one call that was under way, whole or not at all.

    Of that one, some records may have expired before anybody read them.
    """
    acknowledged = {put.label for put in history.puts}
    arrivals_ms = {
        label: min(shard.arrivals_ms[sequence], default=BASE_MS)
        for shard in history.shards.values()
        for sequence, labels in shard.labels.items()
        for label in labels
    }
    read = arrivals_ms.keys()
    horizon_ms = history.horizon_ms(max((page.end_ns for page in history.pages), default=0))
    last_calls: dict[str, int] = defaultdict(lambda: -1)
    for label in acknowledged:
        producer, call, _ = _place_of(label)
        last_calls[producer] = max(call, last_calls[producer])
    for label in sorted(read - acknowledged):
        if (
            history.is_complete
            or label.startswith(DAMAGED)
            or _place_of(label)[1] > 1 + last_calls[_place_of(label)[0]]
        ):
            yield f"{label} was read, and nobody put it."
    calls: dict[tuple[str, int], int] = defaultdict(int)
    sizes: dict[tuple[str, int], int] = {}
    for label in acknowledged | read:
        if not label.startswith(DAMAGED) and (label in acknowledged or arrivals_ms[label] >= horizon_ms):
            producer, call, _ = _place_of(label)
            calls[producer, call] += 1
            sizes[producer, call] = int(label.rpartition("/")[2])
    for (producer, call), count in calls.items():
        if count != sizes[producer, call]:
            yield f"Call {call} of {producer} is stored in part: {count} of {sizes[producer, call]} records."


def _numbers_are_one_run(history: History) -> Iterator[str]:
    """Without kills everybody knows all numbers. What a kill leaves may expire before anybody reads it."""
    if not history.is_complete:
        return
    for shard_id, shard in history.shards.items():
        parent_ids = history.shapes[shard_id].parent_ids if shard_id in history.shapes else ()
        endings = [history.shapes[each].ending_sequence for each in parent_ids if each in history.shapes]
        known = [ending for ending in endings if ending is not None]
        first = max((ending + 1 for ending in known), default=0)
        if len(known) == len(parent_ids) and shard.lowest not in (first, NEVER_NS):
            yield f"The numbers of {shard_id} begin at {shard.lowest}, not at {first}."
        for earlier, later in pairwise(shard.sequences):
            if later != earlier + 1:
                yield f"The numbers of {shard_id} have a gap between {earlier} and {later}."


def _what_came_first_has_the_lower_number(history: History) -> Iterator[str]:
    for shard_id, shard in history.shards.items():
        end_ns = NEVER_NS  # of the first that ended of those with higher numbers
        for put in reversed(shard.puts):
            if end_ns < put.begin_ns:
                yield f"{put.label} has the number {put.sequence} of {shard_id}, below one that came first."
            end_ns = min(end_ns, put.end_ns)


def _producers_keep_their_order(history: History) -> Iterator[str]:
    for shard_id, shard in history.shards.items():
        last: dict[str, tuple[int, int]] = {}
        for put in shard.puts:
            producer, *place = _place_of(put.label)
            if tuple(place) <= last.get(producer, (-1, -1)):
                yield f"{put.label} is out of order in {shard_id}."
            last[producer] = (place[0], place[1])


class _Ancestry(NamedTuple):
    """What was put into the ancestors of a shard."""

    highest_sequence: int
    last_begin_ns: int
    last_places: dict[str, tuple[int, int]]


def _children_come_behind_their_parents(history: History) -> Iterator[str]:
    ancestries: dict[str, _Ancestry] = {}
    for shard_id in sorted(history.shapes):  # parents are older, so their ids are lower
        parent_ids = [each for each in history.shapes[shard_id].parent_ids if each in ancestries]
        ancestry = _ancestry_of(parent_ids, ancestries, history.shards)
        ancestries[shard_id] = ancestry
        shard = history.shards.get(shard_id)
        if shard is None:
            continue
        if shard.lowest <= ancestry.highest_sequence:
            yield (f"Record {shard.lowest} of {shard_id} is numbered below {ancestry.highest_sequence} of an ancestor.")
        for put in shard.puts:
            if put.end_ns < ancestry.last_begin_ns:
                yield f"{put.label} is in {shard_id}, and a later put in an ancestor of that."
            producer, call, entry = _place_of(put.label)
            if (call, entry) < ancestry.last_places.get(producer, (-1, -1)):
                yield f"{put.label} is in {shard_id}, and what its producer put behind it in an ancestor of that."


def _ancestry_of(parent_ids: list[str], ancestries: dict[str, _Ancestry], shards: dict[str, _Shard]) -> _Ancestry:
    highest_sequence, last_begin_ns = -1, 0
    last_places: dict[str, tuple[int, int]] = {}
    for parent_id in parent_ids:
        above, parent = ancestries[parent_id], shards.get(parent_id)
        puts = [] if parent is None else parent.puts
        highest_sequence = max(highest_sequence, above.highest_sequence, parent.highest if parent else -1)
        last_begin_ns = max(last_begin_ns, above.last_begin_ns, *(put.begin_ns for put in puts), 0)
        places = {producer: (call, entry) for producer, call, entry in (_place_of(put.label) for put in puts)}
        for producer, place in (*above.last_places.items(), *places.items()):
            last_places[producer] = max(place, last_places.get(producer, (-1, -1)))
    return _Ancestry(highest_sequence, last_begin_ns, last_places)


def _records_lie_where_their_hash_keys_do(history: History) -> Iterator[str]:
    ranges = {each.shard_id: (each.starting_hash_key, each.ending_hash_key) for each in history.shapes.values()}
    for shard_id, shard in history.shards.items():
        first, last = ranges.get(shard_id, (0, -1))
        for sequence, partition_keys in shard.partition_keys.items():
            if not all(first <= hash_key_of(key) <= last for key in partition_keys):
                yield f"Record {sequence} of {shard_id} does not belong to its hash keys."


def _arrivals_are_true_and_never_go_back(history: History) -> Iterator[str]:
    for shard_id, shard in history.shards.items():
        arrivals_ms = [(sequence, arrival) for sequence in shard.sequences for arrival in shard.arrivals_ms[sequence]]
        for (_, earlier), (sequence, later) in pairwise(arrivals_ms):
            if later < earlier:
                yield f"Record {sequence} of {shard_id} arrived before the one in front of it."
        for put in shard.puts:
            for arrival_ms in shard.arrivals_ms[put.sequence]:
                if not history.clock.at(put.begin_ns) <= arrival_ms <= history.clock.at(put.end_ns):
                    yield f"{put.label} did not arrive while it was put."


def _reads_have_no_gaps(history: History) -> Iterator[str]:
    for page in history.pages:
        if page.records and page.records[0].sequence < page.start:
            yield f"A read of {page.shard_id} from {page.start} on returned record {page.records[0].sequence}."
        for earlier, later in pairwise(page.records):
            # Between two pages of one read, the records in front may all expire.
            may_expire = earlier.arrival_ms < history.horizon_ms(page.end_ns) and later.sequence > earlier.sequence
            if later.sequence != earlier.sequence + 1 and not may_expire:
                yield f"A read of {page.shard_id} went from {earlier.sequence} to {later.sequence}."


def _reads_see_all_that_is_stored(history: History) -> Iterator[str]:
    """All that was acknowledged, or read by anybody, before the read began, but for what may have expired."""
    for shard_id, shard in history.shards.items():
        for page in shard.pages:
            first = max(page.start, shard.lasting_from(history.horizon_ms(page.end_ns)))
            if page.records:
                for sequence in shard.known_between(first, page.records[0].sequence):
                    if shard.known_ns[sequence] < page.begin_ns:
                        yield f"Record {sequence} of {shard_id} is lost: a read from {page.start} on passed over it."
            stop = page.records[-1].sequence + 1 if page.records else page.start
            if page.is_newest and shard.is_known_at_or_after(max(first, stop), page.begin_ns):
                yield f"A read of {shard_id} said that {stop} is not there yet; somebody had it already."


def _reads_see_nothing_that_is_not_there(history: History) -> Iterator[str]:
    begins_ns = {put.label: put.begin_ns for put in history.puts}
    for page in history.pages:
        horizon_ms = history.horizon_ms(page.begin_ns)
        for record in page.records:
            if begins_ns.get(record.label, 0) > page.end_ns:
                yield f"{record.label} was read before it was put."
            if record.arrival_ms < horizon_ms:
                yield f"Record {record.sequence} of {page.shard_id} was read after it had expired."


def _what_is_gone_stays_gone(history: History) -> Iterator[str]:
    """Records go from the front of a shard: who found the first at some number knows that all below it are gone."""
    for shard_id, shard in history.shards.items():
        ends_ns = [page.end_ns for page in shard.pages]
        gone = list(accumulate((_first_found(page) for page in shard.pages), max))
        for page in shard.pages:
            before = bisect_left(ends_ns, page.begin_ns)
            if page.records and before and page.records[0].sequence < gone[before - 1]:
                yield f"Record {page.records[0].sequence} of {shard_id} was read again after it was gone."


def _first_found(page: Page) -> int:
    return page.records[0].sequence if page.records and page.records[0].sequence > page.start else 0


def _ended_shards_get_nothing_more(history: History) -> Iterator[str]:
    for shard_id, shard in history.shards.items():
        for page in shard.pages:
            if page.has_ended and page.records and shard.highest > page.records[-1].sequence:
                yield f"{shard_id} ended at {page.records[-1].sequence}, and has a record {shard.highest}."
        last_begin_ns = max((put.begin_ns for put in shard.puts), default=0)
        if any(page.has_ended and page.end_ns < last_begin_ns for page in shard.pages):
            yield f"{shard_id} got a record after it had ended."


def _listings_tile_the_hash_keys(history: History) -> Iterator[str]:
    for listing in history.listings:
        start = 0
        open_shards = [shard for shard in listing.shards if shard.ending_sequence is None]
        for shard in sorted(open_shards, key=lambda each: each.starting_hash_key):
            if shard.starting_hash_key != start:
                yield f"{shard.shard_id} starts at {shard.starting_hash_key}, those below it end at {start - 1}."
            start = shard.ending_hash_key + 1
        if start != HASH_KEYS:
            yield f"No open shard has the hash keys from {start} on."


def _listings_show_whole_families(history: History) -> Iterator[str]:
    """A parent expires before its children, so who sees it sees all of them, and they have its hash keys."""
    for listing in history.listings:
        listed = {shard.shard_id: shard for shard in listing.shards}
        children: dict[str, list[ListedShard]] = defaultdict(list)
        for shard in listing.shards:
            for parent_id in shard.parent_ids:
                children[parent_id].append(shard)
        for parent_id, parent in listed.items():
            ranges = sorted((child.starting_hash_key, child.ending_hash_key) for child in children[parent_id])
            if parent.ending_sequence is None and ranges:
                yield f"{parent_id} is open and has children."
            elif parent.ending_sequence is not None and not _covers(ranges, parent):
                yield f"{parent_id} is closed, and its children do not have its hash keys."
            for child in children[parent_id]:
                if parent.ending_sequence is not None and child.starting_sequence <= parent.ending_sequence:
                    yield f"{child.shard_id} does not start behind the last number of {parent_id}."


def _covers(ranges: list[tuple[int, int]], parent: ListedShard) -> bool:
    touching = all(low[1] + 1 == high[0] for low, high in pairwise(ranges))
    return (
        bool(ranges)
        and touching
        and ranges[0][0] <= parent.starting_hash_key
        and (parent.ending_hash_key <= ranges[-1][1])
    )


def _shards_never_change_but_close_and_expire(history: History) -> Iterator[str]:
    last: dict[str, tuple[int, ListedShard]] = {}
    gone_ns: dict[str, int] = {}
    for listing in sorted(history.listings, key=lambda each: each.end_ns):
        listed = {shard.shard_id for shard in listing.shards}
        for shard in listing.shards:
            end_ns, before = last.get(shard.shard_id, (0, shard))
            if before[:4] != shard[:4] or (
                end_ns < listing.begin_ns and before.ending_sequence not in (None, shard.ending_sequence)
            ):
                yield f"{shard.shard_id} changed from {before} to {shard}."
            if gone_ns.get(shard.shard_id, NEVER_NS) < listing.begin_ns:
                yield f"{shard.shard_id} is listed again after it was gone."
            last[shard.shard_id] = (listing.end_ns, shard)
        for shard_id in last.keys() - listed - gone_ns.keys():
            if last[shard_id][0] < listing.begin_ns:
                gone_ns[shard_id] = listing.end_ns


def _listings_leave_out_only_what_has_expired(history: History) -> Iterator[str]:
    youngest = sorted(
        (shard.rising_floors_ms[-1], shard_id) for shard_id, shard in history.shards.items() if shard.sequences
    )
    for listing in history.listings:
        starts = {shard.shard_id: shard.starting_sequence for shard in listing.shards}
        horizon_ms = history.horizon_ms(listing.end_ns)
        for _, shard_id in youngest[bisect_left(youngest, (horizon_ms, "")) :]:
            shard = history.shards[shard_id]
            first = shard.lasting_from(horizon_ms)
            if shard_id not in starts and shard.is_known_at_or_after(first, listing.begin_ns):
                yield f"A listing left out {shard_id}, whose record {first} had not expired."
            for sequence in shard.known_between(first, starts.get(shard_id, -1)):
                if shard.known_ns[sequence] < listing.begin_ns:
                    yield f"A listing left out record {sequence} of {shard_id}, which had not expired."


def _puts_go_to_shards_that_are_open(history: History) -> Iterator[str]:
    opened_ns: dict[str, int] = {}  # before which nobody had it
    closed_ns: dict[str, int] = {}  # after which it was closed
    seen = set[str]()
    for listing in history.listings:
        for shape in listing.shards:
            if shape.ending_sequence is not None:
                closed_ns[shape.shard_id] = min(listing.end_ns, closed_ns.get(shape.shard_id, NEVER_NS))
        seen |= {shard.shard_id for shard in listing.shards}
        for shard_id in history.shapes.keys() - seen:
            opened_ns[shard_id] = listing.begin_ns
    for shard_id, shard in history.shards.items():
        for put in shard.puts:
            if put.begin_ns > closed_ns.get(shard_id, NEVER_NS):
                yield f"{put.label} was put into {shard_id}, which was closed."
            if put.end_ns < opened_ns.get(shard_id, 0):
                yield f"{put.label} was put into {shard_id}, which did not exist yet."
        ending = history.shapes[shard_id].ending_sequence if shard_id in history.shapes else None
        if ending is not None and shard.highest > ending:
            yield f"{shard_id} was closed at {ending}, and has a record {shard.highest}."


def _reshardings_happen_whole_and_in_turn(history: History) -> Iterator[str]:
    """Each listing shows the open shards that some resharding left: none older than an answer or than a listing
    before it. One without an answer may show or not, and whole.
    """
    shown: list[tuple[int, int]] = []  # when a listing ended, and the oldest resharding that it may have shown
    for listing in history.listings:
        oldest = 0
        for number, reshard in enumerate(history.reshards):
            if reshard.end_ns is not None and reshard.end_ns < listing.begin_ns:
                oldest = number
        oldest = max([oldest, *(number for end_ns, number in shown if end_ns < listing.begin_ns)])
        starts = listing.open_starts()
        for number, reshard in enumerate(history.reshards[oldest:], oldest):
            if reshard.begin_ns < listing.end_ns and reshard.starts == starts:
                shown.append((listing.end_ns, number))
                break
        else:
            if history.reshards:
                yield f"A listing shows open shards at {starts}, which no resharding before it left."


LAWS: Final[tuple[Law, ...]] = (
    _records_stay_what_they_are,
    _no_record_is_stored_twice,
    _records_come_from_producers,
    _numbers_are_one_run,
    _what_came_first_has_the_lower_number,
    _producers_keep_their_order,
    _children_come_behind_their_parents,
    _records_lie_where_their_hash_keys_do,
    _arrivals_are_true_and_never_go_back,
    _reads_have_no_gaps,
    _reads_see_all_that_is_stored,
    _reads_see_nothing_that_is_not_there,
    _what_is_gone_stays_gone,
    _ended_shards_get_nothing_more,
    _listings_tile_the_hash_keys,
    _listings_show_whole_families,
    _shards_never_change_but_close_and_expire,
    _listings_leave_out_only_what_has_expired,
    _puts_go_to_shards_that_are_open,
    _reshardings_happen_whole_and_in_turn,
)
