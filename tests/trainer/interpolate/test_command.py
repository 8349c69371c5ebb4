"""The command on exports of each layout, from the request to the files."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from trainer.interpolate import command
from trainer.interpolate.judge import load_export


def run(capsys, **request):
    """Exit code and what was said on stderr."""
    code = command.main([json.dumps({"command": "interpolate", **request})])
    return code, capsys.readouterr().err


def weights(folder):
    return {
        f"{path.name}/{name}": tensor
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def assert_between(found, start, tuned, alpha):
    assert found.keys() == start.keys() == tuned.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, start[name] * (1 - alpha) + tuned[name] * alpha, msg=name)


def test_points_of_an_image_text_model_load_in_open_clip_and_lie_on_the_line(clips, tmp_path, capsys):
    start, tuned = clips
    code, told = run(capsys, start=str(start), tuned=f"local-dir:{tuned}", alphas=[0, 0.25, 1], output=str(tmp_path))
    assert code == 0, told
    for alpha in (0, 0.25, 1):
        folder = tmp_path / f"wise_ft_alpha={alpha:.3f}"
        assert_between(weights(folder), weights(start), weights(tuned), alpha)
        assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in tuned.iterdir())
    for alpha, end in ((0, start), (1, tuned)):
        found = weights(tmp_path / f"wise_ft_alpha={alpha:.3f}")
        assert all(torch.equal(tensor, found[name]) for name, tensor in weights(end).items())
    quarter = tmp_path / "wise_ft_alpha=0.250"
    images = torch.rand(2, 3, 32, 32)
    module = load_export(quarter).module.eval()
    middle = load_export(tuned).module.eval()
    assert not torch.allclose(module.encode_image(images), middle.encode_image(images))
    described = json.loads((quarter / "attune.json").read_text())
    assert described["wise_ft"] == {"alpha": 0.25, "start": str(start), "tuned": str(tuned), "fisher": False}
    assert described["metrics"] == {}
    assert "0.75 × those of" in (quarter / "README.md").read_text()


def test_points_of_classifiers_give_logits_between_where_only_the_head_moved(classifiers, tmp_path, capsys):
    start, tuned = classifiers
    code, told = run(capsys, start=str(start), tuned=str(tuned), alphas=[0.5], output=str(tmp_path))
    assert code == 0, told
    folder = tmp_path / "wise_ft_alpha=0.500"
    assert_between(weights(folder), weights(start), weights(tuned), 0.5)
    load_export(folder)


def test_the_curve_is_measured_and_the_best_point_alone_is_kept(clips, digits, tmp_path, capsys):
    start, tuned = clips
    code, told = run(
        capsys,
        start=str(start),
        tuned=str(tuned),
        alphas=[0, 0.5, 1],
        output=str(tmp_path),
        data=[f"near={digits / 'heldout'}", f"far={digits / 'train'}"],
        in_distribution="near",
        choose="best",
    )
    assert code == 0, told
    document = json.loads((tmp_path / "curve.json").read_text())
    scores = {point["alpha"]: point["metrics"]["near/top1"] for point in document["points"]}
    assert list(scores) == [0, 0.5, 1]
    chosen = document["exported_alpha"]
    assert scores[chosen] == max(scores.values())
    assert document["shifted"] == ["far"]
    kept = tmp_path / f"wise_ft_alpha={chosen:.3f}"
    assert sorted(p.name for p in tmp_path.glob("wise_ft*")) == [kept.name]
    described = json.loads((kept / "attune.json").read_text())
    assert described["metrics"] == next(p["metrics"] for p in document["points"] if p["alpha"] == chosen)
    assert Image.open(tmp_path / "curve.png").width > 400


def test_the_start_can_be_named_and_gets_what_the_job_put_on_it(clips, classifiers, tmp_path, capsys):
    start, tuned = clips
    code, told = run(capsys, start="attune-tiny-32", tuned=str(tuned), alphas=[0], output=str(tmp_path / "clip"))
    assert code == 0, told
    found = weights(tmp_path / "clip/wise_ft_alpha=0.000")
    assert all(torch.equal(tensor, found[name]) for name, tensor in weights(start).items())

    _, tuned = classifiers
    code, told = run(capsys, start="attune-tiny-32", tuned=str(tuned), alphas=[0], output=str(tmp_path / "head"))
    assert code == 0, told
    assert weights(tmp_path / "head/wise_ft_alpha=0.000").keys() == weights(tuned).keys()


def test_models_that_do_not_correspond_are_refused_and_named(clips, classifiers, tmp_path, capsys):
    code, told = run(capsys, start=str(clips[0]), tuned=str(classifiers[1]), alphas=[0.5], output=str(tmp_path / "a"))
    assert code == 2
    assert "holds open_clip_model.safetensors, but" in told
    code, told = run(capsys, start="no-such-model", tuned=str(clips[1]), alphas=[0.5], output=str(tmp_path / "a"))
    assert code == 2
    assert "neither a folder nor a model" in told
    code, told = run(capsys, start=str(clips[0]), tuned=f"{tmp_path}/none", alphas=[0.5], output=str(tmp_path / "a"))
    assert code == 2
    assert f"there is no folder {tmp_path}/none" in told
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"alphas": [1.5]}, "less than or equal to 1"),
        ({"alphas": [0.1, 0.1001]}, "three decimals do not tell apart: wise_ft_alpha=0.100"),
        ({"choose": "best"}, "--choose needs --data"),
        ({"data": ["a=x", "b=y"], "choose": "best"}, "--choose best needs --in-distribution"),
        ({"data": ["a=x"], "metric": "cross_entropy"}, "--metric is 'cross_entropy'; allowed: top1"),
    ],
)
def test_impossible_requests_are_refused(wrong, told, tmp_path, capsys):
    request = {"start": "a", "tuned": "b", "alphas": [0.5], "output": str(tmp_path), **wrong}
    code, said = run(capsys, **request)
    assert code == 2
    assert told in said


def test_a_metric_that_the_data_do_not_have_is_refused(clips, digits, tmp_path, capsys):
    code, told = run(
        capsys,
        start=str(clips[0]),
        tuned=str(clips[1]),
        alphas=[0.5],
        output=str(tmp_path),
        data=[str(digits / "heldout")],
        metric="mean_recall",
        choose="best",
    )
    assert code == 2
    assert "--metric mean_recall is not measured on these data; there are" in told


def test_fisher_information_of_both_models_weighs_the_merge(classifiers, digits, tmp_path, capsys):
    start, tuned = classifiers
    folders = [tmp_path / "fisher-start", tmp_path / "fisher-tuned"]
    for model, folder in zip((start, tuned), folders, strict=True):
        request = {"command": "fisher", "model": str(model), "data": str(digits / "heldout"), "output": str(folder)}
        assert command.main([json.dumps({**request, "num_samples": 4})]) == 0, capsys.readouterr().err
    code, told = run(
        capsys,
        start=str(start),
        tuned=str(tuned),
        alphas=[0.5],
        output=str(tmp_path),
        fisher=[str(folder) for folder in folders],
    )
    assert code == 0, told
    found, (first, last) = weights(tmp_path / "wise_ft_alpha=0.500"), (weights(start), weights(tuned))
    fishers = [weights(folder) for folder in folders]
    assert fishers[0].keys() <= found.keys()
    assert all((fisher >= 0).all() for fisher in fishers[0].values())
    for name, tensor in found.items():
        f0, f1 = (fisher.get(name, torch.ones_like(tensor)).clamp(min=1e-8) for fisher in fishers)
        torch.testing.assert_close(tensor, (f0 * first[name] + f1 * last[name]) / (f0 + f1), rtol=1e-4, atol=1e-6)
    assert json.loads((tmp_path / "wise_ft_alpha=0.500/attune.json").read_text())["wise_ft"]["fisher"]
