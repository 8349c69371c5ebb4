from __future__ import annotations

from pathlib import Path

from service.jobs.event_rows import describe, read_lines, to_progress
from trainer import events

STEP = events.Step(
    time=100.0, step=3, epoch=0.5, loss=0.51999, lr=1e-4, images_per_s=123.4, data_wait_share=0.1, eta_s=20.0
)
STARTED = events.Started(
    time=90.0,
    start_step=2,
    total_steps=12,
    steps_per_epoch=6,
    num_samples=96,
    world_size=2,
    micro_size=8,
    device="NVIDIA H200",
    num_parameters=10,
    num_trainable=10,
    pids=[11, 12],
)


def write(path: Path, *written: events.Event) -> Path:
    with events.EventWriter(path) as writer:
        for event in written:
            writer.write(event)
    return path


def test_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    path = write(tmp_path / "events.jsonl", STEP)
    whole = path.stat().st_size
    with path.open("ab") as file:
        file.write(b'{"type": "message", "mess')
    lines = read_lines(path, 0)
    assert (len(lines.lines), lines.offset_after) == (1, whole)
    assert read_lines(path, whole).offset_after == whole
    with path.open("ab") as file:
        file.write(b'age": "done"}\n')
    assert read_lines(path, whole).lines == [b'{"type": "message", "message": "done"}']


def test_pieces_end_at_line_ends_and_miss_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "events.jsonl", *[events.Message(message=f"{i} " + "x" * i) for i in range(50)])
    lines, offset = [], 0
    while (piece := read_lines(path, offset, max_bytes=300)).offset_after > offset:
        lines += piece.lines
        offset = piece.offset_after
    assert b"\n".join(lines) + b"\n" == path.read_bytes()


def test_a_missing_file_holds_nothing(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "events.jsonl", 7) == read_lines(tmp_path / "other", 7)
    assert read_lines(tmp_path / "events.jsonl", 7).offset_after == 7


def test_facts_about_the_attempt_are_taken_from_its_events(tmp_path: Path) -> None:
    saved = [events.CheckpointSaved(time=101.0, step=s, name=f"step-{s}-attempt-1") for s in (2, 3)]
    removed = events.CheckpointRemoved(name="step-2-attempt-1")
    path = write(tmp_path / "events.jsonl", STARTED, STEP, *saved, removed)
    progress = to_progress(read_lines(path, 0), job_id="j", offset=0, total_steps=None, now=0.0)
    assert (progress.start_step, progress.total_steps, progress.last_step) == (2, 12, 3)
    assert (progress.worker_pids, progress.workers_seen_at) == ([11, 12], 90.0)
    assert progress.estimated_finish == 120.0
    assert [c.name for c in progress.checkpoints_saved] == ["step-2-attempt-1", "step-3-attempt-1"]
    assert progress.checkpoints_removed == ["step-2-attempt-1"]
    assert [e.message for e in progress.events[:2]] == [
        "Training from step 2 of 12 steps on 2 x NVIDIA H200",
        "Step 3/12: loss=0.52, 123.4 images/s",
    ]
    assert [e.type for e in progress.events] == ["message", "metrics", "message", "message", "message"]
    assert progress.events[1].data == STEP.model_dump(mode="json")


def test_the_number_of_steps_is_remembered_from_earlier_pieces(tmp_path: Path) -> None:
    path = write(tmp_path / "events.jsonl", STEP)
    progress = to_progress(read_lines(path, 0), job_id="j", offset=0, total_steps=40, now=0.0)
    assert progress.events[0].message.startswith("Step 3/40:")


def test_every_kind_of_event_has_words() -> None:
    evaluation = events.Evaluation(
        step=3, dataset="validation", task="zero_shot", weights="ema", num_samples=9, metrics={"top1": 2 / 3}
    )
    assert describe(evaluation) == "Evaluated validation (ema weights) at step 3: top1=0.6667"
    exported = events.Exported(checkpoint="step-3-attempt-1", weights="raw", task="clip")
    assert describe(exported) == "Exported the raw weights of step-3-attempt-1"
    assert describe(events.Stage(stage="loading")) == "Stage: loading"
    assert describe(events.Message(message="hello")) == "hello"
    assert describe(STEP) == "Step 3: loss=0.52, 123.4 images/s"


def test_bad_samples_are_told_as_warnings_with_their_count(tmp_path: Path) -> None:
    bad = events.BadSample(
        dataset="train", key="a.tar/7.jpg", reason="truncated", action="replaced", num_bad=3, time=50.0
    )
    path = write(tmp_path / "events.jsonl", bad)
    (row,) = to_progress(read_lines(path, 0), job_id="j", offset=0, total_steps=None, now=0.0).events
    assert (row.level, row.type) == ("warn", "message")
    assert row.message == "Bad sample in train, replaced: a.tar/7.jpg (truncated); 3 so far"
    assert row.data["num_bad"] == 3


def test_levels_of_messages_are_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "events.jsonl", events.Message(level="warn", message="slow disk"))
    (row,) = to_progress(read_lines(path, 0), job_id="j", offset=0, total_steps=None, now=0.0).events
    assert (row.level, row.message) == ("warn", "slow disk")
