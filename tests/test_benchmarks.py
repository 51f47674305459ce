"""The runner of the benchmarks: it says under which conditions it measured, and its bar can be missed."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import __main__ as runner
from benchmarks.cases import CASES, Case
from benchmarks.contenders import Contender
from benchmarks.measure import Measurement, measure


class Forgetful:
    """Acknowledges everything and keeps nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def put(self, data: bytes) -> None:
        assert data

    def count(self) -> int:
        return 0

    def close(self) -> None:
        pass


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["benchmarks", "--rounds", "1", "--puts", "3", *arguments])
    return runner.main()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_benchmark_states_durability_payload_batch_and_producers(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "MEMORY_FILESYSTEMS", ())
    assert run(monkeypatch, "--folder", str(tmp_path), case.name) == 0
    printed = capsys.readouterr().out
    assert case.durability in printed
    assert f"payload {case.payload_bytes:,} bytes, batch of {case.batch_records}, {case.producers} producer" in printed
    assert all(name in printed for name in case.contenders)
    assert list(tmp_path.iterdir()) == []


def test_a_contender_that_loses_records_is_no_contender(tmp_path: Path) -> None:
    def forget(path: Path) -> Contender:
        return Forgetful(path)

    case = replace(CASES[0], contenders={"forgetful": forget}, contender="forgetful", baseline="forgetful")
    with pytest.raises(AssertionError, match="forgetful kept 0 records"):
        measure(case, tmp_path, rounds=1, puts_per_round=2)


def test_the_ratio_is_the_median_of_the_rounds_and_the_bar_can_be_missed() -> None:
    case = replace(CASES[0], contender="ours", baseline="theirs", bar=0.8)
    slow = Measurement(case, {"ours": [70.0, 790.0, 90.0], "theirs": [100.0, 1000.0, 100.0]})
    assert slow.ratios("ours") == [0.7, 0.79, 0.9]
    assert slow.ratio() == 0.79
    assert not slow.reaches_bar()
    assert replace(slow, case=replace(case, bar=0.79)).reaches_bar()


def test_check_fails_on_a_missed_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "MEMORY_FILESYSTEMS", ())
    monkeypatch.setattr(runner, "CASES", (replace(CASES[0], bar=1e9),))
    assert run(monkeypatch, "--folder", str(tmp_path), "--check") == 1
    assert "MISSED" in capsys.readouterr().out
    assert run(monkeypatch, "--folder", str(tmp_path)) == 0


def test_memory_is_no_place_to_measure_durability(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def filesystem_of(_path: Path, _mountinfo: str) -> str:
        return "tmpfs"

    monkeypatch.setattr(runner, "filesystem_of", filesystem_of)
    assert run(monkeypatch, "--folder", str(tmp_path)) == 2
    assert "nothing is durable" in capsys.readouterr().err
