"""Keeps an attempt that was given up from going on: the launch token in its folder. Imports no torch.

Whoever starts an attempt on an engine of several machines writes `token.json` with a token that nobody else has, and
hands it to the processes in `ATTUNE_LAUNCH_TOKEN`. Giving the attempt up takes the token away again. Processes that
the engine lost sight of, or that it started a second time, see that through the shared folder and end.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from trainer.job_dir import Record, write_json_atomically

TOKEN_VARIABLE = "ATTUNE_LAUNCH_TOKEN"


class LaunchToken(Record):
    """`token.json`: who may work on an attempt."""

    token: str | None
    """None once the attempt was given up."""
    reason: str | None = None
    """Why it was."""


class Fenced(Exception):
    """This process belongs to a launch that was given up; it must write nothing more."""


def issue(attempt_dir: Path) -> str:
    """A fresh token for an attempt, written to its folder; any earlier one is void from here on.

    Raises:
        Fenced: the attempt was given up before.
    """
    found = read_token(attempt_dir)
    if found is not None and found.token is None:
        raise Fenced(f"{attempt_dir} was given up: {found.reason}")
    token = secrets.token_hex(12)
    write_json_atomically(_path(attempt_dir), LaunchToken(token=token))
    return token


def take_away(attempt_dir: Path, *, reason: str) -> None:
    """Give an attempt up: whatever still runs of it ends by itself, and nothing of it can start any more."""
    write_json_atomically(_path(attempt_dir), LaunchToken(token=None, reason=reason))


def read_token(attempt_dir: Path) -> LaunchToken | None:
    """What the attempt's `token.json` says; None if there is none."""
    try:
        return LaunchToken.model_validate_json(_path(attempt_dir).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def require(attempt_dir: Path, *, token: str) -> None:
    """Whether `token` still holds.

    Raises:
        Fenced: it does not, or a later attempt of the job has begun. A folder that cannot be read just now says
            neither.
    """
    try:
        content = _path(attempt_dir).read_bytes()
    except FileNotFoundError:
        content = b""
    except OSError:
        return
    if not content or LaunchToken.model_validate_json(content).token != token:
        raise Fenced(f"the launch of {attempt_dir} was given up")
    successor = attempt_dir.with_name(f"{int(attempt_dir.name) + 1:04d}")
    if successor.exists():
        raise Fenced(f"{attempt_dir} has a successor")


def require_own(attempt_dir: Path, *, environment: Mapping[str, str] = os.environ) -> None:
    """`require` with the token that this process was started with; nothing where it was started without one.

    Raises:
        Fenced: see `require`.
    """
    token = environment.get(TOKEN_VARIABLE)
    if token is not None:
        require(attempt_dir, token=token)


def _path(attempt_dir: Path) -> Path:
    return attempt_dir / "token.json"
