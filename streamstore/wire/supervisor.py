"""Several processes that do the same work, and one that watches: it starts them, starts anew what is killed, ends all.

Each is forked, and holds one end of a pair of sockets. It writes a byte there when it is ready, and its end is closed
when it has ended, however that was. If the other end closes, nobody watches any more, and it has to end.
The first is ready before the others are started: what is wrong with the work is said once.
"""

import contextlib
import os
import selectors
import signal
import socket
from collections.abc import Callable, Generator
from typing import Final, NoReturn, Self

__all__ = ["Work", "supervise", "tell_ready"]

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
SIGNALS: Final = (*STOP_SIGNALS, signal.SIGHUP)
READY: Final = b"r"
UNREADY_MAX: Final = 5
"""So many processes in a row may be killed before they are ready."""
SIGNALS_READ_MAX: Final = 64

Work = Callable[[int, socket.socket], None]
"""What a process does: told its place, from 0 on, and its end of the pair of sockets."""


def tell_ready(channel: socket.socket) -> None:
    """Tell who watches that this process is ready."""
    with contextlib.suppress(OSError):  # nobody watches any more, which is noticed elsewhere
        channel.send(READY)


def supervise(
    work: Work,
    process_count: int,
    *,
    on_ready: Callable[[], None],
    on_stop: Callable[[], None],
    say: Callable[[str], None],
) -> None:
    """Keep so many processes at work until SIGTERM or SIGINT ends them. SIGHUP is handed on to them.

    ``on_ready``: all are ready for the first time. ``on_stop``: they are about to be told to end.
    A process that is killed, or ends well unasked, is followed by another once all were ready; not if that happens
    to so many in a row before they are ready that the next would fare no better.

    Raises ``SystemExit``: in each of the processes when its work is done, with 0; here with the status of the first
    that failed, when all have ended. What the work raises leaves this call in its process, as if there were no other.
    """
    with _Signals() as signals:
        _Watch(work, process_count, signals, on_ready, on_stop, say).run()


class _Process:
    """One of the processes, as the one that watches knows it."""

    def __init__(self, place: int, pid: int, channel: socket.socket) -> None:
        self.place: Final = place
        self.pid: Final = pid
        self.channel: Final = channel
        self.is_ready = False


class _Watch:
    def __init__(
        self,
        work: Work,
        process_count: int,
        signals: "_Signals",
        on_ready: Callable[[], None],
        on_stop: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        self._work = work
        self._process_count = process_count
        self._signals = signals
        self._on_ready = on_ready
        self._on_stop = on_stop
        self._say = say
        self._processes: dict[int, _Process] = {}
        """By their places."""
        self._were_ready = False
        self._unready = 0
        self._is_stopping = False
        self._failed_status = 0

    def run(self) -> None:
        self._start(0)
        while self._processes:
            for source in self._wait():
                if isinstance(source, _Process):
                    self._hear(source)
                else:
                    self._hand_on(source)
        if self._failed_status:
            raise SystemExit(self._failed_status)

    def _wait(self) -> "list[_Process | int]":
        """Return the processes that have said something or ended, and the numbers of the signals that came."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._signals.arrivals, selectors.EVENT_READ)
            for process in self._processes.values():
                selector.register(process.channel, selectors.EVENT_READ, process)
            sources = [key.data for key, _ in selector.select()]
        numbers = self._signals.arrivals.recv(SIGNALS_READ_MAX) if None in sources else b""
        return [*numbers, *(source for source in sources if source is not None)]

    def _start(self, place: int) -> None:
        ours, theirs = socket.socketpair()
        with self._signals.blocked():
            pid = os.fork()
            if pid == 0:
                self._signals.close()
        if pid == 0:
            ours.close()
            for other in self._processes.values():
                other.channel.close()
            self._be(place, theirs)
        theirs.close()
        self._processes[place] = _Process(place, pid, ours)

    def _be(self, place: int, channel: socket.socket) -> NoReturn:
        """Live the life of one of the processes."""
        with channel:
            self._work(place, channel)
        raise SystemExit(0)

    def _hear(self, process: _Process) -> None:
        if process.channel.recv(1):
            process.is_ready = True
            self._unready = 0
            self._go_on_starting()
            return
        process.channel.close()
        del self._processes[process.place]
        _, wait_status = os.waitpid(process.pid, 0)
        self._see_end_of(process, os.waitstatus_to_exitcode(wait_status))

    def _go_on_starting(self) -> None:
        if self._is_stopping or self._were_ready:
            return
        for place in range(self._process_count):
            if place not in self._processes:
                self._start(place)
        if all(process.is_ready for process in self._processes.values()):
            self._were_ready = True
            self._on_ready()

    def _see_end_of(self, process: _Process, status: int) -> None:
        """``status`` is what it exited with, or the number of the signal that ended it, negative."""
        if status > 0:
            self._failed_status = self._failed_status or status
            self._stop()
        elif not self._is_stopping:
            self._replace(process, status)

    def _replace(self, process: _Process, status: int) -> None:
        how = "has ended" if status == 0 else f"was ended by {signal.Signals(-status).name}"
        self._unready += not process.is_ready
        if self._were_ready and self._unready <= UNREADY_MAX:
            self._say(f"Process {process.pid} of the server {how}; another takes its place.")
            self._start(process.place)
        else:
            self._say(f"Process {process.pid} of the server {how} before it served.")
            self._failed_status = self._failed_status or 1
            self._stop()

    def _hand_on(self, number: int) -> None:
        if number in STOP_SIGNALS:
            self._stop()
        else:
            self._send(number)

    def _stop(self) -> None:
        if not self._is_stopping:
            self._is_stopping = True
            self._on_stop()
        self._send(signal.SIGTERM)

    def _send(self, number: int) -> None:
        for process in self._processes.values():
            os.kill(process.pid, number)  # it is there until it is waited for


def _note(*_: object) -> None:
    """Handle a signal: Python has written its number where it is read."""


class _Signals:
    """Turns signals into bytes that come on ``arrivals``. What handled them before does so again when it is closed."""

    def __init__(self) -> None:
        self.arrivals, self._departures = socket.socketpair()
        self.arrivals.setblocking(False)
        self._departures.setblocking(False)
        with self.blocked():
            self._descriptor = signal.set_wakeup_fd(self._departures.fileno(), warn_on_full_buffer=False)
            self._handlers = {number: signal.signal(number, _note) for number in SIGNALS}

    @contextlib.contextmanager
    def blocked(self) -> Generator[None]:
        """Put off signals: those that come meanwhile come behind it, to whoever handles them then."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def close(self) -> None:
        with self.blocked():
            handlers, self._handlers = self._handlers, {}
            for number, handler in handlers.items():
                signal.signal(number, handler)
            if handlers:
                signal.set_wakeup_fd(self._descriptor)
            self.arrivals.close()
            self._departures.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
