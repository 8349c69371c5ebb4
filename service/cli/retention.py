"""`attune retention`: remove what is older than the settings allow now, or only say what that would be."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.db import DataDirOption
from service.cli.db import UrlOption as DatabaseUrlOption
from service.cli.exits import CommandError
from service.cli.output import JsonOption, console, print_json, print_table


def retention(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
    database_url: DatabaseUrlOption = None,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Remove old checkpoints and job files as ATTUNE_RETENTION_* and the projects' quotas say.

    The service does the same by itself.
    """
    from service.jobs.retention import Retention
    from service.settings import SettingsError, load_settings
    from service.store.opening import CannotOpen, open_store

    given = {"database_url": database_url, "data_dir": data_dir}
    try:
        settings = load_settings(**{name: value for name, value in given.items() if value is not None})
        store = open_store(settings.effective_database_url)
    except (SettingsError, CannotOpen) as error:
        raise CommandError(str(error)) from None
    keeper = Retention(store, settings)
    planned = keeper.plan()
    if not dry_run:
        for removal in planned:
            keeper.remove(removal)
    store.close()
    rows = [(r.project_id, r.job_id, r.kind, str(r.path), r.num_bytes, r.why) for r in planned]
    heads = ("project", "job", "what", "path", "bytes", "why")
    if json:
        print_json([dict(zip(heads, row, strict=True)) for row in rows])
        return
    print_table(heads, rows)
    done = "would be removed" if dry_run else "removed"
    console.print(f"{len(rows)} things, {sum(r.num_bytes for r in planned)} bytes {done}", markup=False)
