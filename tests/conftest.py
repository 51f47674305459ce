"""What every test stands on: a store whose clock the test turns, checked when the test is over.

Nothing about durability is tested through these fixtures: they open with ``sync="off"``, which changes when bytes
reach the disk and nothing else. ``STREAMSTORE_TEST_LMDB=1`` runs the whole suite on LMDB 1.0, and
``HYPOTHESIS_PROFILE=ci`` looks ten times as long for a counterexample, ``release`` a hundred times, ``fast`` a fifth:
with the longer ones give ``-o faulthandler_timeout=0``, or a test of minutes counts as one that hangs.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import streamstore.library
from streamstore import DialectName, StreamStore
from streamstore.check import check_store

settings.register_profile("daily", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("daily"), max_examples=1_000)
settings.register_profile("release", settings.get_profile("daily"), max_examples=10_000)
settings.register_profile("fast", settings.get_profile("daily"), max_examples=20)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "daily"))

if lmdb_version := os.environ.get("STREAMSTORE_TEST_LMDB"):
    streamstore.library.__dict__["LMDB_LIB_VERSION"] = int(lmdb_version)


class Clock:
    """Milliseconds since 1970 that pass only when a test says so."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, milliseconds: int) -> None:
        """Let time pass; a negative number sets the clock back."""
        self.now_ms += milliseconds


def open_store(
    path: Path,
    clock: Clock,
    *,
    read_only: bool = False,
    dialect: DialectName | None = None,
    shard_limit: int | None = None,
) -> StreamStore:
    return StreamStore(path, read_only=read_only, sync="off", clock=clock, dialect=dialect, shard_limit=shard_limit)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(store_path: Path, clock: Clock) -> Iterator[StreamStore]:
    opened = open_store(store_path, clock)
    yield opened
    opened.close()
    assert check_store(store_path) == []


@pytest.fixture
def aws_store(store_path: Path, clock: Clock) -> Iterator[StreamStore]:
    opened = open_store(store_path, clock, dialect="aws")
    yield opened
    opened.close()
    assert check_store(store_path) == []


@pytest.fixture
def path(store_path: Path, clock: Clock) -> Iterator[Path]:
    """Where a closed store with the stream "s" of one shard is, for a test that opens it itself."""
    with open_store(store_path, clock) as opened:
        opened.create_stream("s")
    yield store_path
    assert check_store(store_path) == []
