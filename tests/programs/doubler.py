"""Turns the numbers of one stream into their doubles in another, each with its checkpoint, until it is killed.

    doubler PATH [--plant checkpoint-apart]

Prints "open", and "double <number>" when that is stored. The planted fault stores the record and the checkpoint in
commits of their own.
"""

import argparse
from pathlib import Path

from streamstore import StreamStore

SOURCE = "numbers"
TARGET = "doubles"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--plant", choices=("checkpoint-apart",))
    options = parser.parse_args()
    with StreamStore(options.path) as store, store.consumer(SOURCE, "doubler") as consumer:
        print("open", flush=True)
        for record in consumer:
            double = (b"%d" % (2 * int(record.data)), record.partition_key)
            if options.plant:
                store.put_records(TARGET, [double])
                consumer.checkpoint()
            else:
                consumer.checkpoint_with_records(TARGET, [double])
            print("double", record.data.decode(), flush=True)


if __name__ == "__main__":
    main()
