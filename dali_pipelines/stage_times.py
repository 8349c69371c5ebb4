"""How long reading, decoding, resizing and augmenting take for a sample of a data set, by the loader's own pipelines.

Each stage is timed together with those before it, on a few dozen images, apart from any loader that is at work: nothing
that a run draws or has prefetched is touched.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import psutil
import torch

from dali_pipelines import graphs
from dali_pipelines.loader import TrainLoader
from dali_pipelines.manifest import Manifest
from dali_pipelines.sampler import Sampler
from dali_pipelines.storage import NUM_REMOTE_READERS, Cache, is_url, read_bytes
from dali_pipelines.stream import default_num_threads
from dali_pipelines.transforms import Augment, Preprocess

Stage = Literal["reading", "decoding", "resizing", "augmenting"]
STAGES: tuple[Stage, ...] = ("reading", "decoding", "resizing", "augmenting")

_BATCH_SIZE = 16
_ROUNDS = 2
_ROUND_SECONDS = 0.4
_MAX_BATCHES = 64
_DRAINED_BATCHES = 4


@dataclass(frozen=True)
class StageTimes:
    """What was measured."""

    seconds: dict[Stage, float]
    """Wall-clock seconds that an image takes in each stage, with all threads at work."""
    num_images: int
    """Different images that were used."""
    num_threads: int
    median_bytes: int
    """Of an encoded image."""
    median_size: tuple[int, int]
    """Width and height."""
    loader_bytes: int
    """Host memory by which the process grew for the whole pipeline."""

    @property
    def slowest(self) -> Stage:
        """The stage that takes longest."""
        return max(STAGES, key=lambda stage: self.seconds[stage])

    @property
    def images_per_s(self) -> float:
        """What all stages together deliver, one after the other on the same threads."""
        return 1 / max(1e-9, sum(self.seconds.values()))

    def cumulative_images_per_s(self) -> dict[Stage, float]:
        """Images/s of each stage with all before it."""
        totals = np.cumsum([self.seconds[stage] for stage in STAGES])
        return {stage: float(1 / max(1e-9, total)) for stage, total in zip(STAGES, totals, strict=True)}


def measure(
    manifest: Manifest,
    *,
    preprocess: Preprocess,
    augment: Augment,
    device: int | None = None,
    num_threads: int | None = None,
    world_size: int = 1,
    prefetch_batches: int = 2,
    hardware_load: float = 0.65,
    cache: Cache | None = None,
    num_images: int = 48,
) -> StageTimes:
    """Time the stages on images from all over the manifest, at the pipeline's own settings.

    Reading is timed first, so that files that the system has not cached yet count as they are.

    Args:
        device: GPU that decodes and augments; None for the CPU.
        num_threads: decoder threads; None: as a loader of one of `world_size` ranks would have.

    Raises:
        BadSampleError: none of the images can be decoded.
        OSError: one of them cannot be read.
    """
    rows = np.unique(np.linspace(0, len(manifest) - 1, min(num_images, len(manifest))).astype(np.int64))
    chosen = manifest.select(rows)
    threads = num_threads or default_num_threads(world_size)
    cache = cache or Cache.open(trust_copies=True)
    make_loader = functools.partial(
        _loader,
        chosen,
        preprocess=preprocess,
        device=device,
        num_threads=threads,
        prefetch_batches=prefetch_batches,
        hardware_load=hardware_load,
        cache=cache,
    )
    first, sizes = _read(chosen, cache=cache, num_threads=threads)
    again, _ = _read(chosen, cache=cache, num_threads=threads)
    took, grown = _time_loaders(make_loader, augment, device=device)
    width, height = np.median(chosen.sizes, axis=0).astype(int).tolist()
    return StageTimes(
        seconds=_by_stage(took, reading=first, reading_again=again),
        num_images=len(chosen),
        num_threads=threads,
        median_bytes=int(np.median(sizes)),
        median_size=(width, height),
        loader_bytes=max(0, grown),
    )


def _by_stage(took: Mapping[str, float], *, reading: float, reading_again: float) -> dict[Stage, float]:
    """Seconds of each stage alone, from those of the loaders, which read what had been read before."""
    whole, decoded = took["whole"], took["decoded"]
    resized = min(whole, took.get("resized", whole))
    return {
        "reading": reading,
        "decoding": max(0.0, decoded - reading_again),
        "resizing": max(0.0, resized - decoded),
        "augmenting": max(0.0, whole - resized),
    }


def _loader(
    manifest: Manifest,
    augment: Augment,
    make_graph: Callable[..., graphs.Graph],
    *,
    preprocess: Preprocess,
    device: int | None,
    num_threads: int,
    prefetch_batches: int,
    hardware_load: float,
    cache: Cache,
) -> TrainLoader:
    size = min(_BATCH_SIZE, len(manifest))
    return TrainLoader(
        manifest,
        preprocess=preprocess,
        augment=augment,
        sampler=Sampler(len(manifest), seed=0, epoch_end="continue"),
        global_size=size,
        micro_size=size,
        device=device,
        num_threads=num_threads,
        prefetch_batches=prefetch_batches,
        hardware_load=hardware_load,
        on_bad_sample="skip",
        cache=cache,
        make_graph=make_graph,
    )


def _time_loaders(
    make_loader: Callable[[Augment, Callable[..., graphs.Graph]], TrainLoader], augment: Augment, *, device: int | None
) -> tuple[dict[str, float], int]:
    """Seconds an image of the whole pipeline and of its beginnings, and the bytes by which the first one grew."""
    plain = Augment(crop=augment.crop, crop_scale=augment.crop_scale, crop_ratio=augment.crop_ratio)
    loaders: dict[str, TrainLoader] = {}
    try:
        before = psutil.Process().memory_info().rss
        loaders["whole"] = make_loader(augment, graphs.training)
        next(loaders["whole"])
        grown = psutil.Process().memory_info().rss - before
        loaders["decoded"] = make_loader(plain, graphs.decoding)
        if augment != plain:
            loaders["resized"] = make_loader(plain, graphs.training)
        return _seconds(loaders, device=device), grown
    finally:
        for loader in loaders.values():
            loader.close()


def _read(manifest: Manifest, *, cache: Cache, num_threads: int) -> tuple[float, list[int]]:
    """Seconds an image, and the bytes of each."""
    locations = manifest.locations(np.arange(len(manifest)))
    remote = any(is_url(location.file) for location in locations)
    with ThreadPoolExecutor(max(num_threads, NUM_REMOTE_READERS) if remote else num_threads) as pool:
        begin = time.perf_counter()
        sizes = list(pool.map(lambda location: len(read_bytes(location, cache)), locations))
        return (time.perf_counter() - begin) / len(locations), sizes


def _seconds(loaders: Mapping[str, TrainLoader], *, device: int | None) -> dict[str, float]:
    """Seconds an image of each loader, which take turns; the better of two rounds."""
    rounds = [{name: _one_round(loader, device=device) for name, loader in loaders.items()} for _ in range(_ROUNDS)]
    return {name: min(one[name] for one in rounds) for name in loaders}


def _one_round(loader: TrainLoader, *, device: int | None) -> float:
    _take(loader, num_batches=_DRAINED_BATCHES)  # what was made ahead while nobody asked is no measure
    begin = time.perf_counter()
    images = _take(loader, num_batches=_MAX_BATCHES)
    if device is not None:
        torch.cuda.synchronize(device)
    return (time.perf_counter() - begin) / images


def _take(loader: TrainLoader, *, num_batches: int) -> int:
    """Take batches for as long as a round may last, at least one; the number of images."""
    images, begin = 0, time.perf_counter()
    for _ in range(num_batches):
        images += len(next(loader).rows)
        if time.perf_counter() - begin > _ROUND_SECONDS:
            break
    return images
