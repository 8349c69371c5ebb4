"""From a partial spec to a job in the store: the one way in, for REST and whoever else submits jobs."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from service.jobs.places.rules import Places
from service.jobs.scheduling.wanted import columns_of, refuse
from service.launchers.base import Capacity
from service.store.records import DEFAULT_PROJECT, AuditRecord, JobRecord, ProjectRecord, new_id
from service.store.store import Store
from trainer.resolve import SpecError, SpecProblem, near, resolve
from trainer.spec import JobSpec
from trainer.spec.sources import describe

REGISTERED_PREFIX = "ft:"


def submit(
    store: Store,
    *,
    jobs_dir: Path,
    capacity: Capacity,
    weights_dir: Path | None,
    places: Places,
    partial_spec: Mapping[str, Any],
    suffix: str | None = None,
    project: str = DEFAULT_PROJECT,
    created_by: str | None = None,
    job_id: str | None = None,
    audit: AuditRecord | None = None,
) -> JobRecord:
    """Resolve a partial spec and store the job for the runner to find. Its folder is made with its preflight.

    Args:
        capacity: what the job will have to run on.
        places: which paths and URLs the project's specs may name (`Places.of`).
        project: whose job it is; only its models can be started from.
        created_by: the API key that asked for it.
        weights_dir: folder of further pretrained weights; None: what ATTUNE_WEIGHTS_DIR names.
        job_id: None: a new one.
        audit: stored together with the job.

    Raises:
        SpecError: the spec cannot be made, or not run on those devices.
        AlreadyExists: there is a job of this id.
        QuotaExceeded: the project has as many waiting jobs as it may have.
    """
    record = draft(
        store,
        jobs_dir=jobs_dir,
        capacity=capacity,
        weights_dir=weights_dir,
        places=places,
        partial_spec=partial_spec,
        suffix=suffix,
        project=project,
    )
    record = replace(record, created_by=created_by)
    if job_id is not None:
        record = replace(record, id=job_id, job_dir=str(jobs_dir / job_id))
    return store.jobs.create(record, audit=audit)


def draft(
    store: Store,
    *,
    jobs_dir: Path,
    capacity: Capacity,
    weights_dir: Path | None,
    places: Places,
    partial_spec: Mapping[str, Any],
    suffix: str | None = None,
    project: str = DEFAULT_PROJECT,
    runnable: bool = True,
) -> JobRecord:
    """The job that `submit` would store; nothing is written.

    Args: as `submit`, and
        runnable: whether the training data must be named.

    Raises:
        SpecError: the spec cannot be made, or not run on those devices.
    """
    named = _requested_model(partial_spec)
    registered = _registered(store, named, project=project)
    spec = resolve(
        spec=partial_spec,
        registered_models=registered,
        weights_dir=weights_dir,
        runnable=runnable,
        guard=places.problems,
    )
    job_id = new_id("ftjob")
    drafted = _record(job_id, spec, jobs_dir / job_id, model=named or spec.model.name, suffix=suffix)
    record = replace(drafted, project_id=project)
    owner = store.projects.get(project)
    _refuse_impossible(record, capacity, max_devices=None if owner is None else owner.max_devices)
    _refuse_past(record)
    return record if owner is None else _within_priority(record, owner, partial_spec)


def _refuse_impossible(record: JobRecord, capacity: Capacity, *, max_devices: int | None) -> None:
    """Refuse now what the runner would refuse; it looks again because a restart may find fewer devices."""
    refusal = refuse(record, capacity, max_devices=max_devices)
    if refusal is not None:
        value = functools.reduce(lambda section, name: section[name], refusal.param.split("."), record.spec)
        raise SpecError([SpecProblem(field=refusal.param, message=refusal.message, value=value)])


def _refuse_past(record: JobRecord) -> None:
    if record.deadline_at is not None and record.deadline_at <= record.created_at:
        message = f"is over; give a Unix time after now, {record.created_at:.0f}"
        raise SpecError([SpecProblem(field="scheduling.deadline", message=message, value=record.deadline_at)])


def _within_priority(record: JobRecord, owner: ProjectRecord, partial_spec: Mapping[str, Any]) -> JobRecord:
    """A job that names no priority gets the highest that its project may have, if that is below the usual."""
    if record.priority <= owner.max_priority:
        return record
    section = partial_spec.get("scheduling")
    if isinstance(section, Mapping) and section.get("priority") is not None:
        message = f"jobs of the project {owner.id} may have a priority of at most {owner.max_priority}"
        raise SpecError([SpecProblem(field="scheduling.priority", message=message, value=record.priority)])
    return replace(record, priority=owner.max_priority)


def _record(job_id: str, spec: JobSpec, job_dir: Path, *, model: str, suffix: str | None) -> JobRecord:
    return JobRecord(
        id=job_id,
        spec=spec.model_dump(mode="json"),
        model=model,
        job_dir=str(job_dir),
        created_at=time.time(),
        suffix=suffix,
        metadata=spec.metadata,
        seed=spec.seed,
        **columns_of(spec),
        queue_order=time.time(),
        training_file=describe(spec.data.train) if spec.data.train else "",
        recipe=spec.recipe,
    )


def _requested_model(partial_spec: Mapping[str, Any]) -> str | None:
    """The model as the caller named it: `resolve` replaces a registered name by its folder."""
    model = partial_spec.get("model")
    name = model.get("name") if isinstance(model, Mapping) else model
    return name if isinstance(name, str) else None


def _registered(store: Store, name: str | None, *, project: str) -> dict[str, str]:
    """The folder of the registered model of this name, by name; empty if it is none's."""
    found = None if name is None else store.models.get(name)
    if found is not None and found.project_id == project:
        return {found.id: found.path}
    if name is not None and name.startswith(REGISTERED_PREFIX):
        known = store.models.names(project=project)
        message = f"no model {name!r} is registered here.{near(name, known)} GET /v1/models lists them"
        raise SpecError([SpecProblem(field="model.name", message=message, value=name)])
    return {}
