"""Which devices this machine has: its NVIDIA GPUs by NVML, or else room for processes on its CPU."""

from __future__ import annotations

from collections.abc import Sequence

import pynvml

from service.launchers.base import Capacity


def find_devices(*, cpu_slots: int, visible: str | None) -> Capacity:
    """The GPUs that `visible` (CUDA_VISIBLE_DEVICES, or None) leaves; without any, `cpu_slots` CPU devices."""
    gpus = select_visible(gpu_uuids(), visible)
    return Capacity.of_this_machine("gpu", gpus) if gpus else Capacity.of_this_machine("cpu", range(cpu_slots))


def gpu_uuids() -> list[str]:
    """UUIDs of all GPUs in PCI bus order; empty where there is no NVIDIA driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [str(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles]
    finally:
        pynvml.nvmlShutdown()


def select_visible(uuids: Sequence[str], visible: str | None) -> tuple[int, ...]:
    """Numbers of the GPUs that CUDA_VISIBLE_DEVICES names, by number or by the start of their UUID.

    As CUDA does, the list ends at the first entry that names no GPU.
    https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/environment-variables.html
    """
    if visible is None:
        return tuple(range(len(uuids)))
    chosen: list[int] = []
    for entry in (part.strip() for part in visible.split(",")):
        named = [i for i, uuid in enumerate(uuids) if entry == str(i) or (len(entry) > 4 and uuid.startswith(entry))]
        if len(named) != 1 or named[0] in chosen:
            break
        chosen.append(named[0])
    return tuple(chosen)
