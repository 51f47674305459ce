"""What ``serve`` does: opens the store, starts the server of the wire, and tells where it is."""

from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from streamstore import DialectName, StreamStore, SyncMode
from streamstore.cli.ending import CommandError, UsageError, say

__all__ = ["ServeArguments", "serve_store"]

EXTRA_PACKAGES: Final = ("cbor2", "h2", "httptools", "msgspec", "prometheus_client", "pybase64", "uvloop")


class ServeArguments(NamedTuple):
    """How to serve, as the command was given it."""

    host: str
    port: int
    credentials: Path | None
    tls_certificate: Path | None
    tls_key: Path | None
    access_log: str | None
    metrics_for_all: bool
    transition_ms: int
    processes: int


def serve_store(
    path: Path,
    arguments: ServeArguments,
    *,
    dialect: DialectName | None,
    account_id: str | None,
    region: str | None,
    shard_limit: int | None,
    sync: SyncMode,
) -> None:
    """Serve until a signal ends it. Every failure is a ``CommandError`` or an error of the store."""
    try:
        # Here and not above: the other commands need none of it, and start in half the time.
        from streamstore.wire.serve import ServeError, ServeOptions, Tls, serve, serve_in_processes  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name not in EXTRA_PACKAGES:
            raise
        raise CommandError(
            f"serve needs {', '.join(EXTRA_PACKAGES)}; run: pip install 'streamstore[cli,server]'"
        ) from error
    if (arguments.tls_certificate is None) != (arguments.tls_key is None):
        raise UsageError("--tls-cert and --tls-key belong together; give both or neither.")
    if arguments.processes > 1 and arguments.transition_ms:
        raise UsageError("--transition-ms needs --processes 1: each process would show another state.")
    tls = None
    if arguments.tls_certificate is not None and arguments.tls_key is not None:
        tls = Tls(arguments.tls_certificate, arguments.tls_key)
    options = ServeOptions(
        host=arguments.host,
        port=arguments.port,
        credentials=arguments.credentials,
        tls=tls,
        access_log=arguments.access_log,
        metrics_for_all=arguments.metrics_for_all,
        transition_ms=arguments.transition_ms,
    )
    open_store = partial(
        StreamStore, path, sync=sync, dialect=dialect, account_id=account_id, region=region, shard_limit=shard_limit
    )
    try:
        if arguments.processes > 1:
            serve_in_processes(open_store, options, arguments.processes, on_ready=partial(tell_place, path), say=warn)
        else:
            with open_store() as store:
                serve(store, options, on_ready=partial(tell_place, path), say=warn)
    except ServeError as error:
        raise CommandError(str(error)) from error
    say("streamstore: stopped; everything that was acknowledged is in the store.")


def tell_place(path: Path, url: str) -> None:
    print(f"serving {path} at {url}", flush=True)


def warn(text: str) -> None:
    say(f"streamstore: {text}")
