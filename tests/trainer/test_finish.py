"""A whole job from a probe's head to an interpolated export, with real launches."""

import csv
import json

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from trainer import events
from trainer.interpolate import command


@pytest.mark.slow
def test_lp_ft_and_wise_ft_in_one_job_on_two_ranks(launch, digits, tmp_path):
    spec = {
        "recipe": "lp-ft",
        "model": {"name": "attune-tiny-32", "eval_mode": False},
        "objective": {"probe": {"strengths": [0.01, 1.0], "max_iterations": 100}},
        "data": {
            "train": str(digits / "train"),
            "validation": str(digits / "heldout"),
            "evaluate": {"seen": str(digits / "train")},
            "augmentation": {"horizontal_flip": 0.0},
            "decoder": {"num_threads": 1},
        },
        "batch": {"global_size": 60},
        "optim": {"lr": 0.05},
        "schedule": {"epochs": 3},
        "parallel": {"precision": "fp32"},
        "evaluation": {"wise_ft_alpha": 0.5},
        "export": {"checkpoint": "last", "wise_ft": {"alphas": [0, 0.5, 1], "alpha": "best"}},
        "seed": 0,
    }
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    run = launch("job", "--spec", str(path))
    assert run.wait().status == "succeeded", run.log.read_text()[-3000:]
    log = run.log.read_text()
    assert log.count("linear probe: C ") == 1

    job = run.job
    assert load_file(job.probe_head)["weight"].shape == load_file(job.export / "model.safetensors")["head.weight"].shape
    read, _ = events.read_events(job.attempt(1).events)
    measured = {
        (event.step, event.weights, event.dataset): event.metrics for event in read if event.type == "evaluation"
    }
    last = max(step for step, _, _ in measured)
    curve = json.loads((job.wise_ft / "curve.json").read_text())
    points = {point["alpha"]: point["metrics"] for point in curve["points"]}
    assert list(points) == [0, 0.5, 1]
    assert points[0]["validation/top1"] == measured[0, "raw", "validation"]["top1"] > 0.3  # the probe's
    assert points[1]["seen/top1"] == measured[last, "raw", "seen"]["top1"]
    assert points[0.5]["validation/top1"] == measured[last, "wise_ft", "validation"]["top1"]
    assert points[0] != points[1]
    chosen = curve["exported_alpha"]
    assert points[chosen]["validation/top1"] == max(metrics["validation/top1"] for metrics in points.values())
    assert len(list(csv.DictReader((job.wise_ft / "curve.csv").open()))) == 3
    assert Image.open(job.wise_ft / "curve.png").width > 400

    (exported,) = [event for event in read if event.type == "exported"]
    assert (exported.wise_ft_alpha, exported.metrics) == (chosen, points[chosen])
    described = json.loads((job.export / "attune.json").read_text())
    assert described["wise_ft"] == {"alpha": chosen, "start": "attune-tiny-32"}
    assert described["metrics"] == points[chosen]
    _assert_the_command_finds_the_same_start(job, digits, chosen, points[0]["validation/top1"], tmp_path)


def _assert_the_command_finds_the_same_start(job, digits, chosen, accuracy, folder):
    """What the job called alpha 0 can be made again from the export alone: the tower's seed and the probe's fit."""
    request = {
        "command": "interpolate",
        "start": "attune-tiny-32",
        "tuned": str(job.export),
        "alphas": [0],
        "output": str(folder / "line"),
        "data": [f"validation={digits / 'heldout'}"],
    }
    assert command.main([json.dumps(request)]) == 0
    curve = json.loads((folder / "line/curve.json").read_text())
    assert curve["points"][0]["metrics"]["validation/top1"] == accuracy
    start, tuned = (load_file(path / "model.safetensors") for path in (folder / "line/wise_ft_alpha=0.000", job.export))
    moved = [name for name in start if not torch.equal(start[name], tuned[name])]
    assert bool(moved) == (chosen != 0)
