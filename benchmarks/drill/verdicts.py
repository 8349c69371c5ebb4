"""What is true after a drill: read from the database, the job folders, the locks and the process table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.drill.people import People
from benchmarks.drill.plan import FAILING, Planned
from service.jobs.retry_rules import Ending, default_rules, find_rule
from service.store.records import AttemptRecord, AttemptStatus, EndReason, EventRecord, JobRecord, JobStatus
from service.store.store import Store
from trainer.job_dir import CheckpointName, JobDir

Json = dict[str, Any]


@dataclass
class Verdict:
    """One promise, and what speaks against it."""

    promise: str
    against: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.against


class Evidence:
    """All that a drill has left behind."""

    def __init__(self, store: Store, *, folder: Path, planned: Sequence[Planned], people: People) -> None:
        self.store = store
        self.folder = folder
        self.planned = planned
        self.people = people
        self.jobs = _all_jobs(store)
        self.by_number: dict[int, list[JobRecord]] = {}
        for job in self.jobs:
            self.by_number.setdefault(int(job.metadata["drill"].removeprefix("drill-")), []).append(job)
        self.attempts: dict[str, Sequence[AttemptRecord]] = {job.id: store.attempts.list(job.id) for job in self.jobs}
        self.events: dict[str, Sequence[EventRecord]] = {job.id: _all_events(store, job.id) for job in self.jobs}

    def pairs(self) -> Iterator[tuple[Planned, JobRecord]]:
        """Each planned job and what became of it."""
        for planned in self.planned:
            for job in self.by_number.get(planned.number, []):
                yield planned, job

    def verdicts(self) -> list[Verdict]:
        """Every promise."""
        judges: dict[str, Callable[[Verdict], Iterator[str]]] = {
            "none lost": self._none_lost,
            "none run twice to the end": self._none_twice,
            "no device given twice": self._no_device_twice,
            "no orphan process": self._no_orphan,
            "every final state explained": self._all_explained,
            "every job ended as was meant": self._as_meant,
            "no step lost or left out": self._no_step_lost,
            "no event lost or told twice": self._events_once,
            "no event stream missed any": self._streams_whole,
        }
        found = []
        for promise, judge in judges.items():
            verdict = Verdict(promise)
            verdict.against += judge(verdict)
            found.append(verdict)
        return found

    def _none_lost(self, verdict: Verdict) -> Iterator[str]:
        verdict.note = f"{len(self.jobs)} jobs for {len(self.planned)} submissions"
        yield from self.people.failures
        for planned in self.planned:
            jobs = self.by_number.get(planned.number, [])
            told = set(self.people.job_ids.get(planned.number, []))
            if len(jobs) != 1:
                yield f"{planned.key} is there {len(jobs)} times"
            elif told != {jobs[0].id}:
                yield f"{planned.key} is {jobs[0].id}, but the client was told of {sorted(told)}"
            elif not jobs[0].status.is_terminal:
                yield f"{jobs[0].id} ({planned.key}) is still {jobs[0].status}"

    def _none_twice(self, verdict: Verdict) -> Iterator[str]:
        models = Counter(model.job_id for model in self.store.models.list())
        for job in self.jobs:
            completed = sum(a.end_reason is EndReason.COMPLETED for a in self.attempts[job.id])
            records = [exit for attempt in JobDir(Path(job.job_dir)).attempts() if (exit := attempt.read_exit())]
            exits = sum(record.status == "succeeded" for record in records)
            expected = int(job.status is JobStatus.SUCCEEDED)
            if completed != expected or models[job.id] != expected or exits > 1 or exits < expected:
                yield (
                    f"{job.id} {job.status}: {completed} completed attempts, {exits} exit.json that succeeded, "
                    f"{models[job.id]} models"
                )
        verdict.note = f"{sum(models.values())} models"

    def _no_device_twice(self, verdict: Verdict) -> Iterator[str]:
        notes = self._lock_notes()
        for note in notes:
            if not note["name"].startswith("job."):
                yield f"{note['tag']} got {note['name']} while {', '.join(note['living'])} lived there"
        overlaps = sum(note["name"].startswith("job.") for note in notes)
        held = [path for path in (self.folder / "locks").iterdir() if path.is_dir() and path.name[:4] != "job."]
        verdict.note = f"{len(held)} devices; attempts that began while the one before still died: {overlaps}"
        if leased := self.store.attempts.leased_devices():
            yield f"still leased: {sorted(leased)}"

    def _lock_notes(self) -> list[Json]:
        path = self.folder / "locks" / "violations.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def _no_orphan(self, verdict: Verdict) -> Iterator[str]:
        yield from processes_of(self.folder).values()

    def _all_explained(self, verdict: Verdict) -> Iterator[str]:
        for job in self.jobs:
            if job.status is JobStatus.FAILED and not (job.error_code and job.error_message):
                yield f"{job.id} failed with code {job.error_code!r} and message {job.error_message!r}"
            for attempt in self.attempts[job.id]:
                if attempt.status is not AttemptStatus.ENDED or attempt.end_reason is None or not attempt.end_message:
                    yield f"{job.id}/{attempt.number} is {attempt.status}: {attempt.end_reason}, {attempt.end_message}"
            kinds = [attempt.end_reason for attempt in self.attempts[job.id]]
            if EndReason.COMPLETED in kinds[:-1]:
                yield f"{job.id} went on after it had completed: {kinds}"

    def _as_meant(self, verdict: Verdict) -> Iterator[str]:
        for planned, job in self.pairs():
            if planned.number in self.people.cancelled:
                meant = job.status is JobStatus.CANCELLED
            elif planned.end == "cancel":  # its end was faster, or the answer to its cancellation was lost
                meant = job.status in (JobStatus.SUCCEEDED, JobStatus.CANCELLED)
            elif planned.end in FAILING:
                meant = job.status is JobStatus.FAILED and job.error_code == FAILING[planned.end]
            else:
                meant = job.status is JobStatus.SUCCEEDED
            if not meant:
                why = f" ({job.error_code}: {job.error_message})" if job.error_code else ""
                yield f"{job.id} ({planned.key}, {planned.end}, real={planned.is_real}) is {job.status}{why}"

    def _no_step_lost(self, verdict: Verdict) -> Iterator[str]:
        """Succeeded jobs have logged every step, and each attempt began at the newest checkpoint of those before."""
        for planned, job in self.pairs():
            if job.status is not JobStatus.SUCCEEDED:
                continue
            logged = {event.data["step"] for event in self.events[job.id] if event.type == "metrics" and event.data}
            if logged != set(range(1, planned.steps + 1)):
                yield f"{job.id} has logged steps {sorted(logged)} of {planned.steps}"
            published: dict[int, list[int]] = {}
            for event in self.events[job.id]:
                if event.data and event.data.get("type") == "checkpoint":
                    name = CheckpointName.parse(event.data["name"])
                    assert name is not None
                    published.setdefault(name.attempt, []).append(name.step)
            for attempt in self.attempts[job.id]:
                before = [step for number, steps in published.items() if number < attempt.number for step in steps]
                if attempt.total_steps is not None and attempt.start_step < max(before, default=0):
                    yield f"{job.id}/{attempt.number} began at step {attempt.start_step}, but {max(before)} was saved"

    def _events_once(self, verdict: Verdict) -> Iterator[str]:
        """What the workers wrote is what the database holds, line by line, and numbers have no gaps."""
        total = 0
        for job in self.jobs:
            stored = self.events[job.id]
            total += len(stored)
            if [event.seq for event in stored] != list(range(1, len(stored) + 1)):
                yield f"{job.id} has gaps in its events' numbers"
            told = Counter(_plain(event.data) for event in stored if event.data is not None)
            written = Counter(_plain(json.loads(line)) for line in _written_lines(job))
            if twice := told - written:
                yield f"{job.id}: {twice.total()} events too many, such as {next(iter(twice))[:200]}"
            if lost := written - told:
                yield f"{job.id}: {lost.total()} written events are not stored, such as {next(iter(lost))[:200]}"
        verdict.note = f"{total} events"

    def _streams_whole(self, verdict: Verdict) -> Iterator[str]:
        for number, seen in self.people.seen.items():
            for job in self.by_number.get(number, []):
                stored = [event.id for event in self.events[job.id]]
                if seen != stored:
                    missed, more = set(stored) - set(seen), len(seen) - len(set(seen))
                    yield f"{job.id}: of {len(stored)} events the stream missed {len(missed)} and repeated {more}"
        verdict.note = f"{len(self.people.seen)} jobs watched to their end"


def retries_by_rule(evidence: Evidence) -> Counter[str]:
    """The rules by which attempts were followed by another one."""
    found: Counter[str] = Counter()
    for job in evidence.jobs:
        for attempt in evidence.attempts[job.id][:-1]:
            assert attempt.end_reason is not None
            rule = find_rule(default_rules(), Ending(attempt.end_reason, attempt.end_message or "", None))
            found[rule.name if rule else f"{attempt.end_reason} by request"] += 1
    return found


def processes_of(folder: Path) -> dict[psutil.Process, str]:
    """Living processes whose command line or environment names `folder`, but for this one, with what they run."""
    found = {}
    for process in psutil.process_iter():
        try:
            if process.pid == psutil.Process().pid or process.status() == psutil.STATUS_ZOMBIE:
                continue
            command = " ".join(process.cmdline())
            if str(folder) in command or any(str(folder) in value for value in process.environ().values()):
                found[process] = f"pid {process.pid}: {command[:300]}"
        except psutil.Error:
            continue
    return found


def _all_jobs(store: Store) -> list[JobRecord]:
    found: list[JobRecord] = []
    more = True
    while more:
        page, more = store.jobs.list(after=found[-1].id if found else None, limit=100)
        found += page
    return found


def _all_events(store: Store, job_id: str) -> list[EventRecord]:
    found: list[EventRecord] = []
    while page := store.events.since(job_id, found[-1].seq if found else 0):
        found += page
    return found


def _written_lines(job: JobRecord) -> Iterator[bytes]:
    """The whole lines of all its attempts' events."""
    for attempt in JobDir(Path(job.job_dir)).attempts():
        if attempt.events.exists():
            content = attempt.events.read_bytes()
            yield from content[: content.rfind(b"\n") + 1].splitlines()


def _plain(data: Json) -> str:
    """An event without the fields that only have their defaults, which the store adds."""
    return json.dumps([data["type"], data["time"], data.get("step"), data.get("name"), data.get("stage")])
