"""The README.md of an export: what the model is, what it was made from, how good it is, how to load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dali_pipelines.transforms import Preprocess
from trainer.evaluation.report import Table
from trainer.spec import JobSpec

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

    def to_markdown(self, *, task: Literal["clip", "classifier"], model_name: str, preprocess: Preprocess) -> str:
        """The whole README."""
        kind = "image-text model" if task == "clip" else "image classifier"
        sections = [
            _front_matter(task),
            f"# {model_name}, fine-tuned with Attune\n\nA CLIP-family {kind}, started from `{model_name}`.",
            f"## How to load it\n\n{_LOADING[task]}",
            f"## Input\n\n{_input(preprocess)}",
            f"## Data\n\n{self._data()}",
        ]
        if self.metrics:
            rows = tuple((name, f"{100 * value:.2f}") for name, value in self.metrics.items())
            sections.append(f"## Results\n\n{Table(('data set/metric', '%'), rows).to_markdown()}")
        if self.spec is not None:
            sections.append(f"## Training\n\n{_training(self.spec).to_markdown()}\n\nThe whole spec: `attune.json`.")
        return "\n\n".join(sections) + "\n"

    def _data(self) -> str:
        lines = []
        if self.spec is not None and self.spec.data.train is not None:
            source = self.spec.data.train
            lines.append(f"Training data: `{source.path}` ({source.format}).")
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


def _front_matter(task: Literal["clip", "classifier"]) -> str:
    library, tag = (
        ("open_clip", "zero-shot-image-classification") if task == "clip" else ("timm", "image-classification")
    )
    return f"---\nlibrary_name: {library}\npipeline_tag: {tag}\ntags:\n- clip\n- attune\n---"


def _input(preprocess: Preprocess) -> str:
    mean, std = (", ".join(f"{value:.6g}" for value in values) for values in (preprocess.mean, preprocess.std))
    fit = "whole image squashed" if preprocess.resize_mode == "squash" else "shorter side resized, centre cropped"
    return (
        f"RGB, {preprocess.image_size} x {preprocess.image_size} pixels, {fit} ({preprocess.interpolation},"
        f" antialiased); mean {mean}; std {std}; EXIF orientation: {preprocess.exif}."
    )


def _training(spec: JobSpec) -> Table:
    length = f"{spec.schedule.max_steps} steps" if spec.schedule.max_steps else f"{spec.schedule.epochs:g} epochs"
    rows: dict[str, Any] = {
        "recipe": spec.recipe or "none",
        "objective": spec.objective.name,
        "length": length,
        "global batch": spec.batch.global_size,
        "optimizer": spec.optim.name,
        "learning rate": f"{spec.optim.lr:g} ({spec.schedule.kind}, {spec.schedule.warmup_steps} warm-up steps)",
        "weight decay": f"{spec.optim.weight_decay:g}",
        "layer decay": f"{spec.optim.layer_decay:g}",
        "moving average": spec.optim.ema_decay or "none",
        "precision": spec.parallel.precision,
        "ZeRO stage": spec.parallel.zero_stage,
        "seed": spec.seed,
    }
    return Table(("setting", "value"), tuple((name, str(value)) for name, value in rows.items()))


_LOADING = {
    "clip": """\
With open_clip:

```python
import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:FOLDER")
tokenizer = open_clip.get_tokenizer("local-dir:FOLDER")
```

With Attune: `attune evaluate --model local-dir:FOLDER --data IMAGES`; a job goes on from it with `local-dir:FOLDER`
as its `model.name`.""",
    "classifier": """\
With timm:

```python
import timm

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
```

The order of the logits is `label_names` in `config.json`.
With Attune: `attune evaluate --model local-dir:FOLDER --data IMAGES`.""",
}
