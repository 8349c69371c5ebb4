"""Remembers what has been looked at: a folder with an Arrow file a chunk, each written whole and then given its name.

    DIR/000000.arrow ...    the chunk's rows, and in the metadata what they are about

A file about other images, or about other settings, is as good as none.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from dali_pipelines.storage import Location

_VERSION = 1  # of what is found out about an image
_ABOUT = b"about"


class Journal:
    """The journal of one data set."""

    def __init__(self, folder: Path, *, settings: str) -> None:
        """`settings`: whatever else the findings depend on."""
        self._folder, self._settings = folder, settings
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, number: int, locations: Sequence[Location]) -> pa.Table | None:
        """What is known of a chunk, through a memory map; None if nothing is."""
        try:
            table = pa.ipc.open_file(pa.memory_map(str(self._file(number)))).read_all()
        except (OSError, pa.ArrowInvalid):
            return None
        same = (table.schema.metadata or {}).get(_ABOUT) == self._about(locations)
        return table if same and len(table) == len(locations) else None

    def save(self, number: int, locations: Sequence[Location], table: pa.Table) -> None:
        """Note a chunk down."""
        marked = table.replace_schema_metadata({_ABOUT: self._about(locations)})
        partial = self._file(number).with_suffix(f".partial-{os.getpid()}")
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, marked.schema) as writer:
            writer.write_table(marked)
        partial.replace(self._file(number))

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:06d}.arrow"

    def _about(self, locations: Sequence[Location]) -> bytes:
        digest = hashlib.blake2b(f"{_VERSION} {self._settings}".encode(), digest_size=16)
        for place in locations:
            digest.update(f"\0{place.file}\0{place.offset}\0{place.length}".encode())
        return digest.hexdigest().encode()
