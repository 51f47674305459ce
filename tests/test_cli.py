"""The `streamstore` command, as a shell sees it: what goes in, what comes out, how it ends."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from itertools import chain
from pathlib import Path

import pytest

import streamstore
from streamstore import ResourceNotFoundException, StoreNotFoundError, StreamStore
from streamstore.cli.ending import CommandError
from streamstore.cli.lines import read_lines
from streamstore.cli.verify import LineComparison

pytestmark = pytest.mark.slow  # sixty tests that start several processes each

STREAM = "lines"
SHARD = "shard-000000"
PROJECT = Path(streamstore.__file__).parent.parent
# PYTHONUNBUFFERED would hide output that is lost in a buffer.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | {
    "PYTHONPATH": str(PROJECT)
}
WAIT_S = 30

# Each says with its name what is awkward about it.
AWKWARD_CONTENTS = {
    "empty": b"",
    "one empty line": b"\n",
    "empty lines": b"\n\na\n\n",
    "windows line ends": b"a\r\nb\r\n",
    "lone carriage returns": b"a\rb\r\r\nc\n",
    "no newline at the end": b"a\nb",
    "every byte": bytes(range(256)) * 3 + b"\n",
    "not UTF-8": b"\xff\xfe\n\xc3\n",
    "other line separators": "a\u2028b\x85c\x0cd\n".encode(),
    "largest record": b"x" * 1_048_576 + b"\nend\n",
}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "streamstore.cli", *map(str, arguments)]


def run(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(*arguments), input=stdin, capture_output=True, env=ENVIRONMENT, timeout=WAIT_S, check=False
    )


def run_well(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    result = run(*arguments, stdin=stdin)
    assert result.returncode == 0, result.stderr
    return result


def the_sentence(result: subprocess.CompletedProcess[bytes], *, exit_code: int = 1) -> str:
    """Return what a failed command said: one line of standard error and nothing else."""
    text = result.stderr.decode()
    assert result.returncode == exit_code, text
    assert text.startswith("streamstore: ")
    assert text.endswith("\n")
    assert text.count("\n") == 1
    assert result.stdout == b""
    return text


def stored_lines(path: Path) -> Iterator[tuple[str, str, bytes]]:
    with StreamStore(path, read_only=True) as store:
        for shard in store.describe_stream(STREAM).shards:
            for record in store.read(STREAM, shard.shard_id):
                yield shard.shard_id, record.partition_key, record.data


def fill(path: Path, *records: tuple[str, bytes], shard_count: int = 1) -> None:
    with StreamStore(path, sync="off") as store:
        store.create_stream(STREAM, shard_count=shard_count)
        for partition_key, data in records:
            store.put_record(STREAM, data, partition_key)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a store"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A file of 1,000 different lines."""
    file = tmp_path / "a log"
    file.write_bytes(b"".join(b"line %d\n" % number for number in range(1, 1_001)))
    return file


@pytest.mark.parametrize("content", AWKWARD_CONTENTS.values(), ids=AWKWARD_CONTENTS.keys())
def test_every_line_comes_back_as_it_went_in(path: Path, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    run_well("put", path, STREAM, file, "--create")
    expected = content if content.endswith(b"\n") or not content else content + b"\n"
    assert run_well("get", path, STREAM).stdout == expected
    assert first_difference(path, content) is None


def test_the_lines_of_each_shard_keep_the_order_of_the_file(path: Path, log: Path) -> None:
    run_well("put", path, STREAM, log, "--create", "--shards", "4", "--sync", "off")
    numbers_of_shard: dict[str, list[int]] = {}
    for shard_id, partition_key, data in stored_lines(path):
        assert data == b"line " + partition_key.encode()
        numbers_of_shard.setdefault(shard_id, []).append(int(partition_key))
    assert len(numbers_of_shard) == 4
    assert all(numbers == sorted(numbers) for numbers in numbers_of_shard.values())
    assert sorted(chain.from_iterable(numbers_of_shard.values())) == list(range(1, 1_001))


def test_put_and_get_work_in_a_pipe(path: Path) -> None:
    put = run_well("put", path, STREAM, "--create", stdin=b"a\nb\nc")
    assert put.stdout == b""
    assert put.stderr.decode().startswith("stored 3 records, 3 bytes, in 1 shard: ")
    run_well("put", path, STREAM, "-", stdin=b"d\n")
    get = run_well("get", path, STREAM)
    assert get.stdout == b"a\nb\nc\nd\n"
    assert get.stderr == b""


def test_a_line_is_stored_before_the_next_one_is_sent(path: Path) -> None:
    with subprocess.Popen(
        command("put", path, STREAM, "--create"), stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as put:
        assert put.stdin is not None
        put.stdin.write(b"first\n")
        put.stdin.flush()
        wait_for_records(path, 1)
        put.stdin.close()
        assert put.wait(WAIT_S) == 0


def test_a_reader_that_has_enough_ends_get_quietly(path: Path) -> None:
    fill(path, ("k", b"x" * 1_000_000), ("k", b"y" * 1_000_000))
    with subprocess.Popen(
        command("get", path, STREAM), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as get:
        assert get.stdout is not None
        assert get.stderr is not None
        assert get.stdout.read(10) == b"x" * 10
        get.stdout.close()
        assert get.wait(WAIT_S) == 141
        assert get.stderr.read() == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_a_failure(path: Path, log: Path) -> None:
    fill(path)
    run_well("put", path, STREAM, log, "--sync", "off")
    for arguments in (("get", path, STREAM), ("verify", path, STREAM, log)):
        with open("/dev/full", "wb") as full:
            result = subprocess.run(
                command(*arguments), stdout=full, stderr=subprocess.PIPE, env=ENVIRONMENT, check=False
            )
        assert result.returncode == 1
        assert result.stderr == b"streamstore: [Errno 28] No space left on device.\n"


def test_get_of_one_shard_writes_only_that_shard(path: Path, log: Path) -> None:
    run_well("put", path, STREAM, log, "--create", "--shards", "2", "--sync", "off")
    shards = [run_well("get", path, STREAM, "--shard", f"shard-00000{index}").stdout for index in (0, 1)]
    assert all(shards)
    assert b"".join(shards) == run_well("get", path, STREAM).stdout
    assert sorted(b"".join(shards).splitlines()) == sorted(log.read_bytes().splitlines())


def test_the_given_keys_choose_the_shard(path: Path, log: Path) -> None:
    run_well("put", path, STREAM, log, "--create", "--shards", "4", "--sync", "off", "--partition-key", "user1")
    assert {partition_key for _, partition_key, _ in stored_lines(path)} == {"user1"}
    assert run_well("get", path, STREAM).stdout == log.read_bytes()
    run_well("put", path, "other", log, "--create", "--shards", "4", "--sync", "off", "--explicit-hash-key", "0")
    assert run_well("get", path, "other", "--shard", SHARD).stdout == log.read_bytes()


def test_create_uses_an_existing_stream_and_says_if_its_shards_differ(path: Path) -> None:
    first = run_well("put", path, STREAM, "--create", "--shards", "2", stdin=b"a\n")
    same = run_well("put", path, STREAM, "--create", "--shards", "2", stdin=b"b\n")
    other = run_well("put", path, STREAM, "--create", "--shards", "3", stdin=b"c\n")
    assert b"keeps its 2 shards" in other.stderr
    assert b"keeps" not in first.stderr + same.stderr
    assert sorted(data for _, _, data in stored_lines(path)) == [b"a", b"b", b"c"]


def test_put_waits_for_a_write_quota(path: Path) -> None:
    with StreamStore(path, sync="off") as store:
        store.create_stream(STREAM, write_quota_kb_per_sec=128)
    run_well("put", path, STREAM, "--sync", "off", stdin=b"x" * 100_000 + b"\n" + b"y" * 100_000 + b"\n")
    assert [len(data) for _, _, data in stored_lines(path)] == [100_000, 100_000]


def test_what_is_missing_is_told_in_one_sentence(path: Path, tmp_path: Path, log: Path) -> None:
    for arguments in (("put", path, STREAM, log), ("get", path, STREAM), ("verify", path, STREAM, log)):
        assert str(path) in the_sentence(run(*arguments))
    assert not path.exists()
    fill(path)
    for arguments in (("put", path, "other", log), ("get", path, "other"), ("verify", path, "other", log)):
        assert "other" in the_sentence(run(*arguments))
    assert "--create" in the_sentence(run("put", path, "other"))
    assert "shard-000009" in the_sentence(run("get", path, STREAM, "--shard", "shard-000009"))
    assert "a store" in the_sentence(run("get", tmp_path / "no" / "a store", STREAM))


def test_an_unreadable_file_is_wrong_usage_and_creates_nothing(path: Path, tmp_path: Path) -> None:
    for file in (tmp_path / "missing", tmp_path):
        assert str(file) in the_sentence(run("put", path, STREAM, file, "--create"), exit_code=2)
        assert str(file) in the_sentence(run("verify", path, STREAM, file), exit_code=2)
    assert not path.exists()


def test_a_store_that_put_creates_has_the_dialect_asked_for_and_keeps_it(path: Path) -> None:
    run_well("put", path, "my.lines", "--create", "--dialect", "aws", "--sync", "off", stdin=b"a\n")
    run_well("put", path, "my.lines", "--create", "--sync", "off", stdin=b"b\n")
    assert run_well("get", path, "my.lines", "--shard", "shardId-000000000000").stdout == b"a\nb\n"
    assert "dialect must be aws" in the_sentence(run("put", path, "my.lines", "--create", "--dialect", "yandex"))


def test_wrong_usage_ends_with_2(path: Path, log: Path) -> None:
    assert "--create" in the_sentence(run("put", path, STREAM, log, "--shards", "4"), exit_code=2)
    assert "--create" in the_sentence(run("put", path, STREAM, log, "--dialect", "aws"), exit_code=2)
    for arguments in (("put",), ("put", path), ("put", path, STREAM, log, "--sync", "most"), ("fetch", path)):
        result = run(*arguments)
        assert result.returncode == 2
        assert b"Traceback" not in result.stderr
        assert result.stdout == b""
    assert not path.exists()


def test_a_refused_value_is_told_in_one_sentence(path: Path) -> None:
    refused = [("--shards", "0"), ("--partition-key", ""), ("--explicit-hash-key", "00")]
    for arguments in refused:
        sentence = the_sentence(run("put", path, STREAM, "--create", *arguments, stdin=b"a\n"))
        assert " must " in sentence
    assert " must " in the_sentence(run("put", path, "1", "--create", stdin=b"a\n"))


def test_a_refused_line_says_how_many_records_were_stored_before_it(path: Path) -> None:
    result = run("put", path, STREAM, "--create", stdin=b"a\nb\n" + b"x" * 1_048_577 + b"\nc\n")
    assert "The 2 records before it were acknowledged." in the_sentence(result)
    assert [data for _, _, data in stored_lines(path)] == [b"a", b"b"]


def test_a_file_without_newlines_does_not_fill_the_memory(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "sparse"
    with open(file, "wb") as sparse:
        sparse.truncate(2**36)
    assert "line 1 is longer than" in the_sentence(run("put", path, STREAM, file, "--create"))


def wait_for_records(path: Path, count: int) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while time.monotonic() < deadline_s:
        try:
            if sum(1 for _ in stored_lines(path)) >= count:
                return
        except (StoreNotFoundError, ResourceNotFoundException):
            pass
        time.sleep(0.05)
    pytest.fail(f"{count} records were not stored within {WAIT_S} s")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A child inherits ignored signals, and a shell ignores SIGINT for what it runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_put_reports_only_what_is_stored(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "long"
    file.write_bytes(b"".join(b"%d\n" % number for number in range(1, 1_000_001)))
    with subprocess.Popen(
        command("put", path, STREAM, file, "--create"), stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as put:
        wait_for_records(path, 50)
        put.send_signal(signal.SIGINT)
        _, errors = put.communicate(timeout=WAIT_S)
    assert put.returncode == 130, errors
    told = re.fullmatch(r"streamstore: interrupted; ([0-9,]+) records were acknowledged, .*\n", errors.decode())
    assert told is not None, errors
    acknowledged = int(told[1].replace(",", ""))
    stored = [int(data) for _, _, data in stored_lines(path)]
    assert stored == list(range(1, len(stored) + 1))
    assert 50 <= len(stored) < 1_000_000
    assert len(stored) - 1 <= acknowledged <= len(stored)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_put_that_waits_for_input_ends_with_130(path: Path) -> None:
    with subprocess.Popen(
        command("put", path, STREAM, "--create"), stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as put:
        assert put.stdin is not None
        put.stdin.write(b"a\nb\nunfinished")
        put.stdin.flush()
        wait_for_records(path, 2)
        put.send_signal(signal.SIGINT)
        _, errors = put.communicate(timeout=WAIT_S)
    assert put.returncode == 130
    assert b"interrupted; 2 records were acknowledged" in errors
    assert [data for _, _, data in stored_lines(path)] == [b"a", b"b"]


DIFFERENCES: dict[str, tuple[list[tuple[str, bytes]], str]] = {
    "a changed byte": ([("1", b"one"), ("2", b"twO"), ("3", b"three")], "line 2 differs at its byte 3"),
    "a lost byte": ([("1", b"one"), ("2", b"tw"), ("3", b"three")], "line 2 differs at its byte 3"),
    "a missing first line": ([("2", b"two"), ("3", b"three")], "line 1 is missing or out of order"),
    "a missing middle line": ([("1", b"one"), ("3", b"three")], "line 2 is missing or out of order"),
    "a missing last line": ([("1", b"one"), ("2", b"two")], "line 3 is missing or out of order"),
    "everything missing": ([], "line 1 is missing or out of order"),
    "swapped data": ([("1", b"two"), ("2", b"one"), ("3", b"three")], "line 1 differs at its byte 1"),
    "a line twice": ([("1", b"one"), ("1", b"one"), ("2", b"two"), ("3", b"three")], "line 1 is stored twice"),
    "all twice": ([("1", b"one"), ("2", b"two"), ("3", b"three")] * 2, "line 1 is stored twice"),
    "a line too many": ([("1", b"one"), ("2", b"two"), ("3", b"three"), ("4", b"")], "holds line 4"),
    "a foreign key": ([("1", b"one"), ("2", b"two"), ("user1", b"three")], "has the partition key 'user1'"),
    "another spelling of a number": ([("1", b"one"), ("02", b"two"), ("3", b"three")], "has the partition key '02'"),
    "foreign digits": ([("1", b"one"), ("\u0662", b"two"), ("3", b"three")], "is no line number"),
}


def first_difference(path: Path, content: bytes) -> str | None:
    """Return what the subcommand verify would say. Called without a process, as starting one takes its time."""
    with StreamStore(path, read_only=True) as store:
        try:
            lines = read_lines(BytesIO(content))
            assert b"".join(LineComparison(store, STREAM).compare(lines)) == content
        except CommandError as difference:
            return str(difference)
    return None


@pytest.mark.parametrize("shard_count", [1, 4])
@pytest.mark.parametrize(("records", "told"), DIFFERENCES.values(), ids=DIFFERENCES.keys())
def test_verify_tells_any_difference(path: Path, records: list[tuple[str, bytes]], told: str, shard_count: int) -> None:
    fill(path, *records, shard_count=shard_count)
    difference = first_difference(path, b"one\ntwo\nthree\n")
    assert difference is not None
    assert told in difference


def test_verify_tells_swapped_lines_of_one_shard(path: Path) -> None:
    fill(path, ("1", b"one"), ("3", b"three"), ("2", b"two"))
    difference = first_difference(path, b"one\ntwo\nthree\n")
    assert difference == "line 2 is missing or out of order: the next records are of line 3."


def test_verify_tells_a_line_that_two_shards_hold(path: Path) -> None:
    with StreamStore(path, sync="off") as store:
        store.create_stream(STREAM, shard_count=2)
        for explicit_hash_key in ("0", str(2**127)):
            store.put_record(STREAM, b"one", "1", explicit_hash_key=explicit_hash_key)
    difference = first_difference(path, b"one\n")
    assert difference == "line 1 is stored twice; the second is record 0 of shard-000001."


def test_verify_ends_with_1_at_a_changed_byte(path: Path, log: Path) -> None:
    run_well("put", path, STREAM, log, "--create", "--shards", "4", "--sync", "off")
    verdict = run_well("verify", path, STREAM, log).stdout
    assert verdict == b"byte for byte what went in: 1,000 records, 7,893 bytes, 4 shards\n"
    log.write_bytes(log.read_bytes().replace(b"line 777\n", b"line 7x7\n"))
    assert "line 777 differs at its byte 7" in the_sentence(run("verify", path, STREAM, log))


def test_verify_admits_that_a_missing_last_newline_is_not_kept(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"unfinished")
    run_well("put", path, STREAM, file, "--create")
    verdict = run_well("verify", path, STREAM, file).stdout
    assert verdict.startswith(b"byte for byte what went in: 1 record, 10 bytes, 1 shard\n")
    assert b"ends without a newline" in verdict


def test_verify_accepts_lines_of_several_shards_in_any_order_between_them(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"one\ntwo\nthree\n")
    with StreamStore(path, sync="off") as store:
        store.create_stream(STREAM, shard_count=2)
        store.put_record(STREAM, b"three", "3", explicit_hash_key="0")
        store.put_record(STREAM, b"one", "1", explicit_hash_key=str(2**127))
        store.put_record(STREAM, b"two", "2", explicit_hash_key=str(2**127))
    verdict = run_well("verify", path, STREAM, file).stdout
    assert verdict == b"byte for byte what went in: 3 records, 11 bytes, 2 shards\n"


def test_a_missing_extra_is_told_with_its_remedy(tmp_path: Path) -> None:
    for package in ("typer", "rich"):
        blocked = tmp_path / package
        blocked.mkdir()
        (blocked / f"{package}.py").write_text(f"raise ModuleNotFoundError('absent', name={package!r})\n")
        environment = ENVIRONMENT | {"PYTHONPATH": os.pathsep.join([str(blocked), str(PROJECT)])}
        result = subprocess.run(command("--help"), capture_output=True, env=environment, check=False)
        assert "pip install 'streamstore[cli]'" in the_sentence(result)


def test_a_closed_standard_stream_is_refused(path: Path) -> None:
    shell_line = f'"$@" 2>&- ; test $? = 1 && ! test -e "{path}"'
    shell = ["sh", "-c", shell_line, "sh", *command("put", path, STREAM, "--create")]
    assert subprocess.run(shell, env=ENVIRONMENT, stdin=subprocess.DEVNULL, check=False).returncode == 0


def test_help_shows_examples_and_goes_to_standard_output() -> None:
    for arguments in (("--help",), ("put", "--help"), ("get", "-h"), ("verify", "--help")):
        result = run_well(*arguments)
        assert b"Example" in result.stdout
        assert b"  streamstore " in result.stdout
        assert result.stderr == b""


# check, backup and salvage


@pytest.fixture
def lines_stored(tmp_path: Path) -> Path:
    run_well("put", tmp_path / "store", STREAM, "--create", stdin=b"".join(b"line %d\n" % n for n in range(300)))
    return tmp_path / "store"


def damage(path: Path, text: bytes) -> None:
    """Change a byte of a record behind the back of the store, wherever it is in the file."""
    content = (path / "data.mdb").read_bytes()
    assert text in content
    (path / "data.mdb").write_bytes(content.replace(text, text.swapcase()))


def test_check_of_a_sound_store_says_so_and_ends_with_0(lines_stored: Path) -> None:
    result = run_well("check", lines_stored)
    assert (result.stdout, result.stderr) == (b"", f"no finding in {lines_stored}\n".encode())


def test_check_prints_each_finding_and_ends_with_1(lines_stored: Path) -> None:
    damage(lines_stored, b"line 17")
    result = run("check", lines_stored)
    assert result.returncode == 1
    assert b"Record 17 of Shard 0 of lines is damaged: its checksum does not match.\n" in result.stdout
    assert re.fullmatch(rb"streamstore: \d+ findings in .*\.\n", result.stderr)


@pytest.mark.parametrize("subcommand", [("check",), ("salvage", "new")])
def test_what_cannot_be_opened_ends_with_2(tmp_path: Path, subcommand: tuple[str, ...]) -> None:
    name, *rest = subcommand
    assert "There is no store at" in the_sentence(run(name, tmp_path / "no", *rest), exit_code=2)
    (tmp_path / "data.mdb").write_bytes(b"hello")
    the_sentence(run(name, tmp_path, *(tmp_path / each for each in rest)), exit_code=2)


@pytest.mark.parametrize("options", [(), ("--compact",)])
def test_a_backup_holds_what_the_store_holds_and_takes_its_place(
    lines_stored: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    copy = tmp_path / "copy"
    assert b"copied " in run_well("backup", lines_stored, copy, *options).stderr
    assert run_well("get", copy, STREAM).stdout == run_well("get", lines_stored, STREAM).stdout
    assert "path must be new" in the_sentence(run("backup", lines_stored, copy))
    run_well("put", copy, STREAM, stdin=b"more\n")


def test_salvage_of_a_sound_store_copies_all_and_ends_with_0(lines_stored: Path, tmp_path: Path) -> None:
    result = run_well("salvage", lines_stored, tmp_path / "new")
    assert result.stderr == f"300 records of 1 stream are in {tmp_path / 'new'}; nothing is lost\n".encode()
    assert run_well("get", tmp_path / "new", STREAM).stdout == run_well("get", lines_stored, STREAM).stdout


def test_salvage_tells_each_loss_and_ends_with_1(lines_stored: Path, tmp_path: Path) -> None:
    damage(lines_stored, b"line 17")
    result = run("salvage", lines_stored, tmp_path / "new")
    assert result.returncode == 1
    assert b"Stream lines, shard-000000: records 17 to 17 are lost.\n" in result.stdout
    lost = sum(1 for line in result.stdout.splitlines() if b" are lost." in line)
    assert b"; " in result.stderr
    assert lost > 1  # all that begin like it
    run_well("check", tmp_path / "new")
