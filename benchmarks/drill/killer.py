"""Kills processes of a drill with -9 at random times."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import httpx
import psutil

from benchmarks.drill.fleet import ControlPlane, Keeper
from benchmarks.ray_cluster import RayCluster
from service.launchers.processes import TAG_VARIABLE

RAY_NODES = ("1", "2", "3")
RAY_CPUS = 2
"""Slots of each."""
_MOST_OF_ONE_JOB = 2
"""Kills of one job's processes: three crashes in a row without progress would rightly fail it."""

_MOST_OF_ONE_REAL_JOB = 1
"""Each start of DeepSpeed costs many seconds of both cores."""
_SHARE_WHILE_STARTING = 0.05


class Killer:
    """A thread that kills one thing after another until it is told to stop."""

    def __init__(
        self,
        planes: Sequence[ControlPlane],
        *,
        folder: Path,
        keeper: Keeper,
        weights: Mapping[str, float],
        pause_s: float,
        seed: int,
        cluster: RayCluster | None = None,
    ) -> None:
        """`weights`: how often each kind is drawn, by the names of the methods below; `pause_s`: mean time between two
        kills."""
        self._planes = planes
        self._folder = folder
        self._keeper = keeper
        self._weights = dict(weights)
        self._pause_s = pause_s
        self._random = random.Random(seed)
        self._cluster = cluster
        self._http = httpx.Client(timeout=2.0)
        self._node_comes_back: threading.Thread | None = None
        self._of_job: Counter[str] = Counter()
        self._found: list[tuple[psutil.Process, str, str]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="killer")
        self.kills: Counter[str] = Counter()
        self.log: list[str] = []
        """A line a kill, with its time."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Kill nothing more, and wait for what comes back."""
        self._stopping.set()
        self._thread.join()
        if self._node_comes_back is not None:
            self._node_comes_back.join()

    def _run(self) -> None:
        actions: dict[str, Callable[[], str | None]] = {
            "control plane": self._kill_plane,
            "all control planes": self._kill_all_planes,
            "launcher": lambda: self._kill_worker("launcher"),
            "rank": lambda: self._kill_worker("rank"),
            "DeepSpeed launcher": lambda: self._kill_worker("DeepSpeed launcher"),
            "DeepSpeed rank": lambda: self._kill_worker("DeepSpeed rank"),
            "preflight": lambda: self._kill_worker("preflight"),
            "node agent": lambda: self._kill_worker("node agent"),
            "Ray driver": self._kill_driver,
            "Ray actor": self._kill_actor,
            "Ray node": self._kill_node,
        }
        names, weights = list(self._weights), list(self._weights.values())
        while not self._stopping.wait(self._random.uniform(0.3, 1.7) * self._pause_s):
            self._found = list(workers(self._folder))
            for name in dict.fromkeys(self._random.choices(names, weights, k=12)):
                killed = actions[name]()
                if killed is not None:
                    self.kills[name] += 1
                    self.log.append(f"{time.time():.2f} {name}: {killed}")
                    break

    def _kill_plane(self) -> str | None:
        """Mostly when all answer: on a busy machine they would never get to work. Now and then one that only starts."""
        living = [plane for plane in self._planes if plane.pid is not None]
        if not living or not (self._all_planes_answer() or self._random.random() < _SHARE_WHILE_STARTING):
            return None
        return self._end_plane(self._random.choice(living))

    def _kill_all_planes(self) -> str | None:
        return ", ".join(self._end_plane(plane) for plane in self._planes) if self._all_planes_answer() else None

    def _all_planes_answer(self) -> bool:
        """Whether each is there with its store and its engine."""
        try:
            return all(self._http.get(f"{plane.url}/readyz").status_code == 200 for plane in self._planes)
        except httpx.TransportError:
            return False

    def _end_plane(self, plane: ControlPlane) -> str:
        told = f"{plane.name} (pid {plane.pid})"
        plane.kill()
        self._keeper.restart(plane, after_s=self._random.uniform(0.0, 3.0))
        return told

    def _kill_worker(self, kind: str) -> str | None:
        found = self._allowed(kind)
        return self._end(*self._random.choice(found)) if found else None

    def _allowed(self, kind: str) -> list[tuple[psutil.Process, str]]:
        """Processes of a kind, of jobs that were not killed too often already."""
        found = [(process, tag) for process, tag, of_kind in self._found if of_kind == kind]
        most = _MOST_OF_ONE_REAL_JOB if kind.startswith("DeepSpeed") else _MOST_OF_ONE_JOB
        return [(process, tag) for process, tag in found if self._of_job[_counted(tag)] < most]

    def _end(self, process: psutil.Process, tag: str) -> str | None:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            return None
        self._of_job[_counted(tag)] += 1
        return f"{tag} (pid {process.pid})"

    def _kill_driver(self) -> str | None:
        drivers = []
        for plane in self._planes:
            with contextlib.suppress(psutil.Error):
                children = psutil.Process(plane.pid).children() if plane.pid is not None else []
                drivers += [child for child in children if "service.launchers.ray.driver" in child.cmdline()]
        if not drivers or not self._all_planes_answer():
            return None
        chosen = self._random.choice(drivers)
        chosen.kill()
        return f"pid {chosen.pid}"

    def _kill_actor(self) -> str | None:
        """The Ray worker process above a node agent."""
        agents = self._allowed("node agent")
        with contextlib.suppress(psutil.Error):
            if agents:
                agent, tag = self._random.choice(agents)
                actor = agent.parent()
                if actor is not None and actor.name().startswith("ray::"):
                    return self._end(actor, tag)
        return None

    def _kill_node(self) -> str | None:
        """One node at a time; it starts again in the background."""
        assert self._cluster is not None
        if self._node_comes_back is not None and self._node_comes_back.is_alive():
            return None
        name = self._random.choice(RAY_NODES)
        self._cluster.kill_node(name)
        after_s = self._random.uniform(0.0, 5.0)
        self._node_comes_back = threading.Thread(target=self._start_node, args=(name, after_s), name=f"node-{name}")
        self._node_comes_back.start()
        return name

    def _start_node(self, name: str, after_s: float) -> None:
        assert self._cluster is not None
        time.sleep(after_s)
        for _ in range(3):
            try:
                self._cluster.start_node(name, cpus=RAY_CPUS)
                self.log.append(f"{time.time():.2f} Ray node {name} is there again")
                return
            except AssertionError:  # Ray itself waits for 30 s only, which a busy machine may need
                self.log.append(f"{time.time():.2f} Ray node {name} did not start")
                with contextlib.suppress(psutil.Error, KeyError):
                    self._cluster.kill_node(name)


def workers(folder: Path) -> Iterator[tuple[psutil.Process, str, str]]:
    """Every living process of an attempt or preflight below `folder`: with its tag, and what it is."""
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
            if str(folder) not in command or process.status() == psutil.STATUS_ZOMBIE:
                continue
            tag = process.environ().get(TAG_VARIABLE)
        except psutil.Error:
            continue
        if tag is not None:
            yield process, tag, _kind(command, tag)


def _counted(tag: str) -> str:
    """What kills are counted by: a job's preflight, or its attempts."""
    return tag if tag.endswith("/preflight") else tag.partition("/")[0]


def _kind(command: str, tag: str) -> str:
    if tag.endswith("/preflight"):
        return "preflight"
    if "service.launchers.node_agent" in command:
        return "node agent"
    if "deepspeed.launcher" in command:
        return "DeepSpeed launcher"
    if "real_rank.py" in command:
        return "DeepSpeed rank"
    return "rank" if "worker.py rank" in command else "launcher"
