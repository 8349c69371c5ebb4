"""WiSE-FT: the straight line between a starting model and the one tuned from it, and its Fisher-weighted sibling.

    (1 - alpha) * start + alpha * tuned       Wortsman et al. 2022, https://arxiv.org/abs/2109.01903

goes over the whole state dict: towers, head or logit scale, and buffers. Integers, which count steps or hold
positions, come from the tuned model. At 0 and 1 the endpoints come back bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.errors import UnusableSpecError

FISHER_FLOOR = 1e-8
_SHOWN = 5


class InterpolationError(UnusableSpecError):
    """Two sets of weights have no line between them; the text says why."""


def blend(start: Mapping[str, Tensor], tuned: Mapping[str, Tensor], *, alpha: float) -> dict[str, Tensor]:
    """The weights at `alpha`, from 0 (start) to 1 (tuned), as new tensors.

    Raises:
        InterpolationError: alpha is outside 0..1, or names or shapes differ.
    """
    check_alpha(alpha)
    refuse_differing(shapes_of(start), shapes_of(tuned))
    return {name: blend_tensor(start[name], tensor, alpha=alpha) for name, tensor in tuned.items()}


def blend_tensor(start: Tensor, tuned: Tensor, *, alpha: float) -> Tensor:
    """One tensor of `blend`. Half precision is computed in float32; the type is one that holds both endpoints."""
    dtype = common_dtype(start.dtype, tuned.dtype)
    if alpha in (0, 1) or not dtype.is_floating_point:
        return (start if alpha == 0 else tuned).to(dtype, copy=True)
    wide = torch.promote_types(dtype, torch.float32)
    return (start.to(wide) * (1 - alpha) + tuned.to(wide) * alpha).to(dtype)


def blend_tensor_by_fisher(
    start: Tensor,
    tuned: Tensor,
    *,
    alpha: float,
    start_fisher: Tensor,
    tuned_fisher: Tensor,
    floor: float = FISHER_FLOOR,
) -> Tensor:
    """One tensor where each number counts by its diagonal Fisher information, at least `floor`.

    Where the data say nothing about a number, or as much in both models, this is `blend_tensor`
    (Matena & Raffel 2021, https://arxiv.org/abs/2111.09832).
    """
    if alpha in (0, 1) or not tuned.dtype.is_floating_point:
        return blend_tensor(start, tuned, alpha=alpha)
    start_weight = (1 - alpha) * start_fisher.double().clamp(min=floor)
    tuned_weight = alpha * tuned_fisher.double().clamp(min=floor)
    merged = (start_weight * start.double() + tuned_weight * tuned.double()) / (start_weight + tuned_weight)
    return merged.to(common_dtype(start.dtype, tuned.dtype))


def common_dtype(start: torch.dtype, tuned: torch.dtype) -> torch.dtype:
    """The smallest type that holds both endpoints unrounded; integers keep the tuned model's."""
    return torch.promote_types(start, tuned) if tuned.is_floating_point and start.is_floating_point else tuned


def check_alpha(alpha: float) -> float:
    """`alpha`, if it is a place on the line.

    Raises:
        InterpolationError: it is outside 0..1, or not a number.
    """
    if not 0 <= alpha <= 1:
        raise InterpolationError(f"alpha is {alpha:g}; it must lie between 0 (the start) and 1 (the tuned model)")
    return alpha


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes by name."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def refuse_differing(
    start: Mapping[str, tuple[int, ...]], tuned: Mapping[str, tuple[int, ...]], *, what: str = "weights"
) -> None:
    """Make sure that two state dicts have the same names and shapes.

    Raises:
        InterpolationError: naming what differs.
    """
    complaints = [
        *_complaint("only in the start", (name for name in start if name not in tuned)),
        *_complaint("only in the tuned model", (name for name in tuned if name not in start)),
        *_complaint("of another shape", _differing_shapes(start, tuned)),
    ]
    if complaints:
        raise InterpolationError(f"the two models' {what} do not correspond: {'; '.join(complaints)}")


def _differing_shapes(start: Mapping[str, Any], tuned: Mapping[str, Any]) -> Iterable[str]:
    both = (name for name in start if name in tuned and start[name] != tuned[name])
    return (f"{name} ({list(start[name])} and {list(tuned[name])})" for name in both)


def _complaint(what: str, names: Iterable[str]) -> list[str]:
    found = sorted(names)
    if not found:
        return []
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return [f"{what}: {', '.join(found[:_SHOWN])}{more}"]
