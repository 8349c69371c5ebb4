"""OpenAI CLIP's way of working: `available_models`, `load`, `tokenize`, and a model that answers with logits both ways.

    from trainer import openai_clip as clip

    model, preprocess = clip.load("ViT-B/32", device="cpu")
    logits_per_image, logits_per_text = model(preprocess("cat.png")[None], clip.tokenize(["a dog", "a cat"]))

After https://github.com/openai/CLIP (clip/clip.py). Weights compute in float32 on every device, images take Attune's
own way through DALI, and `load` also reads exports of Attune.
"""

from __future__ import annotations

import functools
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import build_model_from_openai_state_dict
from open_clip.tokenizer import SimpleTokenizer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from dali_pipelines.transforms import Preprocess
from trainer.catalogue import openai_models, resolve_alias
from trainer.image_inference.pixels import Pixels
from trainer.models import ModelError, load_clip
from trainer.spec import ModelSpec

CONTEXT_LENGTH = 77
_NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask")  # beside them in archives
_FILES = {name: name.replace("/", "-").replace("@", "-") + ".pt" for name in openai_models()}


class TextTooLongError(ValueError, RuntimeError):
    """A text has more tokens than the context; OpenAI's code raises a RuntimeError."""


class ImageTextModel(nn.Module):
    """An image-text model of open_clip that answers as OpenAI's does, in evaluation mode."""

    def __init__(self, towers: nn.Module, *, image_size: int, context_length: int, vocab_size: int) -> None:
        super().__init__()
        self.towers = towers
        self.input_resolution = image_size
        self.context_length = context_length
        self.vocab_size = vocab_size
        self.eval()

    @property
    def visual(self) -> nn.Module:
        """The image tower."""
        return self.towers.visual

    @property
    def logit_scale(self) -> nn.Parameter:
        """The logarithm of the scale that cosines are multiplied by."""
        return self.towers.logit_scale

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.towers.logit_scale.dtype

    def encode_image(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D), not normalised."""
        return self.towers.encode_image(image.to(self.dtype))

    def encode_text(self, text: Tensor) -> Tensor:
        """(N, context_length) tokens -> (N, D), not normalised.

        Raises:
            ValueError: the tokens are for another context length.
        """
        if text.shape[-1] != self.context_length:
            raise ValueError(
                f"the tokens have {text.shape[-1]} places, but the model reads {self.context_length};"
                f" use tokenize(texts, context_length={self.context_length})"
            )
        return self.towers.encode_text(text.long())

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) and (N, L) -> logits_per_image (B, N) and logits_per_text (N, B)."""
        image_features = functional.normalize(self.encode_image(image), dim=-1)
        text_features = functional.normalize(self.encode_text(text), dim=-1)
        logits_per_image = self.logit_scale.exp() * image_features @ text_features.T
        bias = getattr(self.towers, "logit_bias", None)  # models trained with a sigmoid loss have one
        if bias is not None:
            logits_per_image = logits_per_image + bias
        return logits_per_image, logits_per_image.T


def available_models() -> list[str]:
    """OpenAI's nine names, each of which `load` takes."""
    return list(openai_models())


def load(
    name: str | Path, device: str | torch.device | None = None, *, download_root: str | Path | None = None
) -> tuple[ImageTextModel, Pixels]:
    """A model with its preprocessing: a PIL image, a path or a file's bytes -> (3, H, W) float32 on the CPU.

    Args:
        name: one of `available_models()`, which here always means OpenAI's weights; any image-text model that
            `model.name` of a spec takes; the folder of an export; or a file with OpenAI's weights (`.pt`, also a
            TorchScript archive, or `.safetensors`), from whose shapes the architecture is read.
        device: where the model computes; None: a GPU if there is one.
        download_root: where OpenAI's weights lie as OpenAI's own code stores them (`ViT-B-32.pt`), and where they are
            downloaded to otherwise. None: Attune's places, see `trainer.models`.

    Raises:
        ModelError: there is no such model, or its weights are not to be had.
    """
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    path = Path(name)
    if str(name) in openai_models():
        model, preprocess = _openai_model(str(name), None if download_root is None else Path(download_root))
    elif path.is_file():
        model, preprocess = _from_file(path)
    else:
        model, preprocess = _from_name(f"local-dir:{path}" if path.is_dir() else str(name))
    return model.to(target), Pixels(preprocess)


def tokenize(texts: str | Sequence[str], context_length: int = CONTEXT_LENGTH, *, truncate: bool = False) -> Tensor:
    """Texts -> (N, context_length) int32 tokens of CLIP's vocabulary, zeros behind the end token.

    Args:
        texts: one text or several.
        context_length: places a text; OpenAI's models have 77.
        truncate: cut texts that are too long and put the end token last.

    Raises:
        TextTooLongError: a text is too long and `truncate` is False.
    """
    tokenizer = _tokenizer()
    result = torch.zeros((1 if isinstance(texts, str) else len(texts), context_length), dtype=torch.int32)
    for row, text in enumerate([texts] if isinstance(texts, str) else texts):
        tokens = [tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id]
        if len(tokens) > context_length:
            if not truncate:
                raise TextTooLongError(
                    f"text {row} has {len(tokens)} tokens with start and end, more than the context length"
                    f" {context_length}; shorten it or pass truncate=True: {text!r}"
                )
            tokens = [*tokens[: context_length - 1], tokenizer.eot_token_id]
        result[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.int32)
    return result


def _openai_model(name: str, download_root: Path | None) -> tuple[ImageTextModel, Preprocess]:
    ours = openai_models()[name]
    if download_root is None:
        return _from_name(ours)
    if (download_root / _FILES[name]).is_file():
        return _from_file(download_root / _FILES[name])
    architecture, _, tag = ours.partition("/")
    wanted = open_clip.get_pretrained_cfg(architecture, tag)
    try:
        downloaded = open_clip.download_pretrained(wanted, cache_dir=str(download_root))
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"OpenAI's {name} cannot be downloaded ({reason});"
            f" without a network, put {_FILES[name]} into {download_root}"
        ) from error
    return _from_file(Path(downloaded))


def _from_name(name: str) -> tuple[ImageTextModel, Preprocess]:
    clip = load_clip(ModelSpec(name=resolve_alias(name)))
    text: dict[str, Any] = clip.config["text_cfg"]
    if "hf_model_name" in text or "hf_tokenizer_name" in text:
        raise ModelError(f"{name} does not read CLIP's vocabulary; load it with trainer.models.load_clip")
    return (
        ImageTextModel(
            clip.module,
            image_size=clip.preprocess.image_size,
            context_length=clip.tokenize.context_length,  # less a learned prompt's vectors
            vocab_size=text.get("vocab_size", _tokenizer().vocab_size),
        ),
        clip.preprocess,
    )


def _from_file(path: Path) -> tuple[ImageTextModel, Preprocess]:
    """A model of OpenAI's kind, with QuickGELU, in float32."""
    weights = {key: value for key, value in _read_weights(path).items() if key not in _NO_WEIGHTS}
    try:
        towers = build_model_from_openai_state_dict(dict(weights), cast_dtype=torch.float32)
    except (KeyError, RuntimeError) as error:
        raise ModelError(f"{path} does not hold weights in OpenAI's layout: {str(error).splitlines()[0]}") from error
    towers.float().load_state_dict(weights)  # once more: building rounds them to half precision
    size = towers.visual.image_size
    image_size = int(size[0] if isinstance(size, tuple) else size)
    vocab_size, _ = weights["token_embedding.weight"].shape
    context_length, _ = weights["positional_embedding"].shape
    model = ImageTextModel(towers, image_size=image_size, context_length=context_length, vocab_size=vocab_size)
    return model, Preprocess(image_size=image_size)


def _read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a file; nothing is unpickled but tensors."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            is_torchscript = any(name.endswith("/constants.pkl") for name in archive.namelist())
        if is_torchscript:
            return torch.jit.load(path, map_location="cpu").state_dict()
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    return content.get("state_dict", content)


@functools.cache
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()
