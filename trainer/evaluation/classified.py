"""Several classifiers of the same images, measured in one pass over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dali_pipelines.loader import Batch
from dali_pipelines.manifest import Manifest
from trainer.errors import UnusableDataError
from trainer.evaluation.metrics import accuracy_metrics, domain_metrics, probability_metrics
from trainer.evaluation.outcomes import Outcomes, pack, packed_width, unpack
from trainer.evaluation.passes import Encoded, Model, Pass, over_dataset
from trainer.evaluation.protocol import Protocol, aligned, subset_mask
from trainer.evaluation.results import Result
from trainer.evaluation.scorers import Scorer
from trainer.evaluation.views import loaded_size, mean_log_probabilities, views_of
from trainer.spec_checks.metrics import Task

_WHOSE: dict[Task, str] = {"zero_shot": "the list of classes", "classification": "the classifier"}


@dataclass(frozen=True)
class _Question:
    """What one classifier is asked about a data set."""

    scorer: Scorer
    labels_n: np.ndarray
    """(N,) int64 by the scorer's classes; -1 for images that do not count."""
    subset_c: np.ndarray | None
    """(C,) bool of the classes of interest, if not all are."""
    excluded_c: Tensor | None
    """(C,) bool of the classes that may not be predicted, if there are any."""

    def logits(self, encoded: Encoded) -> Tensor:
        """(B, C), -inf for what may not be predicted."""
        logits_bc = self.scorer.logits(encoded)
        return logits_bc if self.excluded_c is None else logits_bc.masked_fill(self.excluded_c, -torch.inf)

    def answer(self, outcomes: Outcomes, manifest: Manifest, dataset: str) -> Result:
        """The metrics of what came out."""
        task, names = self.scorer.task, self.scorer.class_names
        metrics, per_class = accuracy_metrics(outcomes, names)
        by_domain, per_domain = domain_metrics(outcomes, manifest.domains[outcomes.rows], manifest.domain_names)
        metrics |= by_domain
        if task in ("linear_probe", "knn"):
            metrics = {f"{task}_{name}": value for name, value in metrics.items()}
        if self.scorer.has_probabilities:
            metrics |= probability_metrics(outcomes)
        if self.subset_c is not None:
            per_class = [row for row, wanted in zip(per_class, self.subset_c, strict=True) if wanted]
        return Result(dataset, task, len(outcomes.labels), metrics, per_class, per_domain, outcomes, names)


def classify(
    model: Model, scorers: Sequence[Scorer], manifest: Manifest, *, dataset: str, protocol: Protocol, run: Pass
) -> list[Result]:
    """A result for each scorer, on the images that have a label and are of the wanted classes.

    Raises:
        UnusableDataError: there is no such image, or the data have classes that a scorer does not know.
        UnusableSpecError: the class subset names classes that there are not.
    """
    questions = [_question(scorer, manifest, dataset, protocol, run) for scorer in scorers]
    kept = np.flatnonzero((np.stack([question.labels_n for question in questions]) >= 0).any(axis=0))
    if not len(kept):
        raise UnusableDataError(f"data set {dataset!r} has no labelled image to evaluate on")

    def outcomes(batch: Batch) -> Tensor:
        images = views_of(batch.images, protocol.views, size=model.preprocess.image_size)
        views = [Encoded(model, view, run) for view in images]
        packed = [
            pack(mean_log_probabilities(question.logits, views), _labels(question, kept[batch.rows], run), top_k=top_k)
            for question, top_k in zip(questions, top_ks, strict=True)
        ]
        return torch.cat(packed, dim=1)

    top_ks = [min(protocol.top_k, len(scorer.class_names)) for scorer in scorers]
    part = manifest if len(kept) == len(manifest) else manifest.select(kept)
    packed_nw, part_rows = over_dataset(
        model, outcomes, part, run, preprocess=loaded_size(model.preprocess, protocol.views)
    )
    columns = packed_nw.split([packed_width(top_k) for top_k in top_ks], dim=1)
    rows = kept[part_rows]
    return [
        question.answer(unpack(packed, rows=rows, labels_n=question.labels_n[rows]), manifest, dataset)
        for question, packed in zip(questions, columns, strict=True)
    ]


def _question(scorer: Scorer, manifest: Manifest, dataset: str, protocol: Protocol, run: Pass) -> _Question:
    whose = _WHOSE.get(scorer.task, "the training data")
    labels_n = aligned(manifest, scorer.class_names, dataset=dataset, whose=whose).labels.astype(np.int64)
    subset_c = subset_mask(protocol, manifest, scorer.class_names)
    if subset_c is None:
        return _Question(scorer, labels_n, None, None)
    wanted_n = (labels_n >= 0) & subset_c[labels_n]
    excluded = torch.from_numpy(~subset_c).to(run.device) if protocol.predict_over == "subset" else None
    return _Question(scorer, np.where(wanted_n, labels_n, -1), subset_c, excluded)


def _labels(question: _Question, rows: np.ndarray, run: Pass) -> Tensor:
    """(B,) int64 on the device, 0 in place of none: images without a label are dropped afterwards."""
    return torch.from_numpy(np.maximum(question.labels_n[rows], 0)).to(run.device)
