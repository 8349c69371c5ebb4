"""Contrastive objectives: images against texts, each sample's own pair against those of the whole batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dali_pipelines.loader import Batch
from trainer.objectives.pair_losses import SameClass, info_nce, siglip
from trainer.objectives.texts import Texts


@dataclass(frozen=True)
class PairInputs:
    """What the model and the loss need of a batch."""

    images: Tensor
    """(B, 3, H, W)."""
    tokens: Tensor
    """(B, L)."""
    identities: Tensor | None
    """(B, K), or None where nobody asks for them."""


@dataclass(frozen=True)
class PairFeatures:
    """What the model makes of a batch."""

    image: Tensor
    """(B, D), unit norm."""
    text: Tensor
    """(B, D), unit norm."""
    logit_scale: Tensor
    """The multiplier of the cosine, not its logarithm; scalar or (1,)."""
    logit_bias: Tensor | None
    """Added to the logits by SigLIP; scalar or (1,)."""


class PairObjective:
    """InfoNCE or SigLIP between images and the texts that are drawn for them."""

    def __init__(
        self,
        texts: Texts,
        *,
        loss: Literal["info_nce", "siglip"],
        same_class: SameClass = "negative",
    ) -> None:
        self._texts, self._loss, self._same_class = texts, loss, same_class
        self.state: Mapping[str, Tensor] = {}

    def loss(self, engine: nn.Module, batch: Batch) -> Tensor:
        """Mean loss of this rank's samples against the texts and images of all ranks."""
        inputs = self.inputs(batch)
        return self.loss_of(self.features(engine, inputs), [inputs])

    def inputs(self, batch: Batch) -> PairInputs:
        """What to give to `features` and `loss_of`."""
        wanted = self._same_class != "negative"
        return PairInputs(batch.images, self._texts.tokens(batch), self._texts.identities(batch) if wanted else None)

    def features(self, engine: nn.Module, inputs: PairInputs) -> PairFeatures:
        """Run `engine` on one micro-batch."""
        image, text, logit_scale, *bias = engine(inputs.images, inputs.tokens)
        return PairFeatures(image, text, logit_scale, bias[0] if bias else None)

    def loss_of(self, features: PairFeatures, inputs: Sequence[PairInputs]) -> Tensor:
        """The mean loss of samples whose features lie side by side, micro-batch after micro-batch."""
        parts = [part.identities for part in inputs if part.identities is not None]
        options = {
            "logit_scale": features.logit_scale,
            "identities": torch.cat(parts) if parts else None,
            "same_class": self._same_class,
        }
        if self._loss == "info_nce":
            return info_nce(features.image, features.text, **options)
        assert features.logit_bias is not None
        return siglip(features.image, features.text, logit_bias=features.logit_bias, **options)
