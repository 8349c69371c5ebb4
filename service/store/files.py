"""Uploaded files in the database; their bytes are `service.files.storage`'s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, delete, func, or_, select

from service.store.engine import Database
from service.store.records import AlreadyExists, FileRecord
from service.store.rows import Page, paged, record_of, values_of
from service.store.tables import files, projects, upload_parts, uploads

Order = Literal["asc", "desc"]


class Files:
    """Files of all projects. Each method is one transaction. A file that has expired is not there any more."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, record: FileRecord) -> FileRecord:
        """Store a new file.

        Raises:
            AlreadyExists: the id is taken.
        """
        with self._database.write() as connection:
            hold_list(connection, record.project_id)
            if connection.execute(select(files.c.id).where(files.c.id == record.id)).first():
                raise AlreadyExists("file", record.id)
            connection.execute(files.insert().values(**values_of(record)))
        return record

    def get(self, id: str) -> FileRecord | None:
        """The file, or None."""
        query = select(files).where(files.c.id == id, self._lasting())
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
            return None if row is None else record_of(FileRecord, row)

    def list(
        self,
        *,
        project: str | None = None,
        purpose: str | None = None,
        order: Order = "desc",
        after: str | None = None,
        limit: int = 10_000,
    ) -> Page[FileRecord]:
        """A page of the files of a project (None: of all), by default newest first, and whether there are more.

        Raises:
            UnknownId: there is no file `after` in that list.
        """
        query = select(files).where(self._lasting())
        if project is not None:
            query = query.where(files.c.project_id == project)
        if purpose is not None:
            query = query.where(files.c.purpose == purpose)
        with self._database.read() as connection:
            return paged(
                connection,
                query,
                kind=FileRecord,
                table=files,
                order=files.c.position,
                after=after,
                limit=limit,
                noun="file",
                ascending=order == "asc",
            )

    def num_bytes(self, *, project: str) -> int:
        """Bytes that a project's files take on the disk: as uploaded and as unpacked, and those of pending uploads,
        whose announced bytes are kept free for them."""
        size = func.coalesce(func.sum(files.c.num_bytes + files.c.unpacked_bytes), 0)
        pending = uploads.c.project_id == project, uploads.c.status == "pending"
        announced = select(func.coalesce(func.sum(uploads.c.num_bytes), 0)).where(*pending)
        parts = select(func.coalesce(func.sum(upload_parts.c.num_bytes), 0))
        parts = parts.join_from(upload_parts, uploads, upload_parts.c.upload_id == uploads.c.id).where(*pending)
        with self._database.read() as connection:
            whole = connection.execute(select(size).where(files.c.project_id == project)).scalar_one()
            under_way = max(connection.execute(query).scalar_one() for query in (announced, parts))
            return int(whole) + int(under_way)

    def exists(self, id: str) -> bool:
        """Whether there is a file of this id, expired or not."""
        with self._database.read() as connection:
            return connection.execute(select(files.c.id).where(files.c.id == id)).first() is not None

    def expired(self, *, limit: int = 100) -> Sequence[FileRecord]:
        """Files whose time is up, which are only to be removed."""
        query = select(files).where(files.c.expires_at <= self._database.now()).limit(limit)
        with self._database.read() as connection:
            return [record_of(FileRecord, row) for row in connection.execute(query)]

    def delete(self, id: str) -> bool:
        """Forget a file; its bytes stay. False if there was none."""
        with self._database.write() as connection:
            return connection.execute(delete(files).where(files.c.id == id)).rowcount > 0

    def _lasting(self) -> ColumnElement[Any]:
        return or_(files.c.expires_at.is_(None), files.c.expires_at > self._database.now())


def hold_list(connection: Connection, project: str) -> None:
    """Let a project's files be added one after another. Else one that was added first could be seen last, and whoever
    reads the list in ascending order, page by page, would have passed its place."""
    connection.execute(select(projects.c.id).where(projects.c.id == project).with_for_update(key_share=True))
