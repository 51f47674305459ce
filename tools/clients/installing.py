"""The clients as their registries have them, each in a folder of its own: they want different versions of botocore."""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["CLIENTS", "PROJECT", "Client", "NotInstalledError", "installed", "package_folder"]

PROJECT: Final = Path(__file__).parent.parent.parent
CACHE: Final = PROJECT / ".clients"
INSTALL_S_MAX: Final = 300.0
JAVASCRIPT: Final = "@aws-sdk/client-kinesis@3.1143.0"


class NotInstalledError(Exception):
    """A client cannot be had here. Its text says why."""


class Client(NamedTuple):
    """A client and what drives it."""

    name: str
    package: str
    driver: tuple[str, ...]
    """The program behind the interpreter: a module of Python, or a file of JavaScript with arguments."""

    @property
    def is_javascript(self) -> bool:
        return self.driver[0].endswith(".mjs")


CLIENTS: Final[dict[str, Client]] = {
    client.name: client
    for client in (
        Client("boto3", "boto3==1.44.8", ("tools.clients.drivers.boto3_driver",)),
        Client("aiobotocore", "aiobotocore==3.10.0", ("tools.clients.drivers.aiobotocore_driver",)),
        Client("awscli", "awscli==1.46.3", ("tools.clients.drivers.awscli_driver",)),
        Client("javascript", JAVASCRIPT, ("tools/clients/drivers/javascript_driver.mjs",)),
        Client("javascript-cbor", JAVASCRIPT, ("tools/clients/drivers/javascript_driver.mjs", "cbor")),
    )
}


def installed(client: Client) -> tuple[list[str], dict[str, str]]:
    """Install the client, if it is not there yet, and return what runs its driver: the command and the environment.

    Raises ``NotInstalledError`` where its registry cannot be reached, or its runtime is missing.
    """
    runtime = _runtime(client)
    folder = package_folder(client.package, is_javascript=client.is_javascript)
    if client.is_javascript:
        return [runtime, *client.driver], {"CLIENTS_NODE_MODULES": os.fspath(folder / "node_modules")}
    path = os.pathsep.join((os.fspath(folder), os.fspath(PROJECT)))
    return [runtime, "-m", *client.driver], {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def package_folder(package: str, *, is_javascript: bool = False, sha256: str | None = None) -> Path:
    """Install a package, if it is not there yet, and return the folder that it is in, with what it needs.

    ``sha256``: of the only file that is taken for it, without what it needs. Raises ``NotInstalledError``.
    """
    folder = CACHE / hashlib.sha256(f"{package} {platform.python_version()}".encode()).hexdigest()[:12]
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            _install(package, folder, is_javascript=is_javascript, sha256=sha256)
            (folder / "installed").touch()
    return folder


def _runtime(client: Client) -> str:
    if not client.is_javascript:
        return sys.executable
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        raise NotInstalledError("needs node and npm")
    return node


def _install(package: str, folder: Path, *, is_javascript: bool, sha256: str | None) -> None:
    if is_javascript:
        (folder / "package.json").write_text(json.dumps({"private": True}))
        command = ["npm", "install", "--no-audit", "--no-fund", "--silent", package]
    else:
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        command = [*pip, "--no-compile", "--target", os.fspath(folder), package]
    if sha256 is not None:
        pinned = folder / "requirements.txt"
        pinned.write_text(f"{package} --hash=sha256:{sha256}\n")
        command[-1:] = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", os.fspath(pinned)]
    try:
        done = subprocess.run(
            command, cwd=folder, check=False, capture_output=True, text=True, timeout=INSTALL_S_MAX, env=_environment()
        )
    except subprocess.TimeoutExpired as error:
        raise NotInstalledError(f"{package} was not installed within {INSTALL_S_MAX:.0f} s") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
        raise NotInstalledError(f"{package} cannot be installed: {said[-1][:200]}")


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
