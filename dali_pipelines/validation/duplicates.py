"""Finds copies of images within sets and across them: the same bytes, the same pixels, or nearly the same picture.

Near copies are those whose perceptual hashes differ in few of 64 bits and whose 8 x 8 thumbnails agree. Candidates come
from an index of four bands of 16 bits (Norouzi, Punjani and Fleet, "Fast Search in Hamming Space with Multi-Index
Hashing", 2012), so the time grows with the number of images and not with its square.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Likeness = Literal["bytes", "pixels", "near"]
_ORDER: tuple[Likeness, ...] = ("bytes", "pixels", "near")
DEFAULT_MAX_DISTANCE = 4
"""Of 95 photographs, 96 to 100 % are found again after compression, conversion, halving or brightening, and no two of
1050 are taken for each other; 6 finds all but some brightened ones. Pictures of one kind on a plain ground, such as
shoes in a catalogue, can be as near without being copies."""
MAX_DISTANCE = 7
"""What four bands find: 4 * (1 + 1) - 1."""
_BAND_BITS, _NUM_BANDS = 16, 4
_PAIRS_AT_A_TIME = 1 << 22
_MIN_CORRELATION = 0.97  # of thumbnails; pictures that only share their lowest frequencies' signs lie below

PixelHash = Callable[[int], bytes | None]
"""Hash of a row's pixels at full size, or None if they cannot be read."""


@dataclass(frozen=True)
class Member:
    """An image of a group."""

    row: int
    content: int
    """A number that it shares with images of the same bytes."""
    pixels: int
    """A number that it shares with images of the same pixels."""
    perceptual: int
    """The perceptual hash."""

    def likeness(self, other: Member) -> Likeness:
        """How it resembles another."""
        if self.content == other.content:
            return "bytes"
        return "pixels" if self.pixels == other.pixels else "near"

    def distance(self, other: Member) -> int:
        """Bits in which the perceptual hashes differ."""
        return (self.perceptual ^ other.perceptual).bit_count()


@dataclass(frozen=True)
class Group:
    """Images that are copies of each other, in the order of the rows."""

    members: tuple[Member, ...]

    @property
    def rows(self) -> list[int]:
        """Their rows."""
        return [member.row for member in self.members]


@dataclass(frozen=True)
class Overlap:
    """Images of one set of which another has copies."""

    of: int
    """The set whose images are counted, by its place."""
    within: int
    """The set, named before it, that has copies of them."""
    rows: dict[Likeness, list[int]]
    """Rows of `of`, by how the nearest copy resembles them."""

    @property
    def count(self) -> int:
        """All of them."""
        return sum(map(len, self.rows.values()))


def find_groups(facts: pa.Table, *, max_distance: int | None, pixels_in_full: PixelHash) -> list[Group]:
    """Group the copies among images that can be decoded, the largest groups first.

    Args:
        facts: of `scan`, of one set or of several, one after another.
        max_distance: bits in which the hashes of near copies may differ, up to 7; None looks for no near copies.
        pixels_in_full: asked about JPEGs whose reduced pixels agree, though their bytes do not.
    """
    usable = np.flatnonzero(pc.equal(facts["reason"], "").to_numpy())
    content = _numbered(facts["content"], usable)
    pixels = _same_pixels(facts, usable, content, pixels_in_full)
    links = [_chained(content), _chained(pixels)]
    hashes = facts["perceptual"].to_numpy()[usable]
    if max_distance is not None:
        thumbnails = _thumbnails(facts, usable)
        links.append(_near_links(hashes, thumbnails, max_distance))
    joined = _joined(np.concatenate(links), len(usable))
    groups = [
        Group(tuple(Member(*(int(column[place]) for column in (usable, content, pixels, hashes))) for place in places))
        for places in joined
    ]
    return sorted(groups, key=lambda group: (-len(group.members), group.members[0].row))


def copies(
    facts: Sequence[pa.Table], *, max_distance: int | None, pixels_in_full: PixelHash
) -> tuple[list[Group], list[Overlap]]:
    """Groups of copies over several sets, and what these have in common; rows count through all sets."""
    groups = find_groups(pa.concat_tables(facts), max_distance=max_distance, pixels_in_full=pixels_in_full)
    set_of_row = np.repeat(np.arange(len(facts)), [len(table) for table in facts])
    return groups, overlaps(groups, set_of_row)


def near_pairs(hashes: np.ndarray, max_distance: int) -> np.ndarray:
    """(P, 2) places of different hashes (U,) uint64 that differ in at most `max_distance` bits, each pair once."""
    if not 0 <= max_distance <= MAX_DISTANCE:
        raise ValueError(f"max_distance is {max_distance}; allowed: 0 to {MAX_DISTANCE}")
    found = [np.empty((0, 2), np.int64)]
    for band in range(_NUM_BANDS):
        for left, right in _candidates(hashes, band, one_bit_off=max_distance >= _NUM_BANDS):
            close = np.bitwise_count(hashes[left] ^ hashes[right]) <= max_distance
            found.append(np.stack([left[close], right[close]], axis=1))
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def _candidates(hashes: np.ndarray, band: int, *, one_bit_off: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs whose hashes agree in a band, or in all of it but one bit; a block of pairs at a time."""
    keys = ((hashes >> np.uint64(_BAND_BITS * band)) & np.uint64(2**_BAND_BITS - 1)).astype(np.int64)
    order = np.argsort(keys, kind="stable")
    bounds = np.searchsorted(keys[order], np.arange(2**_BAND_BITS + 1))
    flips = [0, *(1 << bit for bit in range(_BAND_BITS))] if one_bit_off else [0]
    for flip in flips:
        partners = keys[order] ^ flip
        first, last = bounds[partners], bounds[partners + 1]
        behind = np.arange(len(order)) + 1  # so that each pair comes once
        first = np.where(keys[order] < partners, first, last) if flip else behind
        for left, right in _blocks(first, last):
            yield order[left], order[right]


def _blocks(first: np.ndarray, last: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each place with every place in its range, a bounded number of pairs at a time."""
    counts = np.maximum(last - first, 0)
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts) and ends[-1]:
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _PAIRS_AT_A_TIME, side="right")))
        left = np.repeat(np.arange(start, stop), counts[start:stop])
        begins = np.repeat(ends[start:stop] - counts[start:stop], counts[start:stop])
        yield left, first[left] + (before + np.arange(len(left)) - begins)
        start = stop


def _near_links(hashes: np.ndarray, thumbnails: np.ndarray, max_distance: int) -> np.ndarray:
    """(L, 2) places of near copies; one image stands for all with the same hash."""
    there = np.flatnonzero(hashes)  # a plain surface has none
    different, first, kind = np.unique(hashes[there], return_index=True, return_inverse=True)
    same = np.stack([there[first][kind], there], axis=1)
    pairs = there[first][near_pairs(different, max_distance)]
    links = np.concatenate([same[same[:, 0] != same[:, 1]], pairs])
    return links[_correlations(thumbnails, links) >= _MIN_CORRELATION]


def _correlations(thumbnails: np.ndarray, links: np.ndarray) -> np.ndarray:
    """(L,) correlation of the grey levels of each pair of thumbnails (N, 64)."""
    results = [np.empty(0, np.float32)]
    for start in range(0, len(links), _PAIRS_AT_A_TIME // 64):
        block = links[start : start + _PAIRS_AT_A_TIME // 64]
        left, right = (_centred(thumbnails[block[:, side]]) for side in (0, 1))
        results.append((left * right).sum(axis=1))
    return np.concatenate(results)


def _centred(thumbnails: np.ndarray) -> np.ndarray:
    centred = thumbnails.astype(np.float32) - thumbnails.mean(axis=1, keepdims=True, dtype=np.float32)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)


def _same_pixels(facts: pa.Table, usable: np.ndarray, content: np.ndarray, pixels_in_full: PixelHash) -> np.ndarray:
    """(N,) a number for each image, equal for equal pixels. Reduced JPEGs that agree are looked at in full."""
    numbers = _numbered(facts["pixels"], usable)
    formats = facts["format"].take(pa.array(usable))
    reduced = pc.is_in(formats, pa.array(["JPEG", "MPO"])).to_numpy(zero_copy_only=False)
    _, first = np.unique(content, return_index=True)  # one image for all with the same bytes
    times = np.bincount(numbers[first], minlength=numbers.max(initial=0) + 1)
    seen: dict[tuple[int, bytes], int] = {}
    fresh = int(numbers.max(initial=0)) + 1
    settled: dict[int, int] = {}
    for place in first[(times[numbers[first]] > 1) & reduced[first]]:
        in_full = pixels_in_full(int(usable[place]))
        key = (int(numbers[place]), in_full if in_full is not None else f"unread {place}".encode())
        settled[int(content[place])] = seen.setdefault(key, fresh + len(seen))
    changed = np.full(content.max(initial=-1) + 1, -1, np.int64)
    changed[list(settled)] = list(settled.values())
    return np.where(changed[content] >= 0, changed[content], numbers)


def _numbered(column: pa.ChunkedArray, rows: np.ndarray) -> np.ndarray:
    """(N,) a number for each of the rows, equal for equal values."""
    taken = column.take(pa.array(rows)).combine_chunks()
    encoded = pc.dictionary_encode(taken)
    indices = encoded.indices if isinstance(encoded, pa.DictionaryArray) else encoded.combine_chunks().indices
    return np.asarray(indices, np.int64)


def _thumbnails(facts: pa.Table, rows: np.ndarray) -> np.ndarray:
    """(N, 64) uint8."""
    taken = facts["thumbnail"].take(pa.array(rows)).combine_chunks()
    chunks = taken.chunks if isinstance(taken, pa.ChunkedArray) else [taken]
    parts = [np.frombuffer(c.buffers()[1], np.uint8, 64 * len(c), 64 * c.offset) for c in chunks if len(c)]
    return np.concatenate([np.empty(0, np.uint8), *parts]).reshape(-1, 64)


def _chained(numbers: np.ndarray) -> np.ndarray:
    """(L, 2) links from each place to the first with the same number."""
    _, first, kind = np.unique(numbers, return_index=True, return_inverse=True)
    links = np.stack([first[kind], np.arange(len(numbers))], axis=1)
    return links[links[:, 0] != links[:, 1]]


def _joined(links: np.ndarray, count: int) -> list[np.ndarray]:
    """Places that links hold together, by group, in their order."""
    if not len(links):
        return []
    graph = coo_array((np.ones(len(links), np.int8), (links[:, 0], links[:, 1])), shape=(count, count))
    _, component = connected_components(graph, directed=False)
    linked = np.unique(links)
    order = linked[np.argsort(component[linked], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(component[order])) + 1)


def overlaps(groups: Sequence[Group], set_of_row: np.ndarray) -> list[Overlap]:
    """For every two sets, the images of the later one of which the earlier one has copies."""
    found: dict[tuple[int, int], dict[Likeness, list[int]]] = {}
    for group in groups:
        for member in group.members:
            own = int(set_of_row[member.row])
            nearest: dict[int, Likeness] = {}
            for other in group.members:
                elsewhere = int(set_of_row[other.row])
                if elsewhere < own:
                    seen = nearest.get(elsewhere, "near")
                    nearest[elsewhere] = min(seen, member.likeness(other), key=_ORDER.index)
            for elsewhere, likeness in nearest.items():
                found.setdefault((own, elsewhere), {}).setdefault(likeness, []).append(member.row)
    return [Overlap(of, within, rows) for (of, within), rows in sorted(found.items())]
