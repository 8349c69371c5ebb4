"""From a finished job's export folder to the record under which its model answers."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from service.store.models import Models
from service.store.records import JobRecord, ModelRecord
from trainer import events
from trainer.job_dir import AttemptDir, JobDir

_exported: TypeAdapter[events.Exported] = TypeAdapter(events.Exported)


class NothingExported(Exception):
    """An attempt calls itself succeeded but left no model; the text says what is missing."""


def describe_model(job: JobRecord, attempt: AttemptDir, models: Models) -> ModelRecord:
    """The record of the model that `attempt` exported, under a name that is free.

    Raises:
        NothingExported: the attempt told of no export, or its folder is not there.
    """
    exported = _last_export(attempt.events)
    folder = JobDir(Path(job.job_dir)).export
    if exported is None or not folder.is_dir():
        missing = f"no `exported` event in {attempt.events}" if exported is None else f"no folder {folder}"
        raise NothingExported(f"the attempt succeeded but left no model: {missing}")
    card = read_card(folder)
    return ModelRecord(
        id=_free_name(job, models),
        path=str(folder),
        task=exported.task,
        created_at=time.time(),
        job_id=job.id,
        project_id=job.project_id,
        metrics=exported.metrics,
        class_names=card.get("class_names") or None,
        templates=card.get("templates") or [],
    )


def base_name(model: str) -> str:
    """The short name of a model as it was asked for: `ViT-L-14` of `ViT-L-14/openai`, `ViT-B-32` of
    `ft:ViT-B-32:flowers:1f0c9a3e`, `NAME` of `hf-hub:ORG/NAME` and of `local-dir:/models/NAME`."""
    kind, colon, rest = model.partition(":")
    if kind == "ft" and colon:
        name = rest.split(":")[0]
    elif colon:
        name = rest.rstrip("/").split("/")[-1]
    else:
        name = model.removeprefix("timm/").split("/")[0]
    return _plain(name)


def _free_name(job: JobRecord, models: Models) -> str:
    """`ft:BASE:SUFFIX:` and the start of the job's id: the same each time it is asked for one job."""
    label = _plain(job.suffix or job.recipe or "custom")
    key = job.id.rpartition("-")[2]
    name = f"ft:{base_name(job.model)}:{label}:{key[:8]}"
    return name if models.get(name) is None else f"{name}{key[8:]}"


def _plain(text: str) -> str:
    """`text` with only what is safe in a name and a URL."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-")[:64] or "model"


def _last_export(path: Path) -> events.Exported | None:
    if not path.exists():
        return None
    last = None
    with path.open("rb") as file:
        for line in file:
            if b'"exported"' in line:
                last = _read_export(line) or last
    return last


def _read_export(line: bytes) -> events.Exported | None:
    """The event of a line; None for another one, and for one that a full disk or a power cut has broken."""
    try:
        return _exported.validate_json(line)
    except ValidationError:
        return None


def read_card(folder: Path) -> dict[str, Any]:
    """What `attune.json` in an export folder says; empty if there is none."""
    path = folder / "attune.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return content if isinstance(content, dict) else {}
