"""Places that this process may not read."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_NOBODY = 65534


@pytest.fixture
def locked() -> Iterator[Path]:
    """A folder with `readable.csv`, and with `table.csv` and `folder/images/cat` that may not be read. Root may read
    everything, so it becomes nobody for the time of the test."""
    root = Path(tempfile.mkdtemp(prefix="locked-"))
    (root / "folder" / "images" / "cat").mkdir(parents=True)
    for name in ("table.csv", "readable.csv"):
        (root / name).write_text("image,caption\na.jpg,a cat\n")
    root.chmod(0o755)
    for path in (root / "folder", root / "table.csv"):
        path.chmod(0)
    before = os.geteuid()
    if before == 0:
        os.seteuid(_NOBODY)
    yield root
    if before == 0:
        os.seteuid(before)
    (root / "folder").chmod(0o700)
    shutil.rmtree(root)
