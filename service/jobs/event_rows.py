"""From the lines of a worker's events.jsonl to what the store keeps: rows for people, and facts about the attempt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from service.store.records import AttemptProgress, CheckpointRecord, NewEvent, new_id
from trainer import events

MAX_BYTES = 1 << 20
"""Most that one transaction takes in; the rest follows at once."""

_event: TypeAdapter[events.AnyEvent] = TypeAdapter(events.AnyEvent)


@dataclass(frozen=True)
class Lines:
    """Whole lines of a file."""

    lines: list[bytes]
    offset_after: int
    """Where the line after them starts."""


def read_lines(path: Path, offset: int, *, max_bytes: int = MAX_BYTES) -> Lines:
    """The whole lines from byte `offset` on, at most about `max_bytes`. A missing file holds none."""
    try:
        with path.open("rb") as file:  # over NFS, this sees what `exists` may not see yet
            file.seek(offset)
            data = file.read(max_bytes)
            if len(data) == max_bytes:
                data += file.readline()
    except FileNotFoundError:
        return Lines([], offset)
    end = data.rfind(b"\n") + 1
    return Lines([line for line in data[:end].split(b"\n") if line], offset + end)


def to_progress(lines: Lines, *, job_id: str, offset: int, total_steps: int | None, now: float) -> AttemptProgress:
    """What to store for `lines` that were read from byte `offset` on.

    `total_steps`: what the attempt said before, if it did. `now` dates a line that cannot be read, and is when the
    attempt gave its last sign: by the service's clock, which the watchdog goes by.
    """
    progress = AttemptProgress(
        offset_before=offset, offset_after=lines.offset_after, events=[], total_steps=total_steps, last_sign_at=now
    )
    for line in lines.lines:
        try:
            event = _event.validate_json(line)
        except ValidationError as error:
            text = f"the worker wrote a line that is no event: {line[:200]!r} ({error.errors()[0]['msg']})"
            progress.events.append(NewEvent(message=text, created_at=now, level="warn"))
            continue
        progress = _with_facts(progress, event, job_id)
        progress.events.append(to_row(event, total_steps=progress.total_steps))
    return progress


def to_row(event: events.AnyEvent, *, total_steps: int | None) -> NewEvent:
    """The row that people read for an event; its data is the event itself."""
    return NewEvent(
        message=describe(event, total_steps=total_steps),
        created_at=event.time,
        level=_level(event),
        type="metrics" if isinstance(event, events.Step) else "message",
        data=event.model_dump(mode="json"),
    )


def _level(event: events.AnyEvent) -> Literal["info", "warn", "error"]:
    if isinstance(event, events.BadSample):
        return "warn"
    return event.level if isinstance(event, events.Message) else "info"


def describe(event: events.AnyEvent, *, total_steps: int | None = None) -> str:
    """An event in one line."""
    match event:
        case events.Message():
            return event.message
        case events.Stage():
            return f"Stage: {event.stage}"
        case events.Started():
            begun = f"from step {event.start_step} of" if event.start_step else "for"
            return f"Training {begun} {event.total_steps} steps on {event.world_size} x {event.device}"
        case events.Startup():
            return f"First step done {sum(event.seconds.values()):.1f} s after the worker's start"
        case events.Step():
            step = event.step if total_steps is None else f"{event.step}/{total_steps}"
            return f"Step {step}: loss={event.loss:.4g}, {event.images_per_s:.4g} images/s"
        case events.Evaluation():
            return f"Evaluated {event.dataset} ({event.weights} weights) at step {event.step}: {_listed(event.metrics)}"
        case events.CheckpointSaved() | events.CheckpointRemoved():
            done = "Saved" if isinstance(event, events.CheckpointSaved) else "Removed"
            return f"{done} checkpoint {event.name}"
        case events.BadSample():
            return (
                f"Bad sample in {event.dataset}, {event.action}: {event.key} ({event.reason}); {event.num_bad} so far"
            )
        case events.Exported():
            return f"Exported the {event.weights} weights of {event.checkpoint}"


def _listed(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name}={value:.4g}" for name, value in metrics.items())


def _with_facts(progress: AttemptProgress, event: events.AnyEvent, job_id: str) -> AttemptProgress:
    match event:
        case events.Started():
            return replace(
                progress,
                start_step=event.start_step,
                total_steps=event.total_steps,
                worker_pids=event.pids,
                workers_seen_at=event.time,
            )
        case events.Step():
            return replace(
                progress,
                last_step=event.step,
                last_step_at=event.time,
                stage="training",
                estimated_finish=event.time + event.eta_s,
            )
        case events.Stage():
            return replace(progress, stage=event.stage)
        case events.CheckpointSaved():
            saved = [c for c in progress.checkpoints_saved if c.name != event.name]
            removed = [name for name in progress.checkpoints_removed if name != event.name]
            saved.append(_checkpoint(event, job_id))
            return replace(progress, checkpoints_saved=saved, checkpoints_removed=removed)
        case events.CheckpointRemoved():
            return replace(progress, checkpoints_removed=[*progress.checkpoints_removed, event.name])
        case _:
            return progress


def _checkpoint(event: events.CheckpointSaved, job_id: str) -> CheckpointRecord:
    return CheckpointRecord(
        id=new_id("ftckpt"),
        job_id=job_id,
        step_number=event.step,
        name=event.name,
        metrics=event.metrics,
        created_at=event.time,
        fine_tuned_model_checkpoint=f"{job_id}:ckpt-{event.name}",
    )
