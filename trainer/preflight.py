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
from dali_pipelines.shares import groups_of
from dali_pipelines.sources import DataError
from dali_pipelines.validation import BadSamplesError, Checked, Look, ValidationReport
from trainer.data_needs import tells_classes_apart, unmet_needs
from trainer.data_sources import check_source, num_cores, open_cache
from trainer.job_dir import DataProblem, JobDir, PreflightReport, write_json_atomically
from trainer.leakage import remarks_on_copies
from trainer.spec import AnySource, JobSpec, MixtureSource

_NUM_NAMED = 20


def run(spec: JobSpec, *, job: JobDir) -> PreflightReport:
    """Read, validate and record every data set of a job; the report is written and returned."""
    problems: list[DataProblem] = []
    found: dict[str, Checked] = {}
    datasets: dict[str, dict[str, Any]] = {}
    for name, field, source in _sources(spec):
        try:
            journal = job.preflight_report.parent / "journal" / name
            found[name] = _check(source, spec=spec, training=name == "train", journal=journal)
            datasets[name] = found[name].report.to_dict()
            problems += _remarks(found[name].report, field=field)
        except DataError as error:
            problems.append(DataProblem(field=f"{field}.{error.field}", message=str(error)))
            if isinstance(error, BadSamplesError):
                datasets[name] = error.report.to_dict()
    problems += _choose_shots(spec, found)
    problems += remarks_on_copies(found, cache=open_cache(spec.data.cache))
    manifests = {name: checked.manifest for name, checked in found.items()}
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


def _check(source: AnySource, *, spec: JobSpec, training: bool, journal: Path) -> Checked:
    """Look at all images; with the journal, a preflight that was stopped goes on where it was."""
    how = Look(
        open_cache(spec.data.cache),
        num_threads=spec.data.decoder.num_threads or num_cores(),
        exif=spec.data.exif,
        journal=journal,
    )
    return check_source(
        source,
        how,
        on_bad_sample=spec.data.on_bad_sample,
        seed=spec.seed,
        several_classes=training and tells_classes_apart(spec),
        max_bad_share=spec.data.max_bad_share,
    )


def _remarks(report: ValidationReport, *, field: str) -> list[DataProblem]:
    """What does not stop the job but should be known."""
    remarks = []
    if report.bad:
        named = "; ".join(f"{path} ({reason})" for path, reason in report.bad[:_NUM_NAMED])
        what_happens = "others stand in for them" if report.num_replaced else "are left out"
        message = f"{len(report.bad)} images cannot be decoded and {what_happens}: {named}"
        remarks.append(DataProblem(field=field, message=message, fatal=False))
    if report.remarks:
        named = "; ".join(f"{path} ({remark})" for path, remark in report.remarks[:_NUM_NAMED])
        message = f"{len(report.remarks)} images can be used, but are odd: {named}"
        remarks.append(DataProblem(field=field, message=message, fatal=False))
    if report.empty_classes:
        message = f"classes without images: {', '.join(report.empty_classes[:_NUM_NAMED])}"
        remarks.append(DataProblem(field=field, message=message, fatal=False))
    return remarks


def _choose_shots(spec: JobSpec, found: dict[str, Checked]) -> list[DataProblem]:
    """Leave only `data.shots` images of each class in the training data, or say why that cannot be."""
    if spec.data.shots is None or "train" not in found:
        return []
    train = found["train"].manifest
    if not train.class_names:
        message = "few-shot training counts images by class, and the training data have no classes"
        return [DataProblem(field="data.shots", message=f"data.shots {spec.data.shots}: {message}")]
    try:
        rows = draw_shots(train.labels, class_names=train.class_names, shots=spec.data.shots, seed=spec.seed)
    except ValueError as error:
        return [DataProblem(field="data.shots", message=f"data.shots: {error}")]
    found["train"] = found["train"].select(rows)
    return []


def _problems_together(spec: JobSpec, manifests: dict[str, Manifest]) -> list[DataProblem]:
    """What is wrong with data sets that are each fine alone."""
    train = manifests.get("train")
    if train is None:
        return []
    problems = [*unmet_needs(spec, train), *_problems_of_order(spec, train)]
    sources = {name: source for name, _, source in _sources(spec)}
    for name, manifest in manifests.items():
        strangers = sorted(set(manifest.class_names) - set(train.class_names))
        must_match = name == "validation" or spec.objective.name == "classification"
        place = "sources" if isinstance(sources[name], MixtureSource) else "path"
        if strangers and train.class_names and must_match:
            message = f"classes that are not in the training data: {', '.join(strangers[:_NUM_NAMED])}"
            field = "data." + name.replace("evaluate-", "evaluate.", 1)
            problems.append(DataProblem(field=f"{field}.{place}", message=message))
    return problems


def _problems_of_order(spec: JobSpec, train: Manifest) -> list[DataProblem]:
    """Whether there is something to draw for every share, and enough for a batch."""
    try:
        groups = groups_of(train, class_balanced=spec.data.class_balanced)
    except ValueError as error:
        field = "data.class_balanced" if spec.data.class_balanced else "data.train.weights"
        return [DataProblem(field=field, message=f"{field}: {error}")]
    pass_length = spec.data.episode_size or (groups.num_drawn if groups else len(train))
    if pass_length >= spec.batch.global_size:
        return []
    message = f"batch.global_size {spec.batch.global_size} is more than the {pass_length} training samples"
    return [DataProblem(field="batch.global_size", message=message)]


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
        print(problem, file=sys.stderr)
    return 0 if report.ok else 2


if __name__ == "__main__":
    sys.exit(main())
