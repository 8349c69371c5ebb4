"""Stochastic depth and dropout in an image tower that was built without them."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F  # noqa: N812
from open_clip.transformer import VisionTransformer
from timm.layers import DropPath, drop_path
from torch import Tensor, nn

from trainer.errors import UnusableSpecError

_DROP_PATHS = ("drop_path", "drop_path1", "drop_path2")
_DROPOUTS = ("pos_drop", "proj_drop", "drop1", "drop2")  # timm's names, behind tokens, attention and MLP


class BranchDrop:
    """A forward hook: what a residual branch, or the embedding, gives is dropped in part while its module trains."""

    def __init__(self, *, drop_path: float, dropout: float) -> None:
        self.drop_path = drop_path
        self.dropout = dropout

    def __call__(self, module: nn.Module, _: Any, output: Tensor) -> Tensor:
        """Drop elements, then whole samples."""
        output = F.dropout(output, self.dropout, module.training)
        return drop_path(output, self.drop_path, module.training)


def apply(tower: nn.Module, *, drop_path: float, dropout: float) -> None:
    """Drop residual branches at a rate that rises linearly to `drop_path`, and elements at the rate `dropout`.

    Raises:
        UnusableSpecError: the tower has no residual blocks that could.
    """
    if drop_path == dropout == 0:
        return
    if isinstance(tower, VisionTransformer):
        _hook_into_blocks(tower, drop_path=drop_path, dropout=dropout)
        return
    trunk = getattr(tower, "trunk", tower)
    if drop_path:
        _replace_drop_paths(trunk, drop_path)
    if dropout:
        _set_dropouts(trunk, dropout)


def _hook_into_blocks(tower: VisionTransformer, *, drop_path: float, dropout: float) -> None:
    """Behind layer scale, which is where the two residual branches of open_clip's blocks end."""
    blocks = tower.transformer.resblocks
    for block, rate in zip(blocks, _rising(drop_path, len(blocks)), strict=True):
        for branch in (block.ls_1, block.ls_2):
            branch.register_forward_hook(BranchDrop(drop_path=rate, dropout=dropout))
    tower.patch_dropout.register_forward_hook(BranchDrop(drop_path=0.0, dropout=dropout))


def _replace_drop_paths(trunk: nn.Module, drop_path: float) -> None:
    found = [
        (block, names)
        for block in trunk.modules()
        if (names := [n for n in _DROP_PATHS if isinstance(getattr(block, n, None), (nn.Identity, DropPath))])
    ]
    if not found:
        raise _impossible("drop_path", drop_path, trunk, "residual blocks with stochastic depth")
    for (block, names), rate in zip(found, _rising(drop_path, len(found)), strict=True):
        for name in names:
            setattr(block, name, DropPath(rate))


def _set_dropouts(trunk: nn.Module, dropout: float) -> None:
    found = [m for n, m in trunk.named_modules() if n.rpartition(".")[2] in _DROPOUTS and isinstance(m, nn.Dropout)]
    if not found:
        raise _impossible("dropout", dropout, trunk, "dropout behind attention or MLP")
    for layer in found:
        layer.p = dropout


def _rising(last: float, count: int) -> list[float]:
    return [last * n / max(1, count - 1) for n in range(count)]


def _impossible(field: str, rate: float, trunk: nn.Module, lacking: str) -> UnusableSpecError:
    return UnusableSpecError(f"model.image.{field} {rate}: {type(trunk).__name__} has no {lacking}; set it to 0")
