"""Images in a table's column: paths of files, or bytes, which are read where they lie or packed once.

An Arrow file that is not compressed holds the images' bytes as they are, and so its own bytes serve. From other tables
the images are copied into shards in the local cache, a batch at a time.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from dali_pipelines.packs import PackedSample, write_shards
from dali_pipelines.sources.arrow_files import TableFile
from dali_pipelines.sources.matching_files import MatchingFiles, matching_files
from dali_pipelines.sources.sample_texts import TextKeys
from dali_pipelines.sources.samples import DataError
from dali_pipelines.sources.shard_index import identities, index
from dali_pipelines.storage import Cache, is_url

_COMPARED_BYTES = 64


@dataclass(frozen=True)
class Places:
    """Where images lie, for `Samples`."""

    root: str
    paths: list[str]
    offsets: np.ndarray
    lengths: np.ndarray
    keys: list[str]


def holds_paths(tables: Sequence[TableFile], column: str) -> bool:
    """Whether a column has paths of images and not their bytes; of Hugging Face's struct the first cell says it.

    Raises:
        DataError: the column is of another type.
    """
    kind = tables[0].schema.field(column).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if _is_bytes(kind):
        return False
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return True
    if not pa.types.is_struct(kind) or not {"bytes", "path"} >= {field.name for field in kind}:
        message = f"column {column!r} is of type {kind}; an image is bytes, a path, or a struct of `bytes` and `path`"
        raise DataError("image_column", message)
    for table in tables:
        for batch in table.batches([column]):
            for cell in batch.column(column):
                found = cell.as_py() or {}
                if found.get("bytes") is not None or found.get("path") is not None:
                    return found.get("bytes") is None
    raise DataError("image_column", f"all of column {column!r} is empty")


def paths(table: TableFile, column: str) -> Iterator[str | None]:
    """The path in each row of a column that holds paths."""
    for batch in table.batches([column]):
        cells = batch.column(column)
        cells = _child(cells, "path") if pa.types.is_struct(cells.type) else cells
        yield from cells.to_pylist()


def places_of_bytes(
    files: MatchingFiles, tables: Sequence[TableFile], column: str, *, rows: Sequence[np.ndarray], cache: Cache
) -> Places:
    """Where the bytes of the chosen rows of a column lie, in the tables themselves or in the cache.

    Args:
        rows: numbers of the chosen rows of each table.
    """
    found = [_in_place(table, column) for table in tables]
    keys = [f"{name}/{row}" for name, chosen in zip(files.names, rows, strict=True) for row in chosen.tolist()]
    if any(places is None for places in found):
        return _packed(files, tables, column, rows, cache, keys)
    places = np.concatenate([place[chosen] for place, chosen in zip(found, rows, strict=True) if place is not None])
    names = [name for name, chosen in zip(files.names, rows, strict=True) for _ in range(len(chosen))]
    return Places(files.root, names, places[:, 0], places[:, 1], keys)


def _in_place(table: TableFile, column: str) -> np.ndarray | None:
    """(N, 2) offset and length of each row's bytes in an Arrow file, length 0 for none; None if it must be unpacked."""
    if table.is_parquet:
        return None
    source = pa.memory_map(str(table.path))
    whole = source.read_buffer()
    source.seek(0)
    found: list[np.ndarray] = []
    for batch in table.mapped_batches(source):
        places = _places_in(whole, _bytes(batch.column(column)))
        if places is None:
            return None
        found.append(places)
    return np.concatenate(found) if found else np.zeros((0, 2), np.int64)


def _places_in(whole: pa.Buffer, cells: pa.Array) -> np.ndarray | None:
    """Where the cells lie in a mapped file; None if they lie elsewhere, as what was compressed does."""
    width = {pa.binary(): np.int32, pa.large_binary(): np.int64}.get(cells.type)
    if width is None:
        return None
    _, ends, data = cells.buffers()
    if not len(cells) or data is None or not data.size:
        return np.zeros((len(cells), 2), np.int64)
    start = data.address - whole.address
    if not 0 <= start <= whole.size - data.size:
        return None
    bounds = np.frombuffer(ends, width)[cells.offset : cells.offset + len(cells) + 1].astype(np.int64)
    lengths = np.where(cells.is_valid().to_numpy(zero_copy_only=False), np.diff(bounds), 0)
    places = np.stack([start + bounds[:-1], lengths], axis=1)
    first = int(np.argmax(lengths > 0))
    offset, length = places[first].tolist()
    compared = min(length, _COMPARED_BYTES)
    same = not length or whole[offset : offset + compared].to_pybytes() == cells[first].as_py()[:compared]
    return places if same else None


def _packed(
    files: MatchingFiles,
    tables: Sequence[TableFile],
    column: str,
    rows: Sequence[np.ndarray],
    cache: Cache,
    keys: Sequence[str],
) -> Places:
    chosen = hashlib.sha256(b"".join(part.astype("<i8").tobytes() for part in rows)).hexdigest()
    known_by = json.dumps([identities(files.files), column, chosen])
    folder = cache.folder(
        f"images of a table {hashlib.sha256(known_by.encode()).hexdigest()}",
        lambda folder: write_shards(folder, _samples(files, tables, column, rows)),
        num_bytes=sum(table.path.stat().st_size for table in tables),
    )
    shards = matching_files(folder, (".tar",), what="shards")
    found = index(shards, TextKeys(), cache=cache)
    if len(found) != len(keys):
        raise DataError("path", f"the cache's {str(folder)!r} holds {len(found)} of {len(keys)} images; remove it")
    names = [shards.names[number] for number in found["shard"].to_pylist()]
    return Places(shards.root, names, found["offset"].to_numpy(), found["length"].to_numpy(), list(keys))


def _samples(
    files: MatchingFiles, tables: Sequence[TableFile], column: str, rows: Sequence[np.ndarray]
) -> Iterator[PackedSample]:
    for name, table, chosen in zip(files.names, tables, rows, strict=True):
        stem, first = posixpath.splitext(name)[0], 0
        for batch in table.batches([column]):
            inside = chosen[(chosen >= first) & (chosen < first + len(batch))] - first
            for row, cell in zip(inside.tolist(), _bytes(batch.column(column)).take(pa.array(inside)), strict=True):
                yield PackedSample(f"{stem}/{first + row:08d}", cell.as_py() or b"")
            first += len(batch)


def _bytes(cells: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    if pa.types.is_struct(cells.type):
        return _child(cells, "bytes")
    return cells


def _child(cells: pa.StructArray, name: str) -> pa.Array:
    return cells.flatten()[cells.type.get_field_index(name)]


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def local_files(files: MatchingFiles, cache: Cache) -> list[Path]:
    """The files themselves, or local copies of remote ones."""
    return [cache.file(file) if is_url(file) else Path(file) for file in files.files]
