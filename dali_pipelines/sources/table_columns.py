"""A table's columns as captions, classes, domains and choice of rows: everything but the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dali_pipelines.sources.arrow_files import TableFile, features
from dali_pipelines.sources.labels import numbered
from dali_pipelines.sources.samples import DataError


@dataclass(frozen=True)
class Columns:
    """Names of the columns that hold what; None: nothing does."""

    image: str
    caption: str | None = None
    label: str | None = None
    domain: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Facts:
    """What the chosen rows say."""

    rows: list[np.ndarray]
    """Numbers of the chosen rows, for each file."""
    captions: list[list[str]] | None
    labels: list[int] | None
    class_names: tuple[str, ...]
    domains: list[int] | None
    domain_names: tuple[str, ...]


def read_facts(tables: Sequence[TableFile], columns: Columns, *, split: str | None) -> Facts:
    """Read all columns but the images'.

    Args:
        split: take only the rows that have this in the split column.

    Raises:
        DataError: a column's type does not fit, or no row is left.
    """
    named = {
        name for name in (columns.caption, columns.label, columns.domain, columns.split if split else None) if name
    }
    read = [_read(table, sorted(named)) for table in tables]
    chosen = [_chosen(table, columns.split, split) for table in read]
    if not sum(len(rows) for rows in chosen):
        raise DataError("split" if split else "path", _no_rows(read, columns.split, split))
    taken = pa.concat_tables(
        [table.select(sorted(named)).take(rows) for table, rows in zip(read, chosen, strict=True)],
        promote_options="permissive",
    )
    labels, class_names = _labels(taken, columns.label, tables[0].schema)
    domains, domain_names = _domains(taken, columns.domain)
    return Facts(chosen, _captions(taken, columns.caption), labels, class_names, domains, domain_names)


def _read(table: TableFile, names: Sequence[str]) -> pa.Table:
    """Some columns; of none of them a table that has nothing but the right number of rows."""
    if not names:
        return pa.table({"": pa.nulls(table.num_rows())})
    batches = [pa.record_batch([_plain(batch.column(name)) for name in names], names) for batch in table.batches(names)]
    if batches:
        return pa.Table.from_batches(batches)
    return pa.table({name: _plain(pa.array([], table.schema.field(name).type)) for name in names})


def _plain(column: pa.Array) -> pa.Array:
    """Without a dictionary, which may differ from batch to batch."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _chosen(table: pa.Table, column: str | None, split: str | None) -> np.ndarray:
    if split is None or column is None:
        return np.arange(len(table))
    words = table[column].cast(pa.string())
    return np.flatnonzero(pc.equal(words, split).fill_null(False).to_numpy())


def _no_rows(tables: Sequence[pa.Table], column: str | None, split: str | None) -> str:
    if split is None or column is None:
        return "the table has no rows"
    there = {word for table in tables for word in table[column].cast(pa.string()).unique().to_pylist()}
    named = ", ".join(repr(word) for word in sorted(str(word) for word in there)[:10])
    return f"no row has {split!r} in column {column!r}; there are {named}"


def _captions(table: pa.Table, name: str | None) -> list[list[str]] | None:
    if name is None:
        return None
    kind = table[name].type
    several = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not (_is_text(kind.value_type if several else kind) or pa.types.is_null(kind)):
        raise DataError("caption_column", f"column {name!r} is of type {kind}; captions are strings or lists of them")
    cells = table[name].to_pylist()
    if not several:
        return [[cell.strip()] if cell and cell.strip() else [] for cell in cells]
    return [[text.strip() for text in cell or [] if text and text.strip()] for cell in cells]


def _labels(table: pa.Table, name: str | None, schema: pa.Schema) -> tuple[list[int] | None, tuple[str, ...]]:
    if name is None:
        return None, ()
    kind = table[name].type
    if not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise DataError("label_column", f"column {name!r} is of type {kind}; a class is an integer or a string")
    if pa.types.is_boolean(kind):
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.int8()))
    described = features(schema).get(name, {}).get("names") or ()
    if isinstance(described, dict):  # as files of older versions have it, by number
        described = [described[number] for number in sorted(described, key=int)]
    return numbered(table[name].cast(pa.string()).to_pylist(), names=described, field="label_column")


def _domains(table: pa.Table, name: str | None) -> tuple[list[int] | None, tuple[str, ...]]:
    if name is None:
        return None, ()
    kind = table[name].type
    if not (_is_text(kind) or pa.types.is_integer(kind)):
        raise DataError("domain_column", f"column {name!r} is of type {kind}; a domain is a string or an integer")
    words = table[name].cast(pa.string()).to_pylist()
    names = tuple(sorted({word for word in words if word is not None}))
    places = {word: number for number, word in enumerate(names)}
    return [places.get(word, -1) for word in words], names


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
