"""Watches how much of its time training waits for data, and says once which stage is slow and what to change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dali_pipelines.loader import BadSampleError
from dali_pipelines.stage_times import STAGES, Stage, StageTimes, measure
from trainer import events
from trainer.data_sources import open_cache
from trainer.training_data import augment_of

if TYPE_CHECKING:
    from trainer.reporting import Reporter
    from trainer.setup import Run

_LARGEST_SHARE = 0.05
_FEWEST_STEPS = 10  # a shorter window is joined to the next one


class DataWaitWatch:
    """Looks at each logged step of an attempt."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._done = run.rank != 0
        self._last_step: int | None = None  # the first logged step fills the pipeline, and does not count
        self._steps, self._seconds, self._waited = 0, 0.0, 0.0

    def look(self, step: events.Step, *, reporter: Reporter) -> None:
        """Warn at the first window of at least ten steps in which waiting took more than 5 % of the time.

        Finding the slow stage takes a few seconds, once in an attempt.
        """
        if not self._done and self._is_excessive(step):
            self._done = True
            reporter.write(events.Message(level="warn", message=self._warning()))

    def _warning(self) -> str:
        share = self._waited / self._seconds
        head = f"{share:.0%} of the time of the last {self._steps} steps was spent waiting for data"
        try:
            times = _stage_times(self._run)
        except (BadSampleError, RuntimeError, OSError) as error:  # the run itself goes on
            return f"{head}; its stages could not be timed: {error}"
        wanted = self._steps * self._run.spec.batch.global_size / self._run.world_size / (self._seconds - self._waited)
        return f"{head}. {diagnosis(times, wanted=wanted, run=self._run)}"

    def _is_excessive(self, step: events.Step) -> bool:
        before, self._last_step = self._last_step, step.step
        if before is None:
            return False
        steps = step.step - before
        seconds = steps * self._run.spec.batch.global_size / step.images_per_s
        self._steps, self._seconds = self._steps + steps, self._seconds + seconds
        self._waited += step.data_wait_share * seconds
        if self._steps < _FEWEST_STEPS:
            return False
        if self._waited > _LARGEST_SHARE * self._seconds:
            return True
        self._steps, self._seconds, self._waited = 0, 0.0, 0.0
        return False


def diagnosis(times: StageTimes, *, wanted: float, run: Run) -> str:
    """Which stage is slow and what to change.

    Args:
        wanted: images/s that this rank's model would take if it never waited.
    """
    stages = ", ".join(f"{stage} {1000 * times.seconds[stage]:.2f}" for stage in STAGES)
    measured = (
        f"On {times.num_threads} threads an image takes, in ms: {stages}; that is {times.images_per_s:.0f} images/s "
        f"for a model that takes {wanted:.0f}"
    )
    if times.images_per_s > wanted:
        return (
            f"{measured}. The stages are fast enough by themselves, so they come in bursts or lack cores while the "
            "model computes: raise data.decoder.prefetch_batches, or leave the job more cores"
        )
    return f"{measured}. The slowest stage is {times.slowest}: {remedy(times.slowest, times, run=run)}"


def remedy(stage: Stage, times: StageTimes, *, run: Run) -> str:
    """What to change so that a stage takes less."""
    side = run.model.preprocess.image_size
    width, height = times.median_size
    smaller = f"store smaller images (the median has {width} x {height} pixels; the model takes {side} x {side})"
    threads = f"raise data.decoder.num_threads ({times.num_threads} now) as far as there are cores"
    match stage:
        case "reading":
            return (
                "bring the data onto a fast local disk (`attune data stage`), as tar shards if the files are small, "
                "and raise data.decoder.prefetch_batches"
            )
        case "decoding":
            hardware = f"raise data.decoder.hardware_load ({run.spec.data.decoder.hardware_load:g} now), "
            return f"{hardware if run.device.type == 'cuda' else ''}{threads}, or {smaller}"
        case "resizing":
            return f"{smaller}, or {threads}"
        case "augmenting":
            return f"{threads}, or augment less (data.augmentation: rand_augment.num_ops, blur, color_jitter)"


def _stage_times(run: Run) -> StageTimes:
    data = run.spec.data
    return measure(
        run.manifests["train"],
        preprocess=run.model.preprocess,
        augment=augment_of(data.augmentation),
        device=run.device.index if run.device.type == "cuda" else None,
        num_threads=data.decoder.num_threads,
        world_size=run.world_size,
        prefetch_batches=data.decoder.prefetch_batches,
        hardware_load=data.decoder.hardware_load,
        cache=open_cache(data.cache, trust_copies=True),
    )
