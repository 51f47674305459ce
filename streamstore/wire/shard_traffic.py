"""Counts what goes into each shard and comes out of it, by what a server answers, where its metrics are enabled.

Whether they are costs no look at the store: what answers a put or a read has just seen how the stream is set.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import cast

from streamstore import ProvisionedThroughputExceededException, StreamStore
from streamstore.limits import SHARDS_PER_STORE_MAX
from streamstore.wire.arguments import Arguments
from streamstore.wire.counts import Counts, ShardCounts
from streamstore.wire.record_actions import shard_that_throttled
from streamstore.wire.shapes import Moment

__all__ = ["ShardTraffic"]

Members = Mapping[str, object]


class ShardTraffic:
    """Counts in ``counts.shards``, for any thread.

    It knows as many shards as a store may have; beyond that, the one that was counted longest ago is forgotten: whoever
    makes streams and deletes them for ever fills no memory.
    """

    def __init__(self, store: StreamStore, counts: Counts) -> None:
        self._store = store
        self._counting = threading.Lock()
        self._shards: OrderedDict[str, ShardCounts] = OrderedDict(counts.shards)
        counts.shards = self._shards

    def count_answer(self, action: str, arguments: Arguments, output: Members) -> None:
        """Count an answer to PutRecord, PutRecords and GetRecords. Others move nothing."""
        monitored = self._store.monitored_streams
        if not monitored:
            return
        if action == "PutRecord":
            stream = arguments.stream_name()
            if stream in monitored:
                self._count_put(stream, arguments, output)
        elif action == "PutRecords":
            stream = arguments.stream_name()
            if stream in monitored:
                self._count_puts(stream, arguments, output)
        elif action == "GetRecords":
            shard = self._store.shard_of_iterator(arguments.text("ShardIterator"))
            if shard is not None and shard[0] in monitored:
                self._count_read(*shard, output)

    def count_throttle(self, action: str, error: ProvisionedThroughputExceededException) -> None:
        """Count a put or a read that a quota refused."""
        if error.stream_name in self._store.monitored_streams:
            with self._counting:
                shard = self._shard(error.stream_name, error.shard_id)
                if action == "GetRecords":
                    shard.reads_throttled += 1
                else:
                    shard.writes_throttled += 1

    def _count_put(self, stream: str, arguments: Arguments, output: Members) -> None:
        size = len(arguments.data("Data")) + len(arguments.text("PartitionKey").encode())
        with self._counting:
            shard = self._shard(stream, cast("str", output["ShardId"]))
            shard.incoming_records += 1
            shard.incoming_bytes += size

    def _count_puts(self, stream: str, arguments: Arguments, output: Members) -> None:
        entries, results = arguments.structures("Records"), cast("list[Members]", output["Records"])
        with self._counting:
            for entry, result in zip(entries, results, strict=True):
                if "ErrorCode" in result:
                    self._shard(stream, shard_that_throttled(result)).writes_throttled += 1
                else:
                    shard = self._shard(stream, cast("str", result["ShardId"]))
                    shard.incoming_records += 1
                    shard.incoming_bytes += len(entry.data("Data")) + len(entry.text("PartitionKey").encode())

    def _count_read(self, stream: str, shard_id: str, output: Members) -> None:
        records = cast("list[Members]", output["Records"])
        size = sum(_bytes_of(record) for record in records)
        now_ms = self._store.clock()
        with self._counting:
            shard = self._shard(stream, shard_id)
            shard.outgoing_records += len(records)
            shard.outgoing_bytes += size
            shard.read_ms = now_ms
            shard.iterator_age_ms = max(now_ms - _arrival_ms(records[-1]), 0) if records else 0

    def _shard(self, stream: str, shard_id: str) -> ShardCounts:
        address = f"{stream}/{shard_id}"
        counted = self._shards.setdefault(address, ShardCounts())
        self._shards.move_to_end(address)
        if len(self._shards) > SHARDS_PER_STORE_MAX:
            self._shards.popitem(last=False)
        return counted


def _bytes_of(record: Members) -> int:
    return len(cast("bytes", record["Data"])) + len(cast("str", record["PartitionKey"]).encode())


def _arrival_ms(record: Members) -> int:
    return cast("Moment", record["ApproximateArrivalTimestamp"]).ms
