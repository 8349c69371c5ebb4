"""Which text goes with each image of a batch: one of its captions, or a prompt of its class."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from dali_pipelines.loader import Batch
from dali_pipelines.manifest import Manifest
from trainer.objectives.token_tables import Tokenize, TokenTables


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

    def __init__(self, manifest: Manifest, *, tokenize: Tokenize, tables: TokenTables, device: torch.device) -> None:
        """Every row of `manifest` has a caption."""
        self._manifest, self._device = manifest, device
        self._tokens = tables.table(manifest.caption_texts, tokenize=tokenize)  # (num_captions, L)

    def tokens(self, batch: Batch) -> Tensor:
        """(B, L) int64 on the device."""
        drawn = torch.from_numpy(self._tokens[self._drawn(batch)])
        return drawn.to(self._device, non_blocking=True).long()

    def identities(self, batch: Batch) -> Tensor:
        """(B, 1) classes, or (B, 2) captions and images."""
        if self._manifest.class_names:
            return batch.labels[:, None]
        drawn = np.stack([self._numbers[self._drawn(batch)], batch.rows], axis=1)
        return torch.from_numpy(drawn).to(self._device)

    def _drawn(self, batch: Batch) -> np.ndarray:
        """(B,) places among all captions."""
        first, end = self._manifest.caption_bounds[batch.rows], self._manifest.caption_bounds[batch.rows + 1]
        return first + batch.text_draws.astype(np.int64) % (end - first)

    @functools.cached_property
    def _numbers(self) -> np.ndarray:
        """A number for each caption, the same for equal ones."""
        encoded = self._manifest.caption_texts.dictionary_encode().unify_dictionaries()
        return np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks]).astype(np.int64)


class PromptTexts:
    """A prompt of each image's class, one template a sample (FLYP, https://arxiv.org/abs/2212.00638)."""

    def __init__(self, class_tokens: Tensor) -> None:
        """`class_tokens` is (C, T, L): every class in every template, on the device."""
        self._class_tokens = class_tokens

    def tokens(self, batch: Batch) -> Tensor:
        """(B, L) int64 on the device."""
        drawn = torch.as_tensor(batch.text_draws.astype("int64") % self._class_tokens.shape[1])
        return self._class_tokens[batch.labels, drawn.to(self._class_tokens.device)]

    def identities(self, batch: Batch) -> Tensor:
        """(B, 1): the classes."""
        return batch.labels[:, None]


def tokenize_prompts(
    class_names: Sequence[str], templates: Sequence[str], *, tokenize: Tokenize, tables: TokenTables
) -> Tensor:
    """Every class in every template: (C, T, L) int64."""
    prompts = pa.chunked_array([[template.format(name) for name in class_names for template in templates]], pa.string())
    tokens = torch.from_numpy(tables.table(prompts, tokenize=tokenize).astype(np.int64))
    return tokens.unflatten(0, (len(class_names), len(templates)))
