"""`attune keys`, `attune projects` and `attune audit`: straight on the database, for whoever runs the service.

Whoever can write the database is an operator. A running service sees what was changed at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.db import DataDirOption, UrlOption, database_url_of
from service.cli.exits import MISSING, USAGE, CommandError
from service.cli.output import JsonOption, age, print_fields, print_json, print_table

if TYPE_CHECKING:
    from service.store.records import ApiKeyRecord, ProjectRecord
    from service.store.store import Store

keys = typer.Typer(help="API keys, straight on the service's database.", no_args_is_help=True)
projects = typer.Typer(help="Projects and their quotas, straight on the service's database.", no_args_is_help=True)

ProjectOption = Annotated[str, typer.Option("--project", help="The project that the key is for.")]
_DAY_S = 86_400.0
_LIMITS = ("max_devices", "max_running_jobs", "max_queued_jobs", "max_disk_bytes")


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Option("--name", help="What the key is for.")] = "attune keys create",
    role: Annotated[str, typer.Option("--role", help="viewer, member or admin.", metavar="ROLE")] = "member",
    project: ProjectOption = "default",
    expires_in_days: Annotated[
        float | None, typer.Option("--expires-in-days", help="Days until it expires; without it, it does not.")
    ] = None,
    database_url: UrlOption = None,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Make a key and print it, this once: only a hash of it is kept. The first key closes the service to all others."""
    from service import administration
    from service.store.records import Role

    if role not in list(Role):
        raise CommandError(f"--role {role!r} is none of {', '.join(Role)}", code=USAGE)
    lifetime_s = None if expires_in_days is None else expires_in_days * _DAY_S
    with _store(database_url, data_dir) as store, _audited(store, "key.create", project=project) as note:
        key, record = administration.create_key(
            store, project=project, name=name, role=Role(role), lifetime_s=lifetime_s
        )
        note(record.id)
    _show_new(key, record, json=json)


@keys.command("list")
def list_keys(
    project: Annotated[str | None, typer.Option("--project", help="Only this project's.")] = None,
    database_url: UrlOption = None,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """List keys, newest first; of the keys themselves their first and last characters only."""
    with _store(database_url, data_dir) as store:
        records = store.keys.list(project=project)
    if json:
        print_json([_shown(record) for record in records])
        return
    columns = ("id", "project", "name", "role", "key", "state", "last used")
    rows = [(r.id, r.project_id, r.name, r.role.value, r.hint, _state(r), age(r.last_used_at)) for r in records]
    print_table(columns, rows)


@keys.command("rotate")
def rotate_key(
    id: Annotated[str, typer.Argument(help="The key's id, `key-...`.")],
    overlap: Annotated[float, typer.Option("--overlap", min=0, help="Seconds for which the old key works on.")] = 3600,
    database_url: UrlOption = None,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Make a successor of the same project, role and length of life; the old key works on for a while."""
    from service import administration

    with _store(database_url, data_dir) as store, _audited(store, "key.rotate", target=id) as note:
        key, record, old = administration.rotate_key(store, id, project=None, overlap_s=overlap)
        note(id, successor=record.id, project=record.project_id)
    _show_new(key, record, json=json, replaces=f"{old.id}, which works until {_clock(old.expires_at or time.time())}")


@keys.command("revoke")
def revoke_key(
    id: Annotated[str, typer.Argument(help="The key's id, `key-...`.")],
    database_url: UrlOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """End a key at once."""
    from service import administration

    with _store(database_url, data_dir) as store, _audited(store, "key.revoke", target=id) as note:
        record = administration.revoke_key(store, id, project=None)
        note(id, project=record.project_id)
    print_fields({"id": record.id, "name": record.name, "state": _state(record)})


@projects.command("create")
def create_project(
    id: Annotated[str, typer.Argument(help="Small letters, digits and '-'.")],
    name: Annotated[str | None, typer.Option("--name", help="What people call it.")] = None,
    weight: Annotated[float, typer.Option("--weight", help="Share of the devices.")] = 1.0,
    max_devices: Annotated[int | None, typer.Option("--max-devices", help="Most devices at once.")] = None,
    max_running_jobs: Annotated[int | None, typer.Option("--max-running-jobs", help="Most running jobs.")] = None,
    max_queued_jobs: Annotated[int | None, typer.Option("--max-queued-jobs", help="Most waiting jobs.")] = None,
    max_priority: Annotated[int, typer.Option("--max-priority", help="Highest priority to ask for.")] = 100,
    max_disk_bytes: Annotated[int | None, typer.Option("--max-disk-bytes", help="Most bytes on disk.")] = None,
    database_url: UrlOption = None,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Make a project; a limit that is not given does not apply."""
    from service import administration

    quotas = administration.Quotas(
        weight=weight,
        max_devices=max_devices,
        max_running_jobs=max_running_jobs,
        max_queued_jobs=max_queued_jobs,
        max_priority=max_priority,
        max_disk_bytes=max_disk_bytes,
    )
    with _store(database_url, data_dir) as store, _audited(store, "project.create", target=id, project=id):
        record = administration.create_project(store, id=id, name=name, quotas=quotas)
    _show_project(record, json=json)


@projects.command("list")
def list_projects(database_url: UrlOption = None, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """List projects with their shares and limits."""
    with _store(database_url, data_dir) as store:
        records = store.projects.list()
    if json:
        print_json([asdict(record) for record in records])
        return
    columns = ("id", "name", "weight", "devices", "running", "queued", "priority", "disk bytes")
    rows = [
        (r.id, r.name, r.weight, *(getattr(r, name) for name in _LIMITS[:3]), r.max_priority, r.max_disk_bytes)
        for r in records
    ]
    print_table(columns, rows)


@projects.command("set")
def set_project(
    id: Annotated[str, typer.Argument(help="The project's id.")],
    changes: Annotated[
        list[str], typer.Argument(help="FIELD=VALUE: name, weight, max_devices, ...; `none` takes a limit away.")
    ],
    database_url: UrlOption = None,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Change a project, such as: attune projects set vision weight=2 max_devices=8 max_queued_jobs=none."""
    from service import administration

    given = dict(_change(text) for text in changes)
    with _store(database_url, data_dir) as store, _audited(store, "project.set", target=id, project=id):
        record = administration.set_project(store, id, **given)
    _show_project(record, json=json)


def audit(
    project: Annotated[str | None, typer.Option("--project", help="Only this project's.")] = None,
    action: Annotated[str | None, typer.Option("--action", help="Only this, such as job.create.")] = None,
    actor: Annotated[str | None, typer.Option("--actor", help="Only what this key did.")] = None,
    since_hours: Annotated[float | None, typer.Option("--since-hours", help="Only the last hours.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Most records.")] = 50,
    database_url: UrlOption = None,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Show who changed what, or tried to, newest first; straight from the service's database."""
    since = 0.0 if since_hours is None else time.time() - 3600 * since_hours
    with _store(database_url, data_dir) as store:
        records, _ = store.audit.list(project=project, action=action, actor=actor, since=since, limit=limit)
    if json:
        print_json([asdict(record) for record in records])
        return
    columns = ("when", "who", "what", "target", "project", "outcome", "request")
    rows = [(_clock(r.at), r.actor, r.action, r.target, r.project_id, r.outcome, r.request_id) for r in records]
    print_table(columns, rows)


@contextmanager
def _store(database_url: str | None, data_dir: str | None) -> Iterator[Store]:
    from service.store.opening import CannotOpen, open_store

    try:
        store = open_store(database_url_of(database_url, data_dir))
    except CannotOpen as error:
        raise CommandError(str(error)) from None
    try:
        yield store
    finally:
        store.close()


@contextmanager
def _audited(
    store: Store, action: str, *, target: str | None = None, project: str | None = None
) -> Iterator[Callable[..., None]]:
    """Write down what the block does or is refused; it calls what it is given with the target once it knows it."""
    from service.errors import AttuneError, NotFound
    from service.store.records import AuditRecord, StoreError

    noted: dict[str, Any] = {"target": target, "project": project}

    def note(target: str, **more: Any) -> None:
        noted.update({"target": target, **more})

    def append(outcome: Any, detail: dict[str, Any] | None) -> None:
        where = noted["project"] if noted["project"] and store.projects.get(noted["project"]) else None
        store.audit.append(
            AuditRecord(
                at=time.time(),
                actor="operator",
                action=action,
                target=noted["target"],
                project_id=where,
                outcome=outcome,
                detail=detail,
            )
        )

    try:
        yield note
    except (AttuneError, StoreError) as error:
        append("refused", {"message": str(error)[:500]})
        code = MISSING if isinstance(error, NotFound) else USAGE
        raise CommandError(str(error), code=code) from None
    append("ok", {"successor": noted["successor"]} if "successor" in noted else None)


def _change(text: str) -> tuple[str, Any]:
    from service.administration import QUOTAS

    name, equals, value = text.partition("=")
    if not equals or name not in ("name", *QUOTAS):
        raise CommandError(f"{text!r} is not FIELD=VALUE with a field of: name, {', '.join(QUOTAS)}", code=USAGE)
    if name == "name":
        return name, value
    if value == "none" and name in _LIMITS:
        return name, None
    try:
        return name, float(value) if name == "weight" else int(value)
    except ValueError:
        raise CommandError(f"{name}={value!r} is no number", code=USAGE) from None


def _show_new(key: str, record: ApiKeyRecord, *, json: bool, replaces: str | None = None) -> None:
    if json:
        print_json({**_shown(record), "key": key})
        return
    told = {"id": record.id, "project": record.project_id, "name": record.name, "role": record.role.value}
    print_fields({**told, "state": _state(record), "replaces": replaces})
    print("This is the key; it is not shown again. The attune command takes it from ATTUNE_API_KEY:")
    print(key)


def _shown(record: ApiKeyRecord) -> dict[str, Any]:
    fields = asdict(record)
    fields.pop("hash")
    return {**fields, "role": record.role.value}


def _show_project(record: ProjectRecord, *, json: bool) -> None:
    if json:
        print_json(asdict(record))
    else:
        print_fields({**asdict(record), "created_at": _clock(record.created_at), "usage_at": None})


def _state(record: ApiKeyRecord) -> str:
    now = time.time()
    if record.revoked_at is not None:
        return f"revoked {age(record.revoked_at)}"
    if record.expires_at is None:
        return "valid"
    return (
        f"valid until {_clock(record.expires_at)}" if record.expires_at > now else f"expired {age(record.expires_at)}"
    )


def _clock(unix_seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_seconds))
