"""Checkpoints that become models of their own: a process exports one, and whoever looks next registers it.

JOB/promotions/NAME/ gets `launch.json` (the process's identity) and `promote.log` beside what `trainer.promote` writes.
The process outlives the service; nothing about it is remembered anywhere else.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from service.errors import Conflict, Unavailable
from service.jobs.log_tail import last_line
from service.jobs.registration import base_name, read_card
from service.jobs.runner_lock import exclusive
from service.launchers.base import LaunchError
from service.launchers.processes import ProcessGroups
from service.store.records import AlreadyExists, CheckpointRecord, JobRecord, ModelRecord
from service.store.replicas import REPLICA_GONE_S
from service.store.store import Store
from trainer.job_dir import CheckpointName, JobDir, PromotionResult

PromotionCommand = Callable[[JobDir, CheckpointName, Path], Sequence[str]]
"""Makes the argument list from the job folder, the checkpoint and the folder to write into."""
_MAX_RUNNING = 2
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True)
class PromotionState:
    """Where a promotion stands."""

    status: Literal["running", "succeeded", "failed"]
    model: str | None = None
    error: str | None = None


def trainer_promotion(job: JobDir, name: CheckpointName, into: Path) -> list[str]:
    """The trainer's own command."""
    where = ["--job-dir", str(job.path), "--checkpoint", str(name), "--into", str(into)]
    return [sys.executable, "-P", "-m", "trainer.promote", *where]


class Promotions:
    """Starts, watches and registers promotions."""

    def __init__(
        self,
        store: Store,
        *,
        weights_dir: Path | None = None,
        command: PromotionCommand = trainer_promotion,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._store = store
        self._command = command
        self._environment = {**environment, "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
        if weights_dir is not None:
            self._environment["ATTUNE_WEIGHTS_DIR"] = str(weights_dir)
        self._groups = ProcessGroups()
        self._lock = threading.Lock()
        self._watched: set[str] = set()

    def start(self, job: JobRecord, checkpoint: CheckpointRecord) -> PromotionState:
        """Begin to promote a checkpoint. One that is being promoted or is a model already stays as it is.

        Raises:
            Conflict: the checkpoint is not there any more.
            Unavailable: as many as may are being promoted, or the process cannot be started.
        """
        folder = _folder(job, checkpoint)
        with self._lock, exclusive(folder.with_name(f".{folder.name}.lock")) as alone:
            state = self._look(job, checkpoint)
            if alone and (state is None or state.status == "failed"):
                self._launch(job, checkpoint)
                state = PromotionState("running")
        return state or PromotionState("running")  # another replica is just starting it

    def look(self, job: JobRecord, checkpoint: CheckpointRecord) -> PromotionState | None:
        """Where a promotion stands, None if nobody asked for one. One that has ended well is registered."""
        with self._lock:
            return self._look(job, checkpoint)

    def _look(self, job: JobRecord, checkpoint: CheckpointRecord) -> PromotionState | None:
        model = self._store.models.get(model_name(job, checkpoint))
        if model is not None and model.project_id == job.project_id:
            return PromotionState("succeeded", model=model.id)
        folder = _folder(job, checkpoint)
        if not _record(folder).exists():
            return None
        if self._groups.look(_tag(job, checkpoint), record=_record(folder)).alive:
            return PromotionState("running")
        result = _result(folder)
        if result is None and self._groups.lives_elsewhere(
            _record(folder), hosts=self._store.replicas.hosts_within(REPLICA_GONE_S)
        ):
            return PromotionState("running")
        if result is None:
            return PromotionState("failed", error=f"its process died. {last_line(_log(folder))}".strip())
        if not result.ok:
            return PromotionState("failed", error=result.message)
        return PromotionState("succeeded", model=self._register(job, checkpoint, result).id)

    def _launch(self, job: JobRecord, checkpoint: CheckpointRecord) -> None:
        job_dir, name, folder = JobDir(Path(job.job_dir)), _parsed(checkpoint), _folder(job, checkpoint)
        if not job_dir.checkpoint(name).is_dir():
            raise Conflict(f"checkpoint {checkpoint.name} of job {job.id} is not on the disk any more")
        if len(self._watched) >= _MAX_RUNNING:
            raise Unavailable(f"{_MAX_RUNNING} checkpoints are being promoted already", retry_after_s=10)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            self._groups.start(
                self._command(job_dir, name, folder),
                tag=_tag(job, checkpoint),
                environment=self._environment,
                log=_log(folder),
                record=_record(folder),
            )
        except LaunchError as error:
            raise Unavailable(str(error)) from None
        self._watched.add(checkpoint.id)
        threading.Thread(target=self._watch, args=(job, checkpoint), daemon=True).start()

    def _watch(self, job: JobRecord, checkpoint: CheckpointRecord) -> None:
        """Register the model when it is there, whether or not anybody looks."""
        try:
            while (state := self.look(job, checkpoint)) is not None and state.status == "running":
                time.sleep(_LOOK_EVERY_S)
        finally:
            self._watched.discard(checkpoint.id)

    def _register(self, job: JobRecord, checkpoint: CheckpointRecord, result: PromotionResult) -> ModelRecord:
        folder = _folder(job, checkpoint) / "export"
        card = read_card(folder)
        record = ModelRecord(
            id=model_name(job, checkpoint),
            path=str(folder),
            task=result.task,
            created_at=time.time(),
            job_id=job.id,
            project_id=job.project_id,
            metrics=result.metrics,
            class_names=card.get("class_names") or None,
            templates=card.get("templates") or [],
        )
        try:
            return self._store.models.add(record)
        except AlreadyExists:  # another replica was first
            return record


def model_name(job: JobRecord, checkpoint: CheckpointRecord) -> str:
    """The name that a promoted checkpoint gets: `ft:BASE:LABEL:JOB:ckpt-step-40-attempt-1`."""
    label = job.suffix or job.recipe or "custom"
    return f"ft:{base_name(job.model)}:{label}:{job.id.rpartition('-')[2][:8]}:ckpt-{checkpoint.name}"


def _folder(job: JobRecord, checkpoint: CheckpointRecord) -> Path:
    return JobDir(Path(job.job_dir)).promotion(_parsed(checkpoint))


def _parsed(checkpoint: CheckpointRecord) -> CheckpointName:
    name = CheckpointName.parse(checkpoint.name)
    assert name is not None, checkpoint.name
    return name


def _record(folder: Path) -> Path:
    return folder / "launch.json"


def _log(folder: Path) -> Path:
    return folder / "promote.log"


def _result(folder: Path) -> PromotionResult | None:
    try:
        return PromotionResult.model_validate_json((folder / "result.json").read_bytes())
    except FileNotFoundError:
        return None


def _tag(job: JobRecord, checkpoint: CheckpointRecord) -> str:
    return f"{job.id}/promote-{checkpoint.name}"
