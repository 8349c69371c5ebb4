"""Looking at data: nobody's that hang keep others waiting, nor does a project with many."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from service.jobs.preflight_watch import PreflightLimits, in_turn
from service.store.records import JobRecord, JobStatus, ProjectRecord, new_id

VALIDATING = JobStatus.VALIDATING_FILES


def test_data_that_hang_fail_their_jobs_and_keep_no_other_waiting(world: Any) -> None:
    hanging = [world.submit(status=VALIDATING, preflight="hang") for _ in range(2)]
    good = world.submit(status=VALIDATING)
    runner = world.new_runner(preflight_limits=PreflightLimits(stall_s=1.0))
    world.wait(lambda: world.job(good).status is not VALIDATING, runner=runner)
    world.wait(lambda: all(world.job(job).status.is_terminal for job in hanging), runner=runner)
    assert {world.job(job).error_code for job in hanging} == {"preflight_timed_out"}
    assert "no sign of life" in world.job(hanging[0]).error_message
    world.wait(lambda: not any(world.processes(job) for job in hanging))


def test_looking_at_data_may_take_so_long_in_all(world: Any) -> None:
    job = world.submit(status=VALIDATING, preflight="hang")
    runner = world.new_runner(preflight_limits=PreflightLimits(total_s=0.3))
    world.wait(lambda: world.job(job).status is JobStatus.FAILED, runner=runner)
    assert world.job(job).error_code == "preflight_timed_out"


def test_a_project_with_many_keeps_no_other_waiting(world: Any) -> None:
    world.store.projects.create(ProjectRecord(id="other", name="other", created_at=0.0))
    mine = [world.submit(status=VALIDATING, preflight="hang") for _ in range(8)]
    runner = world.new_runner()
    world.wait(lambda: world.processes(mine[1]), runner=runner)
    id = new_id("ftjob")
    theirs = replace(mine[0], id=id, project_id="other", job_dir=str(Path(mine[0].job_dir).with_name(id)))
    Path(theirs.job_dir).mkdir()
    world.store.jobs.create(theirs)
    runner.tick()
    world.store.jobs.request_cancel(mine[0].id)
    world.wait(lambda: (Path(theirs.job_dir) / "preflight" / "tries.json").exists(), runner=runner)
    assert not (Path(mine[2].job_dir) / "preflight" / "tries.json").exists()


def test_projects_are_served_in_turn() -> None:
    def job(id: str, project: str) -> JobRecord:
        given: dict[str, Any] = {"spec": {}, "model": "m", "job_dir": "/", "created_at": 0.0}
        return JobRecord(id=id, project_id=project, **given)

    jobs = [job("a1", "a"), job("a2", "a"), job("a3", "a"), job("b1", "b"), job("b2", "b"), job("c1", "c")]
    order = in_turn(jobs, is_under_way=lambda job: job.id == "a1")
    assert [job.id for job in order] == ["a1", "b1", "c1", "a2", "b2", "a3"]
