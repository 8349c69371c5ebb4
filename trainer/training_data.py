"""The data of a run: the manifests that preflight left, and the stream of training batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dali_pipelines.loader import TrainLoader
from dali_pipelines.manifest import Manifest
from dali_pipelines.sampler import Sampler
from dali_pipelines.transforms import Augment
from trainer.job_dir import JobDir
from trainer.spec import AugmentationSpec, JobSpec

if TYPE_CHECKING:
    from trainer.setup import Run


def dataset_names(spec: JobSpec) -> list[str]:
    """`train`, `validation` and `evaluate-NAME`, as far as the spec has them."""
    held_out = ["validation"] if spec.data.validation is not None else []
    return ["train", *held_out, *(f"evaluate-{name}" for name in spec.data.evaluate)]


def load_manifests(spec: JobSpec, *, job: JobDir) -> dict[str, Manifest]:
    """The manifests that preflight left in the job folder."""
    return {name: Manifest.load(job.manifest(name)) for name in dataset_names(spec)}


@contextmanager
def train_batches(run: Run, *, start_step: int) -> Iterator[TrainLoader]:
    """The stream of this rank's micro-batches from optimizer step `start_step` on."""
    data = run.spec.data
    loader = TrainLoader(
        run.manifests["train"],
        preprocess=run.model.preprocess,
        augment=_augment(data.augmentation),
        sampler=build_sampler(run.spec, num_samples=len(run.manifests["train"])),
        global_size=run.spec.batch.global_size,
        micro_size=run.micro_size,
        rank=run.rank,
        world_size=run.world_size,
        device=run.device.index if run.device.type == "cuda" else None,
        num_threads=data.decoder.num_threads,
        prefetch_batches=data.decoder.prefetch_batches,
        hardware_load=data.decoder.hardware_load,
        on_bad_sample=data.on_bad_sample,
        start_step=start_step,
    )
    try:
        yield loader
    finally:
        loader.close()


def build_sampler(spec: JobSpec, *, num_samples: int) -> Sampler:
    """The order of the training samples and all that is drawn for them."""
    return Sampler(
        num_samples,
        seed=spec.seed,
        shuffle=spec.data.shuffle,
        epoch_end=spec.data.epoch_end,
        episode_size=spec.data.episode_size,
        episodes_from_first="itra-episode-rows" in spec.compat,
    )


def _augment(spec: AugmentationSpec) -> Augment:
    jitter, rand = spec.color_jitter, spec.rand_augment
    return Augment(
        crop_scale=spec.crop_scale,
        crop_ratio=spec.crop_ratio,
        horizontal_flip=spec.horizontal_flip,
        color_jitter=jitter and (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue),
        rand_augment=rand and (rand.magnitude, rand.magnitude_std, rand.num_ops, rand.increasing),
        random_erasing=spec.random_erasing,
    )
