"""The process that is Ray's driver: requests as JSON lines on stdin, answers on stdout; run by `ray.connection`.

Ray ends the process that holds a driver when the head of its cluster dies, so the service does not hold one. All
that lasts is in the cluster under names: the placement group `attune/JOB/ATTEMPT` and the actors
`attune/JOB/ATTEMPT/NODE`, detached. A driver that comes after finds them.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Container, Mapping, Sequence
from typing import Any

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError, RayError
from ray.util import list_named_actors, placement_group_table
from ray.util.placement_group import PlacementGroup, get_placement_group, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from service.launchers.ray.actor import NodeActor, end_tagged
from service.launchers.ray.admission import Refused, refuse_open_cluster

_PREFIX = "attune/"
_CONNECT_TIMEOUT_S = 5.0
_LOOK_TIMEOUT_S = 1.0
_END_TIMEOUT_S = 1.0
"""The service waits for each answer, and has other runs to look after."""


class Driver:
    """What can be asked of the cluster. All arguments and answers are JSON values."""

    def __init__(self, address: str, *, namespace: str) -> None:
        """Connect.

        Raises:
            Refused: it lets anybody in, wants another token, or runs other versions.
        """
        self._ending: dict[tuple[str, int], Any] = {}
        refuse_open_cluster(address)
        try:
            GcsClient(address=address).internal_kv_keys(b"", None, timeout=_CONNECT_TIMEOUT_S)
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
        """What there is of a run: whether its gang waits, and of each part what its actor says, or why it is gone; and
        the nodes that live."""
        living = sorted(_living())
        group = _group(tag)
        if group is not None and _state(group) == "PENDING":
            return {"known": True, "waiting": True, "parts": [], "living": living}
        parts = _look_at_parts(_actors(tag, num_nodes))
        known = group is not None or any("gone" not in part for part in parts)
        return {"known": known, "waiting": False, "parts": parts, "living": living}

    def end(self, tag: str, nodes: Sequence[str]) -> dict[str, Any]:
        """Kill every process of a run on the nodes that live, and free what it holds in Ray once they are gone; on how
        many nodes they may still be there, and the nodes that live. Soon back; to be asked again until none is left.
        """
        living = _living()
        group, actors = _group(tag), _actors(tag, len(nodes))
        has_begun = group is None or _state(group) != "PENDING"
        here = [number for number, node in enumerate(nodes) if has_begun and node in living]
        for number in here:
            if (tag, number) not in self._ending:
                self._ending[tag, number] = _end_on_node(actors[number], tag, nodes[number])
        answers = [self._ending[tag, number] for number in here]
        if answers:
            ray.wait(answers, num_returns=len(answers), timeout=_END_TIMEOUT_S)
        left = sum(self._may_be_left(tag, number, actors[number]) for number in here)
        if not left:
            self._forget(tag, actors, group)
        return {"left": left, "living": sorted(living)}

    def _may_be_left(self, tag: str, number: int, actor: Any) -> bool:
        """Whether a node has not said yet that nothing of a run is left on it. What failed is begun anew next time."""
        answer = self._ending[tag, number]
        if not ray.wait([answer], timeout=0)[0]:
            return True  # its node is slow, or gone and not missed yet
        try:
            if ray.get(answer) == 0:
                return False
        except RayError:
            if actor is not None:
                ray.kill(actor, no_restart=True)  # it cannot do it; a task can
        del self._ending[tag, number]
        return True

    def _forget(self, tag: str, actors: Sequence[Any], group: PlacementGroup | None) -> None:
        for number, actor in enumerate(actors):
            self._ending.pop((tag, number), None)
            if actor is not None:
                ray.kill(actor, no_restart=True)
        if group is not None:
            remove_placement_group(group)

    def list(self) -> list[str]:
        """`JOB/ATTEMPT` of every run that has an actor."""
        names = [name.removeprefix(_PREFIX) for name in list_named_actors() if name.startswith(_PREFIX)]
        return sorted({name.rpartition("/")[0] for name in names})


def _look_at_parts(actors: Sequence[Any]) -> list[dict[str, Any]]:
    """What each actor says of its part. All are asked at once: one whose node is gone keeps nobody waiting for long."""
    answers = {number: actor.look.remote() for number, actor in enumerate(actors) if actor is not None}
    pending = list(answers.values())
    ready = set(ray.wait(pending, num_returns=len(pending), timeout=_LOOK_TIMEOUT_S)[0]) if pending else set()
    return [_part(answers.get(number), ready) for number in range(len(actors))]


def _part(answer: Any, ready: Container[Any]) -> dict[str, Any]:
    if answer is None:
        return {"gone": "there is no such actor"}
    if answer not in ready:
        return {"alive": True, "code": None}  # still being made, or its node does not answer and Ray does not know yet
    try:
        found: dict[str, Any] = ray.get(answer)
    except RayError as error:
        return {"gone": _first_line(error)}
    return found


def _end_on_node(actor: Any, tag: str, node: str) -> Any:
    """Begin to kill a run's processes on one node, through its actor or, where that is gone, a task that Ray sends
    there; the answer to come is how many are left."""
    if actor is not None:
        return actor.end.remote()
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(end_tagged).options(num_cpus=0, scheduling_strategy=there, max_retries=0).remote(tag)


def _living() -> set[str]:
    return {str(node["NodeID"]) for node in ray.nodes() if node["Alive"]}


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
