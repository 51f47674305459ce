"""The parts of the torture that kill processes and machines: a few cases of each, and a fault that they must see."""

from pathlib import Path
from unittest import mock

import pytest

from tools.torture.part import Amount, Ordeal, Result, run_part
from tools.torture.parts import PARTS
from tools.torture.processes import Task, run_in_process


def result_of(part: str, folder: Path, *, cases: int, plant: str | None = None, only: int | None = None) -> Result:
    task = Task(PARTS[part], 1, Amount(cases), folder, plant=plant, only=only, first_finding_ends=True)
    return run_in_process(task, lambda _done, _total: None)


@pytest.mark.parametrize(
    ("part", "cases"), [("kill", 8), ("serve-kill", 4), ("history", 2), ("real-power-loss", 4), ("io-faults", 40)]
)
def test_nothing_is_found_in_a_few_cases(tmp_path: Path, part: str, cases: int) -> None:
    result = result_of(part, tmp_path, cases=cases)
    if result.skipped:
        pytest.skip(str(result.skipped))
    assert (result.findings, result.done) == ((), cases)
    assert all(value > 0 for value in result.figures.values())


@pytest.mark.parametrize(
    ("part", "plant"),
    [
        ("kill", "acknowledge-before-commit"),
        ("serve-kill", "keys-in-a-later-commit"),
        ("history", "trim-one-too-many"),
    ],
)
def test_a_planted_fault_is_found(tmp_path: Path, part: str, plant: str) -> None:
    assert result_of(part, tmp_path, cases=100, plant=plant).findings


@pytest.mark.parametrize("part", ["real-power-loss"])
def test_what_the_machine_lacks_is_told_as_skipped(tmp_path: Path, part: str) -> None:
    with mock.patch("os.geteuid", return_value=1000):
        result = run_part(PARTS[part], Ordeal(part, seed=1, amount=Amount(1), folder=tmp_path))
    assert (result.skipped, result.done) == ({"needs root": 1}, 0)


def test_a_case_can_be_made_again_alone(tmp_path: Path) -> None:
    found = result_of("history", tmp_path, cases=100, plant="parent-not-closed").findings[0]
    assert result_of("history", tmp_path, cases=100, plant="parent-not-closed", only=found.case).findings
