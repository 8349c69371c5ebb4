from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from service.cli import exits, main

Attune = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--alpha", "half"], "--alpha is 'half'; give numbers from 0 to 1"),
        (["--alpha", "0,2"], "less than or equal to 1, got 2.0"),
        (["--choose", "best"], "--choose needs --data"),
        (["--data", "x", "--choose", "worst"], "--choose is 'worst'"),
        (["--fisher", "one"], "fisher"),
        (["--precision", "int1"], "'fp32' or 'amp_bf16', got 'int1'"),
    ],
)
def test_impossible_requests_end_before_a_model_is_touched(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main.run(["interpolate", "start", "tuned", "--output", str(tmp_path / "out"), *arguments])

    assert code == exits.USAGE
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_labels_of_another_kind_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code = main.run(["fisher", "model", "--data", "x", "--output", "y", "--labels", "wrong"])

    assert code == exits.USAGE
    assert "'sampled', 'predicted' or 'true', got 'wrong'" in capsys.readouterr().err


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """Two image-text models of one architecture, as exports."""
    import torch

    from trainer.export import export_clip
    from trainer.model_card import ModelCard
    from trainer.models import load_clip
    from trainer.spec import ModelSpec

    folders = [tmp_path / "start", tmp_path / "tuned"]
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        export_clip(load_clip(ModelSpec(name="attune-tiny-32")), folder, card=ModelCard(spec=None, metrics={}))
    return folders


@pytest.mark.slow
@pytest.mark.nightly
def test_points_are_written_measured_and_shown(
    attune: Attune, models: list[Path], two_class_folder: Path, tmp_path: Path
) -> None:
    plain = attune("interpolate", *models, "--alpha", "0.25", "--output", "plain")
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout.split() == ["plain/wise_ft_alpha=0.250"]
    assert (tmp_path / "plain/wise_ft_alpha=0.250/open_clip_model.safetensors").is_file()

    data = ("--data", f"pairs={two_class_folder}")
    curve = attune("interpolate", *models, "--alpha", "0,1", *data, "--choose", "best", "--output", "curve", "--json")
    assert curve.returncode == 0, curve.stderr
    document = json.loads(curve.stdout)
    assert [point["alpha"] for point in document["points"]] == [0, 1]
    kept = [path.name for path in (tmp_path / "curve").glob("wise_ft*")]
    assert kept == [f"wise_ft_alpha={document['exported_alpha']:.3f}"]
