"""A CSV or TSV file with a row an image-caption or image-label pair."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dali_pipelines.manifest import NO_LABEL
from dali_pipelines.sources.image_paths import Locator, folder_of_images, local_table, require_one_image
from dali_pipelines.sources.labels import numbered
from dali_pipelines.sources.samples import DataError, Samples
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
        split: take only the rows that have this in `split_column`; cells of other rows may be empty.
        images_root: folder that image paths are relative to; None takes the table's own.

    Files are not opened: `validate` reports a missing one like any other that cannot be decoded.

    Raises:
        DataError: naming the line, or the columns that there are.
    """
    named = {
        "image_column": image_column,
        "caption_column": caption_column,
        "label_column": label_column,
        "domain_column": domain_column,
        "split_column": split_column,
    }
    columns = {field: name for field, name in named.items() if name is not None}
    table = _Table(os.fspath(path), local_table(path, cache=cache), separator, encoding, columns)
    root = folder_of_images(path, images_root)
    entries = _gather(_of_split(table, split))
    locate = Locator(root, field="image_column")
    located = {locate(name, f"line {entry.line}"): entry for name, entry in entries.items()}
    require_one_image(root, located, table=path)
    return _samples(root, located, columns)


@dataclass
class _Entry:
    line: int
    captions: list[str]
    label: str | None
    domain: str | None


@dataclass(frozen=True)
class _Table:
    path: str
    """As it was given, for messages."""
    file: Path
    separator: str | None
    encoding: str
    columns: dict[str, str]
    """Column by the field of the source that names it."""


@dataclass(frozen=True)
class _Row:
    line: int
    cells: dict[str, str]
    """By the field of the source that names the column."""


def _samples(root: Path | str, entries: dict[str, _Entry], columns: dict[str, str]) -> Samples:
    labels, class_names = numbered([entry.label for entry in entries.values()], field="label_column")
    domains, domain_names = _by_name([entry.domain for entry in entries.values()])
    return Samples(
        root,
        list(entries),
        labels=labels if "label_column" in columns else None,
        captions=[entry.captions for entry in entries.values()] if "caption_column" in columns else None,
        class_names=class_names,
        domains=domains if "domain_column" in columns else None,
        domain_names=domain_names,
    )


def _by_name(words: Sequence[str | None]) -> tuple[list[int], tuple[str, ...]]:
    names = tuple(sorted({word for word in words if word is not None}))
    numbers = {name: number for number, name in enumerate(names)}
    return [NO_LABEL if word is None else numbers[word] for word in words], names


def _gather(rows: Iterator[_Row]) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
    for row in rows:
        cells = row.cells
        image, label, domain = cells["image_column"], cells.get("label_column"), cells.get("domain_column")
        entry = entries.setdefault(image, _Entry(row.line, [], label, domain))
        for field, before, now in (("label_column", entry.label, label), ("domain_column", entry.domain, domain)):
            if before != now:
                told = f"{before!r} on line {entry.line} and {now!r} on line {row.line}"
                what = field.removesuffix("_column")
                raise DataError(field, f"image {image!r} is {told}; an image has one {what}")
        if "caption_column" in cells:
            entry.captions.append(cells["caption_column"])
    return entries


def _of_split(table: _Table, split: str | None) -> Iterator[_Row]:
    """The rows of a split, or all; none of their cells is empty."""
    there: set[str] = set()
    num_rows = 0
    for row in _rows(table):
        there.add(row.cells.get("split_column", ""))
        if split is not None and row.cells.get("split_column") != split:
            continue
        num_rows += 1
        for field, cell in row.cells.items():
            if not cell:
                message = f"line {row.line} of {table.path!r} has nothing in column {table.columns[field]!r}"
                raise DataError(field, message)
        yield row
    if not there:
        raise DataError("path", f"{table.path!r} has a header but no rows")
    if not num_rows:
        raise DataError(
            "split", f"no row of {table.path!r} is of the split {split!r}; there are: {', '.join(sorted(there))}"
        )


def _rows(table: _Table) -> Iterator[_Row]:
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)
    encoding = "utf-8-sig" if table.encoding.lower() in ("utf-8", "utf8") else table.encoding
    try:
        with table.file.open(encoding=encoding, newline="") as file:
            header_line = file.readline()
            file.seek(0)
            chosen = _separator(table.path, header_line, table.separator)
            yield from _parsed_rows(table, csv.reader(file, delimiter=chosen), chosen)
    except LookupError:
        raise DataError("encoding", f"there is no codec named {table.encoding!r}") from None
    except UnicodeDecodeError as error:
        message = f"{table.path!r} is not {table.encoding} text ({error.reason} at byte {error.start})"
        raise DataError("encoding", message) from None
    except OSError as error:
        raise DataError("path", f"{table.path!r} cannot be read: {error.strerror}") from None
    except csv.Error as error:
        raise DataError("path", f"{table.path!r} cannot be read as a table: {error}") from None


def _parsed_rows(table: _Table, reader: Iterator[list[str]], separator: str) -> Iterator[_Row]:
    header = [name.strip() for name in next(reader, [])]
    places = {field: _place(table.path, header, field, name, separator) for field, name in table.columns.items()}
    for row in reader:
        line = reader.line_num  # type: ignore[attr-defined]
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            message = f"line {line} of {table.path!r} has {len(row)} columns; the header has {len(header)}"
            raise DataError("path", message)
        yield _Row(line, {field: row[place].strip() for field, place in places.items()})


def _place(path: str, header: list[str], field: str, name: str, separator: str) -> int:
    if name in header:
        return header.index(name)
    there = ", ".join(repr(column) for column in header)
    message = f"{path!r} has no column {name!r}; its columns are {there}"
    if len(header) == 1 and (likely := _likely_separator(header[0])):
        word = SEPARATORS.get(separator, repr(separator))
        message += f". With {word} as separator the header is one column: it looks separated by {SEPARATORS[likely]}"
        field = "separator"
    raise DataError(field, message)


def _separator(path: str, header_line: str, given: str | None) -> str:
    if not header_line.strip():
        raise DataError("path", f"{path!r} is empty; the first line must name the columns")
    if given is None:
        return _likely_separator(header_line) or ","
    if len(given) != 1:
        raise DataError("separator", f"separator is {given!r}; it must be one character")
    return given


def _likely_separator(header_line: str) -> str | None:
    counts = {separator: header_line.count(separator) for separator in SEPARATORS}
    best = max(counts, key=lambda separator: counts[separator])
    return best if counts[best] else None
