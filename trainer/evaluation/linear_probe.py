"""Linear probes: logistic regression with an L2 penalty on features that are computed once.

`fit_logistic` is one strength of the penalty, `published_clip_probe` is CLIP's own setting of it, and `sweep_logistic`
is LP-FT's search over strengths. Weights come back as a linear layer holds them: (C, D) and (C,).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from trainer.errors import UnusableDataError

CLIP_STRENGTH = 0.316
CLIP_ITERATIONS = 1000
LP_FT_STRENGTHS = tuple(float(c) for c in np.logspace(-7, 2, 50))
LP_FT_ITERATIONS = 200


@dataclass(frozen=True)
class SweptProbe:
    """The best probe of a sweep."""

    weight_cd: Tensor
    bias_c: Tensor
    strength: float
    """Its C."""
    accuracy: float
    """On the data that chose it."""
    accuracies: tuple[float, ...]
    """Of every C tried, in their order."""


def fit_logistic(
    features_nd: Tensor | np.ndarray,
    labels_n: Tensor | np.ndarray,
    *,
    c: float,
    max_iterations: int = CLIP_ITERATIONS,
    num_classes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Fit a probe by L-BFGS and return its weight (C, D) and bias (C,), float32 on the CPU.

    Args:
        features_nd: (N, D) features, as they are: nothing is normalised.
        labels_n: (N,) labels from 0.
        c: inverse strength of the L2 penalty; the bias is free.
        max_iterations: most iterations.
        num_classes: C, if more than the highest label says. A class without samples gets zeros.

    Raises:
        UnusableDataError: there are fewer than two classes to tell apart.
    """
    features, labels = _arrays(features_nd, labels_n)
    _refuse_single_class(labels)
    fitted = LogisticRegression(C=c, max_iter=max_iterations).fit(features, labels)
    return _as_layer(fitted, num_classes=num_classes or int(labels.max()) + 1)


def published_clip_probe(
    features_nd: Tensor | np.ndarray, labels_n: Tensor | np.ndarray, *, num_classes: int | None = None
) -> tuple[Tensor, Tensor]:
    """The probe of https://github.com/openai/CLIP's README: C = 0.316, at most 1000 iterations. See `fit_logistic`."""
    return fit_logistic(features_nd, labels_n, c=CLIP_STRENGTH, max_iterations=CLIP_ITERATIONS, num_classes=num_classes)


def sweep_logistic(
    features_nd: Tensor | np.ndarray,
    labels_n: Tensor | np.ndarray,
    *,
    held_out_features_md: Tensor | np.ndarray,
    held_out_labels_m: Tensor | np.ndarray,
    strengths: Sequence[float] = LP_FT_STRENGTHS,
    max_iterations: int = LP_FT_ITERATIONS,
    num_classes: int | None = None,
) -> SweptProbe:
    """Fit one probe for each strength and return the one that is most accurate on the held-out samples.

    As LP-FT does it (https://arxiv.org/abs/2202.10054): features are standardised by one mean and one standard
    deviation over all their numbers, each fit starts where the last one ended, the first of equally good strengths
    wins, and the weights that come back apply to the features as they were given.

    Raises:
        UnusableDataError: there are fewer than two classes to tell apart, or the features are all the same.
    """
    features, labels = _arrays(features_nd, labels_n)
    _refuse_single_class(labels)
    mean, std = float(features.mean(dtype=np.float64)), float(features.std(dtype=np.float64))
    if std == 0:
        raise UnusableDataError("a linear probe needs features that differ, but all of them are the same number")
    held_out, held_out_labels = _arrays(held_out_features_md, held_out_labels_m)
    features, held_out = (features - mean) / std, (held_out - mean) / std
    num_classes = num_classes or int(labels.max()) + 1

    model = LogisticRegression(max_iter=max_iterations, warm_start=True)
    layers, accuracies = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the limit is a setting, and the next strength goes on
        for strength in strengths:
            model.set_params(C=strength).fit(features, labels)
            accuracies.append(float(np.mean(model.predict(held_out) == held_out_labels)))
            layers.append(_as_layer(model, num_classes=num_classes))
    best = int(np.argmax(accuracies))
    weight_cd, bias_c = layers[best]
    return SweptProbe(
        weight_cd=(weight_cd.double() / std).float(),
        bias_c=(bias_c.double() - weight_cd.double().sum(dim=1) * mean / std).float(),
        strength=float(strengths[best]),
        accuracy=accuracies[best],
        accuracies=tuple(accuracies),
    )


def _arrays(features_nd: Any, labels_n: Any) -> tuple[np.ndarray, np.ndarray]:
    features = np.asarray(features_nd.float().cpu() if isinstance(features_nd, Tensor) else features_nd)
    labels = np.asarray(labels_n.cpu() if isinstance(labels_n, Tensor) else labels_n).astype(np.int64)
    return features, labels


def _refuse_single_class(labels: np.ndarray) -> None:
    if len(np.unique(labels)) < 2:
        raise UnusableDataError(f"a linear probe needs samples of two classes or more, got {len(np.unique(labels))}")


def _as_layer(fitted: LogisticRegression, *, num_classes: int) -> tuple[Tensor, Tensor]:
    """Weight (C, D) and bias (C,). For two classes scikit-learn keeps one row: half of it for one, against the other
    half for the other, has the same softmax."""
    coefficients, intercepts = fitted.coef_, fitted.intercept_
    if len(fitted.classes_) == 2:
        coefficients = np.concatenate([-coefficients / 2, coefficients / 2])
        intercepts = np.concatenate([-intercepts / 2, intercepts / 2])
    weight_cd = torch.zeros(num_classes, coefficients.shape[1])
    bias_c = torch.zeros(num_classes)
    present = torch.from_numpy(fitted.classes_)
    weight_cd[present] = torch.from_numpy(coefficients).float()
    bias_c[present] = torch.from_numpy(intercepts).float()
    return weight_cd, bias_c
