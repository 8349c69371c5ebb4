"""Export one checkpoint of a job: `python -m trainer.promote --job-dir DIR --checkpoint NAME --into FOLDER`.

FOLDER gets `export/`, what open_clip or timm loads, and, last, `result.json` (PromotionResult). The weights are the
checkpoint's own, raw or averaged as `export.weights` says; WiSE-FT's line is not followed. One process, on the CPU.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dali_pipelines.manifest import Manifest
from trainer import checkpoint, checkpoint_damage
from trainer.errors import TrainingError, UnusableSpecError
from trainer.finish import write_export
from trainer.job_dir import CheckpointName, JobDir, PromotionResult, write_json_atomically
from trainer.model_setup import build_model
from trainer.models import ClassifierModel
from trainer.parameter_state import MASTER, read_weights
from trainer.weights import Which


def promote(job: JobDir, name: CheckpointName, *, into: Path) -> PromotionResult:
    """Export a checkpoint into `into/export`.

    Raises:
        UnusableSpecError: the checkpoint is gone, or in a layout that only a training run can read.
        UnusableDataError: it is damaged; the text names the file.
    """
    folder = job.checkpoint(name)
    if not (folder / "parameters").is_dir():
        reason = "is in the layout of an earlier version" if folder.is_dir() else "is not there any more"
        raise UnusableSpecError(f"checkpoint {name} {reason}")
    checkpoint_damage.require_whole(job, name)
    spec, record = job.read_spec(), checkpoint.read_record(folder)
    held_out = job.manifest("validation")
    train = Manifest.load(job.manifest("train"))
    model = build_model(
        spec,
        train=train,
        validation=Manifest.load(held_out) if held_out.exists() else None,
        probe_file=job.probe_head,
    )
    which = _which(record)
    weights = read_weights(folder, kind=MASTER if which == "raw" else which)
    model.module.load_state_dict(weights)
    model.module.eval()
    metrics = record.ema_metrics if which == "ema" else record.raw_metrics
    write_export(into / "export", model, spec=spec, train=train, metrics=metrics)
    return PromotionResult(
        ok=True,
        message=f"exported the {which} weights of step {record.step}",
        task="classifier" if isinstance(model, ClassifierModel) else "clip",
        metrics=metrics,
    )


def _which(record: checkpoint.CheckpointRecord) -> Which:
    """The weights whose scores stand for the checkpoint, since they are what `export.weights` would export."""
    wanted = record.spec.export.weights
    if wanted != "auto":
        return wanted
    averaged = record.ema_metrics != record.raw_metrics and record.metrics == record.ema_metrics
    return "ema" if averaged else "raw"


def main() -> int:
    """The command: 0, or 2 for a checkpoint that cannot be exported."""
    parser = argparse.ArgumentParser(prog="python -m trainer.promote", description="Export one checkpoint of a job.")
    parser.add_argument("--job-dir", type=Path, required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--into", type=Path, required=True)
    given = parser.parse_args()
    name = CheckpointName.parse(given.checkpoint)
    if name is None:
        parser.error(f"--checkpoint {given.checkpoint!r} is not the name of a checkpoint, such as step-40-attempt-1")
    try:
        result = promote(JobDir(given.job_dir), name, into=given.into)
    except TrainingError as error:
        result = PromotionResult(ok=False, message=str(error))
    write_json_atomically(given.into / "result.json", result)
    return 0 if result.ok else 2


if __name__ == "__main__":
    sys.exit(main())
