"""Writes `trainer/catalogue.json` from the installed open_clip and timm: `python -m trainer.catalogue_build`."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import open_clip
import timm

from trainer.catalogue import OWN_ARCHITECTURES, PATH


def build() -> dict[str, Any]:
    """What the catalogue holds: the libraries' versions, open_clip's architectures, timm's models by name."""
    own = {path.stem for path in OWN_ARCHITECTURES.glob("*.json")}  # registered, if a model has been loaded before
    return {
        "versions": {"open_clip_torch": version("open_clip_torch"), "timm": version("timm")},
        "open_clip": {name: _architecture(name) for name in sorted(set(open_clip.list_models()) - own)},
        "timm": _timm_models(),
    }


def _architecture(name: str) -> dict[str, Any]:
    config = open_clip.get_model_config(name)
    defaults = {"vision": asdict(open_clip.CLIPVisionCfg()), "text": asdict(open_clip.CLIPTextCfg())}
    shapes = {
        tower: {key: value for key, value in config[f"{tower}_cfg"].items() if key in known}
        for tower, known in defaults.items()
    }
    return {
        "embed_dim": config["embed_dim"],
        "image_size": config["vision_cfg"].get("image_size", defaults["vision"]["image_size"]),
        "context_length": config["text_cfg"].get("context_length", defaults["text"]["context_length"]),
        "quick_gelu": bool(config.get("quick_gelu", False)),
        **shapes,
        "pretrained": sorted(open_clip.list_pretrained_tags_by_model(name)),
    }


def _timm_models() -> dict[str, list[str]]:
    tags: dict[str, list[str]] = defaultdict(list)
    for name in timm.list_models(pretrained=True):
        architecture, _, tag = name.partition(".")
        tags[architecture].append(tag)
    return {name: sorted(filter(None, tags[name])) for name in timm.list_models()}


def to_json(catalogue: dict[str, Any]) -> str:
    """The catalogue as text: a line an architecture, so that a new version's changes show."""
    text = json.dumps(catalogue, indent=2, sort_keys=True)
    return re.sub(r"\n {6,}| *\n {4}(?=[\]}])", " ", text) + "\n"


def main() -> None:
    """Write the file."""
    PATH.write_text(to_json(build()), encoding="utf-8")
    print(f"wrote {PATH}, {PATH.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
