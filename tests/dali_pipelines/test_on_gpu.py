"""The same graphs with decoding on the GPU: equal rows and draws, nearly equal pixels."""

import numpy as np
import pytest
import torch

from dali_pipelines.loader import EvalLoader, TrainLoader
from dali_pipelines.manifest import Manifest
from dali_pipelines.sampler import Sampler
from dali_pipelines.transforms import Augment, Preprocess

pytestmark = pytest.mark.gpu


@pytest.fixture
def manifest(digits):
    paths = sorted(path.relative_to(digits) for path in digits.glob("train/*/*.jpg"))
    labels = [int(path.name[:2]) % 7 for path in paths]
    return Manifest.from_columns(digits, paths=[str(p) for p in paths], sizes=[(32, 32)] * len(paths), labels=labels)


def first_batch(manifest, device):
    loader = TrainLoader(
        manifest,
        preprocess=Preprocess(image_size=32),
        augment=Augment(crop_scale=(0.5, 1.0), horizontal_flip=0.5, random_erasing=0.25),
        sampler=Sampler(len(manifest), seed=1),
        global_size=16,
        micro_size=16,
        device=device,
    )
    batch = next(loader)
    loader.close()
    return batch


def test_training_batches_agree_with_the_cpu(manifest):
    on_gpu, on_cpu = first_batch(manifest, 0), first_batch(manifest, None)
    assert on_gpu.images.is_cuda
    assert np.array_equal(on_gpu.rows, on_cpu.rows)
    assert np.array_equal(on_gpu.text_draws, on_cpu.text_draws)
    assert torch.equal(on_gpu.labels.cpu(), on_cpu.labels)
    assert (on_gpu.images.cpu() - on_cpu.images).abs().mean() < 0.05


def test_evaluation_agrees_with_the_cpu(manifest):
    def images(device):
        loader = EvalLoader(manifest, preprocess=Preprocess(image_size=32), batch_size=32, device=device)
        return torch.cat([batch.images.cpu() for batch in loader])

    assert (images(0) - images(None)).abs().mean() < 0.05
