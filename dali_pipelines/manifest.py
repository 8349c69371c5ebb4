"""The table of samples that training and evaluation read: where each image lies, its size, its label or captions.

Saved as an Arrow IPC file and opened through a memory map, so that a million rows cost neither time nor memory.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dali_pipelines.storage.location import WHOLE_FILE, Location, is_url

SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "root": pa.int16(),
        "offset": pa.int64(),
        "length": pa.int64(),
        "key": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "label": pa.int32(),
        "captions": pa.list_(pa.string()),
        "domain": pa.int16(),
        "source": pa.int16(),
        "decoder": pa.string(),
    }
)
NO_LABEL = -1
_NAMES = ("roots", "class_names", "domain_names", "shares")
_PLACE = ["path", "root", "offset", "length"]


class EarlierLayoutError(ValueError):
    """A saved manifest is in a layout that this version does not read; the text names the file."""


@dataclass(frozen=True)
class Manifest:
    """Samples that have been checked, in a fixed order; a row's number is what samplers and batches refer to."""

    roots: tuple[str, ...]
    """Folders that the paths are relative to, or URLs of such."""
    table: pa.Table
    """Columns: path; root, its place in `roots`; offset and length of the image's bytes in the file, length -1 for the
    whole file; key, what the sample is called in reports, null for its path; width and height as the decoder will see
    them; label (-1 none); captions; domain, its place in `domain_names` (-1 none); source, its place in `shares`;
    decoder (`dali`, or `pillow` for images that DALI would not decode as Pillow does)."""
    class_names: tuple[str, ...] = ()
    """Names by label, as they read in a prompt; empty if there are no labels."""
    domain_names: tuple[str, ...] = ()
    """Names of the domains; empty if the data have none."""
    shares: tuple[float, ...] = ()
    """Share of the training samples drawn from each source of a mixture, in proportion; empty: every sample once."""

    @classmethod
    def from_columns(
        cls,
        root: Path | str,
        *,
        paths: Sequence[str],
        sizes: Sequence[tuple[int, int]] | np.ndarray,
        labels: Sequence[int] | np.ndarray | None = None,
        captions: Iterable[Sequence[str]] | None = None,
        decoders: Sequence[str] | None = None,
        class_names: Sequence[str] = (),
        domains: Sequence[int] | np.ndarray | None = None,
        domain_names: Sequence[str] = (),
        offsets: Sequence[int] | None = None,
        lengths: Sequence[int] | None = None,
        keys: Sequence[str] | None = None,
    ) -> Self:
        """Build a manifest of one source; sizes are (width, height) pairs."""
        sizes = np.asarray(sizes, np.int32).reshape(-1, 2)
        count = len(sizes)
        columns = {
            "path": list(paths),
            "root": np.zeros(count, np.int16),
            "offset": np.zeros(count, np.int64) if offsets is None else np.asarray(offsets, np.int64),
            "length": np.full(count, WHOLE_FILE, np.int64) if lengths is None else np.asarray(lengths, np.int64),
            "key": [None] * count if keys is None else list(keys),
            "width": sizes[:, 0],
            "height": sizes[:, 1],
            "label": np.full(count, NO_LABEL, np.int32) if labels is None else np.asarray(labels, np.int32),
            "captions": [[]] * count if captions is None else list(captions),
            "domain": np.full(count, NO_LABEL, np.int16) if domains is None else np.asarray(domains, np.int16),
            "source": np.zeros(count, np.int16),
            "decoder": ["dali"] * count if decoders is None else list(decoders),
        }
        return cls((str(root),), pa.table(columns, schema=SCHEMA), tuple(class_names), tuple(domain_names))

    @classmethod
    def concatenate(cls, manifests: Sequence[Manifest], *, shares: Sequence[float] | None = None) -> Self:
        """The samples of several sources, one after another; classes and domains are united by name.

        Args:
            shares: of the training samples, for each source, in proportion; None: every sample once an epoch.
        """
        class_names = tuple(dict.fromkeys(name for manifest in manifests for name in manifest.class_names))
        domain_names = tuple(dict.fromkeys(name for manifest in manifests for name in manifest.domain_names))
        roots = tuple(dict.fromkeys(root for manifest in manifests for root in manifest.roots))
        tables = [
            manifest._with_numbers(
                label=_numbers(manifest.class_names, class_names)[manifest.labels],
                domain=_numbers(manifest.domain_names, domain_names)[manifest.domains],
                root=_numbers(manifest.roots, roots)[manifest.table["root"].to_numpy()],
                source=np.full(len(manifest), number),
            ).table
            for number, manifest in enumerate(manifests)
        ]
        return cls(roots, pa.concat_tables(tables), class_names, domain_names, tuple(shares or ()))

    def __len__(self) -> int:
        return self.table.num_rows

    @functools.cached_property
    def paths(self) -> list[str]:
        """Paths relative to their roots. Takes memory for all of them; for a few rows use `files`."""
        return self.table["path"].to_pylist()

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """(N,) int32."""
        return self.table["label"].to_numpy()

    @functools.cached_property
    def domains(self) -> np.ndarray:
        """(N,) int16."""
        return self.table["domain"].to_numpy()

    @functools.cached_property
    def sources(self) -> np.ndarray:
        """(N,) int16: the member of the mixture that each sample comes from; zeros if it is none."""
        return self.table["source"].to_numpy()

    @functools.cached_property
    def in_files(self) -> np.ndarray:
        """(N,) bool: whether the image is a whole file on the local file system."""
        local = np.array([not is_url(root) for root in self.roots], bool)
        return local[self.table["root"].to_numpy()] & (self.table["length"].to_numpy() == WHOLE_FILE)

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
        return int(self.caption_bounds[-1])

    @functools.cached_property
    def caption_bounds(self) -> np.ndarray:
        """(N + 1,) int64: the captions of row i are `caption_texts[bounds[i]:bounds[i + 1]]`."""
        counts = pc.list_value_length(self.table["captions"]).to_numpy()
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])

    @property
    def caption_texts(self) -> pa.ChunkedArray:
        """The captions of all rows, one after another."""
        return pc.list_flatten(self.table["captions"])

    def files(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """The files, as absolute paths or URLs, that hold the images of the given rows."""
        taken = self._place_columns.take(pa.array(np.asarray(rows, np.int64))).to_pydict()
        return [f"{self.roots[root]}/{path}" for path, root in zip(taken["path"], taken["root"], strict=True)]

    def locations(self, rows: Sequence[int] | np.ndarray) -> list[Location]:
        """Where the bytes of the given rows' images lie."""
        taken = self._place_columns.take(pa.array(np.asarray(rows, np.int64))).to_pydict()
        return [
            Location(f"{self.roots[root]}/{path}", offset, length)
            for path, root, offset, length in zip(*(taken[name] for name in _PLACE), strict=True)
        ]

    def key(self, row: int) -> str:
        """What a sample is called in reports."""
        return self.table["key"][int(row)].as_py() or self.files([row])[0]

    @functools.cached_property
    def hash(self) -> str:
        """sha256 of what the samples are: paths, places in files, sizes, labels, captions, domains, sources, and the
        names of classes and domains. The roots do not count."""
        names = [self.class_names, self.domain_names, self.shares]
        digest = hashlib.sha256(json.dumps(names).encode())
        captions = self.table["captions"]
        for column in ("width", "height", "label", "domain", "source", "offset", "length"):
            digest.update(np.ascontiguousarray(self.table[column].to_numpy()).tobytes())
        digest.update(pc.list_value_length(captions).to_numpy().astype(np.int32).tobytes())
        for strings in (self.table["path"], pc.list_flatten(captions)):
            digest.update(pc.binary_length(strings).to_numpy().astype(np.int32).tobytes())
            for chunk in strings.chunks:
                digest.update(_text_of(chunk))
        return digest.hexdigest()

    def select(self, rows: Sequence[int] | np.ndarray) -> Manifest:
        """The given rows, in the given order, with the same names."""
        return replace(self, table=self.table.take(pa.array(np.asarray(rows, np.int64))))

    def with_class_names(self, class_names: Sequence[str]) -> Manifest:
        """The same samples with labels numbered by `class_names`, which must hold all of this manifest's names."""
        relabelled = self._with_numbers(label=_numbers(self.class_names, class_names)[self.labels])
        return replace(relabelled, class_names=tuple(class_names))

    def save(self, path: Path | str) -> None:
        """Write an Arrow IPC file, atomically."""
        path = Path(path)
        metadata = {name: json.dumps(getattr(self, name)) for name in _NAMES}
        partial = path.with_name(path.name + ".partial")
        table = self.table.replace_schema_metadata(metadata)
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        partial.replace(path)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Open a saved manifest through a memory map.

        Raises:
            EarlierLayoutError: it was saved by an earlier version.
        """
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        metadata = table.schema.metadata or {}
        if missing := [name for name in _NAMES if name.encode() not in metadata]:
            raise EarlierLayoutError(f"{path} was written by an earlier version, and lacks {', '.join(missing)}")
        names = {name: tuple(json.loads(metadata[name.encode()])) for name in _NAMES}
        return cls(table=table.replace_schema_metadata(None), **names)

    @functools.cached_property
    def _place_columns(self) -> pa.Table:
        return self.table.select(_PLACE).combine_chunks()

    def _with_numbers(self, **columns: np.ndarray) -> Manifest:
        """The same rows with other numbers in some columns."""
        table = self.table
        for name, numbers in columns.items():
            place = table.schema.get_field_index(name)
            table = table.set_column(place, SCHEMA.field(name), pa.array(numbers, SCHEMA.field(name).type))
        return replace(self, table=table)


def _text_of(strings: pa.StringArray) -> pa.Buffer | bytes:
    """The UTF-8 of all strings of a chunk, one after another, without a copy."""
    if not len(strings):
        return b""
    _, offsets, text = strings.buffers()
    bounds = np.frombuffer(offsets, np.int32)[strings.offset : strings.offset + len(strings) + 1]
    return b"" if text is None else text.slice(int(bounds[0]), int(bounds[-1] - bounds[0]))


def _numbers(names: Sequence[str], among: Sequence[str]) -> np.ndarray:
    """The place of each name among others; the last entry, which -1 points to, is -1."""
    place = {name: number for number, name in enumerate(among)}
    return np.array([*(place[name] for name in names), NO_LABEL], np.int32)
