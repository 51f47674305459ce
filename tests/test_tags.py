"""Laws of the tags of a stream: added, replaced, removed and listed in order, at most 50, and nothing by halves."""

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path

import pytest

from streamstore import (
    InvalidArgumentException,
    LimitExceededException,
    ResourceNotFoundException,
    StreamStore,
    Tag,
)
from tests.commits import last_commit
from tests.conftest import Clock, open_store

BAD_KEYS = ["", "k" * 129, "aws:x", "AWS:x", "aWs:", "\ud800", None, 1, b"k"]
BAD_VALUES = ["v" * 257, "\ud800", None, 1, b"v"]
FIFTY = {f"{number:02d}": str(number) for number in range(50)}


def shown(value: object) -> str:
    return ascii(value)[:20]


def refused(argument: str, call: Callable[[], object]) -> None:
    with pytest.raises(InvalidArgumentException) as refusal:
        call()
    assert refusal.value.argument == argument


@pytest.fixture
def stream(store: StreamStore) -> StreamStore:
    """A store with the stream "s"."""
    store.create_stream("s")
    return store


def tags_of(store: StreamStore) -> dict[str, str]:
    result = store.list_tags_for_stream("s")
    assert not result.has_more_tags
    return {tag.key: tag.value for tag in result.tags}


def test_tags_are_listed_in_bytewise_order_of_their_keys_whenever_they_came(stream: StreamStore) -> None:
    stream.add_tags_to_stream("s", {"b": "1", "ключ": "значение"})
    stream.add_tags_to_stream("s", {"a": "", "B": "2", "\U0001f600": "3", "\uffff": "4"})
    keys = [tag.key for tag in stream.list_tags_for_stream("s").tags]
    assert keys == sorted(keys, key=str.encode)
    assert stream.list_tags_for_stream("s").tags[:3] == (Tag("B", "2"), Tag("a", ""), Tag("b", "1"))
    assert len(keys) == 6


def test_tags_are_given_with_the_stream_or_added_later_and_outlast_the_process(
    store: StreamStore, store_path: Path, clock: Clock
) -> None:
    store.create_stream("s", tags={"team": "data", "aws": "fine"})
    assert tags_of(store) == {"aws": "fine", "team": "data"}
    store.add_tags_to_stream("s", {"cost": "low"})
    store.close()
    with open_store(store_path, clock) as again:
        assert tags_of(again) == {"aws": "fine", "cost": "low", "team": "data"}


def test_a_tag_that_is_there_gets_the_new_value_and_the_others_stay(stream: StreamStore) -> None:
    stream.add_tags_to_stream("s", {"a": "1", "b": "2"})
    stream.add_tags_to_stream("s", {"a": "3"})
    assert tags_of(stream) == {"a": "3", "b": "2"}


def test_removing_takes_the_named_tags_and_ignores_those_that_are_not_there(stream: StreamStore) -> None:
    stream.add_tags_to_stream("s", {"a": "1", "b": "2", "c": "3"})
    for keys in (["a", "x"], {"b"}):
        stream.remove_tags_from_stream("s", keys)
    assert tags_of(stream) == {"c": "3"}


def test_a_change_that_changes_nothing_writes_nothing(stream: StreamStore) -> None:
    """What it wrote would be the evidence of its commit, and was in the file before."""
    stream.add_tags_to_stream("s", {"a": "1"})
    before = last_commit(stream)
    stream.add_tags_to_stream("s", {"a": "1"})
    stream.remove_tags_from_stream("s", ["b"])
    stream.update_stream("s", retention_hours=24, write_quota_kb_per_sec=None, read_quota=False)
    stream.update_stream("s")
    stream.update_stream_mode("s", "PROVISIONED")
    assert last_commit(stream) == before


def test_a_stream_holds_50_tags_and_a_call_that_would_make_it_51_changes_nothing(stream: StreamStore) -> None:
    stream.add_tags_to_stream("s", FIFTY)
    assert tags_of(stream) == FIFTY
    with pytest.raises(LimitExceededException, match="50 tags per stream; s has 50: remove some with remove_tags"):
        stream.add_tags_to_stream("s", {"00": "changed", "one more": ""})
    assert tags_of(stream) == FIFTY
    stream.add_tags_to_stream("s", dict.fromkeys(FIFTY, "changed"))
    assert tags_of(stream) == dict.fromkeys(FIFTY, "changed")


def test_a_call_takes_50_keys_and_not_51_and_not_none(stream: StreamStore) -> None:
    too_many = {**FIFTY, "one more": ""}
    refused("tags", lambda: stream.add_tags_to_stream("s", too_many))
    refused("tags", lambda: stream.add_tags_to_stream("s", {}))
    refused("tags", lambda: stream.create_stream("t", tags=too_many))
    refused("tag_keys", lambda: stream.remove_tags_from_stream("s", list(too_many)))
    refused("tag_keys", lambda: stream.remove_tags_from_stream("s", []))
    stream.add_tags_to_stream("s", FIFTY)
    stream.remove_tags_from_stream("s", list(FIFTY))
    stream.create_stream("t", tags={})
    assert tags_of(stream) == {}
    assert stream.list_streams().stream_names == ("s", "t")


@pytest.mark.parametrize("key", BAD_KEYS, ids=shown)
def test_a_bad_key_is_refused_with_all_that_came_with_it(stream: StreamStore, key: str) -> None:
    refused("tags", lambda: stream.add_tags_to_stream("s", {"a": "1", key: "2"}))
    refused("tags", lambda: stream.create_stream("t", tags={"a": "1", key: "2"}))
    refused("tag_keys", lambda: stream.remove_tags_from_stream("s", ["a", key]))
    assert tags_of(stream) == {}
    assert stream.list_streams().stream_names == ("s",)


@pytest.mark.parametrize("key", [key for key in BAD_KEYS if key is not None], ids=shown)
def test_a_bad_key_to_list_from_is_refused(stream: StreamStore, key: object) -> None:
    refused(
        "exclusive_start_tag_key",
        lambda: stream.list_tags_for_stream("s", exclusive_start_tag_key=key),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("value", BAD_VALUES, ids=shown)
def test_a_bad_value_is_refused_with_all_that_came_with_it(stream: StreamStore, value: str) -> None:
    refused("tags", lambda: stream.add_tags_to_stream("s", {"a": "1", "b": value}))
    refused("tags", lambda: stream.create_stream("t", tags={"a": "1", "b": value}))
    assert tags_of(stream) == {}


@pytest.mark.parametrize("value", [None, "a", b"a", 1, [("a", "1")], {"a"}], ids=shown)
def test_tags_that_are_no_mapping_are_refused(stream: StreamStore, value: object) -> None:
    refused("tags", lambda: stream.add_tags_to_stream("s", value))  # type: ignore[arg-type]
    if value is not None:
        refused("tags", lambda: stream.create_stream("t", tags=value))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [None, "a", b"a", 1, {"a": "1"}], ids=shown)
def test_keys_that_are_no_collection_are_refused(stream: StreamStore, value: object) -> None:
    refused("tag_keys", lambda: stream.remove_tags_from_stream("s", value))  # type: ignore[arg-type]


def test_the_longest_key_and_value_and_members_of_an_enumeration_are_stored_as_text(stream: StreamStore) -> None:
    class Label(StrEnum):
        TEAM = "team"

    stream.add_tags_to_stream("s", {"k" * 128: "v" * 256, Label.TEAM: Label.TEAM})
    assert tags_of(stream) == {"k" * 128: "v" * 256, "team": "team"}


@pytest.mark.parametrize("limit", range(1, 8))
def test_pages_of_tags_join_up(stream: StreamStore, limit: int) -> None:
    stream.add_tags_to_stream("s", dict.fromkeys("fbdaec", ""))
    found: list[str] = []
    after = None
    more = True
    while more:
        page = stream.list_tags_for_stream("s", exclusive_start_tag_key=after, limit=limit)
        assert len(page.tags) <= limit
        found += [tag.key for tag in page.tags]
        after, more = found[-1], page.has_more_tags
        assert more == (len(found) < 6)
    assert found == list("abcdef")


def test_the_key_to_list_from_need_not_exist(stream: StreamStore) -> None:
    stream.add_tags_to_stream("s", {"a": "", "c": ""})
    assert stream.list_tags_for_stream("s", exclusive_start_tag_key="b").tags == (Tag("c", ""),)
    assert stream.list_tags_for_stream("s", exclusive_start_tag_key="c").tags == ()


@pytest.mark.parametrize("limit", [0, 51, -1, True, None, 1.0, "1"], ids=shown)
def test_a_bad_limit_lists_no_tags(stream: StreamStore, limit: object) -> None:
    refused("limit", lambda: stream.list_tags_for_stream("s", limit=limit))  # type: ignore[arg-type]


def test_the_tags_of_an_unknown_or_badly_named_stream_are_not_found(stream: StreamStore) -> None:
    calls: list[Callable[[str], object]] = [
        lambda name: stream.add_tags_to_stream(name, {"a": ""}),
        lambda name: stream.remove_tags_from_stream(name, ["a"]),
        stream.list_tags_for_stream,
    ]
    for call in calls:
        with pytest.raises(ResourceNotFoundException, match="Stream t does not exist"):
            call("t")
        refused("stream_name", partial(call, "1a"))
