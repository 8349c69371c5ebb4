"""`attune db`: the layout of the service's database, for those who upgrade it apart from starting the service."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.exits import FAILED, CommandError
from service.cli.output import JsonOption, print_fields, print_json

app = typer.Typer(help="The layout of the service's database.", no_args_is_help=True)

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--database-url", envvar="ATTUNE_DATABASE_URL", help="SQLAlchemy URL; by default SQLite in the data folder."
    ),
]
DataDirOption = Annotated[
    str | None, typer.Option("--data-dir", envvar="ATTUNE_DATA_DIR", help="The service's data folder.")
]


@app.command("upgrade")
def upgrade(database_url: UrlOption = None, data_dir: DataDirOption = None) -> None:
    """Bring the tables to this version's layout; all rows are kept. `attune serve` does the same when it starts."""
    from service.store.opening import CannotOpen, open_store

    url = database_url_of(database_url, data_dir)
    try:
        store = open_store(url)
    except CannotOpen as error:
        raise CommandError(str(error)) from None
    with_layout = store.layout()
    store.close()
    print_fields({"database": with_layout.url, "layout": with_layout.revision})


@app.command("check")
def check(database_url: UrlOption = None, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Say which layout the database has, whether this version needs another one, and how many rows there are.

    Exits with 1 if the database needs an upgrade or does not answer; nothing is changed.
    """
    from service.store.opening import CannotOpen, read_layout

    try:
        layout = read_layout(database_url_of(database_url, data_dir))
    except CannotOpen as error:
        where = "; make it with: attune db upgrade, or say where it is with --data-dir or --database-url"
        raise CommandError(f"{error}{where if database_url is None else ''}") from None
    found = {"database": layout.url, "layout": layout.revision, "needed": layout.head, **layout.num_rows}
    if json:
        print_json({**found, "up_to_date": layout.up_to_date})
    else:
        print_fields(found)
    if not layout.up_to_date:
        raise CommandError("this version needs another layout; run: attune db upgrade", code=FAILED)


def database_url_of(database_url: str | None, data_dir: str | None) -> str:
    """Where the service's database is, by these options and the environment."""
    from service.settings import SettingsError, load_settings

    given = {"database_url": database_url, "data_dir": data_dir}
    try:
        settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    except SettingsError as error:
        raise CommandError(str(error)) from None
    return settings.effective_database_url
