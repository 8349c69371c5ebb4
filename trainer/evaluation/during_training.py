"""Evaluation of a run in progress: its held-out data sets, with the raw weights and with their moving average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from trainer import events
from trainer.errors import UnusableSpecError
from trainer.evaluation.datasets import evaluate_dataset
from trainer.evaluation.report import Result, flat_metrics
from trainer.prompts import expand_templates
from trainer.reporting import Reporter
from trainer.setup import Run
from trainer.weights import Which, gather_weights


@dataclass(frozen=True)
class Scores:
    """`DATASET/METRIC` of one step, by kind of weights."""

    step: int = -1
    raw: dict[str, float] = field(default_factory=dict)
    ema: dict[str, float] = field(default_factory=dict)

    def best(self, metric: str) -> dict[str, float]:
        """The scores of the weights that do better in `metric`; the raw ones if equal or not measured."""
        return self.ema if self.better_weights(metric) == "ema" else self.raw

    def better_weights(self, metric: str) -> Which:
        """Which weights do better in `metric`."""
        return "ema" if self.ema.get(metric, float("-inf")) > self.raw.get(metric, float("-inf")) else "raw"


def main_metric(run: Run) -> str:
    """`DATASET/METRIC` that ranks checkpoints: the spec's choice, or the task's main metric on validation data."""
    if run.spec.checkpoint.metric is not None:
        return run.spec.checkpoint.metric
    validation = run.manifests.get("validation")
    labelled = validation is None or bool(validation.class_names)
    retrieval = run.spec.objective.name == "contrastive" and not labelled
    return "validation/mean_recall" if retrieval else "validation/top1"


def evaluate_run(run: Run, *, step: int, reporter: Reporter) -> Scores:
    """Evaluate all held-out data sets and report each result. All ranks must call it.

    Raises:
        UnusableSpecError: `checkpoint.metric` is not what these data can be measured by.
    """
    held_out = [name for name in run.manifests if name != "train"]
    if not held_out:
        return Scores(step=step)
    averaged = run.spec.optim.ema_decay is not None and run.spec.evaluation.ema and step > 0
    found: dict[Which, dict[str, float]] = {"raw": _evaluate_weights(run, held_out, "raw", step, reporter)}
    if averaged:
        found["ema"] = _evaluate_weights(run, held_out, "ema", step, reporter)
    wanted = run.spec.checkpoint.metric
    if wanted is not None and wanted not in found["raw"]:
        raise UnusableSpecError(f"checkpoint.metric {wanted!r} is not measured; there are {', '.join(found['raw'])}")
    return Scores(step=step, raw=found["raw"], ema=found.get("ema", {}))


def _evaluate_weights(
    run: Run, names: Sequence[str], weights: Which, step: int, reporter: Reporter
) -> dict[str, float]:
    run.replica.module.load_state_dict(gather_weights(run.engine, which=weights))
    run.replica.module.to(run.device)
    results: list[Result] = []
    for name in names:
        found = _results(run, name=name, dataset=name.removeprefix("evaluate-"))
        for result in found:
            reporter.write(_event(result, step=step, weights=weights))
        results += found
    run.replica.module.cpu()
    return flat_metrics(results)


def _results(run: Run, *, name: str, dataset: str) -> list[Result]:
    return evaluate_dataset(
        run.replica,
        run.manifests[name],
        dataset=dataset,
        templates=expand_templates(run.spec.data.templates),
        device=run.device,
        rank=run.rank,
        world_size=run.world_size,
        batch_size=run.spec.evaluation.batch_size,
        num_threads=run.spec.data.decoder.num_threads,
        on_bad_sample=run.spec.data.on_bad_sample,
        precision="amp_bf16" if run.device.type == "cuda" and run.spec.parallel.precision != "fp32" else "fp32",
    )


def _event(result: Result, *, step: int, weights: Which) -> events.Evaluation:
    return events.Evaluation(
        step=step,
        dataset=result.dataset,
        task=result.task,
        weights=weights,
        num_samples=result.num_samples,
        metrics=result.metrics,
        per_class=result.per_class,
    )
