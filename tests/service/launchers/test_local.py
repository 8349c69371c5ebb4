from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from service.launchers.base import Capacity, LaunchError, ProcessIdentity, Run, on_this_machine
from service.launchers.inherited import child_environment, needed_everywhere
from service.launchers.local import LocalLauncher, deepspeed_command, free_port
from service.launchers.processes import TAG_VARIABLE, find, find_workers, tagged
from service.settings import Settings

PARENT_AND_CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("child", child.pid, flush=True)
time.sleep(60)
"""


def python(program: str) -> Callable[[Run, Capacity, int], list[str]]:
    return lambda run, capacity, port: [sys.executable, "-c", program]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(
        job_id=f"ftjob-test-{os.getpid()}-{time.time_ns()}",
        attempt=1,
        job_dir=tmp_path,
        placement=on_this_machine((0, 1)),
    )
    yield run
    for process, _ in tagged(f"{run.job_id}/1"):
        process.kill()


def attempt_file(run: Run, name: str) -> Path:
    return run.job_dir / "attempts" / "0001" / name


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "nothing came of it"
        time.sleep(0.01)


def with_child(run: Run) -> tuple[LocalLauncher, int]:
    """A run of a leader and its child, whose pid is given."""
    launcher = LocalLauncher(cpu_slots=2, worker_command=python(PARENT_AND_CHILD))
    launcher.submit(run)
    log = attempt_file(run, "worker.log")
    wait_for(lambda: log.read_text().endswith("\n"))
    return launcher, int(log.read_text().split()[1])


def test_gpus_are_named_to_deepspeed_and_cpus_counted(run: Run) -> None:
    on_gpus = deepspeed_command(
        replace(run, placement=on_this_machine((2, 5)), resume=True),
        Capacity.of_this_machine("gpu", tuple(range(8))),
        4242,
    )
    assert on_gpus[:3] == [sys.executable, "-m", "deepspeed.launcher.runner"]
    assert on_gpus[on_gpus.index("--include") + 1] == "localhost:2,5"
    assert "--num_accelerators" not in on_gpus
    assert on_gpus[on_gpus.index("--master_port") + 1] == "4242"
    assert on_gpus[-1] == "--resume"
    on_cpu = deepspeed_command(run, Capacity.of_this_machine("cpu", (0, 1)), 4242)
    assert on_cpu[on_cpu.index("--num_accelerators") + 1] == "2"
    assert "--include" not in on_cpu
    assert "--resume" not in on_cpu


def test_the_script_that_deepspeed_gets_is_there(run: Run) -> None:
    command = deepspeed_command(run, Capacity.of_this_machine("cpu", (0, 1)), 4242)
    script = command[command.index("--master_port") + 2 :]
    assert Path(script[0]).is_file()
    assert script[1:] == ["--job-dir", str(run.job_dir), "--attempt", "1"]


def test_workers_get_their_environment(run: Run) -> None:
    program = "import json, os; print(json.dumps(dict(os.environ)))"
    launcher = LocalLauncher(
        cpu_slots=2,
        weights_dir=Path("/weights"),
        worker_command=python(program),
        environment={"KEPT": "yes", "CUDA_VISIBLE_DEVICES": ""},
    )
    launcher.submit(run)
    wait_for(lambda: not launcher.poll(run).alive)
    seen = json.loads(attempt_file(run, "worker.log").read_text())
    assert seen["KEPT"] == "yes"
    assert seen["DS_ACCELERATOR"] == "cpu"
    assert seen["ATTUNE_WEIGHTS_DIR"] == "/weights"
    assert seen["PYTHONUNBUFFERED"] == "1"
    assert seen["OMP_NUM_THREADS"] == str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert seen[TAG_VARIABLE] == f"{run.job_id}/1"
    assert "CUDA_VISIBLE_DEVICES" not in seen


def test_output_of_both_streams_goes_to_the_log(run: Run) -> None:
    program = "import sys; print('out'); print('err', file=sys.stderr); print(sys.stdin.read() == '')"
    launcher = LocalLauncher(cpu_slots=2, worker_command=python(program))
    launcher.submit(run)
    wait_for(lambda: not launcher.poll(run).alive)
    assert sorted(attempt_file(run, "worker.log").read_text().split()) == ["True", "err", "out"]


def test_a_run_is_a_session_of_its_own(run: Run) -> None:
    launcher, child = with_child(run)
    leader = launcher.poll(run).leader
    assert leader is not None
    assert os.getsid(child) == leader.pid != os.getsid(0)


def test_a_program_that_is_not_there_is_a_launch_error(run: Run) -> None:
    launcher = LocalLauncher(cpu_slots=2, worker_command=lambda run, capacity, port: ["/nowhere/python"])
    with pytest.raises(LaunchError, match="/nowhere/python"):
        launcher.submit(run)
    assert launcher.poll(run).leader is None


def test_a_run_lives_as_long_as_any_of_its_processes(run: Run) -> None:
    launcher, child = with_child(run)
    state = launcher.poll(run)
    assert (state.leader_alive, state.alive) == (True, True)
    assert state.leader is not None
    os.kill(state.leader.pid, signal.SIGKILL)
    wait_for(lambda: not launcher.poll(run).leader_alive)
    assert launcher.poll(run).alive
    os.kill(child, signal.SIGKILL)
    wait_for(lambda: not launcher.poll(run).alive)


def test_another_launcher_finds_a_run_with_and_without_its_record(run: Run) -> None:
    first, child = with_child(run)
    expected = first.poll(run)
    assert LocalLauncher(cpu_slots=2).poll(run) == expected
    attempt_file(run, "launch.json").unlink()
    assert LocalLauncher(cpu_slots=2).poll(run) == expected
    assert f"{run.job_id}/1" in LocalLauncher(cpu_slots=2).list()
    assert expected.leader is not None
    assert expected.leader.pid != child


def test_sigkill_reaches_every_process_also_without_a_leader(run: Run) -> None:
    launcher, child = with_child(run)
    leader = launcher.poll(run).leader
    assert leader is not None
    os.kill(leader.pid, signal.SIGKILL)
    launcher.signal(run, signal.SIGKILL)
    wait_for(lambda: not launcher.poll(run).alive)
    assert find(ProcessIdentity(child, time.time())) is None


def test_other_signals_go_to_the_ranks_alone_once_they_are_known(run: Run) -> None:
    launcher, child = with_child(run)
    known = replace(run, worker_pids=(child,), workers_seen_at=time.time())
    launcher.signal(known, signal.SIGTERM)
    wait_for(lambda: psutil.Process(child).status() == psutil.STATUS_ZOMBIE)
    assert launcher.poll(known).leader_alive


def test_before_the_ranks_are_known_signals_go_to_the_whole_group(run: Run) -> None:
    launcher, _ = with_child(run)
    launcher.signal(run, signal.SIGTERM)
    wait_for(lambda: not launcher.poll(run).alive)


def test_a_number_used_again_is_not_taken_for_the_old_process(run: Run) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        created_at = psutil.Process(other.pid).create_time()
        assert find(ProcessIdentity(other.pid, created_at)) is not None
        assert find(ProcessIdentity(other.pid, created_at - 60)) is None
        assert len(find_workers([other.pid], created_at + 1)) == 1
        assert find_workers([other.pid], created_at - 60) == []
        assert find_workers([other.pid], None) == []
        launcher = LocalLauncher(cpu_slots=2)
        old = replace(run, worker_pids=(other.pid,), workers_seen_at=created_at - 60)
        launcher.signal(old, signal.SIGKILL)
        assert not launcher.poll(old).alive
        time.sleep(0.1)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_ports_are_free() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))


def test_secrets_stay_with_the_service(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, allowed_roots=(tmp_path / "roots",))
    given = {
        "ATTUNE_DATABASE_URL": "postgresql://attune:pass@db/attune",
        "ATTUNE_API_KEY": "ak-1",
        "SMTP_PASSWORD": "x",
        "AWS_SECRET_ACCESS_KEY": "needed",
        "HF_TOKEN": "needed",
        "PATH": "/bin",
        "ATTUNE_CONFINED_TO": "/",
    }
    confined_to = f"{tmp_path}/roots:{tmp_path.resolve()}"
    kept = {"AWS_SECRET_ACCESS_KEY": "needed", "HF_TOKEN": "needed", "PATH": "/bin", "ATTUNE_CONFINED_TO": confined_to}
    assert child_environment(settings, given) == kept
    given_to_other_machines = kept.keys() - {"PATH"}
    assert needed_everywhere(settings, given) == {name: kept[name] for name in given_to_other_machines}
    none = Settings(data_dir=tmp_path, worker_secrets=())
    assert child_environment(none, given) == {"PATH": "/bin"}
    assert needed_everywhere(none, given) == {}
