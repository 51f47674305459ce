"""The README tells the truth: its Python runs, and the commands it shows exist with the options it gives them."""

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import streamstore

PROJECT = Path(streamstore.__file__).parent.parent
README = PROJECT / "README.md"
FENCE = re.compile(r"^```(?P<language>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[tuple[int, str]]:
    """Return the first line number and the text of each block of a language."""
    text = README.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, match.start("body")) + 1, match["body"])
        for match in FENCE.finditer(text)
        if match["language"] == language
    ]


def commands_shown(program: str) -> list[list[str]]:
    """Return the words that follow each call of a program in the console blocks, up to a pipe or redirection."""
    lines = [line.removeprefix("$ ") for _, body in blocks("console") for line in body.splitlines() if line[:2] == "$ "]
    stages = [shlex.split(stage, comments=True) for line in lines for stage in re.split(r"[|;&<>]+", line)]
    return [words[1:] for words in stages if words and words[0] == program]


def test_every_python_block_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    assert blocks("python")
    for line_number, body in blocks("python"):
        if ">>>" in body:
            told: list[str] = []
            session = doctest.DocTestParser().get_doctest(body, namespace, "README", "README.md", line_number - 1)
            # The runner would empty the namespace, which the next block goes on with.
            doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(session, out=told.append, clear_globs=False)
            assert not told, "".join(told)
            namespace.update(session.globs)
        else:
            # The empty lines make a traceback tell the line of the README.
            exec(compile("\n" * (line_number - 1) + body, README, "exec"), namespace)


def test_every_subcommand_shown_exists_with_its_options() -> None:
    shown = commands_shown("streamstore")
    assert shown
    options_of_subcommand: dict[str, set[str]] = {}
    for words in shown:
        options = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        subcommand = words[0] if words and not words[0].startswith("-") else ""
        options_of_subcommand.setdefault(subcommand, set()).update(options)
    for subcommand, options in options_of_subcommand.items():
        words = [subcommand, "--help"] if subcommand else ["--help"]
        assert options <= set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", help_text(words))), subcommand


def help_text(words: list[str]) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "streamstore.cli", *words],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_tool_shown_exists_with_its_options() -> None:
    names = set(re.findall(r"\./tools/(\w+)", README.read_text(encoding="utf-8")))
    assert names
    for name in names:
        script = PROJECT / "tools" / name
        assert os.access(script, os.X_OK), name
        words = {word for shown in commands_shown(f"./tools/{name}") for word in shown}
        assert all(word in script.read_text(encoding="utf-8") for word in words if word.startswith("-")), name
