"""The end of a log, for messages about processes that died without a word."""

from __future__ import annotations

from pathlib import Path

TAIL_BYTES = 8192


def last_line(path: Path) -> str:
    """The log's last line with text in it, as a sentence that names the log; empty if there is none."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return f"The last line of {path} is: {lines[-1][:500]}" if lines else ""
