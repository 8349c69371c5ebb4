"""What must be there before the service may say that it serves: a folder that it can write, and its database."""

from __future__ import annotations

import os
from pathlib import Path

from alembic.util import CommandError as MigrationError
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from service.settings import Settings
from service.store.store import Store

_BACKENDS = ("sqlite", "postgresql")
_URLS = "use sqlite:////FOLDER/attune.db or postgresql+psycopg://USER:PASSWORD@HOST/NAME"


class StartError(Exception):
    """The service cannot start; the text is a sentence that says why."""


def open_store(settings: Settings) -> Store:
    """Make the data folder, open the database and bring its tables up to date.

    Raises:
        StartError: one of them is not possible.
    """
    _make_folder(settings.jobs_dir)
    url = _database_url(settings)
    shown = url.render_as_string(hide_password=True)
    try:
        store = Store(settings.effective_database_url)
    except ImportError as error:
        message = f"the driver of ATTUNE_DATABASE_URL {shown} is not installed ({error})"
        raise StartError(f"{message}; pip install 'attune-clip[postgres]' has psycopg, for {_URLS}") from None
    except (SQLAlchemyError, OSError) as error:
        raise StartError(f"cannot open the database {shown}: {_reason(error)}") from None
    try:
        store.upgrade()
    except MigrationError as error:
        store.close()
        raise StartError(f"the database {shown} was made by another version of Attune: {error}") from None
    except (SQLAlchemyError, OSError) as error:
        store.close()
        raise StartError(f"cannot open the database {shown}: {_reason(error)}") from None
    return store


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"cannot make the data folder {folder}: {error.strerror} (ATTUNE_DATA_DIR)") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StartError(f"cannot write to the data folder {folder} (ATTUNE_DATA_DIR)")


def _database_url(settings: Settings) -> URL:
    try:
        url = make_url(settings.effective_database_url)
    except (ArgumentError, ValueError):
        raise StartError(f"ATTUNE_DATABASE_URL is not the URL of a database; {_URLS}") from None
    if url.get_backend_name() not in _BACKENDS:
        raise StartError(f"ATTUNE_DATABASE_URL names a database of kind {url.get_backend_name()!r}; {_URLS}")
    return url


def _reason(error: Exception) -> str:
    """What the database itself said, in one line and without the statement at which it did."""
    said = error.orig if isinstance(error, DBAPIError) else error
    return " ".join(str(said).split())
