"""The README.md of an export: what the model is, what it was made from, how good it is, how to load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dali_pipelines.transforms import Preprocess
from trainer.evaluation.tables import Table, text_table
from trainer.schedules import peak_lr
from trainer.spec import JobSpec
from trainer.spec.sources import describe
from trainer.spec_checks.metrics import shown

Layout = Literal["open_clip", "timm", "attune"]
"""Whose layout an export has."""
_SHOWN_CLASSES = 20


@dataclass(frozen=True)
class ModelCard:
    """What an export says about itself."""

    spec: JobSpec | None
    """The job's spec; None for a model that no job made."""
    metrics: Mapping[str, float]
    """`DATASET/METRIC` of the exported weights, as fractions."""
    class_names: Sequence[str] = ()
    """Classes of the training data, by label."""
    templates: Sequence[str] = ()
    """Prompt templates of training and evaluation."""
    data_hash: str | None = None
    """Hash of the training manifest."""
    num_samples: int | None = None
    """Training images."""
    wise_ft: Mapping[str, Any] | None = None
    """`alpha` and `start` of weights between a start and the tuned model, or None."""

    def to_markdown(self, *, layout: Layout, model_name: str, preprocess: Preprocess) -> str:
        """The whole README."""
        kind = "image-text model" if layout == "open_clip" else "image classifier"
        sections = [
            _front_matter(layout),
            f"# {model_name}, fine-tuned with Attune\n\nA CLIP-family {kind}, started from `{model_name}`."
            + self._interpolation(),
            f"## How to load it\n\n{_LOADING[layout]}",
            f"## Input\n\n{_input(preprocess)}",
            f"## Data\n\n{self._data()}",
        ]
        if self.metrics:
            rows = [(name, shown(name, value)) for name, value in self.metrics.items()]
            sections.append(f"## Results\n\n{text_table(('data set/metric', 'value'), rows).to_markdown()}")
        if self.spec is not None:
            sections.append(f"## Training\n\n{_training(self.spec).to_markdown()}\n\nThe whole spec: `attune.json`.")
        return "\n\n".join(sections) + "\n"

    def _interpolation(self) -> str:
        if self.wise_ft is None:
            return ""
        alpha, start = self.wise_ft["alpha"], self.wise_ft["start"]
        weighed = ", each weighed by its Fisher information" if self.wise_ft.get("fisher") else ""
        return (
            f"\nIts weights are {1 - alpha:.4g} × those of `{start}` + {alpha:.4g} × the fine-tuned ones{weighed}:"
            " WiSE-FT (https://arxiv.org/abs/2109.01903)."
        )

    def _data(self) -> str:
        lines = []
        if self.spec is not None and self.spec.data.train is not None:
            source = self.spec.data.train
            lines.append(f"Training data: `{describe(source)}` ({source.format}).")
        if self.num_samples is not None:
            lines.append(f"{self.num_samples} training images; manifest hash `{self.data_hash}`.")
        if self.class_names:
            more = len(self.class_names) - _SHOWN_CLASSES
            shown = ", ".join(self.class_names[:_SHOWN_CLASSES]) + (f" and {more} more" if more > 0 else "")
            lines.append(f"{len(self.class_names)} classes: {shown}.")
        if self.templates:
            shown = ", ".join(f"`{template}`" for template in self.templates[:3])
            lines.append(f"{len(self.templates)} prompt templates, such as {shown}.")
        return "\n".join(lines) or "Not recorded."


def _front_matter(layout: Layout) -> str:
    tag = "zero-shot-image-classification" if layout == "open_clip" else "image-classification"
    return f"---\nlibrary_name: {layout}\npipeline_tag: {tag}\ntags:\n- clip\n- attune\n---"


def _input(preprocess: Preprocess) -> str:
    mean, std = (", ".join(f"{value:.6g}" for value in values) for values in (preprocess.mean, preprocess.std))
    fit = "whole image squashed" if preprocess.resize_mode == "squash" else "shorter side resized, centre cropped"
    if preprocess.crop_pct < 1:
        fit += f" from {preprocess.resize_size} pixels"
    return (
        f"RGB, {preprocess.image_size} x {preprocess.image_size} pixels, {fit} ({preprocess.interpolation},"
        f" antialiased); mean {mean}; std {std}; EXIF orientation: {preprocess.exif}."
    )


def _warmup(spec: JobSpec) -> str:
    epochs = spec.schedule.warmup_epochs
    return f"{spec.schedule.warmup_steps} warm-up steps" if epochs is None else f"{epochs:g} warm-up epochs"


def _training(spec: JobSpec) -> Table:
    length = f"{spec.schedule.max_steps} steps" if spec.schedule.max_steps else f"{spec.schedule.epochs:g} epochs"
    rows: dict[str, Any] = {
        "recipe": spec.recipe or "none",
        "objective": spec.objective.name,
        "length": length,
        "global batch": spec.batch.global_size,
        "optimizer": spec.optim.name,
        "learning rate": f"{peak_lr(spec):g} ({spec.schedule.kind}, {_warmup(spec)})",
        "weight decay": f"{spec.optim.weight_decay:g}",
        "layer decay": f"{spec.optim.layer_decay:g}",
        "moving average": spec.optim.ema_decay or "none",
        "precision": spec.parallel.precision,
        "ZeRO stage": spec.parallel.zero_stage,
        "seed": spec.seed,
    }
    return text_table(("setting", "value"), [(name, str(value)) for name, value in rows.items()])


_LOADING = {
    "open_clip": """\
With open_clip:

```python
import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:FOLDER")
tokenizer = open_clip.get_tokenizer("local-dir:FOLDER")
```

With Attune: `attune evaluate --model local-dir:FOLDER --data IMAGES`; a job goes on from it with `local-dir:FOLDER`
as its `model.name`.""",
    "timm": """\
With timm:

```python
import timm

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
```

The order of the logits is `label_names` in `config.json`.
With Attune: `attune evaluate --model local-dir:FOLDER --data IMAGES`.""",
    "attune": """\
timm has no such model. With Attune:

```python
from pathlib import Path

from trainer.stored_classifiers import read_classifier

model = read_classifier(Path("FOLDER"))
logits = model.module.eval()(images)  # (B, 3, H, W) pixels, preprocessed as above
```

The order of the logits is `label_names` in `config.json`; `attune evaluate --model local-dir:FOLDER --data IMAGES`
measures it.""",
}
