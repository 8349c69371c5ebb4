"""`attune data stage`, `convert` and `split`: data brought nearer, into another format, or divided."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dali_pipelines.conversion import convert as convert_samples
from dali_pipelines.conversion import split as split_samples
from dali_pipelines.conversion import stage as stage_samples
from dali_pipelines.sources import Samples
from dali_pipelines.storage import Cache, is_url
from dali_pipelines.validation import Look
from trainer.data_sources import list_members, num_cores, open_cache
from trainer.data_tools.answer import Answer, spec_lines
from trainer.data_tools.inspection import source_fields
from trainer.data_tools.listing import DataSet
from trainer.data_tools.progress import bar
from trainer.data_tools.request import Convert, Split, Stage
from trainer.data_tools.survey import survey
from trainer.errors import UnusableSpecError
from trainer.evaluation.tables import Column, Table
from trainer.spec.sources import MixtureSource

_READERS = 8  # files read at a time, which waits more than it works


def stage(request: Stage) -> Answer:
    """Bring every data set to the local disk.

    Raises:
        DataError: something cannot be read.
    """
    cache = Cache.open(request.cache_folder) if request.cache_folder else open_cache(request.cache)
    rows, data = [], {}
    for name, source in request.data_sets().items():
        fields = []
        for number, samples in enumerate(list_members(source, cache=cache, seed=request.seed_of_data)):
            folder = None if request.output is None else Path(request.output) / name / str(number)
            with bar(f"staging {name}", total=len(samples)) as progress:
                staged = stage_samples(
                    samples,
                    cache=cache,
                    folder=folder,
                    num_threads=request.num_threads or _READERS,
                    progress=progress.reached,
                )
            rows.append((name, len(samples), staged.num_files, staged.num_bytes / 1e9))
            fields.append(staged.source)
        data[name] = _staged_source(source, fields)
    columns = (Column("data set"), Column("images", "integer"), Column("files", "integer"), Column("GB", "number", 3))
    table = Table(columns, tuple(rows), "Staged" if request.output else f"In the cache, {cache.root}")
    document = {"data_sets": data, "cache": str(cache.root), "tables": {"staged": table.to_json()}}
    return Answer(document, {"staged": table}, [spec_lines(_placed(data))])


def convert(request: Convert) -> Answer:
    """Write each data set in another format.

    Raises:
        DataError: the format cannot hold it, or an image cannot be read.
    """
    sources = request.data_sets()
    cache = open_cache(request.cache)
    data = {}
    for name, source in sources.items():
        members = list_members(source, cache=cache, seed=request.seed_of_data)
        root = Path(request.output) if len(sources) == 1 else Path(request.output) / name
        fields = []
        for number, samples in enumerate(members):
            folder = root if len(members) == 1 else root / str(number)
            fields.append(_converted(samples, folder, request.to, cache, request, name))
        data[name] = _staged_source(source, fields)
    return Answer({"data_sets": data}, {}, [spec_lines(_placed(data))])


def split(request: Split) -> Answer:
    """Divide a data set; its files stay as they are.

    Raises:
        DataError: a part would be empty, or the data cannot be read.
        UnusableSpecError: the request does not fit the data.
    """
    sources = request.data_sets()
    (name, source), *others = sources.items()
    if others or isinstance(source, MixtureSource):
        raise UnusableSpecError("one source is divided at a time; call it again for each")
    cache = open_cache(request.cache)
    look = Look(
        cache,
        num_threads=request.num_threads or num_cores(),
        journal=Path(request.journal) if request.journal else None,
    )
    one = DataSet.list(name, source, look, seed=request.seed_of_data)
    samples = one.members[0]
    groups = _groups_of_copies(one, look, near=request.near) if request.group_duplicates else None
    parts = _rows_of_parts(samples, request, groups)
    data: dict[str, Any] = {}
    for part, rows in parts.items():
        data[part] = _part_written(samples.select(rows), Path(request.output) / part, cache, request, part)
    table = _parts_table(samples, parts)
    told = {"train": data["train"], **({"validation": data["validation"]} if "validation" in data else {})}
    if "test" in data:
        told["evaluate"] = {"test": data["test"]}
    document = {"data_sets": data, "num_samples": {part: len(rows) for part, rows in parts.items()}}
    lines = [] if groups is None else [_told_of_groups(groups)]
    document["tables"] = {"parts": table.to_json()}
    return Answer(document, {"parts": table}, [*lines, spec_lines(told)])


def _told_of_groups(groups: np.ndarray) -> str:
    _, sizes = np.unique(groups, return_counts=True)
    kept = sizes[sizes > 1]
    return f"{int(kept.sum()):,} images of {len(kept):,} groups of copies were kept together."


def _groups_of_copies(one: DataSet, look: Look, *, near: int) -> np.ndarray:
    """(N,) a number for each sample, the same for copies of one image."""
    with bar("looking at images", total=len(one)) as progress:
        found = survey([one], replace(look, progress=progress.advance), near=near)
    groups = np.arange(len(one))
    for group in found.groups:
        groups[group.rows] = group.rows[0]
    return groups


def _rows_of_parts(samples: Samples, request: Split, groups: np.ndarray | None) -> dict[str, np.ndarray]:
    shares = {"train": 1 - request.validation - request.test, "validation": request.validation, "test": request.test}
    shares = {part: share for part, share in shares.items() if share > 0}
    if "train" not in shares or len(shares) < 2:
        raise UnusableSpecError(
            f"--validation {request.validation} and --test {request.test} divide nothing; together they must be above 0"
            " and below 1"
        )
    numbered = Samples("", [str(row) for row in range(len(samples))], labels=_strata(samples, request.by))
    parts = split_samples(numbered, shares, seed=request.seed, groups=groups)
    return {part: np.array([int(row) for row in chosen.paths]) for part, chosen in parts.items()}


def _strata(samples: Samples, by: str) -> Any:
    """What has the same share in every part, as numbers; None for nothing."""
    if by == "nothing":
        return None
    numbers = samples.labels if by == "class" else samples.domains
    if numbers is None and by == "domain":
        raise UnusableSpecError("--by domain: the data have no domains; allowed: class, nothing")
    return numbers


def _part_written(samples: Samples, folder: Path, cache: Cache, request: Split, part: str) -> dict[str, Any]:
    """A table of the part's files; images that lie within others, or elsewhere, are packed into shards instead."""
    in_files = samples.offsets is None and not is_url(str(samples.root))
    return _converted(samples, folder, "csv" if in_files else "webdataset", cache, request, part, copy=not in_files)


def _converted(
    samples: Samples,
    folder: Path,
    to: Any,
    cache: Cache,
    request: Convert | Split,
    name: str,
    *,
    copy: bool | None = None,
) -> dict[str, Any]:
    if copy is None:
        copy = request.copy_images if isinstance(request, Convert) else True
    with bar(f"writing {name}", total=len(samples)) as progress:
        return convert_samples(
            samples,
            folder,
            to=to,
            cache=cache,
            copy_images=copy,
            num_threads=request.num_threads or _READERS,
            progress=progress.reached,
        )


def _parts_table(samples: Samples, parts: dict[str, np.ndarray]) -> Table:
    rows = []
    for part, chosen in parts.items():
        counts = list(samples.select(chosen).class_counts().values())
        smallest, largest = (min(counts), max(counts)) if counts else (None, None)
        rows.append((part, len(chosen), len(chosen) / len(samples), smallest, largest))
    columns = (
        Column("part"),
        Column("images", "integer"),
        Column("share", "fraction", 1),
        Column("smallest class", "integer"),
        Column("largest class", "integer"),
    )
    return Table(columns, tuple(rows), "Parts")


def _staged_source(source: Any, fields: list[dict[str, Any] | None]) -> dict[str, Any]:
    """The source that reads what was written; the source as it was where nothing was."""
    written = [one for one in fields if one is not None]
    if not written:
        return source_fields(source)
    if not isinstance(source, MixtureSource):
        return written[0]
    weights = {} if source.weights is None else {"weights": list(source.weights)}
    return {"format": "mixture", "sources": written, **weights}


def _placed(data: dict[str, Any]) -> dict[str, Any]:
    """As a spec's `data` section: a single set as training data."""
    if len(data) == 1:
        return {"train": next(iter(data.values()))}
    named = {name: data[name] for name in ("train", "validation") if name in data}
    others = {name: fields for name, fields in data.items() if name not in named}
    return {**named, **({"evaluate": others} if others else {})}
