"""Look at a job's data before any device is taken: `python -m trainer.preflight --job-dir DIR`. Imports no torch.

Writes the manifests and, last, `preflight/report.json`; exits 0 if the job can run with this data and 2 if not.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from dali_pipelines import sources, validation
from dali_pipelines.manifest import Manifest
from dali_pipelines.sources import DataError
from trainer.job_dir import DataProblem, JobDir, PreflightReport, write_json_atomically
from trainer.spec import DataSource, JobSpec

_SHOWN_BAD_FILES = 20


def run(spec: JobSpec, *, job: JobDir) -> PreflightReport:
    """Read, validate and record every data set of a job; the report is written and returned."""
    problems: list[DataProblem] = []
    manifests: dict[str, Manifest] = {}
    summaries: dict[str, dict[str, Any]] = {}
    for name, field, source in _datasets(spec):
        try:
            manifest, report = _read(source, spec=spec)
        except DataError as error:
            problems.append(DataProblem(field=f"{field}.{error.field}", message=str(error)))
            continue
        manifests[name] = manifest
        summaries[name] = {"hash": manifest.hash, **report.to_dict()}
        problems += _bad_files(report, field=field, spec=spec)
    problems += _problems_together(spec, manifests)
    for name, manifest in _aligned(manifests).items():
        job.manifest(name).parent.mkdir(parents=True, exist_ok=True)
        manifest.save(job.manifest(name))
    problems.sort(key=lambda problem: not problem.fatal)
    result = PreflightReport(ok=not any(p.fatal for p in problems), problems=problems, datasets=summaries)
    write_json_atomically(job.preflight_report, result)
    return result


def _datasets(spec: JobSpec) -> list[tuple[str, str, DataSource]]:
    """Manifest name, spec field and source of each data set."""
    assert spec.data.train is not None
    named = [("train", "data.train", spec.data.train)]
    if spec.data.validation is not None:
        named.append(("validation", "data.validation", spec.data.validation))
    return named + [(f"evaluate-{n}", f"data.evaluate.{n}", source) for n, source in spec.data.evaluate.items()]


def _read(source: DataSource, *, spec: JobSpec) -> tuple[Manifest, validation.ValidationReport]:
    options = source.model_dump(exclude={"format"})
    samples = sources.READERS[source.format](**options)
    return validation.validate(
        samples,
        on_bad_sample=spec.data.on_bad_sample,
        num_threads=spec.data.decoder.num_threads or len(os.sched_getaffinity(0)),
        exif=spec.data.exif,
    )


def _bad_files(report: validation.ValidationReport, *, field: str, spec: JobSpec) -> list[DataProblem]:
    if not report.bad:
        return []
    shown = "; ".join(f"{path}: {why}" for path, why in report.bad[:_SHOWN_BAD_FILES])
    more = f" and {len(report.bad) - _SHOWN_BAD_FILES} more" if len(report.bad) > _SHOWN_BAD_FILES else ""
    fatal = spec.data.on_bad_sample == "fail"
    remedy = ". Mend or remove them, or set data.on_bad_sample to `skip`" if fatal else " (left out)"
    message = f"{len(report.bad)} files cannot be decoded: {shown}{more}{remedy}"
    return [DataProblem(field=field, message=message, fatal=fatal)]


def _problems_together(spec: JobSpec, manifests: dict[str, Manifest]) -> list[DataProblem]:
    """What is wrong with data sets that are each fine alone."""
    train = manifests.get("train")
    if train is None:
        return []
    problems = []
    if len(train) < spec.batch.global_size:
        message = f"batch.global_size {spec.batch.global_size} is more than the {len(train)} training samples"
        problems.append(DataProblem(field="batch.global_size", message=message))
    if spec.objective.name != "contrastive" and len(train.class_names) < 2:
        message = f"training data has one class, {train.class_names[0]!r}; at least two are needed"
        problems.append(DataProblem(field="data.train.path", message=message))
    for name, manifest in manifests.items():
        strangers = sorted(set(manifest.class_names) - set(train.class_names))
        must_match = name == "validation" or spec.objective.name == "classification"
        if name != "train" and train.class_names and strangers and must_match:
            message = f"classes that are not in the training data: {', '.join(strangers[:10])}"
            field = "data." + name.replace("evaluate-", "evaluate.", 1)
            problems.append(DataProblem(field=f"{field}.path", message=message))
    return problems


def _aligned(manifests: dict[str, Manifest]) -> dict[str, Manifest]:
    """Number the classes of every data set as in training, wherever training knows all of them."""
    train = manifests.get("train")
    if train is None:
        return manifests
    return {
        name: manifest.with_class_names(train.class_names)
        if manifest.class_names and set(manifest.class_names) <= set(train.class_names)
        else manifest
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
