"""The entry of the ``ptycho`` command, and the only place that knows exit codes."""

import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import typer

from ptychoconfig.errors import (
    BackendError,
    BundleError,
    ConfigError,
    DataError,
    NumericalError,
    PtychoError,
    UsageError,
)

__all__ = ["EXIT_CODES", "main", "run"]

COMPLETION = "_PTYCHO_COMPLETE"
"""Variable by which a shell asks for completions; `ptycho --install-completion` sets it up."""

OK, BUG, INTERRUPTED = 0, 1, 130

EXIT_CODES: dict[type[PtychoError], int] = {
    UsageError: 2,
    ConfigError: 3,
    DataError: 4,
    BackendError: 5,
    BundleError: 6,
    NumericalError: 7,
}


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code.

    An error that ``ptycho`` raises on purpose ends in one message on stderr; any other is a bug
    and shows its traceback.

    Args:
        argv: the arguments after the program's name.
    """
    try:
        return _call(argv)
    except typer.TyperException as error:
        _say(_usage_message(error))
        return error.exit_code
    except PtychoError as error:
        _say(str(error))
        return EXIT_CODES.get(type(error), BUG)
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout (head, less) has seen enough: no error, but Python would complain
        # once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception:  # noqa: BLE001 - the last resort, and it shows the traceback
        traceback.print_exc()
        _say("this is a bug in ptycho; please report it with the lines above")
        return BUG


def run() -> NoReturn:
    """Entry point of the ``ptycho`` script."""
    for stream in (sys.stdout, sys.stderr):  # × and √ must not end a run in an ASCII locale
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if COMPLETION in os.environ:
        sys.exit(_complete(os.environ[COMPLETION]))
    sys.exit(main(sys.argv[1:]))


def _complete(asked: str) -> int:
    """Tell a shell what can follow; ``asked`` is such as ``complete_bash``."""
    from typer.completion import shell_complete
    from typer.main import get_command

    from ptychocli.app import app

    return shell_complete(get_command(app), {}, "ptycho", COMPLETION, asked)


def _call(argv: Sequence[str]) -> int:
    """Parse ``argv`` and run its command, without Typer's own handling of errors."""
    from typer.main import get_command

    from ptychocli.app import app

    try:
        command = get_command(app)
        with command.make_context("ptycho", list(argv)) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as stop:
        return stop.exit_code
    return OK


def _usage_message(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    message = error.format_message().rstrip(".")
    return message if context is None else f"{message} (see: {context.command_path} --help)"


def _say(message: str) -> None:
    sys.stderr.write(f"error: {message}\n")
