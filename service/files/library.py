"""Files as jobs name them: published from what has arrived, found again, and removed."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.errors import Conflict, InvalidRequest, NotFound, PayloadTooLarge
from service.files.archives import ArchiveError, ArchiveLimits, is_archive, unpack
from service.files.ids import FILE_ID
from service.files.storage import FileStorage, content_path, data_path, unpacked_folder
from service.settings import Settings
from service.store.records import TERMINAL, FileRecord, JobStatus
from service.store.store import Store
from trainer.resolve import SpecError, SpecProblem

_MAX_NAME = 255
_LEFTOVER_AGE_S = 86_400.0


@dataclass(frozen=True)
class Announcement:
    """What the sender says of a file."""

    project: str
    filename: str
    purpose: str
    lifetime_s: float | None = None
    """Seconds from its creation; None: until it is deleted."""


class FileLibrary:
    """The files of all projects: their records and their bytes."""

    def __init__(self, store: Store, settings: Settings) -> None:
        """Files lie below `settings.files_dir`, and its limits hold."""
        self.storage = FileStorage(settings.files_dir)
        self._store = store
        self._limits = ArchiveLimits(settings.max_archive_files, settings.max_unpacked_bytes, settings.max_unpack_ratio)

    def prepare(self, id: str, partial: Path, *, sent: Announcement, num_bytes: int, sha256: str) -> FileRecord:
        """Make a file of the bytes at `partial/received`: name it, unpack an archive, publish the folder.

        Its record is not stored yet.

        Raises:
            InvalidRequest: it is empty, or an archive that is not unpacked; what is there of it is left to the caller.
            PayloadTooLarge: the project has no room for it.
        """
        if num_bytes == 0:
            raise InvalidRequest("the file is empty", param="file", code="invalid_file")
        self.refuse_without_room(sent.project, num_bytes)
        content = content_path(partial, check_name(sent.filename))
        content.parent.mkdir()
        (partial / "received").rename(content)
        if is_archive(sent.filename):
            try:
                unpack(content, unpacked_folder(content), limits=self._limits)
            except ArchiveError as error:
                raise InvalidRequest(f"{sent.filename}: {error}", param="file", code="invalid_file") from None
        folder = self.storage.publish(partial)
        now = time.time()
        return FileRecord(
            id=id,
            project_id=sent.project,
            filename=sent.filename,
            purpose=sent.purpose,
            status="processed",
            num_bytes=num_bytes,
            sha256=sha256,
            path=str(folder / content.relative_to(partial)),
            created_at=now,
            expires_at=None if sent.lifetime_s is None else now + sent.lifetime_s,
        )

    def find(self, id: str, *, project: str) -> FileRecord:
        """The file.

        Raises:
            NotFound: the project has none of this id.
        """
        record = self._store.files.get(id)
        if record is None or record.project_id != project:
            raise NotFound(f"there is no file {id!r}; GET /v1/files lists them", param="file_id")
        return record

    def delete(self, record: FileRecord) -> None:
        """Forget a file and remove its bytes.

        Raises:
            Conflict: a job that has not ended reads it.
        """
        folder = str(self.storage.folder(record.id, project=record.project_id))
        for job in self._store.jobs.with_status(*(status for status in JobStatus if status not in TERMINAL)):
            if job.project_id == record.project_id and folder in json.dumps(job.spec):
                raise Conflict(f"job {job.id} reads file {record.id} and has not ended; cancel it first")
        self._forget(record)

    def remove_expired(self) -> None:
        """Remove files and uploads whose time is up."""
        for file in self._store.files.expired():
            self._forget(file)
        for upload in self._store.uploads.expire():
            self.storage.remove(upload.id, project=upload.project_id)
        self.storage.remove_leftovers(older_than_s=_LEFTOVER_AGE_S)

    def refuse_without_room(self, project: str, num_bytes: int) -> None:
        """Refuse a file that the project's quota or the disk has no room for.

        Raises:
            PayloadTooLarge: saying how much there is.
        """
        owner = self._store.projects.get(project)
        if owner is not None and owner.max_disk_bytes is not None:
            used = self._store.files.num_bytes(project=project)
            if used + num_bytes > owner.max_disk_bytes:
                raise PayloadTooLarge(
                    f"the files of project {project!r} would come to {used + num_bytes} bytes; "
                    f"it may keep {owner.max_disk_bytes}",
                    code="quota_exceeded",
                )
        self.storage.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.storage.root).free
        if num_bytes > free:
            raise PayloadTooLarge(f"the file has {num_bytes} bytes, and the disk has room for {free}", code="disk_full")

    def with_paths(self, partial_spec: Mapping[str, Any], *, project: str) -> dict[str, Any]:
        """A partial spec whose data name paths where they named files by id (`file-...`).

        Raises:
            SpecError: the project has no such file.
        """
        found = dict(partial_spec)
        if "data" in found:
            found["data"] = self._replaced(found["data"], "data", project=project)
        return found

    def _replaced(self, value: Any, field: str, *, project: str) -> Any:
        if isinstance(value, Mapping):
            return {key: self._replaced(inner, f"{field}.{key}", project=project) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._replaced(inner, f"{field}.{i}", project=project) for i, inner in enumerate(value)]
        if not isinstance(value, str) or not FILE_ID.fullmatch(value):
            return value
        record = self._store.files.get(value)
        if record is None or record.project_id != project:
            message = f"there is no file {value!r}; GET /v1/files lists them"
            raise SpecError([SpecProblem(field=field, message=message, value=value)])
        return str(data_path(record))

    def _forget(self, record: FileRecord) -> None:
        self._store.files.delete(record.id)
        self.storage.remove(record.id, project=record.project_id)


def check_name(filename: str) -> str:
    """A file name as it may be stored.

    Raises:
        InvalidRequest: it is empty, too long or no text.
    """
    printable = filename.isprintable() and filename.encode(errors="ignore").decode() == filename
    if not filename or len(filename) > _MAX_NAME or not printable:
        message = f"a file needs a name of 1 to {_MAX_NAME} printable characters, got {filename[:80]!r}"
        raise InvalidRequest(message, param="filename", code="invalid_file")
    return filename
