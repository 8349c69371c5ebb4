"""Fine-tuning over domains: the jobs that `attune train` runs, and the accuracy of what they leave.

The demo's settings (batch 32, learning rate 5e-5, betas 0.9 and 0.98, epsilon 1e-6, weight decay 0.2, 10 epochs, no
augmentation, the model in evaluation mode), but for three of its choices:

- It picks the epoch by test accuracy. Here a validation part of the training data picks, and the test part is apart.
- Two images of one class in a batch count as each other's negatives. Here they are positives; the demo's way is
  `--set objective.same_class=negative`.
- Its Adam adds the decay to the gradient (L2), where at 0.2 it outweighs a fine-tuning gradient. Here it is AdamW's;
  the demo's way is `--set optim.name=adam`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dali_pipelines.manifest import Manifest
from trainer.errors import UnusableDataError, UnusableSpecError
from trainer.job_dir import JobDir, write_json_atomically
from trainer.resolve import resolve
from trainer.spec import CsvSource, JobSpec
from trainer.transfer import measure
from trainer.transfer.request import Request, Settled, file_name

JOBS = "jobs.json"
PARTS = ("train", "validation", "test")

Row = tuple[str, str]
"""An image's path from the root, and its class."""


def prepare(settled: Settled, request: Request) -> None:
    """Split the domains, check the models, and write a spec a model and domain and `jobs.json`.

    Raises:
        UnusableSpecError: a model cannot be loaded, or `output` holds a job of the same name with another spec.
        UnusableDataError: a class is too small to split.
        SpecError: an override is wrong.
    """
    manifests = measure.read_domains(settled.domains)
    measure.check_loadable(settled.models)
    output = Path(request.output).absolute()
    parts = {domain: _split(domain, manifest, request) for domain, manifest in manifests.items()}
    sources = {domain: _write_parts(domain, parts, request, output / "splits") for domain in manifests}
    jobs = []
    for row, name in settled.models.items():
        for domain in manifests:
            job = output / "jobs" / f"{file_name(row)}--{domain}"
            spec = _job_spec(name, sources[domain], settled, request)
            _refuse_another(job, spec)
            path = output / "specs" / f"{job.name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json_atomically(path, spec)
            jobs.append({"model": row, "domain": domain, "spec": str(path), "job_dir": str(job)})
    write_json_atomically(output / JOBS, {"jobs": jobs})


def accuracies(settled: Settled, request: Request, *, device: torch.device) -> measure.Scores:
    """Top-1 of what each job exported, on its test images.

    Raises:
        UnusableSpecError: a job has left no export.
    """
    output = Path(request.output).absolute()
    scores: measure.Scores = {row: {} for row in settled.models}
    for job in json.loads((output / JOBS).read_text(encoding="utf-8"))["jobs"]:
        export = JobDir(Path(job["job_dir"])).export
        if not export.is_dir():
            raise UnusableSpecError(f"the job {job['job_dir']} has left no export; run the command again")
        test = _source(output / "splits" / job["domain"] / "test.csv", request)
        manifest = measure.read_domain(job["domain"], test)
        model = measure.load_scored(job["model"], f"local-dir:{export}")
        scores[job["model"]][job["domain"]] = measure.top1(
            model, manifest, job["domain"], settled, request, device=device
        )
    return scores


def _split(domain: str, manifest: Manifest, request: Request) -> dict[str, list[Row]]:
    """Train, validation and test rows of a domain: of each class the same shares, drawn by the seed."""
    folder = Path(manifest.roots[0]).name
    generator = np.random.default_rng(request.seed)
    parts: dict[str, list[Row]] = {part: [] for part in PARTS}
    for label, name in enumerate(manifest.class_names):
        rows = generator.permutation(np.flatnonzero(manifest.labels == label))
        num_held = max(1, round(request.held_out * len(rows)))
        if 0 < len(rows) <= 2 * num_held:
            raise UnusableDataError(
                f"domain {domain!r}: class {name!r} has {len(rows)} images, too few to hold out {num_held} for"
                " validation and as many for testing"
            )
        named = [(f"{folder}/{manifest.paths[row]}", name) for row in rows]
        parts["validation"] += named[:num_held]
        parts["test"] += named[num_held : 2 * num_held]
        parts["train"] += named[2 * num_held :]
    return {part: sorted(rows) for part, rows in parts.items()}


def _write_parts(
    domain: str, parts: Mapping[str, Mapping[str, list[Row]]], request: Request, folder: Path
) -> dict[str, CsvSource]:
    """The tables of the job that is tested on `domain`.

    Raises:
        UnusableSpecError: one domain alone cannot be left out.
    """
    others = [other for other in parts if other != domain]
    if request.leave_one_out:
        if not others:
            raise UnusableSpecError(f"--leave-one-out needs two domains or more; {domain!r} is the only one")
        chosen = {part: [row for other in others for row in parts[other][part]] for part in ("train", "validation")}
        chosen["train"] += [row for other in others for row in parts[other]["test"]]
        chosen["test"] = [row for rows in parts[domain].values() for row in rows]
    else:
        chosen = dict(parts[domain])
    for part, rows in chosen.items():
        _write_table(folder / domain / f"{part}.csv", rows)
    return {part: _source(folder / domain / f"{part}.csv", request) for part in chosen}


def _write_table(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", "label"))
        writer.writerows(rows)


def _source(path: Path, request: Request) -> CsvSource:
    root = str(Path(request.root).absolute())
    return CsvSource(path=str(path), caption_column=None, label_column="label", images_root=root)


def _job_spec(name: str, sources: Mapping[str, CsvSource], settled: Settled, request: Request) -> JobSpec:
    spec: dict[str, Any] = {
        "model": {"name": name, "eval_mode": True},
        "objective": {"name": "class_prompts", "same_class": "positive"},
        "data": {
            "train": sources["train"].model_dump(),
            "validation": sources["validation"].model_dump(),
            "templates": list(settled.templates),
            "augmentation": {"crop_scale": [1, 1], "crop_ratio": [1, 1]},
        },
        "batch": {"global_size": 32},
        "optim": {"lr": 5e-5, "betas": [0.9, 0.98], "eps": 1e-6, "weight_decay": 0.2, "decay_vectors": True},
        "schedule": {"epochs": 10, "kind": "constant"},
        "seed": request.seed,
    }
    return resolve(spec=spec, overrides=request.overrides)


def _refuse_another(job: Path, spec: JobSpec) -> None:
    stored = JobDir(job)
    if stored.spec.exists() and stored.read_spec() != spec:
        raise UnusableSpecError(f"{job} holds a job with another spec; choose another --output or remove it")
