import json

import pytest

from service.cli.exits import USAGE


def small(tmp_path, **more):
    spec = {"model": "attune-tiny-32", "batch": {"global_size": 50}, **more}
    (tmp_path / "job.json").write_text(json.dumps(spec))
    return tmp_path / "job.json"


@pytest.mark.slow
@pytest.mark.nightly
def test_a_recipe_is_planned_as_json(attune):
    ended = attune("plan", "--recipe", "flyp-imagenet", "--lr-at", "0,499", "--set", "optim.lr=2e-5", "--json")
    assert ended.returncode == 0, ended.stderr
    plan = json.loads(ended.stdout)
    assert {"parameters", "optimizer", "schedule", "compute", "memory"} <= set(plan)
    assert set(plan["parameters"]) == {"total", "trainable", "weight_decayed", "image", "text"}
    assert set(plan["optimizer"]["groups"][0]) == {"layer_id", "lr_scale", "weight_decay", "num_parameters"}
    assert plan["schedule"]["lr_at"] == {"0": 4e-8, "499": 2e-5}
    assert {"forward_macs_per_image", "train_flops_per_image", "convention"} <= set(plan["compute"])
    assert {"ft_clip", "mmpretrain"} <= set(plan["compute"]["conventions"])
    assert set(plan["memory"]["stages"]) == {"0", "1", "2", "3"}


@pytest.mark.slow
def test_people_get_tables_and_notes(attune, tmp_path):
    ended = attune("plan", small(tmp_path), "--num-train", "1000", "--devices", "2", "--set", "schedule.epochs=3")
    assert ended.returncode == 0, ended.stderr
    lines = {" ".join(line.split()) for line in ended.stdout.splitlines()}
    assert {"training images 1,000 (--num-train)", "steps 60", "total 5,448,769"} <= lines
    assert any(line.startswith("1 (this job)") for line in lines)


@pytest.mark.slow
def test_what_only_the_model_can_tell_is_refused_in_one_line(attune, tmp_path):
    ended = attune("plan", small(tmp_path), "--set", "model.freeze=[nix.*]")
    assert (ended.returncode, ended.stdout) == (USAGE, "")
    assert "model.freeze: 'nix.*' matches no parameter" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--recipe"),
        (("--recipe", "nix"), "there is no recipe 'nix'"),
        (("--recipe", "flyp", "--set", "data.templates=[photo]"), "data.templates"),
        (("--recipe", "flyp", "--set", "evaluation.wise_ft_alpha=2"), "evaluation.wise_ft_alpha"),
        (("--recipe", "flyp", "--lr-at", "0,x"), "--lr-at '0,x'"),
        (("missing.yaml",), "missing.yaml"),
    ],
)
def test_what_the_spec_can_tell_is_refused_at_once(attune, arguments, words):
    ended = attune("plan", *arguments)
    assert (ended.returncode, ended.stdout) == (USAGE, "")
    assert words in ended.stderr
