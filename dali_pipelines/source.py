"""A manifest in use: how its images are read, and what was learnt since it was made of those that have gone bad."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from dali_pipelines import pillow_images
from dali_pipelines.bad_samples import BadSample, next_good, stand_in
from dali_pipelines.manifest import NO_LABEL, Manifest
from dali_pipelines.pillow_images import Exif, ImageFacts, UnreadableImage
from dali_pipelines.storage import Cache, CacheTooSmallError, OutageError, is_url, read_bytes, why_unreadable
from dali_pipelines.storage.location import WHOLE_FILE, Location
from dali_pipelines.validation import OnBadSample

PADDING = -1
_MAX_OUTAGES = 16  # reads in a row that the network or a disk refused alike: then it is not the images that are bad


class BadSampleError(Exception):
    """An image that was readable when the data was validated can no longer be read."""

    def __init__(self, key: str, reason: str) -> None:
        self.key, self.reason = key, reason
        super().__init__(f"image {key!r} can no longer be read: {reason}")


class ImagePlace(NamedTuple):
    """An image to be loaded."""

    row: int
    location: Location
    through_pillow: bool


class Loaded(NamedTuple):
    """An image's bytes on their way to the graph, or why there are none."""

    encoded: np.ndarray
    """(num_bytes,) uint8, as a decoder takes them."""
    reason: str | None = None
    """What is wrong with the image."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.encoded.nbytes


@dataclass
class Source:
    """A manifest and what was learnt since it was made: images gone bad, and images that DALI itself refuses."""

    manifest: Manifest
    on_bad_sample: OnBadSample
    seed: int = 0
    """Draws what replaces a bad sample."""
    cache: Cache = field(default_factory=lambda: Cache.open(trust_copies=True))
    """Where remote files are kept."""
    tell: Callable[[BadSample], None] | None = None
    """Called with each image found bad, once."""
    bad: dict[int, str] = field(default_factory=dict)
    """What is wrong with each row found bad."""
    refused_by_dali: frozenset[int] = frozenset()
    _refusal: int | None = None  # the errno of the last read that failed; None: of the network
    _refusals: int = 0  # alike, in a row

    @functools.cached_property
    def is_remote(self) -> bool:
        """Whether some images come over the network."""
        return any(is_url(root) for root in self.manifest.roots)

    def substitutes(self, rows: np.ndarray) -> np.ndarray:
        """The rows, with what `on_bad_sample` wants in place of each bad one."""
        if not self.bad:
            return rows
        return np.array([self._substitute(int(row)) for row in rows], np.int64)

    def labels(self, rows: np.ndarray, device: torch.device) -> torch.Tensor:
        """(B,) int64."""
        labels = np.where(rows == PADDING, NO_LABEL, self.manifest.labels[rows])
        return torch.from_numpy(labels.astype(np.int64)).to(device, non_blocking=True)

    def through_pillow(self, rows: np.ndarray) -> np.ndarray:
        """(B,) bool: which images Pillow decodes."""
        return self.manifest.needs_pillow[rows] | np.isin(rows, list(self.refused_by_dali))

    def in_memory(self, rows: np.ndarray) -> np.ndarray:
        """(B,) bool: which images the graph is given as bytes; the rest are files that it reads itself."""
        return ~self.manifest.in_files[rows] | self.through_pillow(rows)

    def to_load(self, rows: np.ndarray) -> list[ImagePlace]:
        """What must be loaded for the graph: the images that it does not read itself."""
        mine = rows[self.in_memory(rows)]
        places = zip(mine.tolist(), self.manifest.locations(mine), self.through_pillow(mine).tolist(), strict=True)
        return [ImagePlace(*place) for place in places]

    def load(self, place: ImagePlace, *, exif: Exif) -> Loaded:
        """An image as a decoder of the graph takes it; may be called from several threads."""
        try:
            encoded = self._read(place.location)
            if place.through_pillow:
                return Loaded(self._as_ppm(place.row, encoded, exif))
            if is_url(place.location.file) and place.location.length == WHOLE_FILE:
                self._require_size(place.row, pillow_images.inspect(encoded, exif=exif))
        except UnreadableImage as unreadable:
            return Loaded(np.zeros(0, np.uint8), str(unreadable))
        return Loaded(np.frombuffer(encoded, np.uint8))

    def inspected(self, row: int, *, exif: Exif) -> bytes:
        """An image's bytes, of which Pillow decodes every pixel.

        Raises:
            UnreadableImage: they cannot be read or decoded, or are not the image that was validated.
        """
        (location,) = self.manifest.locations([row])
        encoded = self._read(location)
        self._require_size(row, pillow_images.inspect(encoded, exif=exif, fully=True))
        return encoded

    def mark_bad(self, row: int, reason: str) -> None:
        """Note that an image cannot be used.

        Raises:
            BadSampleError: bad samples are not accepted, or no good one is left.
        """
        sample = BadSample(row, self.manifest.key(row), reason)
        if self.tell is not None and row not in self.bad:
            self.tell(sample)
        self.bad[row] = reason
        if self.on_bad_sample == "fail" or len(self.bad) == len(self.manifest):
            raise BadSampleError(sample.key, reason)

    def _substitute(self, row: int) -> int:
        if self.on_bad_sample == "replace":
            return stand_in(row, self.manifest.labels, self.bad, self.seed)
        return next_good(row, self.bad, num_rows=len(self.manifest))

    def _as_ppm(self, row: int, encoded: bytes, exif: Exif) -> np.ndarray:
        self._require_size(row, pillow_images.inspect(encoded, exif=exif))
        return pillow_images.as_ppm(encoded, exif=exif)

    def _require_size(self, row: int, facts: ImageFacts) -> None:
        width, height = self.manifest.sizes[row].tolist()
        if (facts.width, facts.height) != (width, height):
            message = f"it was {width}x{height} pixels when it was validated and is {facts.width}x{facts.height} now"
            raise UnreadableImage(message)

    def _read(self, location: Location) -> bytes:
        try:
            encoded = read_bytes(location, self.cache)
        except CacheTooSmallError:
            raise  # the next one is not likely to fit either
        except OutageError as error:
            if self._refused_alike(None) >= _MAX_OUTAGES or self.on_bad_sample == "fail":
                raise
            raise UnreadableImage(why_unreadable(error)) from error
        except OSError as error:
            if error.errno is not None and self._refused_alike(error.errno) >= _MAX_OUTAGES:
                message = f"{self._refusals} files in a row cannot be read, {location.file!r} the last: "
                raise OutageError(message + why_unreadable(error)) from error
            raise UnreadableImage(why_unreadable(error)) from error
        self._refusals = 0
        if not encoded:
            raise UnreadableImage("the file is empty")
        return encoded

    def _refused_alike(self, number: int | None) -> int:
        """How many reads in a row have failed with this errno."""
        self._refusals = self._refusals + 1 if number == self._refusal else 1
        self._refusal = number
        return self._refusals
