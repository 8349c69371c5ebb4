"""What a job has left: its model, reports, logs, events and checkpoints, as files or whole folders."""

from __future__ import annotations

from bisect import bisect_right
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from service.conditions import RangeHeaders, TheConditions, TheRange, file_answer, file_etag
from service.dependencies import After, TheJob
from service.jobs.artifacts import ArtifactFile, find_artifact, list_artifacts, tar_stream
from service.routers.jobs import NO_JOB
from service.schemas.artifacts import Artifact
from service.schemas.pages import IdPage

router = APIRouter(prefix="/v1/fine_tuning/jobs/{job_id}/artifacts", tags=["fine-tuning jobs"])

_FILE_OR_FOLDER: dict[str, Any] = {
    "content": {
        media_type: {"schema": {"type": "string", "format": "binary"}}
        for media_type in ("application/octet-stream", "application/x-tar")
    }
}


@router.get("", responses=NO_JOB)
def list_job_artifacts(
    job: TheJob,
    prefix: Annotated[str, Query(description="Only what begins with this, such as `export/`.")] = "",
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> IdPage[Artifact]:
    """The files that the job has left so far, by name."""
    found = sorted((file for file in list_artifacts(job) if file.name.startswith(prefix)), key=lambda file: file.name)
    start = 0 if after is None else bisect_right(found, after, key=lambda file: file.name)
    page = [_artifact(file) for file in found[start : start + limit]]
    return IdPage[Artifact].of(page, has_more=start + limit < len(found))


@router.get(
    "/{path:path}", response_class=Response, responses={**NO_JOB, **RangeHeaders.RESPONSES, 200: _FILE_OR_FOLDER}
)
def download_artifact(job: TheJob, path: str, request: Request, conditions: TheConditions, asked: TheRange) -> Response:
    """One file, or a range of it; a folder, such as `export` or `checkpoints/step-40-attempt-1`, as a tar archive."""
    found = find_artifact(job, path)
    if found.is_dir():
        headers = {"Content-Disposition": f'attachment; filename="{job.id}-{found.name}.tar"'}
        return StreamingResponse(tar_stream(found), media_type="application/x-tar", headers=headers)
    return file_answer(request, found, filename=found.name, etag=file_etag(found), conditions=conditions, asked=asked)


def _artifact(file: ArtifactFile) -> Artifact:
    return Artifact(id=file.name, bytes=file.num_bytes, modified_at=int(file.modified_at), kind=file.kind)
