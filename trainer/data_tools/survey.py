"""Looks at every image of one or more data sets, and at what they have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dali_pipelines.pillow_images import UnreadableImage
from dali_pipelines.storage import Cache, read_bytes
from dali_pipelines.validation import Look
from dali_pipelines.validation.duplicates import Group, Likeness, Overlap, copies
from dali_pipelines.validation.image_facts import pixels_in_full
from trainer.data_tools.captions import CaptionFacts, caption_facts
from trainer.data_tools.listing import DataSet

DAMAGED = "damaged"
"""How a remark begins about an image that decodes although its data are corrupt."""


@dataclass(frozen=True)
class Note:
    """Something about one image."""

    row: int
    """Within its data set."""
    key: str
    text: str


@dataclass(frozen=True)
class SetSurvey:
    """One data set."""

    data: DataSet
    facts: pa.Table
    """A row a sample; see `dali_pipelines.validation.scan`."""
    usable: np.ndarray
    """(N,) bool."""
    bad: list[Note]
    """Images that cannot be used."""
    odd: list[Note]
    """Images that can, but are not as they should be."""
    captions: CaptionFacts | None
    """None without captions."""

    @property
    def sizes(self) -> np.ndarray:
        """(usable, 2) widths and heights."""
        return np.stack([self.facts[name].to_numpy()[self.usable] for name in ("width", "height")], axis=1)


@dataclass(frozen=True)
class Survey:
    """Data sets, and the copies among their images."""

    sets: list[SetSurvey]
    groups: list[Group]
    """Copies of images; rows count through all sets."""
    overlaps: list[Overlap]
    """What sets have in common, by their place in `sets`."""

    def place(self, row: int) -> tuple[SetSurvey, int]:
        """The set of a row of a group, and its row in there."""
        for one in self.sets:
            if row < len(one.data):
                return one, row
            row -= len(one.data)
        raise IndexError(f"row {row} is beyond the last set")

    def class_name(self, row: int) -> str | None:
        """The class of a row of a group."""
        one, own = self.place(row)
        return one.data.class_name(own)

    @property
    def conflicts(self) -> list[Group]:
        """Copies of one image that have different classes."""
        return [group for group in self.groups if len(self._classes(group)) > 1]

    def _classes(self, group: Group) -> set[str]:
        return {name for row in group.rows if (name := self.class_name(row)) is not None}

    @property
    def num_bad(self) -> int:
        """Images that cannot be used."""
        return sum(len(one.bad) for one in self.sets)

    @property
    def num_leaked(self) -> int:
        """Images of which another set has an exact copy."""
        return sum(overlap.count - len(overlap.rows.get("near", ())) for overlap in self.overlaps)

    @property
    def num_copies(self) -> dict[Likeness, int]:
        """Images that are like the first of their group, by how."""
        return Counter(member.likeness(group.members[0]) for group in self.groups for member in group.members[1:])


def survey(
    data: Sequence[DataSet],
    how: Look,
    *,
    near: int | None,
    strict: bool = False,
    tokenizer: tuple[Any, int] | None = None,
) -> Survey:
    """Look at all images of some data sets.

    Args:
        near: bits in which near copies may differ; None looks for no near copies.
        strict: whether images that decode although they are damaged count as bad.
        tokenizer: for captions, and the tokens that the text tower takes; None passes over captions.
    """
    sets = [_surveyed(one, how, strict=strict, tokenizer=tokenizer) for one in data]
    groups, found = copies([one.facts for one in sets], max_distance=near, pixels_in_full=_PixelsOf(data, how.cache))
    return Survey(sets, groups, found)


class _PixelsOf:
    """The pixels of a row that counts through all sets."""

    def __init__(self, data: Sequence[DataSet], cache: Cache) -> None:
        self._data, self._cache = data, cache

    def __call__(self, row: int) -> bytes | None:
        for one in self._data:
            if row < len(one):
                break
            row -= len(one)
        try:
            return pixels_in_full(read_bytes(one.location(row), self._cache))
        except (OSError, UnreadableImage):
            return None


def _surveyed(data: DataSet, how: Look, *, strict: bool, tokenizer: tuple[Any, int] | None) -> SetSurvey:
    facts = data.scan(how)
    if strict:
        facts = _damaged_are_bad(facts)
    usable = pc.equal(facts["reason"], "").to_numpy()
    captions = None
    if tokenizer is not None and data.has_captions:
        captions = caption_facts(data.captions(), tokenize=tokenizer[0], context_length=tokenizer[1])
    bad, odd = list(_notes(data, facts, "reason")), list(_notes(data, facts, "remark"))
    return SetSurvey(data, facts, usable, bad, [note for note in odd if usable[note.row]], captions)


def _damaged_are_bad(facts: pa.Table) -> pa.Table:
    spoilt = pc.and_(pc.equal(facts["reason"], ""), pc.starts_with(facts["remark"], DAMAGED))
    reasons = pc.if_else(spoilt, facts["remark"], facts["reason"])
    return facts.set_column(facts.schema.get_field_index("reason"), "reason", reasons)


def _notes(data: DataSet, facts: pa.Table, column: str) -> Iterator[Note]:
    rows = np.flatnonzero(pc.not_equal(facts[column], "").to_numpy())
    texts = facts[column].take(pa.array(rows)).to_pylist()
    for row, text in zip(rows.tolist(), texts, strict=True):
        yield Note(row, data.key(row), text)
