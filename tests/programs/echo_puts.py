"""Opens a store, says "open", and puts each line of its input; prints the sequence number of each.

    echo_puts PATH [--small-map] [--read]

With --read it opens for reading only, and prints for each line how many records there are.
"""

import argparse
import sys
from pathlib import Path

from streamstore import StreamStore


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--small-map", action="store_true")
    parser.add_argument("--read", action="store_true")
    options = parser.parse_args()
    map_size = 2**20 if options.small_map else 2**40
    with StreamStore(options.path, read_only=options.read, map_size=map_size) as store:
        print("open", flush=True)
        for line in sys.stdin:
            if options.read:
                print(sum(1 for _ in store.read("s", "shard-000000")), flush=True)
            else:
                print(store.put_record("s", line.strip().encode(), "key").sequence_number, flush=True)


if __name__ == "__main__":
    main()
