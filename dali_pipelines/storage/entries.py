"""What lies in the cache folder: entries, their sizes and what is written down about them."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

_NOT_ENTRIES = (".json", ".new")


class Entry(NamedTuple):
    """A file or folder that is kept, or one that was begun."""

    path: Path
    num_bytes: int
    used_at: float


def all_entries(folder: Path) -> list[Entry]:
    """All that is kept in a cache folder, and what was begun."""
    found = list(_files(folder / "files"))
    for kind in ("folders", "partial"):
        found += [_described(folder / kind / name) for name in sorted(_names(folder / kind))]
    return found


def read_facts(path: Path) -> dict[str, Any]:
    """What is written down beside an entry; nothing if it is not there."""
    try:
        return json.loads(_record(path).read_text())
    except FileNotFoundError:
        return {}


def write_facts(path: Path, facts: Mapping[str, object], *, record: Path | None = None) -> None:
    """Write down what is known of an entry, atomically, in a file beside it or in `record`."""
    record = record or _record(path)
    partial = record.with_name(f"{record.name}.{uuid.uuid4().hex[:8]}.new")
    partial.write_text(json.dumps(facts))
    partial.replace(record)


def tree_bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum((Path(place) / name).stat().st_size for place, _, names in os.walk(path) for name in names)


def remove(path: Path) -> None:
    """Remove an entry and what is written down about it; a process that has it open goes on reading."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    _record(path).unlink(missing_ok=True)
    if path.parent.parent.name == "files":
        path.with_name(f"{path.name.partition('-')[0]}.json").unlink(missing_ok=True)


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _files(folder: Path) -> Iterator[Entry]:
    for shelf in os.scandir(folder):
        for place in os.scandir(shelf.path):
            if not place.name.endswith(_NOT_ENTRIES):
                facts = place.stat()
                yield Entry(Path(place.path), facts.st_size, facts.st_mtime)


def _names(folder: Path) -> set[str]:
    """Entries of a folder; those of which only a promise is written down too."""
    names = {place.name for place in os.scandir(folder)}
    return {name.removesuffix(".json") for name in names if not name.endswith(".new")}


def _described(path: Path) -> Entry:
    try:
        num_bytes = read_facts(path)["bytes"]
    except (KeyError, ValueError):
        num_bytes = tree_bytes(path)
    there = path if path.exists() else _record(path)
    return Entry(path, num_bytes, there.stat().st_mtime)
