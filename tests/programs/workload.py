"""Writes to one store from several threads until it is killed, and prints only what was acknowledged.

    workload PATH NAME THREADS RECORDS [--sync MODE] [--plant NAME]

Each thread puts RECORDS records, then ends. The data of a record is ``NAME/thread/number`` and some filling. A line is
written with one write as soon as the put has returned: "ack <shard id> <sequence number> <data without filling>".
"""

import argparse
import os
import sys
import threading
from pathlib import Path

from streamstore import StreamStore
from tools.torture import plants

STREAM = "crash"
SHARD_COUNT = 2
FILLING_BYTES_MAX = 5_000


def payload_of(label: str) -> bytes:
    """Return the data of a record: its label, and filling that makes some records need pages of their own."""
    filling_bytes = sum(label.encode()) * 7919 % FILLING_BYTES_MAX
    return f"{label} ".encode() + b"." * filling_bytes


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("name")
    parser.add_argument("threads", type=int)
    parser.add_argument("records", type=int)
    parser.add_argument("--sync", choices=("full", "normal", "off"), default="full")
    parser.add_argument("--plant", choices=plants.NAMES)
    options = parser.parse_args()
    plants.plant(options.plant)
    store = StreamStore(options.path, sync=options.sync)

    def produce(thread: int) -> None:
        for number in range(options.records):
            label = f"{options.name}/{thread}/{number}"
            result = store.put_record(STREAM, payload_of(label), label)
            os.write(sys.stdout.fileno(), f"ack {result.shard_id} {result.sequence_number} {label}\n".encode())

    os.write(sys.stdout.fileno(), b"open\n")
    producers = [threading.Thread(target=produce, args=(thread,)) for thread in range(options.threads)]
    for producer in producers:
        producer.start()
    for producer in producers:
        producer.join()
    store.close()


if __name__ == "__main__":
    main()
