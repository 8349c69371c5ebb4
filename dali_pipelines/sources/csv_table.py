"""A CSV or TSV file with a row an image-caption or image-label pair."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dali_pipelines.manifest import NO_LABEL
from dali_pipelines.sources.samples import DataError, Samples, existing_file, existing_folder
from dali_pipelines.storage import Cache

SEPARATORS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
_MAX_FIELD_CHARACTERS = 1 << 20


def read(
    path: str | os.PathLike[str],
    *,
    separator: str | None = None,
    encoding: str = "utf-8",
    image_column: str = "image",
    caption_column: str | None = "caption",
    label_column: str | None = None,
    domain_column: str | None = None,
    split_column: str | None = None,
    split: str | None = None,
    images_root: str | os.PathLike[str] | None = None,
    cache: Cache,
) -> Samples:
    """Gather the rows of each image into one sample, in the order in which images first appear.

    Args:
        separator: None finds it in the header line.
        images_root: folder that image paths are relative to; None takes the table's own.

    Files are not opened: `validate` reports a missing one like any other that cannot be decoded.

    Raises:
        DataError: naming the line, or the columns that there are.
    """
    table = existing_file(path)
    root = table.parent.resolve() if images_root is None else existing_folder(images_root, "images_root")
    columns = _Columns(image_column, caption_column, label_column)
    entries = _gather(_rows(table, separator, encoding, columns))
    if not entries:
        raise DataError("path", f"{str(table)!r} has a header but no rows")
    locate = _Locator(root)
    samples = _samples(root, {locate(name, entry.line): entry for name, entry in entries.items()}, columns)
    if not any(os.path.isfile(root / image) for image in samples.paths):
        raise DataError(
            "images_root", f"none of the images of {str(table)!r} is in {str(root)!r}, such as {next(iter(entries))!r}"
        )
    return samples


@dataclass(frozen=True)
class _Columns:
    image: str
    caption: str | None
    label: str | None

    def fields(self) -> dict[str, str]:
        """Column name by the field of the source that names it."""
        named = {"image_column": self.image, "caption_column": self.caption, "label_column": self.label}
        return {field: name for field, name in named.items() if name is not None}


@dataclass
class _Entry:
    line: int
    captions: list[str]
    label: str | None


def _samples(root: Path, entries: dict[str, _Entry], columns: _Columns) -> Samples:
    names = tuple(sorted({entry.label for entry in entries.values() if entry.label is not None}))
    numbers = {name: number for number, name in enumerate(names)}
    labels = [numbers.get(entry.label or "", NO_LABEL) for entry in entries.values()] if columns.label else None
    captions = [entry.captions for entry in entries.values()] if columns.caption else None
    return Samples(root, list(entries), labels, captions, names)


def _gather(rows: Iterator[tuple[int, str, str | None, str | None]]) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
    for line, image, caption, label in rows:
        entry = entries.setdefault(image, _Entry(line, [], label))
        if entry.label != label:
            raise DataError(
                "label_column",
                f"image {image!r} is {entry.label!r} on line {entry.line} and {label!r} on line {line}; "
                "an image has one label",
            )
        if caption is not None:
            entry.captions.append(caption)
    return entries


def _rows(
    table: Path, separator: str | None, encoding: str, columns: _Columns
) -> Iterator[tuple[int, str, str | None, str | None]]:
    """Line number, image path, caption and label of each row."""
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)
    try:
        with table.open(
            encoding="utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding, newline=""
        ) as file:
            header_line = file.readline()
            file.seek(0)
            chosen = _separator(table, header_line, separator)
            yield from _parsed_rows(table, csv.reader(file, delimiter=chosen), columns, chosen)
    except LookupError:
        raise DataError("encoding", f"there is no codec named {encoding!r}") from None
    except UnicodeDecodeError as error:
        raise DataError(
            "encoding", f"{str(table)!r} is not {encoding} text ({error.reason} at byte {error.start})"
        ) from None
    except OSError as error:
        raise DataError("path", f"{str(table)!r} cannot be read: {error.strerror}") from None
    except csv.Error as error:
        raise DataError("path", f"{str(table)!r} cannot be read as a table: {error}") from None


def _parsed_rows(
    table: Path, reader: Iterator[list[str]], columns: _Columns, separator: str
) -> Iterator[tuple[int, str, str | None, str | None]]:
    header = [name.strip() for name in next(reader, [])]
    places = {field: _place(table, header, field, name, separator) for field, name in columns.fields().items()}
    for row in reader:
        line = reader.line_num  # type: ignore[attr-defined]
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            raise DataError(
                "path", f"line {line} of {str(table)!r} has {len(row)} columns; the header has {len(header)}"
            )
        cells = {field: row[place].strip() for field, place in places.items()}
        for field, cell in cells.items():
            if not cell:
                raise DataError(field, f"line {line} of {str(table)!r} has nothing in column {header[places[field]]!r}")
        yield line, cells["image_column"], cells.get("caption_column"), cells.get("label_column")


def _place(table: Path, header: list[str], field: str, name: str, separator: str) -> int:
    if name in header:
        return header.index(name)
    there = ", ".join(repr(column) for column in header)
    message = f"{str(table)!r} has no column {name!r}; its columns are {there}"
    if len(header) == 1 and (likely := _likely_separator(header[0])):
        word = SEPARATORS.get(separator, repr(separator))
        message += f". With {word} as separator the header is one column: it looks separated by {SEPARATORS[likely]}"
        field = "separator"
    raise DataError(field, message)


def _separator(table: Path, header_line: str, given: str | None) -> str:
    if not header_line.strip():
        raise DataError("path", f"{str(table)!r} is empty; the first line must name the columns")
    if given is None:
        return _likely_separator(header_line) or ","
    if len(given) != 1:
        raise DataError("separator", f"separator is {given!r}; it must be one character")
    return given


def _likely_separator(header_line: str) -> str | None:
    counts = {separator: header_line.count(separator) for separator in SEPARATORS}
    best = max(counts, key=lambda separator: counts[separator])
    return best if counts[best] else None


class _Locator:
    """Finds image files below a root, and refuses names and links that lead out of it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, str] = {}  # resolved, by folder as written: most tables have few

    def __call__(self, name: str, line: int) -> str:
        """The path relative to the root."""
        written = os.path.join(self._root, name)
        folder, base = os.path.split(written)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        resolved = os.path.join(self._folders[folder], base)
        if os.path.islink(resolved) or base in ("", ".", ".."):
            resolved = os.path.realpath(resolved)
        if not resolved.startswith(f"{self._root}{os.sep}"):
            raise DataError(
                "image_column", f"line {line}: image path {name!r} leads outside the folder {str(self._root)!r}"
            )
        return os.path.relpath(resolved, self._root)
