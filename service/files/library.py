"""Files as jobs name them: published from what has arrived, found again, and removed."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from service.errors import Conflict, InvalidRequest, NotFound, PayloadTooLarge
from service.files.archives import ArchiveError, ArchiveLimits, Unpacked, is_archive
from service.files.ids import FILE_ID
from service.files.storage import FileStorage, content_path, data_path, unpacked_folder
from service.files.unpacking import unpack_apart
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

    def prepare(
        self, id: str, partial: Path, *, sent: Announcement, num_bytes: int, sha256: str, kept_free: int = 0
    ) -> FileRecord:
        """Make a file of the bytes at `partial/received`: name it, unpack an archive, publish the folder.

        Its record is not stored yet.

        Args:
            kept_free: bytes that the project's quota counts for it already.

        Raises:
            InvalidRequest: it is empty, or an archive that is not unpacked; what is there of it is left to the caller.
            PayloadTooLarge: the project has no room for it.
        """
        if num_bytes == 0:
            raise InvalidRequest("the file is empty", param="file", code="invalid_file")
        self.refuse_without_room(sent.project, num_bytes - kept_free)
        content = content_path(partial, check_name(sent.filename))
        content.parent.mkdir()
        (partial / "received").rename(content)
        room = self._room(sent.project)
        limit = None if room is None else room - num_bytes + kept_free
        unpacked = self._unpack(content, sent, limit=limit) if is_archive(sent.filename) else Unpacked(0, 0)
        if unpacked.num_files:
            os.sync()  # cheaper than each of a million files for itself
        folder = self.storage.publish(partial)
        now = time.time()
        return FileRecord(
            id=id,
            project_id=sent.project,
            filename=sent.filename,
            purpose=sent.purpose,
            status="processed",
            num_bytes=num_bytes,
            unpacked_bytes=unpacked.num_bytes,
            sha256=sha256,
            path=str(folder / content.relative_to(partial)),
            created_at=now,
            expires_at=None if sent.lifetime_s is None else now + sent.lifetime_s,
        )

    def _unpack(self, content: Path, sent: Announcement, *, limit: int | None) -> Unpacked:
        limits = self._limits if limit is None else replace(self._limits, max_bytes=min(self._limits.max_bytes, limit))
        try:
            return unpack_apart(content, unpacked_folder(content), limits=limits)
        except ArchiveError as error:
            raise InvalidRequest(f"{sent.filename}: {error}", param="file", code="invalid_file") from None

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
        reader = self._reader(record)
        if reader is not None:
            raise Conflict(f"job {reader} reads file {record.id} and has not ended; cancel it first")
        self._forget(record)

    def remove_expired(self) -> None:
        """Remove files and uploads whose time is up, but for files that a job still reads, and what nobody knows."""
        for file in self._store.files.expired():
            if self._reader(file) is None:
                self._forget(file)
        for upload in self._store.uploads.expire():
            self.storage.remove(upload.id, project=upload.project_id)
        self.storage.remove_leftovers(older_than_s=_LEFTOVER_AGE_S, is_known=self._is_known)

    def _is_known(self, id: str) -> bool:
        """Whether the folder of a file or an upload is needed: a service may die between its bytes and its row."""
        if FILE_ID.fullmatch(id):
            return self._store.files.exists(id)
        upload = self._store.uploads.get(id)
        return upload is not None and upload.status == "pending"

    def _reader(self, record: FileRecord) -> str | None:
        """A job that has not ended and reads the file, or None."""
        folder = str(self.storage.folder(record.id, project=record.project_id))
        for job in self._store.jobs.with_status(*(status for status in JobStatus if status not in TERMINAL)):
            if job.project_id == record.project_id and any(folder in text for text in _texts_in(job.spec)):
                return job.id
        return None

    def refuse_without_room(self, project: str, num_bytes: int) -> None:
        """Refuse a file that the project's quota or the disk has no room for.

        Raises:
            PayloadTooLarge: saying how much there is.
        """
        room = self._room(project)
        if room is not None and num_bytes > room:
            raise PayloadTooLarge(
                f"the file has {num_bytes} bytes, and the quota of project {project!r} leaves {max(0, room)}",
                code="quota_exceeded",
            )
        self.storage.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.storage.root).free
        if num_bytes > free:
            raise PayloadTooLarge(f"the file has {num_bytes} bytes, and the disk has room for {free}", code="disk_full")

    def _room(self, project: str) -> int | None:
        """Bytes that a project's quota leaves for files; None without a quota."""
        owner = self._store.projects.get(project)
        if owner is None or owner.max_disk_bytes is None:
            return None
        return owner.max_disk_bytes - self._store.files.num_bytes(project=project)

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


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts_in(inner)


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
