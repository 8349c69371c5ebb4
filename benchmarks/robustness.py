"""Fine-tuning methods side by side: accuracy on held-out images of the training domain, and on a shifted domain.

    python benchmarks/robustness.py --start local-dir:MODEL --train-domain pacs/photo --shifted pacs/sketch \
        --output FOLDER

From one starting checkpoint it trains full fine-tuning (head from scratch, and from the text tower), LP-FT and FLYP,
each over several seeds, with WiSE-FT's line from start to end after each; zero-shot and the linear probe are the
models that FLYP and LP-FT begin with. Each method's learning rate is chosen on validation images of the
training domain with a seed of its own that is not scored; the shifted domain is never looked at for a choice. What is
finished is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.figure import Figure

from trainer.evaluation.report import write_report
from trainer.evaluation.tables import Table, text_table
from trainer.events import Evaluation, read_events

ALPHAS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0)
SWEEP_SEED = 1000
TRAIN, VALIDATION, HELD_OUT = 60, 20, 60
"""Images a class of the training domain, one after another in path order."""


@dataclass(frozen=True)
class Method:
    """A way to fine-tune, as spec fields, and what its starting model is called where that is a method too."""

    name: str
    recipe: str
    settings: tuple[str, ...]
    start_name: str | None = None


METHODS = (
    Method("fine-tuning, fresh head", "classification", ("objective.head=fresh",)),
    Method("fine-tuning, text head", "classification", ("objective.head=zero_shot", "objective.features=projected")),
    Method("LP-FT", "classification", ("objective.head=probe",), start_name="linear probe"),
    Method("FLYP", "flyp", (), start_name="zero-shot"),
)


@dataclass(frozen=True)
class Scores:
    """Top-1 accuracies of one model."""

    validation: float
    held_out: float
    shifted: float


@dataclass(frozen=True)
class Trained:
    """One run: the model it began with, and the line from there to what it ended with."""

    start: Scores
    curve: dict[float, Scores]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then write the report into the output folder."""
    given = _parse(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    chosen = {method.name: _chosen_rate(method, given) for method in METHODS}
    runs = {
        method.name: [_run(method, given, lr=chosen[method.name], seed=seed, line=True) for seed in range(given.seeds)]
        for method in METHODS
    }
    rows = list(_rows(runs))
    table = _accuracy_table(rows, chosen)
    lines = _line_table(runs)
    tables = {"results": table, "line": lines}
    write_report(given.output, tables=tables, figures={"robustness": _figure(runs)}, document=_document(runs, chosen))
    print(table.to_markdown(), lines.to_markdown(), sep="\n\n")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", required=True, help="the model that all methods start from")
    parser.add_argument("--train-domain", type=Path, required=True, help="image folder to train on")
    parser.add_argument("--shifted", type=Path, required=True, help="image folder with the same classes")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--precision", default="amp_bf16", help="as parallel.precision in the spec")
    parser.add_argument("--lr", type=float, nargs="+", default=[1e-4, 3e-4], help="learning rates to choose from")
    return parser.parse_args(arguments)


def _chosen_rate(method: Method, given: argparse.Namespace) -> float:
    """The learning rate with the best validation accuracy; the smaller of equal ones."""
    found = {
        lr: _run(method, given, lr=lr, seed=SWEEP_SEED, line=False).curve[1.0].validation for lr in sorted(given.lr)
    }
    return max(found, key=lambda lr: found[lr])


def _run(method: Method, given: argparse.Namespace, *, lr: float, seed: int, line: bool) -> Trained:
    job = given.output / "jobs" / f"{method.name.replace(', ', '-').replace(' ', '-')}-lr{lr:g}-seed{seed}"
    if not (job / "export" / "attune.json").exists():
        _train(method, given, lr=lr, seed=seed, line=line, job=job)
    by_step: dict[int, dict[str, float]] = {}
    for attempt in sorted((job / "attempts").iterdir()):
        for event in read_events(attempt / "events.jsonl")[0]:
            if isinstance(event, Evaluation) and event.weights == "raw":
                by_step.setdefault(event.step, {})[event.dataset] = event.metrics["top1"]
    start, end = (_scores(by_step[step]) for step in (min(by_step), max(by_step)))
    return Trained(start, _read_line(job) if line else {0.0: start, 1.0: end})


def _train(method: Method, given: argparse.Namespace, *, lr: float, seed: int, line: bool, job: Path) -> None:
    photo = str(given.train_domain.resolve())
    scored_from = TRAIN + VALIDATION
    settings = [
        f"model.name={given.start}",
        f"data.train={{path: {photo!r}, limit_per_class: {TRAIN}}}",
        f"data.validation={{path: {photo!r}, offset_per_class: {TRAIN}, limit_per_class: {VALIDATION}}}",
        f"data.evaluate.held-out={{path: {photo!r}, offset_per_class: {scored_from}, limit_per_class: {HELD_OUT}}}",
        f"data.evaluate.shifted={{path: {str(given.shifted.resolve())!r}}}",
        "data.augmentation.crop_scale=[0.6, 1.0]",
        "data.augmentation.horizontal_flip=0.5",
        "batch.global_size=64",
        f"schedule.epochs={given.epochs}",
        "schedule.warmup_steps=10",
        "evaluation.every_steps=100000",
        "parallel.devices=1",
        f"parallel.precision={given.precision}",
        f"optim.lr={lr}",
        f"seed={seed}",
        *method.settings,
    ]
    if line:
        settings.append(f"export.wise_ft={{alphas: {list(ALPHAS)}, alpha: 1.0}}")
    command = [sys.executable, "-c", "from service.cli.main import main; main()", "train", "--recipe", method.recipe]
    command += ["--job-dir", str(job)]
    command += [word for setting in settings for word in ("--set", setting)]
    print(f"{method.name}, learning rate {lr:g}, seed {seed}", flush=True)
    job.parent.mkdir(parents=True, exist_ok=True)
    with open(job.with_suffix(".log"), "w", encoding="utf-8") as log:
        ended = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=dict(os.environ), check=False)
    if ended.returncode:
        raise SystemExit(f"training failed, see {log.name}")


def _read_line(job: Path) -> dict[float, Scores]:
    points = json.loads((job / "wise_ft" / "curve.json").read_text(encoding="utf-8"))["points"]
    return {float(point["alpha"]): _scores(_top1(point["metrics"])) for point in points}


def _top1(metrics: dict[str, float]) -> dict[str, float]:
    """Top-1 by data set, from `DATASET/METRIC`."""
    return {key.removesuffix("/top1"): value for key, value in metrics.items() if key.endswith("/top1")}


def _scores(top1: dict[str, float]) -> Scores:
    return Scores(top1["validation"], top1["held-out"], top1["shifted"])


def _rows(runs: dict[str, list[Trained]]) -> Iterator[tuple[str, str, list[Scores]]]:
    """Name, method that trained it, and a score a seed of each line of the table."""
    for method in reversed(METHODS):
        if method.start_name:
            yield method.start_name, method.name, [run.start for run in runs[method.name]]
    for method in METHODS:
        found = runs[method.name]
        yield method.name, method.name, [run.curve[1.0] for run in found]
        yield f"WiSE-FT of {method.name}, α = 0.5", method.name, [run.curve[0.5] for run in found]
        best = [run.curve[_best_alpha(run)] for run in found]
        yield f"WiSE-FT of {method.name}, α chosen on validation", method.name, best


def _best_alpha(run: Trained) -> float:
    """The point with the best validation accuracy; of equal ones the nearest to the start."""
    return max(sorted(run.curve), key=lambda alpha: run.curve[alpha].validation)


def _accuracy_table(rows: Sequence[tuple[str, str, list[Scores]]], chosen: dict[str, float]) -> Table:
    cells = [
        (
            name,
            "-" if name in ("zero-shot", "linear probe") else f"{chosen[method]:g}",
            _mean_and_deviation([s.held_out for s in scores]),
            _mean_and_deviation([s.shifted for s in scores]),
        )
        for name, method, scores in rows
    ]
    return text_table(("method", "learning rate", "held-out, %", "shifted, %"), cells)


def _line_table(runs: dict[str, list[Trained]]) -> Table:
    """A row an α; held-out / shifted accuracy for each method, means over seeds."""
    rows = []
    for alpha in ALPHAS:
        cells = []
        for found in runs.values():
            points = [run.curve[alpha] for run in found]
            held_out, shifted = (100 * np.mean([getattr(p, k) for p in points]) for k in ("held_out", "shifted"))
            cells.append(f"{held_out:.1f} / {shifted:.1f}")
        rows.append((f"{alpha:.1f}", *cells))
    return text_table(("α", *runs), rows)


def _mean_and_deviation(values: Sequence[float]) -> str:
    deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{100 * np.mean(values):.1f} ± {100 * deviation:.1f}"


def _document(runs: dict[str, list[Trained]], chosen: dict[str, float]) -> dict[str, Any]:
    return {
        name: {
            "learning_rate": chosen[name],
            "seeds": [
                {"start": vars(run.start), "line": {str(alpha): vars(scores) for alpha, scores in run.curve.items()}}
                for run in found
            ],
        }
        for name, found in runs.items()
    }


def _figure(runs: dict[str, list[Trained]]) -> Figure:
    """Shifted against held-out accuracy: a line from start to end for each method, means over seeds."""
    figure, axes = pyplot.subplots(figsize=(7.5, 5.5), layout="constrained")
    for name, found in runs.items():
        x, y = (
            np.array([[100 * getattr(run.curve[alpha], key) for alpha in ALPHAS] for run in found])
            for key in ("held_out", "shifted")
        )
        (line,) = axes.plot(x.mean(0), y.mean(0), marker="o", markersize=3, linewidth=1, label=name)
        spread = {"xerr": x[:, -1].std(ddof=1), "yerr": y[:, -1].std(ddof=1)} if len(found) > 1 else {}
        axes.errorbar(x[:, -1].mean(), y[:, -1].mean(), marker="s", markersize=7, color=line.get_color(), **spread)
    axes.set_xlabel("top-1 on held-out images of the training domain, %")
    axes.set_ylabel("top-1 on the shifted domain, %")
    axes.set_title("From the starting model (α = 0) to the tuned one (square, α = 1)")
    axes.legend(loc="best", fontsize=9)
    axes.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    main()
