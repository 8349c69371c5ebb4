import pytest
import torch
from safetensors.torch import load_file

from trainer.parameter_files import ParameterFiles, Part, write_parts


def numbers(*shape):
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


def test_any_stretch_is_read_whoever_wrote_what(tmp_path):
    weight = numbers(5, 3)
    flat = weight.reshape(-1)
    for rank, (start, stop) in enumerate([(0, 4), (4, 11), (11, 15)]):
        write_parts(tmp_path, "master", [Part("a.weight", (5, 3), start, flat[start:stop])], rank=rank)
    files = ParameterFiles(tmp_path)
    assert torch.equal(files.whole("master", "a.weight"), weight)
    for start in range(15):
        for stop in range(start + 1, 16):
            target = torch.full((stop - start,), -1.0)
            files.read_into(target, "master", "a.weight", start=start)
            assert torch.equal(target, flat[start:stop])


def test_a_whole_parameter_is_an_entry_of_its_name_and_shape(tmp_path):
    write_parts(tmp_path, "master", [Part("b", (2, 2), 0, numbers(4))], rank=0)
    assert torch.equal(load_file(tmp_path / "master-rank-0.safetensors")["b"], numbers(2, 2))


def test_kinds_keep_their_types_and_do_not_mix(tmp_path):
    write_parts(tmp_path, "exp_avg", [Part("c", (3,), 0, numbers(3).bfloat16())], rank=0)
    write_parts(tmp_path, "frozen", [Part("d", (), 0, torch.tensor([7]))], rank=1)
    write_parts(tmp_path, "ema", [], rank=0)
    files = ParameterFiles(tmp_path)
    assert files.kinds() == ["exp_avg", "frozen"]
    assert files.dtype("exp_avg", ["x", "c"]) is torch.bfloat16
    assert torch.equal(files.whole("frozen", "d"), torch.tensor(7))
    assert not files.has("frozen", "c")


def test_missing_numbers_are_told(tmp_path):
    write_parts(tmp_path, "master", [Part("e", (4,), 2, numbers(2))], rank=1)
    with pytest.raises(ValueError, match="master of e: 2 of 4"):
        ParameterFiles(tmp_path).whole("master", "e")
    with pytest.raises(FileNotFoundError):
        ParameterFiles(tmp_path / "nothing")
