"""What a command of `attune data` answers: tables and sentences for people, a document for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from trainer.evaluation.tables import Table

_MAX_ROWS = 20  # of a table on a terminal


@dataclass(frozen=True)
class Answer:
    """The outcome of a command."""

    document: Mapping[str, Any]
    """JSON values."""
    tables: Mapping[str, Table] = field(default_factory=dict)
    lines: Sequence[str] = ()
    """Sentences, printed after the tables."""
    failed: bool = False
    """Whether what was asked for is not as it should be; the command's exit code is 1 then."""

    def to_dict(self) -> dict[str, Any]:
        """As the command line reads it: tables as people see them, long ones cut."""
        tables = [
            {
                "title": table.title if len(table.rows) <= _MAX_ROWS else f"{table.title} ({len(table.rows):,})",
                "heads": table.heads,
                "rows": table.shown()[:_MAX_ROWS],
                "left_out": max(0, len(table.rows) - _MAX_ROWS),
            }
            for table in self.tables.values()
        ]
        return {"document": self.document, "tables": tables, "lines": list(self.lines), "failed": self.failed}


def spec_lines(data: Mapping[str, Any]) -> str:
    """A job spec's `data` section, as YAML."""
    text: str = yaml.safe_dump({"data": dict(data)}, sort_keys=False, allow_unicode=True, width=10_000)
    return text.rstrip()
