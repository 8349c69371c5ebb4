"""Bad samples found during a run: gathered from all ranks, told once each, and counted."""

from __future__ import annotations

from collections.abc import Callable

import torch.distributed as dist

from dali_pipelines.bad_samples import BadSample
from dali_pipelines.validation import OnBadSample
from trainer import events
from trainer.distributed import cpu_group
from trainer.reporting import Reporter


class BadSampleLog:
    """What the loaders of an attempt have found."""

    def __init__(self, on_bad_sample: OnBadSample) -> None:
        self._on_bad_sample = on_bad_sample
        self._news: list[tuple[str, BadSample]] = []
        self._told: dict[str, set[int]] = {}

    def of(self, dataset: str) -> Callable[[BadSample], None]:
        """What a loader of a data set calls with each image that it finds bad."""
        return lambda sample: self._news.append((dataset, sample))

    def report(self, reporter: Reporter) -> None:
        """Report what any rank has found since. All ranks must call it."""
        gathered: list[list[tuple[str, BadSample]]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(gathered, self._news, group=cpu_group())
        self._news = []
        for dataset, sample in (found for news in gathered for found in news):
            told = self._told.setdefault(dataset, set())
            if sample.row not in told:
                told.add(sample.row)
                reporter.write(self._event(dataset, sample, num_bad=len(told)))

    def _event(self, dataset: str, sample: BadSample, *, num_bad: int) -> events.BadSample:
        return events.BadSample(
            dataset=dataset.removeprefix("evaluate-"),
            key=sample.key,
            reason=sample.reason,
            action="replaced" if dataset == "train" and self._on_bad_sample == "replace" else "skipped",
            num_bad=num_bad,
        )
