"""The fuzz of a server that runs: garbage, half requests, floods and disconnects, beside one who puts in peace.

The one who puts is answered in time, and each of its records is stored, once. Nothing is answered with a mistake of the
server, and nothing is kept of those who went away. ``HYPOTHESIS_PROFILE=ci`` tries ten times as much, ``release`` a
hundred times.
"""

import contextlib
import itertools
import json
import os
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Final

import pytest
from hypothesis import settings

from streamstore import StreamStore
from streamstore.check import check_store
from streamstore.dialect import AWS
from streamstore.wire import WireRequest
from tests.test_serve import Server, serving
from tests.wire import JSON
from tests.wire_fuzz import Client, mutated_bytes

EFFORT: Final = settings().max_examples / 100
SEED: Final = 6
ANSWER_S_MAX: Final = 10.0  # of one who puts meanwhile; on an idle machine it is milliseconds
GONE_S_MAX: Final = 20.0
RESET: Final = struct.pack("ii", 1, 0)
HTTP_2: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
LEAKED_BYTES_MAX: Final = 24 * 1_048_576
SHARD_IDS: Final = ("shardId-000000000000", "shardId-000000000001")
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Bystander:
    """Puts in peace, one record at a time, and knows what was acknowledged."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.acknowledged: list[str] = []
        self.slowest_s = 0.0
        server.ask("CreateStream", StreamName="steady", ShardCount=1)

    def put(self) -> None:
        begun_s = time.monotonic()
        answer = self._server.ask("PutRecord", StreamName="steady", Data="aGk=", PartitionKey="k")
        self.slowest_s = max(self.slowest_s, time.monotonic() - begun_s)
        self.acknowledged.append(str(answer["SequenceNumber"]))


@pytest.fixture
def fuzzed(tmp_path: Path) -> Iterator[tuple[Server, Bystander]]:
    """A server to molest. At the end it must be well, and so must its store."""
    path, log = tmp_path / "store", tmp_path / "access.log"
    with serving(path, "--access-log", log) as server:
        bystander = Bystander(server)
        server.ask("CreateStream", StreamName="clicks", ShardCount=2)
        yield server, bystander
        bystander.put()
        assert server.get("/healthz").status == 200
        server.end()
    assert bystander.slowest_s < ANSWER_S_MAX
    mistakes = [line for line in map(json.loads, log.read_text().splitlines()) if line["status"] >= 500]
    assert mistakes == []
    with StreamStore(path, read_only=True) as store:
        stored = [record.sequence_number for record in store.read("steady", "shardId-000000000000")]
    assert stored == bystander.acknowledged
    assert check_store(path) == []


def sent_as(request: WireRequest) -> bytes:
    """Return the request as HTTP/1.1 has it."""
    headers = {"host": "localhost", **request.headers, "content-length": str(len(request.body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{request.method} {request.path} HTTP/1.1\r\n{lines}\r\n".encode("utf-8", "replace") + request.body


def garbage(random: Random, client: Client) -> bytes:
    """Return what somebody sends who is no client of HTTP, or a bad one."""
    request = sent_as(client.next_request())
    match random.choice(["bytes", "request", "changed", "half", "two", "http2", "chunked"]):
        case "bytes":
            return random.randbytes(random.randrange(2_000))
        case "request":
            return request
        case "changed":
            for _ in range(random.randrange(1, 4)):
                request = mutated_bytes(random, request)
            return request
        case "half":
            return request[: random.randrange(len(request))]
        case "two":
            return request + mutated_bytes(random, sent_as(client.next_request()))
        case "http2":
            return HTTP_2 + random.randbytes(random.randrange(500))
        case _:
            head = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
            return head + random.choice(
                [b"5\r\nab", b"-1\r\n", b"fffffffffffffffff\r\n", b"2\r\n{}\r\n0\r\n\r\n", b"zz\r\n"]
            )


def send(server: Server, sent: bytes, *, leave: bool, reset: bool) -> bytes:
    """Send something, and return the first of what is answered, unless we leave before."""
    with server.connect() as connection, contextlib.suppress(ConnectionError):
        connection.sendall(sent)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if not leave:
            connection.settimeout(0.05)
            with contextlib.suppress(TimeoutError):
                return connection.recv(65_536)
    return b""


def test_garbage_is_no_mistake_of_the_server_and_troubles_nobody(fuzzed: tuple[Server, Bystander]) -> None:
    server, bystander = fuzzed
    random = Random(SEED)
    client = Client(AWS, random)
    for number in range(round(400 * EFFORT)):
        answer = send(server, garbage(random, client), leave=random.random() < 0.3, reset=random.random() < 0.3)
        assert not answer.startswith(b"HTTP/1.1 5"), answer
        if number % 20 == 0:
            bystander.put()


def descriptors(server: Server) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def resident_bytes(server: Server) -> int:
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * PAGE_BYTES


def becomes(state: Callable[[], bool]) -> bool:
    """Tell whether it is so within a time."""
    end_s = time.monotonic() + GONE_S_MAX
    while not state():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.05)
    return True


HEAD: Final = b"POST / HTTP/1.1\r\nhost: a\r\nx-amz-target: Kinesis_20131202.PutRecord\r\n"
BODY_PROMISED: Final = HEAD + b"content-type: application/x-amz-json-1.1\r\ncontent-length: 5000000\r\n\r\n"


def flood(server: Server, bystander: Bystander, connections: int) -> None:
    """Open many connections that send a head or a body bit by bit, and never end; put meanwhile, and leave."""
    starts = [b"", b"P", HEAD, HEAD + b"x: " + b"y" * 3_000, BODY_PROMISED, BODY_PROMISED + bytes(100_000), HTTP_2]
    with contextlib.ExitStack() as opened:
        slow = [opened.enter_context(server.connect()) for _ in range(connections)]
        for number, connection in enumerate(slow):
            connection.sendall(starts[number % len(starts)])
        for _ in range(3):
            bystander.put()
            for connection in slow:
                with contextlib.suppress(ConnectionError):
                    connection.sendall(b"a")
            bystander.put()
        assert descriptors(server) >= connections // 2  # what is no HTTP at all is closed


def test_a_flood_of_half_requests_stops_nobody_and_leaves_nothing_behind(fuzzed: tuple[Server, Bystander]) -> None:
    server, bystander = fuzzed
    connections = min(2_000, round(1_000 * max(EFFORT, 1)))
    before = descriptors(server)
    resident: list[int] = []
    for _ in range(4):
        flood(server, bystander, connections)
        assert becomes(lambda: descriptors(server) <= before)
        resident.append(resident_bytes(server))
    # The first fills pools that are kept; from then on nothing may grow by what a connection of ours holds.
    assert resident[-1] - resident[1] < LEAKED_BYTES_MAX, resident


def answer_of(server: Server, *parts: bytes) -> bytes:
    """Return what is answered to a request that is sent in parts, as far as the server takes them."""
    with server.connect() as connection:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
        answer = b""
        with contextlib.suppress(ConnectionError, TimeoutError):
            connection.settimeout(ANSWER_S_MAX)
            while b"\r\n\r\n" not in answer and (part := connection.recv(65_536)):
                answer += part
        return answer


def test_what_is_too_large_is_refused_and_not_kept(fuzzed: tuple[Server, Bystander]) -> None:
    server, bystander = fuzzed
    kind = b"content-type: application/x-amz-json-1.1\r\n"
    chunk = b"100000\r\n" + b" " * 1_048_576 + b"\r\n"
    before = descriptors(server)
    for _ in range(round(max(EFFORT, 1))):
        huge_head = answer_of(server, HEAD, *[b"x-%d: " % number + b"y" * 8_000 + b"\r\n" for number in range(64)])
        assert huge_head[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 431")
        bystander.put()
        whole = answer_of(server, HEAD + kind + b"content-length: 8388608\r\n\r\n", b" " * 8_388_608)
        assert whole[:12] in (b"", b"HTTP/1.1 413")
        chunks = answer_of(server, HEAD + kind + b"transfer-encoding: chunked\r\n\r\n", *[chunk] * 9)
        assert chunks[:12] in (b"", b"HTTP/1.1 413")
        bystander.put()
    assert becomes(lambda: descriptors(server) <= before)


def subscription(consumer_arn: str, shard_id: str) -> bytes:
    members = {"ConsumerARN": consumer_arn, "ShardId": shard_id, "StartingPosition": {"Type": "LATEST"}}
    headers = {"content-type": JSON, "x-amz-target": "Kinesis_20131202.SubscribeToShard"}
    return sent_as(WireRequest("POST", "/", "", headers, json.dumps(members).encode()))


def test_subscribers_who_go_away_are_forgotten(fuzzed: tuple[Server, Bystander]) -> None:
    server, bystander = fuzzed
    stream_arn = "arn:aws:kinesis:us-east-1:000000000000:stream/clicks"
    for number in range(20):
        server.ask("RegisterStreamConsumer", StreamARN=stream_arn, ConsumerName=f"reader-{number}")
    listed = server.do("ListStreamConsumers", {"StreamARN": stream_arn}).body
    arns: list[str] = re.findall(r'"ConsumerARN":"([^"]+)"', listed.decode())
    assert len(arns) == 20
    subscribe_and_leave(server, bystander, arns[:2])  # what watches for commits is opened once, and kept
    before = descriptors(server)
    subscribe_and_leave(server, bystander, arns[2:])
    assert becomes(lambda: descriptors(server) <= before)


def subscribe_and_leave(server: Server, bystander: Bystander, consumer_arns: Sequence[str]) -> None:
    with contextlib.ExitStack() as opened:
        for number, (arn, shard_id) in enumerate(itertools.product(consumer_arns, SHARD_IDS)):
            connection = opened.enter_context(server.connect())
            connection.sendall(subscription(arn, shard_id))
            if number % 4:
                assert connection.recv(12) == b"HTTP/1.1 200"
            if number % 2:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        bystander.put()
