"""The part "malformed" of the torture: it finds nothing, and no public call, parser or decoder is forgotten."""

import inspect
import json
import random
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from streamstore import AsyncStreamStore, InvalidArgumentException, RequestError, StreamStore
from tools.torture.alarms import ALARMS
from tools.torture.fuzzing import lacks_atheris
from tools.torture.malformed import CALLS, LEFT_OUT, OF_STORES, TAKEN_FROM_THE_FILE, Call, sound_value
from tools.torture.part import Amount, Ordeal, Result
from tools.torture.parts import PARTS, malformed
from tools.torture.parts.malformed import FIRST_CALL, FIRST_LOOK
from tools.torture.processes import PROJECT, Task, run_in_process
from tools.torture.refusals import Stores
from tools.torture.targets import TARGETS
from tools.torture.targets.target import Target, input_as_text, input_of_text

TRIES: Final = 40
needs_atheris = pytest.mark.skipif(lacks_atheris() is not None, reason="needs atheris")


def run_case(folder: Path, case: int, *, plant: str | None = None) -> Result:
    task = Task(PARTS["malformed"], 1, Amount(cases=1), folder, plant=plant, only=case)
    return run_in_process(task, lambda _done, _total: None)


@pytest.mark.parametrize(("case", "figure"), [(FIRST_LOOK, "examples of Hypothesis"), (FIRST_CALL + 2, "refused")])
def test_malformed_values_are_refused_by_typed_errors(tmp_path: Path, case: int, figure: str) -> None:
    result = run_case(tmp_path, case)
    assert result.findings == ()
    assert result.figures[figure] > 0


@needs_atheris
def test_what_the_fuzzer_finds_is_told_with_an_input_that_shows_it_again(tmp_path: Path) -> None:
    ((_, told),) = run_case(tmp_path, [*TARGETS].index("stream"), plant="fields-not-proved").findings
    command = shlex.split(told.partition("input: ")[2])
    assert command[:4] == ["python", "-m", "tools.torture.targets", "stream"]
    again = [
        subprocess.run([sys.executable, *command[1:], *more], cwd=PROJECT, capture_output=True, text=True, check=False)
        for more in ([], ["--plant", "fields-not-proved"])
    ]
    assert again[0].returncode == 0, again[0].stderr
    error = again[1].stderr.splitlines()[-1].partition(":")[0]
    assert again[1].returncode == 1
    assert error in told


def test_without_atheris_each_target_is_told_as_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(malformed, "lacks_atheris", lambda: "atheris")
    ordeal = Ordeal("malformed", seed=1, amount=Amount(cases=FIRST_LOOK), folder=tmp_path)
    malformed.PART.run(ordeal)
    assert ordeal.result("calls").skipped == {"needs atheris": len(TARGETS)}


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_a_target_takes_what_is_sound(target: Target) -> None:
    seeds = target.seeds()
    assert seeds
    for seed in seeds:
        assert len(seed) <= target.bytes_max
        target.look(seed)


def test_every_function_that_decodes_is_reached_by_a_target_with_what_is_sound() -> None:
    """In a process of its own: what has been parsed before is remembered, and not parsed again."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.torture.targets.reach"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    assert told["unreached"] == []
    assert told["decoders"] > 100


def test_an_input_is_the_same_behind_a_command_line() -> None:
    for data in (b"", b"\0", bytes(range(256)) * 20):
        assert input_of_text(input_as_text(data)) == data


def test_each_way_of_the_part_has_an_alarm_of_its_own() -> None:
    cases = {alarm.plant: (alarm.first, alarm.amount.cases) for alarm in ALARMS if alarm.part == "malformed"}
    assert cases["fields-not-proved"] == (0, FIRST_LOOK)
    assert cases["limit-not-parsed"] == (FIRST_LOOK, FIRST_CALL - FIRST_LOOK)
    assert cases["any-partition-key"][0] == FIRST_CALL


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
    assert [call.name for call in CALLS if not call.untrusted and not TAKEN_FROM_THE_FILE & {*call.needed}] == []
