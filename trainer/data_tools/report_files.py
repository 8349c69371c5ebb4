"""The folder that a validation leaves.

report.md            what was found in sentences, the contact sheet, and the tables, long ones cut
report.json          all of it: the sentences, counts, and every table's rows by its name
NAME.csv             a file a table, whole
contact-sheet.png
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from trainer.evaluation.tables import Table

_MAX_ROWS = 200  # of a table in report.md


def write(
    folder: Path,
    *,
    findings: Sequence[str],
    tables: Mapping[str, Table],
    document: Mapping[str, Any],
    sheet: Image.Image,
) -> None:
    """Write the report; files of the same names are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    sheet.save(folder / "contact-sheet.png", optimize=True)
    for name, table in tables.items():
        (folder / f"{name}.csv").write_text(table.to_csv(), encoding="utf-8")
    (folder / "report.md").write_text(_markdown(findings, tables), encoding="utf-8")
    text = json.dumps(document, indent=1, ensure_ascii=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")


def _markdown(findings: Sequence[str], tables: Mapping[str, Table]) -> str:
    parts = ["# Data validation", "\n".join(f"- {finding}" for finding in findings)]
    parts.append("![contact sheet](contact-sheet.png)")
    for name, table in tables.items():
        shown = replace(table, rows=table.rows[:_MAX_ROWS])
        parts.append(f"## {table.title}\n\n{shown.to_markdown()}")
        if len(table.rows) > _MAX_ROWS:
            parts.append(f"... and {len(table.rows) - _MAX_ROWS:,} more rows in `{name}.csv`.")
    return "\n\n".join(parts) + "\n"
