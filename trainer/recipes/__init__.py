"""Recipes: named starting points for a job. A recipe is a function that returns a JobSpec without data.

Run one with `attune train --recipe NAME --set data.train=FOLDER`, or `deepspeed trainer/run.py --recipe NAME ...`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trainer.recipes import contrastive, flyp, supervised
from trainer.spec import JobSpec


@dataclass(frozen=True)
class Recipe:
    """A recipe with where it comes from and what it is known to reach."""

    name: str
    build: Callable[[], JobSpec]
    summary: str
    source: str
    """Paper and code."""
    published: str
    """The published result, with its hardware; or that there is none."""
    command: str
    """How to run it on one's own data."""


def _recipe(name: str, build: Callable[[], JobSpec], summary: str, source: str, published: str) -> Recipe:
    command = f"attune train --recipe {name} --set model.name=ViT-B-16/openai --set data.train=FOLDER"
    return Recipe(name, build, summary, source, published, command)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _recipe(
            "flyp",
            flyp.flyp,
            "Fine-tune like you pretrain: contrast images with prompts of their class",
            "Goyal et al., CVPR 2023, https://arxiv.org/abs/2212.00638; https://github.com/locuslab/FLYP",
            "ImageNet, CLIP ViT-B/16: see the paper's table 1; run by its authors at batch 512 for 10 epochs",
        ),
        _recipe(
            "contrastive",
            contrastive.contrastive,
            "Symmetric InfoNCE on image-caption pairs",
            "Radford et al., ICML 2021, https://arxiv.org/abs/2103.00020; hyper-parameters after ITRA's COCO study",
            "COCO, CLIP RN50, 8 x RTX 2080 Ti: mean recall 58.39 -> 73.98 with ITRA's baseline (batch 256, 10 epochs)",
        ),
        _recipe(
            "classification",
            supervised.classification,
            "Cross-entropy fine-tuning of the image tower, head from zero-shot text weights",
            "Wortsman et al., CVPR 2022, https://arxiv.org/abs/2109.01903 (its fine-tuning stage)",
            "no figure of its own: the published ones belong to the interpolated model",
        ),
    )
}
"""All recipes, by name."""
