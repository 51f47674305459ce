"""The part "malformed" of the torture: it finds nothing, and no public call or parser is forgotten."""

import inspect
import random
from pathlib import Path
from typing import Final

import pytest

from streamstore import AsyncStreamStore, InvalidArgumentException, RequestError, StreamStore
from tools.torture.malformed import CALLS, LEFT_OUT, OF_STORES, Call, sound_value
from tools.torture.part import Amount
from tools.torture.parts import PARTS
from tools.torture.parts.malformed import Stores
from tools.torture.processes import Task, run_in_process

TRIES: Final = 40


def test_malformed_values_are_refused_by_typed_errors(tmp_path: Path) -> None:
    task = Task(PARTS["malformed"], 1, Amount(cases=400), tmp_path)
    result = run_in_process(task, lambda _done, _total: None)
    assert result.findings == ()
    assert result.figures["refused"] > 300


@pytest.mark.parametrize("call", OF_STORES, ids=lambda call: call.name)
def test_a_call_whose_arguments_are_all_sound_is_not_refused_for_them(tmp_path: Path, call: Call) -> None:
    """Otherwise one argument that is always wrong would hide what becomes of the others."""
    stores = Stores(tmp_path)
    # Of the tokens, and of other values, each call takes one kind and refuses the others.
    dice = random.Random(1)
    refusals = [_refusal(stores, call, dice) for _ in range(TRIES)]
    stores.close()
    assert None in refusals


def _refusal(stores: Stores, call: Call, dice: random.Random) -> InvalidArgumentException | None:
    arguments = {name: sound_value(name, dice, stores.tokens) for name in call.needed}
    try:
        getattr(stores.store(), call.name)(**arguments)
    except InvalidArgumentException as error:
        return error
    except RequestError:  # for what the store holds
        pass
    return None


def test_what_is_left_out_is_there_to_be_called() -> None:
    public = {name for owner in (StreamStore, AsyncStreamStore) for name, _ in inspect.getmembers(owner, callable)}
    assert LEFT_OUT.keys() - public == set()


def test_every_function_that_parses_gets_at_least_one_malformed_value() -> None:
    taken_from_the_file = {"key", "value", "database"}
    assert [call.name for call in CALLS if not call.untrusted and not taken_from_the_file & {*call.needed}] == []
