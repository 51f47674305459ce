"""`streamstore serve` for one client: keys, a certificate, and the wire that can lose answers."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from streamstore.check import check_store
from tools.clients.installing import PROJECT
from tools.clients.losing import LosingWire
from tools.clients.scenario import Lost

__all__ = ["Server", "certificate", "environment", "serving"]

END_S_MAX: Final = 60.0
STOPPED: Final = "streamstore: stopped; everything that was acknowledged is in the store.\n"
"""All that a server complains of that met no mistake."""
PLANTED: Final = """
import sys
from streamstore.cli import main
from tools.torture import plants
plants.plant(sys.argv.pop(1))
main()
"""
SECRETS: Final = {"default": "SECRET-OF-WHO-MAY-DO-ALL", "reader": "SECRET-OF-WHO-MAY-READ"}
CREDENTIALS: Final = "".join(
    f"[{profile}]\naws_access_key_id = AKID{key}\naws_secret_access_key = {secret}\n"
    for profile, key, secret in (
        ("default", "DEFAULT", SECRETS["default"]),
        ("reader", "READER", SECRETS["reader"]),
        ("wrong", "DEFAULT", "SECRET-OF-SOMEBODY-ELSE"),
    )
)
KEYS: Final = f"""
[keys.AKIDDEFAULT]
secret_access_key = "{SECRETS["default"]}"

[keys.AKIDREADER]
secret_access_key = "{SECRETS["reader"]}"
read_only = true
"""


class Server(NamedTuple):
    """A server that runs."""

    port: int
    access_log: Path

    def puts_answered(self) -> int:
        """Return how many requests to put it has answered with success."""
        lines = [json.loads(line) for line in self.access_log.read_text().splitlines()]
        return sum(line["action"] in ("PutRecord", "PutRecords") and line["code"] is None for line in lines)

    def losing(self, wire: LosingWire) -> Lost:
        return Lost(wire.lose_next_answer, lambda: wire.answers_lost, self.puts_answered)


@contextlib.contextmanager
def serving(folder: Path, *options: str, plant: str | None = None) -> Generator[Server]:
    """Serve a new store in the folder. At the end it is stopped, and found sound. Raises ``AssertionError``.

    ``plant``: a fault of ``tools.torture.plants`` to plant in the server.
    """
    folder.mkdir()
    keys, store, access_log = folder / "keys.toml", folder / "store", folder / "access.log"
    keys.touch(0o600)
    keys.write_text(KEYS, encoding="utf-8")
    serve = ["serve", str(store), "--port", "0", "--dialect", "aws", "--sync", "off", "--credentials", str(keys)]
    program = ["-m", "streamstore.cli"] if plant is None else ["-c", PLANTED, plant]
    command = [sys.executable, "-W", "error", *program, *serve, "--access-log", str(access_log), *options]
    complaints = folder / "complaints"
    with (
        complaints.open("w") as stderr,
        subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.startswith("serving "), f"the server said {complaints.read_text()}"
            yield Server(int(line.rpartition(":")[2]), access_log)
            process.send_signal(signal.SIGTERM)
            status = process.wait(END_S_MAX)
        finally:
            process.kill()
    assert (status, complaints.read_text()) == (0, STOPPED)
    assert check_store(store) == []


def environment(folder: Path, url: str, *, profile: str = "default") -> Mapping[str, str]:
    """Return what tells a client where the server is and who asks, as it tells every program."""
    shared = folder / "credentials"
    shared.touch(0o600)
    shared.write_text(CREDENTIALS, encoding="utf-8")
    return {"AWS_ENDPOINT_URL_KINESIS": url, "AWS_PROFILE": profile, "AWS_SHARED_CREDENTIALS_FILE": os.fspath(shared)}


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for this machine, and return its file and that of its key."""
    made, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", key, "-out", made, "-days", "30", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return made, key
