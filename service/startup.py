"""What must be there before the service may say that it serves: a folder that it can write, and its database."""

from __future__ import annotations

import os
from pathlib import Path

from service.settings import Settings
from service.store import opening
from service.store.store import Store

_FOLDERS = "--data-dir or ATTUNE_DATA_DIR names the one above it"


class StartError(Exception):
    """The service cannot start; the text is a sentence that says why."""


def open_store(settings: Settings) -> Store:
    """Make the data folder, open the database and bring its tables up to date.

    Raises:
        StartError: one of them is not possible.
    """
    _make_folder(settings.jobs_dir)
    try:
        return opening.open_store(settings.effective_database_url)
    except opening.CannotOpen as error:
        raise StartError(f"ATTUNE_DATABASE_URL: {error}" if settings.database_url else str(error)) from None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"cannot make the folder {folder}: {error.strerror}; {_FOLDERS}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StartError(f"cannot write to the folder {folder}; {_FOLDERS}")
