"""What an evaluation measures and how, beyond the model and the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dali_pipelines.manifest import Manifest
from trainer.errors import UnusableDataError, UnusableSpecError
from trainer.evaluation.views import Views
from trainer.spec_checks.metrics import Task


@dataclass(frozen=True)
class Protocol:
    """How to measure. The defaults measure what the data allow."""

    tasks: tuple[Task, ...] | None = None
    """Tasks to measure where they are possible; None: zero_shot, retrieval or classification as the data allow."""
    views: Views = "none"
    """Test-time augmentation of classification and its kin."""
    classes: tuple[str, ...] | None = None
    """Zero-shot: names that predictions range over; None: the data set's own."""
    class_subset: tuple[str, ...] | Literal["data"] | None = None
    """Measure only images of these classes (`data`: all that the data set has); None: all images."""
    predict_over: Literal["subset", "all"] = "subset"
    """With `class_subset`: whether predictions range over the subset alone or over all classes."""
    probe_c: float = 0.316
    """Linear probe: inverse L2 strength."""
    neighbours: int = 20
    """k-NN: neighbours that vote."""
    temperature: float = 0.07
    """k-NN: a neighbour of cosine s votes with exp(s / temperature)."""
    top_k: int = 0
    """Predictions to keep of each image, for a list of them."""


def aligned(manifest: Manifest, class_names: Sequence[str], *, dataset: str, whose: str = "the classifier") -> Manifest:
    """The manifest with its labels numbered by a classifier's `class_names`.

    Classes that the data set lacks are no error: the other images are still measured against all of them.

    Raises:
        UnusableDataError: the data set has no labels, or classes that the classifier does not know.
    """
    if not manifest.class_names:
        raise UnusableDataError(f"data set {dataset!r} has no labels, and {whose} is measured by them")
    unknown = [name for name in manifest.class_names if name not in set(class_names)]
    if unknown:
        missing = [name for name in class_names if name not in set(manifest.class_names)]
        raise UnusableDataError(
            f"data set {dataset!r} has classes that {whose} does not know: {_listed(unknown)};"
            f" classes that {whose} knows and the data set lacks: {_listed(missing)}"
        )
    return manifest.with_class_names(class_names)


def subset_mask(protocol: Protocol, manifest: Manifest, class_names: Sequence[str]) -> np.ndarray | None:
    """(C,) bool of the classes that the protocol is limited to, or None if it is to none.

    Raises:
        UnusableSpecError: the subset names a class that there is not, or fewer than two.
    """
    if protocol.class_subset is None:
        return None
    wanted = manifest.class_names if protocol.class_subset == "data" else protocol.class_subset
    if unknown := [name for name in wanted if name not in set(class_names)]:
        raise UnusableSpecError(f"the class subset names {_listed(unknown)}; the classes are {_listed(class_names)}")
    if len(set(wanted)) < 2:
        raise UnusableSpecError(f"the class subset must name two classes or more, got {_listed(tuple(wanted))}")
    return np.isin(np.array(class_names, dtype=object), np.array(wanted, dtype=object))


def _listed(names: Sequence[str], limit: int = 10) -> str:
    shown = ", ".join(repr(name) for name in names[:limit]) or "none"
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
