"""The part "malformed" of the torture: it finds nothing, and no public call or parser is forgotten."""

import inspect
from pathlib import Path

from streamstore import AsyncStreamStore, StreamStore
from tools.torture.malformed import CALLS, LEFT_OUT, OF_AWAITED_STORES, OF_STORES
from tools.torture.part import Amount
from tools.torture.parts import PARTS
from tools.torture.processes import Task, run_in_process


def test_malformed_values_are_refused_by_typed_errors(tmp_path: Path) -> None:
    task = Task(PARTS["malformed"], 1, Amount(cases=400), tmp_path)
    result = run_in_process(task, lambda _done, _total: None)
    assert result.findings == ()
    assert result.figures["refused"] > 300


def test_every_public_call_is_made_or_left_out_for_a_reason() -> None:
    for owner, calls in ((StreamStore, OF_STORES), (AsyncStreamStore, OF_AWAITED_STORES)):
        public = {name for name, _ in inspect.getmembers(owner, callable) if not name.startswith("_")}
        assert public == {call.name for call in calls} | (LEFT_OUT.keys() & public)


def test_every_function_that_parses_gets_at_least_one_malformed_value() -> None:
    taken_from_the_file = {"key", "value", "database"}
    assert [call.name for call in CALLS if not call.untrusted and not taken_from_the_file & {*call.needed}] == []
