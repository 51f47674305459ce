"""The runner: two applications of the KCL read a stream that is resharded, from a server that is killed meanwhile.

    python -m tools.kcl [--plant FAULT]

One polls (GetRecords), the other has a consumer of its own (SubscribeToShard). Each must be given every record that was
acknowledged, in the order of its shard, parents before their children. Ends with 1 if one was not. Where the KCL cannot
be had, a line that begins with SKIPPED says why; that is no failure.
"""

import argparse
import contextlib
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from tools.clients.installing import NotInstalledError
from tools.kcl.application import KEY_ID, SECRET, Application, LeaseTable, Software
from tools.kcl.judging import Noted, contradictions
from tools.torture.served import Served

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

STREAM: Final = "orders"
SHARD: Final = "shardId-{:012}"
PARENTS: Final = {
    SHARD.format(2): [SHARD.format(0)],
    SHARD.format(3): [SHARD.format(0)],
    SHARD.format(4): [SHARD.format(3), SHARD.format(1)],
}
HASH_KEYS: Final = 2**128
RECORDS: Final = 20
SEEN_S_MAX: Final = 90.0
KEYS: Final = f'[keys.{KEY_ID}]\nsecret_access_key = "{SECRET}"\n'


class Options(argparse.Namespace):
    """The command line."""

    plant: str | None


class Producer:
    """Puts, and knows what was acknowledged."""

    def __init__(self, client: "KinesisClient") -> None:
        self._client = client
        self.acknowledged: list[str] = []

    def put(self) -> None:
        for _ in range(RECORDS):
            data = f"record {len(self.acknowledged)}"
            self._client.put_record(StreamName=STREAM, Data=data.encode(), PartitionKey=data)
            self.acknowledged.append(data)

    def wait_until_active(self) -> None:
        self._client.get_waiter("stream_exists").wait(StreamName=STREAM, WaiterConfig={"Delay": 1})


class NotSeenError(Exception):
    """An application was not given what it should have been. Its text says which and what."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.kcl", description="The KCL of Java reads a store.")
    parser.add_argument("--plant", metavar="FAULT", help="plant a fault of tools/torture/plants.py in the server")
    options = parser.parse_args(namespace=Options())
    try:
        software = Software.install()
    except NotInstalledError as error:
        print(f"SKIPPED KCL: {error}")
        return 0
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="streamstore-kcl-") as folder:
        try:
            noted = live(software, Path(folder), options.plant)
        except NotSeenError as error:
            print(f"FAILED KCL: {error}")
            return 1
    for name, each in noted.items():
        records = [one.data for one in each if one.kind == "record"]
        again = len(records) - len(set(records))
        print(f"KCL 2.5.8, {name}: {len(set(records))} records, {again} of them again")
    print(f"everything was seen in its order, in {time.monotonic() - began_s:.0f} s")
    return 0


def live(software: Software, folder: Path, plant: str | None) -> dict[str, Sequence[Noted]]:
    """Put, reshard, kill, and return what each application noted. Raises ``NotSeenError``."""
    keys = folder / "keys.toml"
    keys.touch(0o600)
    keys.write_text(KEYS)
    with contextlib.ExitStack() as running:
        served = running.enter_context(Served(folder / "store", plant, "--credentials", os.fspath(keys)))
        start(served)
        url = f"http://{served.host}:{served.port}"
        make = cast("Callable[..., KinesisClient]", importlib.import_module("boto3").client)
        client = make(
            "kinesis",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id=KEY_ID,
            aws_secret_access_key=SECRET,
        )
        producer = Producer(client)
        client.create_stream(StreamName=STREAM, ShardCount=2)
        producer.wait_until_active()
        producer.put()
        leases = running.enter_context(LeaseTable(software, folder / "leases.log"))
        applications = [
            running.enter_context(
                Application(software, folder, retrieval, stream=STREAM, kinesis=url, leases=leases.url)
            )
            for retrieval in ("POLLING", "FANOUT")
        ]
        wait_until_seen(applications, producer.acknowledged)
        client.split_shard(StreamName=STREAM, ShardToSplit=SHARD.format(0), NewStartingHashKey=str(HASH_KEYS // 4))
        producer.wait_until_active()
        producer.put()
        wait_until_seen(applications, producer.acknowledged)
        served.kill()
        start(served)
        producer.put()
        client.merge_shards(StreamName=STREAM, ShardToMerge=SHARD.format(3), AdjacentShardToMerge=SHARD.format(1))
        producer.wait_until_active()
        producer.put()
        wait_until_seen(applications, producer.acknowledged)
        return {application.retrieval: application.noted() for application in applications}


def start(served: Served) -> None:
    served.start()
    if not served.wait_until_ready():
        raise RuntimeError("The server does not serve.")


def wait_until_seen(applications: Sequence[Application], acknowledged: Sequence[str]) -> None:
    deadline_s = time.monotonic() + SEEN_S_MAX
    for application in applications:
        while missing := set(acknowledged) - {each.data for each in application.noted()}:
            if time.monotonic() > deadline_s:
                what = f"{len(missing)} of {len(acknowledged)} records were not seen, as {min(missing)!r}"
                raise NotSeenError(f"{application.retrieval}: {what}\n{application.said()}")
            time.sleep(0.2)
        if wrong := contradictions(application.noted(), set(acknowledged), PARENTS):
            raise NotSeenError(f"{application.retrieval}: " + "; ".join(wrong))


if __name__ == "__main__":
    sys.exit(main())
