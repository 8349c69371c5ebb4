"""Batches for training and evaluation. A training loader's whole state is one integer, the step.

What a loader yields is a function of the manifest, the sampler and the step: reads and decoding run ahead in DALI's
threads, but nothing that is drawn depends on them or on where the loader was started. It does not depend on the number
of ranks or the micro-batch size either: ranks and accumulation only divide the positions of a step among themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch

from dali_pipelines import draws, graphs
from dali_pipelines.bad_samples import BadSample
from dali_pipelines.manifest import Manifest
from dali_pipelines.sampler import Sampler
from dali_pipelines.storage import Cache
from dali_pipelines.stream import PADDING, BadSampleError, Plan, Source, Stream, default_num_threads
from dali_pipelines.transforms import Augment, Preprocess, resize_regions
from dali_pipelines.validation import OnBadSample

__all__ = ["MIX_DRAWS", "BadSampleError", "Batch", "EvalLoader", "TrainLoader"]

MIX_DRAWS = 5
"""Whether, how, by which share and where a pair of images is mixed."""


@dataclass(frozen=True)
class Batch:
    """Images on their way into the model."""

    images: torch.Tensor
    """(B, 3, H, W) float32, normalised, on the device."""
    rows: np.ndarray
    """(B,) int64 manifest rows; -1 marks padding, in evaluation only."""
    labels: torch.Tensor
    """(B,) int64 on the device; -1 where there is none."""
    text_draws: np.ndarray
    """(B,) uint32 that choose a caption or template, by remainder; zeros in evaluation."""
    step: int = 0
    """Optimizer step that the batch belongs to, counted from 0; 0 in evaluation."""
    mix_draws: np.ndarray | None = None
    """(B, MIX_DRAWS) float64 uniform numbers for mixing neighbouring images; None in evaluation."""
    parameters: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What was drawn for the images: the inputs of the graph by name, (B, ...) each; empty in evaluation."""


class TrainLoader:
    """An endless stream of micro-batches.

    Accumulation step `a` of optimizer step `s` covers, on each rank, `micro_size` positions of step `s` from
    `(a * world_size + rank) * micro_size` on. A loader made with `start_step=s` yields exactly what another one
    yields from step `s` on.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        preprocess: Preprocess,
        augment: Augment,
        sampler: Sampler,
        global_size: int,
        micro_size: int,
        rank: int = 0,
        world_size: int = 1,
        device: int | None = None,
        num_threads: int | None = None,
        prefetch_batches: int = 2,
        hardware_load: float = 0.65,
        start_step: int = 0,
        on_bad_sample: OnBadSample = "fail",
        cache: Cache | None = None,
        tell: Callable[[BadSample], None] | None = None,
        make_graph: Callable[..., graphs.Graph] = graphs.training,
    ) -> None:
        if global_size % (micro_size * world_size):
            raise ValueError(
                f"global_size {global_size} is not divisible by micro_size {micro_size} x {world_size} ranks"
            )
        if len(manifest) != sampler.num_samples:
            raise ValueError(f"the sampler draws from {sampler.num_samples} samples, the manifest has {len(manifest)}")
        sampler.steps_per_epoch(global_size)
        self._preprocess, self._augment, self._sampler = preprocess, augment, sampler
        self._global_size, self._micro_size = global_size, micro_size
        self._rank, self._world_size = rank, world_size
        self._micro_batches_per_step = global_size // (micro_size * world_size)
        self._source = Source(
            manifest,
            on_bad_sample=on_bad_sample,
            seed=sampler.seed,
            cache=cache or Cache.open(trust_copies=True),
            tell=tell,
        )
        self._stream = Stream(
            self._source,
            plan=self._plan,
            first=start_step * self._micro_batches_per_step,
            graph=make_graph(preprocess, augment, device=device, hardware_load=hardware_load),
            input_names=lambda in_memory: graphs.training_inputs(augment, any_in_memory=in_memory),
            batch_size=micro_size,
            device=device,
            num_threads=num_threads or default_num_threads(world_size),
            prefetch_batches=prefetch_batches,
            exif=preprocess.exif,
        )

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        plan, images = self._stream.next()
        _erase(images, plan.erasing, plan.noise)
        labels = self._source.labels(plan.rows, images.device)
        return Batch(images, plan.rows, labels, plan.text_draws, plan.step, plan.mix_draws, plan.parameters)

    @property
    def num_bad(self) -> int:
        """Images that were found unreadable and replaced so far."""
        return len(self._source.bad)

    def close(self) -> None:
        """Free the pipeline's memory and threads."""
        self._stream.close()

    def _plan(self, index: int) -> Plan:
        step, accumulation = divmod(index, self._micro_batches_per_step)
        start = (accumulation * self._world_size + self._rank) * self._micro_size
        stop = start + self._micro_size
        rows = self._source.substitutes(self._sampler.rows(step, global_size=self._global_size)[start:stop])

        def uniforms(stream: str, count: int) -> np.ndarray:
            return self._sampler.draws(step, stream, count, global_size=self._global_size, start=start, stop=stop)

        parameters = draws.training_parameters(
            self._augment, uniforms, self._source.manifest.sizes[rows], image_size=self._preprocess.image_size
        )
        plan = Plan(rows, rows, parameters, _text_draws(uniforms("text", 1)), step=step)
        plan.mix_draws = uniforms("mix", MIX_DRAWS)
        if self._augment.random_erasing:
            erasing = uniforms("erasing", draws.ERASING_DRAWS)
            plan.erasing = draws.erasing_boxes(
                erasing, image_size=self._preprocess.image_size, probability=self._augment.random_erasing
            )
            plan.noise = erasing[:, -2]
        return plan


class EvalLoader:
    """One pass over a manifest; rank r takes rows r, r + world_size, ... Iterate again for another pass.

    Every rank yields the same number of batches of the same sizes: where rows run out, a real image is repeated
    under row -1. A file that has become unreadable raises BadSampleError, or with `on_bad_sample` `skip` or `replace`
    becomes such padding too: no image ever counts twice.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        preprocess: Preprocess,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        device: int | None = None,
        num_threads: int | None = None,
        prefetch_batches: int = 2,
        hardware_load: float = 0.65,
        on_bad_sample: OnBadSample = "fail",
        cache: Cache | None = None,
        tell: Callable[[BadSample], None] | None = None,
    ) -> None:
        if not len(manifest):
            raise ValueError("the manifest holds no samples to evaluate")
        self._preprocess = preprocess
        self._source = Source(
            manifest, on_bad_sample=on_bad_sample, cache=cache or Cache.open(trust_copies=True), tell=tell
        )
        num_each = -(-len(manifest) // world_size)
        mine = np.arange(rank, len(manifest), world_size, dtype=np.int64)
        self._rows = np.concatenate([mine, np.full(num_each - len(mine), PADDING, np.int64)])
        self._batch_size = min(batch_size, num_each)
        self._make_stream = lambda: Stream(
            self._source,
            plan=self._plan,
            first=0,
            last=len(self),
            graph=graphs.evaluation(preprocess, device=device, hardware_load=hardware_load),
            input_names=lambda in_memory: graphs.evaluation_inputs(from_files=True, any_in_memory=in_memory),
            batch_size=self._batch_size,
            device=device,
            num_threads=num_threads or default_num_threads(world_size),
            prefetch_batches=prefetch_batches,
            exif=preprocess.exif,
        )

    def __len__(self) -> int:
        return -(-len(self._rows) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        stream = self._make_stream()
        try:
            for _ in range(len(self)):
                plan, images = stream.next()
                yield Batch(images, plan.rows, self._source.labels(plan.rows, images.device), plan.text_draws)
        finally:
            stream.close()

    @property
    def num_bad(self) -> int:
        """Images that were found unreadable and left out so far."""
        return len(self._source.bad)

    def _plan(self, index: int) -> Plan:
        rows = self._rows[index * self._batch_size : (index + 1) * self._batch_size]
        real = self._source.substitutes(np.where(rows == PADDING, 0, rows))
        start, end = resize_regions(self._source.manifest.sizes[real], self._preprocess)
        parameters = {"region_start": start, "region_end": end}
        return Plan(np.where(real == rows, rows, PADDING), real, parameters, np.zeros(len(rows), np.uint32))


def _erase(images: torch.Tensor, boxes: np.ndarray | None, noise: np.ndarray | None) -> None:
    if boxes is None or noise is None:
        return
    for image, (top, left, height, width), seed in zip(images, boxes.tolist(), noise.tolist(), strict=True):
        if height:
            patch = torch.from_numpy(draws.normal_noise(seed, (3, height, width)))
            image[:, top : top + height, left : left + width] = patch.to(image.device)


def _text_draws(uniforms: np.ndarray) -> np.ndarray:
    return np.floor(uniforms[:, 0] * 2**32).astype(np.uint32)
