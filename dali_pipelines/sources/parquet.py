"""Parquet, Arrow and Feather tables with images, or the paths of images, in a column: a row a sample."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dali_pipelines.sources.arrow_files import TableFile, features, require_column
from dali_pipelines.sources.image_paths import Locator, folder_of_images, require_one_image
from dali_pipelines.sources.matching_files import MatchingFiles, matching_files
from dali_pipelines.sources.samples import DataError, Samples
from dali_pipelines.sources.table_columns import Columns, Facts, read_facts
from dali_pipelines.sources.table_images import holds_paths, local_files, paths, places_of_bytes
from dali_pipelines.storage import Cache

_ENDINGS = (".parquet", ".arrow", ".arrows", ".feather", ".ipc")
IMAGE_COLUMNS = ("image", "jpg", "image_path", "path")
CAPTION_COLUMNS = ("caption", "captions", "text")
_LABEL_COLUMN = "label"


def read(
    path: str | os.PathLike[str],
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    label_column: str | None = None,
    domain_column: str | None = None,
    split_column: str | None = None,
    split: str | None = None,
    images_root: str | os.PathLike[str] | None = None,
    cache: Cache,
) -> Samples:
    """List the rows of a table, of those in a folder, or of those that a pattern matches.

    Args:
        image_column: None takes the one that Hugging Face's description calls an image, or the first of the usual ones.
        images_root: folder that image paths are relative to; None takes the table's own.

    Raises:
        DataError: naming the column, or the columns that there are.
        StorageError: a remote table cannot be fetched.
    """
    files = matching_files(path, _ENDINGS, what="tables")
    tables = open_tables(files, cache)
    columns = Columns(
        image=_image_column(image_column, tables),
        caption=usual_column(caption_column, CAPTION_COLUMNS, tables, "caption_column"),
        label=usual_column(label_column, (_LABEL_COLUMN,), tables, "label_column"),
        domain=usual_column(domain_column, (), tables, "domain_column"),
        split=usual_column(split_column, (), tables, "split_column"),
    )
    if split is not None and split_column is None:
        raise DataError("split_column", f"split is {split!r}; split_column must name the column that holds it")
    facts = read_facts(tables, columns, split=split)
    return samples_of(files, tables, columns.image, facts, images_root=images_root, cache=cache)


def open_tables(files: MatchingFiles, cache: Cache) -> list[TableFile]:
    """The tables of some files, local or fetched."""
    return [TableFile(local, name=name) for local, name in zip(local_files(files, cache), files.files, strict=True)]


def samples_of(
    files: MatchingFiles,
    tables: Sequence[TableFile],
    image_column: str,
    facts: Facts,
    *,
    images_root: str | os.PathLike[str] | None,
    cache: Cache,
) -> Samples:
    """The chosen rows, with the place of each one's image."""
    told = (facts.labels, facts.captions, facts.class_names, facts.domains, facts.domain_names)
    if holds_paths(tables, image_column):
        root = folder_of_images(files.files[0], images_root)
        return Samples(root, _located(files, tables, image_column, facts.rows, root), *told)
    if images_root is not None:
        raise DataError("images_root", f"column {image_column!r} holds the images themselves; leave images_root out")
    places = places_of_bytes(files, tables, image_column, rows=facts.rows, cache=cache)
    return Samples(places.root, places.paths, *told, places.offsets, places.lengths, places.keys)


def usual_column(given: str | None, usual: Sequence[str], tables: Sequence[TableFile], field: str) -> str | None:
    """The column that is named, or else the first of the usual ones that is there.

    Raises:
        DataError: a table lacks the column.
    """
    name = given or next((name for name in usual if name in tables[0].schema.names), None)
    return None if name is None else require_column(name, tables, field)


def _image_column(given: str | None, tables: Sequence[TableFile]) -> str:
    described = [name for name, feature in features(tables[0].schema).items() if feature.get("_type") == "Image"]
    found = usual_column(given, [*described, *IMAGE_COLUMNS], tables, "image_column")
    if found is None:
        there = ", ".join(repr(name) for name in tables[0].schema.names)
        raise DataError("image_column", f"none of the columns {there} is known for images; name it with image_column")
    return found


def _located(
    files: MatchingFiles, tables: Sequence[TableFile], column: str, rows: Sequence[np.ndarray], root: Path | str
) -> list[str]:
    locate, found = Locator(root, field="image_column"), []
    for table, chosen in zip(tables, rows, strict=True):
        named = list(paths(table, column))
        for row in chosen.tolist():
            if not named[row]:
                raise DataError("image_column", f"row {row} of {table.name!r} has nothing in column {column!r}")
            found.append(locate(named[row], f"row {row} of {table.name!r}"))
    require_one_image(root, found, table=files.files[0])
    return found
