"""What to train on and how it is read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainer.spec.augmentation import AugmentationSpec
from trainer.spec.base import Fraction, PositiveFloat, PositiveInt, Section, Strings
from trainer.spec.sources import AnySource


class DecoderSpec(Section):
    """How DALI decodes. None leaves the choice to the machine."""

    num_threads: PositiveInt | None = None
    """CPU threads a rank; None: the machine's cores divided by the ranks on it."""
    prefetch_batches: PositiveInt = 2
    """Batches decoded ahead of the model."""
    hardware_load: Fraction = 0.65
    """Share of JPEGs for the GPU's hardware decoder, where there is one."""


class CacheSpec(Section):
    """The local cache of remote files and of images that were unpacked from tables; shared by all jobs of a machine."""

    path: str | None = None
    """Its folder, on the fastest local disk; None: ATTUNE_CACHE, or `~/.cache/attune`."""
    max_gb: PositiveFloat | None = None
    """Size in GB (1e9 bytes) above which what was used longest ago is removed; None: ATTUNE_CACHE_MAX_GB, or 100."""


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
    `itra-episode-rows` in `compat`). With `class_balanced` or a mixture's weights it is the length alone: each class or
    source is gone through in turn."""
    epoch_end: Literal["drop", "continue"] = "drop"
    """What becomes of samples that fill no whole batch. `drop`: an epoch is floor(N / batch) steps. `continue`: it
    counts ceil(N / batch) steps, and the order runs on into the next epoch (as in FLYP and ITRA)."""
    long_texts: Literal["truncate", "refuse"] = "truncate"
    """What to do with captions and prompts longer than the text tower's context: cut them, with a warning that counts
    them, or refuse the job. They are counted when its first attempt begins; not for `classification`."""
    exif: Literal["ignore", "apply"] = "ignore"
    """Whether an image's EXIF orientation is applied. CLIP's reference preprocessing ignores it."""
    on_bad_sample: Literal["fail", "skip", "replace"] = "fail"
    """What to do with an image that cannot be decoded, when the data are checked or later during the run. `fail`: stop
    and name it. `skip`: leave it out, and count it in the job's events; in a batch the next sample of the data takes
    its place. `replace`: a sample of the same class (without classes: any) takes its place, drawn by the seed, so that
    epochs and class counts stay as the data list them."""
    max_bad_share: Fraction = 0.1
    """Share of a data set's images that may be bad where `on_bad_sample` leaves them out or replaces them. If more are
    when the data are checked, the job is refused; if more go bad during an attempt, it ends. 1 sets no bound."""
    class_balanced: bool = False
    """Draw every class equally often, whatever its size: a class whose samples run out is gone through again in a new
    order. Samples without a class are left out, and an epoch is as many samples as have one. With a mixture's weights,
    each source divides its share equally among its own classes."""
    shuffle: bool = True
    """Draw a new order for each epoch."""
    augmentation: AugmentationSpec = AugmentationSpec()
    """Augmentation of training images."""
    decoder: DecoderSpec = DecoderSpec()
    """Decoder settings."""
    cache: CacheSpec = CacheSpec()
    """The local cache."""
