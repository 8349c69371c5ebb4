"""Files and uploads as OpenAI's `file`, `upload` and `upload.part`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from service.schemas.base import Answer, Body
from service.schemas.pages import Named
from service.store.records import FileRecord, UploadPartRecord, UploadRecord

Purpose = Literal["fine-tune", "vision", "user_data"]
MIN_LIFETIME_S, MAX_LIFETIME_S = 3600, 2_592_000


class ExpiresAfter(Body):
    """When a file is removed by itself."""

    anchor: Literal["created_at"]
    """Always `created_at`."""
    seconds: Annotated[int, Field(ge=MIN_LIFETIME_S, le=MAX_LIFETIME_S)]
    """Seconds after that, an hour to thirty days."""


class File(Named):
    """An uploaded file."""

    id: str
    """`file-...`; what `training_file` and the spec's data paths take."""
    object: Literal["file"] = "file"
    """Always `file`."""
    bytes: int
    """Its size as it was uploaded."""
    created_at: int
    """Unix seconds."""
    expires_at: int | None
    """When it will be removed, in Unix seconds."""
    filename: str
    """Its name."""
    purpose: Purpose
    """What it is for; all are stored alike."""
    status: Literal["uploaded", "processed", "error"]
    """`processed`: whole and, if it is an archive, unpacked."""
    status_details: str | None
    """Why it is of no use, if it is not."""
    sha256: str | None
    """Of its bytes, in hexadecimal digits."""

    @classmethod
    def from_record(cls, record: FileRecord) -> File:
        """The file as it is sent."""
        return cls(
            id=record.id,
            bytes=record.num_bytes,
            created_at=int(record.created_at),
            expires_at=None if record.expires_at is None else int(record.expires_at),
            filename=record.filename,
            purpose=record.purpose,  # checked when it was stored
            status=record.status,
            status_details=record.status_details,
            sha256=record.sha256,
        )


class DeletedFile(Answer):
    """The answer to a deletion."""

    id: str
    """The file that is no longer there."""
    object: Literal["file"] = "file"
    """Always `file`."""
    deleted: Literal[True] = True
    """Always true."""


class UploadCreate(Body):
    """A file that is to arrive in parts."""

    bytes: Annotated[int, Field(ge=1, lt=2**63)]
    """Size of the whole file."""
    filename: Annotated[str, Field(min_length=1, max_length=255)]
    """Its name; the ending tells the format, and which archives are unpacked (.zip, .tar, .tar.gz, .tgz)."""
    mime_type: Annotated[str, Field(max_length=255)]
    """Its media type; not looked at."""
    purpose: Purpose
    """What it is for."""
    expires_after: ExpiresAfter | None = None
    """When the file is removed by itself."""


class UploadComplete(Body):
    """The end of an upload."""

    part_ids: Annotated[list[str], Field(min_length=1, max_length=100_000)]
    """The parts, in their order in the file."""
    md5: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{32}$")] | None = None
    """Of the whole file, in hexadecimal digits: an upload whose sum is another is refused."""


class UploadPart(Named):
    """A part that has arrived."""

    id: str
    """`part_...`"""
    object: Literal["upload.part"] = "upload.part"
    """Always `upload.part`."""
    created_at: int
    """Unix seconds."""
    upload_id: str
    """The upload."""
    bytes: int
    """Its size."""
    sha256: str
    """Of its bytes, in hexadecimal digits: what a sender that starts anew knows it by."""

    @classmethod
    def from_record(cls, record: UploadPartRecord) -> UploadPart:
        """The part as it is sent."""
        return cls(
            id=record.id,
            created_at=int(record.created_at),
            upload_id=record.upload_id,
            bytes=record.num_bytes,
            sha256=record.sha256,
        )


class Upload(Answer):
    """A file that arrives in parts."""

    id: str
    """`upload_...`"""
    object: Literal["upload"] = "upload"
    """Always `upload`."""
    bytes: int
    """Size of the whole file, as announced."""
    created_at: int
    """Unix seconds."""
    expires_at: int
    """When it must be complete, in Unix seconds."""
    filename: str
    """The file's name."""
    purpose: Purpose
    """What it is for."""
    status: Literal["pending", "completed", "cancelled", "expired"]
    """Whether it still takes parts."""
    file: File | None
    """The file, once it is complete."""

    @classmethod
    def from_record(cls, record: UploadRecord, *, file: FileRecord | None = None) -> Upload:
        """The upload as it is sent."""
        return cls(
            id=record.id,
            bytes=record.num_bytes,
            created_at=int(record.created_at),
            expires_at=int(record.expires_at),
            filename=record.filename,
            purpose=record.purpose,  # checked when it was stored
            status=record.status,
            file=None if file is None else File.from_record(file),
        )
