"""Files that arrive in parts, in the database."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, select, update

from service.store.engine import Database
from service.store.files import hold_list
from service.store.records import FileRecord, UnknownId, UploadPartRecord, UploadRecord
from service.store.rows import Page, paged, record_of, values_of
from service.store.tables import files, upload_parts, uploads


class Uploads:
    """Uploads of all projects. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, record: UploadRecord) -> UploadRecord:
        """Store a new upload."""
        with self._database.write() as connection:
            connection.execute(uploads.insert().values(**values_of(record)))
        return record

    def get(self, id: str) -> UploadRecord | None:
        """The upload, or None."""
        with self._database.read() as connection:
            return _find(connection, id)

    def add_part(self, record: UploadPartRecord, *, max_bytes: int) -> bool:
        """Store a part of a pending upload, unless its parts would come to more than `max_bytes`.

        False if they would, or if the upload is not pending any more.
        """
        size = select(func.coalesce(func.sum(upload_parts.c.num_bytes), 0))
        with self._database.write() as connection:
            # Holds the upload's row, so that nobody completes it while a part is being added.
            pending = uploads.c.id == record.upload_id, uploads.c.status == "pending"
            held = connection.execute(update(uploads).where(*pending).values(status="pending")).rowcount
            there = int(connection.execute(size.where(upload_parts.c.upload_id == record.upload_id)).scalar_one())
            if not held or there + record.num_bytes > max_bytes:
                return False
            connection.execute(upload_parts.insert().values(**values_of(record)))
            return True

    def parts(self, upload_id: str) -> Sequence[UploadPartRecord]:
        """All parts of an upload, in the order in which they came."""
        query = select(upload_parts).where(upload_parts.c.upload_id == upload_id).order_by(upload_parts.c.position)
        with self._database.read() as connection:
            return [record_of(UploadPartRecord, row) for row in connection.execute(query)]

    def list_parts(self, upload_id: str, *, after: str | None, limit: int) -> Page[UploadPartRecord]:
        """A page of an upload's parts, oldest first, and whether there are more.

        Raises:
            UnknownId: the upload has no part `after`.
        """
        with self._database.read() as connection:
            return paged(
                connection,
                select(upload_parts).where(upload_parts.c.upload_id == upload_id),
                kind=UploadPartRecord,
                table=upload_parts,
                order=upload_parts.c.position,
                after=after,
                limit=limit,
                noun="upload part",
                ascending=True,
            )

    def complete(self, id: str, *, file: FileRecord) -> UploadRecord | None:
        """Turn a pending upload into a file, both or neither; None if it is not pending any more.

        Raises:
            UnknownId: there is no such upload.
        """
        with self._database.write() as connection:
            if not _end(connection, id, "completed", file_id=file.id):
                return None
            hold_list(connection, file.project_id)
            connection.execute(files.insert().values(**values_of(file)))
            return _must_find(connection, id)

    def cancel(self, id: str) -> UploadRecord | None:
        """End a pending upload; None if it is not pending any more.

        Raises:
            UnknownId: there is no such upload.
        """
        with self._database.write() as connection:
            ended = _end(connection, id, "cancelled")
            record = _must_find(connection, id)
            return record if ended else None

    def expire(self, *, limit: int = 100) -> Sequence[UploadRecord]:
        """End pending uploads whose time is up; these are they."""
        due = select(uploads).where(uploads.c.status == "pending", uploads.c.expires_at <= self._database.now())
        with self._database.write() as connection:
            found = [record_of(UploadRecord, row) for row in connection.execute(due.limit(limit))]
            return [record for record in found if _end(connection, record.id, "expired")]


def _end(connection: Connection, id: str, status: str, *, file_id: str | None = None) -> bool:
    """Move a pending upload to a final status and forget its parts; whether it was pending."""
    pending = uploads.c.id == id, uploads.c.status == "pending"
    changed = connection.execute(update(uploads).where(*pending).values(status=status, file_id=file_id))
    if changed.rowcount:
        connection.execute(delete(upload_parts).where(upload_parts.c.upload_id == id))
    return changed.rowcount > 0


def _find(connection: Connection, id: str) -> UploadRecord | None:
    row = connection.execute(select(uploads).where(uploads.c.id == id)).one_or_none()
    return None if row is None else record_of(UploadRecord, row)


def _must_find(connection: Connection, id: str) -> UploadRecord:
    record = _find(connection, id)
    if record is None:
        raise UnknownId("upload", id)
    return record
