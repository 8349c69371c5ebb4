"""Models over domains, one model in memory at a time: accuracies and features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from dali_pipelines.loader import EvalLoader
from dali_pipelines.manifest import Manifest
from dali_pipelines.sources import DataError
from trainer.catalogue import is_timm_model
from trainer.data_sources import read_source
from trainer.errors import UnusableDataError, UnusableSpecError
from trainer.evaluation.datasets import evaluate_dataset
from trainer.evaluation.features import over_batches
from trainer.image_inference.models import ImageModel, get_model
from trainer.models import ClassifierModel, ClipModel, ModelError, load_clip
from trainer.spec import DataSource, ModelSpec
from trainer.stored_classifiers import read_classifier
from trainer.transfer.request import Request, Settled, file_name

Scores = dict[str, dict[str, float]]
"""Top-1 accuracy by domain, by model."""


def accuracies(settled: Settled, request: Request, *, device: torch.device) -> Scores:
    """Top-1 of each model on each domain: zero-shot, or by its own head if it is a classifier.

    Raises:
        UnusableSpecError: before anything is measured, naming a model that cannot be loaded.
    """
    manifests = read_domains(settled.domains)
    check_loadable(settled.models)
    scores: Scores = {}
    for row, name in settled.models.items():
        model = load_scored(row, name)
        scores[row] = {
            domain: top1(model, manifest, domain, settled, request, device=device)
            for domain, manifest in manifests.items()
        }
        print(f"{row}: " + ", ".join(f"{d} {100 * score:.2f}" for d, score in scores[row].items()), flush=True)
    return scores


def write_features(settled: Settled, request: Request, *, device: torch.device) -> list[Path]:
    """The demo's files: `feat/fe_MODEL_DOMAIN.csv`, a row an image in path order: its features, not normalised, then
    its label, all separated by spaces with four decimals.

    Raises:
        UnusableSpecError: before anything is computed, naming a model that cannot be loaded.
    """
    manifests = read_domains(settled.domains)
    loaded = {}
    for row, name in settled.models.items():
        loaded = {row: _image_model(row, name, device=device)}  # all are tried, the last one is kept
    folder = Path(request.output) / "feat"
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for row, name in settled.models.items():
        model = loaded.get(row) or _image_model(row, name, device=device)
        for domain, manifest in manifests.items():
            files.append(folder / f"fe_{file_name(row)}_{domain}.csv")
            np.savetxt(files[-1], _features_and_labels(model, manifest, request.batch_size), fmt="%.4f")
            print(f"wrote {files[-1]}: {len(manifest)} images", flush=True)
    return files


def top1(
    model: ClipModel | ClassifierModel,
    manifest: Manifest,
    domain: str,
    settled: Settled,
    request: Request,
    *,
    device: torch.device,
) -> float:
    """Accuracy of `model` on one domain, as `attune evaluate` measures it."""
    model.module.to(device)
    (result,) = evaluate_dataset(
        model,
        manifest,
        dataset=domain,
        templates=settled.templates,
        device=device,
        batch_size=request.batch_size,
        precision=request.precision,
    )
    return result.metrics["top1"]


def check_loadable(models: Mapping[str, str]) -> None:
    """Load each model once and let it go.

    Raises:
        UnusableSpecError: naming the first that cannot be loaded or cannot be scored.
    """
    for row, name in models.items():
        load_scored(row, name)


def load_scored(row: str, name: str) -> ClipModel | ClassifierModel:
    """An image-text model, or a classifier that Attune exported.

    Raises:
        UnusableSpecError: it cannot be loaded, or has neither texts nor the domains' classes.
    """
    try:
        if not is_timm_model(name):
            return load_clip(ModelSpec(name=name))
        if name.startswith("timm/"):
            raise ModelError("it has no text tower; compare its features with --mode features")
        return read_classifier(Path(name.removeprefix("local-dir:")))
    except (ModelError, UnusableSpecError) as error:
        raise UnusableSpecError(f"model {row}: {error}") from error


def read_domains(domains: Mapping[str, DataSource]) -> dict[str, Manifest]:
    """The images of each domain, checked.

    Raises:
        UnusableDataError: naming the domain and what is wrong with it.
    """
    return {domain: read_domain(domain, source) for domain, source in domains.items()}


def read_domain(domain: str, source: DataSource) -> Manifest:
    """The images of one domain, checked; raises as `read_domains`."""
    try:
        manifest, _ = read_source(source, on_bad_sample="fail", exif="ignore")
    except DataError as error:
        raise UnusableDataError(f"domain {domain!r}: {error}") from None
    return manifest


def _image_model(row: str, name: str, *, device: torch.device) -> ImageModel:
    try:
        return get_model(name, device=device)
    except UnusableSpecError as error:
        raise UnusableSpecError(f"model {row}: {error}") from error


def _features_and_labels(model: ImageModel, manifest: Manifest, batch_size: int) -> np.ndarray:
    """(N, D + 1) float64 in manifest order."""
    loader = EvalLoader(
        manifest,
        preprocess=model.pixels.preprocess,
        batch_size=batch_size,
        device=model.device.index or 0 if model.device.type == "cuda" else None,
    )
    features_nd, rows = over_batches(lambda batch: _one_feature(model, batch.images), loader, world_size=1)
    return np.concatenate([features_nd.double().cpu().numpy(), manifest.labels[rows][:, None]], axis=1)


def _one_feature(model: ImageModel, images: torch.Tensor) -> torch.Tensor:
    (features_bd,) = model.extract_feat(images, "pre_logits")
    return features_bd.float()
