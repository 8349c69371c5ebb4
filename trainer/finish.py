"""The end of a job: choose weights and write the folder that open_clip or timm loads."""

from __future__ import annotations

import torch
import torch.distributed as dist

from trainer import checkpoint, events
from trainer.evaluation.during_training import Scores, main_metric
from trainer.export import ModelCard, export_classifier, export_clip
from trainer.job_dir import CheckpointName, JobDir
from trainer.models import ClassifierModel
from trainer.prompts import expand_templates
from trainer.setup import Run
from trainer.weights import Which, gather_weights


def export_run(run: Run, *, job: JobDir) -> events.Exported:
    """Export the checkpoint and weights that the spec asks for into the job's `export/`. All ranks must call it."""
    name = _chosen_checkpoint(run, job=job)
    record = checkpoint.read_record(job.checkpoint(name))
    if name != job.published_checkpoints()[-1]:
        checkpoint.load(run.engine, job=job, name=name)
    scores = Scores(step=record.step, raw=record.raw_metrics, ema=record.ema_metrics)
    which = _chosen_weights(run, scores)
    weights = gather_weights(run.engine, which=which)
    metrics = scores.ema if which == "ema" else scores.raw
    if run.rank == 0:
        _write(run, weights=weights, metrics=metrics, job=job)
    dist.barrier()
    task = "classifier" if isinstance(run.model, ClassifierModel) else "clip"
    return events.Exported(checkpoint=str(name), weights=which, task=task, metrics=metrics)


def _chosen_checkpoint(run: Run, *, job: JobDir) -> CheckpointName:
    last = job.published_checkpoints()[-1]
    if run.spec.export.checkpoint == "last":
        return last
    return checkpoint.best(job, metric=main_metric(run)) or last


def _chosen_weights(run: Run, scores: Scores) -> Which:
    wanted = run.spec.export.weights
    return scores.better_weights(main_metric(run)) if wanted == "auto" else wanted


def _write(run: Run, *, weights: dict[str, torch.Tensor], metrics: dict[str, float], job: JobDir) -> None:
    run.replica.module.load_state_dict(weights)
    train = run.manifests["train"]
    card = ModelCard(
        spec=run.spec,
        metrics=metrics,
        class_names=train.class_names,
        templates=expand_templates(run.spec.data.templates),
        data_hash=train.hash,
        num_samples=len(train),
    )
    dtype = getattr(torch, run.spec.export.dtype)
    if isinstance(run.replica, ClassifierModel):
        export_classifier(run.replica, job.export, dtype=dtype, card=card)
    else:
        export_clip(run.replica, job.export, dtype=dtype, card=card)
