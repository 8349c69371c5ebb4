"""Real worker processes, and a tiny CLIP in open_clip's layout."""

from __future__ import annotations

import asyncio
import io
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry

from service.inference.gateway import Gateway
from service.settings import Settings
from service.store.records import ModelRecord

PLAIN_WORKER = (sys.executable, str(Path(__file__).with_name("plain_worker.py")))

TINY = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


@pytest.fixture
def make_settings(tmp_path) -> Callable[..., Settings]:
    def make(**changes: object) -> Settings:
        return Settings(data_dir=tmp_path / "data", inference_device="cpu", **changes)

    return make


@pytest.fixture
def plain_worker() -> tuple[str, ...]:
    """The command of a worker process without a model."""
    return PLAIN_WORKER


@pytest.fixture
def run_gateway(make_settings):
    """Run `scenario(gateway)` in an event loop of its own, around plain workers, and close the gateway."""

    def run(scenario, *, command=PLAIN_WORKER, registry: CollectorRegistry | None = None, **changes):
        async def main():
            gateway = Gateway(make_settings(**changes), command=command, registry=registry)
            try:
                return await asyncio.wait_for(scenario(gateway), 120)
            finally:
                await gateway.close()

        return asyncio.run(main())

    return run


@pytest.fixture
def record() -> Callable[..., ModelRecord]:
    def make(path: Path | str = "anywhere", **fields) -> ModelRecord:
        return ModelRecord(**{"id": "a-model", "task": "clip", "created_at": 0.0, "path": str(path), **fields})

    return make


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory) -> Path:
    """An export folder of a CLIP with random weights."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny-clip")
    module = open_clip.CLIP(**TINY)
    torch.nn.init.normal_(module.visual.proj, std=0.3)
    module.logit_scale.data.fill_(math.log(100))  # as in trained models; otherwise all images look much the same
    save_file(module.state_dict(), folder / "open_clip_model.safetensors")
    preprocess = {
        "size": [32, 32],
        "mode": "RGB",
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    }
    config = {"model_cfg": TINY, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """A smooth, colourful picture, another one for each seed."""

    def make(seed: int = 0, size: tuple[int, int] = (60, 48), mode: str = "RGB") -> Image.Image:
        noise = np.random.default_rng(seed).integers(0, 256, (24, 30, 3), dtype=np.uint8)
        return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode)

    return make


@pytest.fixture
def encoded(picture) -> Callable[..., bytes]:
    """The bytes of such a picture."""

    def encode(seed: int = 0, format: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (60, 48)) -> bytes:
        buffer = io.BytesIO()
        picture(seed, size, mode).save(buffer, format)
        return buffer.getvalue()

    return encode
