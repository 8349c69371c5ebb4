"""A report folder: every table as JSON, CSV, Markdown and PNG, and the figures beside them.

results.json        the document, and each table's rows by its name
NAME.csv            a file a table; the first is called `results`
results.md          all tables under their titles, and the figures
NAME.png            a picture a table and figure
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.evaluation.tables import Table
from trainer.job_dir import write_json_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 150


def write_report(
    folder: Path,
    *,
    tables: Mapping[str, Table],
    figures: Mapping[str, Figure] | None = None,
    document: Mapping[str, Any] | None = None,
    title: str = "Results",
    drawn: Sequence[str] | None = None,
) -> list[Path]:
    """Write the tables and figures into `folder` and return the files.

    Args:
        folder: made if it is missing; files of the same names are replaced.
        tables: by file name without an ending; the one called `results` is the main one.
        figures: by file name without an ending, not one of the tables' names.
        document: what `results.json` says beside the tables; by default nothing.
        title: heading of `results.md`.
        drawn: names of the tables to draw as pictures; by default all.

    Raises:
        ValueError: a figure and a table have the same name.
    """
    from trainer.evaluation.figures import table_figure

    figures = dict(figures or {})
    if both := sorted(set(figures) & set(tables)):
        raise ValueError(f"figures and tables are both called {', '.join(both)}")
    folder.mkdir(parents=True, exist_ok=True)
    rows = {name: table.to_json() for name, table in tables.items()}
    write_json_atomically(folder / "results.json", {**(document or {}), "tables": rows})
    files = [folder / "results.json"]
    for name, table in tables.items():
        files.append(_write_text(folder / f"{name}.csv", table.to_csv()))
        if drawn is None or name in drawn:
            files.append(_write_figure(folder / f"{name}.png", table_figure(table)))
    for name, figure in figures.items():
        files.append(_write_figure(folder / f"{name}.png", figure))
    files.append(_write_text(folder / "results.md", _markdown(tables, figures, title)))
    return files


def _markdown(tables: Mapping[str, Table], figures: Mapping[str, Figure], title: str) -> str:
    parts = [f"# {title}"]
    parts += [f"## {table.title or name}\n\n{table.to_markdown()}" for name, table in tables.items()]
    parts += [f"![{name.replace('-', ' ')}]({name}.png)" for name in figures]
    return "\n\n".join(parts) + "\n"


def _write_text(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def _write_figure(path: Path, figure: Figure) -> Path:
    figure.savefig(path, dpi=DOTS_PER_INCH, bbox_inches="tight", facecolor="white")
    return path
