"""Evaluation of a run in progress: its held-out data sets, with the raw weights, their moving average, and their blend
with the starting weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from trainer import events
from trainer.data_sources import open_cache
from trainer.errors import UnusableSpecError
from trainer.evaluation.bank import FeatureBank, feature_bank
from trainer.evaluation.datasets import evaluate_on
from trainer.evaluation.passes import Pass
from trainer.evaluation.protocol import Protocol
from trainer.evaluation.results import Result, flat_metrics
from trainer.models import ClassifierModel, ClipModel
from trainer.prompts import expand_templates
from trainer.reporting import Reporter
from trainer.setup import Run
from trainer.spec import JobSpec
from trainer.spec.sources import own_templates
from trainer.spec_checks.metrics import Task, metric_named
from trainer.weights import Which, gather_weights
from trainer.wise_ft_run import RunLine

Kind = Literal["raw", "ema", "wise_ft"]


@dataclass(frozen=True)
class Scores:
    """`DATASET/METRIC` of one step, by kind of weights."""

    step: int = -1
    raw: dict[str, float] = field(default_factory=dict)
    ema: dict[str, float] = field(default_factory=dict)
    wise_ft: dict[str, float] = field(default_factory=dict)

    def of(self, weights: Which) -> dict[str, float]:
        """The scores of one kind of weights; before the first step the average is the raw weights."""
        return self.ema if weights == "ema" and self.step > 0 else self.raw

    def exported_weights(self, metric: str, *, wanted: Literal["auto", "raw", "ema"]) -> Which:
        """Which weights an export of this step holds; `wanted` is the spec's `export.weights`."""
        return self.better_weights(metric) if wanted == "auto" else wanted

    def better_weights(self, metric: str) -> Which:
        """Which weights do better in `metric`: the raw ones, also if equal or not measured, or their average. The blend
        is not among the candidates."""
        merit = metric_named(metric).merit
        raw, ema = (merit(scores[metric]) if metric in scores else float("-inf") for scores in (self.raw, self.ema))
        return "ema" if ema > raw else "raw"

    def by_record_field(
        self, metric: str, *, wanted: Literal["auto", "raw", "ema"] = "auto"
    ) -> dict[str, dict[str, float]]:
        """As a checkpoint's record names them; the weights that would be exported stand for the checkpoint."""
        return {
            "metrics": self.of(self.exported_weights(metric, wanted=wanted)),
            "raw_metrics": self.raw,
            "ema_metrics": self.ema,
            "wise_ft_metrics": self.wise_ft,
        }


def main_metric(run: Run) -> str:
    """`DATASET/METRIC` that ranks checkpoints: the spec's choice, or the task's main metric on validation data."""
    if run.spec.checkpoint.metric is not None:
        return run.spec.checkpoint.metric
    validation = run.manifests.get("validation")
    labelled = validation is None or bool(validation.class_names)
    retrieval = not labelled and not isinstance(run.replica, ClassifierModel)
    return "validation/mean_recall" if retrieval else "validation/top1"


def tasks_due(run: Run, *, step: int) -> tuple[Task, ...]:
    """What is measured once `step` steps are done: each task at its n-th evaluations, all before the first step and
    at the end."""
    spec = run.spec.evaluation
    every: dict[Task, int] = {
        "zero_shot": spec.zero_shot_every,
        "classification": 1,
        "retrieval": spec.retrieval_every,
        "linear_probe": spec.linear_probe_every,
    }
    interval = spec.every_steps or run.spec.checkpoint.every_steps or run.steps_per_epoch
    number = 0 if step == run.schedule.total_steps else step // interval
    return tuple(task for task, n in every.items() if n and number % n == 0)


def evaluate_run(run: Run, *, step: int, reporter: Reporter) -> Scores:
    """Evaluate all held-out data sets and report each result. All ranks must call it.

    Raises:
        UnusableSpecError: `checkpoint.metric` is not what these data can be measured by.
    """
    if not held_out(run):
        return Scores(step=step)
    protocol = Protocol(tasks=tasks_due(run, step=step), probe_c=run.spec.evaluation.linear_probe_c)
    found: dict[Kind, dict[str, float]] = {}
    for kind in _kinds(run, step=step):
        results = evaluate_model(run, _model_with(run, kind), protocol=protocol)
        for result in results:
            reporter.write(_event(result, step=step, weights=kind))
        found[kind] = flat_metrics(results)
    run.bad_samples.report(reporter)
    _refuse_unmeasured(run.spec.checkpoint.metric, found["raw"], tasks=protocol.tasks or ())
    return Scores(step=step, **found)


def _refuse_unmeasured(wanted: str | None, found: Mapping[str, float], *, tasks: Sequence[Task]) -> None:
    due = wanted is not None and any(task in tasks for task in metric_named(wanted).tasks)
    if due and wanted not in found:
        raise UnusableSpecError(f"checkpoint.metric {wanted!r} is not measured; there are {', '.join(found)}")


def _kinds(run: Run, *, step: int) -> list[Kind]:
    """Weights to evaluate; before the first step all are the same."""
    spec = run.spec
    averaged = spec.optim.ema_decay is not None and spec.evaluation.ema and step > 0
    blended = spec.evaluation.wise_ft_alpha is not None and step > 0
    return ["raw", *(["ema"] if averaged else []), *(["wise_ft"] if blended else [])]


def _model_with(run: Run, kind: Kind) -> ClipModel | ClassifierModel:
    """The run's model with weights of one kind, on the CPU."""
    alpha = run.spec.evaluation.wise_ft_alpha
    if kind == "wise_ft" and alpha is not None:
        return RunLine.of(run, tuned=gather_weights(run.engine)).at(alpha)
    run.replica.module.load_state_dict(gather_weights(run.engine, which="ema" if kind == "ema" else "raw"))
    return run.replica


def held_out(run: Run) -> list[str]:
    """Names of the manifests that are not trained on."""
    return [name for name in run.manifests if name != "train"]


def evaluate_model(run: Run, model: ClipModel | ClassifierModel, *, protocol: Protocol) -> list[Result]:
    """Measure a model, which is on the CPU, on the run's held-out data. All ranks must call it, with equal weights."""
    where = Pass(
        device=run.device,
        rank=run.rank,
        world_size=run.world_size,
        batch_size=run.spec.evaluation.batch_size,
        num_threads=run.spec.data.decoder.num_threads,
        on_bad_sample=run.spec.data.on_bad_sample,
        cache=open_cache(run.spec.data.cache, trust_copies=True),
        precision="amp_bf16" if run.device.type == "cuda" and run.spec.parallel.precision != "fp32" else "fp32",
    )
    model.module.to(run.device)
    bank = _bank(run, model, protocol, where)
    results: list[Result] = []
    for name in held_out(run):
        results += evaluate_on(
            model,
            run.manifests[name],
            replace(where, tell=run.bad_samples.of(name)),
            dataset=name.removeprefix("evaluate-"),
            templates=expand_templates(_templates(run.spec, name)),
            protocol=protocol,
            bank=bank,
        )
    model.module.cpu()
    return results


def _templates(spec: JobSpec, name: str) -> tuple[str, ...]:
    """The templates of one held-out data set: its own, or the job's."""
    source = spec.data.validation if name == "validation" else spec.data.evaluate[name.removeprefix("evaluate-")]
    return (source and own_templates(source)) or spec.data.templates


def _bank(run: Run, model: ClipModel | ClassifierModel, protocol: Protocol, where: Pass) -> FeatureBank | None:
    """Features of the training data, if a probe is due and there is something to measure it on."""
    labelled = any(run.manifests[name].class_names for name in held_out(run))
    if "linear_probe" not in (protocol.tasks or ()) or not labelled:
        return None
    return feature_bank(model, run.manifests["train"], replace(where, tell=run.bad_samples.of("train")))


def _event(result: Result, *, step: int, weights: Kind) -> events.Evaluation:
    return events.Evaluation(
        step=step,
        dataset=result.dataset,
        task=result.task,
        weights=weights,
        num_samples=result.num_samples,
        metrics=result.metrics,
        per_class=result.per_class,
        per_domain=result.per_domain,
    )
