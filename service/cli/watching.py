"""A job's events on the terminal: a progress bar with loss, images/s and time left, and a line for what happens.

Where output is no terminal there is no bar, and each logged step is a line of its own.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from service.cli.output import duration

_LEVEL_STYLES = {"warn": "yellow", "error": "red"}


class JobDisplay:
    """Shows events as they arrive; a context manager, so that the bar is taken down whatever happens."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._total_steps: int | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._progress.stop()

    def show(self, event: dict[str, Any]) -> None:
        """Show one event as `GET /v1/fine_tuning/jobs/{id}/events` sends it."""
        data = event.get("data") or {}
        if data.get("type") == "started":
            self._begin(data["start_step"], data["total_steps"])
        if data.get("type") == "step":
            self._step(data)
        elif data.get("type") == "stage" and self._task is not None and self._console.is_terminal:
            self._progress.update(self._task, description=data["stage"])
        else:
            self._line(event)

    def _begin(self, start_step: int, total_steps: int) -> None:
        self._total_steps = total_steps
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task("loading", total=total_steps, completed=start_step, figures="")

    def _step(self, step: dict[str, Any]) -> None:
        if self._task is not None and self._console.is_terminal:
            self._progress.update(self._task, completed=step["step"], figures=step_figures(step))
        else:
            of_total = f"/{self._total_steps}" if self._total_steps else ""
            self._console.print(f"  step {step['step']}{of_total}  {step_figures(step)}", soft_wrap=True)

    def _line(self, event: dict[str, Any]) -> None:
        style = _LEVEL_STYLES.get(event["level"])
        text = escape(event["message"])
        self._console.print(f"  [{style}]{text}[/{style}]" if style else f"  {text}", soft_wrap=True)


def step_figures(step: dict[str, Any]) -> str:
    """What a logged step says in short: loss, speed, time left and, if it hurts, the share of waiting for data."""
    parts = [f"loss {step['loss']:.3f}", f"{step['images_per_s']:.0f} images/s", f"{duration(step['eta_s'])} left"]
    if step.get("data_wait_share", 0) >= 0.1:
        parts.append(f"{100 * step['data_wait_share']:.0f} % waiting for data")
    if step.get("mfu") is not None:
        parts.append(f"MFU {100 * step['mfu']:.0f} %")
    return "  ".join(parts)
