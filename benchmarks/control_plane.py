"""The control plane under load and at rest: 100,000 jobs in the store, a real service, a real training job.

    python benchmarks/control_plane.py [--database sqlite|postgresql] [--jobs 100000] [--rate 50] [--json FILE]

1. Fills a store (`many_jobs`) and starts `attune serve` on it, with API keys.
2. Idle: nothing runs or waits; CPU seconds a second and resident memory of all processes of the control plane.
3. Load: 2,000 jobs wait, one trains (DeepSpeed, a small model, one process), and requests come in an open loop
   (`open_loop`): a fifth creates jobs, two fifths retrieve one, a fifth lists pages, a fifth filters by metadata.
4. The cost of a scheduling decision by the length of the queue (`scheduling`).

PostgreSQL is the server that `--postgres-url` names, with an empty database, or a throw-away one. Prints one table.
On a machine that others use as well, `nice -n -10 python ...` gives all of this precedence over them; among themselves
service, database, training job and callers stay equals.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
from generated_photos import write_captions, write_photos
from many_jobs import TEAMS, Filled, fill, queue
from open_loop import Latencies, Request, drive
from scheduling import LENGTHS, Cost, measure
from throwaway_postgres import Postgres

from service.administration import create_key
from service.store.records import Role
from service.store.store import Store

TARGET_MS = {"sqlite": 20.0, "postgresql": 40.0}
_QUEUED = 2000
_START_S = 180.0


@dataclass
class Service:
    """A running `attune serve`."""

    url: str
    process: psutil.Process
    keys: dict[str, str] = field(default_factory=dict)
    """By project."""

    def ask(self, request: Request) -> Any:
        """Send one request, and read the answer."""
        body = None if request.body is None else json.dumps(request.body).encode()
        headers = {**request.headers, "Content-Type": "application/json"}
        asked = urllib.request.Request(self.url + request.path, data=body, headers=headers, method=request.method)
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            sys.exit(f"{request.method} {request.path}: {error.code} {error.read().decode()}")

    def members(self) -> list[psutil.Process]:
        """The processes of the control plane; jobs and data checks are sessions of their own."""
        session = os.getsid(self.process.pid)
        family = [self.process, *self.process.children(recursive=True)]
        return [member for member in family if os.getsid(member.pid) == session]

    def cpu_s(self) -> float:
        """Processor seconds so far."""
        return sum(sum(member.cpu_times()[:2]) for member in self.members())

    def rss_mb(self) -> float:
        """Resident memory in MB."""
        return sum(member.memory_info().rss for member in self.members()) / 1e6


@dataclass(frozen=True)
class Rest:
    """A control plane without anything to do."""

    seconds: float
    cpu_percent: float
    rss_mb: float
    load: float
    """Of the machine: the 1-minute average at the end."""


@dataclass(frozen=True)
class Load:
    """A control plane at work."""

    latencies: list[Latencies]
    failures: list[str]
    cpu_percent: float
    rss_mb: float
    load: float
    training_steps: int
    """Steps that the training job did meanwhile."""


@contextmanager
def serving(folder: Path, *, url: str, keys: dict[str, str]) -> Iterator[Service]:
    """`attune serve` in a process of its own; its jobs end with the block, too."""
    environment = os.environ | {
        "ATTUNE_DATA_DIR": str(folder / "attune"),
        "ATTUNE_DATABASE_URL": url,
        "ATTUNE_ALLOWED_ROOTS": str(folder / "photos"),
        "ATTUNE_CPU_SLOTS": "1",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    command = [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--json", "--log-level", "warning"]
    with (folder / "service.log").open("ab") as log:
        child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
    try:
        assert child.stdout is not None
        announced = child.stdout.readline()
        if not announced:
            sys.exit(f"the service did not start:\n{(folder / 'service.log').read_text()[-3000:]}")
        yield Service(json.loads(announced)["url"], psutil.Process(child.pid), keys)
    finally:
        jobs = psutil.Process(child.pid).children(recursive=True)
        child.send_signal(signal.SIGTERM)
        child.wait(timeout=60)
        for process in jobs:
            if process.is_running():
                process.kill()


def rest(service: Service, *, seconds: float) -> Rest:
    """Watch a service that has nothing to do."""
    time.sleep(min(10.0, seconds))  # what follows a start is over
    before, began = service.cpu_s(), time.monotonic()
    time.sleep(seconds)
    spent = (service.cpu_s() - before) / (time.monotonic() - began)
    return Rest(seconds, 100 * spent, service.rss_mb(), os.getloadavg()[0])


def train(service: Service, folder: Path, *, project: str) -> str:
    """Submit a job that trains for longer than this takes, and wait until it does."""
    wanted = job_body(folder, name="background", max_steps=1_000_000, priority=100)
    job = service.ask(Request("create", "POST", "/v1/fine_tuning/jobs", _key(service, project), wanted))["id"]
    deadline = time.monotonic() + _START_S
    while steps_of(service, job, project=project) < 2:
        if time.monotonic() > deadline:
            sys.exit(f"the training job does not get on: {job_of(service, job, project=project)}")
        time.sleep(1.0)
    return str(job)


def job_of(service: Service, job: str, *, project: str) -> Any:
    """A job as the API tells it."""
    return service.ask(Request("retrieve", "GET", f"/v1/fine_tuning/jobs/{job}", _key(service, project)))


def steps_of(service: Service, job: str, *, project: str) -> int:
    """Steps that a job's latest attempt has told of."""
    attempts = job_of(service, job, project=project)["attempts"]
    return int(attempts[-1]["last_step"]) if attempts else 0


def job_body(folder: Path, *, name: str, max_steps: int, priority: int = 50) -> dict[str, Any]:
    """A request for a small contrastive job."""
    table = {"format": "csv", "path": str(folder / "photos" / "captions.csv"), "images_root": str(folder / "photos")}
    return {
        "model": "attune-tiny-32",
        "training_file": "",
        "spec": {
            "objective": {"name": "contrastive"},
            "data": {"train": table},
            "batch": {"global_size": 16},
            "schedule": {"epochs": None, "max_steps": max_steps},
            "scheduling": {"priority": priority},
        },
        "metadata": {"team": random.choice(TEAMS), "run": name},
    }


def mix(service: Service, filled: Filled, folder: Path, *, num_runs: int) -> Callable[[random.Random], Request]:
    """Makes the next request of the mix."""

    def make(draw: random.Random) -> Request:
        project = draw.choice(filled.projects)
        headers, path = _key(service, project), "/v1/fine_tuning/jobs"
        kind = draw.choices(("create", "retrieve", "list", "filter"), (1, 2, 1, 1))[0]
        limit = draw.choice((10, 20, 50))
        if kind == "create":
            return Request(kind, "POST", path, headers, job_body(folder, name="load", max_steps=10))
        if kind == "retrieve":
            return Request(kind, "GET", f"{path}/{draw.choice(filled.ids[project])}", headers)
        if kind == "list":
            after = draw.choice(("", f"&after={draw.choice(filled.ids[project])}"))
            return Request(kind, "GET", f"{path}?limit={limit}{after}", headers)
        common, rare = ("team", draw.choice(TEAMS)), ("run", str(draw.randrange(num_runs)))
        chosen = draw.choice(((common,), (rare,), (common, rare)))
        asked = "&".join(f"{quote(f'metadata[{key}]')}={value}" for key, value in chosen)
        return Request(kind, "GET", f"{path}?limit={limit}&{asked}", headers)

    return make


def work(service: Service, filled: Filled, folder: Path, *, rate: float, seconds: float, num_jobs: int) -> Load:
    """Train one job, and send requests."""
    project = filled.projects[0]
    job = train(service, folder, project=project)
    make = mix(service, filled, folder, num_runs=max(1, num_jobs // 40))
    drive(service.url, make, rate=10.0, seconds=3.0, seed=0)
    steps, before, began = steps_of(service, job, project=project), service.cpu_s(), time.monotonic()
    latencies, failures = drive(service.url, make, rate=rate, seconds=seconds)
    spent = (service.cpu_s() - before) / (time.monotonic() - began)
    done = steps_of(service, job, project=project) - steps
    return Load(latencies, failures, 100 * spent, service.rss_mb(), os.getloadavg()[0], done)


def _key(service: Service, project: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {service.keys[project]}"}


@dataclass(frozen=True)
class Result:
    """All figures for one database."""

    database: str
    num_jobs: int
    rate: float
    rest: Rest
    load: Load
    decisions: list[Cost]


def run(url: str, folder: Path, given: argparse.Namespace) -> Result:
    """Measure everything on an empty database."""
    store = Store(url)
    store.upgrade()
    began = time.monotonic()
    filled = fill(store, count=given.jobs)
    keys = {name: create_key(store, project=name, name="benchmark", role=Role.MEMBER)[0] for name in filled.projects}
    print(f"{given.jobs} jobs written in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    write_captions(folder / "photos" / "captions.csv", write_photos(folder / "photos", count=256, width=64, height=64))
    with serving(folder, url=url, keys=keys) as service:
        resting = rest(service, seconds=given.seconds)
    print(resting, file=sys.stderr, flush=True)
    queue(store, count=min(_QUEUED, given.jobs // 50))
    with serving(folder, url=url, keys=keys) as service:
        loaded = work(service, filled, folder, rate=given.rate, seconds=given.seconds, num_jobs=given.jobs)
    store.close()
    decisions = [measure(folder, queued=length, repeats=30) for length in LENGTHS] if given.decisions else []
    return Result(given.database, given.jobs, given.rate, resting, loaded, decisions)


def show(result: Result) -> str:
    """The table."""
    target, load, rest = TARGET_MS[result.database], result.load, result.rest
    lines = [
        f"| {result.database}, {result.num_jobs} jobs, {result.rate:g} requests/s | n | p50 | p95 | p99 | max |",
        "|---|---|---|---|---|---|",
    ]
    for row in load.latencies:
        figures = " | ".join(f"{value:.1f}" for value in (row.p50, row.p95, row.p99, row.max))
        lines.append(f"| {row.kind}, ms | {row.count} | {figures} |")
    failed = f"{len(load.failures)} failed" + (f", the first: {load.failures[0]}" if load.failures else "")
    lines += [
        "",
        f"p99 must be below {target:g} ms; {failed}. At work: {load.cpu_percent:.0f} % CPU, {load.rss_mb:.0f} MB, "
        f"machine load {load.load:.1f}; the training job did {load.training_steps} steps meanwhile.",
        f"At rest: {rest.cpu_percent:.2f} % CPU (below 2), {rest.rss_mb:.0f} MB (below 150), over {rest.seconds:g} s, "
        f"machine load {rest.load:.1f}.",
    ]
    if result.decisions:
        lines += ["", "| queued jobs | start, ms | all taken, ms | held for a large job, ms |", "|---|---|---|---|"]
        lines += [f"| {c.queued} | {c.start:.2f} | {c.full:.2f} | {c.held:.2f} |" for c in result.decisions]
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--postgres-url", help="an empty database; by default a throw-away server is started")
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=60.0, help="of rest, and of load")
    parser.add_argument("--no-decisions", dest="decisions", action="store_false", help="leave the scheduler out")
    parser.add_argument("--json", type=Path, help="also write all figures there")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the service ends with this
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attune-bench-")))
        url = f"sqlite:///{folder / 'attune.db'}"
        if given.postgres_url:
            given.database, url = "postgresql", given.postgres_url
        elif given.database == "postgresql":
            url = stack.enter_context(Postgres()).url
        result = run(url, folder, given)
    print(show(result))
    if given.json is not None:
        given.json.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
