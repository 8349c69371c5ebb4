"""Which models there are, without importing torch: `catalogue.json`, generated from open_clip and timm.

`trainer/catalogue_build.py` writes the file anew after an update of either library; a test compares them.
`model_aliases.json` holds the names that OpenAI's CLIP and mmpretrain give to the same weights.
"""

from __future__ import annotations

import difflib
import functools
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("catalogue.json")
ALIASES = Path(__file__).with_name("model_aliases.json")
OWN_ARCHITECTURES = Path(__file__).with_name("architectures")
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")
_REPOSITORY = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_OPENAI = "openai/"
_FORMS = "ARCHITECTURE, ARCHITECTURE/TAG, timm/NAME[.TAG], hf-hub:ORG/NAME or local-dir:PATH"


@dataclass(frozen=True)
class Architecture:
    """An image-text architecture of open_clip, or one of Attune's own."""

    name: str
    embed_dim: int
    """Width of the shared space."""
    image_size: int | tuple[int, int]
    """Input size in pixels; (height, width) if not square."""
    context_length: int
    """Tokens a text."""
    quick_gelu: bool
    vision: Mapping[str, Any]
    """open_clip's vision_cfg: layers, width, patch_size, ..., or timm_model_name."""
    text: Mapping[str, Any]
    """open_clip's text_cfg: layers, width, heads, ..., or hf_model_name."""
    pretrained: tuple[str, ...]
    """Tags of published weights."""


@functools.cache
def architectures() -> dict[str, Architecture]:
    """All image-text architectures by name."""
    listed = {name: _from_entry(name, entry) for name, entry in _content()["open_clip"].items()}
    own = {path.stem: _from_config(path) for path in sorted(OWN_ARCHITECTURES.glob("*.json"))}
    return {**listed, **own}


@functools.cache
def timm_models() -> dict[str, tuple[str, ...]]:
    """Tags of published weights by name of a timm model; a tag may be needed to choose among several."""
    return {name: tuple(tags) for name, tags in _content()["timm"].items()}


@functools.cache
def openai_models() -> dict[str, str]:
    """Attune's names of OpenAI's nine models, by theirs (https://github.com/openai/CLIP, `clip.available_models`)."""
    return dict(_aliases()["openai"])


@functools.cache
def mmpretrain_models() -> dict[str, str]:
    """The weights that mmpretrain's CLIP models were converted from, by its names for them.

    From https://github.com/open-mmlab/mmpretrain, configs/clip; the last four are its zero-shot configurations.
    """
    return dict(_aliases()["mmpretrain"])


def resolve_alias(name: str) -> str:
    """Attune's name for a model that OpenAI's CLIP or mmpretrain calls otherwise; any other name as it is.

    `RN50` and its four relatives are also architectures of open_clip, without weights, and mean these; OpenAI's weights
    for them, and for the other four, are `openai/NAME`.
    """
    if name.startswith(_OPENAI):
        return openai_models().get(name.removeprefix(_OPENAI), name)
    if name in architectures():
        return name
    return openai_models().get(name) or mmpretrain_models().get(name, name)


def weights_dir() -> Path | None:
    """The folder named by ATTUNE_WEIGHTS_DIR, if any."""
    folder = os.environ.get("ATTUNE_WEIGHTS_DIR")
    return Path(folder).expanduser() if folder else None


def is_timm_model(name: str) -> bool:
    """Whether a model's name means timm's layout, without a text tower; a local folder says so by its config file."""
    if not name.startswith("local-dir:"):
        return name.startswith("timm/")
    folder = Path(name.removeprefix("local-dir:"))
    return (folder / "config.json").is_file() and not (folder / "open_clip_config.json").is_file()


def is_repository(name: str) -> bool:
    """Whether a text has the form of a hub repository's name, ORG/NAME or a NAME without an organisation; no path."""
    return _REPOSITORY.fullmatch(name) is not None


def check_model_name(name: str, *, weights_dir: Path | None = None) -> str | None:
    """Why there cannot be a model of this name, with near names; None if there can.

    Whether a hub repository exists, or weights can be downloaded, is not asked. OpenAI's and mmpretrain's names count.

    Args:
        name: as in `model.name` of a spec.
        weights_dir: folder with further weights as `ARCHITECTURE/TAG/` and `timm/NAME.TAG/`.
    """
    name = resolve_alias(name)
    if name.startswith("local-dir:"):
        return _check_folder(name.removeprefix("local-dir:"))
    if name.startswith("hf-hub:"):
        repository = name.removeprefix("hf-hub:")
        return None if _HUB_NAME.fullmatch(repository) else f"{repository!r} is not of the form ORG/NAME after hf-hub:"
    if name.startswith("timm/"):
        return _check_timm(name.removeprefix("timm/"), weights_dir)
    if name.startswith(_OPENAI):
        own = name.removeprefix(_OPENAI)
        return f"OpenAI published no CLIP model {own!r}.{_near(own, openai_models())} {_listed(openai_models())}"
    return _check_open_clip(name, weights_dir)


def _check_open_clip(name: str, weights_dir: Path | None) -> str | None:
    architecture, slash, tag = name.partition("/")
    known = architectures()
    if architecture not in known:
        if (dashed := name.replace("/", "-")) in known:
            return f"there is no model {name!r}. Did you mean {dashed} or {dashed}/TAG?"
        if name.partition(".")[0] in timm_models():
            return f"there is no image-text model {name!r}. Did you mean timm/{name}?"
        near = _near(name, (*known, *openai_models(), *mmpretrain_models()), cutoff=0.8) or _near(architecture, known)
        return f"there is no model {name!r}.{near} A model's name is {_FORMS}"
    if architecture.startswith("coca_"):
        return f"{architecture} is a captioning model (CoCa), which is not supported; use a CLIP architecture"
    tags = known[architecture].pretrained
    if not slash or tag in tags or (weights_dir is not None and tag and (weights_dir / name).is_dir()):
        return None
    return f"{architecture} has no published weights {tag!r}.{_near(tag, tags)} {_tags(tags)}"


def _check_timm(name: str, weights_dir: Path | None) -> str | None:
    architecture, dot, tag = name.partition(".")
    known = timm_models()
    if architecture not in known:
        return f"timm has no model {architecture!r}.{_near(architecture, known)}"
    if not dot or tag in known[architecture] or (weights_dir is not None and (weights_dir / "timm" / name).is_dir()):
        return None
    return f"timm's {architecture} has no published weights {tag!r}.{_near(tag, known[architecture])} " + _tags(
        known[architecture]
    )


def _check_folder(path: str) -> str | None:
    folder = Path(path)
    if not path or not folder.is_dir():
        return f"folder {path!r} does not exist"
    if any((folder / config).is_file() for config in ("open_clip_config.json", "config.json")):
        return None
    return f"folder {path!r} holds no model: it has neither open_clip_config.json nor timm's config.json"


def _near(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """` Did you mean ...?`, whatever the case of letters; empty where nothing is near."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=cutoff)
    return f" Did you mean {' or '.join(by_lower[match] for match in matches)}?" if matches else ""


def _tags(tags: Iterable[str]) -> str:
    return _listed(tags) if tags else "It has none: use it without a tag, from scratch"


def _listed(names: Iterable[str]) -> str:
    return f"It has: {', '.join(names)}"


@functools.cache
def _aliases() -> dict[str, dict[str, str]]:
    content: dict[str, dict[str, str]] = json.loads(ALIASES.read_text(encoding="utf-8"))
    return content


@functools.cache
def _content() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    return content


def _from_entry(name: str, entry: Mapping[str, Any]) -> Architecture:
    size = entry["image_size"]
    return Architecture(
        name=name,
        embed_dim=entry["embed_dim"],
        image_size=size if isinstance(size, int) else (size[0], size[1]),
        context_length=entry["context_length"],
        quick_gelu=entry["quick_gelu"],
        vision=entry["vision"],
        text=entry["text"],
        pretrained=tuple(entry["pretrained"]),
    )


def _from_config(path: Path) -> Architecture:
    config = json.loads(path.read_text(encoding="utf-8"))
    entry = {
        "embed_dim": config["embed_dim"],
        "image_size": config["vision_cfg"]["image_size"],
        "context_length": config["text_cfg"]["context_length"],
        "quick_gelu": config.get("quick_gelu", False),
        "vision": config["vision_cfg"],
        "text": config["text_cfg"],
        "pretrained": (),
    }
    return _from_entry(path.stem, entry)
