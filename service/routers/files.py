"""Files: upload, list, retrieve, delete, download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from service.conditions import (
    CHANGED,
    NOT_MODIFIED,
    RangeHeaders,
    TheConditions,
    TheRange,
    file_answer,
)
from service.dependencies import After, TheCaller, TheFiles, TheSettings, TheStore
from service.files.library import Announcement
from service.files.receiving import receive
from service.schemas.base import Body, ErrorAnswer
from service.schemas.files import MAX_LIFETIME_S, MIN_LIFETIME_S, DeletedFile, ExpiresAfter, File, Purpose
from service.schemas.pages import IdPage
from service.store.files import Order
from service.store.records import FileRecord, new_id

router = APIRouter(prefix="/v1/files", tags=["files"])

NO_FILE: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "There is no such file."}}
REFUSED: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "It is empty, broken, or an archive that is not unpacked."},
    413: {"model": ErrorAnswer, "description": "It is larger than allowed."},
}


class _Fields(Body):
    """The fields of the form beside the file."""

    purpose: Purpose
    expires_after: ExpiresAfter | None = None


_FORM = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file", "purpose"],
                "dependentRequired": {
                    "expires_after[anchor]": ["expires_after[seconds]"],
                    "expires_after[seconds]": ["expires_after[anchor]"],
                },
                "properties": {
                    "file": {"type": "string", "format": "binary"},
                    "purpose": {"type": "string", "enum": ["fine-tune", "vision", "user_data"]},
                    "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                    "expires_after[seconds]": {
                        "type": "integer",
                        "minimum": MIN_LIFETIME_S,
                        "maximum": MAX_LIFETIME_S,
                    },
                },
            }
        }
    },
}


def _file(file_id: str, library: TheFiles, caller: TheCaller) -> FileRecord:
    return library.find(file_id, project=caller.project_id)


TheFile = Annotated[FileRecord, Depends(_file)]


@router.post("", responses=REFUSED, openapi_extra={"requestBody": _FORM})
async def create_file(
    request: Request, store: TheStore, library: TheFiles, settings: TheSettings, caller: TheCaller
) -> File:
    """Upload a file as a multipart form: `file`, `purpose`, and `expires_after[seconds]` if it is not to stay.

    Archives (.zip, .tar, .tar.gz, .tgz) are unpacked, and stand for their folder where a job names them.
    """
    file_id = new_id("file")
    with library.storage.receiving(file_id, project=caller.project_id) as partial:
        received = await receive(request, partial / "received", file_field="file", max_bytes=settings.max_file_bytes)
        fields = _checked(received.fields)
        sent = Announcement(
            caller.project_id,
            received.filename,
            fields.purpose,
            fields.expires_after.seconds if fields.expires_after else None,
        )
        record = await run_in_threadpool(
            library.prepare, file_id, partial, sent=sent, num_bytes=received.num_bytes, sha256=received.sha256
        )
    return File.from_record(await run_in_threadpool(store.files.add, record))


@router.get("")
def list_files(
    store: TheStore,
    caller: TheCaller,
    purpose: Annotated[str | None, Query(description="Only files for this purpose.")] = None,
    order: Annotated[Order, Query(description="By the time of their creation.")] = "desc",
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
) -> IdPage[File]:
    """Files, newest first unless asked otherwise."""
    records, has_more = store.files.list(
        project=caller.project_id, purpose=purpose, order=order, after=after, limit=limit
    )
    return IdPage[File].of([File.from_record(record) for record in records], has_more=has_more)


@router.get("/{file_id}", response_model=File, responses={**NO_FILE, **NOT_MODIFIED})
def retrieve_file(file: TheFile, conditions: TheConditions) -> Response:
    """One file."""
    return conditions.answer(File.from_record(file))


@router.delete(
    "/{file_id}",
    responses={**NO_FILE, **CHANGED, 409: {"model": ErrorAnswer, "description": "A job that has not ended reads it."}},
)
def delete_file(file: TheFile, library: TheFiles, conditions: TheConditions) -> DeletedFile:
    """Delete a file and its bytes."""
    conditions.require(File.from_record(file))
    library.delete(file)
    return DeletedFile(id=file.id)


@router.get("/{file_id}/content", response_class=Response, responses={**NO_FILE, **RangeHeaders.RESPONSES})
def download_file(file: TheFile, request: Request, conditions: TheConditions, asked: TheRange) -> Response:
    """The file's bytes as they were uploaded, or a range of them."""
    return file_answer(
        request, Path(file.path), filename=file.filename, etag=f'"{file.sha256}"', conditions=conditions, asked=asked
    )


def _checked(fields: dict[str, str]) -> _Fields:
    """The form's fields, `expires_after[seconds]` as a field of `expires_after`."""
    given: dict[str, Any] = {}
    for name, value in fields.items():
        section, bracket, rest = name.partition("[")
        if bracket and rest.endswith("]"):
            given.setdefault(section, {})[rest[:-1]] = value
        else:
            given[name] = value
    try:
        return _Fields.model_validate(given, strict=False)  # a form holds text only
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None
