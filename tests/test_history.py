"""The laws of a stream, each broken once. The part ``history`` of the torture holds live histories against them."""

from collections.abc import Mapping
from typing import Final

import pytest

from tools.torture.history import (
    DAMAGED,
    HASH_KEYS,
    LAWS,
    MS_PER_HOUR,
    Event,
    History,
    ListedShard,
    Listing,
    Page,
    Put,
    Reshard,
    Seen,
    StoreClock,
    check_history,
    label_of,
    payload_of,
)

HALF: Final = HASH_KEYS // 2
QUARTER: Final = HASH_KEYS // 4
CLOCK: Final = StoreClock(origin_ns=0, hour_ns=MS_PER_HOUR)  # a nanosecond is a millisecond
EPOCH_MS: Final = CLOCK.at(0)
RETENTION_MS: Final = 1_000

P0: Final = Seen(0, "p/0/0/1", "=0", EPOCH_MS + 11)
P1: Final = Seen(1, "p/1/0/1", "=1", EPOCH_MS + 21)
Q0: Final = Seen(2, "q/0/0/2", "=2", EPOCH_MS + 23)
Q0_OTHER: Final = Seen(0, "q/0/1/2", f"={HALF}", EPOCH_MS + 23)
STRANGE: Final = Seen(1, "x/0/0/1", f"={HALF}", EPOCH_MS + 24)
P2: Final = Seen(3, "p/2/0/1", "=0", EPOCH_MS + 61)
ROOT: Final = ListedShard("s0", 0, HALF - 1, (), 0, None)
OTHER: Final = ListedShard("s1", HALF, HASH_KEYS - 1, (), 0, None)
SHORT: Final = OTHER._replace(ending_hash_key=HASH_KEYS - 2)
CLOSED: Final = ROOT._replace(ending_sequence=2)
LOW: Final = ListedShard("s2", 0, QUARTER - 1, ("s0",), 3, None)
ADOPTED: Final = LOW._replace(parent_ids=("s1",))
HIGH: Final = ListedShard("s3", QUARTER, HALF - 1, ("s0",), 3, None)

# A history that keeps every law: puts, a split, puts behind it, and the first record expires.
SOUND: Final[Mapping[str, Event]] = {
    "created": Reshard(0, 1, (0, HALF)),
    "listed": Listing(2, 3, (ROOT, OTHER)),
    "p0": Put(10, 12, P0.label, "=0", "s0", 0),
    "p1": Put(20, 22, P1.label, "=1", "s0", 1),
    "q0": Put(21, 25, Q0.label, "=2", "s0", 2),
    "q0 other": Put(21, 25, "q/0/1/2", f"={HALF}", "s1", 0),
    "read": Page(30, 31, "s0", 0, (P0, P1, Q0), True),
    "split": Reshard(40, 44, (0, QUARTER, HALF)),
    "listed split": Listing(50, 51, (CLOSED, OTHER, LOW, HIGH)),
    "p2": Put(60, 62, P2.label, "=0", "s2", 3),
    "p3": Put(63, 65, "p/3/0/1", f"={QUARTER}", "s3", 3),
    "read to the end": Page(70, 71, "s0", 2, (Q0,), True, has_ended=True),
    "read child": Page(72, 73, "s2", 0, (P2,), True),
    "read what is left": Page(1016, 1017, "s0", 0, (P1, Q0), True, has_ended=True),
    "listed what is left": Listing(1018, 1019, (CLOSED._replace(starting_sequence=1), OTHER, LOW, HIGH)),
}

PLANTS: Final[list[tuple[str, dict[str, Event | None]]]] = [
    ("records_stay_what_they_are", {"read child": Page(72, 73, "s2", 0, (P2._replace(partition_key="=1"),), True)}),
    (
        "no_record_is_stored_twice",
        {"read twice": Page(74, 75, "s1", 0, (Q0_OTHER, Q0_OTHER._replace(sequence=1)), True)},
    ),
    ("records_come_from_producers", {"read more": Page(74, 75, "s1", 1, (STRANGE,), True)}),
    ("records_come_from_producers", {"read more": Page(74, 75, "s1", 1, (STRANGE._replace(label="damaged x"),), True)}),
    ("records_come_from_producers", {"q0 other": None}),  # half of a call
    ("numbers_are_one_run", {"q0 other": Put(21, 25, "q/0/1/2", f"={HALF}", "s1", 1)}),
    ("numbers_are_one_run", {"p3": Put(63, 65, "p/3/0/1", f"={QUARTER}", "s3", 4)}),
    ("numbers_are_one_run", {"x": Put(66, 67, "x/0/0/1", f"={QUARTER}", "s3", 5)}),
    (
        "what_came_first_has_the_lower_number",
        {
            "x": Put(80, 81, "x/0/0/1", f"={QUARTER}", "s3", 5),
            "y": Put(82, 83, "y/0/0/1", f"={QUARTER}", "s3", 4),
        },
    ),
    (
        "producers_keep_their_order",
        {
            "p4": Put(80, 90, "p/4/0/1", f"={QUARTER}", "s3", 5),
            "p5": Put(81, 90, "p/5/0/1", f"={QUARTER}", "s3", 4),
        },
    ),
    ("children_come_behind_their_parents", {"p3": Put(13, 15, "p/3/0/1", f"={QUARTER}", "s3", 3)}),
    (
        "children_come_behind_their_parents",
        {
            "p1": Put(20, 22, "p/3/0/1", "=1", "s0", 1),
            "read": Page(30, 31, "s0", 0, (P0, P1._replace(label="p/3/0/1"), Q0), True),
            "read what is left": Page(1016, 1017, "s0", 0, (P1._replace(label="p/3/0/1"), Q0), True),
            "p3": Put(63, 65, "p/1/0/1", f"={QUARTER}", "s3", 3),
        },
    ),
    (
        "children_come_behind_their_parents numbers_are_one_run listings_leave_out_only_what_has_expired",
        {"p3": Put(63, 65, "p/3/0/1", f"={QUARTER}", "s3", 2)},
    ),
    ("records_lie_where_their_hash_keys_do", {"p3": Put(63, 65, "p/3/0/1", f"={QUARTER - 1}", "s3", 3)}),
    ("arrivals_are_true_and_never_go_back", {"p2": Put(59, 60, P2.label, "=0", "s2", 3)}),
    ("arrivals_are_true_and_never_go_back", {"p2": Put(62, 63, P2.label, "=0", "s2", 3)}),
    (
        "arrivals_are_true_and_never_go_back",
        {
            "read twice": Page(
                74, 75, "s2", 4, (P2._replace(sequence=4, label="x/0/0/1", arrival_ms=P2.arrival_ms - 1),), True
            ),
            "x": Put(60, 80, "x/0/0/1", "=0", "s2", 4),
        },
    ),
    ("reads_have_no_gaps", {"read": Page(30, 31, "s0", 0, (P0, Q0), True)}),
    ("reads_have_no_gaps", {"read child": Page(72, 73, "s2", 4, (P2,), True)}),
    ("reads_see_all_that_is_stored", {"read": Page(30, 31, "s0", 0, (P1, Q0), True)}),
    ("reads_see_all_that_is_stored", {"read": Page(30, 31, "s0", 0, (P0, P1), True)}),
    ("reads_see_all_that_is_stored", {"read again": Page(32, 33, "s0", 0, (), True)}),
    (
        "reads_see_all_that_is_stored",
        {"q0": Put(21, 38, Q0.label, "=2", "s0", 2), "read again": Page(32, 33, "s0", 0, (P0, P1), True)},
    ),
    ("reads_see_nothing_that_is_not_there", {"read child": Page(58, 59, "s2", 0, (P2,), True)}),
    ("reads_see_nothing_that_is_not_there", {"read late": Page(1030, 1031, "s0", 1, (P1, Q0), True)}),
    (
        "what_is_gone_stays_gone reads_see_nothing_that_is_not_there",
        {"read again": Page(1018, 1019, "s0", 0, (P0, P1, Q0), True)},
    ),
    (
        "ended_shards_get_nothing_more",
        {"read child": Page(72, 73, "s2", 0, (P2,), True, has_ended=True), "x": Put(80, 81, "x/0/0/1", "=0", "s2", 4)},
    ),
    (
        "listings_tile_the_hash_keys",
        {
            "listed": Listing(2, 3, (ROOT, SHORT)),
            "listed split": Listing(50, 51, (CLOSED, SHORT, LOW, HIGH)),
            "listed what is left": None,
        },
    ),
    (
        "listings_show_whole_families",
        {
            "listed split": Listing(50, 51, (CLOSED, OTHER, ADOPTED, HIGH)),
            "listed what is left": Listing(1018, 1019, (CLOSED, OTHER, ADOPTED, HIGH)),
        },
    ),
    (
        "shards_never_change_but_close_and_expire",
        {"listed what is left": Listing(1018, 1019, (CLOSED._replace(ending_sequence=1), OTHER, LOW, HIGH))},
    ),
    (
        "shards_never_change_but_close_and_expire",
        {
            "listed late": Listing(1030, 1031, (OTHER, LOW, HIGH)),
            "listed later": Listing(1040, 1041, (CLOSED, OTHER, LOW, HIGH)),
        },
    ),
    (
        "listings_leave_out_only_what_has_expired",
        {"listed what is left": Listing(1018, 1019, (CLOSED._replace(starting_sequence=2), OTHER, LOW, HIGH))},
    ),
    ("listings_leave_out_only_what_has_expired", {"listed what is left": Listing(1018, 1019, (OTHER, LOW, HIGH))}),
    (
        "puts_go_to_shards_that_are_open listings_leave_out_only_what_has_expired",
        {
            "listed again": Listing(26, 27, (ROOT, OTHER)),
            "p3": Put(22, 23, "p/3/0/1", f"={QUARTER}", "s3", 3),
        },
    ),
    (
        "puts_go_to_shards_that_are_open children_come_behind_their_parents",
        {"read to the end": None, "read what is left": None, "x": Put(80, 81, "x/0/0/1", "=0", "s0", 3)},
    ),
    ("reshardings_happen_whole_and_in_turn", {"listed split": Listing(50, 51, (ROOT, OTHER))}),
    ("reshardings_happen_whole_and_in_turn", {"split": Reshard(40, None, (0, QUARTER))}),
    ("reshardings_happen_whole_and_in_turn", {"split": Reshard(52, 53, (0, QUARTER, HALF))}),
    (
        "reshardings_happen_whole_and_in_turn shards_never_change_but_close_and_expire",
        {
            "split": Reshard(40, None, (0, QUARTER, HALF)),
            "listed split": None,
            "listed early": Listing(46, 47, (CLOSED, OTHER, LOW, HIGH)),
            "listed undone": Listing(48, 49, (ROOT, OTHER)),
        },
    ),
]
"""Which laws a history breaks with these events in place of those above, or beside them: mostly one alone."""


def history_of(events: Mapping[str, Event | None], *, is_complete: bool = True) -> History:
    history = History(CLOCK, retention_ms=RETENTION_MS, is_complete=is_complete)
    history.add(event for event in events.values() if event is not None)
    return history


def broken_laws(history: History) -> set[str]:
    history.settle()
    return {law.__name__.removeprefix("_") for law in LAWS if list(law(history))}


def test_a_sound_history_breaks_no_law() -> None:
    assert check_history(history_of(SOUND)) == []


@pytest.mark.parametrize(("law", "planted"), PLANTS, ids=[law for law, _ in PLANTS])
def test_a_history_that_breaks_one_law_is_reported_for_that(law: str, planted: dict[str, Event | None]) -> None:
    assert broken_laws(history_of({**SOUND, **planted})) == set(law.split())


def test_every_law_is_broken_by_some_history() -> None:
    assert {law for laws, _ in PLANTS for law in laws.split()} == {law.__name__.removeprefix("_") for law in LAWS}


def test_a_record_with_other_data_is_nobodys() -> None:
    data = payload_of("p/0/0/1")
    assert label_of(data) == "p/0/0/1"
    assert label_of(data[:-1]).startswith(DAMAGED)
    assert label_of(data.replace(b"p", b"q")).startswith(DAMAGED)


@pytest.mark.parametrize(("last_read_ns", "is_found"), [(20, True), (2_000, False)])
def test_of_a_call_that_was_cut_off_some_may_expire_unread_and_nothing_else_may_be_missing(
    last_read_ns: int, is_found: bool
) -> None:
    part = Seen(0, "k/0/0/2", "=0", EPOCH_MS + 11)
    history = History(CLOCK, retention_ms=RETENTION_MS, is_complete=False)
    history.add([Page(15, 16, "s0", 0, (part,), True), Page(last_read_ns, last_read_ns + 1, "s0", 1, (), True)])
    assert any("stored in part" in problem for problem in check_history(history)) == is_found
