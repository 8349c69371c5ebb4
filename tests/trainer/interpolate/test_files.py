"""Interpolation from file to file: its numbers, its complaints, and its memory."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer.interpolate.files import Line, largest_dtype
from trainer.interpolate.tensor_files import TensorFile
from trainer.interpolation import InterpolationError, blend

MIB = 1 << 20


def state(seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(4, 3, generator=generator),
        "bn.running_mean": torch.randn(4, generator=generator),
        "bn.num_batches_tracked": torch.tensor(seed),
        "logit_scale": torch.tensor(2.0 + seed),
    }


@pytest.fixture
def pair(tmp_path):
    paths = tmp_path / "start.safetensors", tmp_path / "tuned.safetensors"
    for seed, path in enumerate(paths):
        save_file(state(seed), path)
    return paths


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_file_holds_what_blending_in_memory_gives(pair, tmp_path, alpha):
    Line.between(*pair).write(tmp_path / "out.safetensors", alpha=alpha)
    found, expected = load_file(tmp_path / "out.safetensors"), blend(state(0), state(1), alpha=alpha)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_fisher_information_weighs_the_numbers_it_covers_and_leaves_the_rest_on_the_line(pair, tmp_path):
    fishers = tmp_path / "f0.safetensors", tmp_path / "f1.safetensors"
    save_file({"weight": torch.full((4, 3), 3.0)}, fishers[0])
    save_file({"weight": torch.zeros(4, 3)}, fishers[1])
    line = Line.between(*pair, fishers=fishers, fisher_floor=1.0)
    line.write(tmp_path / "out.safetensors", alpha=0.5)
    found, start, tuned = load_file(tmp_path / "out.safetensors"), state(0), state(1)
    torch.testing.assert_close(found["weight"], 0.75 * start["weight"] + 0.25 * tuned["weight"])
    torch.testing.assert_close(found["logit_scale"], torch.tensor(2.5))


def test_fisher_files_of_other_models_are_refused(pair, tmp_path):
    save_file({"other": torch.ones(2)}, tmp_path / "f.safetensors")
    with pytest.raises(InterpolationError, match="no Fisher file of these models; they lack other"):
        Line.between(*pair, fishers=(tmp_path / "f.safetensors", tmp_path / "f.safetensors"))


def test_files_that_do_not_correspond_are_refused_by_name(pair, tmp_path):
    save_file({**state(1), "head.weight": torch.zeros(2)}, pair[1])
    with pytest.raises(InterpolationError, match=r"only in the tuned model: head\.weight"):
        Line.between(*pair)


def test_the_type_of_a_file_is_that_of_most_of_its_bytes(tmp_path):
    save_file({"a": torch.zeros(100).half(), "b": torch.zeros(3)}, tmp_path / "a.safetensors")
    assert largest_dtype(TensorFile.open(tmp_path / "a.safetensors")) is torch.float16


_MEASURE = """
import json, pathlib, sys
import torch
from trainer.interpolate.files import Line

def peak():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024

line = Line.between(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
line.tuned.read("layers.0")
before = peak()
line.write(pathlib.Path(sys.argv[3]), alpha=0.5)
print(json.dumps([before, peak()]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_never_holds_a_model(tmp_path):
    each, count = 8 * MIB, 32  # 256 MiB a model
    paths = []
    for seed in range(2):
        tensors = {f"layers.{number}": torch.full((each // 4,), float(seed + number)) for number in range(count)}
        paths.append(tmp_path / f"{seed}.safetensors")
        save_file(tensors, paths[-1])
        del tensors
    paths.append(tmp_path / "out.safetensors")
    told = subprocess.run(
        [sys.executable, "-c", _MEASURE, *map(str, paths)], check=True, capture_output=True, text=True
    )
    before, peak = json.loads(told.stdout.splitlines()[-1])
    assert peak - before < each * count / 2, f"{(peak - before) / MIB:.0f} MiB more for two models of 256 MiB each"
    assert load_file(paths[2])["layers.31"][0].item() == 31.5
