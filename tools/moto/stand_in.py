"""A plugin of pytest that stands in for moto: its tests run, and a store answers what they ask.

None of moto's own code runs. ``mock_aws`` gives each test an empty account: a store of its own in this process, or,
with ``STREAMSTORE_MOTO_SERVER=1``, a server for each region, whose streams are deleted behind the test. A test that is
in ``failures.toml`` must fail, and every other one must pass.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

import boto3
import pytest

from streamstore import StreamStore
from streamstore.wire import boto3_client

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

P = ParamSpec("P")
T = TypeVar("T")

ACCOUNT_ID: Final = "123456789012"
IS_SERVER: Final = os.environ.get("STREAMSTORE_MOTO_SERVER") == "1"
FAILURES: Final = Path(__file__).with_name("failures.toml")
STOP_SECONDS_MAX: Final = 60


class StoreAccount:
    """A store in this process. Its clock is one that a test may freeze."""

    def __init__(self) -> None:
        self._opened = ExitStack()
        self._stores: dict[str, StreamStore] = {}

    def client(self, region: str) -> "KinesisClient":
        if region not in self._stores:
            folder = self._opened.enter_context(tempfile.TemporaryDirectory(prefix="streamstore-moto-"))
            self._stores[region] = self._opened.enter_context(
                StreamStore(
                    Path(folder, "store"),
                    sync="off",
                    dialect="aws",
                    account_id=ACCOUNT_ID,
                    region=region,
                    clock=lambda: time.time_ns() // 1_000_000,
                )
            )
        return boto3_client(self._stores[region])

    def reset(self) -> None:
        self._opened.close()
        self._stores.clear()

    close = reset


class ServerAccount:
    """Servers, one for each region that tests ask for; all are started once."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="streamstore-moto-")
        self._servers: dict[str, subprocess.Popen[str]] = {}
        self._clients: dict[str, KinesisClient] = {}
        self._session = boto3.session.Session()

    def client(self, region: str) -> "KinesisClient":
        if region not in self._clients:
            self._clients[region] = self._session.client(  # pyright: ignore[reportUnknownMemberType]
                "kinesis",
                region_name=region,
                endpoint_url=self._start(region),
                aws_access_key_id="none",
                aws_secret_access_key="none",
            )
        return self._clients[region]

    def reset(self) -> None:
        for client in self._clients.values():
            for name in client.list_streams(Limit=1_000)["StreamNames"]:
                client.delete_stream(StreamName=name, EnforceConsumerDeletion=True)

    def close(self) -> None:
        for server in self._servers.values():
            server.terminate()
        for server in self._servers.values():
            server.wait(STOP_SECONDS_MAX)
            if server.stdout is not None:
                server.stdout.close()
        shutil.rmtree(self._folder)

    def _start(self, region: str) -> str:
        """Return the URL that the server prints when it answers."""
        words = ["serve", str(Path(self._folder, region)), "--dialect", "aws", "--port", "0", "--sync", "off"]
        server = subprocess.Popen(
            [sys.executable, "-m", "streamstore.cli", *words, "--region", region, "--account-id", ACCOUNT_ID],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._servers[region] = server
        assert server.stdout is not None
        return server.stdout.readline().strip().rpartition(" ")[2]


account: Final = ServerAccount() if IS_SERVER else StoreAccount()


def client(service: str, region_name: str | None = None) -> object:
    """What tests call in place of ``boto3.client``."""
    if service == "sts":
        return SimpleNamespace(get_caller_identity=lambda: {"Account": ACCOUNT_ID})
    assert service == "kinesis", f"{service} is no service of this store"
    return account.client(region_name or "us-east-1")


@contextmanager
def empty_account() -> Generator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boto3, "client", client)
        try:
            yield
        finally:
            account.reset()


def mock_aws(test: Callable[P, T]) -> Callable[P, T]:
    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with empty_account():
            return test(*args, **kwargs)

    return run


def stand_in_for(name: str, **members: object) -> None:
    module = ModuleType(name)
    module.__dict__.update(members)
    module.__dict__["__path__"] = []
    sys.modules[name] = module


def utcnow() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


stand_in_for("moto.core", DEFAULT_ACCOUNT_ID=ACCOUNT_ID)
stand_in_for("moto.core.utils", utcnow=utcnow)
stand_in_for("moto", mock_aws=mock_aws, settings=SimpleNamespace(TEST_SERVER_MODE=IS_SERVER))


def reasons() -> dict[str, str]:
    """Return why each test that must fail does, by its name: for all parameters, or for the ones in its brackets."""
    listed: dict[str, dict[str, str]] = tomllib.loads(FAILURES.read_text(encoding="utf-8"))
    return {name: reason for reason_of in listed.values() for name, reason in reason_of.items()}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    expected = reasons()
    unknown = expected.keys() - {item.name for item in items}
    if unknown:
        raise pytest.UsageError(f"{FAILURES.name} lists what is no test: {sorted(unknown)}")
    for item in items:
        if item.name in expected:
            item.add_marker(pytest.mark.xfail(strict=True, reason=expected[item.name]))


def pytest_unconfigure() -> None:
    account.close()
