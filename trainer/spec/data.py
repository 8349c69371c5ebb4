"""What to train on, how it is read and how training images are augmented."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from trainer.spec.base import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section, Strings


class ImageFolderSource(Section):
    """Images in one folder a class: `path/CLASS/**/IMAGE`."""

    format: Literal["image_folder"] = "image_folder"
    path: str
    """The folder that holds the class folders."""
    class_names: dict[str, str] = Field(default_factory=dict)
    """Name to use in prompts, by folder; a folder that is not listed goes by its own name, underscores as spaces."""
    limit_per_class: PositiveInt | None = None
    """Use only the first N images of each class, in path order."""
    offset_per_class: NonNegativeInt = 0
    """Pass over the first N images of each class before `limit_per_class` counts."""


class CsvSource(Section):
    """A table with a row an image-caption (or image-label) pair; rows of one image are gathered into one sample."""

    format: Literal["csv"] = "csv"
    path: str
    """The CSV or TSV file, with a header row, UTF-8 unless `encoding` says otherwise."""
    separator: str | None = None
    """Column separator; None finds it in the header (comma, tab, semicolon or bar)."""
    encoding: str = "utf-8"
    """Any codec that Python knows, such as `gb18030`."""
    image_column: str = "image"
    """Column with the image's path."""
    caption_column: str | None = "caption"
    """Column with the caption; None if there is none."""
    label_column: str | None = None
    """Column with the class name; None if there is none."""
    images_root: str | None = None
    """Folder that image paths are relative to; None: the table's folder. Paths outside it are refused."""
    limit: PositiveInt | None = None
    """Use only the first N images."""
    offset: NonNegativeInt = 0
    """Pass over the first N images before `limit` counts."""


DataSource = Annotated[ImageFolderSource | CsvSource, Field(discriminator="format")]


def _source_from_string(value: Any) -> Any:
    """A bare path stands for a table if it ends like one, and for an image folder otherwise."""
    if isinstance(value, str):
        return {"format": "csv" if re.search(r"\.(csv|tsv)$", value) else "image_folder", "path": value}
    if isinstance(value, dict) and "format" not in value and isinstance(value.get("path"), str):
        return {**_source_from_string(value["path"]), **value}
    return value


AnySource = Annotated[DataSource, BeforeValidator(_source_from_string)]


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


class DecoderSpec(Section):
    """How DALI decodes. None leaves the choice to the machine."""

    num_threads: PositiveInt | None = None
    """CPU threads a rank; None: the machine's cores divided by the ranks on it."""
    prefetch_batches: PositiveInt = 2
    """Batches decoded ahead of the model."""
    hardware_load: Fraction = 0.65
    """Share of JPEGs for the GPU's hardware decoder, where there is one."""


class DataSpec(Section):
    """What to train on and how to read it."""

    train: AnySource | None = None
    """Training data. Required to run a job, not to plan one."""
    validation: AnySource | None = None
    """Held-out data of the same kind; it chooses the best checkpoint."""
    evaluate: dict[str, AnySource] = Field(default_factory=dict)
    """Further data sets to report on, by a name of your own, for instance under distribution shift."""
    templates: Strings = ("a photo of a {}.",)
    """Prompt templates, each with one `{}` for the class name; or the name of one published set (`imagenet`, ...)."""
    shots: PositiveInt | None = None
    """Few-shot: train on this many images of each class, drawn by `seed`; a class with fewer is an error. What is drawn
    counts as the training data from there on."""
    episode_size: PositiveInt | None = None
    """Train each epoch on this many samples drawn with replacement, so that an epoch has a length of one's choice (see
    `itra-episode-rows` in `compat`)."""
    epoch_end: Literal["drop", "continue"] = "drop"
    """What becomes of samples that fill no whole batch. `drop`: an epoch is floor(N / batch) steps. `continue`: it
    counts ceil(N / batch) steps, and the order runs on into the next epoch (as in FLYP and ITRA)."""
    long_texts: Literal["truncate", "refuse"] = "truncate"
    """What to do with captions and prompts longer than the text tower's context: cut them, with a warning that counts
    them, or refuse the job. They are counted when its first attempt begins; not for `classification`."""
    exif: Literal["ignore", "apply"] = "ignore"
    """Whether an image's EXIF orientation is applied. CLIP's reference preprocessing ignores it."""
    on_bad_sample: Literal["fail", "skip"] = "fail"
    """What to do with an image that cannot be decoded: refuse the job and name it, or leave it out and count it."""
    shuffle: bool = True
    """Draw a new order for each epoch."""
    augmentation: AugmentationSpec = AugmentationSpec()
    """Augmentation of training images."""
    decoder: DecoderSpec = DecoderSpec()
    """Decoder settings."""
