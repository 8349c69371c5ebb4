"""How many more jobs of each project may start, counted while waiting jobs are read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from service.jobs.scheduling.state import Running, Share, Waiting


class Quotas:
    """What is left of the projects' quotas."""

    def __init__(self, shares: Mapping[str, Share], running: Iterable[Running]) -> None:
        self._jobs = {name: _number(share.max_running_jobs) for name, share in shares.items()}
        self._devices = {name: _number(share.max_devices) for name, share in shares.items()}
        for run in running:
            self._jobs[run.project_id] -= 1
            self._devices[run.project_id] -= run.num_devices
        self._most = {name: min(self._jobs[name], self._devices[name]) for name in shares}

    def most(self, project: str) -> float:
        """Most jobs that a project may start beside those that run; infinite without a quota."""
        return self._most[project]

    def admit(self, job: Waiting) -> bool:
        """Whether a job may start beside those that run and those admitted before; it is counted then."""
        project = job.project_id
        if self._jobs[project] < 1 or self._devices[project] < job.num_devices:
            return False
        self._jobs[project] -= 1
        self._devices[project] -= job.num_devices
        return True


def _number(quota: int | None) -> float:
    return math.inf if quota is None else quota
