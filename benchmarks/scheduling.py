"""What a scheduling decision costs with 10, 1,000 and 10,000 queued jobs.

    python benchmarks/scheduling.py

For each length of the queue, on a fresh SQLite database with eight devices: a turn that starts a job (`start`), one
while all devices are taken (`full`), and one while a job waits for more devices than are free (`held`). Writes a table
of CPU milliseconds, the median of `--repeats` turns. The cost must not grow with the queue.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from service.jobs.scheduling.scheduler import Scheduler
from service.launchers.base import Capacity
from service.store.records import AttemptEnd, EndReason, JobRecord, JobStatus, ProjectRecord, new_id
from service.store.rows import values_of
from service.store.store import Store
from service.store.tables import jobs

LENGTHS = (10, 100, 1_000, 10_000)
DEVICES = 8
PROJECTS = 4


@dataclass
class Machine:
    """Eight devices, and nothing that could run on them."""

    name: str = "local"
    shared: bool = False

    def capacity(self) -> Capacity:
        """Always the same."""
        return Capacity.of_this_machine("gpu", range(DEVICES))


@dataclass(frozen=True)
class Cost:
    """Median CPU milliseconds of a turn."""

    queued: int
    start: float
    full: float
    held: float


def measure(folder: Path, *, queued: int, repeats: int) -> Cost:
    """Fill a database with `queued` jobs and time the turns."""
    store = Store(f"sqlite:///{folder / f'queue-{queued}.db'}")
    store.upgrade()
    _fill(store, queued)
    machine = Machine()
    start = _median(lambda: _turn(store, machine, undo=True), repeats)
    first = _begin(store, devices=DEVICES)
    full = _median(lambda: _turn(store, machine), repeats)
    store.attempts.finish(first, 1, AttemptEnd(reason=EndReason.CANCELLED, message="over"), to=None)
    _begin(store, devices=DEVICES - 1)
    _large_job(store)
    held = _median(lambda: _turn(store, machine), repeats)
    store.close()
    return Cost(queued, start, full, held)


def _fill(store: Store, queued: int) -> None:
    for number in range(1, PROJECTS):
        store.projects.create(ProjectRecord(id=f"p{number}", name=f"p{number}", created_at=0.0))
    names = ["default", *(f"p{number}" for number in range(1, PROJECTS))]
    # As large as a resolved spec, which no turn may read.
    spec = {"filling": "x" * 6000, "scheduling": {}}
    records = [
        JobRecord(
            id=new_id("ftjob"),
            spec=spec,
            model="m",
            job_dir="/j",
            created_at=float(i),
            queue_order=float(i),
            queued_at=float(i),
            status=JobStatus.QUEUED,
            priority=40 + i % 3,
            project_id=names[i % PROJECTS],
        )
        for i in range(queued)
    ]
    with store.database.write() as connection:
        connection.execute(jobs.insert(), [{"num_events": 0, **values_of(record)} for record in records])


def _turn(store: Store, machine: Machine, *, undo: bool = False) -> float:
    scheduler = Scheduler(store, machine)  # type: ignore[arg-type]  # it only asks for the capacity
    began = time.process_time()
    plan = scheduler.decide()
    spent = time.process_time() - began
    if undo:
        assert plan is not None
        assert len(plan.grants) == min(DEVICES, len(plan.order))
    else:
        assert plan is None or not plan.grants
    return spent


def _begin(store: Store, *, devices: int) -> str:
    """Give devices to a job of the highest priority that there can be, so that nothing preempts it."""
    job = JobRecord(id=new_id("ftjob"), spec={}, model="m", job_dir="/j", created_at=0.0, status=JobStatus.QUEUED)
    store.jobs.create(job)
    store.queue.change(job.id, priority=100)
    placement = [{"node": "local", "devices": list(range(devices))}]
    store.attempts.begin(job.id, placement=placement, resume=False, expected=[JobStatus.QUEUED], message="go")
    return job.id


def _large_job(store: Store) -> None:
    large = JobRecord(id=new_id("ftjob"), spec={}, model="m", job_dir="/j", created_at=0.0, status=JobStatus.QUEUED,
                      priority=99, devices_per_node=DEVICES, queued_at=time.time())  # fmt: skip
    store.jobs.create(large)


def _median(turn: object, repeats: int) -> float:
    assert callable(turn)
    return 1000 * statistics.median(turn() for _ in range(repeats))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    repeats = parser.parse_args().repeats
    print(f"{'queued':>8} {'start ms':>9} {'full ms':>9} {'held ms':>9} {'decisions/s':>12}")
    with tempfile.TemporaryDirectory() as folder:
        for queued in LENGTHS:
            cost = measure(Path(folder), queued=queued, repeats=repeats)
            print(f"{cost.queued:>8} {cost.start:>9.2f} {cost.full:>9.2f} {cost.held:>9.2f} {1000 / cost.start:>12.0f}")


if __name__ == "__main__":
    main()
