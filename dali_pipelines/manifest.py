"""The table of samples that training and evaluation read: where each image lies, its size, its label or captions.

Saved as an Arrow IPC file and opened through a memory map, so that a million rows cost neither time nor memory.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "label": pa.int32(),
        "captions": pa.list_(pa.string()),
        "decoder": pa.string(),
    }
)
NO_LABEL = -1


@dataclass(frozen=True)
class Manifest:
    """Samples that have been checked, in a fixed order; a row's number is what samplers and batches refer to."""

    root: Path
    """Folder that the paths are relative to."""
    table: pa.Table
    """Columns: path; width and height as the decoder will see them; label (-1 none); captions; decoder (`dali`, or
    `pillow` for images that DALI would not decode as Pillow does)."""
    class_names: tuple[str, ...] = ()
    """Names by label, as they read in a prompt; empty if there are no labels."""

    @classmethod
    def from_columns(
        cls,
        root: Path,
        *,
        paths: Sequence[str],
        sizes: Sequence[tuple[int, int]] | np.ndarray,
        labels: Sequence[int] | np.ndarray | None = None,
        captions: Iterable[Sequence[str]] | None = None,
        decoders: Sequence[str] | None = None,
        class_names: Sequence[str] = (),
    ) -> Self:
        """Build a manifest; sizes are (width, height) pairs."""
        sizes = np.asarray(sizes, np.int32).reshape(-1, 2)
        columns = {
            "path": list(paths),
            "width": sizes[:, 0],
            "height": sizes[:, 1],
            "label": np.full(len(sizes), NO_LABEL, np.int32) if labels is None else np.asarray(labels, np.int32),
            "captions": [[]] * len(sizes) if captions is None else list(captions),
            "decoder": ["dali"] * len(sizes) if decoders is None else list(decoders),
        }
        return cls(Path(root), pa.table(columns, schema=SCHEMA), tuple(class_names))

    def __len__(self) -> int:
        return self.table.num_rows

    @functools.cached_property
    def paths(self) -> list[str]:
        """Paths relative to the root. Takes memory for all of them; for a few rows use `files`."""
        return self.table["path"].to_pylist()

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """(N,) int32."""
        return self.table["label"].to_numpy()

    @functools.cached_property
    def sizes(self) -> np.ndarray:
        """(N, 2) int32 widths and heights."""
        return np.stack([self.table["width"].to_numpy(), self.table["height"].to_numpy()], axis=1)

    @functools.cached_property
    def needs_pillow(self) -> np.ndarray:
        """(N,) bool: whether the image takes the road through Pillow."""
        return pc.equal(self.table["decoder"], "pillow").to_numpy()

    def captions(self, row: int) -> list[str]:
        """The captions of a row."""
        return self.table["captions"][int(row)].as_py()

    @property
    def num_captions(self) -> int:
        """Captions of all rows together."""
        return pc.sum(pc.list_value_length(self.table["captions"])).as_py() or 0

    def files(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Absolute paths of the given rows."""
        root = str(self.root)
        return [f"{root}/{path}" for path in self._path_array.take(pa.array(np.asarray(rows, np.int64))).to_pylist()]

    @functools.cached_property
    def hash(self) -> str:
        """sha256 of what the samples are: paths, sizes, labels, captions and class names. The root does not count."""
        digest = hashlib.sha256(json.dumps(self.class_names).encode())
        captions = self.table["captions"]
        digest.update(np.ascontiguousarray(self.sizes).tobytes())
        digest.update(np.ascontiguousarray(self.labels).tobytes())
        digest.update(pc.list_value_length(captions).to_numpy().astype(np.int32).tobytes())
        for strings in (self.table["path"], pc.list_flatten(captions)):
            digest.update(pc.binary_length(strings).to_numpy().astype(np.int32).tobytes())
            for chunk in strings.chunks:
                digest.update("".join(chunk.to_pylist()).encode())
        return digest.hexdigest()

    def select(self, rows: Sequence[int] | np.ndarray) -> Manifest:
        """The given rows, in the given order, with the same class names."""
        return Manifest(self.root, self.table.take(pa.array(np.asarray(rows, np.int64))), self.class_names)

    def with_class_names(self, class_names: Sequence[str]) -> Manifest:
        """The same samples with labels numbered by `class_names`, which must hold all of this manifest's names."""
        numbers = np.array([*(class_names.index(name) for name in self.class_names), NO_LABEL], np.int32)
        column = self.table.schema.get_field_index("label")
        table = self.table.set_column(column, "label", pa.array(numbers[self.labels]))
        return Manifest(self.root, table, tuple(class_names))

    def save(self, path: Path | str) -> None:
        """Write an Arrow IPC file, atomically."""
        path = Path(path)
        metadata = {"root": str(self.root), "class_names": json.dumps(self.class_names)}
        partial = path.with_name(path.name + ".partial")
        table = self.table.replace_schema_metadata(metadata)
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        partial.replace(path)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Open a saved manifest through a memory map."""
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        metadata = table.schema.metadata
        class_names = tuple(json.loads(metadata[b"class_names"]))
        return cls(Path(metadata[b"root"].decode()), table.replace_schema_metadata(None), class_names)

    @functools.cached_property
    def _path_array(self) -> pa.Array:
        chunks = self.table["path"].chunks
        return chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks or [pa.array([], pa.string())])
