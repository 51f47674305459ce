"""What a record of the command is: one line without its newline. Bytes in, bytes out; nothing is decoded."""

import os
import stat
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import count
from typing import BinaryIO, Final

from streamstore.cli.ending import CommandError, UsageError

__all__ = ["NEWLINE", "input_bytes", "open_input", "partition_key_of_line", "read_lines", "record_data"]

NEWLINE: Final = b"\n"
STANDARD_INPUT: Final = "-"

# A file without newlines must not fill the memory; no record is nearly as long.
LINE_BYTES_MAX: Final = 16 * 1_048_576


@contextmanager
def open_input(file: str) -> Generator[BinaryIO]:
    """Open FILE, or standard input for "-". A FILE that cannot be opened is a ``UsageError``."""
    if file == STANDARD_INPUT:
        yield sys.stdin.buffer
        return
    try:
        source = open(file, "rb")  # noqa: SIM115 - entered below, where its errors are no wrong usage any more
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}.") from error
    with source:
        yield source


def input_bytes(source: BinaryIO) -> int | None:
    """Return the length of a regular file, None of anything that has none."""
    status = os.fstat(source.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def read_lines(source: BinaryIO) -> Iterator[bytes]:
    """Yield each line with its newline; the last may have none.

    A line over 16 MiB and one that cannot be read are a ``CommandError``.
    """
    for line_number in count(1):
        try:
            line = source.readline(LINE_BYTES_MAX)
        except OSError as error:
            raise CommandError(f"line {line_number:,} cannot be read: {error.strerror}.") from error
        if len(line) == LINE_BYTES_MAX and not line.endswith(NEWLINE):
            raise CommandError(f"line {line_number:,} is longer than {LINE_BYTES_MAX:,} bytes; no record is as long.")
        if not line:
            return
        yield line


def record_data(line: bytes) -> bytes:
    """Return the record that a line becomes."""
    return line.removesuffix(NEWLINE)


def partition_key_of_line(line_number: int) -> str:
    """Return the key of a line, counted from 1, that is put without a key: it spreads the lines over the shards."""
    return str(line_number)
