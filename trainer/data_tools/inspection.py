"""`attune data inspect`: what a source lists, and the headers of a few of its images. Decodes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dali_pipelines import pillow_images
from dali_pipelines.pillow_images import UnreadableImage
from dali_pipelines.storage import read_bytes
from dali_pipelines.validation import Look
from trainer.data_sources import open_cache
from trainer.data_tools.answer import Answer, spec_lines
from trainer.data_tools.listing import DataSet
from trainer.data_tools.request import Inspect
from trainer.evaluation.tables import Cell, Column, Table, text_table
from trainer.spec import AnySource


def inspect(request: Inspect) -> Answer:
    """List each data set.

    Raises:
        DataError: one cannot be listed.
    """
    sources = request.data_sets()
    cache = open_cache(request.cache)
    how = Look(cache, exif=request.spec.data.exif if request.spec else "ignore")
    data = [DataSet.list(name, source, how, seed=request.seed_of_data) for name, source in sources.items()]
    tables = {"data-sets": _sets(data, sources)}
    for one in data:
        tables |= _of_one(one, how, num_samples=request.num_samples, alone=len(data) == 1)
    document = {
        "data_sets": {one.name: _described(one, sources[one.name]) for one in data},
        "tables": {name: table.to_json() for name, table in tables.items()},
    }
    return Answer(document, tables, [spec_lines(in_spec(sources, request))])


def in_spec(sources: Mapping[str, AnySource], request: Inspect) -> dict[str, Any]:
    """Where sources stand in a job's spec: a single one as training data, others by their names."""
    dumped = {name: source_fields(source) for name, source in sources.items()}
    if len(dumped) == 1 and request.spec is None:
        return {"train": next(iter(dumped.values()))}
    named = {name: dumped[name] for name in ("train", "validation") if name in dumped}
    others = {name: fields for name, fields in dumped.items() if name not in named}
    return {**named, **({"evaluate": others} if others else {})}


def source_fields(source: AnySource) -> dict[str, Any]:
    """A source as a spec has it, without what goes without saying."""
    fields: dict[str, Any] = source.model_dump(mode="json", exclude_defaults=True)
    return {"format": source.format, **fields}


def _described(one: DataSet, source: AnySource) -> dict[str, Any]:
    every = np.ones(len(one), bool)
    return {
        "source": source_fields(source),
        "num_samples": len(one),
        "class_counts": one.counts(every),
        "domain_counts": one.domain_counts(every),
        "num_captions": sum(len(own) for own in one.captions()),
    }


def _sets(data: list[DataSet], sources: Mapping[str, AnySource]) -> Table:
    rows = []
    for one in data:
        counts = list(one.counts(np.ones(len(one), bool)).values())
        rows.append(
            (
                one.name,
                sources[one.name].format,
                len(one),
                len(counts) or None,
                min(counts) if counts else None,
                max(counts) if counts else None,
                len(one.domain_names) or None,
                sum(len(own) for own in one.captions()) or None,
            )
        )
    numbers = ("images", "classes", "smallest class", "largest class", "domains", "captions")
    columns = (Column("data set"), Column("format"), *(Column(name, "integer") for name in numbers))
    return Table(columns, tuple(rows), "Data sets")


def _of_one(one: DataSet, how: Look, *, num_samples: int, alone: bool) -> dict[str, Table]:
    of = "" if alone else f" of {one.name}"
    prefix = "" if alone else f"{one.name}-"
    every = np.ones(len(one), bool)
    tables = {}
    for kind, counts in (("classes", one.counts(every)), ("domains", one.domain_counts(every))):
        if counts:
            columns = (Column(kind), Column("images", "integer"))
            tables[prefix + kind] = Table(columns, tuple(counts.items()), f"{kind.capitalize()}{of}")
    shown = np.unique(np.linspace(0, len(one) - 1, min(num_samples, len(one))).round().astype(int)).tolist()
    captions = _captions_at(one, set(shown))
    rows = [_sample(one, row, captions.get(row), how) for row in shown]
    heads = ("image", "class", "domain", "caption", "format", "mode", "size", "decoded by")
    kept = [place for place in range(len(heads)) if place == 0 or any(row[place] != "-" for row in rows)]
    tables[prefix + "samples"] = text_table(
        [heads[place] for place in kept],
        [[str(row[place]) for place in kept] for row in rows],
        title=f"Samples{of}, from the first to the last",
    )
    return tables


def _captions_at(one: DataSet, rows: set[int]) -> dict[int, str]:
    if not one.has_captions or len({member.captions is None for member in one.members}) > 1:
        return {}
    return {row: " | ".join(own) for row, own in enumerate(one.captions()) if row in rows}


def _sample(one: DataSet, row: int, caption: str | None, how: Look) -> list[Cell]:
    named = [one.key(row), one.class_name(row) or "-", one.domain_name(row) or "-", caption or "-"]
    try:
        with pillow_images.opened(read_bytes(one.location(row), how.cache)) as image:
            facts = pillow_images.facts(image, how.exif)
            return [*named, image.format or "-", image.mode, f"{facts.width} x {facts.height}", facts.decoder]
    except (OSError, UnreadableImage) as error:
        return [*named, f"cannot be read: {error}", "-", "-", "-"]
