"""The frozen teacher, in the precision of the run. It is no part of the engine or its checkpoints."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from dali_pipelines.transforms import Preprocess
from trainer.models import ClipModel, load_clip
from trainer.spec import JobSpec, ModelSpec

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Teacher:
    """Embeddings of an image-text model for images that were prepared for the student."""

    def __init__(self, name: ModelSpec, *, spec: JobSpec, student_preprocess: Preprocess, device: torch.device) -> None:
        """
        Raises:
            ModelError: the teacher is unknown, or its weights are not to be had.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            self.model: ClipModel = load_clip(name, exif=spec.data.exif)
        self._dtype = _DTYPES.get(spec.parallel.precision, torch.float32)
        self._autocast = spec.parallel.precision == "amp_bf16"
        self._module = self.model.module.eval().requires_grad_(False).to(device, self._dtype)
        self._student_preprocess = student_preprocess

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised as the student wants it -> (B, D) float32, unit norm.

        They are normalised anew, and resized where the teacher takes another size.
        """
        images = _prepared_anew(images, self._student_preprocess, self.model.preprocess).to(self._dtype)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._autocast):
            features = self._module.encode_image(images)
        return F.normalize(features.float(), dim=-1)

    @torch.no_grad()
    def encode_texts(self, tokens: Tensor) -> Tensor:
        """(B, L) of the teacher's own tokenizer -> (B, D) float32, unit norm."""
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self._autocast):
            features = self._module.encode_text(tokens)
        return F.normalize(features.float(), dim=-1)


def _prepared_anew(images: Tensor, given: Preprocess, wanted: Preprocess) -> Tensor:
    if (given.mean, given.std) != (wanted.mean, wanted.std):
        shape = (1, 3, 1, 1)
        plain = images * images.new_tensor(given.std).view(shape) + images.new_tensor(given.mean).view(shape)
        images = (plain - images.new_tensor(wanted.mean).view(shape)) / images.new_tensor(wanted.std).view(shape)
    if given.image_size != wanted.image_size:
        size = (wanted.image_size, wanted.image_size)
        images = F.interpolate(images, size=size, mode=wanted.interpolation, antialias=True, align_corners=False)
    return images
