"""What rank 0 tells the outside: events, TensorBoard, and a progress bar or plain lines on the terminal."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from trainer import events
from trainer.job_dir import AttemptDir


class Reporter:
    """Writes events and shows them; on ranks other than 0 it does nothing."""

    def __init__(self, attempt: AttemptDir, *, rank: int) -> None:
        self._active = rank == 0
        if not self._active:
            return
        self._events = events.EventWriter(attempt.events)
        self._tensorboard = SummaryWriter(str(attempt.tensorboard))
        self._console = Console(file=sys.stdout, soft_wrap=True)
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None)

    def write(self, event: events.Event) -> None:
        """Record one event and show it."""
        if not self._active:
            return
        self._events.write(event)
        match event:
            case events.Started():
                self._progress.start()
                self._progress.update(self._task, total=event.total_steps, completed=event.start_step)
            case events.Step():
                self._chart(event.step, event.model_dump(exclude={"type", "time", "step"}), group="train")
                line = describe_step(event)
                self._progress.update(self._task, completed=event.step, description=line)
                if not self._console.is_terminal:
                    self._console.print(f"step {event.step}: {line}", highlight=False)
            case events.Evaluation():
                self._chart(event.step, event.metrics, group=f"{event.dataset}-{event.weights}")
                shown = ", ".join(f"{name} {value:.4f}" for name, value in event.metrics.items())
                self._console.print(
                    f"{event.dataset} ({event.task}, {event.weights} weights): {shown}", highlight=False
                )
            case events.BadSample():
                self._console.print(f"warn: {describe_bad_sample(event)}", highlight=False, markup=False)
            case events.Message():
                self._console.print(f"{event.level}: {event.message}", highlight=False, markup=False)
            case events.CheckpointSaved():
                self._console.print(f"checkpoint {event.name}", highlight=False)

    def _chart(self, step: int, values: dict[str, float | None], *, group: str) -> None:
        for name, value in values.items():
            if value is not None:
                self._tensorboard.add_scalar(f"{group}/{name}", value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._active:
            self._progress.stop()
            self._tensorboard.close()
            self._events.close()


def describe_bad_sample(event: events.BadSample) -> str:
    """Which sample, what is wrong with it, what was done, and the count."""
    return f"{event.dataset}: {event.action} {event.key!r}: {event.reason} (bad samples so far: {event.num_bad})"


def describe_step(event: events.Step) -> str:
    """`loss 0.512, lr 1e-05, 350 images/s, data wait 0.3 %`, with MFU where it is known."""
    parts = [
        f"loss {event.loss:.4f}",
        f"lr {event.lr:.3g}",
        f"{event.images_per_s:.0f} images/s",
        f"data wait {event.data_wait_share:.1%}",
    ]
    if event.mfu is not None:
        parts.append(f"MFU {event.mfu:.1%}")
    return ", ".join(parts)
