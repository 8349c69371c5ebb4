"""From a spec's source to samples and to a checked manifest: the one way, for jobs, plans, evaluation and tools.

Imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dali_pipelines import validation
from dali_pipelines.manifest import Manifest
from dali_pipelines.pillow_images import Exif
from dali_pipelines.selection import Selection, select
from dali_pipelines.sources import READERS, DataError, Samples
from dali_pipelines.sources.samples import require_several_classes
from dali_pipelines.storage import Cache
from dali_pipelines.validation import OnBadSample, ValidationReport
from trainer.spec import AnySource, CacheSpec, DataSource, MixtureSource, Source
from trainer.spec.sources import members

_SELECTED = frozenset(Source.model_fields) - {"path"}
_NOT_READ = _SELECTED | {"format"}


def open_cache(spec: CacheSpec | None = None) -> Cache:
    """The local cache that a job's spec names; the machine's own without one."""
    return Cache.open() if spec is None else Cache.open(spec.path, spec.max_gb)


def list_source(source: DataSource, *, cache: Cache | None = None, seed: int = 0) -> Samples:
    """List the chosen samples of one source without opening an image.

    Args:
        cache: None takes the machine's.
        seed: draws `fraction`.

    Raises:
        DataError: naming the source's field at fault.
    """
    cache = cache or Cache.open()
    samples = READERS[source.format](**_fields(source), cache=cache)
    chosen = source.model_dump(include=set(_SELECTED) - {"templates"})
    return select(samples, Selection(**chosen, seed=seed))


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
    samples = list_members(source, cache=cache, seed=seed)
    if several_classes:
        _require_several_classes(samples)
    manifests, bad = [], []
    for number, listed in enumerate(samples):
        with _member_named(source, number):
            manifest, found = validation.validate(
                listed, on_bad_sample=on_bad_sample, num_threads=num_threads or _num_cores(), exif=exif
            )
        manifests.append(manifest)
        bad += found
    together = manifests[0]
    if isinstance(source, MixtureSource):
        together = Manifest.concatenate(manifests, shares=source.weights)
    return together, validation.report(together, bad)


def list_members(source: AnySource, *, cache: Cache | None = None, seed: int = 0) -> list[Samples]:
    """List the chosen samples of each source of a mixture; of one source alone if it is none. As `list_source`."""
    listed = []
    for number, member in enumerate(members(source)):
        with _member_named(source, number):
            listed.append(list_source(member, cache=cache, seed=seed))
    return listed


@contextmanager
def _member_named(source: AnySource, number: int) -> Iterator[None]:
    """Errors name the field of the mixture's member."""
    try:
        yield
    except DataError as error:
        if isinstance(source, MixtureSource):
            error.field = f"sources.{number}.{error.field}"
        raise


def _require_several_classes(listed: Sequence[Samples]) -> None:
    if len(listed) == 1 and listed[0].class_names:
        require_several_classes(listed[0], "path")


def _fields(source: DataSource) -> dict[str, Any]:
    return source.model_dump(exclude=set(_NOT_READ))


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))
