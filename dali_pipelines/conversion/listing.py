"""Samples or a manifest, row by row, with their images' bytes read ahead."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from dali_pipelines.manifest import Manifest
from dali_pipelines.packs import PackedSample
from dali_pipelines.sources.samples import DataError, Samples
from dali_pipelines.storage import Cache, Location, read_bytes

_READ_AHEAD = 4  # images a thread
_CHUNK = 4096


@dataclass(frozen=True)
class Row:
    """A sample without its image's bytes."""

    key: str
    location: Location
    captions: Sequence[str]
    label: str | None
    """The class's name."""
    domain: str | None


class Listing:
    """What samples and manifests have in common."""

    def __init__(self, listed: Samples | Manifest) -> None:
        self._listed = listed
        self.class_names = listed.class_names
        self.domain_names = listed.domain_names
        roots = listed.roots if isinstance(listed, Manifest) else (str(listed.root),)
        self.root = roots[0] if len(roots) == 1 else None
        """The folder or URL that all files lie below; None if there are several."""
        self.has_labels = bool(listed.class_names)
        self.has_captions = listed.num_captions > 0 if isinstance(listed, Manifest) else listed.captions is not None

    def __len__(self) -> int:
        return len(self._listed)

    def rows(self, start: int = 0) -> Iterator[Row]:
        """The rows in their order, from `start` on."""
        for first in range(start, len(self), _CHUNK):
            numbers = range(first, min(first + _CHUNK, len(self)))
            listed = self._listed
            yield from _of_manifest(listed, numbers) if isinstance(listed, Manifest) else _of_samples(listed, numbers)

    def fingerprint(self) -> str:
        """sha256 of all that is known of the samples without opening them: also the size and age of local files, so
        that one that was repaired makes another listing."""
        digest = hashlib.sha256(json.dumps([self.class_names, self.domain_names]).encode())
        file, state = "", None
        for row in self.rows():
            if row.location.file != file:
                file, state = row.location.file, _state_of(row.location.file)
            told = [row.key, *row.location, state, list(row.captions), row.label, row.domain]
            digest.update(json.dumps(told).encode())
        return digest.hexdigest()

    def packed(self, cache: Cache, *, num_threads: int, start: int = 0) -> Iterator[PackedSample]:
        """The samples with their images' bytes, read in threads, from `start` on.

        Raises:
            DataError: an image cannot be read.
        """
        pool = ThreadPoolExecutor(num_threads, thread_name_prefix="read")
        under_way: deque[tuple[Row, Future[bytes]]] = deque()
        try:
            for row in self.rows(start):
                under_way.append((row, pool.submit(read_bytes, row.location, cache)))
                if len(under_way) > num_threads * _READ_AHEAD:
                    yield _packed(*under_way.popleft())
            while under_way:
                yield _packed(*under_way.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _state_of(file: str) -> list[int] | None:
    """Size and time of change; None for what is remote or away, which reading will tell."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _of_samples(samples: Samples, numbers: Sequence[int]) -> Iterator[Row]:
    for row in numbers:
        place = (
            () if samples.offsets is None or samples.lengths is None else (samples.offsets[row], samples.lengths[row])
        )
        yield Row(
            samples.key(row),
            Location(f"{samples.root}/{samples.paths[row]}", *(int(number) for number in place)),
            () if samples.captions is None else samples.captions[row],
            None if samples.labels is None else _name(samples.class_names, samples.labels[row]),
            None if samples.domains is None else _name(samples.domain_names, samples.domains[row]),
        )


def _of_manifest(manifest: Manifest, numbers: Sequence[int]) -> Iterator[Row]:
    for row, location in zip(numbers, manifest.locations(numbers), strict=True):
        yield Row(
            manifest.key(row),
            location,
            manifest.captions(row),
            _name(manifest.class_names, manifest.labels[row]),
            _name(manifest.domain_names, manifest.domains[row]),
        )


def _name(names: Sequence[str], number: Any) -> str | None:
    return names[int(number)] if number >= 0 else None


def _packed(row: Row, reading: Future[bytes]) -> PackedSample:
    try:
        return PackedSample(row.key, reading.result(), row.captions, row.label, row.domain)
    except OSError as error:
        raise DataError("path", f"image {row.key!r} cannot be read: {error.strerror or error}") from error
