"""Uploads in parts: a part may come in any order, again, or after the sender has started anew; the end puts them
together in the order that it names, and checks the sum."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from service.errors import Conflict, InvalidRequest, NotFound
from service.files.library import Announcement, FileLibrary
from service.store.records import UploadPartRecord, UploadRecord, new_id
from service.store.store import Store

_CHUNK_BYTES = 1024 * 1024


class UploadAssembler:
    """Uploads of all projects."""

    def __init__(self, store: Store, library: FileLibrary) -> None:
        self._store = store
        self._library = library

    def find(self, id: str, *, project: str) -> UploadRecord:
        """The upload.

        Raises:
            NotFound: the project has none of this id.
        """
        record = self._store.uploads.get(id)
        if record is None or record.project_id != project:
            raise NotFound(f"there is no upload {id!r}", param="upload_id")
        return record

    def begin(self, record: UploadRecord) -> UploadRecord:
        """Store a new upload and make its folder.

        Raises:
            PayloadTooLarge: the project has no room for it.
        """
        self._library.refuse_without_room(record.project_id, record.num_bytes)
        # It may be there: the same request came before, and its service died.
        self._folder(record).mkdir(parents=True, exist_ok=True)
        return self._store.uploads.create(record)

    def part_path(self, upload: UploadRecord, part_id: str) -> Path:
        """Where a part is received.

        Raises:
            Conflict: the upload takes no more parts.
        """
        refuse_ended(upload)
        return self._folder(upload) / part_id

    def add_part(self, upload: UploadRecord, part: UploadPartRecord) -> UploadPartRecord:
        """Store a received part.

        Raises:
            InvalidRequest: the parts come to more than twice what was announced; a part may be sent again.
            Conflict: the upload has ended meanwhile.
        """
        if part.num_bytes == 0:
            raise InvalidRequest("the part is empty", param="data", code="invalid_file")
        if not self._store.uploads.add_part(part, max_bytes=2 * upload.num_bytes):
            refuse_ended(self.find(upload.id, project=upload.project_id))
            raise InvalidRequest(
                f"the parts come to more than twice the {upload.num_bytes} bytes that were announced", param="data"
            )
        return part

    def complete(self, upload: UploadRecord, *, part_ids: Sequence[str], md5: str | None) -> UploadRecord:
        """Put the parts together in this order and make a file of them.

        Raises:
            Conflict: the upload has ended.
            InvalidRequest: a part is unknown, the sum is not as announced, or what came out is no whole archive;
                the parts stay, for another try.
        """
        refuse_ended(upload)
        parts = self._chosen(upload, part_ids)
        storage = self._library.storage
        sent = Announcement(upload.project_id, upload.filename, upload.purpose, upload.file_lifetime_s)
        file_id = new_id("file")
        with storage.receiving(file_id, project=upload.project_id) as partial:
            sha256 = _join([Path(part.path) for part in parts], partial / "received", md5=md5)
            file = self._library.prepare(
                file_id,
                partial,
                sent=sent,
                num_bytes=upload.num_bytes,
                sha256=sha256,
                kept_free=upload.num_bytes,
            )
        completed = self._store.uploads.complete(upload.id, file=file)
        if completed is None:
            storage.remove(file_id, project=upload.project_id)
            refuse_ended(self.find(upload.id, project=upload.project_id))
            raise Conflict(f"upload {upload.id} has ended")
        storage.remove(upload.id, project=upload.project_id)
        return completed

    def _chosen(self, upload: UploadRecord, part_ids: Sequence[str]) -> list[UploadPartRecord]:
        there = {part.id: part for part in self._store.uploads.parts(upload.id)}
        unknown = [id for id in part_ids if id not in there]
        if unknown or len(set(part_ids)) < len(part_ids):
            wrong = f"no part {unknown[0]!r}" if unknown else "a part twice"
            raise InvalidRequest(f"part_ids names {wrong}; upload {upload.id} has {len(there)}", param="part_ids")
        parts = [there[id] for id in part_ids]
        total = sum(part.num_bytes for part in parts)
        if total != upload.num_bytes:
            message = f"these parts come to {total} bytes; {upload.num_bytes} were announced"
            raise InvalidRequest(message, param="part_ids")
        return parts

    def cancel(self, upload: UploadRecord) -> UploadRecord:
        """End an upload and remove its parts.

        Raises:
            Conflict: it has ended.
        """
        ended = self._store.uploads.cancel(upload.id)
        if ended is None:
            refuse_ended(self.find(upload.id, project=upload.project_id))
            raise Conflict(f"upload {upload.id} has ended")
        self._library.storage.remove(upload.id, project=upload.project_id)
        return ended

    def _folder(self, upload: UploadRecord) -> Path:
        return self._library.storage.folder(upload.id, project=upload.project_id)


def refuse_ended(upload: UploadRecord) -> None:
    """Refuse to change an upload that has ended.

    Raises:
        Conflict: saying what became of it.
    """
    outcome = f"{upload.status} as file {upload.file_id}" if upload.file_id else upload.status
    if upload.status != "pending" or upload.expires_at <= time.time():
        raise Conflict(f"upload {upload.id} is {outcome if upload.status != 'pending' else 'expired'}")


def _join(parts: Sequence[Path], into: Path, *, md5: str | None) -> str:
    """Write the parts one after another, and return the SHA-256 of the whole.

    Raises:
        InvalidRequest: its MD5 is another than `md5`.
    """
    whole, check = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with into.open("wb") as target:
        for path in parts:
            with path.open("rb") as part:
                while chunk := part.read(_CHUNK_BYTES):
                    target.write(chunk)
                    whole.update(chunk)
                    check.update(chunk)
        target.flush()
        os.fsync(target.fileno())  # the row that tells of it is
    if md5 is not None and md5.lower() != check.hexdigest():
        message = f"the MD5 of what arrived is {check.hexdigest()}, not {md5}"
        raise InvalidRequest(message, param="md5", code="checksum_mismatch")
    return whole.hexdigest()
