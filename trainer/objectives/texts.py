"""Which text goes with each image of a batch: one of its captions, or a prompt of its class."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from dali_pipelines.loader import Batch

Tokenize = Callable[[Sequence[str]], Tensor]


class Texts(Protocol):
    """One text a sample, drawn by the batch's `text_draws`."""

    def tokens(self, batch: Batch) -> Tensor:
        """(B, L) int64 on the device."""
        ...

    def identities(self, batch: Batch) -> Tensor:
        """(B, K) int64 on the device: samples with an equal entry, not below 0, in some column count as the same."""
        ...


class CaptionTexts:
    """One of each image's captions. Samples are the same if their class is, or without classes their caption or image.

    A sample without a class is the same as no other where the data have classes.
    """

    def __init__(
        self, *, tokenize: Tokenize, captions: Callable[[int], list[str]], labelled: bool, device: torch.device
    ) -> None:
        self._tokenize, self._captions, self._labelled, self._device = tokenize, captions, labelled, device

    def tokens(self, batch: Batch) -> Tensor:
        """(B, L) int64 on the device."""
        return self._tokenize(self._drawn(batch)).to(self._device, non_blocking=True)

    def identities(self, batch: Batch) -> Tensor:
        """(B, 1) classes, or (B, 2) captions and images."""
        if self._labelled:
            return batch.labels[:, None]
        texts = torch.tensor([_number_of_text(text) for text in self._drawn(batch)])
        return torch.stack([texts, torch.as_tensor(batch.rows)], dim=1).to(self._device)

    def _drawn(self, batch: Batch) -> list[str]:
        captions = (self._captions(row) for row in batch.rows.tolist())
        return [own[draw % len(own)] for own, draw in zip(captions, batch.text_draws.tolist(), strict=True)]


class PromptTexts:
    """A prompt of each image's class, one template a sample (FLYP, https://arxiv.org/abs/2212.00638)."""

    def __init__(
        self, *, tokenize: Tokenize, class_names: Sequence[str], templates: Sequence[str], device: torch.device
    ) -> None:
        self.class_tokens = tokenize_prompts(tokenize, class_names, templates).to(device)  # (C, T, L)

    def tokens(self, batch: Batch) -> Tensor:
        """(B, L) int64 on the device."""
        drawn = torch.as_tensor(batch.text_draws.astype("int64") % self.class_tokens.shape[1])
        return self.class_tokens[batch.labels, drawn.to(self.class_tokens.device)]

    def identities(self, batch: Batch) -> Tensor:
        """(B, 1): the classes."""
        return batch.labels[:, None]


def tokenize_prompts(tokenize: Tokenize, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Every class in every template: (C, T, L) int64."""
    prompts = [template.format(name) for name in class_names for template in templates]
    return tokenize(prompts).unflatten(0, (len(class_names), len(templates)))


def _number_of_text(text: str) -> int:
    """A number of 63 bits that is the same on every rank and differs between texts."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
