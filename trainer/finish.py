"""The end of a job: choose weights and write the folder that open_clip or timm loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dali_pipelines.manifest import Manifest
from trainer import checkpoint, checkpoint_damage, events
from trainer.distributed import agree
from trainer.errors import UnusableSpecError
from trainer.evaluation.during_training import Scores, evaluate_model, held_out, main_metric
from trainer.evaluation.protocol import Protocol
from trainer.evaluation.results import flat_metrics
from trainer.export import ModelCard, export_classifier, export_clip
from trainer.job_dir import CheckpointName, JobDir
from trainer.models import ClassifierModel, ClipModel
from trainer.prompts import expand_templates
from trainer.reporting import Reporter
from trainer.setup import Run
from trainer.spec import JobSpec, WiseFt
from trainer.spec_checks.metrics import metric_named
from trainer.weights import gather_weights
from trainer.wise_ft import Curve, curve_of
from trainer.wise_ft_run import RunLine


@dataclass(frozen=True)
class _Finished:
    """What there is to export."""

    model: ClipModel | ClassifierModel
    metrics: Mapping[str, float]
    alpha: float | None = None
    """Where on the line of WiSE-FT, if it was followed."""


def export_run(run: Run, *, job: JobDir, reporter: Reporter) -> events.Exported:
    """Export the checkpoint and weights that the spec asks for into the job's `export/`. All ranks must call it.

    With `export.wise_ft` these weights are the far end of a line that begins where training did: its curve goes into
    the job's `wise_ft/`, and the point that was chosen is exported.
    """
    name = _chosen_checkpoint(run, job=job, reporter=reporter)
    record = checkpoint.read_record(job.checkpoint(name))
    if name != job.published_checkpoints()[-1]:
        checkpoint.load(run.engine, job=job, name=name)
    scores = Scores(step=record.step, raw=record.raw_metrics, ema=record.ema_metrics)
    which = scores.exported_weights(main_metric(run), wanted=run.spec.export.weights)
    weights = gather_weights(run.engine, which=which)
    finished = _finish(run, weights, metrics=scores.of(which), job=job)
    if run.rank == 0:
        _write(run, finished, job=job)
    dist.barrier()
    return events.Exported(
        checkpoint=str(name),
        weights=which,
        task="classifier" if isinstance(run.model, ClassifierModel) else "clip",
        metrics=dict(finished.metrics),
        wise_ft_alpha=finished.alpha,
    )


def _chosen_checkpoint(run: Run, *, job: JobDir, reporter: Reporter) -> CheckpointName:
    """The last, or the best of those that are still as they were written."""
    last = job.published_checkpoints()[-1]
    best = agree(None if run.spec.export.checkpoint == "last" else checkpoint.best(job, metric=main_metric(run)))
    if best is None or best == last:
        return last
    if problem := checkpoint_damage.damage(job, best):
        told = checkpoint_damage.set_aside(job, best, problem=problem)
        reporter.write(events.Message(level="warn", message=told))
        return _chosen_checkpoint(run, job=job, reporter=reporter)
    return best


def _finish(run: Run, weights: dict[str, Tensor], *, metrics: Mapping[str, float], job: JobDir) -> _Finished:
    settings = run.spec.export.wise_ft
    if settings is None:
        run.replica.module.load_state_dict(weights)
        return _Finished(run.replica, metrics)
    line = RunLine.of(run, tuned=weights)
    if not held_out(run):
        assert settings.alpha != "best", "the spec's checks ask for held-out data"
        return _Finished(line.at(settings.alpha), {}, settings.alpha)
    curve = _measured(run, line, settings)
    alpha = _best(curve, main_metric(run)) if settings.alpha == "best" else settings.alpha
    if run.rank == 0:
        curve.write(job.wise_ft, chosen=alpha)
    return _Finished(line.at(alpha), curve.at(alpha).metrics, alpha)


def _measured(run: Run, line: RunLine, settings: WiseFt) -> Curve:
    """The curve over all alphas that are asked for."""
    alphas = {*settings.alphas} | ({settings.alpha} if settings.alpha != "best" else set())
    metric = main_metric(run)
    tasks = dict.fromkeys(("zero_shot", "classification", "retrieval", *metric_named(metric).tasks))
    protocol = Protocol(tasks=tuple(tasks), probe_c=run.spec.evaluation.linear_probe_c)
    points = {alpha: flat_metrics(evaluate_model(run, line.at(alpha), protocol=protocol)) for alpha in sorted(alphas)}
    return curve_of(points, main_metric=metric)


def _best(curve: Curve, metric: str) -> float:
    measured = curve.points[0].metrics
    if metric not in measured:
        raise UnusableSpecError(
            f"export.wise_ft.alpha is best by {metric}, which these data are not measured by; there are"
            f" {', '.join(measured)}"
        )
    return curve.best(metric).alpha


def _write(run: Run, finished: _Finished, *, job: JobDir) -> None:
    line = None if finished.alpha is None else {"alpha": finished.alpha, "start": run.spec.model.name}
    train = run.manifests["train"]
    write_export(job.export, finished.model, spec=run.spec, train=train, metrics=finished.metrics, wise_ft=line)


def write_export(
    folder: Path,
    model: ClipModel | ClassifierModel,
    *,
    spec: JobSpec,
    train: Manifest,
    metrics: Mapping[str, float],
    wise_ft: Mapping[str, Any] | None = None,
) -> None:
    """Write a job's model with its card, replacing `folder` if it exists.

    Args:
        folder: where to write.
        model: with the weights to write.
        spec: the job.
        train: its training data.
        metrics: `DATASET/METRIC` of these weights.
        wise_ft: where on the line of WiSE-FT they are, if it was followed.

    Raises:
        ExportError: open_clip could not load the result, or a weight does not fit `export.dtype`.
    """
    card = ModelCard(
        spec=spec,
        metrics=metrics,
        class_names=train.class_names,
        templates=expand_templates(spec.data.templates),
        data_hash=train.hash,
        num_samples=len(train),
        wise_ft=wise_ft,
    )
    dtype = getattr(torch, spec.export.dtype)
    if isinstance(model, ClassifierModel):
        export_classifier(model, folder, dtype=dtype, card=card)
    else:
        export_clip(model, folder, dtype=dtype, card=card)
