"""Gives bytes to the targets, guided by what they reach: the process that ``tools.torture.fuzzing`` talks to.

A line of JSON in for each target, and one out for what became of it. Each runs in a forked child, because libFuzzer
ends its process. Needs atheris, which puts its counters into the package while that is imported.
"""

import argparse
import json
import os
import re
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

import atheris

with atheris.instrument_imports(include=["streamstore"]):
    from tools.torture import plants
    from tools.torture.fuzzing import Fuzzed, Fuzzing
    from tools.torture.targets import TARGETS
    from tools.torture.targets.target import BrokenLawError, Target, input_as_text
    from tools.torture.worker import die_with_parent

HANG_S: Final = 60
"""On a busy machine an input that takes milliseconds may take seconds."""
MEMORY_MIB_MAX: Final = 256
"""What one input may make the process grow by."""
PROCESS_MIB_MAX: Final = 2_048
KIB_PER_MIB: Final = 1_024
SAID_CHARACTERS_MAX: Final = 1_500
EXECUTIONS: Final = re.compile(r"^stat::number_of_executed_units: (\d+)$", re.MULTILINE)
EDGES: Final = re.compile(r"\bcov: (\d+)\b")
PYTHON_ERROR: Final = re.compile(r"=== Uncaught Python exception: ===\n(.*?)(?:\n==\d+==|\Z)", re.DOTALL)
WRONG: Final = "wrong-"
FOUND: Final = re.compile(r"^(wrong|crash|timeout|oom)-")


class Options(argparse.Namespace):
    """The command line."""

    plant: str | None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--plant")
    plants.plant(parser.parse_args(namespace=Options()).plant)
    for line in sys.stdin:
        fuzzing = Fuzzing(**json.loads(line))
        with tempfile.TemporaryDirectory(prefix=f"{fuzzing.target}-") as folder:
            fuzzed = _fuzz(fuzzing, Path(folder))
        sys.stdout.write(f"{json.dumps(fuzzed._asdict())}\n")
        sys.stdout.flush()


def _fuzz(fuzzing: Fuzzing, folder: Path) -> Fuzzed:
    log = folder / "log"
    parent_pid = os.getpid()
    child = os.fork()
    if child == 0:
        _be_child(fuzzing, folder, log, parent_pid)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = log.read_text(errors="replace")
    executions, edges = EXECUTIONS.search(said), EDGES.findall(said)
    return Fuzzed(
        int(executions[1]) if executions else 0,
        max(map(int, edges), default=0),
        None if status == 0 else _what_was_found(fuzzing.target, status, said, folder),
    )


def _be_child(fuzzing: Fuzzing, folder: Path, log: Path, parent_pid: int) -> NoReturn:
    """Hand the process over to libFuzzer, which ends it."""
    try:
        die_with_parent(parent_pid)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, sys.stdout.fileno())
        os.dup2(descriptor, sys.stderr.fileno())
        target = TARGETS[fuzzing.target]
        tempfile.tempdir = os.fspath(folder)
        corpus = folder / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(target.seeds()):
            (corpus / f"sound-{number:03}").write_bytes(seed)
        atheris.Setup([*_flags(fuzzing, target, folder), os.fspath(corpus)], _limited(target.look, folder / WRONG))
        atheris.Fuzz()
    finally:
        os._exit(1)


def _flags(fuzzing: Fuzzing, target: Target, folder: Path) -> list[str]:
    flags = {
        "seed": fuzzing.seed,
        "runs": -1 if fuzzing.executions is None else fuzzing.executions,
        "max_total_time": fuzzing.seconds,
        "max_len": target.bytes_max,
        "len_control": 0,
        "timeout": HANG_S,
        "rss_limit_mb": PROCESS_MIB_MAX,
        "artifact_prefix": f"{folder}/",
        "print_final_stats": 1,
    }
    return [target.name, *(f"-{name}={value}" for name, value in flags.items())]


def _limited(look: Callable[[bytes], None], wrong: Path) -> Callable[[bytes], None]:
    """Return what looks, raises if that took too much memory, and keeps the input for which it raises."""
    peak_kib = _peak_kib()

    def look_within_limits(data: bytes) -> None:
        nonlocal peak_kib
        try:
            look(data)
            before_kib, peak_kib = peak_kib, _peak_kib()
            if peak_kib - before_kib > MEMORY_MIB_MAX * KIB_PER_MIB:
                raise BrokenLawError(f"an input took {(peak_kib - before_kib) // KIB_PER_MIB} MiB")
        except BaseException:
            wrong.write_bytes(data)  # libFuzzer does so too, but not with those that it begins with
            raise

    return look_within_limits


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _what_was_found(target: str, status: int, said: str, folder: Path) -> str:
    error = PYTHON_ERROR.search(said)
    what = " ".join((error[1] if error else said)[-SAID_CHARACTERS_MAX:].split())
    inputs = sorted(path for path in folder.iterdir() if FOUND.match(path.name))
    if not inputs:
        return f"{target} ended with {status} and no input: {what}"
    kind = inputs[0].name.partition("-")[0]
    again = f"python -m tools.torture.targets {target} {input_as_text(inputs[0].read_bytes())}"
    return f"{target}: {kind}: {what}\n      input: {again}"


if __name__ == "__main__":
    main()
