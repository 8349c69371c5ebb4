"""How training images are augmented."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trainer.spec.base import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, Section


class ColorJitter(Section):
    """Random brightness, contrast and saturation, each factor drawn from [1 - x, 1 + x], and a hue shift."""

    brightness: NonNegativeFloat = 0.0
    """Half-width of the brightness factor."""
    contrast: NonNegativeFloat = 0.0
    """Half-width of the contrast factor."""
    saturation: NonNegativeFloat = 0.0
    """Half-width of the saturation factor."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Half-width of the hue shift, as a fraction of the colour circle."""


class RandAugment(Section):
    """RandAugment as timm defines it (Cubuk et al. 2020, https://arxiv.org/abs/1909.13719)."""

    magnitude: Annotated[float, Field(ge=0, le=10)] = 9.0
    """Strength on timm's scale of 0 to 10."""
    magnitude_std: NonNegativeFloat = 0.5
    """Standard deviation of the strength drawn for each operation."""
    num_ops: PositiveInt = 2
    """Operations in sequence."""
    increasing: bool = True
    """Use the variants whose severity grows with the magnitude (timm's `inc1`)."""


class AugmentationSpec(Section):
    """What training images go through; evaluation images never do. Every draw comes from the job's seed."""

    crop_scale: tuple[Fraction, Fraction] = (0.9, 1.0)
    """Random resized crop: share of the image's area, smallest and largest."""
    crop_ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    """Random resized crop: width by height, smallest and largest."""
    horizontal_flip: Fraction = 0.0
    """Probability of a left-right flip."""
    color_jitter: ColorJitter | None = None
    """Colour jitter, or None. Applied before RandAugment."""
    rand_augment: RandAugment | None = None
    """RandAugment, or None."""
    random_erasing: Fraction = 0.0
    """Probability of replacing one rectangle (2 to 33 % of the area) with per-pixel noise, after normalisation."""
    mixup: NonNegativeFloat = 0.0
    """Alpha of mixup's Beta distribution (https://arxiv.org/abs/1710.09412); 0 turns it off. For `classification`. A
    micro-batch is mixed with itself in reverse order, by one share for all, as in timm's `batch` mode."""
    cutmix: NonNegativeFloat = 0.0
    """Alpha of CutMix's Beta distribution (https://arxiv.org/abs/1905.04899); 0 turns it off. For `classification`."""
    mix_probability: Fraction = 1.0
    """Probability that a micro-batch is mixed at all."""
    mix_switch_probability: Fraction = 0.5
    """Probability of CutMix rather than mixup where both are on."""
