"""From a spec's source to samples and to a checked manifest: the one way, for jobs, plans, evaluation and tools.

Imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from dali_pipelines import validation
from dali_pipelines.bad_samples import in_common
from dali_pipelines.manifest import Manifest
from dali_pipelines.pillow_images import Exif
from dali_pipelines.selection import Selection, select
from dali_pipelines.sources import READERS, DataError, Samples
from dali_pipelines.sources.samples import require_several_classes
from dali_pipelines.storage import Cache, StorageError, is_url
from dali_pipelines.validation import BadSamplesError, Checked, Look, OnBadSample, ValidationReport
from trainer.published_names import resolve_class_names
from trainer.spec import AnySource, CacheSpec, DataSource, MixtureSource, Source
from trainer.spec.sources import members

_SELECTED = frozenset(Source.model_fields) - {"path"}
_NOT_READ = _SELECTED | {"format"}


def open_cache(spec: CacheSpec | None = None, *, trust_copies: bool = False) -> Cache:
    """The local cache that a job's spec names; the machine's own without one.

    `trust_copies`: do not ask whether remote files have changed, as once a job's data have been checked.
    """
    spec = spec or CacheSpec()
    return Cache.open(spec.path, spec.max_gb, trust_copies=trust_copies)


def list_source(source: DataSource, *, cache: Cache | None = None, seed: int = 0) -> Samples:
    """List the chosen samples of one source without opening an image.

    Args:
        cache: None takes the machine's.
        seed: draws `fraction`.

    Raises:
        DataError: naming the source's field at fault.
    """
    cache = cache or Cache.open()
    try:
        samples = READERS[source.format](**_fields(source), cache=cache)
    except StorageError as error:
        raise DataError("path", str(error)) from error
    chosen = source.model_dump(include=set(_SELECTED) - {"templates"})
    if isinstance(source.class_names, str):
        words = samples.class_names
        chosen["class_names"] = resolve_class_names(source.class_names, words, classes=source.classes)
    return select(samples, Selection(**chosen, seed=seed))


def own_words(source: DataSource, *, cache: Cache | None = None) -> tuple[str, ...]:
    """All classes of a source in the data's own words.

    Raises:
        DataError: naming the source's field at fault.
    """
    return READERS[source.format](**_fields(source), cache=cache or Cache.open()).class_names


def read_source(
    source: AnySource,
    *,
    on_bad_sample: OnBadSample,
    exif: Exif,
    cache: Cache | None = None,
    seed: int = 0,
    num_threads: int | None = None,
    several_classes: bool = False,
) -> tuple[Manifest, ValidationReport]:
    """List and check the images of a source, or of all sources of a mixture.

    Args:
        cache: None takes the machine's.
        seed: draws `fraction`, and what replaces a bad sample.
        num_threads: images checked at a time; None takes all cores that this process may use.
        several_classes: refuse images of a single class.

    Raises:
        DataError: naming the source's field at fault.
    """
    how = Look(cache or Cache.open(), num_threads=num_threads or num_cores(), exif=exif)
    checked = check_source(source, how, on_bad_sample=on_bad_sample, seed=seed, several_classes=several_classes)
    return checked.manifest, checked.report


def check_source(
    source: AnySource,
    how: Look,
    *,
    on_bad_sample: OnBadSample,
    seed: int = 0,
    several_classes: bool = False,
    max_bad_share: float = 1.0,
) -> Checked:
    """As `read_source`, with what was found of each image; a mixture's members have a journal each.

    `max_bad_share`: refuse data of which a larger share cannot be decoded.
    """
    samples = list_members(source, cache=how.cache, seed=seed)
    if several_classes:
        _require_several_classes(samples)
    parts = []
    for number, listed in enumerate(samples):
        with _member_named(source, number):
            own = how if how.journal is None else replace(how, journal=how.journal / str(number))
            parts.append(validation.check(listed, own, on_bad_sample=on_bad_sample, seed=seed))
    _require_few_bad(source, parts, num_listed=sum(map(len, samples)), max_bad_share=max_bad_share)
    if not isinstance(source, MixtureSource):
        return parts[0]
    together = Manifest.concatenate([part.manifest for part in parts], shares=source.weights)
    facts = pa.concat_tables([part.facts for part in parts])
    return Checked(together, _united(together, parts), facts, np.concatenate([part.stand_ins for part in parts]))


def _require_few_bad(source: AnySource, parts: Sequence[Checked], *, num_listed: int, max_bad_share: float) -> None:
    bad = [one for part in parts for one in part.report.bad]
    if len(bad) <= max_bad_share * num_listed:
        return
    message = (
        f"{len(bad)} of {num_listed} images cannot be decoded, and data.max_bad_share allows {max_bad_share:g}: "
        f"{in_common(bad)}"
    )
    manifest = Manifest.concatenate([part.manifest for part in parts])
    refused = BadSamplesError(_united(manifest, parts), message)
    refused.field = "sources" if isinstance(source, MixtureSource) else "path"
    raise refused


def _united(together: Manifest, parts: Sequence[Checked]) -> ValidationReport:
    return validation.report(
        together,
        [one for part in parts for one in part.report.bad],
        remarks=[one for part in parts for one in part.report.remarks],
        num_replaced=sum(part.report.num_replaced for part in parts),
    )


def list_members(source: AnySource, *, cache: Cache | None = None, seed: int = 0) -> list[Samples]:
    """List the chosen samples of each source of a mixture; of one source alone if it is none. As `list_source`."""
    listed = []
    for number, member in enumerate(members(source)):
        with _member_named(source, number):
            listed.append(list_source(member, cache=cache, seed=seed))
    return listed


def keep_unpacked(source: AnySource, manifest: Manifest, *, cache: Cache, seed: int = 0) -> None:
    """Keep what was unpacked into the cache for a manifest while this process lives; unpack again what was removed.

    Raises:
        DataError: the data can no longer be unpacked.
    """
    gone = [root for root in manifest.roots if not is_url(root) and not cache.hold(root)]
    if gone:
        list_members(source, cache=cache, seed=seed)
    for root in gone:
        if not cache.hold(root):
            message = f"the data have changed since they were checked: {root!r} is gone from the cache"
            raise DataError("path", message)


@contextmanager
def _member_named(source: AnySource, number: int) -> Iterator[None]:
    """Errors name the field of the mixture's member."""
    try:
        try:
            yield
        except StorageError as error:
            raise DataError("path", str(error)) from error
    except DataError as error:
        if isinstance(source, MixtureSource):
            error.field = f"sources.{number}.{error.field}"
        raise


def _require_several_classes(listed: Sequence[Samples]) -> None:
    """Of one source, or of all members of a mixture together."""
    if len(listed) == 1 and listed[0].class_names:
        require_several_classes(listed[0], "path")
    filled = {name for samples in listed for name, count in samples.class_counts().items() if count}
    if len(listed) > 1 and len(filled) < 2:
        found = f"only one class with images, {filled.pop()!r}" if filled else "no class with images"
        raise DataError("sources", f"there is {found} in the mixture; at least two are needed to train on classes")


def _fields(source: DataSource) -> dict[str, Any]:
    return source.model_dump(exclude=set(_NOT_READ))


def num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))
