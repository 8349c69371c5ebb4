"""What an evaluation leaves beside its metrics: class embeddings, image features and a list of predictions."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from torch import Tensor

from dali_pipelines.loader import Batch
from dali_pipelines.manifest import Manifest
from trainer.errors import UnusableSpecError
from trainer.evaluation.passes import Model, Pass, image_embeddings, over_dataset
from trainer.evaluation.request import Request
from trainer.evaluation.results import Result
from trainer.evaluation.scorers import class_embeddings
from trainer.models import ClipModel

_ENDINGS = {
    "export_text_embeddings": (".npz", ".safetensors"),
    "export_features": (".npz", ".csv"),
    "predictions": (".csv",),
}


def refuse_unknown_endings(arguments: argparse.Namespace) -> None:
    """A file's ending says its format.

    Raises:
        UnusableSpecError: it says none that there is.
    """
    for name, endings in _ENDINGS.items():
        path: Path | None = getattr(arguments, name)
        if path is not None and path.suffix not in endings:
            option = f"--{name.replace('_', '-')}"
            raise UnusableSpecError(f"{option} {str(path)!r} must end in {' or '.join(endings)}")


def export(
    model: Model, manifests: Mapping[str, Manifest], request: Request, arguments: argparse.Namespace, run: Pass
) -> None:
    """Write the embeddings and features that were asked for. All ranks call it; rank 0 writes.

    Raises:
        UnusableSpecError: text embeddings of a classifier, or of data without classes, were asked for.
    """
    if arguments.export_text_embeddings is not None:
        names = request.protocol.classes or _all_class_names(manifests)
        if not isinstance(model, ClipModel) or not names:
            raise UnusableSpecError("--export-text-embeddings needs an image-text model, and data with classes")
        templates = request.common_templates()
        embeddings_cd = class_embeddings(model, names, templates, run).T
        if run.rank == 0:
            write_text_embeddings(
                arguments.export_text_embeddings,
                embeddings_cd.cpu().numpy(),
                class_names=names,
                templates=templates,
            )
    if arguments.export_features is not None:
        for name, manifest in manifests.items():
            features_nd, rows = _features(model, manifest, run)
            if run.rank == 0:
                path = _path_for(arguments.export_features, name, several=len(manifests) > 1)
                write_features(path, features_nd.cpu().numpy(), manifest=manifest, rows=rows)


def write_text_embeddings(
    path: Path, embeddings_cd: np.ndarray, *, class_names: Sequence[str], templates: Sequence[str]
) -> None:
    """Write unit-norm class embeddings (C, D) with the names and templates that they were made of.

    `.npz` holds arrays `embeddings`, `class_names` and `templates`; `.safetensors` a tensor `embeddings` and the others
    as JSON in its metadata.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    embeddings_cd = np.ascontiguousarray(embeddings_cd, np.float32)
    if path.suffix == ".safetensors":
        metadata = {"class_names": json.dumps(list(class_names)), "templates": json.dumps(list(templates))}
        save_file({"embeddings": embeddings_cd}, path, metadata=metadata)
    else:
        np.savez(path, embeddings=embeddings_cd, class_names=np.array(class_names), templates=np.array(templates))


def write_features(path: Path, features_nd: np.ndarray, *, manifest: Manifest, rows: np.ndarray) -> None:
    """Write features, not normalised, of the manifest's `rows`.

    `.npz` holds arrays `features` (N, D), `labels` (N,), `paths` and `class_names`. `.csv` is the form of the
    transfer-learning demo (https://github.com/jindongwang/transferlearning, code/clip): a line an image, numbers with
    four decimals between spaces, the label last.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    labels_n = manifest.labels[rows]
    if path.suffix == ".csv":
        np.savetxt(path, np.column_stack([features_nd, labels_n]), fmt="%.4f", delimiter=" ")
    else:
        paths = np.array([manifest.paths[row] for row in rows])
        names = np.array(manifest.class_names)
        np.savez(path, features=features_nd, labels=labels_n, paths=paths, class_names=names)


def write_predictions(path: Path, results: Sequence[Result], manifests: Mapping[str, Manifest]) -> None:
    """Write a row an image and task: data set, task, path, label, predicted class, confidence, and the first classes
    with their probabilities."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        most = max((r.outcomes.top_classes.shape[1] for r in results if r.outcomes is not None), default=0)
        ranked = [head for k in range(1, most + 1) for head in (f"top{k}", f"top{k}_probability")]
        writer.writerow(["dataset", "task", "path", "label", "predicted", "confidence", *ranked])
        for result in results:
            writer.writerows(_prediction_rows(result, manifests[result.dataset]))


def _prediction_rows(result: Result, manifest: Manifest) -> list[list[str]]:
    outcomes, names = result.outcomes, result.class_names
    if outcomes is None:
        return []
    rows = []
    for n, row in enumerate(outcomes.rows):
        tops = zip(outcomes.top_classes[n], outcomes.top_confidences[n], strict=True)
        ranked = [cell for index, share in tops for cell in (names[index], f"{share:.6f}")]
        label, predicted = names[outcomes.labels[n]], names[outcomes.predicted[n]]
        confidence = f"{outcomes.confidences[n]:.6f}"
        rows.append([result.dataset, result.task, manifest.paths[row], label, predicted, confidence, *ranked])
    return rows


def _features(model: Model, manifest: Manifest, run: Pass) -> tuple[Tensor, np.ndarray]:
    def features(batch: Batch) -> Tensor:
        return image_embeddings(model, batch.images, run)

    return over_dataset(model, features, manifest, run)


def _all_class_names(manifests: Mapping[str, Manifest]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for manifest in manifests.values() for name in manifest.class_names))


def _path_for(path: Path, dataset: str, *, several: bool) -> Path:
    return path.with_name(f"{path.stem}-{dataset}{path.suffix}") if several else path
