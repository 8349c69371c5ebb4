"""From samples to a manifest: every image is looked at, bad ones refuse the data, are left out, or are replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dali_pipelines.bad_samples import stand_in
from dali_pipelines.manifest import NO_LABEL, Manifest
from dali_pipelines.pillow_images import Exif
from dali_pipelines.sources.samples import Samples
from dali_pipelines.storage import Cache
from dali_pipelines.validation.report import BadSample, BadSamplesError, ValidationReport, complaint, report
from dali_pipelines.validation.scan import Look, scan

OnBadSample = Literal["fail", "skip", "replace"]


@dataclass(frozen=True)
class Checked:
    """Samples that have been looked at."""

    manifest: Manifest
    """The usable ones."""
    report: ValidationReport
    facts: pa.Table
    """What `scan` found, a row a row of the manifest."""
    stand_ins: np.ndarray
    """(N,) bool: the rows that stand in for bad samples."""

    def select(self, rows: np.ndarray) -> Checked:
        """The given rows, with the same report."""
        manifest, facts = self.manifest.select(rows), self.facts.take(pa.array(rows))
        return replace(self, manifest=manifest, facts=facts, stand_ins=self.stand_ins[rows])


def validate(
    samples: Samples,
    *,
    on_bad_sample: OnBadSample = "fail",
    num_threads: int = 1,
    exif: Exif = "ignore",
    cache: Cache | None = None,
    journal: Path | None = None,
    seed: int = 0,
) -> tuple[Manifest, ValidationReport]:
    """Decode every image once, measure it, and note which road it will take.

    Args:
        on_bad_sample: `fail` refuses data with an undecodable image, `skip` leaves such images out, `replace` puts a
            sample of the same class (without classes: any) in their place.
        exif: whether sizes are those after EXIF rotation.
        cache: of remote files; None takes the machine's.
        journal: folder that remembers what has been looked at.
        seed: draws what replaces a bad sample.

    Raises:
        BadSamplesError: an image cannot be decoded and `on_bad_sample` is `fail`, or none can be decoded.
    """
    how = Look(cache or Cache.open(), num_threads=num_threads, exif=exif, journal=journal)
    checked = check(samples, how, on_bad_sample=on_bad_sample, seed=seed)
    return checked.manifest, checked.report


def check(samples: Samples, how: Look, *, on_bad_sample: OnBadSample, seed: int = 0) -> Checked:
    """As `validate`, with what was found of each image."""
    facts = scan(samples, how)
    good = np.flatnonzero(pc.equal(facts["reason"], "").to_numpy())
    bad = noted(samples, facts, "reason")
    chosen, stand_ins = good, np.zeros(len(good), bool)
    if bad and on_bad_sample == "replace" and len(good):
        chosen = _with_replacements(samples, good, seed=seed)
        stand_ins = chosen != np.arange(len(samples))
    kept = facts.take(pa.array(chosen))
    manifest = _manifest(samples.select(chosen), kept)
    found = report(manifest, bad, remarks=noted(samples, facts, "remark", good), num_replaced=len(chosen) - len(good))
    if bad and (on_bad_sample == "fail" or not len(good)):
        raise BadSamplesError(found, complaint(bad, len(samples)))
    return Checked(manifest, found, kept, stand_ins)


def noted(
    samples: Samples,
    facts: pa.Table,
    column: Literal["reason", "remark"],
    rows: Sequence[int] | np.ndarray | None = None,
) -> list[BadSample]:
    """The samples of which a column says something, and what; among the given rows, if there are."""
    says = pc.not_equal(facts[column], "").to_numpy()
    if rows is not None:
        says = says & np.isin(np.arange(len(says)), rows)
    there = np.flatnonzero(says)
    texts = facts[column].take(pa.array(there)).to_pylist()
    return [(samples.key(row), text) for row, text in zip(there.tolist(), texts, strict=True)]


def _with_replacements(samples: Samples, good: np.ndarray, *, seed: int) -> np.ndarray:
    """(N,) for each sample itself, or what stands in for it."""
    count = len(samples)
    labels = np.full(count, NO_LABEL) if samples.labels is None else np.asarray(samples.labels, np.int64)
    bad = set(np.setdiff1d(np.arange(count), good, assume_unique=True).tolist())
    return np.array([stand_in(row, labels, bad, seed) for row in range(count)], np.int64)


def _manifest(kept: Samples, facts: pa.Table) -> Manifest:
    return Manifest.from_columns(
        kept.root,
        paths=kept.paths,
        sizes=np.stack([facts["width"].to_numpy(), facts["height"].to_numpy()], axis=1),
        labels=kept.labels,
        captions=kept.captions,
        decoders=facts["decoder"].to_pylist(),
        class_names=kept.class_names,
        domains=kept.domains,
        domain_names=kept.domain_names,
        offsets=kept.offsets,
        lengths=kept.lengths,
        keys=kept.keys,
    )
