"""How the command ends: exit codes that scripts can rely on, and one or two lines on stderr instead of a traceback.

0   done
1   the job or the operation failed
2   wrong usage, a bad spec, or an impossible setting
3   the service cannot be reached
4   the thing asked for does not exist
75  interrupted, and can be resumed
130 stopped by Ctrl-C
"""

from __future__ import annotations

import os
import traceback

import typer

from service.cli.output import print_error
from service.client_errors import ApiError, BadRequest, ConnectionFailed, NotFound, Unauthenticated
from trainer.job_dir import EXIT_INTERRUPTED
from trainer.resolve import SpecError

DONE = 0
FAILED = 1
USAGE = 2
UNREACHABLE = 3
MISSING = 4
INTERRUPTED = EXIT_INTERRUPTED
STOPPED = 130

_UsageError = typer.BadParameter.__mro__[2]  # ClickException: from `click`, or from the copy of it inside newer typers


class CommandError(Exception):
    """A command cannot go on; the text is for people, the code for scripts."""

    def __init__(self, message: str, *, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def report(error: Exception) -> int:
    """Say on stderr what went wrong and return the exit code; with ATTUNE_DEBUG=1 the traceback comes too."""
    if os.environ.get("ATTUNE_DEBUG"):
        traceback.print_exception(error)
    message, code = describe(error)
    if message:  # a command group without a command has shown its help, which is all there is to say
        print_error(message)
    return code


def describe(error: Exception) -> tuple[str, int]:
    """What to say about an error, and the exit code for it."""
    if isinstance(error, CommandError):
        return str(error), error.code
    if isinstance(error, SpecError):
        return str(error), USAGE
    if isinstance(error, Unauthenticated):
        return f"{error.message}\nThis command sends what the environment variable ATTUNE_API_KEY holds.", USAGE
    if isinstance(error, ApiError):
        return error.message, _api_code(error)
    if isinstance(error, _UsageError):
        return _usage_message(error), USAGE
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error), FAILED
    return f"{type(error).__name__}: {error} (this is a defect; ATTUNE_DEBUG=1 shows where)", FAILED


def _api_code(error: ApiError) -> int:
    if isinstance(error, ConnectionFailed):
        return UNREACHABLE
    if isinstance(error, NotFound):
        return MISSING
    return USAGE if isinstance(error, BadRequest) else FAILED


def _usage_message(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    message: str = error.format_message()  # type: ignore[attr-defined]
    return f"{message}\nTry: {context.command_path} --help" if context and message else message
