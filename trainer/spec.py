"""The job spec: the one description of a fine-tuning job that every part of Attune reads.

A YAML file holds it, a recipe returns it, `POST /v1/fine_tuning/jobs` takes part of it, the worker
validates it, and each checkpoint is stored with it. It is frozen: what is settled while a job runs (a free
port, the number of devices behind `auto`) belongs to the attempt. This module imports no torch.

The field docstrings are the reference: they become the OpenAPI text. Make a spec with
`trainer.resolve.resolve`, which also names near misses for unknown fields.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from trainer import spec_checks

SCHEMA_VERSION: Literal[1] = 1

Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _tuple_of_one(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _text_of_scalar(value: Any) -> Any:
    return str(value) if isinstance(value, (bool, int, float)) else value


Strings = Annotated[tuple[str, ...], BeforeValidator(_tuple_of_one)]


class Section(BaseModel):
    """Base of every part of a spec: frozen, and an unknown field is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), validate_default=True
    )


class ModelSpec(Section):
    """Which model to start from. A plain string is short for `{name: ...}`."""

    name: str
    """`ViT-L-14/openai` (open_clip name/pretrained tag), `ViT-L-14` (architecture without weights, from scratch),
    `timm/NAME.TAG`, `hf-hub:ORG/NAME`, `local-dir:PATH`, or the name of a model registered with the service."""
    image_size: PositiveInt | None = None
    """Input size in pixels; position embeddings are interpolated to it. None: the size the model was made for."""
    freeze: Strings = ()
    """Shell-style patterns on parameter names (`visual.conv1.*`); a leading `!` trains again what an earlier pattern
    froze, and the last match wins. A pattern that matches no parameter is an error."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class ContrastiveObjective(Section):
    """Symmetric InfoNCE over the features of all ranks (Radford et al. 2021, https://arxiv.org/abs/2103.00020)."""

    name: Literal["contrastive"] = "contrastive"
    max_logit_scale: PositiveFloat | None = 100.0
    """Upper limit of exp(logit_scale), applied after each step; None leaves it free."""


class ClassPromptsObjective(Section):
    """FLYP: InfoNCE between images and prompts of their class, one template drawn for each sample
    (Goyal et al. 2023, https://arxiv.org/abs/2212.00638). The classifier is rebuilt from the tuned text tower."""

    name: Literal["class_prompts"] = "class_prompts"
    max_logit_scale: PositiveFloat | None = None
    """Upper limit of exp(logit_scale); FLYP leaves it free."""


class ClassificationObjective(Section):
    """Cross-entropy of a linear head on the image tower's pooled features."""

    name: Literal["classification"] = "classification"
    head: Literal["zero_shot", "fresh"] = "zero_shot"
    """`zero_shot`: the head starts from the text tower's class embeddings; `fresh`: small random weights."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability mass spread over all classes."""


Objective = Annotated[
    ContrastiveObjective | ClassPromptsObjective | ClassificationObjective, Field(discriminator="name")
]


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


class BatchSpec(Section):
    """Batch sizes, in samples."""

    global_size: PositiveInt = 256
    """Samples an optimizer step, over all devices and accumulation steps."""
    micro_size: PositiveInt | Literal["auto"] = "auto"
    """Samples a device and forward pass; `auto` takes global_size divided by the number of devices."""


class OptimSpec(Section):
    """The optimizer."""

    name: Literal["adamw", "sgd"] = "adamw"
    """AdamW (decoupled weight decay) or SGD with momentum."""
    lr: PositiveFloat = 1e-5
    """Peak learning rate."""
    weight_decay: NonNegativeFloat = 0.1
    """Weight decay."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """AdamW's decay of the first and second moment."""
    eps: PositiveFloat = 1e-8
    """AdamW's epsilon."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """SGD's momentum."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each layer's learning rate is this times that of the layer above it; 1 turns it off."""
    decay_vectors: bool = False
    """Also decay biases, normalisation weights, class and position embeddings and the logit scale."""
    clip_grad_norm: PositiveFloat | None = None
    """Largest global gradient norm; None does not clip."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay a step of the exponential moving average of the weights; None keeps none."""


class ScheduleSpec(Section):
    """How long, and the learning rate over time. Give `epochs` or `max_steps`; the smaller wins if both are given."""

    epochs: PositiveFloat | None = 10
    """Passes over the training data."""
    max_steps: PositiveInt | None = None
    """Optimizer steps."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear warm-up: the first takes peak / warmup_steps, the last of them the peak learning rate."""
    kind: Literal["cosine", "constant"] = "cosine"
    """Course after the warm-up: cosine to `min_lr`, or the peak rate throughout."""
    min_lr: NonNegativeFloat = 0.0
    """Learning rate at the end of the cosine."""


class ParallelSpec(Section):
    """Devices, DeepSpeed ZeRO and numerical precision."""

    devices: PositiveInt | Literal["auto"] = "auto"
    """Devices a node (GPUs, or processes on a machine without GPUs); `auto` takes all GPUs, or one process."""
    nodes: PositiveInt = 1
    """Machines."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 1
    """DeepSpeed ZeRO stage: 0 replicates, 1 shards optimizer state, 2 gradients too, 3 parameters too
    (Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054). Stage 0 in bf16 or fp16 runs as stage 1."""
    offload_optimizer: Literal["none", "cpu", "nvme"] = "none"
    """Where optimizer state lives; `cpu` needs stage 1 or higher, `nvme` stage 3."""
    offload_parameters: Literal["none", "cpu", "nvme"] = "none"
    """Where parameters live between uses; needs stage 3."""
    nvme_path: str | None = None
    """Folder on a local NVMe drive; required by `nvme`."""
    precision: Literal["amp_bf16", "bf16", "fp16", "fp32"] = "amp_bf16"
    """`amp_bf16`: fp32 weights under torch autocast; `bf16`/`fp16`: low-precision weights with fp32 masters."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more compute."""
    compile: bool = False
    """Compile the transformer blocks (of other towers, the whole model) with torch.compile; needs a C++ compiler."""
    deepspeed_config: str | None = None
    """A DeepSpeed JSON file to use in place of the one that zero_stage and offload_* select. Its batch sizes,
    precision, clipping and accumulation must be absent or `auto`: they come from this spec."""


class CheckpointSpec(Section):
    """When to save, and what to keep. One more is always saved at the end."""

    every_steps: PositiveInt | None = None
    """Save each time this many optimizer steps are done; None: whenever evaluation.every_steps says, or else at the
    end of each epoch."""
    keep_latest: PositiveInt = 1
    """Most recent checkpoints to keep."""
    keep_best: NonNegativeInt = 1
    """Checkpoints with the best validation metric to keep."""
    metric: str | None = None
    """Metric that ranks them, as `DATASET/METRIC` (`validation/top1`); None: mean_recall on the validation data for the
    contrastive objective where these have captions only, and top1 otherwise."""


class EvaluationSpec(Section):
    """Evaluation during and after training."""

    every_steps: PositiveInt | None = None
    """Evaluate each time this many steps are done, and at the end; None: whenever checkpoint.every_steps says, or else
    at the end of each epoch. A checkpoint has metrics, and can be the best, only if it is saved where one evaluates."""
    before_training: bool = True
    """Also evaluate the model as it starts out."""
    batch_size: PositiveInt = 64
    """Images a device and forward pass."""
    ema: bool = True
    """Evaluate the moving average beside the raw weights, if there is one."""


class ExportSpec(Section):
    """What is left at the end: a folder that open_clip or timm loads, without optimizer state."""

    weights: Literal["auto", "raw", "ema"] = "auto"
    """Which weights to export; `auto`: the better of the two by checkpoint.metric."""
    checkpoint: Literal["best", "last"] = "best"
    """From which checkpoint, by the validation metric; without validation data it is the last."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Type of the stored tensors."""


class JobSpec(Section):
    """A fine-tuning job, whole."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this layout."""
    recipe: str | None = None
    """The recipe it started from, for the record."""
    model: ModelSpec
    """The model to start from."""
    objective: Objective = ContrastiveObjective()
    """What to train for, chosen by `objective.name`."""
    data: DataSpec = DataSpec()
    """The data."""
    batch: BatchSpec = BatchSpec()
    """Batch sizes."""
    optim: OptimSpec = OptimSpec()
    """The optimizer."""
    schedule: ScheduleSpec = ScheduleSpec()
    """Length and learning rate."""
    parallel: ParallelSpec = ParallelSpec()
    """Devices and precision."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    """Checkpoints."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """Evaluation."""
    export: ExportSpec = ExportSpec()
    """Export."""
    log_every_steps: PositiveInt = 10
    """Report loss and speed each time this many optimizer steps are done; the first and the last always."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of every random draw: weights, order, crops, augmentation, templates."""
    metadata: dict[
        Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512), BeforeValidator(_text_of_scalar)]
    ] = Field(default_factory=dict, max_length=16)
    """Up to 16 notes of your own (keys to 64, values to 512 characters)."""

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        spec_checks.refuse_impossible(self)
        return self
