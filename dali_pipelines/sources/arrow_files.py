"""Tables on disk as record batches: Parquet, and Arrow's IPC files and streams (`.arrow`, `.feather`)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dali_pipelines.sources.samples import DataError

_BATCH_ROWS = 256  # of a Parquet file, with an image each
_METADATA = b"huggingface"


class TableFile:
    """A table of which some columns are read at a time, batch by batch, through a memory map."""

    def __init__(self, path: Path | str, *, name: str) -> None:
        """
        Args:
            name: what it is called in messages.

        Raises:
            DataError: it is no such file.
        """
        self.path, self.name = Path(path), name
        with self._named_errors(), self.path.open("rb") as file:
            start = file.read(8)
        self.is_parquet = start[:4] == b"PAR1"
        self._is_stream = start[:6] != b"ARROW1"
        if start[:4] == b"FEA1":
            raise DataError("path", f"{name!r} is of Feather's first version; write it again with a newer pyarrow")
        with self._named_errors():
            self.schema: pa.Schema = pq.read_schema(self.path) if self.is_parquet else self._opened().schema

    def num_rows(self) -> int:
        """Rows of the whole table, without reading its columns."""
        with self._named_errors():
            if self.is_parquet:
                return int(pq.read_metadata(self.path).num_rows)
            return sum(len(batch) for batch in self.mapped_batches(pa.memory_map(str(self.path))))

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The table's batches, with some of its columns.

        Raises:
            DataError: it is damaged.
        """
        with self._named_errors():
            if self.is_parquet:
                with pq.ParquetFile(self.path, memory_map=True) as file:
                    yield from file.iter_batches(_BATCH_ROWS, columns=list(columns), use_threads=False)
            else:
                yield from (batch.select(list(columns)) for batch in self.mapped_batches(pa.memory_map(str(self.path))))

    def mapped_batches(self, source: pa.MemoryMappedFile) -> Iterator[pa.RecordBatch]:
        """The batches of an Arrow file whose columns lie in the mapped file itself, where they are not compressed."""
        with self._named_errors():
            if self._is_stream:
                yield from pa.ipc.open_stream(source)
            else:
                reader = pa.ipc.open_file(source)
                yield from (reader.get_batch(number) for number in range(reader.num_record_batches))

    def _opened(self) -> Any:
        source = pa.memory_map(str(self.path))
        return pa.ipc.open_stream(source) if self._is_stream else pa.ipc.open_file(source)

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except pa.ArrowException as error:
            raise DataError("path", f"{self.name!r} cannot be read as a table: {error}") from error
        except OSError as error:
            raise DataError("path", f"{self.name!r} cannot be read: {error.strerror or error}") from error


def features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """How Hugging Face's `datasets` describes the columns, by their names; nothing if it did not write the table."""
    described = (schema.metadata or {}).get(_METADATA)
    if described is None:
        return {}
    try:
        found = json.loads(described)["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: feature for name, feature in found.items() if isinstance(feature, dict)}


def require_column(name: str, tables: Sequence[TableFile], field: str) -> str:
    """The name, if all tables have such a column.

    Raises:
        DataError: one lacks it.
    """
    for table in tables:
        if name not in table.schema.names:
            there = ", ".join(repr(column) for column in table.schema.names)
            raise DataError(field, f"{table.name!r} has no column {name!r}; its columns are {there}")
    return name
