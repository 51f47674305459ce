"""Drives boto3: ``boto3.client("kinesis")``, nothing more said."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, cast

from tools.clients.drivers.lines import Order, answer, as_sent, as_told, error_of, method_of, orders

Method = Callable[..., dict[str, object]]


class Waiter(Protocol):
    """As boto3 has it."""

    def wait(self, **members: object) -> None: ...


class Client(Protocol):
    """As boto3 has it."""

    def get_waiter(self, name: str) -> Waiter: ...


class Events(Protocol):
    """As botocore has them."""

    def __iter__(self) -> Iterator[Mapping[str, dict[str, object]]]: ...

    def close(self) -> None: ...


def main() -> None:
    make = cast("Callable[[str], Client]", importlib.import_module("boto3").client)
    client = make("kinesis")
    for order in orders():
        try:
            answer({"output": do(client, order)})
        except Exception as error:
            answer({"error": error_of(error)})


def do(client: Client, order: Order) -> object:
    members = cast("dict[str, object]", as_sent(order.members))
    if order.kind == "wait":
        client.get_waiter(method_of(order.what)).wait(**members)
        return {}
    if order.kind == "subscribe":
        output = cast(Method, getattr(client, "subscribe_to_shard"))(**members)  # noqa: B009
        return events_of(client, cast(Events, output["EventStream"]), order)
    return as_told(cast(Method, getattr(client, method_of(order.what)))(**members))


def events_of(client: Client, events: Events, order: Order) -> list[object]:
    told: list[object] = []
    records = 0
    for event in events:
        told.append(as_told(event["SubscribeToShardEvent"]))
        records += len(cast("list[object]", event["SubscribeToShardEvent"]["Records"]))
        if records >= int(order.what):
            break
        if len(told) == 1 and order.meanwhile is not None:
            do(client, order.meanwhile)
    events.close()
    return told


if __name__ == "__main__":
    main()
