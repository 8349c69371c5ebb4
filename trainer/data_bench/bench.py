"""Times the stages of each data set and sets them against what the model takes."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from dali_pipelines.manifest import Manifest
from dali_pipelines.sources import DataError
from dali_pipelines.stage_times import STAGES, StageTimes, measure
from dali_pipelines.validation import validate
from trainer.data_bench import appetite
from trainer.data_bench.request import Bench
from trainer.data_sources import list_members, open_cache
from trainer.data_tools.answer import Answer
from trainer.evaluation.tables import Column, Table
from trainer.spec import AnySource, JobSpec
from trainer.training_data import augment_of

_COLUMNS = (
    Column("stage"),
    Column("ms an image", "number"),
    Column("alone, images/s", "number", 0),
    Column("with all before it, images/s", "number", 0),
)


def bench(request: Bench) -> Answer:
    """Measure, and say which is the bottleneck.

    Raises:
        UnusableSpecError: model or device are not known.
        DataError: the data cannot be listed, or none of the images tried decodes.
    """
    spec, named = request.job(), request.data_sets()
    model = appetite.structure(spec)
    devices = request.devices or _devices(spec)
    threads = request.num_threads or spec.data.decoder.num_threads or max(1, len(os.sched_getaffinity(0)) // devices)
    made = {
        name: _times(source, spec, request=request, preprocess=model.preprocess, num_threads=threads)
        for name, source in named.items()
    }
    if request.measure_model or (request.device_name is None and not torch.cuda.is_available()):
        takes = appetite.measure(spec, model, batch_size=request.batch_size)
    else:
        takes = appetite.estimate(spec, model, device_name=request.device_name, mfu=request.mfu)
    document = {
        "model": spec.model.name,
        "devices": devices,
        "threads_a_device": threads,
        "model_images_per_s": takes.images_per_s,
        "model_how": takes.how,
        "train_flops_per_image": takes.flops_per_image,
        "data": {name: _described(times, takes.images_per_s) for name, times in made.items()},
    }
    tables = {name: _table(name, times) for name, times in made.items()}
    return Answer(document, tables, [line for name in made for line in _sentences(name, document, made[name])])


def _devices(spec: JobSpec) -> int:
    asked = spec.parallel.devices
    return asked if isinstance(asked, int) else max(1, torch.cuda.device_count())


def _times(source: AnySource, spec: JobSpec, *, request: Bench, preprocess: Any, num_threads: int) -> StageTimes:
    """Time images from all over a data set, of which only these are looked at."""
    cache = open_cache(request.cache)
    manifests = []
    listed = list_members(source, cache=cache, seed=spec.seed)
    total = sum(map(len, listed))
    if not total:
        raise DataError("path", "there are no images to time")
    for samples in listed:
        count = min(len(samples), max(1, round(request.num_samples * len(samples) / total)))
        rows = np.unique(np.linspace(0, len(samples) - 1, count).astype(np.int64))
        manifest, _ = validate(
            samples.select(rows), on_bad_sample="skip", num_threads=num_threads, exif=spec.data.exif, cache=cache
        )
        manifests.append(manifest)
    return measure(
        Manifest.concatenate(manifests),
        preprocess=preprocess,
        augment=augment_of(spec.data.augmentation),
        device=0 if torch.cuda.is_available() else None,
        num_threads=num_threads,
        prefetch_batches=spec.data.decoder.prefetch_batches,
        hardware_load=spec.data.decoder.hardware_load,
        cache=cache,
        num_images=request.num_samples,
    )


def _described(times: StageTimes, wanted: float | None) -> dict[str, Any]:
    return {
        **asdict(times),
        "images_per_s": times.images_per_s,
        "cumulative_images_per_s": times.cumulative_images_per_s(),
        "slowest": times.slowest,
        "bottleneck": None if wanted is None else "data" if times.images_per_s < wanted else "model",
    }


def _table(name: str, times: StageTimes) -> Table:
    cumulative = times.cumulative_images_per_s()
    rows = ((stage, 1000 * times.seconds[stage], _alone(times.seconds[stage]), cumulative[stage]) for stage in STAGES)
    return Table(_COLUMNS, tuple(rows), title=name)


def _alone(seconds: float) -> float | None:
    return 1 / seconds if seconds > 0 else None


def _sentences(name: str, document: dict[str, Any], times: StageTimes) -> list[str]:
    threads, wanted = document["threads_a_device"], document["model_images_per_s"]
    width, height = times.median_size
    lines = [
        f"{name}: {times.images_per_s:.0f} images/s a device on {threads} threads; the median of {times.num_images} "
        f"images has {width} x {height} pixels and {times.median_bytes / 1000:.0f} kB; the loader took "
        f"{times.loader_bytes / 1e6:.0f} MB of memory"
    ]
    if wanted is None:
        return [*lines, f"{document['model']}: {document['model_how']}"]
    lines.append(f"{document['model']}: {wanted:.0f} images/s a device, {document['model_how']}")
    if times.images_per_s >= wanted:
        share = wanted / times.images_per_s
        return [*lines, f"The model is the bottleneck: the data pipeline is {1 / share:.1f} times as fast"]
    more = wanted / times.images_per_s
    return [*lines, f"The data are the bottleneck, {times.slowest} most of all: {more:.1f} times the speed is needed"]
