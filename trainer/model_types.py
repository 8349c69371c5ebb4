"""What a loaded model is: its module, and what belongs to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from dali_pipelines.transforms import Preprocess
from trainer.heads import Features, ImageClassifier

Exif = Literal["ignore", "apply"]
Tokenizer = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class ClipModel:
    """An image-text model of open_clip with what belongs to it.

    The module's `logit_scale` has shape (1,): DeepSpeed cannot flatten a 0-dimensional parameter in bf16.
    """

    module: nn.Module
    config: dict[str, Any]
    """open_clip's model_cfg, without what `trainer.additions` adds."""
    preprocess: Preprocess
    tokenize: Tokenizer
    """Texts -> (N, context_length) int64, cut to the context length."""
    name: str


@dataclass(frozen=True)
class ClassifierModel:
    """An image classifier with what belongs to it."""

    module: ImageClassifier
    config: dict[str, Any]
    """open_clip's model_cfg, or timm's architecture and model_args."""
    preprocess: Preprocess
    class_names: tuple[str, ...]
    name: str
    kind: Literal["open_clip", "timm"]
    features: Features = "pooled"
    """What the head sees."""


class NoTokenizer:
    """Stands where a model's tokenizer would: a structure is built without it, as it may have to be downloaded."""

    def __init__(self, context_length: int) -> None:
        self.context_length = context_length

    def __call__(self, _: Sequence[str]) -> Tensor:
        """Refuse."""
        raise RuntimeError("a model that was built as a structure only has no tokenizer")
