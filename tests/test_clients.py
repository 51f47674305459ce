"""The tool that runs real clients: what it must notice, each with a fault that it is given."""

import contextlib
import socket
import threading
from collections.abc import Generator

import pytest

from tools.clients.__main__ import tell
from tools.clients.comparing import compared
from tools.clients.conversation import Talk
from tools.clients.installing import CLIENTS, NotInstalledError, installed
from tools.clients.losing import ANSWER_BYTES_MIN, LosingWire
from tools.clients.running import Ran, run

REFUSED = {"code": "ResourceNotFoundException", "message": "gone", "status": 400, "has a class of its own": True}


def talks(*came: object) -> list[Talk]:
    return [Talk(f"call {number}", each) for number, each in enumerate(came)]


def test_what_two_clients_saw_alike_is_no_difference() -> None:
    assert compared(talks({"a": 1}, REFUSED), talks({"a": 1}, dict(REFUSED))) == []


@pytest.mark.parametrize(
    "other",
    [
        talks({"a": 2}, REFUSED),
        talks({"a": 1, "b": None}, REFUSED),
        talks({"a": 1}, {**REFUSED, "code": "ValidationException"}),
        talks({"a": 1}, {**REFUSED, "status": 500}),
        talks({"a": 1}, {**REFUSED, "has a class of its own": False}),
        talks({"a": 1}),
        [*talks({"a": 1}), Talk("call another", REFUSED)],
    ],
)
def test_whatever_two_clients_saw_otherwise_is_a_difference(other: list[Talk]) -> None:
    assert compared(talks({"a": 1}, REFUSED), other) != []


def test_a_command_need_not_know_the_status_of_an_error_nor_have_every_call() -> None:
    command = talks({"lacks": "SubscribeToShard"}, {"code": REFUSED["code"], "message": REFUSED["message"]})
    assert compared(talks([{"Records": "none"}], REFUSED), command) == []


def test_a_client_that_was_not_to_be_had_is_told_and_one_that_failed_is_an_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    boto3, awscli = CLIENTS["boto3"], CLIENTS["awscli"]
    assert tell([Ran(boto3, talks({"a": 1}), 1.0), Ran(awscli, [], 1.0, skipped="no network")]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[1:] == ["SKIPPED awscli: no network", "1 of 2 clients saw the same, 0 failed, 1 skipped"]
    assert tell([Ran(boto3, talks({"a": 1}), 1.0), Ran(awscli, talks({"a": 2}), 1.0)]) == 1
    assert tell([Ran(boto3, talks({"a": 1}), 1.0), Ran(awscli, [], 1.0, failed="it ended")]) == 1


@contextlib.contextmanager
def echoing() -> Generator[int]:
    """Serve connections that get back what they send, and yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        while content := connection.recv(65_536):
                            connection.sendall(content)

        server = threading.Thread(target=serve)
        server.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
    server.join()


def asked(port: int, content: bytes) -> bytes:
    """Return what comes back, which is nothing if the connection ends."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(content)
        return connection.recv(65_536)


def test_a_wire_loses_the_next_answer_and_no_other() -> None:
    content = b"x" * ANSWER_BYTES_MIN
    with echoing() as port, LosingWire(port) as wire:
        assert asked(wire.port, content) == content
        wire.lose_next_answer()
        assert asked(wire.port, content) == b""
        assert asked(wire.port, content) == content
        assert wire.answers_lost == 1


@pytest.mark.slow
def test_a_real_client_notices_that_its_retries_are_stored_twice() -> None:
    try:
        installed(CLIENTS["boto3"])
    except NotInstalledError as error:
        pytest.skip(str(error))
    ran = run(CLIENTS["boto3"], "no-keys")
    assert ran.failed is not None
    assert "AssertionError" in ran.failed
