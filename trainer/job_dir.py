"""The job folder: the whole contract between the control plane and the workers. Imports no torch.

    JOB/
      spec.json                      the JobSpec, written once when the job is made
      preflight/report.json          the data report (PreflightReport); its presence ends the preflight
      preflight/train.arrow ...      manifests: train, validation, evaluate-NAME
      preflight/tokens-DIGEST.int32  captions or prompts as tokens, by rank 0 of the first attempt that needs them
      probe_head.safetensors         the head of objective.head `probe`, fitted once, by rank 0 of the first attempt
      attempts/0001/
        attempt.json                 Attempt: written by whoever starts the attempt
        events.jsonl                 trainer.events, append-only, by rank 0
        worker.log                   standard output and error of all ranks
        start.json                   StartingPoint: the checkpoint this attempt began from, fixed once
        deepspeed.json               the DeepSpeed configuration in force
        tensorboard/
        exit.json                    ExitRecord, atomically, by rank 0: without it, the attempt crashed
      checkpoints/step-40-attempt-1/ published by rename; a reader sees a whole one or none
      export/                        what open_clip or timm loads
      wise_ft/                       curve.json, .csv, .md and .png of export.wise_ft
      promotions/step-40-attempt-1/  a checkpoint as a model of its own: export/, result.json (PromotionResult)

A worker writes only below its own attempt and into checkpoints that carry its number, so an orphan can
neither overwrite nor overtake its successor.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from trainer.spec import JobSpec

EXIT_INTERRUPTED = 75  # EX_TEMPFAIL: `attune train` ended on a signal and can be resumed

_CHECKPOINT_NAME = re.compile(r"step-(\d+)-attempt-(\d+)")


class Record(BaseModel):
    """Base of the small JSON files in a job folder. Unknown fields are kept out, so that older readers go on."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class Attempt(Record):
    """`attempt.json`: what was decided for one try."""

    number: int
    """1 for the first."""
    resume: bool = False
    """Whether to go on from the latest checkpoint."""
    created_at: float
    """Unix seconds."""
    devices: list[int] | None = None
    """Device numbers on this machine; None lets the launcher choose."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """What this try does unlike the spec: `micro_size`, samples a device and forward pass; `feature_cache`, contrast
    the whole global batch."""


class StartingPoint(Record):
    """`start.json`: where an attempt began."""

    checkpoint: str | None
    """Name of a folder in checkpoints/, or None for the initial weights."""
    step: int
    """Optimizer steps done before."""


class ExitRecord(Record):
    """`exit.json`: how an attempt ended. Nothing else is believed."""

    status: Literal["succeeded", "failed", "interrupted"]
    reason: str
    """`completed`, `signal`, `bad_spec`, `bad_data`, `non_finite_loss`, `out_of_memory`, `disk_full`, `error`."""
    message: str
    """One sentence for people."""
    step: int
    """Optimizer steps done."""
    time: float
    """Unix seconds."""


class DataProblem(Record):
    """One thing that preflight found."""

    field: str
    """The spec field it concerns, such as `data.train.path`."""
    message: str
    """A sentence that names the file or class."""
    fatal: bool = True
    """Whether the job cannot run with it."""

    def __str__(self) -> str:
        """Field and message; a message that begins with the field says it once."""
        named = re.match(rf"{re.escape(self.field)}(?![\w.])", self.message)
        return self.message if named else f"{self.field}: {self.message}"


class PreflightReport(Record):
    """`preflight/report.json`: what the data looks like, before any training."""

    ok: bool
    """No fatal problem."""
    problems: list[DataProblem] = Field(default_factory=list)
    """What was found, fatal ones first."""
    datasets: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """By `train`, `validation`, `evaluate-NAME`: counts and the manifest's hash."""


class PromotionResult(Record):
    """`promotions/NAME/result.json`: what became of the export of one checkpoint."""

    ok: bool
    """Whether `export/` is there."""
    message: str
    """One sentence for people."""
    task: Literal["clip", "classifier"] = "clip"
    """What the model can be asked."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """`DATASET/METRIC` of its weights."""


@dataclass(frozen=True)
class CheckpointName:
    """`step-40-attempt-2`."""

    step: int
    attempt: int

    def __str__(self) -> str:
        return f"step-{self.step}-attempt-{self.attempt}"

    @classmethod
    def parse(cls, name: str) -> CheckpointName | None:
        """The parts of `name`, or None if it is not the name of a published checkpoint."""
        match = _CHECKPOINT_NAME.fullmatch(name)
        return cls(int(match[1]), int(match[2])) if match else None


@dataclass(frozen=True)
class AttemptDir:
    """The paths below one attempt."""

    path: Path
    number: int

    @property
    def record(self) -> Path:
        """attempt.json"""
        return self.path / "attempt.json"

    @property
    def events(self) -> Path:
        """events.jsonl"""
        return self.path / "events.jsonl"

    @property
    def log(self) -> Path:
        """worker.log"""
        return self.path / "worker.log"

    @property
    def start(self) -> Path:
        """start.json"""
        return self.path / "start.json"

    @property
    def deepspeed_config(self) -> Path:
        """deepspeed.json"""
        return self.path / "deepspeed.json"

    @property
    def tensorboard(self) -> Path:
        """tensorboard/"""
        return self.path / "tensorboard"

    @property
    def exit(self) -> Path:
        """exit.json"""
        return self.path / "exit.json"

    def read_overrides(self) -> dict[str, Any]:
        """What was decided for this attempt beside the spec."""
        return Attempt.model_validate_json(self.record.read_bytes()).overrides if self.record.exists() else {}

    def read_exit(self) -> ExitRecord | None:
        """How the attempt ended; None while it runs, and for ever if it crashed."""
        try:
            os.listdir(self.path)  # over NFS, a name that was asked for before it was there may go on missing
            return ExitRecord.model_validate_json(self.exit.read_bytes())
        except FileNotFoundError:
            return None


@dataclass(frozen=True)
class JobDir:
    """The paths of one job."""

    path: Path

    @property
    def spec(self) -> Path:
        """spec.json"""
        return self.path / "spec.json"

    @property
    def preflight_report(self) -> Path:
        """preflight/report.json"""
        return self.path / "preflight" / "report.json"

    @property
    def preflight_log(self) -> Path:
        """preflight/preflight.log"""
        return self.path / "preflight" / "preflight.log"

    @property
    def probe_head(self) -> Path:
        """probe_head.safetensors"""
        return self.path / "probe_head.safetensors"

    @property
    def checkpoints(self) -> Path:
        """checkpoints/"""
        return self.path / "checkpoints"

    @property
    def export(self) -> Path:
        """export/"""
        return self.path / "export"

    @property
    def wise_ft(self) -> Path:
        """wise_ft/"""
        return self.path / "wise_ft"

    def promotion(self, name: CheckpointName) -> Path:
        """The folder in which a checkpoint becomes a model of its own."""
        return self.path / "promotions" / str(name)

    def manifest(self, dataset: str) -> Path:
        """The manifest of `train`, `validation` or `evaluate-NAME`."""
        return self.path / "preflight" / f"{dataset}.arrow"

    def attempt(self, number: int) -> AttemptDir:
        """The paths of attempt `number`."""
        return AttemptDir(self.path / "attempts" / f"{number:04d}", number)

    def attempts(self) -> list[AttemptDir]:
        """The attempts that exist, oldest first."""
        numbers = (int(p.name) for p in self.path.glob("attempts/*") if p.name.isdigit())
        return [self.attempt(number) for number in sorted(numbers)]

    def checkpoint(self, name: CheckpointName) -> Path:
        """The folder of one published checkpoint."""
        return self.checkpoints / str(name)

    def published_checkpoints(self) -> list[CheckpointName]:
        """Published checkpoints, in order of step, then attempt."""
        names = (CheckpointName.parse(p.name) for p in self.checkpoints.glob("step-*"))
        return sorted((n for n in names if n), key=lambda n: (n.step, n.attempt))

    def read_spec(self) -> JobSpec:
        """The job's spec."""
        return JobSpec.model_validate_json(self.spec.read_bytes())

    def read_preflight_report(self) -> PreflightReport | None:
        """The data report, or None if preflight has not finished."""
        path = self.preflight_report
        return PreflightReport.model_validate_json(path.read_bytes()) if path.exists() else None


def folder_problem(job: JobDir, *, spec: JobSpec, resume: bool) -> str | None:
    """Why a run of `spec` cannot use this folder, or None: it mixes no two jobs and repeats no work unasked.

    A job may go on with other settings of where and how it is computed: devices, ZeRO stage, offload, priority.
    """
    if job.spec.exists() and _what_is_trained(job.read_spec()) != _what_is_trained(spec):
        return f"{job.path} holds a job with another spec; leave the spec out to go on with it, or use another folder"
    if job.published_checkpoints() and not resume:
        return f"{job.path} already holds checkpoints; add --resume to go on from them, or use another folder"
    return None


def _what_is_trained(spec: JobSpec) -> JobSpec:
    """The spec with the settings at their defaults that change neither data nor arithmetic, but for rounding."""
    defaults = type(spec.parallel)()
    where = {
        name: getattr(defaults, name)
        for name in (
            "devices",
            "nodes",
            "zero_stage",
            "offload_optimizer",
            "offload_parameters",
            "nvme_path",
            "activation_checkpointing",
            "compile",
            "deepspeed_config",
        )
    }
    parallel = spec.parallel.model_copy(update=where)
    return spec.model_copy(update={"parallel": parallel, "scheduling": type(spec.scheduling)()})


def write_json_atomically(path: Path, value: BaseModel | dict[str, Any]) -> None:
    """Write `value` as JSON so that a reader sees the old file or the whole new one, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = value.model_dump_json(indent=1) if isinstance(value, BaseModel) else json.dumps(value, indent=1)
    # Other threads, and processes of other machines, may be writing the same file.
    writer = f"{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}.{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.name}.{writer}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
