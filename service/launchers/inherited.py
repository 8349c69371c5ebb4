"""What the service's children inherit of its environment: not its secrets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from dali_pipelines.patterns import CONFINED_TO
from service.redaction import is_secret_name
from service.settings import Settings

_OWN = ("ATTUNE_DATABASE_URL", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")
"""Variables that hold a password although their names do not say so."""


def child_environment(settings: Settings, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of workers and checks on this machine: without secrets but those of ATTUNE_WORKER_SECRETS, and
    with data kept below the folders that the operator allows, if he does."""
    chosen = without_secrets(environment, keep=settings.worker_secrets)
    chosen.pop(CONFINED_TO, None)
    return chosen | needed_everywhere(settings, environment)


def needed_everywhere(settings: Settings, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What workers on any machine get beside that machine's own environment: the secrets of ATTUNE_WORKER_SECRETS, and
    the folders that data must lie below."""
    secrets = {name: environment[name] for name in settings.worker_secrets if name in environment}
    if settings.allowed_roots is None:
        return secrets
    return secrets | {CONFINED_TO: os.pathsep.join(map(str, (*settings.allowed_roots, settings.data_dir.resolve())))}


def without_secrets(environment: Mapping[str, str], *, keep: Iterable[str]) -> dict[str, str]:
    """All variables but those that are secrets by their names, or hold the database's address."""
    allowed = frozenset(keep)
    return {
        name: value
        for name, value in environment.items()
        if name in allowed or not (name in _OWN or is_secret_name(name))
    }
