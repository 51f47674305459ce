"""Compares a stream with the file that was put into it, in one walk over both.

The partition key of a line that was put without a key is its number, so each record says which line it is. The
next record of every shard is held ready; the line at hand must be one of them. Memory does not grow with the file.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from streamstore import Record, StreamStore
from streamstore.cli.ending import CommandError
from streamstore.cli.lines import record_data

__all__ = ["LineComparison", "shard_ids_of"]

LINE_NUMBER_PATTERN: Final = re.compile(r"[1-9][0-9]{0,18}")
SHOWN_LINES_MAX: Final = 4


@dataclass(frozen=True, slots=True)
class Head:
    """The next record of a shard."""

    shard_id: str
    record: Record


class LineComparison:
    """Walks the lines of a file beside the shards of a stream. The first difference is a ``CommandError``."""

    def __init__(self, store: StreamStore, stream_name: str) -> None:
        self.records = 0
        self.data_bytes = 0
        self._readers = {shard_id: store.read(stream_name, shard_id) for shard_id in shard_ids_of(store, stream_name)}
        self._head_of_line: dict[int, Head] = {}
        for shard_id in self._readers:
            self._advance(shard_id)
        self.shards_used = len(self._head_of_line)

    def compare(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Yield each line once its record is proved to be the same; at the end prove that no record is left."""
        for line in lines:
            self._compare_line(self.records + 1, record_data(line))
            yield line
        if self._head_of_line:
            extra = min(self._head_of_line)
            raise CommandError(
                f"{self._head_of_line[extra].shard_id} holds line {extra:,}, but the file has {self.records:,} lines."
            )

    def _compare_line(self, line_number: int, data: bytes) -> None:
        head = self._head_of_line.pop(line_number, None)
        if head is None:
            raise CommandError(f"line {line_number:,} is missing or out of order: {self._shown_heads()}.")
        if head.record.data != data:
            raise CommandError(
                f"line {line_number:,} differs at its byte {_first_difference(head.record.data, data) + 1:,}: "
                f"{len(data):,} bytes in the file, {len(head.record.data):,} in record "
                f"{head.record.sequence_number} of {head.shard_id}."
            )
        self.records = line_number
        self.data_bytes += len(data)
        self._advance(head.shard_id)

    def _advance(self, shard_id: str) -> None:
        record = next(self._readers[shard_id], None)
        if record is None:
            return
        line_number = _parse_line_number(shard_id, record)
        # Every line up to self.records has met its record already.
        if line_number <= self.records or line_number in self._head_of_line:
            raise CommandError(
                f"line {line_number:,} is stored twice; the second is record {record.sequence_number} of {shard_id}."
            )
        self._head_of_line[line_number] = Head(shard_id, record)

    def _shown_heads(self) -> str:
        line_numbers = sorted(self._head_of_line)
        if not line_numbers:
            return "the stream ends there"
        shown = ", ".join(f"{line_number:,}" for line_number in line_numbers[:SHOWN_LINES_MAX])
        return f"the next records are of line {shown}{' ...' if len(line_numbers) > SHOWN_LINES_MAX else ''}"


def shard_ids_of(store: StreamStore, stream_name: str) -> Iterator[str]:
    """Yield the id of every shard of a stream, in order."""
    page = store.list_shards(stream_name)
    while True:
        for shard in page.shards:
            yield shard.shard_id
        if page.next_token is None:
            return
        page = store.list_shards(next_token=page.next_token)


def _parse_line_number(shard_id: str, record: Record) -> int:
    if LINE_NUMBER_PATTERN.fullmatch(record.partition_key) is None:
        raise CommandError(
            f"record {record.sequence_number} of {shard_id} has the partition key {record.partition_key!r}, which is "
            "no line number; only what was put without --partition-key can be verified."
        )
    return int(record.partition_key)


def _first_difference(left: bytes, right: bytes) -> int:
    for index, (left_byte, right_byte) in enumerate(zip(left, right, strict=False)):
        if left_byte != right_byte:
            return index
    return min(len(left), len(right))
