"""How training images are augmented."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trainer.spec.base import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, Section

Chance = Annotated[float, Field(gt=0, le=1)]
Sigma = Annotated[float, Field(gt=0, le=32)]


class ColorJitter(Section):
    """Random brightness, contrast and saturation, each factor drawn from [1 - x, 1 + x], and a hue shift; applied in
    this order."""

    brightness: NonNegativeFloat = 0.0
    """Half-width of the brightness factor."""
    contrast: NonNegativeFloat = 0.0
    """Half-width of the contrast factor."""
    saturation: NonNegativeFloat = 0.0
    """Half-width of the saturation factor."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Half-width of the hue shift, as a fraction of the colour circle."""
    probability: Chance = 1.0
    """Probability that an image is jittered at all."""


class GaussianBlur(Section):
    """Gaussian blur of some images, as in SimCLR (https://arxiv.org/abs/2002.05709)."""

    probability: Chance = 0.5
    """Probability that an image is blurred."""
    sigma: tuple[Sigma, Sigma] = (0.1, 2.0)
    """Standard deviation of the blur in pixels of the model's input, smallest and largest."""


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

    crop: Literal["resized", "simple"] = "resized"
    """`resized`: random resized crop. `simple`: DeiT III's simple random crop, which keeps the scale: the shorter side
    is resized to the model's input, 4 reflected pixels are added on each side, and a square is cut out."""
    crop_scale: tuple[Fraction, Fraction] = (0.9, 1.0)
    """Random resized crop: share of the image's area, smallest and largest."""
    crop_ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    """Random resized crop: width by height, smallest and largest."""
    horizontal_flip: Fraction = 0.0
    """Probability of a left-right flip."""
    color_jitter: ColorJitter | None = None
    """Colour jitter, or None. Applied after RandAugment or 3-Augment, as in timm."""
    rand_augment: RandAugment | None = None
    """RandAugment, or None."""
    three_augment: bool = False
    """3-Augment of DeiT III (https://arxiv.org/abs/2204.07118): each image is turned grey, solarised (threshold 128) or
    blurred (sigma 0.1 to 2), by equal chance. The paper adds `color_jitter` of 0.3 and a flip. Not with RandAugment."""
    grayscale: Fraction = 0.0
    """Probability of turning an image grey, after the colour jitter."""
    blur: GaussianBlur | None = None
    """Gaussian blur, or None. Applied last."""
    random_erasing: Fraction = 0.0
    """Probability of replacing one rectangle (2 to 33 % of the area) with per-pixel noise, after normalisation."""
    mixup: NonNegativeFloat = 0.0
    """Alpha of mixup's Beta distribution (https://arxiv.org/abs/1710.09412); 0 turns it off. For `classification`. Each
    image is mixed with its neighbour by a share drawn for the two, as in timm's `pair` mode, so that neither ranks nor
    micro-batches matter; a micro-batch must be even."""
    cutmix: NonNegativeFloat = 0.0
    """Alpha of CutMix's Beta distribution (https://arxiv.org/abs/1905.04899); 0 turns it off. For `classification`."""
    mix_probability: Fraction = 1.0
    """Probability that a pair of images is mixed at all."""
    mix_switch_probability: Fraction = 0.5
    """Probability of CutMix rather than mixup where both are on."""
