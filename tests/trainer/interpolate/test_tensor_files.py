"""The streaming writer against the safetensors library itself."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer.interpolate.tensor_files import Layout, TensorFile, write_tensors
from trainer.interpolation import InterpolationError

TENSORS = {
    "half": torch.randn(3, 5).half(),
    "brain": torch.randn(7).bfloat16(),
    "single": torch.randn(2, 3, 4),
    "count": torch.tensor(12),
    "mask": torch.tensor([True, False, True]),
    "nothing": torch.zeros(0, 4),
}
LAYOUTS = {name: Layout(tensor.dtype, tuple(tensor.shape)) for name, tensor in TENSORS.items()}


def test_the_library_reads_what_was_written_in_any_order(tmp_path):
    write_tensors(tmp_path / "a.safetensors", LAYOUTS, ((name, TENSORS[name]) for name in reversed(TENSORS)))
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_what_the_library_wrote_is_read_tensor_by_tensor(tmp_path):
    save_file(TENSORS, tmp_path / "a.safetensors")
    file = TensorFile.open(tmp_path / "a.safetensors")
    assert file.layouts == LAYOUTS
    assert torch.equal(file.read("brain"), TENSORS["brain"])


def test_tensors_that_are_missing_or_other_than_announced_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no tensor came for brain, count"):
        write_tensors(tmp_path / "a", LAYOUTS, ((n, t) for n, t in TENSORS.items() if n not in ("brain", "count")))
    with pytest.raises(ValueError, match=r"half is torch.float32 \[1\]; announced was"):
        write_tensors(tmp_path / "a", LAYOUTS, iter([("half", torch.zeros(1))]))


def test_a_file_of_another_kind_is_refused_by_name(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"not a model")
    with pytest.raises(InterpolationError, match="weights.safetensors cannot be read as safetensors"):
        TensorFile.open(tmp_path / "weights.safetensors")
    with pytest.raises(InterpolationError, match="gone.safetensors cannot be read"):
        TensorFile.open(tmp_path / "gone.safetensors")
