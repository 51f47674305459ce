"""The torture of recovery time: what an opening looks at is counted, its time is judged in a release."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from tools.torture.part import Amount, Ordeal, Result, Size, run_part
from tools.torture.parts import recovery_time
from tools.torture.parts.recovery_time import PART

SMALL: Mapping[str, int] = {"1 MB": 10**6, "8 MB": 8 * 10**6}


@pytest.fixture(autouse=True)
def small_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery_time, "STORES", {"ci": SMALL, "release": SMALL})


def result_of(
    folder: Path, *, count: int, size: Size = "ci", plant: str | None = None, only: int | None = None
) -> Result:
    ordeal = Ordeal(
        PART.name, seed=1, amount=Amount(cases=count), folder=folder / str(only), size=size, plant=plant, only=only
    )
    ordeal.folder.mkdir()
    return run_part(PART, ordeal)


def test_a_killed_store_is_opened_to_what_was_acknowledged_last(tmp_path: Path) -> None:
    result = result_of(tmp_path, count=5)
    assert (result.findings, result.done, result.skipped) == ((), 5, {})
    for store in SMALL:
        assert 0 < result.figures[f"ms median at {store}"] <= result.figures[f"ms p99 at {store}"]
        assert 0 < result.figures[f"KB looked at at {store}"] < 4_000


def test_an_opening_that_walks_the_file_is_found_and_found_again_by_its_number(tmp_path: Path) -> None:
    for only in (None, 7):
        findings = result_of(tmp_path, count=1, plant="walk-on-open", only=only).findings
        assert [finding.case for finding in findings if "8 MB looked at" in finding.sentence] == [only or 0]


def test_only_a_release_is_held_to_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery_time, "RECOVERY_MS_MAX", 0.0)
    monkeypatch.setattr(recovery_time, "GROWTH_MAX", 0.0)
    assert result_of(tmp_path, count=1).findings == ()
    found = [finding.sentence for finding in result_of(tmp_path, count=1, size="release", only=3).findings]
    assert [sentence.split(" store")[0] for sentence in found[:1]] == ["One of 100 openings of the"]
    assert len(found) == 2 * len(SMALL)


def test_where_reads_are_not_counted_the_part_is_skipped_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def access(_path: str, _mode: int) -> bool:
        return False

    monkeypatch.setattr(os, "access", access)
    assert result_of(tmp_path, count=5).skipped == {"needs /proc/self/io": 1}
