"""A job's place among others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer.spec_checks.problem import Problem

if TYPE_CHECKING:
    from trainer.spec import JobSpec


def _fewest_devices(spec: JobSpec) -> Iterator[Problem]:
    fewest, devices = spec.scheduling.min_devices, spec.parallel.devices
    if fewest is None or devices == "auto":
        return
    wanted = devices * spec.parallel.nodes
    if fewest > wanted:
        message = (
            f"parallel.devices {devices} x parallel.nodes {spec.parallel.nodes} are only {wanted} devices; use less"
        )
        yield Problem("scheduling.min_devices", fewest, message)


CHECKS = (_fewest_devices,)
