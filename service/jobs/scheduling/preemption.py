"""Whose devices a job of higher priority takes: as few runs as possible, the least important and youngest of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from service.jobs.scheduling.state import Running, Waiting


def choose_victims(
    job: Waiting, *, missing: Mapping[str, int], running: Sequence[Running]
) -> tuple[list[str], list[Running]] | None:
    """The machines for a job and the runs that must stop for it there, or None where even that gives too little.

    Args:
        missing: by machine that it may use, devices that must still come free there.
    """
    candidates = [run for run in running if run.preemptible and not run.stopping and run.priority < job.priority]
    by_node = {name: _cheapest(name, number, candidates) for name, number in missing.items()}
    possible = {name: victims for name, victims in by_node.items() if victims is not None}
    if len(possible) < job.nodes:
        return None
    nodes = sorted(sorted(possible, key=lambda name: (len(possible[name]), name))[: job.nodes])
    victims = {run.job_id: run for name in nodes for run in possible[name]}
    return nodes, _without_needless(list(victims.values()), missing={name: missing[name] for name in nodes})


def _cheapest(node: str, missing: int, candidates: Sequence[Running]) -> list[Running] | None:
    """Runs on one machine that have `missing` devices between them: one if one is enough, else the largest first."""
    if missing == 0:
        return []
    here = sorted((run for run in candidates if _held(run, node)), key=_expendable)
    for run in here:
        if _held(run, node) >= missing:
            return [run]
    chosen: list[Running] = []
    for run in sorted(here, key=lambda run: -_held(run, node)):
        chosen.append(run)
        missing -= _held(run, node)
        if missing <= 0:
            return chosen
    return None


def _without_needless(victims: list[Running], *, missing: Mapping[str, int]) -> list[Running]:
    """A run that was chosen for one machine may free enough of another, too; the most important go first."""
    for run in sorted(victims, key=_expendable, reverse=True):
        rest = [other for other in victims if other is not run]
        if all(sum(_held(other, name) for other in rest) >= number for name, number in missing.items()):
            victims = rest
    return victims


def _expendable(run: Running) -> tuple[int, float]:
    return run.priority, -run.started_at


def _held(run: Running, node: str) -> int:
    return sum(len(share.devices) for share in run.placement if share.node == node)
