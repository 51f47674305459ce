"""PutRecord over HTTP: ours, kinesalite and moto, each a server process on loopback, driven by wrk, or by h2load.

A turn is some seconds of these, which send prepared requests: the records cost the load nothing, and the CPUs are
left to the server. Every answer must be a success. Behind the last turn our server is ended, its store opened and every
record in it proved; the others keep nothing on the disk, so there is nothing to look at.

What is missing (wrk, h2load, node, kinesalite, moto) is installed: as root from Debian, and into a folder of its own.
"""

import base64
import hmac
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, Final, Literal, NamedTuple, TypeVar

from benchmarks.contenders import STREAM_NAME, Streamstore
from benchmarks.payloads import WrongDataError, check_payload, make_payloads, partition_key_of
from benchmarks.trials import Setup, StartTrial, settle
from streamstore import StreamStore

__all__ = [
    "Kinesalite",
    "Moto",
    "Served",
    "ServedByAllCpus",
    "ServedSigned",
    "ServedStreamstore",
    "ServedToH2load",
    "ServedWithRetryKeys",
    "load_of_h2load",
    "over_connections",
    "over_http",
    "reason_not_served",
]

SCRIPT: Final = Path(__file__).with_name("put_record.lua")
MARK: Final = "@--name-of-the-request--@"
PREFIX_CHARACTERS: Final = len(MARK) - 16
PAYLOADS: Final = 1_000  # of each turn, sent again and again
TURN_S: Final = 5
SMOKE_TURN_S: Final = 1  # the least that wrk can
READY_S: Final = 30.0
END_S: Final = 60.0
INSTALL_S: Final = 600
KINESALITE: Final = "kinesalite@3.3.3"
MOTO: Final = "moto[server]==5.2.5"
REGION: Final = "us-east-1"
KEY_ID: Final = "AKIDBENCHMARK"
SECRET: Final = "the-secret-of-the-benchmark"
KEYS: Final = f'[keys.{KEY_ID}]\nsecret_access_key = "{SECRET}"\n'
HOST: Final = "127.0.0.1"
TARGET: Final = "Kinesis_20131202"
JSON: Final = "application/x-amz-json-1.1"
DEBIAN_PACKAGES: Final = {
    "wrk": ("wrk",),
    "h2load": ("nghttp2-client",),
    "node": ("nodejs", "npm"),
    "npm": ("nodejs", "npm"),
}
REQUESTS_OF_H2LOAD: Final = re.compile(
    r"finished in (?P<time>[0-9.]+)(?P<unit>us|ms|s),.*\n"
    r"requests: [0-9]+ total, [0-9]+ started, (?P<done>[0-9]+) done, [0-9]+ succeeded, "
    r"(?P<failed>[0-9]+) failed, (?P<errored>[0-9]+) errored, (?P<timeout>[0-9]+) timeout"
)
MICROSECONDS: Final = {"us": 1, "ms": 1_000, "s": 1_000_000}


class Load(NamedTuple):
    """What came of one turn."""

    requests: int
    """That were answered, also with an error."""
    microseconds: int
    refused: int
    failed: int


class Served(ABC):
    """A server with one stream of one shard. ``tools`` are the programs that it needs, with the one that loads it."""

    durability: ClassVar[str]
    package: ClassVar[str | None] = None
    tools: ClassVar[tuple[str, ...]] = ("wrk",)

    def __init__(self, path: Path, library: Path | None = None) -> None:
        """Start the server on a free port. ``library``: where software is installed that it needs."""
        self.path = path
        self.port = free_port()
        self._process = subprocess.Popen(
            self.command(library or path),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._create_stream()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def command(self, library: Path) -> Sequence[str]:
        """Return what starts the server. What it needs for that is made here."""

    @abstractmethod
    def read_back(self) -> Iterator[bytes]:
        """Yield the payload of each record that an ended server has left on the disk."""

    def requests(self, payloads: Iterable[bytes]) -> Iterator[bytes]:
        """Yield a request for each payload, as it is sent."""
        for payload in payloads:
            yield self.request("PutRecord", members_of(payload))

    def request(self, action: str, members: object) -> bytes:
        body = json.dumps(members).encode("ascii")
        headers = self.headers(action, body) | {"Content-Length": str(len(body))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST / HTTP/1.1\r\n{lines}\r\n".encode("ascii") + body

    def headers(self, action: str, body: bytes) -> dict[str, str]:
        """Return the headers that a client sends. The signature is right in form, which kinesalite asks for."""
        return signed_headers(self.port, action, body, signature="0" * 64)

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _create_stream(self) -> None:
        """Wait until the server answers, and its stream does."""
        deadline_s = time.monotonic() + READY_S
        while True:
            try:
                self.ask("CreateStream", {"StreamName": STREAM_NAME, "ShardCount": 1})
                answer = self.ask("DescribeStreamSummary", {"StreamName": STREAM_NAME})
                if b'"ACTIVE"' in answer:
                    return
            except OSError:
                pass
            if time.monotonic() > deadline_s or self._process.poll() is not None:
                raise RuntimeError(f"{type(self).__name__} does not answer: {self._process.args!r}")
            time.sleep(0.05)

    def ask(self, action: str, members: object) -> bytes:
        body = json.dumps(members).encode("ascii")
        connection = http.client.HTTPConnection(HOST, self.port, timeout=READY_S)
        try:
            connection.request("POST", "/", body, self.headers(action, body))
            return connection.getresponse().read()
        finally:
            connection.close()


class ServedStreamstore(Served):
    """This project: ``streamstore serve``, a process of its own."""

    durability: ClassVar[str] = Streamstore.durability

    def command(self, library: Path) -> Sequence[str]:
        del library
        serve = ("-m", "streamstore.cli", "serve", str(self.path / "store"), "--dialect", "aws")
        return [sys.executable, *serve, "--port", str(self.port), *self.options()]

    def options(self) -> Sequence[str]:
        return ()

    def read_back(self) -> Iterator[bytes]:
        with StreamStore(self.path / "store", read_only=True) as store:
            for shard in store.list_shards(STREAM_NAME).shards:
                yield from (bytes(record.data) for record in store.read(STREAM_NAME, shard.shard_id))


class ServedByAllCpus(ServedStreamstore):
    """Several processes serve the store: one for each CPU."""

    def options(self) -> Sequence[str]:
        return ("--processes", str(os.cpu_count() or 1))


class ServedToH2load(ServedStreamstore):
    """Driven by h2load."""

    tools: ClassVar[tuple[str, ...]] = ("h2load",)


class ServedWithRetryKeys(ServedStreamstore):
    """Each request has a name, as those of SDKs have, under which it may be sent again and is stored once."""

    def headers(self, action: str, body: bytes) -> dict[str, str]:
        return super().headers(action, body) | {"amz-sdk-invocation-id": MARK}


class ServedSigned(ServedStreamstore):
    """Each request is signed, and its signature verified."""

    def options(self) -> Sequence[str]:
        keys = self.path / "keys.toml"
        keys.touch(0o600)
        keys.write_text(KEYS)
        return ("--credentials", str(keys))

    def headers(self, action: str, body: bytes) -> dict[str, str]:
        return signed_headers(self.port, action, body)


class Kinesalite(Served):
    """kinesalite from npm, in its default: in memory."""

    durability: ClassVar[str] = "NOT durable: in memory, nothing is on the disk"
    tools: ClassVar[tuple[str, ...]] = ("wrk", "node", "npm")

    def command(self, library: Path) -> Sequence[str]:
        program = library / "node_modules" / "kinesalite" / "cli.js"
        if not program.exists():
            install("npm", "install", "--no-audit", "--no-fund", "--prefix", str(library), KINESALITE)
        return ["node", str(program), "--port", str(self.port), "--createStreamMs", "0"]

    def read_back(self) -> Iterator[bytes]:
        yield from ()


class Moto(Served):
    """moto's server from PyPI, in a virtual environment of its own."""

    durability: ClassVar[str] = "NOT durable: in memory, nothing is on the disk"

    def command(self, library: Path) -> Sequence[str]:
        environment = library / "moto"
        if not environment.exists():
            install(sys.executable, "-m", "venv", str(environment))
            install(str(environment / "bin" / "pip"), "install", "--quiet", MOTO)
        return [str(environment / "bin" / "moto_server"), "-H", HOST, "-p", str(self.port)]

    def read_back(self) -> Iterator[bytes]:
        yield from ()


S = TypeVar("S", bound=Served)


class ServedTrial(ABC):
    """PutRecords per second that are answered, so many at a time, each of which waits for its answer."""

    def __init__(self, setup: Setup, kind: type[Served]) -> None:
        self._setup = setup
        self._server = kind(setup.path, setup.library)
        self._seconds = TURN_S if setup.records_max is None else SMOKE_TURN_S
        self._turns = 0
        self._acknowledged = 0

    @abstractmethod
    def load(self) -> Load:
        """Send requests for some seconds."""

    def turn(self) -> float:
        self._turns += 1
        load = self.load()
        if load.refused or load.failed:
            raise WrongDataError(f"{load.refused} requests were refused and {load.failed} failed of {load.requests}")
        self._acknowledged += load.requests
        return load.requests / load.microseconds * 1e6

    def finish(self) -> None:
        """End the server and prove what it has stored: all that was answered, and at most what else was sent."""
        self._server.close()
        if not isinstance(self._server, ServedStreamstore):
            return
        stored = 0
        for payload in self._server.read_back():
            check_payload(payload, self._setup.payload_bytes)
            stored += 1
        unanswered_max = self._turns * self._setup.producers
        if not self._acknowledged <= stored <= self._acknowledged + unanswered_max:
            raise WrongDataError(f"{self._acknowledged} records were acknowledged, and {stored} are stored")

    def close(self) -> None:
        self._server.close()


class WrkTrial(ServedTrial):
    """Over as many connections of HTTP/1.1, with a record of its own for each request."""

    def load(self) -> Load:
        requests = self._setup.path / "requests"
        payloads = make_payloads(0, PAYLOADS, self._setup.payload_bytes)
        write_requests(requests, self._server.requests(payloads))
        settle()
        load = ("-t1", f"-c{self._setup.producers}", f"-d{self._seconds}s", "--timeout", "30s", "-s", str(SCRIPT))
        name_prefix = f"{os.getpid() % 10_000:04}{self._turns:05}"
        assert len(name_prefix) == PREFIX_CHARACTERS
        url = f"http://{HOST}:{self._server.port}/"
        done = subprocess.run(
            ["wrk", *load, url, "--", str(requests), name_prefix], check=True, stdout=subprocess.PIPE, text=True
        )
        return Load(**json.loads(done.stdout.splitlines()[-1]))


class H2loadTrial(ServedTrial):
    """Over so many connections, each with its share of the requests at a time; all put the same record."""

    def __init__(self, setup: Setup, kind: type[Served], protocol: str, connections: int) -> None:
        super().__init__(setup, kind)
        self._protocol = protocol
        self._connections = connections

    def load(self) -> Load:
        (payload,) = make_payloads(0, 1, self._setup.payload_bytes)
        body = self._setup.path / "body"
        body.write_text(json.dumps(members_of(payload)), encoding="ascii")
        headers = self._server.headers("PutRecord", body.read_bytes())
        words = [f"-H{name}: {value}" for name, value in headers.items() if name != "Host"]
        share = self._setup.producers // self._connections
        load = (f"-c{self._connections}", f"-m{share}", f"-D{self._seconds}s", f"-p{self._protocol}", "-d", str(body))
        settle()
        done = subprocess.run(
            ["h2load", *load, *words, f"http://{HOST}:{self._server.port}/"],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return load_of_h2load(done.stdout)


def load_of_h2load(said: str) -> Load:
    found = REQUESTS_OF_H2LOAD.search(said)
    if found is None:
        raise RuntimeError(f"h2load says nothing of its requests: {said[-2_000:]}")
    return Load(
        requests=int(found["done"]),
        microseconds=round(float(found["time"]) * MICROSECONDS[found["unit"]]),
        refused=int(found["failed"]) - int(found["errored"]),
        failed=int(found["errored"]) + int(found["timeout"]),
    )


def over_http(kind: type[Served]) -> StartTrial:
    return lambda setup: WrkTrial(setup, kind)


def over_connections(protocol: Literal["h2c", "http/1.1"], connections: int) -> StartTrial:
    """Return what measures ours with requests of h2load, spread over so many connections."""
    return lambda setup: H2loadTrial(setup, ServedToH2load, protocol, connections)


def reason_not_served(kind: type[Served]) -> str | None:
    """Return why the server cannot take part on this machine, after having tried to install what it lacks."""
    lacking = [tool for tool in kind.tools if not is_installed(tool)]
    return f"{', '.join(lacking)} not found, and not installed from Debian" if lacking else None


@cache
def is_installed(tool: str) -> bool:
    """Tell whether there is such a program. One that there is not is installed first, if that can be."""
    if shutil.which(tool) is None and os.geteuid() == 0 and shutil.which("apt-get") is not None:
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (("update",), ("install", "-y", *DEBIAN_PACKAGES[tool])):
            subprocess.run(["apt-get", "-qq", *command], env=environment, check=False, stdout=subprocess.DEVNULL)
    return shutil.which(tool) is not None


def install(*command: str) -> None:
    print(f"  installing: {' '.join(command)}", flush=True)
    done = subprocess.run(command, check=False, timeout=INSTALL_S, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} has failed:\n{done.stderr[-2_000:]}")


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        port: int = bound.getsockname()[1]
        return port


def members_of(payload: bytes) -> dict[str, str]:
    data = base64.b64encode(payload).decode("ascii")
    return {"StreamName": STREAM_NAME, "Data": data, "PartitionKey": partition_key_of(payload)}


def write_requests(path: Path, requests: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        for request in requests:
            file.write(b"%08d" % len(request) + request)


def signed_headers(port: int, action: str, body: bytes, *, signature: str | None = None) -> dict[str, str]:
    """Return the headers of a request, signed with Signature Version 4 now, or with the signature given."""
    now = datetime.now(UTC)
    date = f"{now:%Y%m%d}"
    headers = {
        "Content-Type": JSON,
        "Host": f"{HOST}:{port}",
        "X-Amz-Date": f"{now:%Y%m%dT%H%M%SZ}",
        "X-Amz-Target": f"{TARGET}.{action}",
    }
    names = ";".join(name.lower() for name in headers)
    lines = "".join(f"{name.lower()}:{value}\n" for name, value in headers.items())
    canonical = f"POST\n/\n\n{lines}\n{names}\n{sha256(body).hexdigest()}"
    scope = f"{date}/{REGION}/kinesis/aws4_request"
    if signature is None:
        key = f"AWS4{SECRET}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        digest = sha256(canonical.encode()).hexdigest()
        to_sign = f"AWS4-HMAC-SHA256\n{headers['X-Amz-Date']}\n{scope}\n{digest}"
        signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    credential = f"Credential={KEY_ID}/{scope}, SignedHeaders={names}, Signature={signature}"
    return headers | {"Authorization": f"AWS4-HMAC-SHA256 {credential}"}
