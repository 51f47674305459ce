"""`streamstore serve --processes`: several processes serve one store, and one more watches over them."""

import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Final

import pytest

from streamstore import StreamStore
from streamstore.check import check_store
from streamstore.wire.counts import Counts, CountsBoard
from streamstore.wire.listener import bind
from streamstore.wire.supervisor import UNREADY_MAX
from tests.children import WAIT_S, code, next_line, run, started
from tests.test_serve import KEYS, Server, command, serving, write_keys

PROCESSES: Final = 3
STREAM: Final = "clicks"
CONNECTIONS: Final = 24
"""So many that each process has one: that one of three has none happens once in 10,000 runs."""


def processes_of(server: Server) -> list[int]:
    """Return those that serve, the oldest first."""
    return children_of(server.process.pid)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(what: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def are_gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@contextlib.contextmanager
def serving_in_processes(store: Path, *options: object) -> Generator[Server]:
    with serving(store, "--processes", PROCESSES, *options) as server:
        server.ask("CreateStream", StreamName=STREAM, ShardCount=2)
        yield server
    assert check_store(store) == []


class Client:
    """One connection, which one of the processes has taken."""

    def __init__(self, server: Server) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S)

    def put(self, data: str, *, invocation_id: str | None = None) -> tuple[str, int]:
        """Return the shard and the sequence number."""
        text = base64.b64encode(data.encode()).decode()
        body = json.dumps({"StreamName": STREAM, "Data": text, "PartitionKey": data})
        headers = {"X-Amz-Target": "Kinesis_20131202.PutRecord", "Content-Type": "application/x-amz-json-1.1"}
        if invocation_id is not None:
            headers["amz-sdk-invocation-id"] = invocation_id
        self._connection.request("POST", "/", body, headers)
        response = self._connection.getresponse()
        answer = json.loads(response.read())
        assert response.status == 200, answer
        return answer["ShardId"], int(answer["SequenceNumber"])

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving_in_processes(tmp_path / "store") as server:
        yield server
        server.end()


@pytest.fixture
def clients(server: Server) -> Iterator[list[Client]]:
    with contextlib.ExitStack() as open_clients:
        yield [open_clients.enter_context(contextlib.closing(Client(server))) for _ in range(CONNECTIONS)]


def connections_of(pid: int, port: int) -> int:
    """Return how many clients a process has taken."""
    local = f":{port:04X}"
    inodes = {
        line.split()[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[1].endswith(local) and line.split()[3] == "01"  # established
    }
    count = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(descriptor).removeprefix("socket:[").removesuffix("]") in inodes
    return count


def test_each_process_has_clients_and_what_all_put_is_one_order(server: Server, clients: list[Client]) -> None:
    put: list[tuple[str, int]] = []

    def work(client: Client, name: int) -> None:
        put.extend([client.put(f"{name:02}{number:02}") for number in range(20)])

    threads = [threading.Thread(target=work, args=(client, name)) for name, client in enumerate(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert all(connections_of(pid, server.port) for pid in processes_of(server))
    shards = Counter(shard for shard, _ in put)
    assert sum(shards.values()) == 20 * CONNECTIONS
    assert sorted(put) == [(shard, number) for shard in sorted(shards) for number in range(shards[shard])]


def test_a_put_that_is_sent_again_to_another_process_is_stored_once(clients: list[Client]) -> None:
    assert len({client.put("once", invocation_id="5f0c") for client in clients}) == 1


class Scraper:
    """Asks one of the processes for its metrics, always the same one."""

    def __init__(self, server: Server) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S)

    def metric(self, name: str) -> float:
        self._connection.request("GET", "/metrics")
        lines = self._connection.getresponse().read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def close(self) -> None:
        self._connection.close()


PUTS: Final = 'streamstore_requests_total{action="PutRecord",code="OK"}'


def test_whichever_is_asked_shows_what_all_have_counted(server: Server, clients: list[Client]) -> None:
    for client in clients:
        client.put("a")
    with contextlib.closing(Scraper(server)) as scraper:
        wait_until(lambda: scraper.metric(PUTS) == CONNECTIONS)
        wait_until(lambda: scraper.metric("streamstore_records_put_total") == CONNECTIONS)


def test_what_all_have_counted_of_a_shard_is_added_up_as_soon_as_it_is_enabled(
    server: Server, clients: list[Client]
) -> None:
    clients[0].put("a")
    server.ask("EnableEnhancedMonitoring", StreamName=STREAM, ShardLevelMetrics=["IncomingRecords"])
    put = dict(Counter(client.put(f"{number}")[0] for number, client in enumerate(clients)))
    series = "streamstore_shard_incoming_records_total"
    with contextlib.closing(Scraper(server)) as scraper:
        wait_until(lambda: {shard: scraper.metric(f'{series}{{shard="{shard}"') for shard in put} == put)
        assert scraper.metric(series) == CONNECTIONS
        server.ask("DisableEnhancedMonitoring", StreamName=STREAM, ShardLevelMetrics=["ALL"])
        assert scraper.metric(series) == 0


def test_what_a_killed_process_has_counted_is_not_forgotten(server: Server, clients: list[Client]) -> None:
    for client in clients:
        client.put("a")
    with contextlib.closing(Scraper(server)) as scraper:
        wait_until(lambda: scraper.metric(PUTS) == CONNECTIONS)
    for process in processes_of(server):
        os.kill(process, signal.SIGKILL)
        server.says("another takes its place")
    wait_until(lambda: len(processes_of(server)) == PROCESSES)
    with contextlib.closing(Scraper(server)) as scraper:
        assert scraper.metric(PUTS) == CONNECTIONS


def test_a_process_that_is_killed_is_followed_by_another_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    acknowledged: set[tuple[str, int]] = set()
    is_over = threading.Event()

    def work(server: Server, name: int) -> None:
        client = Client(server)
        number = 0
        while not is_over.is_set():
            try:
                acknowledged.add(client.put(f"{name} {number}", invocation_id=f"{name} {number}"))
                number += 1
            except (OSError, http.client.HTTPException):  # its process is gone, or is just being started
                client.close()
                client = Client(server)
        client.close()

    with serving_in_processes(tmp_path / "store") as server:
        threads = [threading.Thread(target=work, args=(server, name)) for name in range(6)]
        for thread in threads:
            thread.start()
        for turn in range(6):
            processes = processes_of(server)
            os.kill(processes[turn % PROCESSES], signal.SIGKILL)
            assert "was ended by SIGKILL; another takes its place" in server.says("Process ")
            wait_until(lambda: len(processes_of(server)) == PROCESSES)
        is_over.set()
        for thread in threads:
            thread.join(WAIT_S)
        server.end()
    with StreamStore(tmp_path / "store", read_only=True) as store:
        stored = [
            (shard.shard_id, int(record.sequence_number), record.data)
            for shard in store.list_shards(STREAM).shards
            for record in store.read(STREAM, shard.shard_id)
        ]
    assert acknowledged <= {(shard, number) for shard, number, _ in stored}
    assert len({data for _, _, data in stored}) == len(stored), "each put is stored once"
    assert len(acknowledged) > 6


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_all_end_well_together(tmp_path: Path, number: int) -> None:
    with serving_in_processes(tmp_path / "store") as server:
        processes = processes_of(server)
        assert len(processes) == PROCESSES
        said = server.end(number)
        assert said.count("stopped; everything that was acknowledged is in the store") == 1
        assert are_gone(processes)


def test_one_that_is_asked_to_end_is_followed_by_another(server: Server) -> None:
    (first, *_) = processes_of(server)
    os.kill(first, signal.SIGTERM)
    assert f"Process {first} of the server has ended; another takes its place" in server.says("Process ")
    wait_until(lambda: len(processes_of(server)) == PROCESSES)


def test_they_end_when_who_watches_is_killed(tmp_path: Path) -> None:
    with serving(tmp_path / "store", "--processes", PROCESSES) as server:
        processes = processes_of(server)
        os.kill(server.process.pid, signal.SIGKILL)
        wait_until(lambda: are_gone(processes))


def test_keys_are_read_anew_by_all(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.toml", KEYS)
    with serving_in_processes(tmp_path / "store", "--credentials", keys) as server:
        keys.write_text(KEYS.replace("AKIDREADER", "AKIDNEW"), encoding="utf-8")
        server.process.send_signal(signal.SIGHUP)
        server.says("Read the keys")
        wait_until(lambda: {server.do("ListStreams", key_id="AKIDNEW").status for _ in range(CONNECTIONS)} == {200})
        server.end()


def test_systemd_is_told_once_all_are_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0streamstore-test-{os.getpid()}")
        listener.settimeout(WAIT_S)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@streamstore-test-{os.getpid()}")
        with serving(tmp_path / "store", "--processes", PROCESSES) as server:
            assert listener.recv(100) == b"READY=1"
            server.end()
            assert listener.recv(100) == b"STOPPING=1"
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.recv(100)


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (("--transition-ms", 1), 2, "--transition-ms needs --processes 1"),
        (("--host", "0.0.0.0"), 1, "Serving at 0.0.0.0 needs a file of keys"),
        (("--credentials", "none.toml"), 1, "none.toml"),
        (("--tls-cert", "none.pem", "--tls-key", "none.pem"), 1, "Cannot use the certificate"),
        (("--account-id", "1"), 1, "account_id"),
    ],
)
def test_what_is_wrong_is_said_once_and_all_end(
    tmp_path: Path, options: tuple[object, ...], status: int, words: str
) -> None:
    with started(command(tmp_path / "store", "--processes", PROCESSES, *options)) as process:
        said, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == status
    told = [line for line in said.splitlines() if "No --credentials" not in line]
    assert len(told) == 1
    assert words in told[0]


def test_a_port_where_somebody_serves_is_taken(server: Server, tmp_path: Path) -> None:
    for count in (1, 2):
        with started(command(tmp_path / "other", "--processes", count, "--port", server.port)) as process:
            said, _ = process.communicate(timeout=WAIT_S)
        assert process.returncode == 1
        assert f"Cannot listen at 127.0.0.1 port {server.port}: Address already in use." in said
    with pytest.raises(OSError, match="in use"):
        bind("127.0.0.1", server.port)


FAILING: Final = """
import os, signal, sys, time
from streamstore.wire.supervisor import supervise, tell_ready

def work(place, channel):
    {what}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGHUP, lambda *_: os.write(1, b"hung up %d\\n" % place))
    tell_ready(channel)
    while True:
        time.sleep(1)

def tell(text):
    print(text, flush=True)

supervise(work, 3, on_ready=lambda: tell("ready"), on_stop=lambda: tell("stop"), say=tell)
"""


KILLED: Final = "os.kill(os.getpid(), signal.SIGKILL)"


def test_one_that_fails_ends_all_with_its_status() -> None:
    assert run(code(FAILING.format(what="place == 1 and sys.exit(7)")), status=7) == "stop\n"


def test_one_that_is_killed_before_it_is_ready_ends_all() -> None:
    told = run(code(FAILING.format(what=f"place == 1 and {KILLED}")), status=1).splitlines()
    assert told[0].endswith("was ended by SIGKILL before it served.")
    assert told[1:] == ["stop"]


def test_one_that_dies_again_and_again_before_it_is_ready_ends_all(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    with started(code(FAILING.format(what=f"os.path.exists({str(flag)!r}) and {KILLED}"))) as process:
        assert next_line(process) == "ready"
        flag.touch()
        os.kill(children_of(process.pid)[1], signal.SIGKILL)
        told, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    *followed, last, stop = told.splitlines()
    assert all(line.endswith("was ended by SIGKILL; another takes its place.") for line in followed)
    assert len(followed) == 1 + UNREADY_MAX
    assert last.endswith("was ended by SIGKILL before it served.")
    assert stop == "stop"


def test_a_signal_is_handed_on_to_each_of_them() -> None:
    with started(code(FAILING.format(what="pass"))) as process:
        assert next_line(process) == "ready"
        process.send_signal(signal.SIGHUP)
        patience = threading.Timer(WAIT_S, os.killpg, (process.pid, signal.SIGKILL))
        patience.start()
        assert sorted(next_line(process) for _ in range(3)) == ["hung up 0", "hung up 1", "hung up 2"]
        patience.cancel()
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=WAIT_S)[0] == "stop\n"
    assert process.returncode == 0


def counts(*, records: int) -> Counts:
    made = Counts(records=records)
    made.of_request("PutRecord", "OK").times.note(0.25)
    made.commits.note(0.001)
    return made


def test_the_board_shows_what_was_shown_last_and_what_was_not_is_nothing() -> None:
    board = CountsBoard(2)
    assert board.shown(0) == board.shown(1) == Counts()
    for records in range(5):
        board.show(1, counts(records=records))
        assert board.shown(1) == counts(records=records)
    assert board.shown(0) == Counts()
    assert list(board.shown_elsewhere(0)) == [counts(records=4)]
    assert list(board.shown_elsewhere(1)) == [Counts()]


def test_whoever_is_killed_while_it_shows_leaves_what_it_showed_before() -> None:
    """Whichever byte of the newest half was not written."""
    board = CountsBoard(1)
    board.show(0, counts(records=1))
    board.show(0, counts(records=2))
    (memory,) = board._places  # pyright: ignore[reportPrivateUsage]
    newest = 0  # the second version
    for place in range(60):
        whole = memory[newest + place]
        memory[newest + place] = whole ^ 0xFF
        assert board.shown(0) == counts(records=1), place
        memory[newest + place] = whole
    assert board.shown(0) == counts(records=2)


def test_counts_of_several_are_added_up() -> None:
    total = counts(records=1)
    total.include(counts(records=2))
    assert total.records == 3
    assert total.of_request("PutRecord", "OK").times.count == 2
    assert total.of_request("PutRecord", "OK").times.seconds == 0.5
    assert total.commits.count == 2
