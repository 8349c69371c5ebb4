import json

import numpy as np
import pytest
from PIL import Image

from service.cli.main import run


@pytest.fixture
def folder(tmp_path):
    """Two classes of three images."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.fromarray(np.full((30, 40, 3), 40 * number, np.uint8)).save(tmp_path / name / f"{number}.png")
    return tmp_path


@pytest.mark.slow
def test_bench_prints_a_table_and_json(folder, capfd):
    options = [str(folder), "--model", "attune-tiny-32", "--device", "H200", "--threads", "1", "--num-samples", "4"]
    assert run(["data", "bench", *options]) == 0
    shown = capfd.readouterr().out
    assert "decoding" in shown
    assert "bottleneck" in shown
    assert run(["data", "bench", *options, "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["model"] == "attune-tiny-32"
    assert document["model_images_per_s"] > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--mfu", "1.5"], "--mfu is 1.5"),
        (["--measure", "--device", "H200"], "--device is for estimates"),
        ([], "name data"),
    ],
)
def test_what_cannot_be_is_refused(options, said, folder, capfd):
    sources = [str(folder)] if options else []
    assert run(["data", "bench", *sources, *options]) == 2
    assert said in " ".join(capfd.readouterr().err.split())
