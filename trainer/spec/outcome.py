"""What comes out: checkpoints, evaluations and the export."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trainer.spec.base import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, Section


class CheckpointSpec(Section):
    """When to save, and what to keep. One more is always saved at the end."""

    every_steps: PositiveInt | None = None
    """Save each time this many optimizer steps are done; None: whenever evaluation.every_steps says, or else at the
    end of each epoch."""
    keep_latest: PositiveInt = 1
    """Most recent checkpoints to keep."""
    keep_best: NonNegativeInt = 1
    """Checkpoints with the best validation metric to keep."""
    at_start: bool = False
    """Also save the model as it starts out: the zero-shot model is then a candidate for the best (FLYP)."""
    metric: str | None = None
    """Metric that ranks them, as `DATASET/METRIC` (`validation/top1`); the lowest is the best of cross_entropy and ece,
    the highest of all others. None: on the validation data mean_recall where these have captions only, else top1."""


class EvaluationSpec(Section):
    """Evaluation during and after training."""

    every_steps: PositiveInt | None = None
    """Evaluate each time this many steps are done, and at the end; None: whenever checkpoint.every_steps says, or else
    at the end of each epoch. A checkpoint has metrics, and can be the best, only if it is saved where one evaluates."""
    before_training: bool = True
    """Also evaluate the model as it starts out."""
    batch_size: PositiveInt = 64
    """Images a device and forward pass."""
    ema: bool = True
    """Evaluate the moving average beside the raw weights, if there is one."""
    wise_ft_alpha: Fraction | None = None
    """Also evaluate (1 - alpha) × starting weights + alpha × current weights (https://arxiv.org/abs/2109.01903). It is
    reported and ranks no checkpoint; `export.wise_ft` exports it."""
    zero_shot_every: NonNegativeInt = 1
    """Run zero-shot classification before training, at each n-th evaluation and at the end; 0 never."""
    retrieval_every: NonNegativeInt = 1
    """Run image-text retrieval before training, at each n-th evaluation and at the end; 0 never."""
    linear_probe_every: NonNegativeInt = 0
    """Fit a linear probe on the training data's features, without augmentation, and measure it before training, at each
    n-th evaluation and at the end; 0 never."""
    linear_probe_c: PositiveFloat = 0.316
    """The probe's inverse L2 strength: CLIP's published 0.316, ITRA's 3.16."""


class WiseFt(Section):
    """WiSE-FT: the straight line between the starting and the tuned weights, heads included (Wortsman et al. 2022,
    https://arxiv.org/abs/2109.01903)."""

    alphas: Annotated[tuple[Fraction, ...], Field(min_length=1)] = tuple(n / 10 for n in range(11))
    """Points to evaluate on validation data and data.evaluate, if there are any, beside `alpha`; 0 is the starting
    model, 1 the tuned one."""
    alpha: Fraction | Literal["best"] = 0.5
    """The point to export, or the `best` of `alphas` by checkpoint.metric on validation data; of equals the one nearest
    to 0.5."""


class ExportSpec(Section):
    """What is left at the end: a folder that open_clip or timm loads, without optimizer state."""

    weights: Literal["auto", "raw", "ema"] = "auto"
    """Which weights to export, whose metrics then rank the checkpoints; `auto`: the better of the two by
    checkpoint.metric."""
    checkpoint: Literal["best", "last"] = "best"
    """From which checkpoint, by the validation metric; without validation data it is the last."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Type of the stored tensors."""
    wise_ft: WiseFt | None = None
    """Interpolate with the starting weights before exporting, and report the curve; None exports what was trained."""
