"""The target Parquet: image bytes in a column, as Hugging Face's `datasets` has them, so that it reads them too."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dali_pipelines.conversion.listing import Listing
from dali_pipelines.conversion.record import Record
from dali_pipelines.packs import PackedSample
from dali_pipelines.storage import Cache

GROUP_BYTES = 32 << 20  # of images in a row group, which is what readers hold at a time


def write_parquet(
    listing: Listing,
    folder: Path,
    *,
    record: Record,
    cache: Cache,
    part_bytes: int,
    num_threads: int,
    progress: Callable[[int], None],
) -> None:
    """Write `part-00000.parquet` ... of about `part_bytes` each; a part appears when it is whole.

    What is done already is what the parts hold, whatever was noted: a part may have appeared just before the end.
    """
    schema = _schema(listing)
    numbers = {name: number for number, name in enumerate(listing.class_names)}
    done = sum(pq.read_metadata(path).num_rows for path in folder.glob("part-*.parquet"))
    samples = listing.packed(cache, num_threads=num_threads, start=done)
    for group in _in_groups(samples, part_bytes):
        number = len(list(folder.glob("part-*.parquet")))
        target = folder / f"part-{number:05d}.parquet"
        partial = folder / f".{target.name}.partial"
        with pq.ParquetWriter(partial, schema, compression="none") as writer:
            for rows in group:
                writer.write_table(pa.Table.from_pylist([_row(sample, schema, numbers) for sample in rows], schema))
                done += len(rows)
                progress(done)
        partial.replace(target)
        record.note(done)


def _in_groups(samples: Iterator[PackedSample], part_bytes: int) -> Iterator[Iterator[list[PackedSample]]]:
    """Parts, each an iterator of row groups that must be used up before the next part is asked for."""
    groups = _row_groups(samples)
    for first in groups:
        yield _part(first, groups, part_bytes)


def _part(
    first: list[PackedSample], groups: Iterator[list[PackedSample]], part_bytes: int
) -> Iterator[list[PackedSample]]:
    yield first
    num_bytes = _num_bytes(first)
    while num_bytes < part_bytes and (group := next(groups, None)) is not None:
        yield group
        num_bytes += _num_bytes(group)


def _row_groups(samples: Iterator[PackedSample]) -> Iterator[list[PackedSample]]:
    rows: list[PackedSample] = []
    num_bytes = 0
    for sample in samples:
        rows.append(sample)
        num_bytes += len(sample.image)
        if num_bytes >= GROUP_BYTES:
            yield rows
            rows, num_bytes = [], 0
    if rows:
        yield rows


def _num_bytes(samples: Sequence[PackedSample]) -> int:
    return sum(len(sample.image) for sample in samples)


def _schema(listing: Listing) -> pa.Schema:
    """Columns by what the data have, with Hugging Face's description of them in the metadata."""
    columns: dict[str, tuple[pa.DataType, dict[str, Any]]] = {
        "image": (pa.struct({"bytes": pa.binary(), "path": pa.string()}), {"_type": "Image"})
    }
    text = {"dtype": "string", "_type": "Value"}
    if listing.has_captions:
        columns["captions"] = (pa.list_(pa.string()), {"feature": text, "_type": "List"})
    if listing.has_labels:
        columns["label"] = (pa.int64(), {"names": list(listing.class_names), "_type": "ClassLabel"})
    if listing.domain_names:
        columns["domain"] = (pa.string(), text)
    columns["key"] = (pa.string(), text)
    features = {name: feature for name, (_, feature) in columns.items()}
    description = json.dumps({"info": {"features": features}}, ensure_ascii=False)
    return pa.schema({name: kind for name, (kind, _) in columns.items()}, metadata={"huggingface": description})


def _row(sample: PackedSample, schema: pa.Schema, numbers: dict[str, int]) -> dict[str, Any]:
    row = {
        "image": {"bytes": sample.image, "path": None},
        "captions": list(sample.captions),
        "label": None if sample.label is None else numbers[sample.label],
        "domain": sample.domain,
        "key": sample.key,
    }
    return {name: row[name] for name in schema.names}
