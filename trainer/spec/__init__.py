"""The job spec: the one description of a fine-tuning job that every part of Attune reads.

A YAML file holds it, a recipe returns it, `POST /v1/fine_tuning/jobs` takes part of it, the worker
validates it, and each checkpoint is stored with it. It is frozen: what is settled while a job runs (a free
port, the number of devices behind `auto`) belongs to the attempt. This module imports no torch.

The field docstrings are the reference: they become the OpenAPI text. Make a spec with
`trainer.resolve.resolve`, which also names near misses for unknown fields.
"""

from __future__ import annotations

from trainer.spec.augmentation import AugmentationSpec, ColorJitter, RandAugment
from trainer.spec.base import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section, Strings
from trainer.spec.data import CacheSpec, DataSpec, DecoderSpec
from trainer.spec.job import SCHEMA_VERSION, Deviation, JobSpec
from trainer.spec.model import Adapter, ImageTowerSpec, LearnedPrompt, ModelSpec, ProjectionHead, TextTowerSpec
from trainer.spec.objective import (
    ClassificationObjective,
    ClassPromptsObjective,
    ContrastiveObjective,
    DistillationObjective,
    Objective,
    ProbeSpec,
)
from trainer.spec.outcome import CheckpointSpec, EvaluationSpec, ExportSpec, WiseFt
from trainer.spec.scheduling import SchedulingSpec
from trainer.spec.sources import (
    AnySource,
    ClassListSource,
    CocoCaptionsSource,
    CsvSource,
    DataSource,
    DomainsSource,
    HfDatasetSource,
    ImageFolderSource,
    KarpathySource,
    MixtureSource,
    OneSource,
    ParquetSource,
    Source,
    TorchvisionSource,
    WebDatasetSource,
)
from trainer.spec.training import BatchSpec, OptimSpec, ParallelSpec, ScheduleSpec

__all__ = [
    "Adapter",
    "AnySource",
    "AugmentationSpec",
    "BatchSpec",
    "CacheSpec",
    "CheckpointSpec",
    "ClassListSource",
    "ClassPromptsObjective",
    "ClassificationObjective",
    "CocoCaptionsSource",
    "ColorJitter",
    "ContrastiveObjective",
    "CsvSource",
    "DataSource",
    "DataSpec",
    "DecoderSpec",
    "Deviation",
    "DistillationObjective",
    "DomainsSource",
    "EvaluationSpec",
    "ExportSpec",
    "Fraction",
    "HfDatasetSource",
    "ImageFolderSource",
    "ImageTowerSpec",
    "JobSpec",
    "KarpathySource",
    "LearnedPrompt",
    "MixtureSource",
    "ModelSpec",
    "NonNegativeFloat",
    "NonNegativeInt",
    "Objective",
    "OneSource",
    "OptimSpec",
    "ParallelSpec",
    "ParquetSource",
    "PositiveFloat",
    "PositiveInt",
    "ProbeSpec",
    "ProjectionHead",
    "RandAugment",
    "SCHEMA_VERSION",
    "ScheduleSpec",
    "SchedulingSpec",
    "Section",
    "Source",
    "Strings",
    "TextTowerSpec",
    "TorchvisionSource",
    "WebDatasetSource",
    "WiseFt",
]
