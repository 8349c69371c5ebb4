"""GradCache: the gradients of one big contrastive batch, a micro-batch at a time (https://arxiv.org/abs/2101.06983).

Accumulating gradients does not enlarge a contrastive batch, since each micro-batch only sees its own negatives. Here
the features of all micro-batches are computed first, without gradients; the loss of the whole global batch gives the
gradient of each feature; then every micro-batch is computed again, and its features, weighted by their gradients,
are what goes backward. It costs one more forward pass, and the images of all micro-batches stay on the device:
12 bytes a pixel and sample of the rank's share of the global batch, 0.6 MiB a sample at 224 pixels.

Batch normalisation sees micro-batches, not the big batch, and its running averages count each of them once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dali_pipelines.loader import Batch
from trainer.objectives import TrainingObjective
from trainer.objectives.pairs import PairFeatures, PairInputs, PairObjective
from trainer.random_state import random_state, restore_random_state


def step_losses(
    objective: TrainingObjective, engine: nn.Module, batches: Iterable[Batch], *, cached: int
) -> Iterator[Tensor]:
    """The losses of one optimizer step's micro-batches, each to go backward before the next is asked for.

    Args:
        cached: micro-batches that are contrasted together, at the cost of a cache; 1: each for itself.
    """
    if cached == 1:
        yield from (objective.loss(engine, batch) for batch in batches)
        return
    assert isinstance(objective, PairObjective)
    left = iter(batches)
    while together := list(itertools.islice(left, cached)):
        yield from cached_losses(objective, engine, together)


def cached_losses(objective: PairObjective, engine: nn.Module, batches: Iterable[Batch]) -> Iterator[Tensor]:
    """One scalar for each of the micro-batches that make a big one, to go backward before the next is asked for.

    Each has the value of the big batch's loss, as this rank's samples see it. Its gradients are those of the
    micro-batch's share, times the number of micro-batches, so that their mean is the big batch's.
    """
    inputs = [objective.inputs(batch) for batch in batches]
    states, parts = _features_without_gradient(objective, engine, inputs)
    loss, gradients = _loss_and_gradients(objective, parts, inputs)
    for micro_batch, state, gradient in zip(inputs, states, gradients, strict=True):
        restore_random_state(state)
        surrogate = len(inputs) * _weighted(objective.features(engine, micro_batch), gradient)
        yield loss + surrogate - surrogate.detach()


def _features_without_gradient(
    objective: PairObjective, engine: nn.Module, inputs: Sequence[PairInputs]
) -> tuple[list[dict[str, Tensor]], list[PairFeatures]]:
    """The random state before each micro-batch, and its features."""
    states, parts = [], []
    with _keeping_buffers(engine), torch.no_grad():
        for micro_batch in inputs:
            states.append(random_state())
            parts.append(objective.features(engine, micro_batch))
    return states, parts


def _loss_and_gradients(
    objective: PairObjective, parts: Sequence[PairFeatures], inputs: Sequence[PairInputs]
) -> tuple[Tensor, list[PairFeatures]]:
    """The loss of the whole batch, and its gradient by the features of each micro-batch.

    Scale and bias are in every micro-batch, so that each gets its share of their gradient.
    """
    bias = parts[0].logit_bias
    whole = PairFeatures(
        _leaf(torch.cat([part.image.float() for part in parts])),
        _leaf(torch.cat([part.text.float() for part in parts])),
        _leaf(parts[0].logit_scale.float()),
        None if bias is None else _leaf(bias.float()),
    )
    with torch.enable_grad():
        loss = objective.loss_of(whole, inputs)
    leaves = [leaf for leaf in (whole.image, whole.text, whole.logit_scale, whole.logit_bias) if leaf is not None]
    image, text, scale, *rest = torch.autograd.grad(loss, leaves, allow_unused=True)
    bias_share = rest[0] / len(parts) if rest and rest[0] is not None else None
    sizes = [len(part.image) for part in parts]
    pieces = zip(image.split(sizes), text.split(sizes), strict=True)
    return loss.detach(), [PairFeatures(i, t, scale / len(parts), bias_share) for i, t in pieces]


def _weighted(features: PairFeatures, gradient: PairFeatures) -> Tensor:
    """A scalar whose gradient by the features is `gradient`."""
    total = (features.image.float() * gradient.image).sum() + (features.text.float() * gradient.text).sum()
    total = total + (features.logit_scale.float() * gradient.logit_scale).sum()
    if features.logit_bias is not None and gradient.logit_bias is not None:
        total = total + (features.logit_bias.float() * gradient.logit_bias).sum()
    return total


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


@contextmanager
def _keeping_buffers(module: nn.Module) -> Iterator[None]:
    """Undo what the inside does to buffers, such as the running averages of batch normalisation."""
    kept = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)
