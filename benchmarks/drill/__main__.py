"""200 short jobs over REST while control planes, workers, Ray actors and a Ray node are killed with -9.

    python -m benchmarks.drill [--config local|ray|all] [--jobs 200] [--seed 0] [--json drill.json]

`local`: SQLite and the engine of one machine; a second service on the same data folder takes over when the first dies.
`ray`: PostgreSQL (`--postgres-url`, or a throw-away server where there is `initdb`), three Ray nodes on this machine,
and two services that share the work. A tenth of the jobs are real DeepSpeed runs; the others' workers keep the contract
of the job folder without training. Prints a table a configuration and exits with 1 if a promise does not hold; the
drill's folder is then kept, and its path printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.drill.fleet import ControlPlane, Keeper
from benchmarks.drill.killer import RAY_CPUS, RAY_NODES, Killer
from benchmarks.drill.people import People
from benchmarks.drill.plan import draw_jobs, write_data
from benchmarks.drill.report import complaints, describe, table
from benchmarks.drill.verdicts import Evidence, processes_of
from benchmarks.ray_cluster import RayCluster
from benchmarks.throwaway_postgres import Postgres
from service.store.records import JobStatus
from service.store.store import Store

KILLS = {
    "local": {
        "control plane": 5, "all control planes": 1, "launcher": 4, "rank": 6, "DeepSpeed launcher": 3,
        "DeepSpeed rank": 3, "preflight": 1,
    },
    "ray": {
        "control plane": 4, "all control planes": 1, "launcher": 2, "rank": 4, "DeepSpeed launcher": 1,
        "DeepSpeed rank": 2, "preflight": 1, "node agent": 3, "Ray driver": 3, "Ray actor": 3, "Ray node": 1,
    },
}  # fmt: skip
"""How often what is killed, in parts."""
TITLES = {
    "local": "SQLite, local engine, one service and one that stands by",
    "ray": "PostgreSQL, three Ray nodes, two services",
}
PAUSE_S = {"local": 3.0, "ray": 9.0}
"""Mean time between two kills. A node of Ray, or a service with its driver, needs several seconds of two cores to come
back."""
TIMEOUT_S = {"local": 900.0, "ray": 3600.0}
"""Time after which jobs count as stuck."""
NUM_WATCHED = 20


class Drill:
    """One configuration on a folder of its own."""

    def __init__(self, folder: Path, config: str, given: argparse.Namespace) -> None:
        self._folder = folder
        self._config = config
        self._given = given

    def run(self) -> Any:
        """The figures, as `report.describe` gives them."""
        write_data(self._folder / "data")
        (self._folder / "locks").mkdir()
        planned = draw_jobs(
            self._given.jobs,
            seed=self._given.seed,
            data=self._folder / "data",
            two_nodes=self._config == "ray",
            step_s=self._given.step_s,
        )
        with ExitStack() as stack:
            database_url = stack.enter_context(self._database())
            cluster = stack.enter_context(self._cluster())
            store = Store(database_url)
            stack.callback(store.close)
            began = time.monotonic()
            people, killer = self._disturb(planned, store, database_url, cluster)
            seconds = time.monotonic() - began
            if cluster is not None:
                cluster.stop()
            evidence = Evidence(store, folder=self._folder, planned=planned, people=people)
            found = describe(evidence, evidence.verdicts(), killer=killer, config=TITLES[self._config], seconds=seconds)
        (self._folder / "kills.log").write_text("\n".join(killer.log) + "\n")
        return found

    def _disturb(
        self, planned: Sequence[Any], store: Store, database_url: str, cluster: RayCluster | None
    ) -> tuple[People, Killer]:
        """Serve, submit, kill, and wait until all has come to an end."""
        planes = self._planes(database_url, cluster)
        keeper = Keeper()
        people = People([plane.url for plane in planes], seed=self._given.seed)
        killer = Killer(
            planes,
            folder=self._folder,
            keeper=keeper,
            weights=KILLS[self._config],
            pause_s=PAUSE_S[self._config] if self._given.pause_s is None else self._given.pause_s,
            seed=self._given.seed,
            cluster=cluster,
        )
        try:
            for plane in planes:
                plane.start()
                plane.await_ready()
            people.submit_all(planned, over_s=self._given.submit_s, num_watched=NUM_WATCHED)
            killer.start()
            try:
                self._await_end(store, num_jobs=len(planned), killer=killer)
            finally:
                killer.stop()
                keeper.wait()
            if not people.wait(timeout_s=60):
                people.failures.append("clients still wait for answers after the end of all jobs")
            people.failures += keeper.failures
            people.failures += [f"{plane.name} ended with {code}" for plane in planes if (code := plane.stop()) != 0]
        finally:
            keeper.wait()
            for plane in planes:
                plane.kill()
        return people, killer

    def _await_end(self, store: Store, *, num_jobs: int, killer: Killer) -> None:
        """Until all jobs have ended; nothing more is killed when a few are left."""
        began, told = time.monotonic(), 0.0
        timeout_s = TIMEOUT_S[self._config] if self._given.timeout_s is None else self._given.timeout_s
        while (passed := time.monotonic() - began) < timeout_s:
            counts = store.jobs.count_by_status()
            ended = sum(count for status, count in counts.items() if status.is_terminal)
            if passed >= told:
                told = passed + 10.0
                known = ", ".join(f"{status} {counts[status]}" for status in JobStatus if counts[status])
                print(f"{passed:5.0f} s: {known}; {sum(killer.kills.values())} kills", file=sys.stderr, flush=True)
            if ended == num_jobs:
                return
            if ended >= num_jobs - self._given.jobs // 25:
                killer.stop()
            time.sleep(1.0)

    def _planes(self, database_url: str, cluster: RayCluster | None) -> list[ControlPlane]:
        arguments = ["--data-dir", str(self._folder / "attune"), "--locks", str(self._folder / "locks")]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("ATTUNE_", "RAY_"))}
        environment |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "ATTUNE_CANCEL_GRACE_S": "5"}
        if cluster is not None:
            arguments += ["--ray", cluster.address, "--token-file", str(cluster.token_file)]
            environment |= {"ATTUNE_DATABASE_URL": database_url, "PYTHONPATH": str(Path(__file__).parents[2])}
        return [
            ControlPlane(name, arguments=arguments, environment=environment, log=self._folder / f"{name}.log")
            for name in ("first", "second")
        ]

    @contextmanager
    def _database(self) -> Iterator[str]:
        if self._config == "local":
            (self._folder / "attune").mkdir()
            url = f"sqlite:///{self._folder / 'attune' / 'attune.db'}"
            _upgrade(url)
            yield url
        elif self._given.postgres_url is not None:
            _upgrade(self._given.postgres_url)
            yield self._given.postgres_url
        else:
            with Postgres() as server:
                _upgrade(server.url)
                yield server.url

    @contextmanager
    def _cluster(self) -> Iterator[RayCluster | None]:
        if self._config == "local":
            yield None
            return
        logs = self._folder / "ray"
        logs.mkdir()
        cluster = RayCluster(logs)
        try:
            cluster.start(num_nodes=len(RAY_NODES), cpus=RAY_CPUS)
            yield cluster
        finally:
            cluster.stop()


def _upgrade(url: str) -> None:
    store = Store(url)
    store.upgrade()
    store.close()


def drill(config: str, given: argparse.Namespace) -> Any:
    """Run one configuration, print its table, and clear up unless something is to be looked at."""
    folder = Path(tempfile.mkdtemp(prefix=f"attune-drill-{config}-", dir=given.folder))
    try:
        found = Drill(folder, config, given).run()
    finally:
        for process in processes_of(folder):  # the verdicts have named them
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    print(table(found), flush=True)
    for line in complaints(found):
        print(line, file=sys.stderr)
    if all(verdict["holds"] for verdict in found["verdicts"]) and not given.keep:
        shutil.rmtree(folder)
    else:
        (folder / "found.json").write_text(json.dumps(found, indent=1))
        print(f"kept: {folder}", file=sys.stderr)
    return found


def main() -> int:
    """Run the drills that were asked for; 1 if a promise does not hold."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.drill", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", choices=("local", "ray", "all"), default="all")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause-s", type=float, help="mean time between two kills; by default 3, and 9 with Ray")
    parser.add_argument("--submit-s", type=float, default=150.0, help="time over which jobs are submitted")
    parser.add_argument("--step-s", type=float, default=0.1, help="time of a short job's step")
    parser.add_argument(
        "--timeout-s", type=float, help="time after which jobs count as stuck; by default 900, and 3600 with Ray"
    )
    parser.add_argument("--postgres-url", help="an empty database; by default a server is started")
    parser.add_argument("--folder", type=Path, help="where the drill's folder is made; by default a temporary folder")
    parser.add_argument("--keep", action="store_true", help="keep the folder in any case")
    parser.add_argument("--json", type=Path, help="write all figures here")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clears up, as Ctrl-C does
    configs = ("local", "ray") if given.config == "all" else (given.config,)
    found = [drill(config, given) for config in configs]
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1))
    return 0 if all(verdict["holds"] for each in found for verdict in each["verdicts"]) else 1


if __name__ == "__main__":
    sys.exit(main())
