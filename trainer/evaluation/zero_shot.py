"""The zero-shot classifier: class weights from prompts (Radford et al. 2021, https://arxiv.org/abs/2103.00020).

Each class's prompts are encoded and normalised, averaged over the templates, and normalised again. Images are scored
by the cosine with these weights; the logit scale does not change the ranking and is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.evaluation.features import encode_texts


def zero_shot_weights(
    module: nn.Module,
    tokenize: Callable[[Sequence[str]], Tensor],
    class_names: Sequence[str],
    templates: Sequence[str],
    *,
    device: torch.device,
    batch_size: int = 256,
    rank: int = 0,
    world_size: int = 1,
    autocast: bool = False,
) -> Tensor:
    """Unit-norm class weights (D, C), float32 on `device`, the same on all ranks.

    Args:
        module: an image-text model of open_clip.
        tokenize: texts -> (N, L) tokens.
        class_names: C names.
        templates: T templates, each with one `{}`.
        device: where the module is.
        batch_size: texts a forward pass.
        rank: this process, of `world_size` that call together and share the work.
        world_size: number of processes.
        autocast: run under bfloat16 autocast.
    """
    prompts = [template.format(name) for name in class_names for template in templates]
    features_pd = encode_texts(
        module,
        tokenize,
        prompts,
        device=device,
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        autocast=autocast,
    )
    per_template_ctd = features_pd.unflatten(0, (len(class_names), len(templates)))
    return functional.normalize(per_template_ctd.mean(dim=1), dim=-1).T  # (D, C)
