"""What a survey found, as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from dali_pipelines.validation.duplicates import Group
from trainer.data_tools.survey import SetSurvey, Survey
from trainer.evaluation.tables import Cell, Column, Table

_SMALL_SIDE = 224  # pixels: below it most models' input is blown up
_LONG_SIDES = 3.0  # to one: beyond it a centre crop shows little of an image


def tables(survey: Survey, *, few: int) -> dict[str, Table]:
    """All that there is to say, by name; a table without rows is left out. The first gives the totals."""
    every = {
        "data-sets": _sets(survey),
        "bad-images": _notes(survey, "bad", "Images that cannot be used"),
        "odd-images": _notes(survey, "odd", "Images that can be used, but are not as they should be"),
        "leakage": _leakage(survey),
        "duplicates": _groups(survey, survey.groups, "Copies and near copies"),
        "label-conflicts": _groups(survey, survey.conflicts, "Copies and near copies with different classes"),
        "small-classes": _small_classes(survey, few),
        "classes": _classes(survey),
        "domains": _domains(survey),
        "sizes": _sizes(survey),
        "formats": _formats(survey),
        "captions": _captions(survey),
        "repeated-captions": _repeated_captions(survey),
    }
    return {name: table for name, table in every.items() if table.rows}


def _sets(survey: Survey) -> Table:
    copied = Counter(id(survey.place(row)[0]) for group in survey.groups for row in group.rows[1:])
    rows = [
        (
            one.data.name,
            len(one.data),
            int(one.usable.sum()),
            len(one.bad),
            len(one.odd),
            len(one.data.class_names) or None,
            len(one.data.domain_names) or None,
            one.captions.num_captions if one.captions else None,
            copied[id(one)],
            int(one.facts["num_bytes"].to_numpy().sum()) / 1e6,
        )
        for one in survey.sets
    ]
    counts = ("images", "usable", "bad", "odd", "classes", "domains", "captions", "copies")
    columns = (Column("data set"), *(Column(name, "integer") for name in counts), Column("MB", "number", 1))
    return Table(columns, tuple(rows), "Data sets")


def _notes(survey: Survey, kind: str, title: str) -> Table:
    rows = [(one.data.name, note.key, note.text) for one in survey.sets for note in getattr(one, kind)]
    return Table((Column("data set"), Column("image"), Column("what is wrong")), tuple(rows), title)


def _leakage(survey: Survey) -> Table:
    rows = [
        (
            survey.sets[found.of].data.name,
            survey.sets[found.within].data.name,
            found.count,
            *(len(found.rows.get(kind, ())) for kind in ("bytes", "pixels", "near")),
        )
        for found in survey.overlaps
    ]
    counts = ("images", "same bytes", "same pixels", "nearly the same")
    columns = (Column("images of"), Column("are also in"), *(Column(name, "integer") for name in counts))
    return Table(columns, tuple(rows), "Leakage between data sets")


def _groups(survey: Survey, groups: list[Group], title: str) -> Table:
    rows = [row for number, group in enumerate(groups, start=1) for row in _members(survey, number, group)]
    columns = (
        Column("group", "integer"),
        Column("data set"),
        Column("image"),
        Column("class"),
        Column("like the first"),
        Column("bits apart", "integer"),
    )
    return Table(columns, tuple(rows), title)


def _members(survey: Survey, number: int, group: Group) -> Iterator[tuple[Cell, ...]]:
    first = group.members[0]
    for member in group.members:
        one, row = survey.place(member.row)
        alike = (None, None) if member is first else (member.likeness(first), member.distance(first))
        yield (number, one.data.name, one.data.key(row), one.data.class_name(row), *alike)


def _class_rows(survey: Survey) -> Iterator[tuple[SetSurvey, str, int, int]]:
    for one in survey.sets:
        usable, listed = one.data.counts(one.usable), one.data.counts(np.ones_like(one.usable))
        for name, count in usable.items():
            yield one, name, count, listed[name] - count


def _classes(survey: Survey) -> Table:
    rows = [(one.data.name, name, count, bad) for one, name, count, bad in _class_rows(survey)]
    columns = (Column("data set"), Column("class"), Column("usable", "integer"), Column("bad", "integer"))
    return Table(columns, tuple(rows), "Images by class")


def _small_classes(survey: Survey, few: int) -> Table:
    rows = [(one.data.name, name, count) for one, name, count, _ in _class_rows(survey) if count < few]
    columns = (Column("data set"), Column("class"), Column("usable", "integer"))
    return Table(columns, tuple(rows), f"Classes with fewer than {few} usable images")


def _domains(survey: Survey) -> Table:
    rows = [
        (one.data.name, name, count)
        for one in survey.sets
        for name, count in one.data.domain_counts(one.usable).items()
    ]
    columns = (Column("data set"), Column("domain"), Column("usable", "integer"))
    return Table(columns, tuple(rows), "Images by domain")


def _sizes(survey: Survey) -> Table:
    rows = []
    for one in survey.sets:
        if not one.usable.any():
            continue
        sizes = one.sizes
        short, long = sizes.min(axis=1), sizes.max(axis=1)
        aspects = sizes[:, 0] / sizes[:, 1]
        rows.append(
            (
                one.data.name,
                *(int(value) for value in (short.min(), np.median(short), short.max())),
                *(int(value) for value in (long.min(), np.median(long), long.max())),
                *(float(value) for value in (aspects.min(), np.median(aspects), aspects.max())),
                int((short < _SMALL_SIDE).sum()),
                int((long > _LONG_SIDES * short).sum()),
            )
        )
    sides = [f"{side} side {what}" for side in ("short", "long") for what in ("min", "median", "max")]
    columns = (
        Column("data set"),
        *(Column(name, "integer") for name in sides),
        *(Column(f"width/height {what}", "number") for what in ("min", "median", "max")),
        Column(f"below {_SMALL_SIDE}", "integer"),
        Column(f"longer than {_LONG_SIDES:g} : 1", "integer"),
    )
    return Table(columns, tuple(rows), "Sizes in pixels")


def _formats(survey: Survey) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for one in survey.sets:
        kinds = one.facts.select(["format", "mode", "decoder"]).filter(one.usable)
        counted = (
            kinds.group_by(kinds.column_names).aggregate([([], "count_all")]).sort_by([("count_all", "descending")])
        )
        rows += [
            (one.data.name, *row.values()) for row in counted.select([*kinds.column_names, "count_all"]).to_pylist()
        ]
    columns = (Column("data set"), Column("format"), Column("mode"), Column("decoded by"), Column("images", "integer"))
    return Table(columns, tuple(rows), "Formats, and which road they take")


def _captions(survey: Survey) -> Table:
    rows = [
        (
            one.data.name,
            facts.num_captions,
            facts.num_without,
            facts.num_empty,
            facts.num_repeated,
            facts.median_tokens,
            facts.p95_tokens,
            facts.max_tokens,
            facts.context_length,
            facts.num_too_long,
        )
        for one in survey.sets
        if (facts := one.captions) is not None
    ]
    names = ("captions", "images without", "empty", "repeated", "tokens median", "95 %", "max", "context", "too long")
    return Table((Column("data set"), *(Column(name, "integer") for name in names)), tuple(rows), "Captions")


def _repeated_captions(survey: Survey) -> Table:
    rows = [
        (one.data.name, text, count)
        for one in survey.sets
        if one.captions is not None
        for text, count in one.captions.most_repeated.items()
    ]
    columns = (Column("data set"), Column("caption"), Column("times", "integer"))
    return Table(columns, tuple(rows), "Captions that occur most often")
