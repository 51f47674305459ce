"""What the torture tells: every figure is saved beside its run, and the README shows what was saved."""

import re
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.children import WAIT_S, command, next_line, started
from tools.torture import __main__ as runner
from tools.torture.part import Amount, Finding, Ordeal, Result
from tools.torture.parts import PARTS
from tools.torture.parts.malformed import FIRST_CALL
from tools.torture.report import Row, for_saving, from_json, put_into_readme, replace_rows, to_json, to_markdown

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def row(part: str, *, done: int = 1, seed: int = 1, total: int | None = None) -> Row:
    facts = {"run": {"seed": str(seed), "date": "2026-01-02"}, "machine": {"CPUs": "2"}, "versions": {"Python": "3"}}
    result = Result(part, "images", seed, None, done, 1.5, {"needs gcc": 2}, {"windows": 3}, (Finding(4, "!"),), total)
    return Row(facts, result)


def test_the_readme_shows_the_table_that_was_saved() -> None:
    assert put_into_readme(README, from_json(runner.SAVED.read_text())) == README


def test_what_was_saved_is_of_parts_that_there_are_and_names_its_run() -> None:
    rows = from_json(runner.SAVED.read_text())
    names = [row.result.part for row in rows]
    assert names == [name for name in PARTS if name in names]
    for saved in rows:
        assert {"seed", "commit", "date"} <= saved.facts["run"].keys()
        assert re.fullmatch("[0-9a-f]{12}(, [0-9a-f]{12})*", saved.facts["run"]["commit"])
        assert (saved.result.plant, str(saved.result.seed)) == (None, saved.facts["run"]["seed"])
        assert saved.result.done > 0
        assert saved == for_saving(saved)


def test_saved_figures_come_back_as_they_were() -> None:
    rows = [row("kill"), row("recovery", seed=2)]
    assert from_json(to_json(rows)) == rows


def test_a_later_run_of_one_part_replaces_its_row_only() -> None:
    saved = [row("recovery", done=5), row("kill"), row("gone")]
    rows = replace_rows(saved, [row("power-loss"), row("kill", seed=9)], PARTS)
    assert [(each.result.part, each.result.done, each.result.seed) for each in rows] == [
        ("power-loss", 1, 1),
        ("kill", 1, 9),
        ("recovery", 5, 1),
    ]


def test_the_table_tells_what_was_done_found_and_skipped_and_where() -> None:
    told = to_markdown([row("kill", done=4_321), row("recovery")])
    assert "| kill | 4,321 images | 1 | 2: needs gcc | 3 windows | seed 1, date 2026-01-02 |\n" in told
    assert told.count("On CPUs 2, Python 3.\n") == 1
    assert "| 7 of 1,000 images |" in to_markdown([row("kill", done=7, total=1_000)])
    assert "| 7 images |" in to_markdown([row("kill", done=7, total=7)])


@pytest.mark.parametrize(
    ("told", "saved"),
    [
        ("put 0 is lost.", "put 0 is lost."),
        (
            'raised ValueError("no") at   File "/home/me/validate.py", line 586, in parse\n    parse()\n    ^^^^^^^\n',
            'raised ValueError("no")',
        ),
        ('raised ValueError("no") at   File "/home/me/validate.py", line 586, in parse', 'raised ValueError("no")'),
        (
            'It ended with 1. Traceback (most recent call last):\n  File "/home/me/worker.py", line 1\nValueError: no',
            "It ended with 1. ValueError: no",
        ),
    ],
)
def test_no_traceback_is_saved_of_a_finding(told: str, saved: str) -> None:
    told_row = row("kill")
    told_row = Row(told_row.facts, replace(told_row.result, findings=(Finding(4, told),)))
    assert for_saving(told_row).result.findings == (Finding(4, saved),)


def test_figures_of_a_fault_that_was_planted_are_not_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in (["--plant", "sync-off"], ["--only", "3"]):
        for wish, refusal in (("--save", "--save is for whole parts"), ("--continue", "--continue is for runs")):
            monkeypatch.setattr(sys, "argv", ["torture", "kill", wish, *option])
            with pytest.raises(SystemExit):
                runner.main()
            assert refusal in capsys.readouterr().err


def test_saving_writes_the_figures_and_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved, readme = tmp_path / "results.json", tmp_path / "README.md"
    saved.write_text(to_json([row("kill", done=7)]))
    readme.write_text(README)
    monkeypatch.setattr(runner, "SAVED", saved)
    monkeypatch.setattr(runner, "README", readme)
    command = ["torture", "alarms", "--count", "0", "--seed", "3", "--folder", str(tmp_path), "--save"]
    monkeypatch.setattr(sys, "argv", command)
    assert runner.main() == 0
    kill, alarms = from_json(saved.read_text())
    assert kill == row("kill", done=7)
    assert (alarms.result.part, alarms.facts["run"]["seed"]) == ("alarms", "3")
    assert to_markdown([kill, alarms]) in readme.read_text()
    assert str(ROOT) not in saved.read_text()


def test_a_run_that_is_ended_early_counts_what_it_has_done(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    options = ["power-loss", "kill", "--count", "1000000", "--seed", "1", "--folder", tmp_path, "--json", figures]
    with started(command("tools.torture", *options)) as process:
        while "power-loss: begins" not in next_line(process):
            pass
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, said
    (row,) = from_json(figures.read_text())  # the second part had not begun
    assert row.result.part == "power-loss"
    assert 0 <= row.result.done < 100_000
    assert row.result.findings == ()


def test_a_part_that_is_interrupted_itself_tells_what_it_has_done(tmp_path: Path) -> None:
    options = ["--seed", 1, "--folder", tmp_path, "--size", "ci", "--first", FIRST_CALL, "--count", 100_000_000]
    with started(command("tools.torture.child", "malformed", *options)) as process:
        while not next_line(process).startswith("done"):
            pass
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, said
    assert Result.from_json(said.splitlines()[-1].removeprefix("result ")).findings == ()


def ordeal_of(folder: Path, cases: int | None, *, behind: Result | None = None) -> Ordeal:
    return Ordeal("kill", seed=8, amount=Amount(cases), folder=folder, behind=behind)


def test_a_run_goes_on_from_one_that_ended_early_and_tells_what_came_of_both(tmp_path: Path) -> None:
    early = ordeal_of(tmp_path, 10)
    for case in early.cases():
        early.add("kills", 2)
        early.set("places", 40 + case)
        if case == 3:
            early.found(case, "!")
            early.skip("needs gcc")
            early.end()
    first = early.result("kills")
    assert (first.done, first.total) == (4, 10)
    late = ordeal_of(tmp_path, 6, behind=Result.from_json(first.to_json()))
    for case in late.cases():
        late.add("kills", 2)
        late.set("places", 40 + case)
    both = late.result("kills")
    assert (both.done, both.total, both.seed) == (10, 10, 8)
    assert both.figures == {"kills": 20, "places": 49}
    assert (both.findings, both.skipped) == ((Finding(3, "!"),), {"needs gcc": 1})
    assert both.seconds >= first.seconds


def test_a_run_does_not_go_on_in_another_list_of_cases(tmp_path: Path) -> None:
    early = ordeal_of(tmp_path, 2)
    assert list(early.cases(5)) == [0, 1]
    behind = early.result("kills")
    assert list(ordeal_of(tmp_path, None, behind=behind).cases(5)) == [2, 3, 4]
    with pytest.raises(ValueError, match="is a list of 6 cases, and was one of 5"):
        list(ordeal_of(tmp_path, None, behind=behind).cases(6))


def test_a_run_that_goes_on_has_the_places_of_the_one_before_though_a_few_more_are_counted(tmp_path: Path) -> None:
    early = ordeal_of(tmp_path, 2)
    places = early.places({"put_record": 1, "trim": 96})
    assert places == {"put_record": 32, "trim": 96}
    behind = Result.from_json(early.result("kills").to_json())
    for counted in ({"put_record": 31, "trim": 97}, {"put_record": 2, "trim": 65}):
        late = ordeal_of(tmp_path, None, behind=behind)
        assert late.places(counted) == places
        assert late.result("kills").places == places
    for counted in ({"put_record": 1, "trim": 129}, {"put_record": 1}, {"put": 1, "put_record": 1, "trim": 96}):
        with pytest.raises(ValueError, match="places, and was of"):
            ordeal_of(tmp_path, None, behind=behind).places(counted)


def test_continue_does_what_a_saved_run_has_left_and_names_both_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, readme = tmp_path / "results.json", tmp_path / "README.md"
    before = row("hazards", done=2, seed=7, total=3)
    before.facts["run"].update(commit="abc")  # type: ignore[attr-defined]
    saved.write_text(to_json([before]))
    readme.write_text(README)
    monkeypatch.setattr(runner, "SAVED", saved)
    monkeypatch.setattr(runner, "README", readme)
    options = ["--count", "3", "--seed", "9", "--folder", str(tmp_path), "--save", "--continue"]
    monkeypatch.setattr(sys, "argv", ["torture", "hazards", *options])
    assert runner.main() == 1  # what was found before is still found
    (after,) = from_json(saved.read_text())
    assert (after.result.done, after.result.total, after.result.seed) == (3, 3, 7)
    assert after.facts["run"]["seed"] == "7"
    assert after.facts["run"]["commit"].startswith("abc, ")
    assert after.facts["run"]["date"].startswith("2026-01-02, ")
    assert "hazards: begins with case 2" in capsys.readouterr().out
    assert runner.main() == 0
    assert "hazards: all 3 cases were done before" in capsys.readouterr().out
    assert from_json(saved.read_text()) == [after]
    other_list = Row(after.facts, replace(after.result, done=1, listed=2))
    saved.write_text(to_json([other_list]))
    assert runner.main() == 1
    assert "is a list of" in capsys.readouterr().out
    assert from_json(saved.read_text()) == [other_list]
