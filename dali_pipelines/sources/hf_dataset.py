"""A Hugging Face data set on disk, as `datasets.Dataset.save_to_disk` and `DatasetDict.save_to_disk` leave it.

It is a folder of Arrow streams with two JSON files that name and describe them, and is read as such: `datasets` itself,
which brings pandas and its own worker processes along, is not needed, and images are read from where they lie.
https://huggingface.co/docs/datasets/about_arrow
"""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dali_pipelines.sources.arrow_files import TableFile, features
from dali_pipelines.sources.matching_files import MatchingFiles
from dali_pipelines.sources.parquet import CAPTION_COLUMNS, IMAGE_COLUMNS, open_tables, samples_of, usual_column
from dali_pipelines.sources.samples import DataError, Samples, existing_folder
from dali_pipelines.sources.table_columns import Columns, read_facts
from dali_pipelines.storage import Cache, StorageError, is_url

_DICTIONARY = "dataset_dict.json"
_STATE = "state.json"


def read(
    path: str | os.PathLike[str],
    *,
    split: str | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    label_column: str | None = None,
    domain_column: str | None = None,
    images_root: str | os.PathLike[str] | None = None,
    cache: Cache,
) -> Samples:
    """List the rows of a data set, or of a split of a `DatasetDict`.

    Args:
        image_column: None takes the one of type `Image`.
        label_column: None takes the one of type `ClassLabel`, if there is one.
        images_root: folder that images which are kept as paths lie below; None takes the data set's own.

    Raises:
        DataError: the folder holds no data set, or lacks the split or a column.
        StorageError: a remote file cannot be fetched.
    """
    root = os.fspath(path).rstrip("/") if is_url(os.fspath(path)) else str(existing_folder(path, "path"))
    folder = _folder_of_split(root, split, cache)
    files = MatchingFiles(folder, _data_files(folder, split if folder == root else None, cache))
    tables = open_tables(files, cache)
    columns = Columns(
        image=_only(image_column, "Image", IMAGE_COLUMNS, tables, "image_column") or _no_image(tables),
        caption=usual_column(caption_column, CAPTION_COLUMNS, tables, "caption_column"),
        label=_only(label_column, "ClassLabel", ("label",), tables, "label_column"),
        domain=usual_column(domain_column, (), tables, "domain_column"),
    )
    facts = read_facts(tables, columns, split=None)
    return samples_of(files, tables, columns.image, facts, images_root=images_root, cache=cache)


def _folder_of_split(root: str, split: str | None, cache: Cache) -> str:
    dictionary = _json(root, _DICTIONARY, cache)
    if dictionary is None:
        return root
    splits = [str(name) for name in dictionary.get("splits", ())]
    if split is None or split not in splits:
        asked = "split must name one" if split is None else f"split is {split!r}"
        raise DataError("split", f"{root!r} holds the splits {', '.join(splits)}; {asked}")
    return posixpath.join(root, _plain(split))


def _data_files(folder: str, split: str | None, cache: Cache) -> list[str]:
    """The names of the Arrow files, in order.

    Args:
        split: what a data set that stands alone must be, if that is known.
    """
    state = _json(folder, _STATE, cache)
    if state is None:
        message = f"{folder!r} holds no data set that `save_to_disk` wrote: there is neither {_STATE} nor {_DICTIONARY}"
        raise DataError("path", message)
    if state.get("_indices_files") or state.get("_indices_data_files"):
        message = f"{folder!r} was written by an old version of `datasets`, its rows in another order; save it anew"
        raise DataError("path", message)
    if split is not None and state.get("_split") != split:
        found = f"is the split {state['_split']!r}" if state.get("_split") else "has no splits"
        raise DataError("split", f"split is {split!r}, and {folder!r} {found}; leave split out")
    return [_plain(entry["filename"]) for entry in state.get("_data_files", ())] or _no_files(folder)


def _json(folder: str, name: str, cache: Cache) -> dict[str, Any] | None:
    try:
        file = cache.file(f"{folder}/{name}") if is_url(folder) else Path(folder, name)
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    except (OSError, ValueError) as error:
        raise DataError("path", f"{folder}/{name} cannot be read: {error}") from error
    if found is not None and not isinstance(found, dict):
        raise DataError("path", f"{folder}/{name} does not hold what `save_to_disk` writes there")
    return found


def _plain(name: Any) -> str:
    """A file's name that leads nowhere else."""
    if not isinstance(name, str) or not name or "/" in name or "\\" in name or name in (".", ".."):
        raise DataError("path", f"{name!r} is no name of a file in the data set's folder")
    return name


def _only(given: str | None, kind: str, usual: Sequence[str], tables: Sequence[TableFile], field: str) -> str | None:
    """The column that is named, else the only one of a type, else the first usual one."""
    described = [name for name, feature in features(tables[0].schema).items() if feature.get("_type") == kind]
    if given is None and len(described) > 1:
        raise DataError(field, f"the columns {', '.join(described)} are all of type {kind}; name one with {field}")
    return usual_column(given, [*described, *usual], tables, field)


def _no_image(tables: Sequence[TableFile]) -> str:
    there = ", ".join(repr(name) for name in tables[0].schema.names)
    raise DataError("image_column", f"none of the columns {there} is of type Image; name one with image_column")


def _no_files(folder: str) -> list[str]:
    raise DataError("path", f"the data set in {folder!r} has no rows")
