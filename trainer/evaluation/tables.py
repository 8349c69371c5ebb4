"""One table, many forms: typed columns and rows that become JSON, CSV, Markdown, a terminal's table or a picture.

Numbers stay numbers until the last moment. JSON and CSV hold them as they are (a fraction is 0.8125); Markdown,
terminals and pictures show them to people (81.25 under a head that ends in %).
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["text", "integer", "fraction", "number"]
Cell = str | int | float | None
"""None is a missing value: null in JSON, empty in CSV, a dash where people read."""


@dataclass(frozen=True)
class Column:
    """One column's head and the type of its cells."""

    name: str
    kind: Kind = "text"
    """`fraction` is shown to people in percent."""
    digits: int = 2
    """Decimals shown to people, of fractions in percent and of numbers."""

    @property
    def head(self) -> str:
        """The name as people see it."""
        return f"{self.name} %" if self.kind == "fraction" and not self.name.endswith("%") else self.name

    def show(self, cell: Cell) -> str:
        """A cell as people see it."""
        if cell is None or isinstance(cell, str):
            return "-" if cell is None else cell
        if not math.isfinite(cell):
            return str(cell)
        if self.kind == "fraction":
            return f"{100 * cell:.{self.digits}f}"
        return f"{cell:.{self.digits}f}" if self.kind == "number" else str(cell)


@dataclass(frozen=True)
class Table:
    """Columns, and rows of as many cells.

    Raises:
        ValueError: a row has too few or too many cells, or a cell is not of its column's kind.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"the row {row!r} has {len(row)} cells for {len(self.columns)} columns")
            for column, cell in zip(self.columns, row, strict=True):
                if cell is not None and isinstance(cell, str) != (column.kind == "text"):
                    raise ValueError(f"{cell!r} is no {column.kind} for column {column.name!r}")

    @property
    def heads(self) -> tuple[str, ...]:
        """Column heads as people see them."""
        return tuple(column.head for column in self.columns)

    def shown(self) -> tuple[tuple[str, ...], ...]:
        """The rows as people see them."""
        return tuple(tuple(column.show(cell) for column, cell in self._cells(row)) for row in self.rows)

    def to_json(self) -> list[dict[str, Any]]:
        """An object a row, by column name; numbers that JSON has no word for (infinity, NaN) become null."""
        return [{column.name: _for_json(cell) for column, cell in self._cells(row)} for row in self.rows]

    def to_csv(self) -> str:
        """Comma-separated with a header row; numbers at full precision, missing values empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([column.name for column in self.columns])
        writer.writerows(self.rows)
        return text.getvalue()

    def to_markdown(self) -> str:
        """A pipe table; text to the left, numbers to the right."""
        rule = ["---" if column.kind == "text" else "---:" for column in self.columns]
        lines = [self.heads, rule, *self.shown()]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)

    def _cells(self, row: Sequence[Cell]) -> zip[tuple[Column, Cell]]:
        return zip(self.columns, row, strict=True)


def text_table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> Table:
    """A table of text alone."""
    return Table(tuple(Column(head) for head in heads), tuple(tuple(row) for row in rows), title)


def _for_json(cell: Cell) -> Cell:
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell
