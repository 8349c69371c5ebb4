"""The process that is Ray's driver: requests as JSON lines on stdin, answers on stdout; run by `ray.connection`.

Ray ends the process that holds a driver when the head of its cluster dies, so the service does not hold one. All
that lasts is in the cluster under names: the placement group `attune/JOB/ATTEMPT` and the actors
`attune/JOB/ATTEMPT/NODE`, detached. A driver that comes after finds them.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError, RayError
from ray.util import list_named_actors, placement_group_table
from ray.util.placement_group import PlacementGroup, get_placement_group, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from service.launchers.ray.actor import NodeActor, end_tagged

_PREFIX = "attune/"
_LOOK_TIMEOUT_S = 5.0
_END_TIMEOUT_S = 20.0


class Refused(Exception):
    """The cluster is one that must not or cannot be used, whatever happens later; the text says why."""


class Driver:
    """What can be asked of the cluster. All arguments and answers are JSON values."""

    def __init__(self, address: str, *, namespace: str) -> None:
        """Connect.

        Raises:
            Refused: it lets anybody in, wants another token, or runs other versions.
        """
        _refuse_open_cluster(address)
        try:
            GcsClient(address=address).internal_kv_keys(b"", None, timeout=_LOOK_TIMEOUT_S)
            ray.init(address=address, namespace=namespace, log_to_driver=False, logging_level=logging.ERROR)
        except AuthenticationError as error:
            raise Refused(f"the Ray cluster at {address} does not take the token: {_first_line(error)}") from None
        except RuntimeError as error:
            if "ersion mismatch" not in str(error):
                raise
            raise Refused(" ".join(str(error).split())) from None

    def capacity(self) -> dict[str, Any]:
        """Living nodes with their CPUs and GPUs, and how many gangs wait for theirs."""
        nodes = [
            {
                "node": node["NodeID"],
                "name": node["NodeName"],
                "cpus": int(node["Resources"].get("CPU", 0)),
                "gpus": int(node["Resources"].get("GPU", 0)),
            }
            for node in ray.nodes()
            if node["Alive"]
        ]
        groups = [group for group in placement_group_table().values() if group["name"].startswith(_PREFIX)]
        waiting = [group for group in groups if group["state"] in ("PENDING", "RESCHEDULING")]
        return {"nodes": sorted(nodes, key=lambda node: node["node"]), "num_waiting": len(waiting)}

    def start(self, tag: str, kind: str, parts: Sequence[Mapping[str, Any]]) -> None:
        """Place a gang at once and start its actors, unless that was done before.

        Args:
            parts: of each node, in order: `node`, `devices` (a count), `arguments`, `environment`, `log`.
        """
        resource = "GPU" if kind == "gpu" else "CPU"
        group = _group(tag) or placement_group(
            [{resource: part["devices"]} for part in parts],
            strategy="STRICT_SPREAD",
            name=_PREFIX + tag,
            lifetime="detached",
            bundle_label_selector=[{"ray.io/node-id": part["node"]} for part in parts],
        )
        for number, part in enumerate(parts):
            ray.remote(NodeActor).options(
                name=_actor_name(tag, number),
                lifetime="detached",
                get_if_exists=True,
                max_restarts=0,
                max_concurrency=4,
                num_cpus=part["devices"] if resource == "CPU" else 0,
                num_gpus=part["devices"] if resource == "GPU" else 0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number),
            ).remote(part["arguments"], part["environment"], tag=tag, log=part["log"])

    def look(self, tag: str, num_nodes: int) -> dict[str, Any]:
        """What there is of a run: whether its gang waits, and of each part what its actor says, or why it is gone."""
        group = _group(tag)
        if group is not None and _state(group) == "PENDING":
            return {"known": True, "waiting": True, "parts": []}
        parts = [_look_at_part(tag, number) for number in range(num_nodes)]
        known = group is not None or any("gone" not in part for part in parts)
        return {"known": known, "waiting": False, "parts": parts}

    def end(self, tag: str, nodes: Sequence[str]) -> int:
        """Kill every process of a run on nodes that live, and free what it holds in Ray; how many are left."""
        group = _group(tag)
        actors = _actors(tag, len(nodes))
        left = 0
        if group is None or _state(group) != "PENDING":
            living = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
            left = sum(
                _end_on_node(actor, tag, node) for actor, node in zip(actors, nodes, strict=True) if node in living
            )
        if not left:
            for actor in actors:
                if actor is not None:
                    ray.kill(actor, no_restart=True)
            if group is not None:
                remove_placement_group(group)
        return left

    def list(self) -> list[str]:
        """`JOB/ATTEMPT` of every run that has an actor."""
        names = [name.removeprefix(_PREFIX) for name in list_named_actors() if name.startswith(_PREFIX)]
        return sorted({name.rpartition("/")[0] for name in names})


def _look_at_part(tag: str, number: int) -> dict[str, Any]:
    actor = _actor(tag, number)
    if actor is None:
        return {"gone": "there is no such actor"}
    answer = actor.look.remote()
    ready, _ = ray.wait([answer], timeout=_LOOK_TIMEOUT_S)
    if not ready:
        return {"alive": True, "code": None}  # still being made, or its node does not answer and Ray does not know yet
    try:
        found: dict[str, Any] = ray.get(answer)
    except RayError as error:
        return {"gone": _first_line(error)}
    return found


def _end_on_node(actor: Any, tag: str, node: str) -> int:
    """Kill a run's processes on one node, through its actor or, where that is gone, a task that Ray sends there."""
    if actor is not None:
        try:
            return int(ray.get(actor.end.remote(), timeout=_END_TIMEOUT_S))
        except RayError:
            ray.kill(actor, no_restart=True)  # it cannot do it; the task can
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(end_tagged).options(num_cpus=0, scheduling_strategy=there, max_retries=0)
    try:
        return int(ray.get(task.remote(tag), timeout=_END_TIMEOUT_S))
    except RayError:
        living = {found["NodeID"] for found in ray.nodes() if found["Alive"]}
        return 1 if node in living else 0  # a node that died meanwhile has taken its processes with it


def _actor(tag: str, number: int) -> Any:
    try:
        return ray.get_actor(_actor_name(tag, number))
    except ValueError:
        return None


def _actors(tag: str, num_nodes: int) -> list[Any]:
    return [_actor(tag, number) for number in range(num_nodes)]


def _group(tag: str) -> PlacementGroup | None:
    try:
        return get_placement_group(_PREFIX + tag)
    except ValueError:
        return None


def _state(group: PlacementGroup) -> str:
    return str(placement_group_table(group)["state"])


def _actor_name(tag: str, number: int) -> str:
    return f"{_PREFIX}{tag}/{number}"


def _refuse_open_cluster(address: str) -> None:
    """A cluster that answers without a token would run anybody's code, beside ours and with its data.

    Asked by a process without the token, as Ray reads its mode once.
    """
    probe = (
        "import sys; from ray._raylet import GcsClient\n"
        "try: GcsClient(address=sys.argv[1]).internal_kv_keys(b'', None, timeout=10)\n"
        "except Exception as error: sys.exit(0 if type(error).__name__ == 'AuthenticationError' else 3)\n"
        "sys.exit(4)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment |= {"RAY_AUTH_MODE": "disabled"}
    done = subprocess.run([sys.executable, "-c", probe, address], env=environment, capture_output=True, timeout=60)
    if done.returncode == 4:
        raise Refused(
            f"the Ray cluster at {address} takes requests without a token: anybody who reaches it could run code on "
            "its machines. Start every node with RAY_AUTH_MODE=token and the token in RAY_AUTH_TOKEN_PATH"
        )
    if done.returncode != 0:
        raise ConnectionError(f"no Ray cluster answers at {address}")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _serve(driver: Driver, answers: Any) -> None:
    for line in sys.stdin:
        request = json.loads(line)
        try:
            result = getattr(driver, request["method"])(*request["arguments"])
            answer = {"result": result}
        except Exception as error:  # whatever it is, it is the answer
            answer = {"error": f"{type(error).__name__}: {_first_line(error)}"}
        _say(answers, answer)


def _say(answers: Any, answer: Mapping[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def main(address: str, namespace: str) -> int:
    """Connect, say so, and answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever Ray prints is no answer
    parent = os.getppid()
    threading.Thread(target=_end_without, args=(parent,), daemon=True).start()
    try:
        driver = Driver(address, namespace=namespace)
    except Refused as error:
        _say(answers, {"refused": str(error)})
        return 1
    except Exception as error:
        _say(answers, {"error": f"{type(error).__name__}: {_first_line(error)}"})
        return 1
    _say(answers, {"result": {"ray": ray.__version__}})
    _serve(driver, answers)
    os._exit(0)


def _end_without(parent: int) -> None:
    """A call into a cluster that is gone may hang for a minute: the service's death must not wait for that."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
