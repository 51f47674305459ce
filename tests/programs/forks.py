"""Forks while eight threads write. Each child tries every method of the store, opens its own, writes, and ends.

    forks PATH CHILDREN

Prints "refused <method>" for each method that a child may not use, "child <sequence>" for the put of each child, and
"parent <records>" at the end. Half of the children end as Python ends, half with os._exit.
"""

import os
import sys
import threading
from collections.abc import Callable

from streamstore import PutRecordResult, StoreForkedError, StreamStore

STREAM = "s"
SHARD = "shard-000000"


def methods(store: StreamStore, iterator: str) -> dict[str, Callable[[], object]]:
    """Return a call of every public method that works on the store."""
    return {
        "put_record": lambda: store.put_record(STREAM, b"", "key"),
        "get_records": lambda: store.get_records(iterator),
        "get_shard_iterator": lambda: store.get_shard_iterator(STREAM, SHARD, "LATEST"),
        "read": lambda: list(store.read(STREAM, SHARD)),
        "create_stream": lambda: store.create_stream("t"),
        "delete_stream": lambda: store.delete_stream(STREAM),
        "describe_stream": lambda: store.describe_stream(STREAM),
        "list_shards": lambda: store.list_shards(STREAM),
        "list_streams": store.list_streams,
    }


def be_child(store: StreamStore, iterator: str, path: str) -> PutRecordResult:
    for name, method in methods(store, iterator).items():
        try:
            method()
        except StoreForkedError:
            print("refused", name)
    store.close()
    with StreamStore(path) as own:
        return own.put_record(STREAM, b"child", "key")


def main() -> None:
    path, children = sys.argv[1], int(sys.argv[2])
    store = StreamStore(path)
    iterator = store.get_shard_iterator(STREAM, SHARD, "TRIM_HORIZON")
    enough = threading.Event()
    counts: list[int] = []

    def produce() -> None:
        count = 0
        while not enough.is_set():
            store.put_record(STREAM, b"parent", "key")
            count += 1
        counts.append(count)

    producers = [threading.Thread(target=produce) for _ in range(8)]
    for producer in producers:
        producer.start()
    for number in range(children):
        child = os.fork()
        if child == 0:
            print("child", be_child(store, iterator, path).sequence_number, flush=True)
            if number % 2:
                os._exit(0)
            return
        assert os.waitpid(child, 0)[1] == 0
    enough.set()
    for producer in producers:
        producer.join()
    store.close()
    print("parent", sum(counts), flush=True)


if __name__ == "__main__":
    main()
