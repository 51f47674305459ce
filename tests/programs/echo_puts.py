"""Opens a store, says "open", and puts each line of its input; prints the sequence number of each."""

import sys

from streamstore import StreamStore


def main() -> None:
    with StreamStore(sys.argv[1]) as store:
        print("open", flush=True)
        for line in sys.stdin:
            print(store.put_record("s", line.strip().encode(), "key").sequence_number, flush=True)


if __name__ == "__main__":
    main()
