"""Clients of a server that dies: they put until they are told to end, and each put until it is answered.

As an SDK does, a put that got no answer is sent again under the same ``amz-sdk-invocation-id``, to whatever server is
there by then. Now and then a client goes away before the answer comes, and asks again. What was answered is noted in a
log with one write, before the next put of that client.
"""

import base64
import contextlib
import http.client
import json
import os
import random
import select
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from http import HTTPStatus
from typing import Final, NamedTuple, Self, cast

from tools.torture.crew import answer_line, payload_of
from tools.torture.forked import Forked

__all__ = ["Address", "HttpProducers"]

BATCH_RECORDS_MAX: Final = 5
BATCH_ONE_IN: Final = 4
HANG_UP_ONE_IN: Final = 16
HANG_UP_S_MAX: Final = 0.004
ANSWER_S_MAX: Final = 60.0
PAUSE_S: Final = 0.02
"""Before a put is sent again, or it is looked whether there is a server."""


class Address(NamedTuple):
    """Where the server is, or will be again."""

    host: str
    port: int
    stream: str


class HttpProducers:
    """Threads of one process that put. Use it as a context manager: at its end the process is dead."""

    def __init__(self, address: Address, names: Sequence[str], log: int) -> None:
        self._told_to_end = os.eventfd(0)
        self._process = Forked(lambda: self._produce_all(address, names, log), log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        os.close(self._told_to_end)

    @property
    def status(self) -> int | None:
        """How the process ended."""
        return self._process.status

    def end(self, seconds: float) -> bool:
        """Tell them to begin no more puts, and wait until the last ones are answered. False: they are not."""
        os.eventfd_write(self._told_to_end, 1)
        return self._process.wait(seconds)

    def _produce_all(self, address: Address, names: Sequence[str], log: int) -> None:
        with ThreadPoolExecutor(len(names)) as pool:
            producing = [pool.submit(_Producer(address, name, log, self._told_to_end).produce) for name in names]
            done, _ = wait(producing, return_when=FIRST_EXCEPTION)
            os.eventfd_write(self._told_to_end, 1)  # one that failed ends all
            for each in done:
                each.result()


class _Producer:
    """One client, with one put on its way."""

    def __init__(self, address: Address, name: str, log: int, told_to_end: int) -> None:
        self._address = address
        self._name = name
        self._log = log
        self._told_to_end = told_to_end
        self._dice = random.Random(name)
        self._connection = http.client.HTTPConnection(address.host, address.port, timeout=ANSWER_S_MAX)

    def produce(self) -> None:
        call = 0
        with contextlib.closing(self._connection):
            while not select.select([self._told_to_end], [], [], 0)[0]:
                count = self._dice.randint(2, BATCH_RECORDS_MAX) if self._dice.randrange(BATCH_ONE_IN) == 0 else 1
                self._put([f"{self._name}/{call}/{entry}/{count}" for entry in range(count)])
                call += 1

    def _put(self, labels: Sequence[str]) -> None:
        entries = [{"Data": base64.b64encode(payload_of(label)).decode(), "PartitionKey": label} for label in labels]
        if len(labels) == 1:
            answer, tries = self._ask("PutRecord", labels[0], entries[0])
            places = [cast("dict[str, str]", answer)]
        else:
            answer, tries = self._ask("PutRecords", labels[0], {"Records": entries})
            places = cast("list[dict[str, str]]", answer["Records"])
        lines = [
            answer_line(self._address.stream, label, 0, place["ShardId"], place["SequenceNumber"])
            for label, place in zip(labels, places, strict=True)
        ]
        lines += ["again"] * (tries - 1)
        os.write(self._log, "".join(f"{line}\n" for line in lines).encode())

    def _ask(self, action: str, invocation_id: str, members: Mapping[str, object]) -> tuple[dict[str, object], int]:
        """Return the answer, and how often the put was sent for it."""
        body = json.dumps({"StreamName": self._address.stream, **members}).encode()
        headers = {
            "X-Amz-Target": f"Kinesis_20131202.{action}",
            "Content-Type": "application/x-amz-json-1.1",
            "amz-sdk-invocation-id": invocation_id,
        }
        tries = 0
        while True:
            try:
                if self._connection.sock is None:
                    self._connection.connect()
                tries += 1
                self._connection.request("POST", "/", body, headers)
                if self._dice.randrange(HANG_UP_ONE_IN) == 0:
                    time.sleep(self._dice.uniform(0, HANG_UP_S_MAX))
                    self._connection.close()
                    continue
                response = self._connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException):
                self._connection.close()
                time.sleep(PAUSE_S)
                continue
            if response.status != HTTPStatus.OK:
                raise RuntimeError(f"{action} was answered with {response.status}: {content[:500]!r}")
            answer: dict[str, object] = json.loads(content)
            return answer, tries
