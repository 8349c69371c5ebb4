"""The model that a job started from, written as the job's own export is: head, sizes and class names included."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from dali_pipelines.manifest import Manifest
from trainer import preflight
from trainer.catalogue import check_model_name, weights_dir
from trainer.export import ModelCard, export_classifier, export_clip
from trainer.interpolate.files import largest_dtype
from trainer.interpolate.tensor_files import TensorFile
from trainer.interpolation import InterpolationError
from trainer.job_dir import JobDir
from trainer.model_setup import build_model
from trainer.model_sources import read_export
from trainer.model_types import ClassifierModel, ClipModel
from trainer.models import load_clip
from trainer.spec import JobSpec, ModelSpec
from trainer.training_data import load_manifests


def export_start(name: str, *, tuned: Path, folder: Path) -> None:
    """Write the model called `name` into `folder`, with what the job behind the export `tuned` put on it.

    A classifier's head is made again from the job's spec, and so needs its training data where they were. Memory
    holds this one model.

    Raises:
        InterpolationError: there is no such model, or the export does not say enough.
    """
    if problem := check_model_name(name, weights_dir=weights_dir()):
        raise InterpolationError(f"the start {name!r} is neither a folder nor a model: {problem}")
    stored = read_export(tuned)
    if stored.get("spec"):
        spec = JobSpec.model_validate(stored["spec"])
        spec = spec.model_copy(update={"model": spec.model.model_copy(update={"name": name})})
        model = _as_the_job_began(spec)
    elif (tuned / "open_clip_config.json").is_file():
        model = load_clip(ModelSpec(name=name))
    else:
        raise InterpolationError(f"{tuned} does not say how its head began; give the start as a folder, not by name")
    weights = max(tuned.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    dtype = largest_dtype(TensorFile.open(weights))
    card = ModelCard(spec=None, metrics={})
    if isinstance(model, ClassifierModel):
        export_classifier(model, folder, dtype=dtype, card=card)
    else:
        export_clip(model, folder, dtype=dtype, card=card)


def _as_the_job_began(spec: JobSpec) -> ClipModel | ClassifierModel:
    with tempfile.TemporaryDirectory(prefix="attune-data-") as temporary:
        manifests = _data_of_the_head(spec, job=JobDir(Path(temporary)))
        torch.manual_seed(spec.seed)
        return build_model(spec, train=manifests["train"], validation=manifests.get("validation"))


def _data_of_the_head(spec: JobSpec, *, job: JobDir) -> dict[str, Manifest]:
    """The data that a classifier's head is made of; an image-text model has none."""
    if spec.objective.name != "classification":
        return {"train": Manifest.from_columns(Path(), paths=[], sizes=[])}
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"evaluate": {}})})
    report = preflight.run(spec, job=job)
    if not report.ok:
        told = "; ".join(f"{problem.field}: {problem.message}" for problem in report.problems if problem.fatal)
        raise InterpolationError(f"the start needs the job's training data, which cannot be read: {told}")
    return load_manifests(spec, job=job)
