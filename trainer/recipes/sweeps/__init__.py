"""Sweeps: lists of trials over a recipe, as YAML files, such as ITRA's tables. `attune sweep run NAME` runs one.

summary: Learning rate of ITRA's baseline
source: where the published values stand
recipe: itra-coco-rn50-baseline
metric: validation/mean_recall
set: {batch.global_size: 256}            # for all trials
trials:                                  # or `grid: {optim.lr: [1e-5, 2e-5], seed: [0, 1]}`, every combination
  - {set: {optim.lr: 1e-5}, published: 73.98}
"""

from __future__ import annotations

from trainer.recipes.sweeps.results import FinishedRun, finished_run, sweep_table, write_results
from trainer.recipes.sweeps.sweep import PlannedRun, Sweep, Trial, UnknownSweep, expand, find_sweep, shipped_sweeps

__all__ = [
    "FinishedRun",
    "PlannedRun",
    "Sweep",
    "Trial",
    "UnknownSweep",
    "expand",
    "find_sweep",
    "finished_run",
    "shipped_sweeps",
    "sweep_table",
    "write_results",
]
