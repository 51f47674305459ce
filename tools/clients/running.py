"""Runs everything on one client."""

import json
import os
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tools.clients.conversation import Conversation, Talk
from tools.clients.installing import Client, NotInstalledError, installed
from tools.clients.losing import LosingWire
from tools.clients.scenario import live, live_over_tls, read_only, wrong_secret
from tools.clients.server import certificate, environment, serving

__all__ = ["Ran", "run"]


class Ran(NamedTuple):
    """What came of one client."""

    client: Client
    talks: list[Talk]
    seconds: float
    skipped: str | None = None
    failed: str | None = None


def run(client: Client, plant: str | None) -> Ran:
    """Run everything on one client."""
    began_s = time.monotonic()
    talks: list[Talk] = []
    try:
        command, own_environment = installed(client)
        with tempfile.TemporaryDirectory(prefix=f"streamstore-{client.name}-") as folder:
            run_all(command, own_environment, Path(folder), talks, plant)
    except NotInstalledError as error:
        return Ran(client, talks, time.monotonic() - began_s, skipped=str(error))
    except Exception as error:
        last = f"\nThe last was {talks[-1].asked}: {json.dumps(talks[-1].came)[:1_000]}" if talks else ""
        told = "".join(traceback.format_exception(error))
        return Ran(client, talks, time.monotonic() - began_s, failed=f"{told}{last}")
    return Ran(client, talks, time.monotonic() - began_s)


def run_all(
    command: list[str], own_environment: Mapping[str, str], folder: Path, talks: list[Talk], plant: str | None
) -> None:
    with serving(folder / "plain", plant=plant) as server, LosingWire(server.port) as wire:
        url = f"http://127.0.0.1:{wire.port}"
        for scenario, profile in ((wrong_secret, "wrong"), (read_only, "reader"), (None, "default")):
            known = {**own_environment, **environment(folder, url, profile=profile)}
            with Conversation(command, known, talks) as conversation:
                if scenario is None:
                    live(conversation, server.losing(wire))
                else:
                    scenario(conversation)
    made, key = certificate(folder)
    with serving(folder / "tls", "--tls-cert", os.fspath(made), "--tls-key", os.fspath(key)) as server:
        trusted = {"AWS_CA_BUNDLE": os.fspath(made), "NODE_EXTRA_CA_CERTS": os.fspath(made)}
        known = {**own_environment, **environment(folder, f"https://127.0.0.1:{server.port}"), **trusted}
        with Conversation(command, known, talks) as conversation:
            live_over_tls(conversation)
