"""The `streamstore` command: parse, call, print. It sees the front door of the package and nothing behind it."""

import sys

__all__ = ["main"]

EXTRA_PACKAGES = ("typer", "rich")
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count


def main() -> None:
    """Run the command with the arguments of the process, and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        # Here and not above: only the command needs the extra, and only here can its absence be told in a sentence.
        from streamstore.cli.app import app  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name not in EXTRA_PACKAGES:
            raise
        sys.exit("streamstore: the command needs typer and rich; run: pip install 'streamstore[cli]'")
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        # The store's file would get the number of the closed one, and what is printed there would land in the data.
        sys.exit("streamstore: standard input, output and error must be open; /dev/null will do.")
    app(prog_name="streamstore")
