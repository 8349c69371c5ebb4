"""Look at a job's data before any device is taken: `python -m trainer.preflight --job-dir DIR`. Imports no torch.

Writes the manifests and, last, `preflight/report.json`; exits 0 if the job can run with this data and 2 if not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from dali_pipelines.manifest import Manifest
from dali_pipelines.sampler import draw_shots
from dali_pipelines.sources import DataError
from dali_pipelines.validation import BadSamplesError, ValidationReport
from trainer.data_sources import open_cache, read_source
from trainer.job_dir import DataProblem, JobDir, PreflightReport, write_json_atomically
from trainer.spec import AnySource, JobSpec

_NUM_NAMED = 20


def run(spec: JobSpec, *, job: JobDir) -> PreflightReport:
    """Read, validate and record every data set of a job; the report is written and returned."""
    problems: list[DataProblem] = []
    manifests: dict[str, Manifest] = {}
    datasets: dict[str, dict[str, Any]] = {}
    for name, field, source in _sources(spec):
        try:
            manifests[name], report = _read(source, spec=spec, training=name == "train")
            datasets[name] = report.to_dict()
            problems += _remarks(report, field=field)
        except DataError as error:
            problems.append(DataProblem(field=f"{field}.{error.field}", message=str(error)))
            if isinstance(error, BadSamplesError):
                datasets[name] = error.report.to_dict()
    problems += _choose_shots(spec, manifests)
    problems += _problems_together(spec, manifests)
    for name, manifest in manifests.items():
        datasets[name] = {"hash": manifest.hash, **datasets[name]}
    for name, manifest in _aligned(manifests).items():
        job.manifest(name).parent.mkdir(parents=True, exist_ok=True)
        manifest.save(job.manifest(name))
    problems.sort(key=lambda problem: not problem.fatal)
    result = PreflightReport(ok=not any(p.fatal for p in problems), problems=problems, datasets=datasets)
    write_json_atomically(job.preflight_report, result)
    return result


def _sources(spec: JobSpec) -> list[tuple[str, str, AnySource]]:
    """Manifest name, spec field and source of each data set."""
    assert spec.data.train is not None
    named: list[tuple[str, str, AnySource]] = [("train", "data.train", spec.data.train)]
    if spec.data.validation is not None:
        named.append(("validation", "data.validation", spec.data.validation))
    return named + [(f"evaluate-{n}", f"data.evaluate.{n}", source) for n, source in spec.data.evaluate.items()]


def _read(source: AnySource, *, spec: JobSpec, training: bool) -> tuple[Manifest, ValidationReport]:
    return read_source(
        source,
        on_bad_sample=spec.data.on_bad_sample,
        exif=spec.data.exif,
        cache=open_cache(spec.data.cache),
        seed=spec.seed,
        num_threads=spec.data.decoder.num_threads,
        several_classes=training and _tells_classes_apart(spec),
    )


def _tells_classes_apart(spec: JobSpec) -> bool:
    by_class = spec.objective.name in ("classification", "class_prompts")
    return by_class or getattr(spec.objective, "loss", None) == "cross_entropy"


def _remarks(report: ValidationReport, *, field: str) -> list[DataProblem]:
    """What does not stop the job but should be known."""
    remarks = []
    if report.bad:
        named = "; ".join(f"{path} ({reason})" for path, reason in report.bad[:_NUM_NAMED])
        message = f"{len(report.bad)} images cannot be decoded and are left out: {named}"
        remarks.append(DataProblem(field=field, message=message, fatal=False))
    if report.empty_classes:
        message = f"classes without images: {', '.join(report.empty_classes[:_NUM_NAMED])}"
        remarks.append(DataProblem(field=field, message=message, fatal=False))
    return remarks


def _choose_shots(spec: JobSpec, manifests: dict[str, Manifest]) -> list[DataProblem]:
    """Leave only `data.shots` images of each class in the training data, or say why that cannot be."""
    train = manifests.get("train")
    if spec.data.shots is None or train is None:
        return []
    if not train.class_names:
        message = "few-shot training counts images by class, and the training data have no classes"
        return [DataProblem(field="data.shots", message=f"data.shots {spec.data.shots}: {message}")]
    try:
        rows = draw_shots(train.labels, class_names=train.class_names, shots=spec.data.shots, seed=spec.seed)
    except ValueError as error:
        return [DataProblem(field="data.shots", message=f"data.shots: {error}")]
    manifests["train"] = train.select(rows)
    return []


def _problems_together(spec: JobSpec, manifests: dict[str, Manifest]) -> list[DataProblem]:
    """What is wrong with data sets that are each fine alone."""
    train = manifests.get("train")
    if train is None:
        return []
    problems = []
    pass_length = spec.data.episode_size or len(train)
    if pass_length < spec.batch.global_size:
        message = f"batch.global_size {spec.batch.global_size} is more than the {pass_length} training samples"
        problems.append(DataProblem(field="batch.global_size", message=message))
    for name, manifest in manifests.items():
        strangers = sorted(set(manifest.class_names) - set(train.class_names))
        must_match = name == "validation" or spec.objective.name == "classification"
        if strangers and train.class_names and must_match:
            message = f"classes that are not in the training data: {', '.join(strangers[:_NUM_NAMED])}"
            field = "data." + name.replace("evaluate-", "evaluate.", 1)
            problems.append(DataProblem(field=f"{field}.path", message=message))
    return problems


def _aligned(manifests: dict[str, Manifest]) -> dict[str, Manifest]:
    """Number the classes of every data set as in training, wherever training knows all of them."""
    train = manifests.get("train")
    if train is None:
        return manifests
    known = set(train.class_names)
    return {
        name: manifest.with_class_names(train.class_names) if known >= set(manifest.class_names) else manifest
        for name, manifest in manifests.items()
    }


def main() -> int:
    """The command; 0 usable, 2 not."""
    parser = argparse.ArgumentParser(prog="python -m trainer.preflight", description=__doc__.splitlines()[0])
    parser.add_argument("--job-dir", type=Path, required=True)
    job = JobDir(parser.parse_args().job_dir)
    report = run(job.read_spec(), job=job)
    for problem in report.problems:
        print(f"{problem.field}: {problem.message}", file=sys.stderr)
    return 0 if report.ok else 2


if __name__ == "__main__":
    sys.exit(main())
