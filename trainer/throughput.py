"""How fast training goes: images a second, waiting for data, time left, model FLOP utilisation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from trainer.gpu_peaks import bf16_peak

_Item = TypeVar("_Item")


class ThroughputMeter:
    """Counts samples and waiting between logged steps; evaluation and checkpoints do not count as training time."""

    def __init__(self, *, samples_per_step: int, remaining_steps: int) -> None:
        self._samples_per_step = samples_per_step
        self._remaining_steps = remaining_steps
        self._total_seconds = 0.0
        self._total_steps = 0
        self._steps = 0
        self._waited = 0.0
        self._started = time.perf_counter()

    def waiting_for(self, items: Iterator[_Item], *, count: int) -> Iterator[_Item]:
        """The next `count` of `items`; the time that each takes to come is waiting for data."""
        for _ in range(count):
            begin = time.perf_counter()
            item = next(items)
            self._waited += time.perf_counter() - begin
            yield item

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside is not training time."""
        begin = time.perf_counter()
        yield
        self._started += time.perf_counter() - begin

    def count_step(self) -> None:
        """One more optimizer step is done."""
        self._steps += 1

    def read(self) -> tuple[float, float, float]:
        """Samples a second and data-wait share since the last reading, and seconds left; starts a new interval."""
        now = time.perf_counter()
        seconds = max(now - self._started, 1e-9)
        rate = self._steps * self._samples_per_step / seconds
        wait_share = min(1.0, self._waited / seconds)
        self._total_seconds += seconds
        self._total_steps += self._steps
        self._remaining_steps -= self._steps
        left = self._remaining_steps * self._total_seconds / max(1, self._total_steps)
        self._steps, self._waited, self._started = 0, 0.0, now
        return rate, wait_share, left


def peak_flops(device: torch.device) -> float | None:
    """The device's dense bf16 peak in FLOP/s, or None if it is not a known GPU."""
    if device.type != "cuda":
        return None
    return bf16_peak(torch.cuda.get_device_name(device))


def forward_flops(module: nn.Module, *inputs: Tensor) -> int:
    """FLOPs of one forward pass: two for each multiply-add of matrix products, convolutions and attention."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module(*inputs)
    return int(counter.get_total_flops())


def model_flop_utilisation(
    *, flops_per_sample: int, samples_per_s: float, world_size: int, device: torch.device
) -> float | None:
    """Share of the peak that the model's arithmetic uses: forward plus twice that for backward, no recomputation."""
    peak = peak_flops(device)
    return None if peak is None else 3 * flops_per_sample * samples_per_s / (peak * world_size)
