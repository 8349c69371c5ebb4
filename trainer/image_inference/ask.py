"""What mmpretrain's `inference_model` and feature extractor do: images in, answers out, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, get_args

import numpy as np
from torch import Tensor

from trainer.errors import UnusableSpecError
from trainer.image_inference.features import Stage, check_stage
from trainer.image_inference.models import ImageModel, get_model
from trainer.image_inference.pixels import Picture

Answer = TypeVar("Answer")


def inference_model(
    model: ImageModel | str, images: Picture | Sequence[Picture], *, batch_size: int = 32
) -> dict[str, Any] | list[dict[str, Any]]:
    """Classify one image or several.

    Args:
        model: from `get_model`, or a name for it.
        images: open images, paths or the bytes of files.
        batch_size: images a forward pass.

    Returns:
        For each image a dict of `pred_scores` (C,) float32 probabilities, `pred_label`, its `pred_score`, and its
        `pred_class` where the names of the classes are known. One dict for one image, a list for a list.

    Raises:
        UnusableSpecError: there is no such model, or it has no classes.
        UnusableDataError: naming an image that cannot be decoded.
    """
    asked = get_model(model) if isinstance(model, str) else model

    def answers(pixels: Tensor) -> list[dict[str, Any]]:
        scores_bc = asked.logits(pixels).softmax(dim=-1).cpu().numpy()
        return [_prediction(scores_c, asked.class_names) for scores_c in scores_bc]

    found = [answer for pixels in _batches(asked, images, batch_size) for answer in answers(pixels)]
    return found[0] if isinstance(images, get_args(Picture)) else found


def extract_features(
    model: ImageModel | str, images: Picture | Sequence[Picture], *, stage: Stage = "neck", batch_size: int = 32
) -> tuple[Tensor, ...] | list[tuple[Tensor, ...]]:
    """Features of one image or several at a stage of the image tower, without a batch dimension, on the CPU.

    Args: as `inference_model`; `stage` as `trainer.image_inference.features` has it.

    Returns:
        A tuple for one image, a list of tuples for a list.

    Raises:
        UnusableSpecError: there is no such model or stage.
        UnusableDataError: naming an image that cannot be decoded.
    """
    check_stage(stage)
    asked = get_model(model) if isinstance(model, str) else model
    found: list[tuple[Tensor, ...]] = []
    for pixels in _batches(asked, images, batch_size):
        parts = [part.float().cpu() for part in asked.extract_feat(pixels, stage)]
        found += [tuple(part[row] for part in parts) for row in range(len(pixels))]
    return found[0] if isinstance(images, get_args(Picture)) else found


def _batches(model: ImageModel, images: Picture | Sequence[Picture], batch_size: int) -> Iterator[Tensor]:
    if batch_size < 1:
        raise UnusableSpecError(f"batch_size is {batch_size}; give at least 1")
    several = [images] if isinstance(images, get_args(Picture)) else list(images)
    for start in range(0, len(several), batch_size):
        yield model.pixels.batch(several[start : start + batch_size]).to(model.device)


def _prediction(scores_c: np.ndarray, class_names: tuple[str, ...] | None) -> dict[str, Any]:
    label = int(scores_c.argmax())
    answer = {"pred_scores": scores_c, "pred_label": label, "pred_score": float(scores_c[label])}
    return answer if class_names is None else {**answer, "pred_class": class_names[label]}
