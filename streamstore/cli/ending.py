"""How a command ends: one sentence and an exit code, never a traceback for what the caller can mend."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import BinaryIO, ClassVar, Final

import typer

from streamstore import StreamStoreError

__all__ = ["CommandError", "Interrupted", "UsageError", "say", "standard_output", "tidy_ending"]

# What a shell reports of a program that a signal ended: 128 + SIGINT, 128 + SIGPIPE.
EXIT_INTERRUPTED: Final = 130
EXIT_BROKEN_PIPE: Final = 141


class CommandError(Exception):
    """The command failed. Its text is the sentence to print."""

    exit_code: ClassVar[int] = 1


class UsageError(CommandError):
    """The command was called wrongly. Nothing was done."""

    exit_code: ClassVar[int] = 2


class Interrupted(CommandError):
    """Ctrl-C ended the command. Its text says what was done by then."""

    exit_code: ClassVar[int] = EXIT_INTERRUPTED


def say(text: str) -> None:
    """Print a line on standard error; standard output belongs to the data."""
    print(text, file=sys.stderr)


def standard_output() -> BinaryIO:
    """Open standard output for bytes. Use it as a context manager: its end writes what is left, or fails.

    Not ``sys.stdout``, whose last bytes leave when Python ends, too late for ``tidy_ending`` to tell of a failure.
    """
    return open(sys.stdout.fileno(), "wb", closefd=False)


@contextmanager
def tidy_ending() -> Generator[None]:
    """Turn every expected failure of a command into its sentence and its exit code."""
    try:
        yield
    except CommandError as error:
        say(f"streamstore: {error}")
        raise typer.Exit(error.exit_code) from error
    except StreamStoreError as error:
        say(f"streamstore: {error}")
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(EXIT_INTERRUPTED) from error
    except BrokenPipeError as error:
        # Whoever read our output has enough: nothing to tell.
        raise typer.Exit(EXIT_BROKEN_PIPE) from error
    except OSError as error:
        say(f"streamstore: {error}.")
        raise typer.Exit(1) from error
