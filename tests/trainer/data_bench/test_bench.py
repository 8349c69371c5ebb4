import json

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.data_bench import __main__ as command
from trainer.data_bench import appetite
from trainer.data_bench.bench import bench
from trainer.data_bench.request import Bench
from trainer.errors import UnusableSpecError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of ten images."""
    root = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for number in range(10):
            pixels = generator.integers(0, 255, (90, 120, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.jpg")
    return root


def request(folder, **options):
    return Bench(sources=(str(folder),), model="attune-tiny-32", num_threads=1, num_samples=12, **options)


def test_data_are_set_against_an_estimate(folder):
    answer = bench(request(folder, device_name="H200", mfu=0.5))
    (made,) = answer.document["data"].values()
    assert made["num_images"] == 12
    assert made["median_size"] == (120, 90)
    flops = answer.document["train_flops_per_image"]
    assert answer.document["model_images_per_s"] == pytest.approx(0.5 * 989e12 / flops)
    assert made["bottleneck"] == "data"
    (table,) = answer.to_dict()["tables"]
    assert [row[0] for row in table["rows"]] == ["reading", "decoding", "resizing", "augmenting"]
    assert "The data are the bottleneck" in answer.lines[-1]


def test_a_model_can_be_run(folder):
    spec = request(folder).job()
    takes = appetite.measure(spec, appetite.structure(spec), batch_size=4)
    assert takes.images_per_s > 0
    assert "measured" in takes.how


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU's speed is estimated")
def test_without_a_gpu_the_model_is_run(folder):
    answer = bench(request(folder, batch_size=4))
    assert "measured on this machine's cpu" in answer.document["model_how"]
    assert answer.document["model_images_per_s"] > 0


def test_the_estimate_is_three_forward_passes(folder):
    spec = request(folder).job()
    model = appetite.structure(spec)
    takes = appetite.estimate(spec, model, device_name="a100", mfu=1.0)
    assert takes.images_per_s == pytest.approx(312e12 / takes.flops_per_image)
    with pytest.raises(UnusableSpecError, match=r"--device 'Abacus' is not known; allowed: .*H200"):
        appetite.estimate(spec, model, device_name="Abacus", mfu=1.0)


def test_a_jobs_own_settings_count(folder):
    spec = {
        "model": "attune-small-64",
        "objective": {"name": "class_prompts"},
        "data": {"train": str(folder), "decoder": {"num_threads": 1}},
    }
    answer = bench(Bench.model_validate({"spec": spec, "num_samples": 4, "device_name": "L4"}))
    assert answer.document["model"] == "attune-small-64"
    assert list(answer.document["data"]) == ["train"]
    assert answer.document["threads_a_device"] == 1


def test_the_command_answers_in_json_and_refuses_in_words(folder, capsys):
    asked = request(folder, device_name="H200").model_dump_json()
    assert command.main([asked]) == 0
    assert json.loads(capsys.readouterr().out)["document"]["devices"] == 1
    assert command.main([request(folder / "nowhere").model_dump_json()]) == 2
    assert "nowhere" in capsys.readouterr().err
