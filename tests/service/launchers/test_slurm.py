"""A real Slurm with two nodes on this machine, from Debian's packages."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from gang_runs import gang_command, wait_for
from slurm_cluster import SlurmCluster, missing_programs

from service.launchers.base import Capacity, EngineRefused, EngineUnavailable, NodeShare
from service.launchers.slurm import SlurmLauncher
from service.launchers.slurm_cli import count_gpus

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    if missing := missing_programs():
        pytest.skip(f"needs Slurm on this machine: {', '.join(missing)} not found")
    if os.geteuid() != 0:
        pytest.skip("slurmd runs as root only")
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def launcher(cluster) -> SlurmLauncher:
    return new_launcher(cluster)


def new_launcher(cluster, **changes) -> SlurmLauncher:
    environment = {**cluster.environment, "ATTUNE_DATABASE_URL": "secret", "SECRET": "secret"}
    return SlurmLauncher(command=gang_command, environment=environment, **changes)


def test_gpus_are_read_from_what_sinfo_prints():
    assert count_gpus("gpu:h200:8(S:0-1)") == 8
    assert count_gpus("gpu:2,nvme:1") == 2
    assert count_gpus("gpu:a100:4,gpu:v100:2") == 6
    assert count_gpus("(null)") == count_gpus("shard:gpu_like:3") == 0


def test_without_slurms_commands_the_service_says_so():
    with pytest.raises(EngineRefused, match="sbatch is not on the PATH"):
        SlurmLauncher(environment={"PATH": "/nowhere"})


@pytest.mark.slow
def test_a_job_on_two_nodes_from_its_submission_to_its_end(cluster, launcher, new_gang):
    capacity = launcher.capacity()
    assert capacity == Capacity("cpu", (NodeShare("n1", (0, 1)), NodeShare("n2", (0, 1))), may_grow=True)
    gang = new_gang(capacity)
    assert not launcher.poll(gang.run).was_started
    reference = launcher.submit(gang.run).engine_ref
    wait_for(gang.is_here)
    state = new_launcher(cluster).poll(gang.run)  # another replica, that has not been told of the job's id
    assert (state.alive, state.was_started, state.lost) == (True, True, None)
    assert launcher.list() == [f"{gang.run.job_id}/1"]
    gang.order("finish")
    run = replace(gang.run, engine_ref=reference)
    wait_for(lambda: not launcher.poll(run).alive)
    assert (launcher.poll(run).lost, gang.exit.status) == (None, "succeeded")
    assert [gang.end_of(node).code for node in (0, 1)] == [0, 0]
    environments = (gang.attempt / "here-1.json").read_text() + (gang.attempt / "slurm.log").read_text()
    assert "secret" not in environments


@pytest.mark.slow
@pytest.mark.nightly
def test_what_waits_in_slurms_queue_counts_as_started_and_can_be_cancelled(launcher, new_gang):
    running = [new_gang(launcher.capacity()) for _ in range(2)]
    for gang in running:
        launcher.submit(gang.run)
    for gang in running:
        wait_for(gang.is_here)
    waiting = new_gang(launcher.capacity())
    launcher.submit(waiting.run)
    assert (launcher.poll(waiting.run).alive, waiting.is_here()) == (True, False)
    launcher.signal(waiting.run, signal.SIGTERM)
    wait_for(lambda: not launcher.poll(waiting.run).alive)
    assert not waiting.is_here()
    launcher.signal(running[0].run, signal.SIGTERM)  # asked to stop: it saves and says so
    wait_for(lambda: not launcher.poll(running[0].run).alive)
    assert running[0].exit.status == "interrupted"
    launcher.signal(running[1].run, signal.SIGKILL)
    wait_for(lambda: not launcher.poll(running[1].run).alive)
    assert running[1].exit is None
    wait_for(lambda: not running[1].processes())


@pytest.mark.slow
@pytest.mark.nightly
def test_the_processes_of_a_node_that_slurm_lost_are_fenced_off(cluster, launcher, new_gang):
    gang = new_gang(launcher.capacity())
    gang.order("deaf")
    launcher.submit(gang.run)
    wait_for(gang.is_here)
    cluster.kill_node("n2")
    before = {process.pid for process in gang.processes()}
    state = wait_for(lambda: (state := launcher.poll(gang.run)).lost and state, timeout_s=90)
    assert (state.lost, state.alive) == ("node_lost", False)
    wait_for(lambda: not gang.processes(), timeout_s=15)
    assert before
    assert gang.end_of(1).cause == "fenced"
    assert gang.exit is None
    cluster.start_node("n2")
    wait_for(lambda: cluster.states() == {"n1": "idle", "n2": "idle"})
    assert new_launcher(cluster).poll(gang.run).lost == "node_lost"  # however often it is asked


@pytest.mark.slow
@pytest.mark.nightly
def test_a_run_that_slurm_puts_back_into_its_queue_is_taken_out_and_fenced_off(cluster, launcher, new_gang):
    gang = new_gang(["n1"])
    launcher = new_launcher(cluster, extra_arguments=["--requeue"])  # as an administrator might force it
    id = launcher.submit(gang.run).engine_ref["job"]
    wait_for(gang.is_here)
    subprocess.run(["scontrol", "requeue", str(id)], env=cluster.environment, check=True)
    state = wait_for(lambda: (state := launcher.poll(gang.run)).lost and state)
    assert (state.lost, state.alive) == ("node_lost", False)
    wait_for(lambda: not gang.processes())
    wait_for(lambda: launcher.list() == [])


@pytest.mark.slow
@pytest.mark.nightly
def test_while_the_controller_is_away_runs_count_as_alive_and_nothing_is_started(cluster, launcher, new_gang):
    gang = new_gang(launcher.capacity())
    reference = launcher.submit(gang.run).engine_ref
    run = replace(gang.run, engine_ref=reference)
    wait_for(gang.is_here)
    away = SlurmLauncher(
        command=gang_command, environment={**cluster.environment, "SLURM_CONF": str(HERE / "nowhere.conf")}
    )
    assert "sinfo" in away.capacity().problem
    assert away.poll(run).alive
    with pytest.raises(EngineUnavailable):
        away.submit(new_gang(launcher.capacity()).run)
    cluster.restart_controller()
    wait_for(lambda: launcher.capacity().count == 4)
    assert launcher.poll(run).alive
    gang.order("finish")
    wait_for(lambda: not launcher.poll(run).alive)
    assert gang.exit.status == "succeeded"
