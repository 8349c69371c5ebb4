"""The plan as a function: single cases by hand, and what must hold for every state and every course of events."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from service.jobs.scheduling.plan import plan
from service.jobs.scheduling.state import Plan, Running, Share, State, Waiting
from service.launchers.base import NodeShare, Placement

NOW = 1000.0


def nodes(*sizes: int) -> tuple[NodeShare, ...]:
    return tuple(NodeShare(f"n{i}", tuple(range(size))) for i, size in enumerate(sizes))


def wants(id: str, devices: int = 1, **changes: Any) -> Waiting:
    given = {"project_id": "a", "priority": 50, "queue_order": 0.0, "devices": devices, **changes}
    return Waiting(id=id, **given)


def runs(id: str, devices: tuple[int, ...] = (0,), *, node: str = "n0", **changes: Any) -> Running:
    given: dict[str, Any] = {"number": 1, "project_id": "a", "priority": 50, "started_at": 0.0, **changes}
    return Running(job_id=id, placement=(NodeShare(node, devices),), **given)


def planned(*waiting: Waiting, on: tuple[NodeShare, ...], running: tuple[Running, ...] = (), **projects: Share) -> Plan:
    numbered = tuple(replace(job, queue_order=float(i)) for i, job in enumerate(waiting))
    shares = {"a": Share(), "b": Share(), **projects}
    return plan(State(now=NOW, nodes=on, running=running, waiting=numbered, projects=shares))


def started(plan: Plan) -> dict[str, Placement]:
    return {grant.job_id: grant.placement for grant in plan.grants}


def test_devices_are_handed_out_in_order_and_never_twice() -> None:
    given = started(planned(wants("x"), wants("y", 2), wants("z"), on=nodes(4)))
    assert {name: placement[0].devices for name, placement in given.items()} == {"x": (0,), "y": (1, 2), "z": (3,)}


def test_a_gang_starts_whole_on_distinct_machines_or_not_at_all() -> None:
    two = wants("wide", 2, nodes=2)
    assert started(planned(two, on=nodes(2, 2)))["wide"] == (NodeShare("n0", (0, 1)), NodeShare("n1", (0, 1)))
    waiting = planned(two, on=nodes(4, 2), running=(runs("r", (0,), node="n1"),))
    assert (waiting.grants, waiting.waits["wide"].why) == ((), "devices")
    assert planned(two, on=nodes(4)).waits["wide"].why == "more_than_there_is"


def test_the_fullest_machine_that_fits_is_taken() -> None:
    (share,) = started(planned(wants("x"), on=nodes(4, 2), running=(runs("r", (0,), node="n1"),)))["x"]
    assert share == NodeShare("n1", (1,))


def test_higher_priorities_go_first() -> None:
    assert planned(wants("low", priority=10), wants("high", priority=90), on=nodes(1)).order == ("high", "low")


def test_projects_of_one_priority_take_turns_by_what_they_had_for_their_weight() -> None:
    waiting = [wants(f"a{i}") for i in range(3)] + [wants(f"b{i}", project_id="b") for i in range(3)]
    assert planned(*waiting, on=nodes(8)).order == ("a0", "b0", "a1", "b1", "a2", "b2")
    heavy = planned(*waiting, on=nodes(8), a=Share(weight=2.0))
    assert Counter(name[0] for name in heavy.order[:3]) == {"a": 2, "b": 1}
    greedy = planned(*waiting, on=nodes(8), a=Share(used=100_000.0))
    assert greedy.order == ("b0", "b1", "b2", "a0", "a1", "a2")


def test_while_a_large_job_waits_a_job_of_unknown_length_does_not_overtake_it() -> None:
    decided = planned(wants("large", 3), wants("small"), on=nodes(4), running=(runs("r", (0, 1)),))
    assert decided.grants == ()
    assert (decided.waits["small"].why, decided.waits["small"].behind) == ("devices", "large")
    assert decided.waits["large"].behind is None


def test_a_job_that_ends_before_the_large_one_can_start_is_let_past() -> None:
    ending = (runs("r", (0, 1), ends_at=NOW + 100),)
    short, long = wants("short", longest_s=99), wants("long", longest_s=101)
    decided = planned(wants("large", 4), long, short, on=nodes(4), running=ending)
    assert set(started(decided)) == {"short"}
    assert decided.waits["large"].starts_at == NOW + 100


def test_devices_that_the_large_job_will_not_need_are_used() -> None:
    ending = (runs("r", (0, 1), ends_at=NOW + 100),)
    decided = planned(wants("large", 3), wants("s1"), wants("s2"), on=nodes(4), running=ending)
    assert set(started(decided)) == {"s1"}
    elsewhere = planned(wants("large", 4), wants("s"), on=nodes(4, 2), running=(runs("r", (0,)),))
    assert started(elsewhere)["s"] == (NodeShare("n1", (0,)),)


def test_quotas_hold_and_keep_the_project_in_order() -> None:
    waiting = (wants("big", 2), wants("next"), wants("other", project_id="b"))
    decided = planned(*waiting, on=nodes(4), running=(runs("r"),), a=Share(max_devices=2))
    assert set(started(decided)) == {"other"}
    assert (decided.waits["big"].why, decided.waits["big"].limit) == ("project_devices", 2)
    assert decided.waits["next"].why == "project_devices"
    one = planned(wants("x"), on=nodes(4), running=(runs("r"),), a=Share(max_running_jobs=1))
    assert one.waits["x"].why == "project_running_jobs"


def test_a_job_larger_than_its_quota_blocks_nobody() -> None:
    decided = planned(wants("huge", 4), wants("small"), on=nodes(4), a=Share(max_devices=2))
    assert (set(started(decided)), decided.waits["huge"].why) == ({"small"}, "more_than_the_quota")


def test_a_higher_priority_takes_the_devices_of_the_fewest_least_important_youngest_runs() -> None:
    running = (
        runs("old", (0,), priority=10, started_at=1),
        runs("young", (1,), priority=10, started_at=2),
        runs("better", (2,), priority=20),
        runs("safe", (3,), priority=10, preemptible=False, started_at=9),
    )
    decided = planned(wants("urgent", priority=60), on=nodes(4), running=running)
    assert [p.job_id for p in decided.preemptions] == ["young"]
    assert decided.waits["urgent"].why == "stopping"
    two = planned(wants("urgent", 3, priority=60), on=nodes(4), running=running)
    assert {p.job_id for p in two.preemptions} == {"old", "young", "better"}
    assert planned(wants("urgent", 4, priority=60), on=nodes(4), running=running).preemptions == ()


def test_nobody_more_is_stopped_while_enough_devices_come_free() -> None:
    running = (runs("going", (0, 1), priority=10, stopping=True), runs("stays", (2, 3), priority=10))
    decided = planned(wants("urgent", 2, priority=60), wants("later", priority=5), on=nodes(4), running=running)
    assert (decided.preemptions, decided.grants) == ((), ())
    assert decided.waits["urgent"].why == "stopping"
    assert decided.waits["later"].why == "devices"


def test_a_run_is_stopped_for_whom_it_was_said() -> None:
    """The wide job is older and would hold the machine that came free, without ever having enough others."""
    machines = nodes(4, 4, 4)
    going = tuple(runs(name, (0, 1, 2, 3), node=name, preemptible=False) for name in ("n0", "n1"))
    victim = runs("victim", (0, 1, 2, 3), node="n2", priority=1)
    wide, small = wants("wide", 4, nodes=2), wants("small", 4)
    first = planned(wide, small, on=machines, running=(*going, victim))
    assert [(p.job_id, p.for_job) for p in first.preemptions] == [("victim", "small")]
    promised = replace(small, room_made=True)
    stopping = planned(wide, promised, on=machines, running=(*going, replace(victim, stopping=True)))
    assert (stopping.preemptions, stopping.waits["small"].why) == ((), "stopping")
    then = planned(wide, promised, wants("victim", 4, priority=1), on=machines, running=going)
    assert started(then)["small"] == (NodeShare("n2", (0, 1, 2, 3)),)


def test_equal_priority_preempts_nobody() -> None:
    assert planned(wants("x"), on=nodes(1), running=(runs("r"),)).preemptions == ()


@st.composite
def states(draw: st.DrawFn) -> State:
    """Any state in which no device is held twice."""
    machines = nodes(*draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    free = {node.node: list(node.devices) for node in machines}
    priorities, names = st.integers(0, 3), st.sampled_from("abc")
    running = []
    for number in range(draw(st.integers(0, 5))):
        placement = []
        for name in draw(st.lists(st.sampled_from(sorted(free)), min_size=1, max_size=2, unique=True)):
            count = draw(st.integers(0, len(free[name])))
            if count:
                placement.append(NodeShare(name, tuple(free[name].pop() for _ in range(count))))
        if placement:
            running.append(
                Running(
                    job_id=f"r{number}",
                    number=1,
                    project_id=draw(names),
                    priority=draw(priorities),
                    placement=tuple(placement),
                    started_at=draw(st.floats(0, NOW)),
                    preemptible=draw(st.booleans()),
                    ends_at=draw(st.none() | st.floats(NOW - 10, NOW + 100)),
                    stopping=draw(st.booleans()),
                )
            )
    waiting = [
        Waiting(
            id=f"w{number}",
            project_id=draw(names),
            priority=draw(priorities),
            queue_order=draw(st.floats(0, 10)),
            nodes=draw(st.integers(1, 2)),
            devices=draw(st.integers(1, 4)),
            longest_s=draw(st.none() | st.floats(0, 100)),
            not_before=draw(st.sampled_from([0.0, NOW + 5])),
        )
        for number in range(draw(st.integers(0, 8)))
    ]
    quota = st.none() | st.integers(0, 6)
    projects = {
        name: Share(
            weight=draw(st.floats(0.1, 4)),
            used=draw(st.floats(0, 1e6)),
            max_devices=draw(quota),
            max_running_jobs=draw(quota),
        )
        for name in "abc"
    }
    return State(now=NOW, nodes=machines, running=tuple(running), waiting=tuple(waiting), projects=projects)


@given(states())
@settings(max_examples=120, deadline=None)
def test_no_device_is_given_twice_gangs_are_whole_and_quotas_hold(state: State) -> None:
    decided = plan(state)
    jobs = {job.id: job for job in state.waiting}
    there = {(node.node, device) for node in state.nodes for device in node.devices}
    held = {(s.node, d) for run in state.running for s in run.placement for d in s.devices}
    for grant in decided.grants:
        job = jobs[grant.job_id]
        given = {(share.node, device) for share in grant.placement for device in share.devices}
        assert given <= there - held
        assert len({share.node for share in grant.placement}) == job.nodes
        assert all(len(share.devices) == job.devices for share in grant.placement)
        assert job.not_before <= state.now
        held |= given
    assert {grant.job_id for grant in decided.grants} | set(decided.waits) == set(jobs)
    assert set(started(decided)).isdisjoint(decided.waits)
    for name, share in state.projects.items():
        before = [run for run in state.running if run.project_id == name]
        begun = [jobs[grant.job_id] for grant in decided.grants if jobs[grant.job_id].project_id == name]
        if begun and share.max_running_jobs is not None:
            assert len(before) + len(begun) <= share.max_running_jobs
        if begun and share.max_devices is not None:
            assert sum(r.num_devices for r in before) + sum(j.num_devices for j in begun) <= share.max_devices


@given(states())
@settings(max_examples=120, deadline=None)
def test_only_preemptible_runs_of_lower_priority_are_stopped_and_only_where_that_suffices(state: State) -> None:
    decided = plan(state)
    runs_by_id, jobs = {run.job_id: run for run in state.running}, {job.id: job for job in state.waiting}
    assert len({p.job_id for p in decided.preemptions}) == len(decided.preemptions)
    for stopped in decided.preemptions:
        victim, job = runs_by_id[stopped.job_id], jobs[stopped.for_job]
        assert victim.preemptible
        assert not victim.stopping
        assert victim.priority < job.priority
    if not decided.preemptions:
        return
    gone = {p.job_id for p in decided.preemptions}
    rest = tuple(run for run in state.running if run.job_id not in gone and not run.stopping)
    urgent = {p.for_job for p in decided.preemptions}
    after = plan(replace(state, running=rest))
    assert urgent <= set(started(after))


@given(states())
@settings(max_examples=100, deadline=None)
def test_nothing_that_fits_is_passed_over_by_a_lower_priority_of_the_same_size(state: State) -> None:
    decided = plan(state)
    waits = {job.id: job for job in state.waiting if job.id in decided.waits}
    for grant in decided.grants:
        job = next(job for job in state.waiting if job.id == grant.job_id)
        for other in waits.values():
            alike = (other.nodes, other.devices) == (job.nodes, job.devices) and other.longest_s == job.longest_s
            if alike and other.priority > job.priority and other.not_before <= state.now:
                assert decided.waits[other.id].why not in ("devices", "stopping")


@given(
    sizes=st.lists(st.integers(2, 4), min_size=1, max_size=3),
    wide=st.booleans(),
    lengths=st.lists(st.integers(1, 6), min_size=40, max_size=40),
    known=st.lists(st.booleans(), min_size=40, max_size=40),
    devices=st.lists(st.integers(1, 2), min_size=40, max_size=40),
)
@settings(max_examples=40, deadline=None)
def test_a_large_job_starts_although_small_ones_never_stop_coming(
    sizes: list[int], wide: bool, lengths: list[int], known: list[bool], devices: list[int]
) -> None:
    """However many small jobs of the same priority there are, the large one starts after a few rounds of them."""
    machines = nodes(*sizes)
    large = wants("large", min(sizes), nodes=len(sizes) if wide else 1, queue_order=5.0)
    ends: dict[str, float] = {}
    running: dict[str, Running] = {}
    arrived = 0
    for hour in range(200):
        now = float(hour)
        running = {name: run for name, run in running.items() if ends[name] > now}
        small = []
        for _ in range(3):  # more than ever fit
            i = arrived % 40
            fit_in = devices[i] if devices[i] <= min(sizes) else 1
            small.append(wants(f"s{arrived}", fit_in, queue_order=arrived, longest_s=lengths[i] if known[i] else None))
            arrived += 1
        decided = plan(
            State(
                now=now,
                nodes=machines,
                running=tuple(running.values()),
                waiting=(large, *small),
                projects={"a": Share()},
            )
        )
        if "large" in started(decided):
            return
        for job in small:
            if job.id in started(decided):
                length = lengths[int(job.id[1:]) % 40]
                ends[job.id] = now + length
                running[job.id] = Running(
                    job_id=job.id,
                    number=1,
                    project_id="a",
                    priority=50,
                    placement=started(decided)[job.id],
                    started_at=now,
                    ends_at=now + length if known[int(job.id[1:]) % 40] else None,
                )
        # The large job comes to the front of the line at once; small ones that came before it have run by hour 20.
        assert hour < 60, "the large job starves"
