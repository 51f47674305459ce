"""Interrupts the main thread thousands of times at its work, while other threads put; then says what was stored.

    interrupts PATH INTERRUPTS

Prints "stored" if nobody hung, the other callers all got their answers, and what was acknowledged is what is stored.
"""

import faulthandler
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

from streamstore import RequestError, StreamStore
from streamstore.check import check_store

HANG_S = 100
STREAM = "s"
SHARD = "shard-000000"


class Work:
    """What the main thread does until it is interrupted."""

    def __init__(self, store: StreamStore) -> None:
        self.store = store
        self.attempted = 0
        self.acknowledged: list[tuple[str, bytes]] = []

    def step(self, number: int) -> None:
        if number % 8 == 0:
            self._tolerate_leftovers()
        elif number % 8 == 1:
            self.store.get_records(self.store.get_shard_iterator(STREAM, SHARD, "TRIM_HORIZON"), limit=3)
        else:
            data = b"main %d" % self.attempted
            self.attempted += 1
            result = self.store.put_record(STREAM, data, "key")
            self.acknowledged.append((result.sequence_number, data))

    def _tolerate_leftovers(self) -> None:
        try:
            self.store.create_stream("t")
            self.store.put_record("t", b"", "key")
            list(self.store.read("t", SHARD))
            self.store.delete_stream("t")
        except RequestError:
            self.store.delete_stream("t")


class Interrupts:
    """SIGINT raises ``KeyboardInterrupt`` at any line of the work and nowhere else: it must be armed each time."""

    def __init__(self) -> None:
        self.raised = 0
        self.armed = False
        signal.signal(signal.SIGINT, self._handle)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.armed:
            self.armed = False
            self.raised += 1
            raise KeyboardInterrupt


def work_until_told(work: Work, enough: threading.Event) -> int:
    """Return how many interrupts there were."""
    interrupts, number = Interrupts(), 0
    while not enough.is_set():
        try:
            interrupts.armed = True
            while not enough.is_set():
                number += 1
                try:
                    work.step(number)
                except RequestError:
                    pass
            interrupts.armed = False
        except KeyboardInterrupt:
            pass
    return interrupts.raised


def interrupt(count: int, enough: threading.Event) -> None:
    pauses = random.Random(1)
    for _ in range(count):
        time.sleep(pauses.uniform(0, 0.002))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    time.sleep(0.1)  # the last one must find the main thread at its work
    enough.set()


def produce(store: StreamStore, name: int, enough: threading.Event, counts: Counter[int]) -> None:
    while not enough.is_set():
        store.put_record(STREAM, b"other %d" % name, "key")
        counts[name] += 1
        time.sleep(0.001)  # so that the main thread commits alone now and then


def main() -> None:
    faulthandler.dump_traceback_later(HANG_S, exit=True)
    path, count = Path(sys.argv[1]), int(sys.argv[2])
    store = StreamStore(path, sync="off")
    store.create_stream(STREAM)
    work = Work(store)
    enough = threading.Event()
    counts: Counter[int] = Counter()
    threads = [threading.Thread(target=produce, args=(store, name, enough, counts)) for name in range(2)]
    threads.append(threading.Thread(target=interrupt, args=(count, enough)))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # until the work begins
    for thread in threads:
        thread.start()
    interrupts = work_until_told(work, enough)
    for thread in threads:
        thread.join()
    stored = {record.sequence_number: record.data for record in store.read(STREAM, SHARD)}
    store.close()
    assert check_store(path) == [], check_store(path)
    assert interrupts > count / 2, interrupts
    for sequence_number, data in work.acknowledged:
        assert stored[sequence_number] == data
    datas = Counter(stored.values())
    assert {name: datas[b"other %d" % name] for name in range(2)} == counts
    mine = [data for data in stored.values() if data.startswith(b"main")]
    assert len(mine) == len(set(mine)), "a put was stored twice"
    os.write(sys.stdout.fileno(), b"stored\n")


if __name__ == "__main__":
    main()
