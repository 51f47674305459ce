"""Puts numbered records with idempotency keys from several threads until it is killed; resumes where it has no answer.

    retries PATH THREADS ANSWERED [--sync MODE] [--plant NAME]

ANSWERED is a file of lines "<thread> <number> <sequence number>". Each thread goes on with the first number for which
that has no line, so a put that was killed on its way is made again with its key. A line is written with one write as
soon as the put has returned.
"""

import argparse
import os
import sys
import threading
from pathlib import Path

from streamstore import StreamStore
from tools.torture import plants

STREAM = "retries"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("threads", type=int)
    parser.add_argument("answered", type=Path)
    parser.add_argument("--sync", choices=("full", "normal", "off"), default="full")
    parser.add_argument("--plant", choices=plants.NAMES)
    options = parser.parse_args()
    plants.plant(options.plant)
    store = StreamStore(options.path, sync=options.sync)
    descriptor = os.open(options.answered, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    next_numbers = [0] * options.threads
    for line in options.answered.read_text().splitlines():
        thread, number, _ = map(int, line.split())
        next_numbers[thread] = number + 1

    def produce(thread: int) -> None:
        number = next_numbers[thread]
        while True:
            label = f"{thread}/{number}"
            put = store.put_record(STREAM, label.encode(), label, idempotency_key=label)
            os.write(descriptor, f"{thread} {number} {put.sequence_number}\n".encode())
            number += 1

    os.write(sys.stdout.fileno(), b"open\n")
    producers = [threading.Thread(target=produce, args=(thread,)) for thread in range(options.threads)]
    for producer in producers:
        producer.start()
    for producer in producers:
        producer.join()


if __name__ == "__main__":
    main()
