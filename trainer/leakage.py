"""Copies among a job's images: held-out images that are trained on, and one image under two classes. Imports no torch.

Exact copies only, by bytes and by pixels, which costs next to nothing; `attune data validate` finds near ones too.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dali_pipelines.manifest import NO_LABEL
from dali_pipelines.pillow_images import UnreadableImage
from dali_pipelines.storage import Cache, read_bytes
from dali_pipelines.validation import Checked
from dali_pipelines.validation.duplicates import Group, copies
from dali_pipelines.validation.image_facts import pixels_in_full
from trainer.job_dir import DataProblem

_NUM_NAMED = 5
_TRAIN = "train"


def remarks_on_copies(found: Mapping[str, Checked], *, cache: Cache) -> list[DataProblem]:
    """What should be known of copies in data sets by their manifests' names; nothing of it is fatal."""
    if not found:
        return []
    sets = _Sets({name: checked.select(np.flatnonzero(~checked.stand_ins)) for name, checked in found.items()}, cache)
    groups, overlaps = copies(
        [checked.facts for checked in sets.checked.values()], max_distance=None, pixels_in_full=sets.pixels
    )
    remarks = []
    for overlap in overlaps:
        rows = [row for some in overlap.rows.values() for row in some]
        of, within = sets.names[overlap.of], sets.names[overlap.within]
        if within == _TRAIN:
            message = (
                f"{_images(len(rows))} of {_field(of)} {_are(len(rows))} also in {_field(_TRAIN)}: {sets.named(rows)}"
            )
            remarks.append(DataProblem(field=_field(of), message=message, fatal=False))
    for name in sets.names:
        remarks += _remarks_within(name, sets, groups)
    return remarks


def _remarks_within(name: str, sets: _Sets, groups: list[Group]) -> list[DataProblem]:
    own = [rows for group in groups if len(rows := sets.rows_of(group, name)) > 1]
    if not own:
        return []
    extra = [row for rows in own for row in rows[1:]]
    message = f"{_images(len(extra))} of {_field(name)} {_are(len(extra))} there more than once: {sets.named(extra)}"
    remarks = [DataProblem(field=_field(name), message=message, fatal=False)]
    torn = [rows for rows in own if len({sets.label(row) for row in rows} - {NO_LABEL}) > 1]
    if torn:
        pairs = [row for rows in torn for row in rows]
        message = (
            f"{_images(len(torn))} of {_field(name)} {_are(len(torn))} there under several classes: {sets.named(pairs)}"
        )
        remarks.append(DataProblem(field=_field(name), message=message, fatal=False))
    return remarks


class _Sets:
    """Several data sets under one row number."""

    def __init__(self, checked: dict[str, Checked], cache: Cache) -> None:
        self.checked, self._cache = checked, cache
        self.names = list(checked)
        self._ends = np.cumsum([len(one.manifest) for one in checked.values()])

    def pixels(self, row: int) -> bytes | None:
        name, own = self._place(row)
        try:
            (location,) = self.checked[name].manifest.locations([own])
            return pixels_in_full(read_bytes(location, self._cache))
        except (OSError, UnreadableImage):
            return None

    def label(self, row: int) -> int:
        name, own = self._place(row)
        return int(self.checked[name].manifest.labels[own])

    def rows_of(self, group: Group, name: str) -> list[int]:
        return [row for row in group.rows if self._place(row)[0] == name]

    def named(self, rows: list[int]) -> str:
        """The first few by name."""
        places = [self._place(row) for row in rows[:_NUM_NAMED]]
        more = f" and {len(rows) - _NUM_NAMED} more" if len(rows) > _NUM_NAMED else ""
        return ", ".join(self.checked[name].manifest.key(own) for name, own in places) + more

    def _place(self, row: int) -> tuple[str, int]:
        number = int(np.searchsorted(self._ends, row, side="right"))
        return self.names[number], row - int(self._ends[number - 1] if number else 0)


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _field(name: str) -> str:
    return "data." + name.replace("evaluate-", "evaluate.", 1)
