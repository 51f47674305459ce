"""Drives awscli: the command `aws kinesis`, run in this process, which starts it once and not for each call.

It has no command for subscriptions.
"""

import base64
import contextlib
import importlib
import io
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol, cast

from tools.clients.drivers.lines import Order, answer, method_of, orders

REFUSED: Final = re.compile(r"An error occurred \((\w+)\) when calling the \w+ operation(?: \(.*?\))?: (.*)", re.DOTALL)


class Command(Protocol):
    """As awscli has it."""

    def main(self, args: Sequence[str]) -> int: ...


class Failed(Exception):
    """The command ended with an error of the service."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.told = {"code": code, "message": message}


def main() -> None:
    aws = cast("Callable[[], Command]", importlib.import_module("awscli.clidriver").create_clidriver)()
    for order in orders():
        if order.kind == "subscribe":
            answer({"lacks": "SubscribeToShard"})
            continue
        try:
            answer({"output": do(aws, order)})
        except Failed as error:
            answer({"error": error.told})


def do(aws: Command, order: Order) -> object:
    command = method_of(order.what).replace("_", "-")
    if order.kind == "wait":
        run(aws, ["kinesis", "wait", command, *options_of(order.members)])
        return {}
    with tempfile.NamedTemporaryFile() as data:  # bytes that are no text are given in a file
        options: list[str] = []
        members = dict(order.members)
        if "Data" in members:
            Path(data.name).write_bytes(base64.b64decode(str(members.pop("Data"))))
            options = ["--data", f"fileb://{data.name}"]
        said = run(aws, ["kinesis", command, "--no-paginate", *options_of(members), *options])
    return json.loads(said) if said.strip() else {}


def options_of(members: dict[str, object]) -> list[str]:
    members = dict(members)
    if "Timestamp" in members:
        members["Timestamp"] = cast(int, members["Timestamp"]) / 1000
    if "Records" in members:
        records = cast("list[dict[str, str]]", members["Records"])
        members["Records"] = [
            {**record, "Data": base64.b64decode(record["Data"]).decode("utf-8")} for record in records
        ]
    return ["--cli-input-json", json.dumps(members)]


def run(aws: Command, arguments: Sequence[str]) -> str:
    said, complaint = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complaint):
        status = aws.main(["--output", "json", *arguments])
    if status != 0:
        refused = REFUSED.search(complaint.getvalue())
        if refused is None:
            raise RuntimeError(f"aws ended with {status}: {complaint.getvalue()}")
        raise Failed(refused[1], refused[2].strip())
    return said.getvalue()


if __name__ == "__main__":
    main()
