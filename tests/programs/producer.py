"""Several threads of one process put records into the shared shards of a store.

    producer PATH NAME THREADS RECORDS

Each record holds ``NAME-thread/number``; prints "<shard id> <sequence number> <data>" for each result.
"""

import sys
import threading

from streamstore import StreamStore


def main() -> None:
    path, name, threads, records = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    results: list[str] = []
    store = StreamStore(path)

    def produce(thread: int) -> None:
        for number in range(records):
            text = f"{name}-{thread}/{number}"
            result = store.put_record("s", text.encode(), f"key{number % 7}")
            results.append(f"{result.shard_id} {result.sequence_number} {text}")

    producers = [threading.Thread(target=produce, args=(thread,)) for thread in range(threads)]
    for producer in producers:
        producer.start()
    for producer in producers:
        producer.join()
    store.close()
    print("\n".join(results))


if __name__ == "__main__":
    main()
