"""Drives aiobotocore: ``get_session().create_client("kinesis")``, nothing more said."""

import asyncio
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol, cast

from tools.clients.drivers.lines import Order, answer, as_sent, as_told, error_of, method_of, orders

Method = Callable[..., Awaitable[dict[str, object]]]


class Waiter(Protocol):
    """As aiobotocore has it."""

    async def wait(self, **members: object) -> None: ...


class Client(Protocol):
    """As aiobotocore has it."""

    def get_waiter(self, name: str) -> Waiter: ...


class Session(Protocol):
    """As aiobotocore has it."""

    def create_client(self, name: str) -> AbstractAsyncContextManager[Client]: ...


class Events(Protocol):
    """As aiobotocore has them."""

    def __aiter__(self) -> AsyncIterator[Mapping[str, dict[str, object]]]: ...

    def close(self) -> None: ...


async def main() -> None:
    get_session = cast("Callable[[], Session]", importlib.import_module("aiobotocore.session").get_session)
    async with get_session().create_client("kinesis") as client:
        waiting = orders()
        while (order := await asyncio.to_thread(next, waiting, None)) is not None:
            try:
                answer({"output": await do(client, order)})
            except Exception as error:
                answer({"error": error_of(error)})


async def do(client: Client, order: Order) -> object:
    members = cast("dict[str, object]", as_sent(order.members))
    if order.kind == "wait":
        await client.get_waiter(method_of(order.what)).wait(**members)
        return {}
    if order.kind == "subscribe":
        output = await cast(Method, getattr(client, "subscribe_to_shard"))(**members)  # noqa: B009
        return await events_of(client, cast(Events, output["EventStream"]), order)
    return as_told(await cast(Method, getattr(client, method_of(order.what)))(**members))


async def events_of(client: Client, events: Events, order: Order) -> list[object]:
    told: list[object] = []
    records = 0
    async for event in events:
        told.append(as_told(event["SubscribeToShardEvent"]))
        records += len(cast("list[object]", event["SubscribeToShardEvent"]["Records"]))
        if records >= int(order.what):
            break
        if len(told) == 1 and order.meanwhile is not None:
            await do(client, order.meanwhile)
    events.close()
    return told


if __name__ == "__main__":
    asyncio.run(main())
