"""Runs a graph over planned batches of files, and when a file fails finds out which, and goes on from there.

The loaders plan, this reads: a plan is everything that is fixed about a batch before its files are opened. When DALI
fails a batch, or Pillow an image, the culprits are found by looking at each file, the pipeline is built anew and the
same batch is planned again, so that what follows does not depend on how far reading had run ahead.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.plugin.pytorch import feed_ndarray

from dali_pipelines import graphs, pillow_images
from dali_pipelines.manifest import NO_LABEL, Manifest
from dali_pipelines.pillow_images import UnreadableImage
from dali_pipelines.transforms import Preprocess
from dali_pipelines.validation import OnBadSample

PADDING = -1


class BadSampleError(Exception):
    """An image that was readable when the data was validated can no longer be decoded."""

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"image {path!r} can no longer be decoded: {reason}")


def default_num_threads(world_size: int) -> int:
    """The cores that this process may use, divided by the ranks on this machine."""
    ranks_here = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or world_size
    return max(1, len(os.sched_getaffinity(0)) // int(ranks_here))


@dataclass
class Plan:
    """All that is fixed about a batch before its files are read."""

    rows: np.ndarray  # as reported in the batch
    image_rows: np.ndarray  # whose images are read
    parameters: dict[str, np.ndarray]  # inputs of the graph
    text_draws: np.ndarray
    step: int = 0
    mix_draw: float = 0.0
    erasing: np.ndarray | None = None  # (B, 4)
    noise: np.ndarray | None = None  # (B,) uniform numbers that seed the noise


@dataclass
class Source:
    """The manifest and what was learnt since it was made: files gone bad, and files that DALI itself refuses."""

    manifest: Manifest
    on_bad_sample: OnBadSample
    bad: dict[int, str] = field(default_factory=dict)
    refused_by_dali: set[int] = field(default_factory=set)

    def substitutes(self, rows: np.ndarray) -> np.ndarray:
        """The rows, with the next good row in place of each bad one."""
        if not self.bad:
            return rows
        return np.array([self._next_good(int(row)) for row in rows], np.int64)

    def labels(self, rows: np.ndarray, device: torch.device) -> torch.Tensor:
        labels = np.where(rows == PADDING, NO_LABEL, self.manifest.labels[rows])
        return torch.from_numpy(labels.astype(np.int64)).to(device, non_blocking=True)

    def through_pillow(self, rows: np.ndarray) -> np.ndarray:
        return self.manifest.needs_pillow[rows] | np.isin(rows, list(self.refused_by_dali))

    def mark_bad(self, row: int, reason: str) -> None:
        self.bad[row] = reason
        if self.on_bad_sample == "fail" or len(self.bad) == len(self.manifest):
            raise BadSampleError(self.manifest.files([row])[0], reason)

    def _next_good(self, row: int) -> int:
        while row in self.bad:
            row = (row + 1) % len(self.manifest)
        return row


class Stream:
    """Runs a pipeline over planned batches, and when a file fails finds out which, and goes on from there."""

    def __init__(
        self,
        source: Source,
        *,
        plan: Callable[[int], Plan],
        first: int,
        graph: graphs.Graph,
        input_names: Callable[[bool], Sequence[str]],
        batch_size: int,
        device: int | None,
        num_threads: int,
        prefetch_batches: int,
        exif: pillow_images.Exif,
        last: int | None = None,
    ) -> None:
        self._source, self._plan, self._last, self._exif = source, plan, last, exif
        self._graph, self._input_names = graph, input_names
        self._options: dict[str, Any] = {
            "batch_size": batch_size,
            "device": device,
            "num_threads": num_threads,
            "prefetch_batches": prefetch_batches,
        }
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="pillow")
        self._next = first
        self._start()

    def next(self) -> tuple[Plan, torch.Tensor]:
        """The next plan and its images, (B, 3, H, W) in memory of their own."""
        while True:
            try:
                images = run(self._pipeline, self._options["device"])
            except RuntimeError as error:
                self._learn_from(error)
                self._start()
                continue
            self._next += 1
            return self._planned.popleft(), images

    def close(self) -> None:
        self._pool.shutdown()
        self._pipeline = None

    def _start(self) -> None:
        in_memory = bool(self._source.manifest.needs_pillow.any() or self._source.refused_by_dali)
        self._names = self._input_names(in_memory)
        self._planned: deque[Plan] = deque()
        self._to_feed = self._next
        self._pipeline = graphs.build(self._graph, self._names, self._feed, **self._options)

    def _feed(self) -> list[Any]:
        if self._to_feed == self._last:
            raise StopIteration
        plan, inputs = self._readable_plan(self._to_feed)
        self._planned.append(plan)
        self._to_feed += 1
        return [inputs[name] for name in self._names]

    def _readable_plan(self, index: int) -> tuple[Plan, dict[str, Any]]:
        """A plan and the graph's inputs; images that go through Pillow are decoded here."""
        while True:
            plan = self._plan(index)
            files = self._source.manifest.files(plan.image_rows)
            inputs = {"path": [np.frombuffer(file.encode(), np.uint8) for file in files], **plan.parameters}
            if "in_memory" not in self._names:
                return plan, inputs
            inputs["in_memory"] = self._source.through_pillow(plan.image_rows)
            encoded = self._decode_with_pillow(plan.image_rows, files, inputs["in_memory"])
            if encoded is not None:
                return plan, inputs | {"encoded": encoded}

    def _decode_with_pillow(self, rows: np.ndarray, files: list[str], chosen: np.ndarray) -> list[np.ndarray] | None:
        """PPM bytes of the chosen images; None if one was found bad, for the batch to be planned again."""
        encoded = [np.zeros(1, np.uint8)] * len(files)
        where = np.flatnonzero(chosen)
        num_bad = len(self._source.bad)
        decoded = self._pool.map(lambda place: _ppm_or_reason(files[place], self._exif), where)
        for place, result in zip(where, decoded, strict=True):
            if isinstance(result, UnreadableImage):
                self._source.mark_bad(int(rows[place]), str(result))
            else:
                encoded[place] = result
        return encoded if len(self._source.bad) == num_bad else None

    def _learn_from(self, error: RuntimeError) -> None:
        """Find what in the failed batch is to blame; if it is none of its files, the error stands."""
        plan = self._plan(self._next)
        suspects = np.unique(plan.image_rows[~self._source.through_pillow(plan.image_rows)])
        learnt = False
        for row, file in zip(suspects.tolist(), self._source.manifest.files(suspects), strict=True):
            reason = self._reason_to_refuse(row, file)
            if reason is not None:
                self._source.mark_bad(row, reason)
                learnt = True
            elif not _dali_decodes(file):
                self._source.refused_by_dali.add(row)
                learnt = True
        if not learnt:
            raise error

    def _reason_to_refuse(self, row: int, file: str) -> str | None:
        try:
            facts = pillow_images.inspect(file, exif=self._exif, fully=True)
        except UnreadableImage as unreadable:
            return str(unreadable)
        width, height = self._source.manifest.sizes[row]
        if (facts.width, facts.height) != (width, height):
            return f"it was {width}x{height} pixels when it was validated and is {facts.width}x{facts.height} now"
        return None


def _ppm_or_reason(file: str, exif: pillow_images.Exif) -> np.ndarray | UnreadableImage:
    try:
        return pillow_images.as_ppm(file, exif=exif)
    except UnreadableImage as unreadable:
        return unreadable


def _dali_decodes(file: str) -> bool:
    """Whether DALI decodes a file that Pillow accepts; some rare variants of a format only Pillow knows."""
    region = np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)
    inputs = [[np.frombuffer(file.encode(), np.uint8)], *region]
    names = graphs.evaluation_inputs(from_files=True, any_in_memory=False)
    graph = graphs.evaluation(Preprocess(image_size=1), device=None, hardware_load=0.0)
    probe = graphs.build(graph, names, lambda: inputs, batch_size=1, device=None, num_threads=1, prefetch_batches=1)
    try:
        probe.run()
    except RuntimeError:
        return False
    return True


def run(pipeline: Pipeline, device: int | None) -> torch.Tensor:
    """Run a pipeline of one output, and copy its uniform batch into torch's memory; the pipeline reuses its own."""
    # On a GPU the output, the copy and the release of DALI's buffer are ordered on torch's current stream.
    stream = None if device is None else torch.cuda.current_stream(device)
    (output,) = pipeline.run(stream)
    tensor = output.as_tensor()
    target = torch.empty(tensor.shape(), dtype=torch.float32, device="cpu" if device is None else f"cuda:{device}")
    return feed_ndarray(tensor, target, cuda_stream=stream)
