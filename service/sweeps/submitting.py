"""From a point of a search to a job: the way that every other job takes, under an id that the trial always has."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from service.files.library import FileLibrary
from service.jobs import submission
from service.jobs.places.rules import Places
from service.launchers.base import Capacity
from service.schemas.sweeps import SweepCreate
from service.settings import Settings
from service.store.records import JobRecord, SweepRecord, SweepTrialRecord
from service.store.store import Store
from service.sweeps.space import with_point

MAX_NOTES = 16


class Submitter:
    """Drafts and submits the jobs of sweeps."""

    def __init__(
        self, store: Store, settings: Settings, *, files: FileLibrary, capacity: Callable[[], Capacity]
    ) -> None:
        self._store = store
        self._settings = settings
        self._files = files
        self._capacity = capacity

    def draft(self, request: SweepCreate, point: Mapping[str, Any], *, project: str) -> JobRecord:
        """The job that a point would become; nothing is stored.

        Raises:
            SpecError: it cannot be run.
        """
        return submission.draft(self._store, **self._given(request, point, project=project))

    def submit(self, sweep: SweepRecord, request: SweepCreate, trial: SweepTrialRecord) -> JobRecord:
        """The job of a trial, submitted unless it was before.

        Raises:
            SpecError: it cannot be run.
            QuotaExceeded: the project has as many waiting jobs as it may have.
        """
        id = job_id_of(trial)
        there = self._store.jobs.get(id)
        if there is not None:  # made by a service that died before it could note it
            return there
        given = self._given(request, trial.parameters, project=sweep.project_id)
        notes = {**(given["partial_spec"].get("metadata") or {}), "sweep": sweep.id, "trial": str(trial.number)}
        if len(notes) <= MAX_NOTES:
            given["partial_spec"]["metadata"] = notes
        return submission.submit(
            self._store, **given, suffix=request.job.suffix, created_by=sweep.created_by, job_id=id
        )

    def _given(self, request: SweepCreate, point: Mapping[str, Any], *, project: str) -> dict[str, Any]:
        partial = with_point(request.job.partial_spec(), point)
        return {
            "jobs_dir": self._settings.jobs_dir,
            "capacity": self._capacity(),
            "weights_dir": self._settings.weights_dir,
            "places": Places.of(self._settings, self._store, project=project),
            "partial_spec": self._files.with_paths(partial, project=project),
            "project": project,
        }


def job_id_of(trial: SweepTrialRecord) -> str:
    """The id of a trial's job, the same whoever submits it and however often."""
    digest = hashlib.sha256(f"{trial.sweep_id}/{trial.number}".encode()).hexdigest()
    return f"ftjob-{digest[:24]}"
