"""Which jobs need a replica's attention, and who holds them: the queries of `Jobs.claim`.

They are asked several times a second, so they are made once. Each part is found by an index of its own: nothing here
may look at all jobs, or at all that wait.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Float,
    Select,
    and_,
    bindparam,
    func,
    or_,
    select,
    true,
    union,
    update,
)

from service.store.records import OPEN_ATTEMPT, TERMINAL, JobStatus
from service.store.tables import attempts, jobs, projects

_BUSY = (JobStatus.VALIDATING_FILES, JobStatus.RUNNING)
_IDLE = tuple(status for status in JobStatus if status not in (*_BUSY, *TERMINAL))
_OWNER: BindParameter[str] = bindparam("b_owner")
_BUSY_ONES = select(jobs.c.position).where(jobs.c.status.in_(_BUSY))
_TO_BE_CANCELLED = select(jobs.c.position).where(jobs.c.cancel_requested.is_(True), jobs.c.status.in_(_IDLE))
_WITH_OPEN_ATTEMPT = (
    select(jobs.c.position)
    .join(attempts, attempts.c.job_id == jobs.c.id)
    .where(attempts.c.status.in_(OPEN_ATTEMPT), jobs.c.status.in_(_IDLE))
)
_NEEDS_WORK = jobs.c.position.in_(union(_BUSY_ONES, _TO_BE_CANCELLED, _WITH_OPEN_ATTEMPT))
_VALIDATING = and_(jobs.c.status == JobStatus.VALIDATING_FILES, jobs.c.cancel_requested.is_(False))
_URGENT = jobs.c.position.in_(
    union(
        select(jobs.c.position).where(jobs.c.status == JobStatus.RUNNING),
        select(jobs.c.position).where(jobs.c.cancel_requested.is_(True), jobs.c.status.in_((*_BUSY, *_IDLE))),
        _WITH_OPEN_ATTEMPT,
    )
)
_HELD_CHECKS = and_(_VALIDATING, jobs.c.lease_owner == _OWNER)
ANY_NEEDS_WORK = select(or_(*(part.exists() for part in (_BUSY_ONES, _TO_BE_CANCELLED, _WITH_OPEN_ATTEMPT))))
"""Whether there is any such job."""
NUM_VALIDATING = select(func.count()).select_from(jobs).where(_HELD_CHECKS)
"""How many jobs `b_owner` holds whose data are to be checked."""


class Claims:
    """Taking and keeping jobs, by a database's own clock."""

    def __init__(self, now: ColumnElement[float]) -> None:
        later = now + bindparam("b_ttl", type_=Float)
        mine = and_(_NEEDS_WORK, jobs.c.lease_owner == _OWNER)
        self.renew = update(jobs).where(mine).values(lease_expires_at=later)
        """Hold what `b_owner` holds for `b_ttl` seconds from now."""
        self.mine = select(jobs).where(mine).order_by(jobs.c.position)
        """What `b_owner` holds."""
        given = {"lease_owner": _OWNER, "lease_token": bindparam("b_token"), "lease_expires_at": later}
        self.give = update(jobs).where(jobs.c.position == bindparam("b_position")).values(**given)
        """Give the job at `b_position` to `b_owner`."""
        unheld = or_(jobs.c.lease_owner.is_(None), jobs.c.lease_expires_at < now)
        self.of_nobody = Unheld(unheld)
        self.of_anybody = Unheld(true())


class Unheld:
    """Positions of jobs that `b_owner` does not hold and may claim, the oldest first."""

    def __init__(self, free: ColumnElement[bool]) -> None:
        """`free`: of whom it may take them."""
        claimable = and_(or_(jobs.c.lease_owner.is_(None), jobs.c.lease_owner != _OWNER), free)
        self.urgent = _locked(and_(_URGENT, claimable))
        """At most `b_most` jobs that run, that have an open attempt, or that are to be cancelled."""
        self.validating = _locked(and_(_VALIDATING, claimable))
        """At most `b_most` jobs whose data are to be checked."""
        self.first_of_the_others = _first_of_the_others(claimable)
        """The first such job of each project none of whose data `b_owner` checks; may hold null."""
        self.among = _locked(and_(jobs.c.position.in_(bindparam("b_among", expanding=True)), claimable))
        """At most `b_most` of the positions `b_among`: those that are still claimable."""


def _locked(wanted: ColumnElement[bool]) -> Select[Any]:
    found = select(jobs.c.position).where(wanted).order_by(jobs.c.position).limit(bindparam("b_most"))
    return found.with_for_update(skip_locked=True)


def _first_of_the_others(claimable: ColumnElement[bool]) -> Select[Any]:
    held = select(jobs.c.position).where(jobs.c.project_id == projects.c.id, _HELD_CHECKS)
    first = select(func.min(jobs.c.position)).where(jobs.c.project_id == projects.c.id, _VALIDATING, claimable)
    return select(first.scalar_subquery()).select_from(projects).where(~held.exists())
