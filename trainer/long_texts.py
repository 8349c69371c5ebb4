"""Texts that are longer than the text tower's context, counted before training begins."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import open_clip

from dali_pipelines.manifest import Manifest
from trainer.errors import UnusableDataError, UnusableSpecError
from trainer.models import ClassifierModel, ClipModel
from trainer.prompts import expand_templates
from trainer.spec import JobSpec

_BATCH = 1024
_MARGIN = 4  # start and end tokens, with room to spare


def find_long_texts(
    spec: JobSpec, *, model: ClipModel | ClassifierModel, manifests: Mapping[str, Manifest]
) -> list[str]:
    """A remark for each kind of text that does not fit, with their number. A classifier reads no texts."""
    if isinstance(model, ClassifierModel):
        return []
    room = model.tokenize.context_length  # less a learned prompt's vectors
    remarks = []
    for kind, texts in _texts(spec, manifests):
        count, longest = count_long(texts, tokenize=model.tokenize, room=room)
        if count:
            remarks.append(f"{count} {kind} need more than the text tower's {room} tokens, such as {longest[:80]!r}")
    return remarks


def refuse_long_templates(spec: JobSpec, *, model: ClipModel) -> None:
    """Raise UnusableSpecError if a template leaves no room for a class and `data.long_texts` is `refuse`.

    `model` may be a structure; templates are looked at where it reads CLIP's own tokens, which need no download.
    """
    own_tokens = not {"hf_tokenizer_name", "hf_model_name", "tokenizer_kwargs"} & model.config["text_cfg"].keys()
    if spec.data.long_texts != "refuse" or spec.objective.name != "class_prompts" or not own_tokens:
        return
    room = model.tokenize.context_length
    texts = [template.format("a") for template in expand_templates(spec.data.templates)]
    count, longest = count_long(texts, tokenize=open_clip.SimpleTokenizer(), room=room)
    if count:
        raise UnusableSpecError(
            f"data.templates: {count} need more than the text tower's {room} tokens, such as {longest[:80]!r}, and "
            "data.long_texts is `refuse`; shorten them, or allow `truncate`"
        )


def refuse_long_texts(spec: JobSpec, *, remarks: list[str]) -> None:
    """Raise UnusableDataError if there are remarks and `data.long_texts` says so."""
    if remarks and spec.data.long_texts == "refuse":
        raise UnusableDataError(f"data.long_texts is `refuse`: {'; '.join(remarks)}. Shorten them, or allow `truncate`")


def count_long(texts: Iterable[str], *, tokenize: Any, room: int) -> tuple[int, str]:
    """How many texts need more than `room` tokens, and the one of them with the most characters.

    Args:
        tokenize: a tokenizer of open_clip, which pads to the length that it is given.
    """
    padding = tokenize([""], context_length=room + 1)[0, -1]
    count, longest = 0, ""
    for batch in _batches(text for text in texts if not _surely_fits(text, room)):
        is_long = (tokenize(batch, context_length=room + 1)[:, -1] != padding).tolist()
        count += sum(is_long)
        longest = max([longest, *itertools.compress(batch, is_long)], key=len)
    return count, longest


def _surely_fits(text: str, room: int) -> bool:
    """A tokenizer makes no more tokens of plain text than it has characters."""
    return text.isascii() and len(text) <= room - _MARGIN


def _texts(spec: JobSpec, manifests: Mapping[str, Manifest]) -> Iterator[tuple[str, Iterator[str]]]:
    """What the text tower will read: captions that are trained on or retrieved, and prompts."""
    for name, manifest in manifests.items():
        read = spec.objective.name in ("contrastive", "distillation") if name == "train" else not manifest.class_names
        if read and manifest.num_captions:
            yield f"captions of {name}", (text for row in range(len(manifest)) for text in manifest.captions(row))
    templates, names = expand_templates(spec.data.templates), manifests["train"].class_names
    yield "prompts", (template.format(name) for name in names for template in templates)


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(itertools.islice(texts, _BATCH)):
        yield batch
