"""What the KCL runs for each shard, through amazon_kclpy: it notes what it is given in a log, then checkpoints it."""

import importlib
import json
import os
from collections.abc import Callable, Sequence
from typing import Final, Protocol, cast

__all__ = ["LOG_VARIABLE"]

LOG_VARIABLE: Final = "STREAMSTORE_KCL_LOG"


class Record(Protocol):
    """As amazon_kclpy has it."""

    sequence_number: str
    binary_data: bytes


class Checkpointer(Protocol):
    """As amazon_kclpy has it."""

    def checkpoint(self) -> None: ...


class Given(Protocol):
    """What amazon_kclpy gives to each method; not every one of them has all of this."""

    shard_id: str
    records: Sequence[Record]
    checkpointer: Checkpointer


class Process(Protocol):
    """As amazon_kclpy has it."""

    def run(self) -> None: ...


class Consumer:
    """One shard."""

    version: Final = 3

    def __init__(self, log: int) -> None:
        self._log = log
        self._shard_id = ""

    def initialize(self, given: Given) -> None:
        self._shard_id = given.shard_id
        self._note("begins")

    def process_records(self, given: Given) -> None:
        for record in given.records:
            self._note("record", record.sequence_number, record.binary_data.decode())
        given.checkpointer.checkpoint()

    def shard_ended(self, given: Given) -> None:
        self._note("ends")
        given.checkpointer.checkpoint()

    def lease_lost(self, _given: Given) -> None:
        """Another process goes on, from the checkpoint."""

    def shutdown_requested(self, given: Given) -> None:
        given.checkpointer.checkpoint()

    def _note(self, *what: str) -> None:
        os.write(self._log, json.dumps([self._shard_id, *what]).encode() + b"\n")


def main() -> None:
    log = os.open(os.environ[LOG_VARIABLE], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    make = cast("Callable[[Consumer], Process]", importlib.import_module("amazon_kclpy.kcl").KCLProcess)
    make(Consumer(log)).run()


if __name__ == "__main__":
    main()
