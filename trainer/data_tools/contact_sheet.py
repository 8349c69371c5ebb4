"""The contact sheet of a survey: what is wrong, as pictures, and what the data look like."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageFile

from dali_pipelines import pillow_images
from dali_pipelines.pillow_images import UnreadableImage
from dali_pipelines.storage import Cache, read_bytes
from dali_pipelines.validation.duplicates import Group
from trainer.data_tools.histograms import histograms
from trainer.data_tools.sheet import BLUE, INK, MUTED, ORANGE, RED, Sheet, Tile
from trainer.data_tools.survey import Note, SetSurvey, Survey

_MAX_NOTES, _MAX_GROUPS, _MAX_MEMBERS, _MAX_CLASSES = 28, 20, 4, 24
_NOTE_SIDE, _COPY_SIDE, _SAMPLE_SIDE = 156, 130, 83
_SAMPLES_A_CLASS, _SAMPLES_WITHOUT = 5, 24
_HEAD_BYTES = 40  # of a file that shows nothing
_LIKENESS = {"bytes": "same bytes", "pixels": "same pixels", "near": "nearly the same"}
_COLORS = {"bytes": RED, "pixels": RED, "near": ORANGE}


def contact_sheet(survey: Survey, *, cache: Cache) -> Image.Image:
    """Draw it: bad and odd images, copies side by side, samples of each class, and histograms."""
    sheet = Sheet()
    pictures = _Pictures(cache)
    sheet.heading(", ".join(f"{one.data.name}: {len(one.data):,} images" for one in survey.sets), size=24)
    for kind, title, color in (("bad", "Cannot be used", RED), ("odd", "Odd, but can be used", ORANGE)):
        _notes(sheet, pictures, survey, kind, title, color)
    _copies(sheet, pictures, survey)
    for one in survey.sets:
        _samples(sheet, pictures, one)
    if any(one.usable.any() for one in survey.sets):
        sheet.heading("Sizes and classes")
        sheet.picture(histograms(survey))
    return sheet.image()


class _Pictures:
    """Reads images small, and what is left of broken ones."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def of(self, one: SetSurvey, row: int) -> tuple[Image.Image | None, str]:
        """The picture, or None and the beginning of the file."""
        try:
            content = read_bytes(one.data.location(row), self._cache)
        except OSError:
            return None, ""
        try:
            with _forgiving(), pillow_images.opened(content) as image:
                image.draft("RGB", (2 * _NOTE_SIDE, 2 * _NOTE_SIDE))
                return _on_grey(image), ""
        except UnreadableImage:
            return None, _head(content)


def _notes(sheet: Sheet, pictures: _Pictures, survey: Survey, kind: str, title: str, color: str) -> None:
    found: list[tuple[SetSurvey, Note]] = [(one, note) for one in survey.sets for note in getattr(one, kind)]
    if not found:
        return
    sheet.heading(f"{title}: {len(found):,}", color=color)
    tiles = []
    for one, note in found[:_MAX_NOTES]:
        picture, head = pictures.of(one, note.row)
        lines = [(_key(one, note.row, survey), INK), (note.text, color)]
        tiles.append([Tile(picture, lines, frame=color, inside=head or "nothing to show")])
    sheet.tiles(tiles, side=_NOTE_SIDE)
    _more(sheet, len(found) - _MAX_NOTES)


def _copies(sheet: Sheet, pictures: _Pictures, survey: Survey) -> None:
    if not survey.groups:
        return
    conflicts = {id(group) for group in survey.conflicts}
    leaking = {id(group) for group in survey.groups if len({id(survey.place(row)[0]) for row in group.rows}) > 1}
    ordered = sorted(survey.groups, key=lambda group: (id(group) not in conflicts, id(group) not in leaking))
    groups = "1 group" if len(survey.groups) == 1 else f"{len(survey.groups):,} groups"
    sheet.heading(
        f"Copies and near copies: {groups}, {len(leaking):,} across data sets,"
        f" {len(conflicts):,} with different classes"
    )
    tiles = [_group(pictures, survey, group, id(group) in conflicts) for group in ordered[:_MAX_GROUPS]]
    sheet.tiles(tiles, side=_COPY_SIDE)
    _more(sheet, len(ordered) - _MAX_GROUPS)


def _group(pictures: _Pictures, survey: Survey, group: Group, conflict: bool) -> list[Tile]:
    tiles = []
    for member in group.members[:_MAX_MEMBERS]:
        one, row = survey.place(member.row)
        lines = [(_key(one, row, survey), INK)]
        frame = BLUE
        if member is not group.members[0]:
            likeness = member.likeness(group.members[0])
            frame = _COLORS[likeness]
            apart = f", {member.distance(group.members[0])} bits apart" if likeness == "near" else ""
            lines.append((_LIKENESS[likeness] + apart, frame))
        if conflict:
            lines.append((f"class {one.data.class_name(row)}", RED))
        if len(group.members) > _MAX_MEMBERS and member is group.members[_MAX_MEMBERS - 1]:
            lines.append((f"and {len(group.members) - _MAX_MEMBERS} more", MUTED))
        tiles.append(Tile(pictures.of(one, row)[0], lines, frame=frame, inside="cannot be read"))
    return tiles


def _samples(sheet: Sheet, pictures: _Pictures, one: SetSurvey) -> None:
    rows = np.flatnonzero(one.usable)
    if not len(rows):
        return
    labels = np.array([one.data.class_name(int(row)) or "" for row in rows])
    names, counts = np.unique(labels, return_counts=True)
    of_classes = "" if not one.data.class_names else f", {len(names):,} classes"
    sheet.heading(f"{one.data.name}: {len(rows):,} usable images{of_classes}")
    many = _SAMPLES_A_CLASS if one.data.class_names else _SAMPLES_WITHOUT
    groups = []
    for name, count in list(zip(names, counts, strict=True))[:_MAX_CLASSES]:
        own = rows[labels == name]
        chosen = own[np.unique(np.linspace(0, len(own) - 1, many).round().astype(int))]
        label = f"{name} ({count:,})" if name else ""
        tiles = [Tile(pictures.of(one, int(row))[0], [(label if not n else "", INK)]) for n, row in enumerate(chosen)]
        groups += [tiles] if one.data.class_names else [[tile] for tile in tiles]
    sheet.tiles(groups, side=_SAMPLE_SIDE)
    _more(sheet, len(names) - _MAX_CLASSES, what="classes")


def _key(one: SetSurvey, row: int, survey: Survey) -> str:
    return one.data.key(row) if len(survey.sets) == 1 else f"{one.data.name}: {one.data.key(row)}"


def _more(sheet: Sheet, count: int, *, what: str = "") -> None:
    if count > 0:
        sheet.text(f"and {count:,} more {what}".rstrip() + "; the report names all")


def _on_grey(image: Image.Image) -> Image.Image:
    """The picture with see-through parts on grey, no larger than a tile needs."""
    image.thumbnail((2 * _NOTE_SIDE, 2 * _NOTE_SIDE))
    if not image.has_transparency_data:
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, "#c8ced4")
    ground.alpha_composite(image.convert("RGBA"))
    return ground.convert("RGB")


def _head(content: bytes) -> str:
    if not content:
        return "0 bytes"
    head = content[:_HEAD_BYTES]
    text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in head)
    shown = text if text.count(".") < len(text) / 4 else head[:16].hex(" ")
    return f"{len(content):,} bytes: {shown}"


@contextmanager
def _forgiving() -> Iterator[None]:
    """Pillow shows what there is of a file that breaks off."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
