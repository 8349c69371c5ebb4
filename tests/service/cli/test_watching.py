from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from service.cli.watching import JobDisplay, step_figures

STARTED = {"type": "started", "start_step": 0, "total_steps": 40}
STEP = {"type": "step", "step": 10, "loss": 0.5, "images_per_s": 350.4, "eta_s": 90.0, "data_wait_share": 0.02}


def event(kind: str, message: str, data: dict[str, Any], level: str = "info") -> dict[str, Any]:
    return {"type": kind, "message": message, "data": data, "level": level}


def shown(*events: dict[str, Any], terminal: bool) -> str:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=120, color_system=None, highlight=False)
    with JobDisplay(console) as display:
        for one in events:
            display.show(one)
    return output.getvalue()


def test_without_a_terminal_each_step_is_a_line() -> None:
    text = shown(event("message", "Training", STARTED), event("metrics", "Step 10/40: loss=0.5", STEP), terminal=False)

    assert text.splitlines() == ["  Training", "  step 10/40  loss 0.500  350 images/s  90 s left"]


def test_a_terminal_gets_a_bar_with_the_figures() -> None:
    text = shown(event("message", "Training", STARTED), event("metrics", "Step 10/40: loss=0.5", STEP), terminal=True)

    assert "10/40" in text
    assert "loss 0.500  350 images/s  90 s left" in text


def test_an_attempt_that_goes_on_starts_its_bar_there() -> None:
    resumed = {**STARTED, "start_step": 30}
    text = shown(event("message", "Training", STARTED), event("message", "Resumed", resumed), terminal=True)

    assert "30/40" in text


def test_messages_are_not_read_as_markup() -> None:
    assert "class [a]" in shown(event("message", "class [a]", {}), terminal=False)


def test_waiting_for_data_is_named_only_where_it_hurts() -> None:
    assert "waiting" not in step_figures(STEP)
    assert "25 % waiting for data" in step_figures({**STEP, "data_wait_share": 0.25})


def test_known_hardware_adds_its_utilisation() -> None:
    assert "MFU 41 %" in step_figures({**STEP, "mfu": 0.41})


def test_the_bar_says_what_is_going_on() -> None:
    evaluating = event("message", "Stage: evaluating", {"type": "stage", "stage": "evaluating"})

    assert "evaluating" in shown(event("message", "Training", STARTED), evaluating, terminal=True)
    assert "Stage: evaluating" in shown(evaluating, terminal=False)
