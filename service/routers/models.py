"""Registered models: list, retrieve, delete."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from service.conditions import CHANGED, NOT_MODIFIED, TheConditions
from service.dependencies import TheCaller, TheStore, find_model
from service.schemas.base import ErrorAnswer, Listing
from service.schemas.models import DeletedModel, Model

router = APIRouter(prefix="/v1/models", tags=["models"])

NO_MODEL: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "There is no such model."}}


@router.get("")
def list_models(store: TheStore, caller: TheCaller) -> Listing[Model]:
    """All registered models, newest first."""
    return Listing[Model](data=[Model.from_record(record) for record in store.models.list(project=caller.project_id)])


@router.get("/{model:path}", response_model=Model, responses={**NO_MODEL, **NOT_MODIFIED})
def retrieve_model(model: str, store: TheStore, caller: TheCaller, conditions: TheConditions) -> Response:
    """One registered model."""
    return conditions.answer(Model.from_record(find_model(store, model, project=caller.project_id)))


@router.delete("/{model:path}", responses={**NO_MODEL, **CHANGED})
def delete_model(model: str, store: TheStore, caller: TheCaller, conditions: TheConditions) -> DeletedModel:
    """Take a model off the register. Its export folder stays, and so do jobs that started from it."""
    record = find_model(store, model, project=caller.project_id)
    conditions.require(Model.from_record(record))
    store.models.delete(record.id)
    return DeletedModel(id=model)
