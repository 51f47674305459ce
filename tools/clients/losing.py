"""A wire between a client and a server that can lose an answer: the server has done its work, and nobody is told."""

import contextlib
import socket
import threading
from typing import Final, Self

__all__ = ["LosingWire"]

ANSWER_BYTES_MIN: Final = 200
"""What comes from the server is an answer when it is so long; the frames of HTTP/2 that are none are much shorter."""
PIECE_BYTES: Final = 65_536


class LosingWire:
    """Carries connections to a port of this machine. Use it as a context manager: at its end none is left."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        """Where clients connect to."""
        self.answers_lost = 0
        self._lock = threading.Lock()
        self._to_lose = 0
        self._open: set[socket.socket] = set()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            left = list(self._open)
        for connection in left:
            _end(connection)
        self._accepting.join()

    def lose_next_answer(self) -> None:
        """Let the next answer get lost, with its connection."""
        with self._lock:
            self._to_lose += 1

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # the end
                return
            server = socket.create_connection(("127.0.0.1", self._server_port))
            with self._lock:
                self._open |= {client, server}
            for carry in (self._carry_requests, self._carry_answers):
                threading.Thread(target=carry, args=(client, server), daemon=True).start()

    def _carry_requests(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := client.recv(PIECE_BYTES):
                server.sendall(piece)
            server.shutdown(socket.SHUT_WR)

    def _carry_answers(self, client: socket.socket, server: socket.socket) -> None:
        lost_bytes = 0
        with contextlib.suppress(OSError):
            while piece := server.recv(PIECE_BYTES):
                if self._to_lose == 0:
                    client.sendall(piece)
                    continue
                lost_bytes += len(piece)
                if lost_bytes >= ANSWER_BYTES_MIN:
                    with self._lock:
                        self._to_lose -= 1
                        self.answers_lost += 1
                    break
        _end(client)
        _end(server)
        with self._lock:
            self._open -= {client, server}


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
