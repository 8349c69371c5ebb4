"""What old jobs leave on the disk, and when it goes: by age, and by the project's quota.

A job's best and latest checkpoint stay, and so does what a registered model or a job that has not ended needs. Every
removal is an event of its job and a record in the audit log. What is removed is hidden first, so that nobody finds half
of it, and only then forgotten, so that a service that dies in between finds it again.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from service.jobs.chores import Chore
from service.settings import Settings
from service.store.leftovers import EndedJob
from service.store.records import AuditRecord, CheckpointRecord, NewEvent, ProjectRecord
from service.store.store import Store
from trainer.spec_checks.metrics import METRICS, metric_named

RETENTION = "retention"
"""The lease of whoever removes."""
DAY_S = 86_400.0
_DEFAULT_METRICS = ("validation/mean_recall", "validation/top1")
_STAYS = frozenset({"spec.json"})


@dataclass(frozen=True)
class Removal:
    """Something that is to go."""

    kind: Literal["checkpoint", "job files"]
    project_id: str
    job_id: str
    path: Path
    num_bytes: int
    why: str
    """A clause: `it is superseded and ...`."""
    checkpoint: CheckpointRecord | None = None


class Retention:
    """Removes what is older than the settings allow, and what a project has too much of."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        owner: str = "operator",
        remove_expired_files: Callable[[], None] = lambda: None,
    ) -> None:
        """`owner`: the replica, or who else does it; the audit log names it."""
        self._remove_expired_files = remove_expired_files
        self._store = store
        self._settings = settings
        self._owner = owner
        self._sizes: dict[str, int] = {}
        self.chore = Chore(store, name=RETENTION, owner=owner, interval_s=settings.retention_interval_s, turn=self.turn)

    def turn(self) -> None:
        """Remove what is due, and measure what is left."""
        for removal in self.plan():
            self.remove(removal)
        self._remove_expired_files()
        self._forget_old_records()
        for project in self._limited_projects():
            self._store.projects.update(project.id, disk_bytes=self.measure(project.id))

    def plan(self) -> list[Removal]:
        """What is due now, the oldest first; nothing is changed."""
        in_use = InUse(self._store)
        planned = [*self._old_checkpoints(in_use), *self._old_job_files(in_use)]
        for project in self._limited_projects():
            freed = sum(removal.num_bytes for removal in planned if removal.project_id == project.id)
            planned += self._over_quota(project, in_use, freed=freed, planned={removal.path for removal in planned})
        return planned

    def remove(self, removal: Removal) -> None:
        """Remove one thing, and tell of it."""
        hidden = removal.path.with_name(f".{removal.path.name}.removed")
        if removal.path.exists():
            removal.path.rename(hidden)
        if hidden.is_dir():
            shutil.rmtree(hidden)
        else:
            hidden.unlink(missing_ok=True)
        self._sizes.pop(str(removal.path.parent.parent), None)
        self._sizes.pop(str(removal.path.parent), None)
        message = f"Removed {removal.kind} {removal.path.name} ({removal.num_bytes} bytes): {removal.why}"
        note = NewEvent(message=message, created_at=time.time())
        if removal.checkpoint is not None:
            self._store.leftovers.forget_checkpoint(removal.checkpoint, note)
        else:
            self._store.events.append(removal.job_id, [note])
        self._store.audit.append(
            AuditRecord(
                at=time.time(),
                actor=self._owner,
                action=f"retention.remove_{removal.kind.replace(' ', '_')}",
                outcome="ok",
                project_id=removal.project_id,
                target=removal.job_id if removal.checkpoint is None else removal.checkpoint.id,
                detail={"path": str(removal.path), "num_bytes": removal.num_bytes, "why": removal.why},
            )
        )

    def measure(self, project: str) -> int:
        """Bytes of a project's files and jobs."""
        files = bytes_of(self._settings.files_dir / project)
        return files + sum(
            self._job_bytes(path, ended=ended) for path, ended in self._store.leftovers.job_dirs(project)
        )

    def _job_bytes(self, path: str, *, ended: bool) -> int:
        """Of an ended job the figure is kept until something of it is removed or promoted."""
        if not ended:
            return bytes_of(Path(path))
        promotions = Path(path, "promotions")
        known = self._sizes.get(path)
        if known is None:
            known = self._sizes[path] = bytes_of(Path(path)) - bytes_of(promotions)
        return known + bytes_of(promotions)

    def _limited_projects(self) -> list[ProjectRecord]:
        return [project for project in self._store.projects.list() if project.max_disk_bytes is not None]

    def _old_checkpoints(self, in_use: InUse) -> Iterator[Removal]:
        days = self._settings.retention_checkpoint_days
        if days is not None:
            for job in self._store.leftovers.with_checkpoints(before=time.time() - days * DAY_S):
                why = f"its job ended more than {days:g} days ago, and it is neither the best nor the latest"
                yield from self._superseded(job, in_use, why=why)

    def _over_quota(
        self, project: ProjectRecord, in_use: InUse, *, freed: int, planned: set[Path]
    ) -> Iterator[Removal]:
        assert project.max_disk_bytes is not None
        too_many = self.measure(project.id) - freed - project.max_disk_bytes
        if too_many <= 0:
            return
        why = f"project {project.id} has more than its {project.max_disk_bytes} bytes, and it is superseded"
        for job in self._store.leftovers.with_checkpoints(before=time.time() + 1, project=project.id):
            for removal in self._superseded(job, in_use, why=why):
                if too_many > 0 and removal.path not in planned:
                    too_many -= removal.num_bytes
                    yield removal

    def _superseded(self, job: EndedJob, in_use: InUse, *, why: str) -> Iterator[Removal]:
        found, metric = self._store.leftovers.checkpoints(job.id)
        stay = {found[-1].name} | ({best.name} if (best := _best(found, metric)) is not None else set())
        folder = Path(job.job_dir)
        for checkpoint in found:
            path = folder / "checkpoints" / checkpoint.name
            promoted = (folder / "promotions" / checkpoint.name).exists()
            if checkpoint.name not in stay and not promoted and not in_use.names(path):
                size = bytes_of(path) + bytes_of(path.with_name(f".{path.name}.removed"))
                yield Removal("checkpoint", job.project_id, job.id, path, size, why, checkpoint)

    def _old_job_files(self, in_use: InUse) -> Iterator[Removal]:
        days = self._settings.retention_job_files_days
        if days is None:
            return
        why = f"its job ended more than {days:g} days ago, and no registered model needs it"
        for job in self._store.leftovers.ended_jobs(before=time.time() - days * DAY_S):
            folder = Path(job.job_dir)
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if path.name not in _STAYS and not path.name.startswith(".") and not in_use.names(path):
                    yield Removal("job files", job.project_id, job.id, path, bytes_of(path), why)

    def _forget_old_records(self) -> None:
        now = time.time()
        self._store.audit.remove_before(now - self._settings.audit_lifetime_s)
        self._store.deliveries.remove_before(now - self._settings.retention_deliveries_days * DAY_S)
        self._store.idempotency.remove_before(now - self._settings.idempotency_lifetime_s)


def bytes_of(path: Path) -> int:
    """Bytes of a file or of all files below a folder; links are not followed. 0 if there is nothing."""
    try:
        if not path.is_dir() or path.is_symlink():
            return path.lstat().st_size
        return sum(bytes_of(Path(entry.path)) for entry in os.scandir(path))
    except FileNotFoundError:  # a job at work replaces its files
        return 0


def _best(found: Sequence[CheckpointRecord], metric: str | None) -> CheckpointRecord | None:
    """The best by the job's metric, the latest of equals; the trainer's own rule."""
    for name in (metric,) if metric is not None else _DEFAULT_METRICS:
        if name.rpartition("/")[2] not in METRICS:
            continue
        merit = metric_named(name).merit
        scored = [(merit(c.metrics[name]), c.step_number, i) for i, c in enumerate(found) if name in c.metrics]
        if scored:
            return found[max(scored)[2]]
    return None


class InUse:
    """What must stay, read once and only if something else would go."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @cached_property
    def _texts(self) -> Sequence[str]:
        return self._store.leftovers.in_use()

    def names(self, path: Path) -> bool:
        """Whether a registered model or an open job's spec names the path, or something below it."""
        return any(str(path) in text for text in self._texts)
