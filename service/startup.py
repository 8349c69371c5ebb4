"""What must be there before the service may say that it serves: a folder that it can write, and its database."""

from __future__ import annotations

import os
from pathlib import Path

from service.launchers.base import EngineRefused, Launcher
from service.launchers.choice import make_launcher
from service.settings import Settings, is_loopback
from service.store import opening
from service.store.store import Store
from service.tracing import Tracing, TracingRefused, tracing_of

_FOLDERS = "--data-dir or ATTUNE_DATA_DIR names the one above it"


class StartError(Exception):
    """The service cannot start; the text is a sentence that says why."""


def open_engine(settings: Settings) -> Launcher:
    """The engine that runs jobs.

    Raises:
        StartError: it is not installed, or must not be used as it is set up.
    """
    try:
        return make_launcher(settings)
    except EngineRefused as error:
        raise StartError(str(error)) from None


def open_tracing(settings: Settings) -> Tracing | None:
    """What makes traces, or None if nobody wants them.

    Raises:
        StartError: they are wanted, and OpenTelemetry is not installed.
    """
    try:
        return tracing_of(settings)
    except TracingRefused as error:
        raise StartError(str(error)) from None


def open_store(settings: Settings) -> Store:
    """Make the data folder, open the database and bring its tables up to date.

    Raises:
        StartError: one of them is not possible, or strangers could reach a service that asks nobody for a key.
    """
    _make_folder(settings.jobs_dir)
    try:
        store = opening.open_store(settings.effective_database_url, usage_half_life_s=settings.usage_half_life_s)
    except opening.CannotOpen as error:
        raise StartError(f"ATTUNE_DATABASE_URL: {error}" if settings.database_url else str(error)) from None
    if not (is_loopback(settings.host) or settings.allow_unauthenticated or store.keys.any_valid()):
        store.close()
        raise StartError(_strangers(settings))
    return store


def _strangers(settings: Settings) -> str:
    where = f"--data-dir {settings.data_dir}" if settings.database_url is None else "--database-url URL"
    return (
        f"host {settings.host!r} is reachable from other machines and there is no valid API key: anybody who reaches "
        f"the port could start jobs and read data. Make one with: attune keys create --role admin {where}; or listen "
        "on 127.0.0.1, or set ATTUNE_ALLOW_UNAUTHENTICATED=1 if the network itself keeps strangers out"
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"cannot make the folder {folder}: {error.strerror}; {_FOLDERS}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StartError(f"cannot write to the folder {folder}; {_FOLDERS}")
