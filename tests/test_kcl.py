"""The tool that runs the KCL: what it must notice in what the consumers of an application note."""

import pytest

from tools.kcl.judging import Noted, contradictions

PARENTS = {"child": ["parent"]}
PUT = {"a", "b", "c"}


def given(shard_id: str, *data: str) -> list[Noted]:
    return [Noted(shard_id, "record", ord(each), each) for each in data]


def test_what_comes_in_order_or_again_from_a_checkpoint_is_right() -> None:
    noted = [
        Noted("parent", "begins"),
        *given("parent", "a", "b", "a", "b", "c"),
        Noted("parent", "ends"),
        Noted("child", "begins"),
        *given("child", "a"),
    ]
    assert contradictions(noted, PUT, PARENTS) == []


@pytest.mark.parametrize(
    ("noted", "sentence"),
    [
        (given("parent", "a", "c", "b"), "record 98 of parent came behind record 99"),
        (given("parent", "a", "d"), "'d' in parent was never put"),
        ([Noted("parent", "begins"), Noted("child", "begins")], "child was begun before its parent parent had ended"),
    ],
)
def test_what_comes_too_early_too_late_or_from_nowhere_is_told(noted: list[Noted], sentence: str) -> None:
    assert contradictions(noted, PUT, PARENTS) == [sentence]
