"""Features of images and texts over any number of ranks, in their original order on every rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from dali_pipelines.loader import Batch


@contextmanager
def inference(*modules: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; each submodule's own training flag returns afterwards.

    Under `no_grad` and not `inference_mode`: a tensor made in inference mode cannot be trained on, and class weights
    may become a classifier's first head.
    """
    flags = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in flags:
            part.training = training


def image_features(module: nn.Module, images: Tensor) -> Tensor:
    """Unit-norm float32 (B, D) of an open_clip model."""
    features = module.encode_image(images.to(weight_dtype(module)))
    return functional.normalize(features.float(), dim=-1)


def text_features(module: nn.Module, tokens: Tensor) -> Tensor:
    """Unit-norm float32 (B, D) of an open_clip model."""
    return functional.normalize(module.encode_text(tokens).float(), dim=-1)


def weight_dtype(module: nn.Module) -> torch.dtype:
    """The dtype that the module's input must have."""
    return next(p.dtype for p in module.parameters() if p.is_floating_point())


def encode_texts(
    module: nn.Module,
    tokenize: Callable[[Sequence[str]], Tensor],
    texts: Sequence[str],
    *,
    device: torch.device,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    autocast: bool = False,
) -> Tensor:
    """Unit-norm features (N, D) of all texts, float32 on `device`, in order on every rank.

    Raises:
        ValueError: there is no text.
    """
    if not texts:
        raise ValueError("there is no text to encode")
    share = -(-len(texts) // world_size)
    own_rows = np.arange(rank * share, (rank + 1) * share)
    real = own_rows < len(texts)
    padded = [texts[row] for row in np.minimum(own_rows, len(texts) - 1)]
    with inference(module), torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        parts = [
            text_features(module, tokenize(padded[start : start + batch_size]).to(device))
            for start in range(0, share, batch_size)
        ]
    features, _ = gather_rows(torch.cat(parts), np.where(real, own_rows, -1), world_size=world_size)
    return features


def over_batches(
    compute: Callable[[Batch], Tensor], batches: Iterable[Batch], *, world_size: int
) -> tuple[Tensor, np.ndarray]:
    """`compute(batch)` -> (B, ...) for all batches of all ranks: rows in manifest order, and their row numbers.

    Padding, which loaders mark by row -1, is dropped. All ranks get the same answer.
    """
    values, rows = [], []
    for batch in batches:
        values.append(compute(batch))
        rows.append(batch.rows)
    return gather_rows(torch.cat(values), np.concatenate(rows), world_size=world_size)


def gather_rows(values: Tensor, rows: np.ndarray, *, world_size: int) -> tuple[Tensor, np.ndarray]:
    """Collect (n, ...) values of all ranks, drop those of row -1, and sort by row.

    Args:
        values: this rank's values.
        rows: (n,) their row numbers, -1 for padding.
        world_size: number of ranks that call this together.

    Returns:
        Values (N, ...) on the same device, and rows (N,) int64 in ascending order, equal on all ranks.

    Raises:
        RuntimeError: a row came twice.
    """
    kept = rows >= 0
    values, own_rows = values[torch.from_numpy(kept).to(values.device)], torch.from_numpy(rows[kept].astype(np.int64))
    own_rows = own_rows.to(values.device)
    if world_size > 1:
        values, own_rows = _gather_uneven(values, world_size), _gather_uneven(own_rows, world_size)
    ordered, order = torch.sort(own_rows)
    if len(ordered) > 1 and bool((ordered[1:] == ordered[:-1]).any()):
        raise RuntimeError("a row was evaluated twice: the loaders of the ranks do not partition the data")
    return values[order], ordered.cpu().numpy()


def _gather_uneven(values: Tensor, world_size: int) -> Tensor:
    """Concatenate (n_r, ...) of all ranks; n_r may differ."""
    count = torch.tensor([len(values)], device=values.device)
    counts = [torch.empty_like(count) for _ in range(world_size)]
    distributed.all_gather(counts, count)
    sizes = [int(c) for c in counts]
    padded = values.new_zeros((max(sizes), *values.shape[1:]))
    padded[: len(values)] = values
    parts = [torch.empty_like(padded) for _ in range(world_size)]
    distributed.all_gather(parts, padded.contiguous())
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
