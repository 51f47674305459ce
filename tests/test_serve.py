"""`streamstore serve`, as its clients and its operator see it: real sockets, a process of its own."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple, NoReturn
from urllib.parse import urlsplit

import pytest

from streamstore import StreamStore
from streamstore.check import check_store
from streamstore.wire.listener import bind
from streamstore.wire.notify import notify_systemd
from streamstore.wire.serve import ServeError, ServeOptions, Tls, serve
from tests.children import WAIT_S, next_line, started
from tests.signing import KEY_ID, SECRET, signed
from tools.clients.server import certificate

READER: Final = "AKIDREADER"
COLLECTOR: Final = "AKIDCOLLECTOR"
KEYS: Final = f"""
[keys.{KEY_ID}]
secret_access_key = "{SECRET}"

[keys.{READER}]
secret_access_key = "{SECRET}"
read_only = true

[keys.{COLLECTOR}]
secret_access_key = "{SECRET}"
streams = ["clicks"]
actions = ["PutRecord", "GetShardIterator", "GetRecords"]
"""

NOTHING: Final[Mapping[str, object]] = {}


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, object]:
        answer: dict[str, object] = json.loads(self.body or b"{}")
        return answer

    def error(self) -> object:
        return self.json().get("__type")


class Server(NamedTuple):
    """A server that runs. What it says, on both outputs, comes from ``process``."""

    process: "subprocess.Popen[str]"
    url: str

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)

    def get(self, path: str) -> Answer:
        return exchange(http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S), "GET", path)

    def do(
        self, action: str, members: Mapping[str, object] = NOTHING, *, key_id: str = KEY_ID, secret: str = SECRET
    ) -> Answer:
        """Sign and send one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        return do(connection, action, f"{self.url}/", members, key_id=key_id, secret=secret)

    def ask(self, action: str, **members: object) -> dict[str, object]:
        answer = self.do(action, members)
        assert answer.status == 200, answer
        return answer.json()

    def says(self, words: str) -> str:
        """Return the next line that has these words."""
        while words not in (line := next_line(self.process)):
            pass
        return line

    def end(self, number: int = signal.SIGTERM) -> str:
        """Ask the server to end, wait until it has, and return what it said last."""
        self.process.send_signal(number)
        said, _ = self.process.communicate(timeout=WAIT_S)
        assert self.process.returncode == 0, said
        return said


def exchange(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    with contextlib.closing(connection):
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


def do(
    connection: http.client.HTTPConnection,
    action: str,
    url: str,
    members: Mapping[str, object],
    *,
    key_id: str = KEY_ID,
    secret: str = SECRET,
) -> Answer:
    request = signed(
        body=json.dumps(members).encode(),
        url=url,
        headers={"X-Amz-Target": f"Kinesis_20131202.{action}"},
        key_id=key_id,
        secret=secret,
    )
    return exchange(connection, "POST", "/", request.body, request.headers)


def command(store: Path, *options: object) -> list[str]:
    """Return what serves a store; what it says on standard error comes on standard output."""
    serve = ["-W", "error", "-m", "streamstore.cli", "serve", str(store), "--port", "0", "--sync", "off"]
    return ["sh", "-c", 'exec "$@" 2>&1', "sh", sys.executable, *serve, *map(str, options)]


@contextlib.contextmanager
def serving(store: Path, *options: object) -> Generator[Server]:
    with started(command(store, "--dialect", "aws", *options)) as process:
        while not (line := next_line(process)).startswith("serving "):
            pass
        yield Server(process, line.rpartition(" ")[2])


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_keys(tmp_path_factory.mktemp("keys") / "keys.toml", KEYS)


def write_keys(path: Path, text: str) -> Path:
    path.touch(0o600)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Server]:
    """One server with keys, for the tests that leave it as it is; it has the streams "clicks" and "orders"."""
    store = tmp_path_factory.mktemp("serve") / "store"
    with serving(store, "--credentials", keys) as server:
        for stream in ("clicks", "orders"):
            server.ask("CreateStream", StreamName=stream, ShardCount=1)
        yield server
        server.end()
    assert check_store(store) == []


def test_a_put_that_is_signed_is_stored(guarded: Server) -> None:
    put = guarded.ask("PutRecord", StreamName="orders", Data="aGk=", PartitionKey="k")
    assert put["ShardId"] == "shardId-000000000000"
    place = {"ShardIteratorType": "AT_SEQUENCE_NUMBER", "StartingSequenceNumber": put["SequenceNumber"]}
    iterator = guarded.ask("GetShardIterator", StreamName="orders", ShardId=put["ShardId"], **place)["ShardIterator"]
    records = json.loads(guarded.do("GetRecords", {"ShardIterator": iterator}).body)["Records"]
    assert [record["Data"] for record in records] == ["aGk="]


def test_who_has_no_key_is_not_let_in(guarded: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", guarded.port, timeout=WAIT_S)
    headers = {"X-Amz-Target": "Kinesis_20131202.ListStreams", "Content-Type": "application/x-amz-json-1.1"}
    unsigned = exchange(connection, "POST", "/", b"{}", headers)
    assert (unsigned.status, unsigned.error()) == (400, "MissingAuthenticationTokenException")
    assert guarded.do("ListStreams", key_id="AKIDOTHER").error() == "UnrecognizedClientException"
    assert guarded.do("ListStreams", secret=SECRET + "x").error() == "InvalidSignatureException"
    assert guarded.do("ListStreams").status == 200


def test_a_key_that_reads_only_changes_nothing(guarded: Server) -> None:
    assert guarded.do("DescribeStreamSummary", {"StreamName": "clicks"}, key_id=READER).status == 200
    refused: list[tuple[str, Mapping[str, object]]] = [
        ("PutRecord", {"StreamName": "clicks", "Data": "aGk=", "PartitionKey": "k"}),
        ("CreateStream", {"StreamName": "other", "ShardCount": 1}),
        ("DeleteStream", {"StreamName": "clicks"}),
        ("RegisterStreamConsumer", {"StreamARN": arn("clicks"), "ConsumerName": "c"}),
    ]
    for action, members in refused:
        assert guarded.do(action, members, key_id=READER).error() == "AccessDeniedException", action
    assert guarded.ask("ListStreams")["StreamNames"] == ["clicks", "orders"]


def arn(stream: str) -> str:
    return f"arn:aws:kinesis:us-east-1:000000000000:stream/{stream}"


def test_a_key_uses_its_streams_only_however_they_are_named(guarded: Server) -> None:
    def may(action: str, **members: object) -> bool:
        answer = guarded.do(action, members, key_id=COLLECTOR)
        assert answer.error() in (None, "AccessDeniedException")
        return answer.status == 200

    record = {"Data": "aGk=", "PartitionKey": "k"}
    place = {"ShardId": "shardId-000000000000", "ShardIteratorType": "LATEST"}
    assert may("PutRecord", StreamName="clicks", **record)
    assert may("PutRecord", StreamARN=arn("clicks"), **record)
    assert not may("PutRecord", StreamName="orders", **record)
    assert not may("PutRecord", StreamARN=arn("orders"), **record)
    assert may("GetShardIterator", StreamName="clicks", **place)
    assert not may("GetShardIterator", StreamName="orders", **place)
    # The iterator of somebody else, who may read that stream.
    assert may("GetRecords", **guarded.ask("GetShardIterator", StreamName="clicks", **place))
    assert not may("GetRecords", **guarded.ask("GetShardIterator", StreamName="orders", **place))
    assert not may("DescribeStreamSummary", StreamName="clicks")
    assert not may("ListStreams")


def test_a_subscription_ends_with_its_shard(guarded: Server) -> None:
    """The answer ends by itself, and not only with its reader."""
    guarded.ask("CreateStream", StreamName="ended", ShardCount=1)
    guarded.ask("PutRecord", StreamName="ended", Data="aGk=", PartitionKey="k")
    shard_id = "shardId-000000000000"
    guarded.ask("SplitShard", StreamName="ended", ShardToSplit=shard_id, NewStartingHashKey="9")
    registered = guarded.do("RegisterStreamConsumer", {"StreamARN": arn("ended"), "ConsumerName": "c"})
    consumer_arn: str = json.loads(registered.body)["Consumer"]["ConsumerARN"]
    place = {"ShardId": shard_id, "StartingPosition": {"Type": "TRIM_HORIZON"}}
    events = guarded.do("SubscribeToShard", {"ConsumerARN": consumer_arn, **place})
    assert events.status == 200
    assert b"aGk=" in events.body
    assert b"shardId-000000000002" in events.body
    guarded.ask("DeleteStream", StreamName="ended", EnforceConsumerDeletion=True)


def test_health_and_metrics_need_no_key_on_this_machine(guarded: Server) -> None:
    assert guarded.get("/healthz").json() == {"status": "ok"}
    metrics = guarded.get("/metrics")
    assert metrics.status == 200
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"streamstore_streams 2.0\n" in metrics.body


GARBAGE: Final[Mapping[str, bytes]] = {
    "nothing": b"",
    "no HTTP": b"\x00\xff\x16\x03\x01" * 100,
    "half a line": b"POST / HT",
    "half a head": b"POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Ta",
    "half a body": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
    "a length that is none": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a chunk that is none": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a huge head": b"POST / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 200_000 + b"\r\n\r\n",
    "many headers": b"POST / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 10_000 + b"\r\n",
    "half a hello of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM",
    "a hello of HTTP/2 and garbage": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1_000,
    "bytes that are no text in a header": b"POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: \xff\xfe\r\n\r\n",
    "bytes that are no text in the path": b"POST /\xff%ff%zz HTTP/1.1\r\nHost: x\r\n\r\n",
    "a foreign upgrade": b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_and_disconnects_cost_nothing_and_lose_nothing(guarded: Server, name: str) -> None:
    """Some who send it wait for an answer, some go at once, and one stays to the end of the test."""
    with guarded.connect() as staying:
        send(staying, GARBAGE[name])
        for _ in range(3):
            with guarded.connect() as leaving:
                send(leaving, GARBAGE[name])
        with guarded.connect() as asking:
            send(asking, GARBAGE[name])
            with contextlib.suppress(OSError):  # it may have gone already
                asking.shutdown(socket.SHUT_WR)
            assert not answer_to(asking).startswith((b"HTTP/1.1 2", b"HTTP/1.1 500"))
        put = guarded.ask("PutRecord", StreamName="orders", Data="aGk=", PartitionKey="k")
        assert "SequenceNumber" in put


def send(connection: socket.socket, content: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # it may refuse before it has read everything
        connection.sendall(content)


def answer_to(connection: socket.socket) -> bytes:
    """Return what is answered until the server ends the connection."""
    parts: list[bytes] = []
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65_536):
            parts.append(part)
    return b"".join(parts)


def test_a_body_that_is_too_long_is_refused(guarded: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", guarded.port, timeout=WAIT_S)
    request = signed(body=bytes(7 * 1_048_576 + 1))
    assert exchange(connection, "POST", "/", request.body, request.headers).status == 413


def test_hundreds_of_connections_that_say_nothing_keep_nobody_out(guarded: Server) -> None:
    with contextlib.ExitStack() as opened:
        for number in range(300):
            send(opened.enter_context(guarded.connect()), GARBAGE["half a head"] if number % 2 else b"")
        assert guarded.get("/healthz").status == 200
        guarded.ask("PutRecord", StreamName="orders", Data="aGk=", PartitionKey="k")


def test_a_stop_finishes_what_came_and_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Producers put until the server is gone; then the store has what they were told, in its order."""
    acknowledged: list[list[int]] = [[] for _ in range(4)]
    enough = threading.Event()

    def produce(server: Server, numbers: list[int]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S)
        members = json.dumps({"StreamName": "clicks", "Data": "aGk=", "PartitionKey": "k"}).encode()
        headers = {"X-Amz-Target": "Kinesis_20131202.PutRecord", "Content-Type": "application/x-amz-json-1.1"}
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            while True:
                connection.request("POST", "/", members, headers)
                response = connection.getresponse()
                body = response.read()
                if response.status != 200:
                    assert response.status == 503, body
                    return
                numbers.append(int(json.loads(body)["SequenceNumber"]))
                if len(numbers) == 20:
                    enough.set()

    with started(command(tmp_path / "store", "--dialect", "aws")) as process:
        assert "everybody on this machine may do everything; nobody else is let in" in next_line(process)
        server = Server(process, next_line(process).rpartition(" ")[2])
        assert server.url.startswith("http://127.0.0.1:")
        server.ask("CreateStream", StreamName="clicks", ShardCount=1)
        producers = [threading.Thread(target=produce, args=(server, numbers)) for numbers in acknowledged]
        for producer in producers:
            producer.start()
        assert enough.wait(WAIT_S)
        said = server.end()
        for producer in producers:
            producer.join(WAIT_S)
    assert said.splitlines()[-1] == "streamstore: stopped; everything that was acknowledged is in the store."
    with StreamStore(tmp_path / "store", read_only=True) as store:
        stored = {int(record.sequence_number) for record in store.read("clicks", "shardId-000000000000")}
    assert {number for numbers in acknowledged for number in numbers} <= stored
    assert all(numbers == sorted(set(numbers)) for numbers in acknowledged)
    assert check_store(tmp_path / "store") == []


def test_a_hangup_reads_the_keys_anew_and_keeps_the_old_ones_if_it_cannot(tmp_path: Path) -> None:
    path, log = write_keys(tmp_path / "keys.toml", KEYS), tmp_path / "access.log"
    with serving(tmp_path / "store", "--credentials", path, "--access-log", log) as server:
        assert server.do("ListStreams").status == 200
        path.write_text(KEYS.replace(KEY_ID, "AKIDNEW"), encoding="utf-8")
        log.rename(tmp_path / "old.log")
        server.process.send_signal(signal.SIGHUP)
        server.says("Read the keys")
        assert server.do("ListStreams").error() == "UnrecognizedClientException"
        assert server.do("ListStreams", key_id="AKIDNEW").status == 200
        path.write_text("[keys", encoding="utf-8")
        server.process.send_signal(signal.SIGHUP)
        assert "The keys of before stay in force" in server.says("is no TOML")
        assert server.do("ListStreams", key_id="AKIDNEW").status == 200
        server.end()
    assert [json.loads(line)["key"] for line in (tmp_path / "old.log").read_text().splitlines()] == [KEY_ID]
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["key"], line["code"]) for line in lines] == [
        (KEY_ID, "UnrecognizedClientException"),
        ("AKIDNEW", None),
        ("AKIDNEW", None),
    ]
    assert SECRET not in log.read_text()


def options_of(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    credentials: Path | None = None,
    tls: Tls | None = None,
    access_log: str | None = None,
) -> ServeOptions:
    return ServeOptions(host, port, credentials, tls, access_log, metrics_for_all=False)


def refusal(store: StreamStore, options: ServeOptions) -> str:
    """Return what is said of a server that does not start."""

    def be_ready(url: str) -> NoReturn:
        raise AssertionError(f"it serves at {url}")

    with pytest.raises(ServeError) as error:
        serve(store, options, on_ready=be_ready, say=lambda _: None)
    return str(error.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_serving_others_without_keys_is_refused(store: StreamStore, host: str) -> None:
    assert f"Serving at {host} needs a file of keys" in refusal(store, options_of(host=host))


def test_what_it_cannot_serve_with_it_says_in_a_sentence(store: StreamStore, tmp_path: Path, keys: Path) -> None:
    assert "cannot be read" in refusal(store, options_of(credentials=tmp_path / "none.toml"))
    assert "Cannot use the certificate" in refusal(store, options_of(tls=Tls(keys, keys)))
    assert "Cannot use the certificate" in refusal(store, options_of(tls=Tls(tmp_path / "none.pem", keys)))
    assert "Cannot write the access log" in refusal(store, options_of(access_log=str(tmp_path)))
    with bind("127.0.0.1", 0) as taken:  # as a server does
        port: int = taken.getsockname()[1]
        assert f"Cannot listen at 127.0.0.1 port {port}" in refusal(store, options_of(port=port))
    assert "Cannot listen at 192.0.2.1" in refusal(store, options_of(host="192.0.2.1", credentials=keys))


def test_the_command_ends_with_the_sentence(tmp_path: Path) -> None:
    with started(command(tmp_path / "store", "--host", "0.0.0.0")) as process:
        said, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert said.startswith("streamstore: Serving at 0.0.0.0 needs a file of keys")
    assert said.count("\n") == 1


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_it_serves_over_tls(tmp_path: Path) -> None:
    made, key = certificate(tmp_path)
    with serving(tmp_path / "store", "--tls-cert", made, "--tls-key", key) as server:
        assert server.url.startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=str(made))
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=WAIT_S)
        members = {"StreamName": "clicks", "ShardCount": 1}
        answer = do(connection, "CreateStream", f"{server.url}/", members)
        assert answer.status == 200
        server.end()


def test_systemd_is_told_when_it_is_ready_and_when_it_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"streamstore-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        listener.settimeout(WAIT_S)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        with serving(tmp_path / "store") as server:
            assert listener.recv(100) == b"READY=1"
            server.end(signal.SIGINT)
            assert listener.recv(100) == b"STOPPING=1"


def test_systemd_may_listen_at_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("notify")
        listener.settimeout(WAIT_S)
        # A path has at most 107 bytes, which the folder of a test may pass.
        monkeypatch.setenv("NOTIFY_SOCKET", "/proc/self/cwd/notify")
        notify_systemd("READY=1")
        assert listener.recv(100) == b"READY=1"


def test_telling_systemd_never_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for address in ("", "nonsense", str(tmp_path / "none"), "/" + "x" * 200, "@none"):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify_systemd("READY=1")
