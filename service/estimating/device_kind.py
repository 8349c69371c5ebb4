"""What the devices that jobs run on are, and how much memory each has."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil
import pynvml

from service.launchers.base import Capacity
from trainer.gpu_peaks import bf16_peak

_CPU_FLOPS_PER_CORE = 20e9  # what matrix products in fp32 come to on a core of a server, roughly
_UTILISATION = 0.35  # of a GPU's bf16 peak, in training of ViTs without further tuning
_FP32_UTILISATION = 0.05


@dataclass(frozen=True)
class DeviceKind:
    """One device of an engine."""

    name: str
    memory_bytes: int | None
    """None where it cannot be asked from here."""
    flops: float | None
    """FLOP/s that training comes to, as a rule; None where it is not known."""


def device_kind(capacity: Capacity, *, precision: str) -> DeviceKind:
    """What a device of this engine is, as far as this machine has the like."""
    if capacity.kind == "cpu":
        slots = max(1, capacity.count)
        share = (os.cpu_count() or 1) / slots
        return DeviceKind("CPU process", psutil.virtual_memory().total // slots, share * _CPU_FLOPS_PER_CORE)
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return DeviceKind("GPU", None, None)
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        name, memory = str(pynvml.nvmlDeviceGetName(handle)), int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    finally:
        pynvml.nvmlShutdown()
    peak = bf16_peak(name)
    utilisation = _FP32_UTILISATION if precision == "fp32" else _UTILISATION
    return DeviceKind(name, memory, None if peak is None else peak * utilisation)
