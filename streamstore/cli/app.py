"""The subcommands: each parses its arguments, calls the store and prints. No rule of the engine is repeated here."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Annotated, Final

import typer

from streamstore import (
    DialectName,
    IngestResult,
    PutRecordsEntry,
    ResourceInUseException,
    ResourceNotFoundException,
    StoreNotFoundError,
    StreamStore,
    StreamStoreError,
    SyncMode,
    check_store_apart,
    salvage_store,
)
from streamstore.cli.ending import CommandError, Interrupted, UsageError, say, standard_output, tidy_ending
from streamstore.cli.lines import (
    NEWLINE,
    input_bytes,
    open_input,
    partition_key_of_line,
    read_lines,
    record_data,
)
from streamstore.cli.progress import LineProgress
from streamstore.cli.server import ServeArguments, serve_store
from streamstore.cli.verify import LineComparison, shard_ids_of

__all__ = ["app"]

SHARD_COUNT_DEFAULT: Final = 1
SHARDS_SHOWN_MAX: Final = 10_000  # the most that one describe_stream tells
PROCESSES_MAX: Final = 64  # each keeps the store open and, under load, a processor busy

# "\b" keeps the lines of a paragraph as they are.
EXAMPLES: Final = """\b
Examples:
  streamstore put ./events clicks app.log --create --shards 4
  tail -f app.log | streamstore put ./events clicks
  streamstore get ./events clicks | wc -l
  streamstore verify ./events clicks app.log
  streamstore backup ./events /mnt/backup/events
"""
PUT_EXAMPLES: Final = """\b
Examples:
  streamstore put ./events clicks app.log --create --shards 4
  gunzip -c app.log.gz | streamstore put ./events clicks
  echo hello | streamstore put ./events clicks --partition-key user1
"""
GET_EXAMPLES: Final = """\b
Examples:
  streamstore get ./events clicks | grep ERROR
  streamstore get ./events clicks --shard shard-000000 | head
"""
VERIFY_EXAMPLES: Final = """\b
Example:
  streamstore put ./events clicks app.log --create --shards 4
  streamstore verify ./events clicks app.log
"""
CHECK_EXAMPLES: Final = """\b
Example:
  streamstore check ./events && echo all is well
"""
BACKUP_EXAMPLES: Final = """\b
Examples:
  streamstore backup ./events /mnt/backup/events-monday --compact
  streamstore get /mnt/backup/events-monday clicks | wc -l
"""
SALVAGE_EXAMPLES: Final = """\b
Example:
  streamstore check ./events || streamstore salvage ./events ./events-salvaged
"""

SERVE_EXAMPLES: Final = """\b
Examples:
  streamstore serve ./events --dialect aws
  streamstore serve ./events --host 0.0.0.0 --credentials keys.toml --tls-cert cert.pem --tls-key key.pem
"""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain text: help and errors read the same in a terminal, a pipe and a log.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

StoreArgument = Annotated[Path, typer.Argument(metavar="STORE", help="Folder of the store.", show_default=False)]
StreamArgument = Annotated[str, typer.Argument(metavar="STREAM", help="Name of the stream.", show_default=False)]


def show_version(wanted: bool) -> None:
    if wanted:
        with tidy_ending():
            print(f"streamstore {installed_version()}")
        raise typer.Exit


def installed_version() -> str:
    try:
        return metadata.version("streamstore")
    except metadata.PackageNotFoundError as error:
        raise CommandError("the version is not known: streamstore is not installed here, only found.") from error


@app.callback(epilog=EXAMPLES)
def streamstore(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=show_version, is_eager=True)
    ] = False,
) -> None:
    """Keep data streams in a store: durable, strictly ordered, one file, no server."""


@dataclass(slots=True)
class PutTally:
    """What has been acknowledged so far: with ``sync`` "full", what no failure can take back."""

    stored: IngestResult = field(default_factory=lambda: IngestResult(0, 0, frozenset()))


@app.command(epilog=PUT_EXAMPLES)
def put(
    store: StoreArgument,
    stream: StreamArgument,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What to store; - is standard input.")] = "-",
    create: Annotated[bool, typer.Option("--create", help="Create the store and the stream if missing.")] = False,
    shards: Annotated[
        int | None, typer.Option("--shards", help="Shards of a stream that --create makes; 1 if not given.")
    ] = None,
    dialect: Annotated[
        DialectName | None,
        typer.Option("--dialect", help="Names, ids and bounds of a store that --create makes; yandex if not given."),
    ] = None,
    partition_key: Annotated[
        str | None, typer.Option("--partition-key", help="Key of every record, instead of the number of its line.")
    ] = None,
    explicit_hash_key: Annotated[
        str | None, typer.Option("--explicit-hash-key", help="Decimal hash key that chooses the shard of every record.")
    ] = None,
    sync: Annotated[
        SyncMode,
        typer.Option("--sync", help="full: a stored record survives power loss; normal, off: less, faster."),
    ] = "full",
) -> None:
    """Store every line of FILE as one record, in order.

    A record is a line without its newline; bytes are stored as they are, an empty line is an empty record. Its
    partition key is the number of the line, counted from 1, which spreads the lines over the shards; the lines of
    one shard stay in the order of the file. When the command ends with 0, every line is stored. The summary and
    the progress bar go to standard error.
    """
    tally = PutTally()
    with tidy_ending():
        if shards is not None and not create:
            raise UsageError("--shards is for the stream that --create makes; give both or neither.")
        if dialect is not None and not create:
            raise UsageError("--dialect is for the store that --create makes; give both or neither.")
        started_s = time.monotonic()
        try:
            with open_input(file) as source, StreamStore(store, create=create, sync=sync, dialect=dialect) as opened:
                if create:
                    create_stream_if_missing(opened, stream, shards)
                else:
                    opened.describe_stream(stream)  # refuses a missing stream even if there is no line
                with LineProgress("put", input_bytes(source)) as progress:
                    put_lines(opened, stream, read_lines(source), partition_key, explicit_hash_key, tally, progress)
        except KeyboardInterrupt as error:
            raise Interrupted(
                f"interrupted; {tally.stored.record_count:,} records were acknowledged, and some behind them may be "
                "stored."
            ) from error
        except (StreamStoreError, CommandError) as error:
            records = tally.stored.record_count
            if records > 0:
                raise CommandError(f"{error} The {records:,} records before it were acknowledged.") from error
            if isinstance(error, (StoreNotFoundError, ResourceNotFoundException)):
                raise CommandError(f"{error} Or let put make it, with --create.") from error
            raise
    seconds = time.monotonic() - started_s
    stored = tally.stored
    say(
        f"stored {plural(stored.record_count, 'record')}, {plural(stored.data_bytes, 'byte')}, "
        f"in {plural(len(stored.shard_ids), 'shard')}: "
        f"{seconds:.2f} s, {stored.record_count / seconds:,.0f} records/s"
    )


def create_stream_if_missing(store: StreamStore, stream: str, shards: int | None) -> None:
    try:
        store.create_stream(stream, shard_count=SHARD_COUNT_DEFAULT if shards is None else shards)
    except ResourceInUseException:
        shard_count = len(store.describe_stream(stream, limit=SHARDS_SHOWN_MAX).shards)
        if shards is not None and shards != shard_count:
            say(f"streamstore: the stream {stream} exists already and keeps its {plural(shard_count, 'shard')}.")


def put_lines(
    store: StreamStore,
    stream: str,
    lines: Iterable[bytes],
    partition_key: str | None,
    explicit_hash_key: str | None,
    tally: PutTally,
    progress: LineProgress,
) -> None:
    """Put one line after the other, and keep the tally of those that are stored."""

    def count(stored: IngestResult) -> None:
        tally.stored = stored
        progress.show(bytes_done=stored.data_bytes + stored.record_count, records=stored.record_count)

    store.ingest(
        stream,
        (
            PutRecordsEntry(
                record_data(line),
                partition_key_of_line(line_number) if partition_key is None else partition_key,
                explicit_hash_key,
            )
            for line_number, line in enumerate(lines, start=1)
        ),
        on_stored=count,
    )
    progress.finish(bytes_done=tally.stored.data_bytes + tally.stored.record_count, records=tally.stored.record_count)


@app.command(epilog=GET_EXAMPLES)
def get(
    store: StoreArgument,
    stream: StreamArgument,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="ID", help="Only this shard, such as shard-000000.")
    ] = None,
) -> None:
    """Write every record and a newline to standard output, one shard after the other, each in its order."""
    with (
        tidy_ending(),
        StreamStore(store, create=False, read_only=True) as opened,
        standard_output() as output,
    ):
        for shard_id in shard_ids_of(opened, stream) if shard is None else (shard,):
            output.writelines(record.data + NEWLINE for record in opened.read(stream, shard_id))


@app.command(epilog=VERIFY_EXAMPLES)
def verify(
    store: StoreArgument,
    stream: StreamArgument,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What was put; - is standard input.")],
) -> None:
    """Compare the stream, byte for byte, with what `put` of FILE stored.

    Every line must be stored exactly once, unchanged, and in the order of the file within its shard; nothing else
    may be stored. Ends with 1 and tells the first difference otherwise. Works for lines that were put without
    --partition-key, into an empty stream.
    """
    with tidy_ending(), open_input(file) as source, StreamStore(store, create=False, read_only=True) as opened:
        comparison = LineComparison(opened, stream)
        bytes_done = 0
        line = NEWLINE
        with LineProgress("verify", input_bytes(source)) as progress:
            for line in comparison.compare(read_lines(source)):
                bytes_done += len(line)
                progress.show(bytes_done=bytes_done, records=comparison.records)
            progress.finish(bytes_done=bytes_done, records=comparison.records)
        verdict = (
            f"byte for byte what went in: {plural(comparison.records, 'record')}, "
            f"{plural(comparison.data_bytes, 'byte')}, {plural(comparison.shards_used, 'shard')}\n"
        )
        if not line.endswith(NEWLINE):
            verdict += "the last line of the file ends without a newline; a record does not keep it, get writes one\n"
        with standard_output() as output:
            output.write(verdict.encode())


@app.command(epilog=CHECK_EXAMPLES)
def check(store: StoreArgument) -> None:
    """Prove every record and every invariant of the store, beside its writers. Changes nothing.

    Prints each finding in a sentence. Ends with 0 if there is none, with 1 if there are some, and with 2 if the store
    cannot be opened. A process of its own reads the store, so damage that crashes it is a finding too.
    """
    with tidy_ending():
        try:
            findings = check_store_apart(store)
        except StreamStoreError as error:
            raise UsageError(str(error)) from error
        with standard_output() as output:
            output.writelines(f"{finding}\n".encode() for finding in findings)
        if findings:
            raise CommandError(f"{plural(len(findings), 'finding')} in {store}.")
        say(f"no finding in {store}")


@app.command(epilog=BACKUP_EXAMPLES)
def backup(
    store: StoreArgument,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="New folder for the copy.", show_default=False)],
    compact: Annotated[bool, typer.Option("--compact", help="Leave out the pages that nothing uses.")] = False,
) -> None:
    """Copy the store, one moment of it, while others read and write it.

    When the command ends with 0, the copy is on disk and checked; otherwise nothing is at PATH. To restore it, use it
    in place of STORE.
    """
    with tidy_ending():
        with StreamStore(store, create=False, read_only=True) as opened:
            opened.backup(path, compact=compact)
        say(f"copied {store} to {path}: {plural(folder_bytes(path), 'byte')}")


@app.command(epilog=SALVAGE_EXAMPLES)
def salvage(
    store: StoreArgument,
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Folder of the new store.", show_default=False)],
) -> None:
    """Make a new store of every record in a damaged one that still proves itself. STORE is only read.

    Prints each loss in a sentence, and a summary on standard error. Ends with 0 if nothing is lost, with 1 if
    something is, and with 2 if there is nothing to salvage; then nothing is at NEW. Records keep their numbers, and
    whoever reads a lost one is told so.
    """
    with tidy_ending():
        try:
            result = salvage_store(store, new)
        except StreamStoreError as error:
            raise UsageError(str(error)) from error
        with standard_output() as output:
            output.writelines(f"{finding}\n".encode() for finding in result.findings)
        summary = f"{plural(result.record_count, 'record')} of {plural(result.stream_count, 'stream')} are in {new}"
        if result.findings:
            raise CommandError(f"{summary}; {plural(result.lost_record_count, 'record')} lost.")
        say(f"{summary}; nothing is lost")


def folder_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())


@app.command(epilog=SERVE_EXAMPLES)
def serve(
    store: StoreArgument,
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="Port; 0 takes a free one.")] = 4567,
    dialect: Annotated[
        DialectName | None,
        typer.Option("--dialect", help="Names, ids and bounds of a store that is new; yandex if not given."),
    ] = None,
    credentials: Annotated[
        Path | None, typer.Option("--credentials", help="File of keys; who has none of them is not let in.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="Certificate, PEM; needs --tls-key.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Key of the certificate, PEM.")] = None,
    account_id: Annotated[str | None, typer.Option("--account-id", help="12 digits that ARNs show.")] = None,
    region: Annotated[str | None, typer.Option("--region", help="Region of ARNs and of signatures.")] = None,
    shard_limit: Annotated[
        int | None, typer.Option("--shard-limit", help="How many open shards there may be; 4,000 if not given.")
    ] = None,
    transition_ms: Annotated[
        int,
        typer.Option(
            "--transition-ms", help="How long what is changed is CREATING, UPDATING or DELETING, 0 to 1 hour."
        ),
    ] = 0,
    processes: Annotated[
        int,
        typer.Option("--processes", min=1, max=PROCESSES_MAX, help="How many serve the store, on as many processors."),
    ] = 1,
    access_log: Annotated[
        str | None, typer.Option("--access-log", help="File to log each request to, as JSON; - is standard error.")
    ] = None,
    metrics_for_all: Annotated[
        bool, typer.Option("--metrics-for-all", help="Show /metrics to every host, not to this machine alone.")
    ] = False,
    sync: Annotated[
        SyncMode, typer.Option("--sync", help="full: a stored record survives power loss; normal, off: less, faster.")
    ] = "full",
) -> None:
    """Serve the store to Kinesis clients over HTTP, and make it if it is missing.

    Prints one line when it answers, and ends well on SIGTERM and Ctrl-C: what came is finished, the rest is refused
    with 503. SIGHUP reads --credentials and opens --access-log anew. Without --credentials it serves this machine only.
    With --processes a process that is killed is followed by another.
    """
    with tidy_ending():
        serve_store(
            store,
            ServeArguments(
                host, port, credentials, tls_cert, tls_key, access_log, metrics_for_all, transition_ms, processes
            ),
            dialect=dialect,
            account_id=account_id,
            region=region,
            shard_limit=shard_limit,
            sync=sync,
        )


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
