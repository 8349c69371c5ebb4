"""Runs a graph over planned batches of images, and when one fails finds out which, and goes on from there.

The loaders plan, this reads: a plan is everything that is fixed about a batch before its images are opened. Whole local
files are read by DALI itself; parts of files, remote objects and what Pillow decodes come as bytes, loaded ahead of the
graph in threads. When DALI fails a batch, or an image cannot be loaded, the culprits are found by looking at each, and
the same batch is planned again, so that what follows does not depend on how far reading had run ahead.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.plugin.pytorch import feed_ndarray

from dali_pipelines import graphs
from dali_pipelines.pillow_images import Exif, UnreadableImage
from dali_pipelines.read_ahead import ReadAhead
from dali_pipelines.source import PADDING, BadSampleError, ImagePlace, Loaded, Source
from dali_pipelines.storage import NUM_REMOTE_READERS
from dali_pipelines.transforms import Preprocess

__all__ = ["PADDING", "BadSampleError", "Plan", "Source", "Stream", "default_num_threads", "run"]

_NOTHING = np.zeros(1, np.uint8)


def default_num_threads(world_size: int) -> int:
    """The cores that this process may use, divided by the ranks on this machine."""
    ranks_here = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or world_size
    return max(1, len(os.sched_getaffinity(0)) // int(ranks_here))


@dataclass
class Plan:
    """All that is fixed about a batch before its images are read."""

    rows: np.ndarray  # as reported in the batch
    image_rows: np.ndarray  # whose images are read
    parameters: dict[str, np.ndarray]  # inputs of the graph
    text_draws: np.ndarray
    step: int = 0
    mix_draws: np.ndarray | None = None  # (B, MIX_DRAWS)
    erasing: np.ndarray | None = None  # (B, 4)
    noise: np.ndarray | None = None  # (B,) uniform numbers that seed the noise


class Stream:
    """Runs a pipeline over planned batches, and when an image fails finds out which, and goes on from there."""

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
        exif: Exif,
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
        num_readers = max(num_threads, NUM_REMOTE_READERS) if source.is_remote else num_threads
        self._pool = ThreadPoolExecutor(num_readers, thread_name_prefix="images")
        self._batches_ahead = 1 + max(2, -(-2 * num_readers // batch_size))
        self._next = first
        self._start()

    def next(self) -> tuple[Plan, torch.Tensor]:
        """The next plan and its images, (B, 3, H, W) in memory of their own."""
        while True:
            try:
                images = run(self._pipeline, self._options["device"])
            except RuntimeError as error:
                self._learn_from(error)
                self._ahead.close()
                self._start()
                continue
            self._next += 1
            return self._planned.popleft(), images

    def close(self) -> None:
        self._ahead.close()
        self._pool.shutdown()
        self._pipeline = None

    def _start(self) -> None:
        in_memory = self._source.in_memory(np.arange(len(self._source.manifest)))
        names = self._input_names(bool(in_memory.any()))
        self._names = [name for name in names if not (in_memory.all() and name in ("path", "in_memory"))]
        self._planned: deque[Plan] = deque()
        self._ahead: ReadAhead[Plan, ImagePlace, Loaded] = ReadAhead(
            plan=self._plan,
            items=lambda plan: self._source.to_load(plan.image_rows),
            load=lambda place: self._source.load(place, exif=self._exif),
            pool=self._pool,
            first=self._next,
            last=self._last,
            num_batches=self._batches_ahead if in_memory.any() else 1,
        )
        self._pipeline = graphs.build(self._graph, self._names, self._feed, **self._options)

    def _feed(self) -> list[Any]:
        while (head := self._ahead.head()) is not None:
            plan, loaded = head[0], {place.row: image for place, image in head[1].items()}
            if self._all_good(loaded):
                self._ahead.pop()
                self._planned.append(plan)
                inputs = self._inputs(plan, loaded)
                return [inputs[name] for name in self._names]
            self._ahead.plan_again()
        raise StopIteration

    def _all_good(self, loaded: dict[int, Loaded]) -> bool:
        bad = {row: image.reason for row, image in loaded.items() if image.reason is not None}
        for row, reason in bad.items():
            self._source.mark_bad(row, reason)
        return not bad

    def _inputs(self, plan: Plan, loaded: dict[int, Loaded]) -> dict[str, Any]:
        inputs: dict[str, Any] = dict(plan.parameters)
        if "path" in self._names:
            files = self._source.manifest.files(plan.image_rows)
            inputs["path"] = [np.frombuffer(file.encode(), np.uint8) for file in files]
        if "in_memory" in self._names:
            inputs["in_memory"] = self._source.in_memory(plan.image_rows)
        if "encoded" in self._names:
            rows = plan.image_rows.tolist()
            inputs["encoded"] = [loaded[row].encoded if row in loaded else _NOTHING for row in rows]
        return inputs

    def _learn_from(self, error: RuntimeError) -> None:
        """Find what in the failed batch is to blame; if it is none of its images, the error stands."""
        plan = self._plan(self._next)
        suspects = np.unique(plan.image_rows[~self._source.through_pillow(plan.image_rows)])
        learnt = False
        for row in suspects.tolist():
            try:
                encoded = self._source.inspected(row, exif=self._exif)
            except UnreadableImage as unreadable:
                self._source.mark_bad(row, str(unreadable))
                learnt = True
                continue
            if not _dali_decodes(encoded):
                self._source.refused_by_dali |= {row}
                learnt = True
        if not learnt:
            raise error


def _dali_decodes(encoded: bytes) -> bool:
    """Whether DALI decodes an image that Pillow accepts; some rare variants of a format only Pillow knows."""
    region = np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)
    inputs = [[np.frombuffer(encoded, np.uint8)], *region]
    names = graphs.evaluation_inputs(from_files=False, any_in_memory=False)
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
