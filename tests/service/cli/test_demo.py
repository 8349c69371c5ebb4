"""The demo: its parts, the whole story, and Ctrl-C in the middle of it."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from service.cli.demo.digits import CLASS_NAMES, held_out_examples, write_digits
from service.cli.demo.picture import draw_predictions
from service.cli.demo.processes import processes_serving
from service.cli.demo.story import job_spec
from service.launchers.base import Capacity
from trainer.resolve import resolve

Attune = Callable[..., "subprocess.CompletedProcess[str]"]
StartAttune = Callable[..., "subprocess.Popen[str]"]


def test_digits_are_written_once_and_split_by_class(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    counts = write_digits(tmp_path)
    again = write_digits(tmp_path)
    target = load_digits().target

    assert counts == again
    assert sum(counts.values()) == len(target) == 1797
    for part, count in counts.items():
        assert len(list((tmp_path / part).rglob("*.jpg"))) == count
    for label, name in enumerate(CLASS_NAMES):
        written = sum(len(list((tmp_path / part / name).iterdir())) for part in counts)
        assert written == np.count_nonzero(target == label)


def test_digits_keep_their_shape(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    write_digits(tmp_path)
    digits = load_digits()
    first_zero = digits.images[np.flatnonzero(digits.target == 0)[0]]

    with Image.open(tmp_path / "train" / "zero" / "0001.jpg") as image:
        assert (image.mode, image.size) == ("RGB", (32, 32))
        small = np.asarray(image.convert("L").resize((8, 8), Image.Resampling.BOX)) / 255 * 16

    assert np.abs(small - first_zero).mean() < 1.5  # of 16 shades; bicubic and JPEG blur a little


def test_examples_are_of_different_classes(tmp_path: Path) -> None:
    write_digits(tmp_path)

    assert [path.parent.name for path in held_out_examples(tmp_path, count=8)] == list(CLASS_NAMES[:8])


@pytest.mark.parametrize(
    ("capacity", "devices", "precision"),
    [
        (Capacity.of_this_machine("cpu", (0, 1)), 2, "fp32"),
        (Capacity.of_this_machine("gpu", (3,)), 1, "amp_bf16"),
        (Capacity.of_this_machine("gpu", tuple(range(8))), 2, "amp_bf16"),
    ],
)
def test_its_spec_fits_the_machine(tmp_path: Path, capacity: Capacity, devices: int, precision: str) -> None:
    spec = resolve(recipe="flyp", spec=job_spec(tmp_path, capacity=capacity))

    assert (spec.parallel.zero_stage, spec.parallel.devices) == (2, devices)
    assert spec.parallel.precision == precision
    assert spec.objective.name == "class_prompts"


def test_picture_shows_right_and_wrong(tmp_path: Path) -> None:
    write_digits(tmp_path)
    images = held_out_examples(tmp_path, count=8)
    answers = [{"label": path.parent.name, "probability": 0.9} for path in images]

    draw_predictions(images, answers, path=tmp_path / "right.png")
    draw_predictions(images, [{**a, "label": "none"} for a in answers], path=tmp_path / "wrong.png")

    assert count_colour(tmp_path / "right.png", (0, 128, 0)) > 100
    assert count_colour(tmp_path / "right.png", (255, 0, 0)) == 0
    assert count_colour(tmp_path / "wrong.png", (255, 0, 0)) > 100


def test_a_folder_with_other_things_is_left_alone(attune: Attune, tmp_path: Path) -> None:
    theirs = tmp_path / "out" / "service" / "letter.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("dear")

    ended = attune("demo", "--output", "out")

    assert ended.returncode == 2
    assert theirs.read_text() == "dear"


def test_a_port_in_use_ends_it_with_that_reason(attune: Attune) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = attune("demo", "--output", "out", "--port", taken.getsockname()[1])

    assert ended.returncode == 1
    assert "is in use" in ended.stderr


@pytest.mark.slow
def test_whole_story(attune: Attune, tmp_path: Path) -> None:
    ended = attune("demo", "--output", "out", "--json", timeout_s=540)

    assert ended.returncode == 0, ended.stderr
    answer = json.loads(ended.stdout)
    assert answer["accuracy_before"] < 0.3
    assert answer["accuracy_after"] >= 0.95
    assert [row["name"] for row in answer["per_class"]] == sorted(CLASS_NAMES)
    assert len(answer["predictions"]) == 8
    right = [p for p in answer["predictions"] if p["truth"] == p["zero_shot"]["label"] == p["classify"]["label"]]
    assert len(right) >= 7
    with Image.open(answer["picture"]) as picture:
        assert picture.format == "PNG"
    assert (Path(answer["job_dir"]) / "export" / "open_clip_config.json").exists()
    assert processes_serving(tmp_path / "out" / "service") == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(answer["url"])


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "number"), [("service", signal.SIGTERM), ("training", signal.SIGINT)])
@pytest.mark.nightly
def test_a_signal_at_any_stage_leaves_no_process(
    start_attune: StartAttune, tmp_path: Path, stage: str, number: signal.Signals
) -> None:
    data_dir = tmp_path / "out" / "service"
    running = start_attune("demo", "--output", "out")
    reached: dict[str, Callable[[], bool]] = {
        "service": lambda: bool(processes_serving(data_dir)),
        "training": lambda: any('"type":"step"' in p.read_text() for p in data_dir.rglob("events.jsonl")),
    }
    deadline = time.monotonic() + 240
    while not reached[stage]():
        if running.poll() is not None:
            pytest.fail("it ended before:\n" + "".join(running.communicate()))
        assert time.monotonic() < deadline
        time.sleep(0.1)
    if stage == "training":
        assert len(processes_serving(data_dir)) >= 4  # the service, a launcher, two workers at least

    running.send_signal(number)
    _, errors = running.communicate(timeout=60)

    assert running.returncode == 130
    assert "Traceback" not in errors
    assert processes_serving(data_dir) == []
    assert [p.pid for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])] == []


def count_colour(path: Path, colour: tuple[int, int, int]) -> int:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    return int((pixels == colour).all(axis=-1).sum())
