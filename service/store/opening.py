"""Opening the store where it may not be possible: each reason as a sentence for whoever set its URL."""

from __future__ import annotations

from pathlib import Path

from alembic.util import CommandError as MigrationError
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from service.store.projects import USAGE_HALF_LIFE_S
from service.store.records import StoreError
from service.store.store import Layout, Store

_BACKENDS = ("sqlite", "postgresql")
_URLS = "use sqlite:////FOLDER/attune.db or postgresql+psycopg://USER:PASSWORD@HOST/NAME"


class CannotOpen(StoreError):
    """There is no usable database at this URL; the text says why, without the password."""


def open_store(url: str, *, usage_half_life_s: float = USAGE_HALF_LIFE_S) -> Store:
    """Open the database at an SQLAlchemy URL and bring its tables up to date.

    `usage_half_life_s`: as `Store` takes it.

    Raises:
        CannotOpen: the URL is none, its driver or its database is not there, or the database is not ours.
    """
    store, shown = _connect(url, usage_half_life_s=usage_half_life_s)
    try:
        store.upgrade()
    except (MigrationError, SQLAlchemyError, OSError) as error:
        store.close()
        if isinstance(error, MigrationError):
            raise CannotOpen(f"the database {shown} was made by another version of Attune: {error}") from None
        raise CannotOpen(f"cannot open the database {shown}: {_reason(error)}") from None
    return store


def read_layout(url: str) -> Layout:
    """What layout the database at an SQLAlchemy URL has; nothing is changed.

    Raises:
        CannotOpen: the URL is none, or its driver or its database is not there.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        raise CannotOpen(f"there is no database {parsed.database}")
    store, shown = _connect(url)
    try:
        return store.layout()
    except SQLAlchemyError as error:
        raise CannotOpen(f"cannot open the database {shown}: {_reason(error)}") from None
    finally:
        store.close()


def _connect(url: str, *, usage_half_life_s: float = USAGE_HALF_LIFE_S) -> tuple[Store, str]:
    """A store on it, whose tables nobody has looked at, and the URL without its password."""
    shown = _parsed(url).render_as_string(hide_password=True)
    try:
        return Store(url, usage_half_life_s=usage_half_life_s), shown
    except ImportError as error:
        message = f"the driver for {shown} is not installed ({error})"
        raise CannotOpen(f"{message}; pip install 'attune-clip[postgres]' brings psycopg") from None
    except (SQLAlchemyError, OSError) as error:
        raise CannotOpen(f"cannot open the database {shown}: {_reason(error)}") from None


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise CannotOpen(f"this is not the URL of a database; {_URLS}") from None
    if parsed.get_backend_name() not in _BACKENDS:
        raise CannotOpen(f"databases of kind {parsed.get_backend_name()!r} are not supported; {_URLS}")
    return parsed


def _reason(error: Exception) -> str:
    """What the database itself said, in one line and without the statement at which it did."""
    said = error.orig if isinstance(error, DBAPIError) else error
    return " ".join(str(said).split())
