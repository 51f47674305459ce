"""Fixtures of pytest: a durable store of the test's own, and clients of boto3 on it.

A line in the ``conftest.py`` at the top of a suite brings them: ``pytest_plugins = ["streamstore.wire.fixtures"]``.
They are no entry point, so a suite that does not ask for them imports nothing.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from streamstore import StreamStore
from streamstore.wire.in_process import boto3_client

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

__all__ = ["kinesis_client", "kinesis_store"]


@pytest.fixture
def kinesis_store(tmp_path: Path) -> Iterator[StreamStore]:
    """An empty store in the dialect "aws", in the folder ``kinesis`` of ``tmp_path``; closed behind the test.

    A suite that wants another (a region, an account, ``sync="off"``) defines its own fixture of this name.
    """
    with StreamStore(tmp_path / "kinesis", dialect="aws") as store:
        yield store


@pytest.fixture
def kinesis_client(kinesis_store: StreamStore) -> "KinesisClient":
    """What ``boto3.client("kinesis")`` returns, on the store of the test."""
    return boto3_client(kinesis_store)
