"""Puts records one after the other and says what became of each: acknowledged, refused, or unknown.

    puts PATH FIRST COUNT [--sync MODE] [--plant NAME]

Prints a line a record as soon as its put has returned, with one write: "ack <number> <sequence>", "refused <number>
<error>" or "unknown <number> <error>". Plants are faults that the checkers must see.
"""

import argparse
import os
import sys
from pathlib import Path

from streamstore import OutcomeUnknownError, StorageError, StreamStore
from tools.torture import plants

STREAM = "faults"


def payload_of(number: int) -> bytes:
    """Return the data of a record: its number, and enough behind it that some records need pages of their own."""
    return b"%d " % number + b"x" * (number % 4 * 1500)


def say(line: str) -> None:
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--sync", choices=("full", "normal", "off"), default="full")
    parser.add_argument("--plant", choices=plants.NAMES)
    options = parser.parse_args()
    plants.plant(options.plant)
    with StreamStore(options.path, sync=options.sync) as store:
        say("open")
        for number in range(options.first, options.first + options.count):
            try:
                result = store.put_record(STREAM, payload_of(number), "key")
            except OutcomeUnknownError as error:
                say(f"unknown {number} {error}")
            except StorageError as error:
                say(f"refused {number} {type(error).__name__} {error}")
            else:
                say(f"ack {number} {result.sequence_number}")
    say("closed")


if __name__ == "__main__":
    main()
