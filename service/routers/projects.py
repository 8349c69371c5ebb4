"""Projects and their quotas, for operators: create, list, retrieve, change."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from service import administration
from service.dependencies import TheCaller, TheOperator, TheStore
from service.errors import NotFound
from service.schemas.base import ErrorAnswer, Page
from service.schemas.projects import Project, ProjectChange, ProjectCreate

router = APIRouter(prefix="/v1/projects", tags=["administration"])

NO_PROJECT: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "There is no such project."}}


@router.post("", responses={409: {"model": ErrorAnswer, "description": "There is one of this id or name already."}})
def create_project(body: ProjectCreate, store: TheStore, caller: TheOperator) -> Project:
    """Make a project."""
    quotas = administration.Quotas(**body.model_dump(exclude={"id", "name"}))
    return Project.from_record(administration.create_project(store, id=body.id, name=body.name, quotas=quotas))


@router.get("")
def list_projects(store: TheStore, caller: TheCaller) -> Page[Project]:
    """All projects for an operator; for others, their own."""
    records = [record for record in store.projects.list() if caller.is_operator or record.id == caller.project_id]
    return Page[Project](data=[Project.from_record(record) for record in records])


@router.get("/{project_id}", responses=NO_PROJECT)
def retrieve_project(project_id: str, store: TheStore, caller: TheCaller) -> Project:
    """One project."""
    if not caller.is_operator and project_id != caller.project_id:
        raise NotFound(f"there is no project {project_id!r}", param="project")
    return Project.from_record(administration.find_project(store, project_id))


@router.post("/{project_id}", responses=NO_PROJECT)
def set_project(project_id: str, body: ProjectChange, store: TheStore, caller: TheOperator) -> Project:
    """Change a project's name, share or limits; what the body leaves out stays."""
    return Project.from_record(administration.set_project(store, project_id, **body.changes()))
