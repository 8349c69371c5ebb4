from __future__ import annotations

import pytest

from service.launchers.devices import find_devices, gpu_uuids, select_visible

UUIDS = ["GPU-aaaa-1", "GPU-aaab-2", "GPU-cccc-3"]


@pytest.mark.parametrize(
    ("visible", "chosen"),
    [
        (None, (0, 1, 2)),
        ("", ()),
        ("-1", ()),
        ("2,0", (2, 0)),
        (" 1 , 2", (1, 2)),
        ("0,7,1", (0,)),
        ("1,1", (1,)),
        ("GPU-cccc-3,GPU-aaab", (2, 1)),
        ("GPU-aaa", ()),
        ("MIG-123", ()),
    ],
)
def test_visible_devices_are_read_as_cuda_reads_them(visible: str | None, chosen: tuple[int, ...]) -> None:
    assert select_visible(UUIDS, visible) == chosen


def test_without_gpus_there_is_room_for_processes() -> None:
    found = find_devices(cpu_slots=3, visible="")
    assert (found.kind, found.devices) == ("cpu", (0, 1, 2))


@pytest.mark.gpu
def test_gpus_are_found_by_the_driver() -> None:
    uuids = gpu_uuids()
    if not uuids:
        pytest.skip("this machine has no NVIDIA GPU")
    found = find_devices(cpu_slots=3, visible=None)
    assert (found.kind, found.devices) == ("gpu", tuple(range(len(uuids))))
