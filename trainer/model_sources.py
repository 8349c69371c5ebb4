"""Where the weights of a named model lie: the hub's cache, `ATTUNE_WEIGHTS_DIR`, or a folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from open_clip.pretrained import download_pretrained_from_hf

from trainer.catalogue import timm_models, weights_dir
from trainer.errors import UnusableSpecError
from trainer.outside_configs import check_timm_folder, checked_model_cfg

ARCHITECTURES = Path(__file__).with_name("architectures")
_WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt", "*.pth")


class ModelError(UnusableSpecError):
    """A model cannot be had or built; the text says why."""


@dataclass(frozen=True)
class Source:
    """Where open_clip finds a model."""

    name: str
    pretrained: str | None
    """Tag or file of the weights."""
    tag: str | None
    needs_weights: bool

    @property
    def folder(self) -> Path | None:
        """The folder in open_clip's layout, if it is one."""
        return Path(self.name.removeprefix("local-dir:")) if self.name.startswith("local-dir:") else None

    @property
    def is_described_outside(self) -> bool:
        """Whether a folder or a repository says what the model is, rather than open_clip or Attune."""
        return self.name.startswith(("local-dir:", "hf-hub:"))

    @property
    def own_text_tower(self) -> Path | None:
        """The configuration of a Hugging Face text tower that an export brings along."""
        folder = self.folder / "text_tower" if self.folder is not None else None
        return folder if folder is not None and folder.is_dir() else None

    @property
    def quick_gelu(self) -> bool:
        """OpenAI's weights and some others were trained with QuickGELU, which the plain architecture does not have."""
        return bool(self._tag_config().get("quick_gelu", False))

    @property
    def offline_hint(self) -> str:
        """Where the weights could lie on a machine without a network."""
        if self.tag is not None:
            return f" Without a network, put the weights into {_place()}/{self.name}/{self.tag}/"
        if self.name.startswith("hf-hub:"):
            return (
                f" Without a network, put the repository's files into {_place()}/{self.name.removeprefix('hf-hub:')}/"
            )
        return ""

    def describe(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """open_clip's model_cfg and what it says about preprocessing, without weights.

        Raises:
            ModelError: there is no such model, or its configuration is neither here nor on the network.
        """
        if not self.is_described_outside:
            config = open_clip.get_model_config(self.name)
            if config is None:
                raise ModelError(f"there is no model {self.name!r}")
            return config, self._tag_config()
        content = self._read_config()
        config = content.get("model_cfg", content)
        try:
            checked = checked_model_cfg(config, origin=self.name, own_text_tower=self.own_text_tower)
        except (OSError, ValueError) as error:
            raise ModelError(f"model.name {self.name!r}: {first_line(error)}") from error
        return checked, content.get("preprocess_cfg", {})

    def _read_config(self) -> dict[str, Any]:
        try:
            path = (
                self.folder / "open_clip_config.json"
                if self.folder is not None
                else Path(download_pretrained_from_hf(self.name.removeprefix("hf-hub:"), "open_clip_config.json"))
            )
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelError(f"model.name {self.name!r}: {first_line(error)}{self.offline_hint}") from error
        if not isinstance(content, dict):
            raise ModelError(f"model.name {self.name!r}: open_clip_config.json is no JSON object")
        return content

    def _tag_config(self) -> dict[str, Any]:
        return {} if self.tag is None else open_clip.get_pretrained_cfg(self.name, self.tag) or {}


def locate(name: str) -> Source:
    """Where an image-text model of this name comes from.

    Raises:
        ModelError: it is an image model, or the folder for its weights is empty.
    """
    open_clip.add_model_config(ARCHITECTURES)
    if name.startswith("local-dir:"):
        return Source(name, None, None, needs_weights=True)
    if name.startswith("hf-hub:"):
        folder = in_weights_dir(name.removeprefix("hf-hub:"))
        return Source(f"local-dir:{folder}" if folder else name, None, None, needs_weights=True)
    if name.startswith("timm/"):
        raise ModelError(f"model.name {name!r} is a timm image model; it has no text tower")
    architecture, _, tag = name.partition("/")
    if not tag:
        return Source(architecture, None, None, needs_weights=False)
    folder = in_weights_dir(f"{architecture}/{tag}")
    return Source(architecture, str(weight_file(folder)) if folder else tag, tag, needs_weights=True)


def locate_timm(name: str) -> tuple[str, bool, dict[str, Any] | None]:
    """timm's name of a model, whether weights are loaded, and where from if not from the hub."""
    if name.startswith("local-dir:"):
        check_timm_folder(Path(name.removeprefix("local-dir:")))
        return name, True, None
    bare = name.removeprefix("timm/")
    if folder := in_weights_dir(f"timm/{bare}"):
        return timm_name(bare), True, {"file": str(weight_file(folder))}
    return bare, "." in bare, None


def timm_name(name: str) -> str:
    """A timm model's name without a tag that timm does not know, as it refuses one."""
    architecture, _, tag = name.partition(".")
    return name if tag in timm_models().get(architecture, ()) else architecture


def in_weights_dir(relative: str) -> Path | None:
    """The folder below ATTUNE_WEIGHTS_DIR, if it is there.

    Raises:
        ModelError: the name would lead out of it.
    """
    if relative.startswith("/") or ".." in relative.split("/"):
        raise ModelError(f"{relative!r} is no name of a model")
    folder = weights_dir()
    return folder / relative if folder and (folder / relative).is_dir() else None


def weight_file(folder: Path) -> Path:
    """The file with a model's weights.

    Raises:
        ModelError: there is none.
    """
    for pattern in _WEIGHT_FILES:
        if found := sorted(folder.glob(pattern)):
            return found[0]
    raise ModelError(f"{folder} holds no weights: expected one of {', '.join(_WEIGHT_FILES)}")


def first_line(error: Exception) -> str:
    """What an error says, shortened."""
    return (str(error) or type(error).__name__).splitlines()[0]


def read_export(folder: Path) -> dict[str, Any]:
    """What an export's attune.json says: task, class names, templates, metrics; empty for folders of other origin."""
    path = folder / "attune.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _place() -> str:
    return str(weights_dir() or "ATTUNE_WEIGHTS_DIR")
