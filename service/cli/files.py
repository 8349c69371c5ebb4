"""`attune files`: data on the service's machine, for whoever has no other way to bring it there."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.exits import USAGE, CommandError
from service.cli.output import (
    DEFAULT_URL,
    JsonOption,
    UrlOption,
    age,
    console,
    error_console,
    print_fields,
    print_json,
    print_table,
)
from service.client import AttuneClient
from service.client_errors import ConnectionFailed, ServerError, TooManyRequests
from service.client_files import ChangedFile

app = typer.Typer(help="Uploaded files, whose ids stand for paths in a job's data.", no_args_is_help=True)

IdArgument = Annotated[str, typer.Argument(help="The file's id, `file-...`.")]
_DAY_S = 86_400
_MB = 1e6


@app.command("upload")
def upload(
    path: Annotated[Path, typer.Argument(help="A file; archives (.zip, .tar, .tar.gz, .tgz) stand for their folder.")],
    purpose: Annotated[
        str, typer.Option("--purpose", help="fine-tune, vision or user_data; all are stored alike.")
    ] = "fine-tune",
    expires_in_days: Annotated[
        float | None, typer.Option("--expires-in-days", help="Days after which it is removed, 30 at most.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="UPLOAD", help="Go on with an upload that was interrupted.")
    ] = None,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Send a file. What has arrived stays: an upload that was interrupted goes on with --resume."""
    if not path.is_file():
        raise CommandError(f"{path} is no file; put a folder into an archive first, such as a .tar", code=USAGE)
    size = path.stat().st_size
    with AttuneClient(url) as client:
        id = resume
        if id is None:
            lifetime_s = None if expires_in_days is None else round(expires_in_days * _DAY_S)
            id = client.files.begin(path, purpose=purpose, lifetime_s=lifetime_s)["id"]
        try:
            file = client.files.send(path, id, on_part=lambda sent: _tell(sent, size))
        except ChangedFile as error:
            raise CommandError(str(error), code=USAGE) from None
        except (ConnectionFailed, ServerError, TooManyRequests, KeyboardInterrupt):
            again = shlex.join(("attune", "files", "upload", str(path), "--resume", str(id), "--url", url))
            error_console.print(f"go on with: {again}", markup=False)
            raise
    if json:
        print_json(file)
    else:
        console.print(file["id"], markup=False)


@app.command("list")
def list_files(
    after: Annotated[str | None, typer.Option("--after", help="Go on after this file.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Most files to list.")] = 100,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """List files, newest first."""
    with AttuneClient(url) as client:
        files, more = client.files.page(after=after, limit=limit)
    if json:
        print_json(files)
        return
    columns = ("file", "name", "purpose", "size", "status", "made", "expires")
    print_table(columns, [_row(file) for file in files])
    if more:
        console.print(f"more: --after {files[-1]['id']}", markup=False)


@app.command("show")
def show(id: IdArgument, json: JsonOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Show one file: its size, its SHA-256, and whether it can be used."""
    with AttuneClient(url) as client:
        file = client.files.get(id)
    if json:
        print_json(file)
    else:
        print_fields({**file, "object": None, "created_at": age(file["created_at"]), "bytes": _size(file["bytes"])})


@app.command("delete")
def delete(id: IdArgument, json: JsonOption = False, url: UrlOption = DEFAULT_URL) -> None:
    """Remove a file that no job needs."""
    with AttuneClient(url) as client:
        answer = client.files.delete(id)
    if json:
        print_json(answer)
    else:
        console.print(f"{id} is removed", markup=False)


def _tell(sent: int, size: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{_size(sent)} of {_size(size)} ", end="\n" if sent == size else "", file=sys.stderr, flush=True)


def _row(file: dict[str, Any]) -> tuple[Any, ...]:
    expires = file["expires_at"]
    left = None if expires is None else f"{(expires - file['created_at']) // _DAY_S} days after"
    name, made = file["filename"], age(file["created_at"])
    return file["id"], name, file["purpose"], _size(file["bytes"]), file["status"], made, left


def _size(num_bytes: int) -> str:
    return f"{num_bytes} bytes" if num_bytes < _MB else f"{num_bytes / _MB:.1f} MB"
