"""Talks to one client through its driver, and keeps all that it was told."""

import json
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple, Self, cast

from tools.clients.installing import PROJECT

__all__ = ["Conversation", "Members", "Outcome", "Talk"]

Members = dict[str, object]
ANSWER_S_MAX: Final = 120.0
REGION: Final = "us-east-1"
TEXT_SHOWN_MAX: Final = 2_000
TOKENS: Final = ("ShardIterator", "NextShardIterator", "NextToken")
CONSUMER_CREATED: Final = re.compile(r"(/consumer/[^:]+:)\d+")


class Outcome(NamedTuple):
    """What a client was told: an output or an error, or that it has nothing for such a thing."""

    output: object
    error: Members | None
    lacks: str | None

    def code(self) -> object:
        return None if self.error is None else self.error["code"]

    def map(self) -> Members:
        assert self.error is None, self.error
        return cast(Members, self.output)

    def maps(self, member: str) -> list[Members]:
        return cast("list[Members]", self.map().get(member, []))

    def text(self, member: str) -> str:
        return str(self.map()[member])


class Talk(NamedTuple):
    """One thing that was asked for, and what came of it, without what differs from run to run."""

    asked: str
    came: object


class Conversation:
    """A driver that runs. Use it as a context manager: at its end it does not."""

    def __init__(self, command: list[str], environment: Mapping[str, str], talks: list[Talk]) -> None:
        self.talks = talks
        """All that was asked for, which goes on behind what is in there."""
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env={**_environment(), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def call(self, action: str, **members: object) -> Outcome:
        """Call an action."""
        return self._ask("call", action, members)

    def wait(self, waiter: str, **members: object) -> Outcome:
        """Wait with a waiter of the client."""
        return self._ask("wait", waiter, members)

    def subscribe(self, records: int, meanwhile: tuple[str, Members] | None = None, **members: object) -> Outcome:
        """Subscribe to a shard, and read until so many records have come, or the subscription ends.

        ``meanwhile``: an action to call once the first event has come, and its members.
        """
        if meanwhile is None:
            return self._ask("subscribe", records, members)
        action, its_members = meanwhile
        return self._ask("subscribe", records, members, meanwhile={"call": action, "members": its_members})

    def _ask(self, kind: str, what: object, members: Members, **more: object) -> Outcome:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = threading.Timer(ANSWER_S_MAX, self._process.kill)
        late.start()
        try:
            self._process.stdin.write(json.dumps({kind: what, "members": members, **more}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            late.cancel()
        if not line:
            self._errors.seek(0)
            raise RuntimeError(f"{kind} {what}: the driver ended: {self._errors.read()[-2_000:].strip()}")
        told = cast(Members, json.loads(line))
        outcome = Outcome(
            _in_milliseconds(told.get("output")),
            cast("Members | None", told.get("error")),
            cast("str | None", told.get("lacks")),
        )
        asked = f"{kind} {what} {json.dumps(_lasting(members), sort_keys=True)[:200]}"
        came: object = told if outcome.lacks else _lasting(_error_of(outcome) or outcome.output)
        self.talks.append(Talk(asked, came))
        return outcome


def _error_of(outcome: Outcome) -> Members | None:
    """Return an error so that it can be compared: is the class of the client the one that is named after the code?"""
    if outcome.error is None:
        return None
    error = {name: value for name, value in outcome.error.items() if value is not None}
    if "class" in error:
        error["has a class of its own"] = error.pop("class") == error["code"]
    return error


def _in_milliseconds(output: object) -> object:
    """Return an output with times as numbers of milliseconds; a command prints them as seconds."""
    return _mapped(
        output,
        lambda name, leaf: round(leaf * 1000) if isinstance(leaf, float) and name.endswith("Timestamp") else leaf,
    )


def _lasting(value: object) -> object:
    """Return a value without what is another one in each run: times and tokens."""
    return _mapped(value, _lasting_leaf)


def _lasting_leaf(name: str, leaf: object) -> object:
    if name.endswith("Timestamp") and isinstance(leaf, int):
        return "a time"
    if name == "MillisBehindLatest" and leaf != 0:
        return "behind"
    if name in TOKENS and isinstance(leaf, str):
        return "a token"
    if isinstance(leaf, str):
        return CONSUMER_CREATED.sub(r"\1a time", leaf) if len(leaf) < TEXT_SHOWN_MAX else f"{len(leaf)} characters"
    return leaf


def _mapped(value: object, leaf_of: Callable[[str, object], object], name: str = "") -> object:
    """Return a value with each leaf replaced, which is told the name of its member."""
    if isinstance(value, dict):
        named = cast(Members, value)
        return {each: _mapped(inner, leaf_of, each) for each, inner in named.items()}
    if isinstance(value, list):
        return [_mapped(each, leaf_of) for each in cast("list[object]", value)]
    return leaf_of(name, value)


def _environment() -> dict[str, str]:
    """Return the environment without what a user of clients has in it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    nowhere = os.fspath(Path("/nonexistent"))
    return kept | {
        "AWS_CONFIG_FILE": nowhere,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
    }
