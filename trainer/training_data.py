"""The data of a run: the manifests that preflight left, and the stream of training batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dali_pipelines.loader import TrainLoader
from dali_pipelines.manifest import EarlierLayoutError, Manifest
from dali_pipelines.sampler import Sampler
from dali_pipelines.shares import groups_of
from dali_pipelines.sources import DataError
from dali_pipelines.transforms import Augment, ColorJitter, GaussianBlur, RandAugment
from trainer.data_sources import keep_unpacked, open_cache
from trainer.errors import UnusableDataError
from trainer.job_dir import JobDir
from trainer.spec import AnySource, AugmentationSpec, JobSpec

if TYPE_CHECKING:
    from trainer.setup import Run


def dataset_names(spec: JobSpec) -> list[str]:
    """`train`, `validation` and `evaluate-NAME`, as far as the spec has them."""
    held_out = ["validation"] if spec.data.validation is not None else []
    return ["train", *held_out, *(f"evaluate-{name}" for name in spec.data.evaluate)]


def load_manifests(spec: JobSpec, *, job: JobDir) -> dict[str, Manifest]:
    """The manifests that preflight left in the job folder, with what they need of the local cache.

    Raises:
        UnusableDataError: images that had been unpacked into the cache cannot be had again, or an earlier version
            looked at the data.
    """
    cache = open_cache(spec.data.cache)
    try:
        manifests = {name: Manifest.load(job.manifest(name)) for name in dataset_names(spec)}
    except EarlierLayoutError as error:
        folder = job.preflight_report.parent
        raise UnusableDataError(f"{error}; remove {folder}, so that the data are looked at again") from error
    for name, manifest in manifests.items():
        try:
            keep_unpacked(_source_of(spec, name), manifest, cache=cache, seed=spec.seed)
        except DataError as error:
            raise UnusableDataError(f"{name}: {error}") from error
    return manifests


def _source_of(spec: JobSpec, name: str) -> AnySource:
    source = {"train": spec.data.train, "validation": spec.data.validation}.get(name)
    return source or spec.data.evaluate[name.removeprefix("evaluate-")]


@contextmanager
def train_batches(run: Run, *, start_step: int) -> Iterator[TrainLoader]:
    """The stream of this rank's micro-batches from optimizer step `start_step` on."""
    data = run.spec.data
    loader = TrainLoader(
        run.manifests["train"],
        preprocess=run.model.preprocess,
        augment=augment_of(data.augmentation),
        sampler=build_sampler(run.spec, manifest=run.manifests["train"]),
        global_size=run.spec.batch.global_size,
        micro_size=run.micro_size,
        rank=run.rank,
        world_size=run.world_size,
        device=run.device.index if run.device.type == "cuda" else None,
        num_threads=data.decoder.num_threads,
        prefetch_batches=data.decoder.prefetch_batches,
        hardware_load=data.decoder.hardware_load,
        on_bad_sample=data.on_bad_sample,
        cache=open_cache(data.cache, trust_copies=True),
        tell=run.bad_samples.of("train"),
        start_step=start_step,
    )
    try:
        yield loader
    finally:
        loader.close()


def build_sampler(spec: JobSpec, *, manifest: Manifest) -> Sampler:
    """The order of the training samples and all that is drawn for them.

    Raises:
        UnusableDataError: the weights of a mixture or the balance of classes have nothing to draw from.
    """
    try:
        groups = groups_of(manifest, class_balanced=spec.data.class_balanced)
    except ValueError as error:
        raise UnusableDataError(f"data.train: {error}") from error
    return Sampler(
        len(manifest),
        seed=spec.seed,
        shuffle=spec.data.shuffle,
        epoch_end=spec.data.epoch_end,
        episode_size=spec.data.episode_size,
        episodes_from_first="itra-episode-rows" in spec.compat,
        groups=groups,
    )


def augment_of(spec: AugmentationSpec) -> Augment:
    """What the loader does to training images."""
    jitter, rand, blur = spec.color_jitter, spec.rand_augment, spec.blur
    return Augment(
        crop=spec.crop,
        crop_scale=spec.crop_scale,
        crop_ratio=spec.crop_ratio,
        horizontal_flip=spec.horizontal_flip,
        color_jitter=jitter and ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue),
        color_jitter_probability=jitter.probability if jitter else 1.0,
        rand_augment=rand and RandAugment(rand.magnitude, rand.magnitude_std, rand.num_ops, rand.increasing),
        three_augment=spec.three_augment,
        grayscale=spec.grayscale,
        blur=blur and GaussianBlur(blur.probability, blur.sigma),
        random_erasing=spec.random_erasing,
    )
