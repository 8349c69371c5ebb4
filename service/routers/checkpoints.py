"""Checkpoints of a job: list, retrieve, and make a model of one."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from service.dependencies import After, TheJob, ThePromotions, TheStore
from service.errors import NotFound
from service.idempotency import IDEMPOTENT, IdempotentRoute
from service.jobs.promotion import PromotionState
from service.routers.jobs import NO_JOB
from service.schemas.base import ErrorAnswer
from service.schemas.checkpoints import Checkpoint, Promotion
from service.schemas.pages import IdPage
from service.store.records import CheckpointRecord

router = APIRouter(
    prefix="/v1/fine_tuning/jobs/{job_id}/checkpoints", tags=["fine-tuning jobs"], route_class=IdempotentRoute
)

NO_CHECKPOINT: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorAnswer, "description": "There is no such job, or no such checkpoint of it."}
}
NO_PROMOTION: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorAnswer, "description": "Nobody asked for this checkpoint to be promoted, or it does not exist."}
}
REFUSED: dict[int | str, dict[str, Any]] = {
    409: {"model": ErrorAnswer, "description": "It is not on the disk any more."},
    503: {"model": ErrorAnswer, "description": "Others are being promoted."},
}


def _checkpoint(checkpoint_id: str, job: TheJob, store: TheStore) -> CheckpointRecord:
    record = store.checkpoints.get(checkpoint_id)
    if record is None or record.job_id != job.id:
        raise NotFound(f"job {job.id} has no checkpoint {checkpoint_id!r}", param="checkpoint_id")
    return record


TheCheckpoint = Annotated[CheckpointRecord, Depends(_checkpoint)]


@router.get("", responses=NO_JOB)
def list_checkpoints(
    job: TheJob, store: TheStore, after: After = None, limit: Annotated[int, Query(ge=1, le=100)] = 10
) -> IdPage[Checkpoint]:
    """The job's checkpoints that are still there, newest first."""
    records, has_more = store.checkpoints.list(job.id, after=after, limit=limit)
    return IdPage[Checkpoint].of([Checkpoint.from_record(record) for record in records], has_more=has_more)


@router.get("/{checkpoint_id}", responses=NO_CHECKPOINT)
def retrieve_checkpoint(checkpoint: TheCheckpoint) -> Checkpoint:
    """One checkpoint."""
    return Checkpoint.from_record(checkpoint)


@router.post("/{checkpoint_id}/promote", responses={**NO_CHECKPOINT, **REFUSED}, dependencies=[IDEMPOTENT])
def promote_checkpoint(job: TheJob, checkpoint: TheCheckpoint, promotions: ThePromotions) -> Promotion:
    """Export a checkpoint as a model of its own, whatever becomes of the job. Takes a while; asking again says how far
    it is, and tries once more if it has failed."""
    return _answer(checkpoint, promotions.start(job, checkpoint))


@router.get("/{checkpoint_id}/promotion", responses=NO_PROMOTION)
def retrieve_promotion(job: TheJob, checkpoint: TheCheckpoint, promotions: ThePromotions) -> Promotion:
    """How far the promotion of a checkpoint is."""
    state = promotions.look(job, checkpoint)
    if state is None:
        message = f"nobody asked for checkpoint {checkpoint.id} to be promoted; POST .../{checkpoint.id}/promote does"
        raise NotFound(message, param="checkpoint_id")
    return _answer(checkpoint, state)


def _answer(checkpoint: CheckpointRecord, state: PromotionState) -> Promotion:
    return Promotion(
        checkpoint=checkpoint.id,
        fine_tuning_job_id=checkpoint.job_id,
        status=state.status,
        model=state.model,
        error=state.error,
    )
