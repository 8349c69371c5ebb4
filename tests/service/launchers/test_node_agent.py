from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from gang_runs import Gang, gang_command, wait_for

from service.launchers.gang import GangFiles, NodeStart, claim, forwarded, issue_token, part_of
from service.launchers.processes import lives
from trainer import fence
from trainer.fence import TOKEN_VARIABLE


@pytest.fixture
def start(new_gang):
    """Starts node agents as an engine does; all are gone in the end."""
    started = []

    def start_agents(gang: Gang, *, nodes=(0, 1), token: str | None = None) -> list[subprocess.Popen]:
        token = token or issue_token(gang.run)
        for node in nodes:
            part = part_of(gang.run, node_rank=node, kind="cpu", token=token, command=gang_command)
            environment = {**os.environ, TOKEN_VARIABLE: token}
            started.append(
                subprocess.Popen(
                    [sys.executable, *part.arguments()], env=environment, stderr=subprocess.PIPE, text=True
                )
            )
        return started[-len(nodes) :]

    yield start_agents
    for agent in started:
        agent.kill()
        agent.communicate()


def test_two_nodes_meet_work_and_say_how_they_ended(new_gang, start):
    gang = new_gang(["a", "b"])
    agents = start(gang)
    wait_for(gang.is_here)
    files = GangFiles.of(gang.run)
    assert (files.any_claimed, files.all_ended) == (True, False)
    gang.order("finish")
    assert [agent.wait(60) for agent in agents] == [0, 0]
    assert files.all_ended
    assert [(gang.end_of(node).cause, gang.end_of(node).code) for node in (0, 1)] == [("exit", 0)] * 2
    assert (gang.attempt / "worker.log").read_text() == '{"node": 0}\n'
    assert (gang.attempt / "worker-node1.log").read_text() == '{"node": 1}\n'


def test_a_part_that_was_begun_before_is_not_begun_again(new_gang, start):
    gang = new_gang(["a"])
    token = issue_token(gang.run)
    path = GangFiles.of(gang.run).start(0)
    assert claim(path, NodeStart(token=token, host="elsewhere", pid=1))
    assert not claim(path, NodeStart(token=token, host="here", pid=2))
    (agent,) = start(gang, nodes=(0,), token=token)
    assert agent.wait(60) == 1
    assert "was begun before" in agent.stderr.read()
    assert not gang.is_here()


@pytest.mark.parametrize("what", ["taken away", "another", "successor"])
def test_without_the_token_in_force_nothing_begins(new_gang, start, what):
    gang = new_gang(["a"])
    token = issue_token(gang.run)
    if what == "taken away":
        fence.take_away(gang.attempt, reason="node_lost")
    elif what == "another":
        issue_token(gang.run)
    else:
        (gang.attempt.parent / "0002").mkdir()
    (agent,) = start(gang, nodes=(0,), token=token)
    assert agent.wait(60) == 1
    assert not gang.is_here()
    with pytest.raises(fence.Fenced):
        fence.require_own(gang.attempt, environment={TOKEN_VARIABLE: token})
    fence.require_own(gang.attempt, environment={})  # a run without an engine of several machines has no token


def test_taking_the_token_away_ends_everything_at_once(new_gang, start):
    gang = new_gang(["a", "b"])
    gang.order("deaf")
    agents = start(gang)
    wait_for(gang.is_here)
    files = GangFiles.of(gang.run)
    files.give_up("node_lost")
    files.give_up("killed")
    assert files.given_up == "node_lost"
    assert [agent.wait(60) for agent in agents] == [1, 1]
    assert gang.end_of(1).cause == "fenced"
    assert not gang.processes()


def test_a_wish_to_stop_reaches_the_ranks_alone(new_gang, start):
    gang = new_gang(["a", "b"])
    agents = start(gang)
    wait_for(gang.is_here)
    GangFiles.of(gang.run).ask_to_stop()
    assert [agent.wait(60) for agent in agents] == [0, 0]
    assert gang.exit.status == "interrupted"


def test_sigterm_to_an_agent_does_the_same(new_gang, start):
    gang = new_gang(["a"])
    (agent,) = start(gang, nodes=(0,))
    wait_for(gang.is_here)
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(60) == 0
    assert gang.exit.status == "interrupted"


def test_a_launcher_that_dies_takes_its_ranks_along(new_gang, start):
    gang = new_gang(["a"])
    (agent,) = start(gang, nodes=(0,))
    wait_for(gang.is_here)
    launcher = psutil.Process(agent.pid).children()[0]
    launcher.kill()
    assert agent.wait(60) == signal.SIGKILL
    assert not gang.processes()
    assert (gang.end_of(0).cause, gang.end_of(0).code) == ("exit", -signal.SIGKILL)


def test_an_agent_whose_parent_is_gone_ends_its_processes(new_gang, tmp_path: Path):
    gang = new_gang(["a"])
    token = issue_token(gang.run)
    part = part_of(gang.run, node_rank=0, kind="cpu", token=token, command=gang_command)
    program = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])"
    command = [sys.executable, "-c", program, *part.arguments()]
    engine = subprocess.Popen(command, env={**os.environ, TOKEN_VARIABLE: token})
    wait_for(gang.is_here)
    (agent,) = psutil.Process(engine.pid).children()
    engine.kill()
    engine.wait()
    wait_for(lambda: not lives(agent), timeout_s=20)
    assert gang.end_of(0).cause == "orphaned"
    assert not gang.processes()


def test_a_second_launch_of_an_attempt_has_a_token_of_its_own(new_gang):
    gang = new_gang(["a"])
    first, second = issue_token(gang.run), issue_token(gang.run)
    assert first != second
    with pytest.raises(fence.Fenced):
        fence.require(gang.attempt, token=first)
    fence.require(gang.attempt, token=second)
    assert GangFiles.of(replace(gang.run, attempt=2)).given_up is None


def test_only_variables_that_workers_need_are_forwarded():
    given = {
        "NCCL_DEBUG": "INFO",
        "PYTHONPATH": "/x",
        "ATTUNE_DATABASE_URL": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    chosen = forwarded(given, weights_dir=Path("/weights"))
    assert chosen == {"NCCL_DEBUG": "INFO", "PYTHONPATH": "/x", "ATTUNE_WEIGHTS_DIR": "/weights"}


def test_a_folder_that_cannot_be_read_just_now_fences_nothing_off(tmp_path: Path):
    attempt = tmp_path / "0001"
    (attempt / "token.json").mkdir(parents=True)  # reading it is an error, but not that it is missing
    fence.require(attempt, token="any")
