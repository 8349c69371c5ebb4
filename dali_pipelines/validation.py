"""Checks every image once before anything is trained, and turns samples into a manifest and a report.

Each file is decoded in full by Pillow, in threads, so that damage anywhere in it is found now and by name. Imports
neither DALI nor torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from dali_pipelines.manifest import Manifest
from dali_pipelines.pillow_images import Exif, ImageFacts, UnreadableImage, inspect
from dali_pipelines.sources.samples import DataError, Samples

_CHUNK = 4096  # files handed to the threads at a time
OnBadSample = Literal["fail", "skip", "replace"]
BadSample = tuple[str, str]
"""A sample by its key, and what is wrong with it."""
_NUM_NAMED = 5  # bad files named in an error


@dataclass(frozen=True)
class ValidationReport:
    """What was found in a data set."""

    num_samples: int
    """Images that can be used."""
    num_classes: int
    """Classes, those without images included; 0 without labels."""
    class_counts: dict[str, int]
    """Usable images by class name."""
    empty_classes: list[str]
    """Classes without a usable image."""
    bad: list[BadSample]
    """Path and reason of each image that cannot be decoded."""
    num_captions: int
    """Captions of the usable images."""

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)


class BadSamplesError(DataError):
    """Some images cannot be decoded; `report` lists them all."""

    def __init__(self, report: ValidationReport, message: str) -> None:
        self.report = report
        super().__init__("path", message)


def validate(
    samples: Samples,
    *,
    on_bad_sample: OnBadSample = "fail",
    num_threads: int = 1,
    exif: Exif = "ignore",
) -> tuple[Manifest, list[BadSample]]:
    """Decode every image once, measure it, and note which road it will take.

    Args:
        on_bad_sample: `fail` refuses data with an undecodable image, `skip` leaves such images out.
        exif: whether sizes are those after EXIF rotation.

    Returns:
        The usable samples, and what was found to be bad.

    Raises:
        BadSamplesError: an image cannot be decoded and `on_bad_sample` is `fail`, or none can be decoded.
    """
    good: list[int] = []
    facts: list[ImageFacts] = []
    bad: list[BadSample] = []
    for row, found in enumerate(_inspected(samples, num_threads, exif)):
        if isinstance(found, UnreadableImage):
            bad.append((samples.key(row), str(found)))
        else:
            good.append(row)
            facts.append(found)
    manifest = _manifest(samples, good, facts)
    if bad and (on_bad_sample == "fail" or not good):
        raise BadSamplesError(report(manifest, bad), _complaint(bad, len(samples)))
    return manifest, bad


def _inspected(samples: Samples, num_threads: int, exif: Exif) -> Iterator[ImageFacts | UnreadableImage]:
    def look(path: str) -> ImageFacts | UnreadableImage:
        try:
            return inspect(f"{samples.root}/{path}", exif=exif, fully=True)
        except UnreadableImage as unreadable:
            return unreadable

    with ThreadPoolExecutor(num_threads, thread_name_prefix="validate") as pool:
        for start in range(0, len(samples), _CHUNK):
            yield from pool.map(look, samples.paths[start : start + _CHUNK])


def _manifest(samples: Samples, good: list[int], facts: list[ImageFacts]) -> Manifest:
    kept = samples.select(good)
    return Manifest.from_columns(
        kept.root,
        paths=kept.paths,
        sizes=[(fact.width, fact.height) for fact in facts],
        labels=kept.labels,
        captions=kept.captions,
        decoders=[fact.decoder for fact in facts],
        class_names=kept.class_names,
        domains=kept.domains,
        domain_names=kept.domain_names,
        offsets=kept.offsets,
        lengths=kept.lengths,
        keys=kept.keys,
    )


def report(manifest: Manifest, bad: list[BadSample]) -> ValidationReport:
    """What was found, in numbers."""
    counted = np.bincount(manifest.labels[manifest.labels >= 0], minlength=len(manifest.class_names))
    counts = dict(zip(manifest.class_names, counted.tolist(), strict=True))
    return ValidationReport(
        num_samples=len(manifest),
        num_classes=len(counts),
        class_counts=counts,
        empty_classes=[name for name, count in counts.items() if not count],
        bad=bad,
        num_captions=manifest.num_captions,
    )


def _complaint(bad: list[BadSample], num_samples: int) -> str:
    named = "; ".join(f"{path} ({reason})" for path, reason in bad[:_NUM_NAMED])
    more = f"; and {len(bad) - _NUM_NAMED} more" if len(bad) > _NUM_NAMED else ""
    way_out = "" if len(bad) == num_samples else ". Repair or remove them, or set data.on_bad_sample to `skip`"
    return f"{len(bad)} of {num_samples} images cannot be decoded: {named}{more}{way_out}"
