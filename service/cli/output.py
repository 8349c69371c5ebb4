"""What the command writes: tables and sentences for people, or JSON for programs."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

DEFAULT_URL = "http://127.0.0.1:8321"

JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON for programs instead of text for people.")]
UrlOption = Annotated[
    str,
    typer.Option("--url", envvar="ATTUNE_URL", help="Address of the service. Its key is taken from ATTUNE_API_KEY."),
]

# What is piped elsewhere must not be folded at the 80 columns that are taken where there is no terminal.
console = Console(highlight=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200)
error_console = Console(stderr=True, highlight=False, soft_wrap=True)

_COPIED = frozenset({"id", "job", "file", "sweep"})
"""Columns with ids, which people copy: they stay in one piece."""
_STATUS_STYLES = {"succeeded": "green", "running": "cyan", "failed": "red", "cancelled": "yellow"}


def print_json(value: Any) -> None:
    """Write `value` as indented JSON on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_json_line(value: Any) -> None:
    """Write `value` as one line of JSON on stdout, at once."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def print_error(message: str) -> None:
    """Write a message about an error on stderr."""
    error_console.print(f"[red]error:[/red] {escape(message)}")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """Write a table on stdout; text columns fold rather than being cut, ids do neither."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in _COPIED)
    for row in rows:
        table.add_row(*(cell(value) for value in row))
    console.print(table)


def print_fields(fields: Mapping[str, Any]) -> None:
    """Write names and values, a line each; what has no value is left out."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in fields.items():
        if value not in (None, "", {}, []):
            table.add_row(escape(name), cell(value))
    console.print(table)


def cell(value: Any) -> str:
    """A value as it stands in a table, safe from being read as markup."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return "\n".join(f"{escape(str(key))}: {cell(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value)
    text = escape(str(value))
    style = _STATUS_STYLES.get(text)
    return f"[{style}]{text}[/{style}]" if style else text


def age(unix_seconds: float | None) -> str | None:
    """How long ago something was, such as `3 min ago`."""
    return f"{duration(time.time() - unix_seconds)} ago" if unix_seconds is not None else None


def duration(seconds: float) -> str:
    """A span of time in the unit that fits it, such as `42 s`, `3 min` or `2 h 5 min`."""
    seconds = max(0, round(seconds))
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7200:
        return f"{seconds // 60} min"
    if seconds < 172800:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86400} days"


def percent(fraction: float) -> str:
    """A fraction as a percentage with one decimal."""
    return f"{100 * fraction:.1f} %"
