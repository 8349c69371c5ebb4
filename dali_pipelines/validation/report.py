"""What was found in a data set, as a job's preflight reports it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from dali_pipelines.manifest import Manifest
from dali_pipelines.sources.samples import DataError

BadSample = tuple[str, str]
"""A sample by its key, and what is wrong with it."""
_NUM_NAMED = 5  # bad files named in an error


@dataclass(frozen=True)
class ValidationReport:
    """What was found in a data set."""

    num_samples: int
    """Images that can be used, and those that stand in for bad ones."""
    num_classes: int
    """Classes, those without images included; 0 without labels."""
    class_counts: dict[str, int]
    """Usable images by class name."""
    empty_classes: list[str]
    """Classes without a usable image."""
    bad: list[BadSample]
    """Key and reason of each image that cannot be decoded."""
    num_captions: int
    """Captions of the usable images."""
    remarks: list[BadSample] = field(default_factory=list)
    """Key and oddity of each image that decodes all the same: corrupt data inside, a name of another format."""
    num_replaced: int = 0
    """Bad images in whose place others stand."""

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)


class BadSamplesError(DataError):
    """Some images cannot be decoded; `report` lists them all."""

    def __init__(self, report: ValidationReport, message: str) -> None:
        self.report = report
        super().__init__("path", message)


def report(
    manifest: Manifest,
    bad: Sequence[BadSample],
    *,
    remarks: Sequence[BadSample] = (),
    num_replaced: int = 0,
) -> ValidationReport:
    """What was found, in numbers."""
    counted = np.bincount(manifest.labels[manifest.labels >= 0], minlength=len(manifest.class_names))
    counts = dict(zip(manifest.class_names, counted.tolist(), strict=True))
    return ValidationReport(
        num_samples=len(manifest),
        num_classes=len(counts),
        class_counts=counts,
        empty_classes=[name for name, count in counts.items() if not count],
        bad=list(bad),
        num_captions=manifest.num_captions,
        remarks=list(remarks),
        num_replaced=num_replaced,
    )


def complaint(bad: Sequence[BadSample], num_samples: int) -> str:
    """Why data with these bad samples are refused."""
    named = "; ".join(f"{path} ({reason})" for path, reason in bad[:_NUM_NAMED])
    more = f"; and {len(bad) - _NUM_NAMED} more" if len(bad) > _NUM_NAMED else ""
    way_out = "" if len(bad) == num_samples else ". Repair or remove them, or set data.on_bad_sample to `skip`"
    return f"{len(bad)} of {num_samples} images cannot be decoded: {named}{more}{way_out}"
