"""Makes runs for the tests of engines with several nodes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from service.launchers.base import Capacity, NodeShare, Run

# The modules beside the tests, and the clusters that benchmarks/ runs on as well.
sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[3] / "benchmarks")]

from gang_runs import Gang


@pytest.fixture
def new_gang(tmp_path: Path) -> Iterator[Callable[..., Gang]]:
    """Makes runs of a device on each of some nodes, and leaves none of their processes behind."""
    made: list[Gang] = []

    def make(nodes: Sequence[str] | Capacity, **changes: Any) -> Gang:
        names = [share.node for share in nodes.nodes] if isinstance(nodes, Capacity) else nodes
        job_dir = tmp_path / f"job-{len(made)}"
        (job_dir / "attempts" / "0001").mkdir(parents=True)
        id = f"ftjob-test-{time.time_ns()}"
        placement = tuple(NodeShare(name, (0,)) for name in names)
        made.append(Gang(Run(job_id=id, attempt=1, job_dir=job_dir, placement=placement, **changes)))
        return made[-1]

    yield make
    for gang in made:
        for process in gang.processes():
            process.kill()
