"""A drill of the service on a real Slurm: real DeepSpeed jobs on two nodes are cancelled, lose a node, are requeued.

    python benchmarks/slurm_drill.py [--json slurm_drill.json]

Starts a controller and two `slurmd` of one CPU slot each on this machine, and `attune serve` with ATTUNE_ENGINE=slurm;
jobs go in over REST. Prints a table of what was done and seen, and exits with 1 if anything was not as it must be.
Needs root and Debian's packages `slurmctld slurmd slurm-client munge`; takes about eight minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from lost_node import write_digits
from slurm_cluster import SlurmCluster, missing_programs

from service.client import AttuneClient
from service.launchers.gang import NodeEnd, NodeStart
from service.launchers.processes import tagged
from trainer.events import Step, read_events
from trainer.job_dir import JobDir

Json = dict[str, Any]
_TIMEOUT_S = 420.0


@dataclass(frozen=True)
class Row:
    """One thing that was done."""

    done: str
    seen: str
    seconds: float


class Service:
    """`attune serve` on the Slurm cluster."""

    def __init__(self, folder: Path, cluster: SlurmCluster) -> None:
        self._folder = folder
        self._cluster = cluster
        self._process: subprocess.Popen[str] | None = None
        self.client = AttuneClient()

    def start(self, *, slurm_arguments: str = "") -> None:
        """Start it and wait until it listens."""
        environment = self._cluster.environment | {
            "ATTUNE_ENGINE": "slurm",
            "ATTUNE_DATA_DIR": str(self._folder / "service"),
            "ATTUNE_SLURM_ARGUMENTS": slurm_arguments,
        }
        command = [sys.executable, "-P", "-m", "service.cli", "serve", "--json", "--port", "0"]
        with (self._folder / "service.log").open("a") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
        assert self._process.stdout is not None
        self.client = AttuneClient(str(json.loads(self._process.stdout.readline())["url"]))

    def kill(self) -> None:
        """kill -9; jobs run on."""
        self.client.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Drill:
    """The steps of the drill. Each returns what it saw; an AssertionError says what was not as it must be."""

    def __init__(self, service: Service, cluster: SlurmCluster, data: Path) -> None:
        self._service = service
        self._cluster = cluster
        self._data = data

    def submitted(self) -> Row:
        """A job on two nodes, from REST to its end."""
        began = time.monotonic()
        job = self._submit(steps=20)
        slurm = self._wait(lambda: self._slurm_state(job, 1) == "RUNNING" and self._slurm_id(job, 1), "Slurm runs it")
        begun = time.monotonic() - began
        self._at_step(job, 1)
        first = time.monotonic() - began
        job = self._end(job, "succeeded")
        parts = [NodeStart.model_validate_json(path.read_bytes()) for path in self._nodes(job, 1, "?.json")]
        assert len(parts) == 2, parts
        self._wait(lambda: not tagged(f"{job['id']}/1"), "no process is left", timeout_s=60)
        seen = f"Slurm job {slurm} ran after {begun:.1f} s, first step after {first:.0f} s, succeeded on two nodes"
        return Row("two-node job submitted", seen, time.monotonic() - began)

    def cancelled(self) -> list[Row]:
        """One that runs, and one that waits behind it."""
        runs, waits = self._submit(steps=2000), self._submit(steps=2000)
        self._at_step(runs, 3)
        place = self._service.client.place_in_queue(waits["id"])
        began = time.monotonic()
        self._service.client.cancel(waits["id"])
        waited = self._end(waits, "cancelled")
        assert not waited["attempts"], "it must never have been started"
        rows = [
            Row("job that waits cancelled", f"{place['message']}; cancelled, never started", time.monotonic() - began)
        ]
        began = time.monotonic()
        self._service.client.cancel(runs["id"])
        ended = self._end(runs, "cancelled")
        self._wait(lambda: not tagged(f"{runs['id']}/1"), "no process is left", timeout_s=30)
        seconds = time.monotonic() - began
        last = ended["attempts"][0]["last_step"]
        saved = [name.step for name in JobDir(Path(ended["job_dir"])).published_checkpoints()]
        self._wait(lambda: self._slurm_state(runs, 1) not in ("RUNNING", "COMPLETING"), "Slurm's job has ended")
        state = self._slurm_state(runs, 1)
        seen = f"stopped after step {last}, checkpoints {saved}, Slurm: {state}, no process left"
        return [*rows, Row("two-node job cancelled while it runs", seen, seconds)]

    def lost(self) -> list[Row]:
        """The daemon of one node is killed, and what it had started sleeps through that: then it wakes."""
        job = self._submit(steps=100)
        self._at_step(job, 50)
        part = NodeStart.model_validate_json(self._nodes(job, 1, "1.json")[0].read_bytes())
        orphans = [psutil.Process(part.pid), *psutil.Process(part.pid).children(recursive=True)]
        began = time.monotonic()
        self._cluster.kill_node("n2")
        for process in orphans:
            process.suspend()
        first = self._wait(lambda: self._ended(job, 1), "attempt 1 has ended")
        verdict = time.monotonic() - began
        assert first["end_reason"] == "node_lost", first
        self._at_step(job, first["last_step"] + 5, attempt=2)
        second = self._service.client.job(job["id"])["attempts"][1]
        begun = self._nodes(job, 2, "0.json")[0].stat().st_mtime - first["ended_at"]
        stepped = _steps(job, attempt=2)[0].time - first["ended_at"]
        rows = [
            Row(
                "slurmd of n2 killed with -9 at step 50, its processes frozen",
                f"Slurm: {self._slurm_state(job, 1)}; attempt 1: {first['end_reason']} at step {first['last_step']}",
                verdict,
            ),
            Row(
                "job requeued by the retry rules, five steps further",
                f"attempt 2 on {len(second['placement'])} node from step {second['start_step']}: Slurm began it "
                f"{begun:.0f} s after attempt 1's end, first step after {stepped:.0f} s",
                time.monotonic() - began,
            ),
        ]
        return [*rows, self._wake(job, orphans), self._finish_on_one(job, began)]

    def _wake(self, job: Json, orphans: list[psutil.Process]) -> Row:
        before = _checkpoints_of(job, attempt=1), _steps(job, attempt=1)
        began = time.monotonic()
        for process in orphans:
            process.resume()
        self._wait(lambda: not any(_lives(process) for process in orphans), "the orphans have ended", timeout_s=60)
        seconds = time.monotonic() - began
        assert (_checkpoints_of(job, attempt=1), _steps(job, attempt=1)) == before, "an orphan has written"
        end = NodeEnd.model_validate_json(self._nodes(job, 1, "1-end.json")[0].read_bytes())
        assert end.cause == "fenced", end
        return Row(
            "orphan woken while attempt 2 trains", f"{len(orphans)} processes ended by themselves: {end.cause}", seconds
        )

    def _finish_on_one(self, job: Json, began: float) -> Row:
        done = self._end(job, "succeeded")
        steps = [attempt["last_step"] for attempt in done["attempts"]]
        assert len(steps) == 2, done["attempts"]
        assert steps[1] == 100, steps
        self._cluster.start_node("n2")
        self._wait(lambda: set(self._cluster.states().values()) == {"idle"}, "both nodes are idle")
        return Row("job on the node that was left", "succeeded at step 100 of 100", time.monotonic() - began)

    def requeued(self) -> list[Row]:
        """The service is killed in the middle; then an administrator lets Slurm requeue the job."""
        self._service.kill()
        self._service.start(slurm_arguments="--requeue")
        job = self._submit(steps=80)
        self._at_step(job, 10)
        began = time.monotonic()
        self._service.kill()
        self._service.start(slurm_arguments="--requeue")
        at = self._service.client.job(job["id"])["attempts"][0]["last_step"]
        self._at_step(job, at + 10)
        attempts = self._service.client.job(job["id"])["attempts"]
        assert len(attempts) == 1, attempts
        seen = f"found the job again at step {at}, ten steps further in the same attempt"
        rows = [Row("control plane killed with -9 and started again", seen, time.monotonic() - began)]
        began, id = time.monotonic(), self._slurm_id(job, 1)
        subprocess.run(["scontrol", "requeue", str(id)], env=self._cluster.environment, check=True)
        first = self._wait(lambda: self._ended(job, 1), "attempt 1 has ended")
        done = self._end(job, "succeeded")
        assert [attempt["last_step"] for attempt in done["attempts"]][1:] == [80], done["attempts"]
        assert self._slurm_state(job, 1) not in ("RUNNING", "PENDING")
        start = done["attempts"][1]["start_step"]
        seen = (
            f"attempt 1: {first['end_reason']}; Slurm's second start taken away ({self._slurm_state(job, 1)}); "
            f"attempt 2 from step {start}, succeeded"
        )
        return [*rows, Row("`scontrol requeue` of the running job", seen, time.monotonic() - began)]

    def _submit(self, *, steps: int) -> Json:
        spec = {
            "objective": {"name": "class_prompts"},
            "data": {"train": str(self._data / "train")},
            "batch": {"global_size": 64},
            "schedule": {"epochs": None, "max_steps": steps},
            "parallel": {"devices": 1, "nodes": 2, "zero_stage": 1, "precision": "fp32"},
            "checkpoint": {"every_steps": 10},
            "evaluation": {"before_training": False, "every_steps": steps},
            "scheduling": {"min_devices": 1},
            "log_every_steps": 1,
        }
        return self._service.client.create_job(model="attune-tiny-32", spec=spec)

    def _at_step(self, job: Json, step: int, *, attempt: int | None = None) -> None:
        """Wait until a step is in the job's events, as REST tells it."""

        def reached() -> bool:
            now = self._service.client.job(job["id"])
            assert now["status"] not in ("failed", "cancelled"), now["error"]
            attempts = now["attempts"] if attempt is None else now["attempts"][attempt - 1 :]
            return bool(attempts) and attempts[-1]["last_step"] >= step

        self._wait(reached, f"step {step}")

    def _ended(self, job: Json, number: int) -> Json | None:
        attempt: Json = self._service.client.job(job["id"])["attempts"][number - 1]
        return attempt if attempt["status"] == "ended" else None

    def _end(self, job: Json, status: str) -> Json:
        def ended() -> Json | None:
            now: Json = self._service.client.job(job["id"])
            over = now["finished_at"] is not None and all(a["status"] == "ended" for a in now["attempts"])
            return now if over else None

        found: Json = self._wait(ended, f"the job's end ({status})")
        assert found["status"] == status, (found["status"], found["error"])
        return found

    def _wait(self, condition: Callable[[], Any], what: str, *, timeout_s: float = _TIMEOUT_S) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (found := condition()):
            assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s in vain: {what}"
            time.sleep(0.1)
        return found

    def _slurm(self, job: Json, attempt: int, field: str) -> str:
        command = ["squeue", "--noheader", "--states=all", f"--name=attune/{job['id']}/{attempt}", f"--format={field}"]
        done = subprocess.run(command, env=self._cluster.environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def _slurm_state(self, job: Json, attempt: int) -> str:
        return self._slurm(job, attempt, "%T")

    def _slurm_id(self, job: Json, attempt: int) -> str:
        return self._slurm(job, attempt, "%A")

    def _nodes(self, job: Json, attempt: int, pattern: str) -> list[Path]:
        return sorted((JobDir(Path(job["job_dir"])).attempt(attempt).path / "nodes").glob(pattern))


def _checkpoints_of(job: Json, *, attempt: int) -> list[int]:
    published = JobDir(Path(job["job_dir"])).published_checkpoints()
    return [name.step for name in published if name.attempt == attempt]


def _steps(job: Json, *, attempt: int) -> list[Step]:
    events, _ = read_events(JobDir(Path(job["job_dir"])).attempt(attempt).events)
    return [event for event in events if isinstance(event, Step)]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def run(folder: Path) -> list[Row]:
    """Everything, in order; each row is printed as soon as it is there."""
    write_digits(folder / "digits")
    cluster = SlurmCluster(folder / "slurm", cpus=1)
    service = Service(folder, cluster)
    rows: list[Row] = []
    try:
        began = time.monotonic()
        cluster.start()
        rows.append(Row("controller and two slurmd started", str(cluster.states()), time.monotonic() - began))
        service.start()
        drill = Drill(service, cluster, folder / "digits")
        for part in (drill.submitted, drill.cancelled, drill.lost, drill.requeued):
            seen = part()
            for row in [seen] if isinstance(seen, Row) else seen:
                rows.append(row)
                print(f"{row.done}: {row.seen} ({row.seconds:.1f} s)", file=sys.stderr, flush=True)
    finally:
        service.kill()
        cluster.stop()
        _kill_what_is_left(folder)
    return rows


def _kill_what_is_left(folder: Path) -> None:
    """Ends processes of jobs that a failed drill has left."""
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and str(folder) in " ".join(process.cmdline()):
                process.send_signal(signal.SIGKILL)
        except psutil.Error:
            continue


def main() -> None:
    """Run the drill and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if missing := missing_programs():
        sys.exit(f"needs Slurm on this machine: {', '.join(missing)} not found")
    with tempfile.TemporaryDirectory(prefix="attune-slurm-drill-", ignore_cleanup_errors=True) as name:
        rows = run(Path(name))
    print("| Done | Seen | Seconds |\n|---|---|---|")
    for row in rows:
        print(f"| {row.done} | {row.seen} | {row.seconds:.1f} |")
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
