"""The benchmarks: they say under which conditions they measured, none of them believes a store that loses or changes
a record, and a bar can be missed. Ratios are never asserted here.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import __main__ as runner
from benchmarks import competitors, served
from benchmarks.cases import CASES, Bar, Case, Row
from benchmarks.competitors import BareFile, RocksDb, reason_left_out
from benchmarks.measure import Measurement
from benchmarks.payloads import WrongDataError, check_payloads, make_payloads
from benchmarks.plot import to_svg
from benchmarks.served import Load, Served, ServedStreamstore, load_of_h2load, over_http, reason_not_served
from benchmarks.trials import THREADS, Setup, in_threads, one_by_one, puts
from streamstore.databases import CRC_MODULE

FEW_RECORDS = 4
PUT_RECORD = CASES[0]
NOT_IN_A_TEST = "other servers come from npm and PyPI, which takes a minute"
Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run ``python -m benchmarks`` with few records; it leaves nothing behind."""
    folder = tmp_path / "folder"
    folder.mkdir()

    def run_benchmarks(*arguments: str) -> int:
        options = ["--rounds", "1", "--records", str(FEW_RECORDS), "--folder", str(folder)]
        monkeypatch.setattr("sys.argv", ["benchmarks", *options, *arguments])
        return runner.main()

    monkeypatch.setattr(runner, "MEMORY_FILESYSTEMS", ())
    yield run_benchmarks
    assert list(folder.iterdir()) == []


def case_of(kind: type[BareFile], *bars: Bar) -> Case:
    row = Row("faulty", kind, puts(kind, one_by_one), FEW_RECORDS)
    return replace(PUT_RECORD, rows=(row,), bars=bars)


class Forgets(BareFile):
    def put(self, data: bytes) -> None:
        if data != make_payloads(1, 1, len(data))[0]:
            super().put(data)


class ForgetsTheLast(BareFile):
    def put(self, data: bytes) -> None:
        if data != make_payloads(2 * FEW_RECORDS - 1, 1, len(data))[0]:
            super().put(data)


class Changes(BareFile):
    def put(self, data: bytes) -> None:
        super().put(data[:-1] + bytes([data[-1] ^ 1]))


class Truncates(BareFile):
    def put(self, data: bytes) -> None:
        super().put(data[:-1])


class Repeats(BareFile):
    def put(self, data: bytes) -> None:
        super().put(data)
        super().put(data)


class Reorders(BareFile):
    """Stores each second record behind the one that was put after it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._held: bytes | None = None

    def put(self, data: bytes) -> None:
        if self._held is None:
            self._held = data
        else:
            self.put_batch((data, self._held))
            self._held = None


def reason_not_served_in_a_test(kind: type[Served]) -> str | None:
    return reason_not_served(kind) if issubclass(kind, ServedStreamstore) else NOT_IN_A_TEST


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_benchmark_states_durability_payload_batch_and_producers(
    case: Case, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(competitors, "reason_not_served", reason_not_served_in_a_test)
    assert run(case.name) == 0
    printed = capsys.readouterr().out
    assert f"payload {case.payload_bytes:,} bytes, batch of {case.batch_records:,}, {case.producers}" in printed
    assert f"durability: {case.durability}" in printed
    assert all(str(bar) in printed for bar in case.bars)
    left_out = {row.name: reason for row in case.rows if (reason := reason_left_out(row.kind)) is not None}
    for row in case.rows:
        assert left_out.get(row.name, row.kind.durability) in printed
    lacking = {name: reason for name, reason in left_out.items() if reason != NOT_IN_A_TEST}
    if lacking:
        pytest.skip(f"measured without {lacking}")


def test_bars_compare_rows_of_their_case() -> None:
    for case in CASES:
        names = [row.name for row in case.rows]
        assert len(set(names)) == len(names)
        assert case.bars
        for bar in case.bars:
            assert bar.contender in names
            assert bar.baseline is None or bar.baseline in names[names.index(bar.contender) + 1 :]
            assert (bar.relation == "<=") == case.less_is_better


@pytest.mark.parametrize(
    ("kind", "finding"),
    [
        (Forgets, "lost"),
        (ForgetsTheLast, "1 of 8 records are lost; the first has the index 7"),
        (Changes, "changed"),
        (Truncates, "1023 bytes"),
        (Repeats, "twice"),
        (Reorders, "came before"),
    ],
)
def test_a_store_that_loses_or_changes_a_record_fails_the_run(
    kind: type[BareFile],
    finding: str,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = tmp_path / "results.json"
    monkeypatch.setattr(runner, "CASES", (case_of(kind),))
    assert run("--json", str(results)) == 1
    error = capsys.readouterr().err
    assert "WRONG DATA: put_record, faulty: " in error
    assert finding in error
    assert not results.exists()


class Loses(ServedStreamstore):
    def read_back(self) -> Iterator[bytes]:
        yield from islice(super().read_back(), 2, None)


class Doubles(ServedStreamstore):
    def read_back(self) -> Iterator[bytes]:
        stored = list(super().read_back())
        yield from [*stored, *stored[:3]]


class Refuses(ServedStreamstore):
    def requests(self, payloads: Iterable[bytes]) -> Iterator[bytes]:
        del payloads
        yield self.request("PutRecord", {"StreamName": "another"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "finding"), [(Loses, "are stored"), (Doubles, "are stored"), (Refuses, "requests were refused")]
)
def test_a_server_that_loses_doubles_or_refuses_a_record_is_wrong(
    kind: type[ServedStreamstore], finding: str, tmp_path: Path
) -> None:
    if (reason := reason_not_served(kind)) is not None:
        pytest.skip(reason)
    trial = over_http(kind)(Setup(tmp_path, tmp_path, 1_024, records=1, producers=1, records_max=1))

    def turn_and_finish() -> None:
        trial.turn()
        trial.finish()

    with closing(trial), pytest.raises(WrongDataError, match=finding):
        turn_and_finish()


def test_a_server_that_cannot_be_measured_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_node(tool: str) -> bool:
        return tool == "node"

    monkeypatch.setattr(served, "is_installed", only_node)
    assert reason_not_served(served.Kinesalite) == "wrk, npm not found, and not installed from Debian"


@pytest.mark.parametrize(
    ("time", "counts", "load"),
    [
        ("5.00s", "9 done, 9 succeeded, 0 failed, 0 errored, 0 timeout", Load(9, 5_000_000, 0, 0)),
        ("876.25ms", "9 done, 7 succeeded, 2 failed, 0 errored, 0 timeout", Load(9, 876_250, 2, 0)),
        ("577us", "0 done, 0 succeeded, 6 failed, 5 errored, 3 timeout", Load(0, 577, 1, 8)),
    ],
)
def test_what_h2load_says_of_a_turn_is_understood(time: str, counts: str, load: Load) -> None:
    said = f"starting benchmark...\n\nfinished in {time}, 1.80 req/s, 3.2KB/s\nrequests: 9 total, 9 started, {counts}\n"
    assert load_of_h2load(said) == load
    with pytest.raises(RuntimeError, match="says nothing of its requests"):
        load_of_h2load(said.replace("requests", "connections"))


def test_payloads_prove_themselves() -> None:
    payloads = make_payloads(0, 100, 64)
    check_payloads(payloads, count=100, payload_bytes=64, ordered_records=100)
    assert len(set(payloads)) == 100
    for place in range(64):
        changed = bytearray(payloads[3])
        changed[place] ^= 4
        with pytest.raises(WrongDataError):
            check_payloads(
                [*payloads[:3], bytes(changed), *payloads[4:]], count=100, payload_bytes=64, ordered_records=1
            )
    producers = [payload for pair in zip(payloads[:50], payloads[50:], strict=True) for payload in pair]
    check_payloads(producers, count=100, payload_bytes=64, ordered_records=50)
    with pytest.raises(WrongDataError, match="came before"):
        check_payloads(producers, count=100, payload_bytes=64, ordered_records=100)
    with pytest.raises(WrongDataError, match="never put"):
        check_payloads(payloads, count=99, payload_bytes=64, ordered_records=1)


class HoldsTheInterpreter(BareFile):
    """Lets no other thread run while it puts, like a binding that keeps the interpreter's lock."""

    held_s = 0.0

    def put(self, data: bytes) -> None:
        start_s = time.perf_counter()
        while time.perf_counter() - start_s < 0.0005:
            assert data
        self.held_s += time.perf_counter() - start_s


def test_time_begins_before_the_first_of_many_threads_puts(tmp_path: Path) -> None:
    contender = HoldsTheInterpreter(tmp_path)
    switch_interval_s = sys.getswitchinterval()
    sys.setswitchinterval(10.0)
    try:
        for _ in range(10):
            contender.held_s = 0.0
            elapsed_s = in_threads(contender, make_payloads(0, THREADS * 2, 64))
            assert elapsed_s >= contender.held_s >= THREADS * 2 * 0.0005
    finally:
        sys.setswitchinterval(switch_interval_s)
        contender.close()


def measured(case: Case, figures: dict[str, list[float]]) -> Measurement:
    return Measurement(case, figures, records=dict.fromkeys(figures, 1), left_out={})


def test_a_bar_is_the_median_of_the_ratios_and_can_be_missed() -> None:
    figures = {"ours": [70.0, 790.0, 90.0], "theirs": [100.0, 1000.0, 100.0]}
    at_least, at_most = Bar("ours", ">=", 0.8, "theirs"), Bar("ours", "<=", 0.8, "theirs")
    low, high = measured(replace(PUT_RECORD, bars=(at_least, at_most)), figures).verdicts()
    assert low.values == [0.7, 0.79, 0.9]
    assert low.median == 0.79
    assert (low.is_reached, high.is_reached) == (False, True)
    assert replace(low, bar=replace(at_least, limit=0.79)).is_reached
    (absolute,) = measured(replace(PUT_RECORD, bars=(Bar("ours", "<=", 89.0),)), figures).verdicts()
    assert (absolute.median, absolute.is_reached) == (90.0, False)


def test_check_fails_on_a_missed_bar(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "CASES", (case_of(BareFile, Bar("faulty", ">=", 1e12)),))
    assert run("--check") == 1
    assert "MISSED" in capsys.readouterr().out
    assert run() == 0
    monkeypatch.setattr(runner, "CASES", (case_of(BareFile, Bar("faulty", ">=", 1e-12)),))
    assert run("--check") == 0


def test_a_competitor_that_is_not_installed_is_left_out_and_said_so(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.json"
    (row,) = (row for row in PUT_RECORD.rows if row.kind is RocksDb)
    case = case_of(BareFile, Bar("faulty", ">=", 0.0, row.name))
    monkeypatch.setattr(runner, "CASES", (replace(case, rows=(*case.rows, row)),))
    monkeypatch.setattr(RocksDb, "package", "no_such_package")
    assert run("--check", "--json", str(results), "--svg", str(tmp_path / "results.svg")) == 1
    printed = capsys.readouterr().out
    assert "left out: no_such_package is not installed" in printed
    assert f"faulty >= 0 x {row.name}: NOT MEASURED" in printed
    (_, left_out) = json.loads(results.read_text())["cases"][0]["rows"]
    assert left_out == {"name": row.name, "left_out": reason_left_out(RocksDb)}


def test_the_json_holds_every_figure(run: Run, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    assert run("put_record", "put_in_large_store", "--rounds", "3", "--json", str(results)) == 0
    written = json.loads(results.read_text())
    assert {"processor", "CPUs", "filesystem"} <= written["machine"].keys()
    assert {"Python", "SQLite", "LMDB", "py-lmdb", "rocksdict"} <= written["versions"].keys()
    assert written["versions"]["CRC-32 by"] == CRC_MODULE
    cases = [case for case in CASES if case.name in ("put_record", "put_in_large_store")]
    assert [case["name"] for case in written["cases"]] == [case.name for case in cases]
    for case, found in zip(cases, written["cases"], strict=True):
        assert (found["durability"], found["payload_bytes"]) == (case.durability, case.payload_bytes)
        assert (found["batch_records"], found["producers"]) == (case.batch_records, case.producers)
        figures = {row["name"]: row["figures"] for row in found["rows"] if "left_out" not in row}
        assert all(len(values) == 3 and min(values) > 0 for values in figures.values())
        assert all(
            row["median"] == statistics.median(figures[row["name"]]) for row in found["rows"] if row["name"] in figures
        )
        for bar, verdict in zip(case.bars, found["bars"], strict=True):
            assert bar.baseline is not None
            pairs = zip(figures[bar.contender], figures[bar.baseline], strict=True)
            assert verdict["values"] == [ours / theirs for ours, theirs in pairs]
            assert verdict["bar"] == str(bar)


def test_the_picture_names_every_row() -> None:
    measurements = [
        measured(case, {row.name: [float(number), 2.0] for number, row in enumerate(case.rows)}) for case in CASES
    ]
    picture = ElementTree.fromstring(to_svg(measurements, machine={"CPUs": "<2>"}, versions={"Python": "3"}))
    words = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    for case in CASES:
        for row in case.rows:
            assert row.name in words


def test_memory_is_no_place_to_measure_durability(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def filesystem_under(_folder: Path) -> str:
        return "tmpfs"

    monkeypatch.setattr(runner, "filesystem_under", filesystem_under)
    monkeypatch.setattr(runner, "MEMORY_FILESYSTEMS", ("tmpfs",))
    assert run() == 2
    assert "nothing is durable" in capsys.readouterr().err
