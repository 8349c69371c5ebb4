"""Registered models: list, retrieve, delete."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from service.dependencies import TheCaller, TheStore, find_model
from service.schemas.base import ErrorAnswer, Page
from service.schemas.models import DeletedModel, Model

router = APIRouter(prefix="/v1/models", tags=["models"])

NO_MODEL: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "There is no such model."}}


@router.get("")
def list_models(store: TheStore, caller: TheCaller) -> Page[Model]:
    """All registered models, newest first."""
    return Page[Model](data=[Model.from_record(record) for record in store.models.list(project=caller.project_id)])


@router.get("/{model:path}", responses=NO_MODEL)
def retrieve_model(model: str, store: TheStore, caller: TheCaller) -> Model:
    """One registered model."""
    return Model.from_record(find_model(store, model, project=caller.project_id))


@router.delete("/{model:path}", responses=NO_MODEL)
def delete_model(model: str, store: TheStore, caller: TheCaller) -> DeletedModel:
    """Take a model off the register. Its export folder stays, and so do jobs that started from it."""
    store.models.delete(find_model(store, model, project=caller.project_id).id)
    return DeletedModel(id=model)
