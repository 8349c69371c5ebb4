"""A real Ray cluster of three processes on this machine, started as the documentation says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from gang_runs import gang_command, wait_for
from ray_cluster import RayCluster

from service.launchers.base import EngineRefused, EngineUnavailable
from service.launchers.ray.connection import driver_environment
from service.launchers.ray.launcher import RayLauncher

pytest.importorskip("ray", reason="needs the extra `ray`")

TELL_ANOTHER_VERSION = """
import json, sys
from ray._raylet import GcsClient
client = GcsClient(address=sys.argv[1])
told = json.loads(client.internal_kv_get(b"CLUSTER_METADATA", b"cluster"))
print(json.dumps(told))
client.internal_kv_put(b"CLUSTER_METADATA", json.dumps(told | json.loads(sys.argv[2])).encode(), True, b"cluster")
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    cluster = RayCluster(tmp_path_factory.mktemp("ray"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def launcher(cluster: RayCluster) -> Iterator[RayLauncher]:
    launcher = new_launcher(cluster)
    wait_for(lambda: launcher.capacity().count == 4)
    yield launcher
    launcher.close()


@pytest.fixture
def ended(launcher: RayLauncher) -> Iterator[None]:
    """Ends what a test that failed has left in the cluster."""
    yield
    nodes = [share.node for share in launcher.capacity().nodes]
    for tag in launcher.list() if nodes else ():
        launcher._connection.ask("end", tag, nodes[:2])


def new_launcher(cluster: RayCluster, **changes) -> RayLauncher:
    return RayLauncher(address=cluster.address, token_file=cluster.token_file, command=gang_command, **changes)


def driver_pid(launcher: RayLauncher) -> int:
    return launcher._connection._process.pid


def actor_of(gang, node: int) -> psutil.Process:
    """The process of the actor that has one node's part."""
    agent = json.loads((gang.attempt / f"here-{node}.json").read_text())["agent"]
    return psutil.Process(agent).parent()


def tell_version(cluster: RayCluster, told: dict[str, str]) -> dict[str, str]:
    """Let the cluster say that it runs other versions; what it said before."""
    command = [sys.executable, "-c", TELL_ANOTHER_VERSION, cluster.address, json.dumps(told)]
    done = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_without_a_token_nothing_starts(tmp_path: Path):
    with pytest.raises(EngineRefused, match="ATTUNE_RAY_TOKEN_FILE"):
        driver_environment({"PATH": "/bin"}, token_file=None)
    with pytest.raises(EngineRefused, match=r"ATTUNE_RAY_TOKEN_FILE is .*nowhere, which cannot be read"):
        driver_environment({}, token_file=tmp_path / "nowhere")
    with pytest.raises(EngineRefused, match="RAY_AUTH_MODE is 'disabled'"):
        driver_environment({"RAY_AUTH_TOKEN": "x", "RAY_AUTH_MODE": "disabled"}, token_file=None)
    given = {"RAY_AUTH_TOKEN": "x", "ATTUNE_DATABASE_URL": "postgresql://secret"}
    assert driver_environment(given, token_file=None)["RAY_AUTH_MODE"] == "token"
    assert "ATTUNE_DATABASE_URL" not in driver_environment(given, token_file=None)


@pytest.mark.slow
def test_a_run_on_two_nodes_outlives_the_driver_and_is_found_again(cluster, launcher, ended, new_gang):
    gang = new_gang(launcher.capacity())
    assert not launcher.poll(gang.run).was_started
    launcher.submit(gang.run)
    wait_for(gang.is_here)
    told = json.loads((gang.attempt / "here-1.json").read_text())
    assert (told["ATTUNE_NODE_RANK"], told["RAY_AUTH_TOKEN_PATH"]) == ("1", None)
    os.kill(driver_pid(launcher), signal.SIGKILL)
    run = replace(gang.run, engine_ref={"group": "x"})
    assert launcher.poll(run).alive  # not known, so taken to live
    wait_for(lambda: launcher.capacity().problem is None)
    other = new_launcher(cluster)
    for each in (launcher, other):
        state = each.poll(gang.run)
        assert (state.alive, state.was_started, state.lost) == (True, True, None)
        assert each.list() == [f"{gang.run.job_id}/1"]
    other.close()
    assert launcher.poll(gang.run).alive
    gang.order("finish")
    wait_for(lambda: not launcher.poll(gang.run).alive)
    assert (launcher.poll(gang.run).lost, gang.exit.status) == (None, "succeeded")
    assert launcher.list() == []
    assert not gang.processes()


@pytest.mark.slow
@pytest.mark.nightly
def test_a_gang_that_has_no_room_waits_and_signals_reach_the_ranks(launcher, ended, new_gang):
    gangs = [new_gang(launcher.capacity()) for _ in range(3)]  # two fit
    for gang in gangs:
        launcher.submit(gang.run)
    for gang in gangs[:2]:
        wait_for(gang.is_here)
    assert launcher.poll(gangs[2].run).alive
    assert not gangs[2].is_here()
    wait_for(lambda: launcher.capacity().note == "1 run waits in Ray for devices")
    launcher.signal(gangs[0].run, signal.SIGTERM)
    wait_for(lambda: not launcher.poll(gangs[0].run).alive)
    assert gangs[0].exit.status == "interrupted"
    wait_for(gangs[2].is_here)
    for gang in gangs[1:]:
        launcher.signal(gang.run, signal.SIGKILL)
        wait_for(lambda gang=gang: not launcher.poll(gang.run).alive)
        assert not gang.processes()
        assert gang.exit is None
    assert launcher.list() == []


@pytest.mark.slow
def test_the_processes_of_a_killed_actor_die_with_it(launcher, ended, new_gang):
    gang = new_gang(launcher.capacity())
    launcher.submit(gang.run)
    wait_for(gang.is_here)
    actor_of(gang, 1).kill()
    state = wait_for(lambda: (state := launcher.poll(gang.run)).lost and state)
    assert (state.lost, state.alive) == ("engine_lost", False)
    assert not gang.processes()
    assert launcher.list() == []
    assert "Ray lost this run" in (gang.attempt / "worker.log").read_text()


@pytest.mark.slow
@pytest.mark.nightly
def test_when_one_nodes_part_fails_the_run_has_ended(launcher, ended, new_gang):
    gang = new_gang(launcher.capacity())
    launcher.submit(gang.run)
    wait_for(gang.is_here)
    os.kill(json.loads((gang.attempt / "here-1.json").read_text())["agent"], signal.SIGKILL)
    wait_for(lambda: not launcher.poll(gang.run).alive)
    assert launcher.poll(gang.run).lost is None  # it crashed; nobody lost it
    assert not gang.processes()


@pytest.mark.slow
@pytest.mark.nightly
def test_clusters_that_must_not_be_used_are_refused_with_the_reason(cluster, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 32)
    with pytest.raises(EngineRefused, match="does not take the token"):
        RayLauncher(address=cluster.address, token_file=wrong)
    before = tell_version(cluster, {"ray_version": "2.1.0", "python_version": "3.8.1"})
    try:
        with pytest.raises(EngineRefused) as refusal:
            new_launcher(cluster)
    finally:
        tell_version(cluster, before)
    for version in ("2.1.0", "3.8.1", before["ray_version"], before["python_version"]):
        assert version in str(refusal.value)


@pytest.mark.slow
@pytest.mark.nightly
def test_a_cluster_that_asks_for_no_token_is_refused(tmp_path):
    anybody = RayCluster(tmp_path, token=False)
    try:
        anybody.start_head()
        with pytest.raises(EngineRefused, match="takes requests without a token"):
            new_launcher(anybody)
    finally:
        anybody.stop()


@pytest.mark.slow
@pytest.mark.nightly
def test_a_service_whose_cluster_is_not_there_starts_and_stops(tmp_path):
    token = tmp_path / "token"
    token.write_text("0" * 32)
    launcher = RayLauncher(address="127.0.0.1:9", token_file=token, command=gang_command)
    assert "no Ray cluster answers at 127.0.0.1:9" in launcher.capacity().problem
    time.sleep(4)  # it is just trying again
    began = time.monotonic()
    launcher.close()
    assert time.monotonic() - began < 4


@pytest.mark.slow
def test_a_lost_node_is_told_and_the_rest_of_its_runs_ended(cluster, launcher, new_gang):
    gang = new_gang(launcher.capacity())
    launcher.submit(gang.run)
    wait_for(gang.is_here)
    cluster.kill_node("2")
    state = wait_for(lambda: (state := launcher.poll(gang.run)).lost and state, timeout_s=90)
    assert (state.lost, state.alive) == ("node_lost", False)  # though Ray misses the actor sooner than its node
    assert not gang.processes()
    assert gang.exit is None
    assert launcher.poll(gang.run).lost == "node_lost"  # however often it is asked
    wait_for(lambda: launcher.capacity().count == 2)


@pytest.mark.slow
@pytest.mark.nightly
def test_when_the_head_dies_the_service_lives_and_its_runs_count_as_lost(cluster, launcher, new_gang):
    """The last one: it leaves no cluster behind."""
    impatient = new_launcher(cluster, lost_after_s=3.0)
    gang = new_gang(impatient.capacity())
    run = replace(gang.run, engine_ref=impatient.submit(gang.run).engine_ref)
    wait_for(gang.is_here)
    cluster.kill_node("head")
    begun = time.monotonic()
    state = wait_for(lambda: (state := impatient.poll(run)).lost and state, timeout_s=150)
    assert (state.lost, state.alive) == ("engine_lost", False)
    wait_for(lambda: not gang.processes(), timeout_s=10)  # fenced off, though its actor may live on for a minute
    assert time.monotonic() - begun < 120
    assert impatient.capacity().problem
    assert impatient.capacity().count == 0
    with pytest.raises(EngineUnavailable):
        impatient.submit(new_gang(["x"]).run)
    impatient.close()
