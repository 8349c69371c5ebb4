"""The tokenizer that a job's texts will go through, without its weights. Takes torch: import it where it is needed."""

from __future__ import annotations

from typing import Any

import open_clip
from open_clip.tokenizer import HFTokenizer

from trainer import open_clip_models
from trainer.errors import UnusableSpecError
from trainer.model_sources import ModelError, locate
from trainer.models import load_clip
from trainer.spec import ModelSpec

_CLIP_CONTEXT = 77


def tokenizer_of(model: ModelSpec | None) -> tuple[Any, int]:
    """A tokenizer of open_clip and the tokens that the text tower takes; CLIP's own without a model.

    Raises:
        UnusableSpecError: there is no such model, or it reads no texts.
    """
    if model is None:
        return open_clip.SimpleTokenizer(), _CLIP_CONTEXT
    try:
        structure = load_clip(model, weights=False)
        context_length: int = structure.tokenize.context_length
        text = structure.config["text_cfg"]
        if model.text.tower is not None:
            place = text["hf_tokenizer_name"]
            return HFTokenizer(place, context_length=context_length, trust_remote_code=False), context_length
        return open_clip_models.tokenizer_of(locate(model.name), text, context_length=context_length), context_length
    except (ModelError, OSError, ValueError) as error:
        raise UnusableSpecError(f"the captions' tokens cannot be counted: {error}") from None
