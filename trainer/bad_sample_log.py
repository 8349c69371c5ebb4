"""Bad samples found during a run: gathered from all ranks, told once each, and counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.distributed as dist

from dali_pipelines.bad_samples import BadSample, in_common
from dali_pipelines.validation import OnBadSample
from trainer import events
from trainer.distributed import cpu_group
from trainer.errors import UnusableDataError
from trainer.reporting import Reporter


class BadSampleLog:
    """What the loaders of an attempt have found."""

    def __init__(
        self, on_bad_sample: OnBadSample, *, num_samples: Mapping[str, int], max_bad_share: float = 1.0
    ) -> None:
        """`num_samples`: of each data set; with more than `max_bad_share` of one bad, the attempt ends."""
        self._on_bad_sample = on_bad_sample
        self._num_samples, self._max_bad_share = num_samples, max_bad_share
        self._news: list[tuple[str, BadSample]] = []
        self._told: dict[str, dict[int, BadSample]] = {}

    def of(self, dataset: str) -> Callable[[BadSample], None]:
        """What a loader of a data set calls with each image that it finds bad."""
        return lambda sample: self._news.append((dataset, sample))

    def report(self, reporter: Reporter, *, bounded: bool = True) -> None:
        """Report what any rank has found since. All ranks must call it.

        Raises:
            UnusableDataError: on all ranks, if `bounded`: more than `max_bad_share` of a data set are bad.
        """
        gathered: list[list[tuple[str, BadSample]]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(gathered, self._news, group=cpu_group())
        self._news = []
        for dataset, sample in (found for news in gathered for found in news):
            told = self._told.setdefault(dataset, {})
            if sample.row not in told:
                told[sample.row] = sample
                reporter.write(self._event(dataset, sample, num_bad=len(told)))
        if bounded:
            self._require_few()

    def _require_few(self) -> None:
        for dataset, told in self._told.items():
            total = self._num_samples[dataset]
            if len(told) > self._max_bad_share * total:
                shared = in_common([(sample.key, sample.reason) for sample in told.values()])
                raise UnusableDataError(
                    f"data.{dataset.replace('evaluate-', 'evaluate.', 1)}: {len(told)} of {total} images went bad "
                    f"during the run, and data.max_bad_share allows {self._max_bad_share:g}: {shared}"
                )

    def _event(self, dataset: str, sample: BadSample, *, num_bad: int) -> events.BadSample:
        return events.BadSample(
            dataset=dataset.removeprefix("evaluate-"),
            key=sample.key,
            reason=sample.reason,
            action="replaced" if dataset == "train" and self._on_bad_sample == "replace" else "skipped",
            num_bad=num_bad,
        )
