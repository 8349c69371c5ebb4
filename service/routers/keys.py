"""API keys of the caller's project, for its administrators: create, list, retrieve, rotate, revoke."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from service import administration
from service.dependencies import TheAdmin, TheStore
from service.schemas.base import ErrorAnswer, Page
from service.schemas.keys import Key, KeyCreate, KeyRotate, NewKey

# Not an idempotent route: the answer with the key in it must be stored nowhere.
router = APIRouter(prefix="/v1/keys", tags=["administration"])

NO_KEY: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "There is no such key."}}


@router.post("")
def create_key(body: KeyCreate, store: TheStore, caller: TheAdmin) -> NewKey:
    """Make a key. The answer holds the key itself, this once."""
    key, record = administration.create_key(
        store, project=caller.project_id, name=body.name, role=body.role, lifetime_s=body.expires_in_s
    )
    return NewKey.of(key, record)


@router.get("")
def list_keys(store: TheStore, caller: TheAdmin) -> Page[Key]:
    """The project's keys, newest first, those that have ended as well."""
    return Page[Key](data=[Key.from_record(record) for record in store.keys.list(project=caller.project_id)])


@router.get("/{key_id}", responses=NO_KEY)
def retrieve_key(key_id: str, store: TheStore, caller: TheAdmin) -> Key:
    """One key, without the key."""
    return Key.from_record(administration.find_key(store, key_id, project=caller.project_id))


@router.post("/{key_id}/rotate", responses={**NO_KEY, 409: {"model": ErrorAnswer, "description": "It has ended."}})
def rotate_key(key_id: str, store: TheStore, caller: TheAdmin, body: KeyRotate | None = None) -> NewKey:
    """Make a successor with the same role and length of life; the old key works for `overlap_s` seconds more."""
    overlap_s = (body or KeyRotate()).overlap_s
    key, record, old = administration.rotate_key(store, key_id, project=caller.project_id, overlap_s=overlap_s)
    return NewKey.of(key, record, replaces=old.id)


@router.delete("/{key_id}", responses=NO_KEY)
def revoke_key(key_id: str, store: TheStore, caller: TheAdmin) -> Key:
    """End a key at once."""
    return Key.from_record(administration.revoke_key(store, key_id, project=caller.project_id))
