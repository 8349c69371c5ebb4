import pytest
import torch

from trainer.model_setup import build_structure
from trainer.short_attention import choose_attention
from trainer.spec import JobSpec


@pytest.fixture(autouse=True)
def _setting_restored():
    before = torch.backends.cuda.flash_sdp_enabled()
    yield
    torch.backends.cuda.enable_flash_sdp(before)


@pytest.mark.parametrize(
    ("name", "precision", "device", "fused"),
    [
        ("attune-tiny-32", "amp_bf16", "cpu", False),
        ("attune-tiny-32", "fp32", "cpu", True),
        ("attune-tiny-32", "amp_bf16", "cuda", True),
        ("ViT-L-14", "amp_bf16", "cpu", True),  # 257 tokens
        ("RN50", "amp_bf16", "cpu", True),
    ],
)
def test_only_short_sequences_on_the_cpu_in_bf16_leave_the_fused_kernel(name, precision, device, fused):
    spec = JobSpec.model_validate(
        {"model": name, "objective": {"name": "contrastive"}, "parallel": {"precision": precision}}
    )
    choose_attention(spec, build_structure(spec, num_classes=None), device=torch.device(device))
    assert torch.backends.cuda.flash_sdp_enabled() is fused
