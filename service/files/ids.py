"""How ids of uploaded files look, and how a path tells whose it is."""

from __future__ import annotations

import re
from pathlib import Path

FILE_ID = re.compile(r"file-[0-9a-f]{24}")


def file_id_of(path: str) -> str | None:
    """The id of the uploaded file that a path belongs to, or None."""
    return next((part for part in Path(path).parts if FILE_ID.fullmatch(part)), None)
