"""Uploads: files that arrive in parts, in any order and with breaks between them."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.concurrency import run_in_threadpool

from service.dependencies import After, TheCaller, TheSettings, TheStore, TheUploads
from service.errors import PayloadTooLarge
from service.files.library import check_name
from service.files.receiving import receive
from service.idempotency import IDEMPOTENT, IdempotentRoute, TheChosenId
from service.schemas.base import ErrorAnswer
from service.schemas.files import Upload, UploadComplete, UploadCreate, UploadPart
from service.schemas.pages import IdPage
from service.store.records import UploadPartRecord, UploadRecord, new_id

router = APIRouter(prefix="/v1/uploads", tags=["files"], route_class=IdempotentRoute)

NO_UPLOAD: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "There is no such upload."}}
TOO_LARGE: dict[int | str, dict[str, Any]] = {413: {"model": ErrorAnswer, "description": "It is larger than allowed."}}
ENDED: dict[int | str, dict[str, Any]] = {409: {"model": ErrorAnswer, "description": "It takes no more parts."}}
UNUSABLE: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "The parts do not make what was announced."}
}
_FORM = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["data"],
                "properties": {"data": {"type": "string", "format": "binary"}},
            }
        }
    },
}


def _upload(upload_id: str, assembler: TheUploads, caller: TheCaller) -> UploadRecord:
    return assembler.find(upload_id, project=caller.project_id)


TheUpload = Annotated[UploadRecord, Depends(_upload)]


@router.post("", responses={**UNUSABLE, **TOO_LARGE}, dependencies=[IDEMPOTENT])
def create_upload(
    body: UploadCreate,
    assembler: TheUploads,
    settings: TheSettings,
    store: TheStore,
    caller: TheCaller,
    chosen: TheChosenId,
) -> Upload:
    """Announce a file that will arrive in parts."""
    id = chosen.new("upload").replace("-", "_")
    already = store.uploads.get(id)
    if already is not None:  # made under the same Idempotency-Key by a service that died before it could answer
        return Upload.from_record(already)
    if body.bytes > settings.max_file_bytes:
        message = f"a file may have {settings.max_file_bytes} bytes at most, not {body.bytes}"
        raise PayloadTooLarge(message, param="bytes")
    now = time.time()
    record = UploadRecord(
        id=id,
        project_id=caller.project_id,
        filename=check_name(body.filename),
        purpose=body.purpose,
        mime_type=body.mime_type,
        num_bytes=body.bytes,
        status="pending",
        created_at=now,
        expires_at=now + settings.upload_lifetime_s,
        file_lifetime_s=body.expires_after.seconds if body.expires_after else None,
    )
    return Upload.from_record(assembler.begin(record))


@router.get("/{upload_id}", responses=NO_UPLOAD)
def retrieve_upload(upload: TheUpload, store: TheStore) -> Upload:
    """One upload."""
    return Upload.from_record(upload, file=store.files.get(upload.file_id) if upload.file_id else None)


@router.get("/{upload_id}/parts", responses=NO_UPLOAD)
def list_upload_parts(
    upload: TheUpload, store: TheStore, after: After = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> IdPage[UploadPart]:
    """The parts that have arrived, oldest first: what a sender that was interrupted need not send again."""
    records, has_more = store.uploads.list_parts(upload.id, after=after, limit=limit)
    return IdPage[UploadPart].of([UploadPart.from_record(record) for record in records], has_more=has_more)


@router.post(
    "/{upload_id}/parts",
    responses={**NO_UPLOAD, **ENDED, **UNUSABLE, **TOO_LARGE},
    openapi_extra={"requestBody": _FORM},
)
async def add_upload_part(
    upload: TheUpload, request: Request, assembler: TheUploads, settings: TheSettings
) -> UploadPart:
    """Send a part as a multipart form with the field `data`."""
    part_id = new_id("part").replace("-", "_")
    path = assembler.part_path(upload, part_id)
    try:
        received = await receive(request, path, file_field="data", max_bytes=settings.max_upload_part_bytes)
        part = UploadPartRecord(
            id=part_id,
            upload_id=upload.id,
            num_bytes=received.num_bytes,
            sha256=received.sha256,
            path=str(path),
            created_at=time.time(),
        )
        return UploadPart.from_record(await run_in_threadpool(assembler.add_part, upload, part))
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@router.post("/{upload_id}/complete", responses={**NO_UPLOAD, **ENDED, **UNUSABLE, **TOO_LARGE})
def complete_upload(upload: TheUpload, body: UploadComplete, assembler: TheUploads, store: TheStore) -> Upload:
    """Put the parts together in the order of `part_ids` and make a file of them."""
    completed = assembler.complete(upload, part_ids=body.part_ids, md5=body.md5)
    return Upload.from_record(completed, file=store.files.get(str(completed.file_id)))


@router.post("/{upload_id}/cancel", responses={**NO_UPLOAD, **ENDED})
def cancel_upload(upload: TheUpload, assembler: TheUploads) -> Upload:
    """Give an upload up and remove its parts."""
    return Upload.from_record(assembler.cancel(upload))
