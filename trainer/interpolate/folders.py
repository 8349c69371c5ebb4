"""The folders at both ends of the line and those between them: whatever an export consists of, file by file."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dali_pipelines.transforms import Preprocess
from trainer import classifier_layout
from trainer.interpolate.files import Line
from trainer.interpolate.starting_model import export_start
from trainer.interpolation import FISHER_FLOOR, InterpolationError
from trainer.model_card import Layout, ModelCard
from trainer.model_sources import read_export
from trainer.spec import JobSpec
from trainer.whole_folder import replacing

_DESCRIPTION = "attune.json"
_CARD = "README.md"
_CLIP_CONFIG = "open_clip_config.json"


@dataclass(frozen=True)
class FolderLine:
    """What lies between two folders that hold the same files of weights."""

    start: str
    """As it was named."""
    tuned: Path
    lines: Mapping[str, Line]
    """By file name."""

    @classmethod
    def between(
        cls,
        start: Path,
        tuned: Path,
        *,
        name: str,
        fishers: tuple[Path, Path] | None = None,
        fisher_floor: float = FISHER_FLOOR,
    ) -> FolderLine:
        """The line from `start`, which goes by `name`, to `tuned`.

        Raises:
            InterpolationError: the folders hold different files, weights or classes, or the Fisher files do not fit.
        """
        names = weight_files(tuned)
        if (others := weight_files(start)) != names:
            raise InterpolationError(f"{name} holds {', '.join(others)}, but {tuned} holds {', '.join(names)}")
        _refuse_other_classes(start, tuned)
        lines = {}
        for file in names:
            pair = None if fishers is None else (_fisher_file(fishers[0], file), _fisher_file(fishers[1], file))
            lines[file] = Line.between(start / file, tuned / file, fishers=pair, fisher_floor=fisher_floor)
        return cls(name, tuned, lines)

    def write(self, folder: Path, *, alpha: float) -> None:
        """Write the model at `alpha`, with everything that `tuned` has beside its weights, replacing `folder`."""
        with replacing(folder) as partial:
            for path in self.tuned.iterdir():
                if path.is_dir():
                    shutil.copytree(path, partial / path.name)
                elif path.name not in self.lines:
                    shutil.copyfile(path, partial / path.name)
            for file, line in self.lines.items():
                line.write(partial / file, alpha=alpha)
            _name_own_text_tower(partial, final=folder)
            self._describe(partial, alpha)

    def _describe(self, folder: Path, alpha: float) -> None:
        """Say what these weights are; what the tuned ones scored is not theirs."""
        weighed = any(line.fishers is not None for line in self.lines.values())
        line = {"alpha": alpha, "start": self.start, "tuned": str(self.tuned), "fisher": weighed}
        update_description(folder, wise_ft=line, metrics={})


def _name_own_text_tower(folder: Path, *, final: Path) -> None:
    """Let the configuration of a text tower that came along be found where `folder` will be, not where it was."""
    path = folder / _CLIP_CONFIG
    if not path.is_file():
        return
    content = json.loads(path.read_text(encoding="utf-8"))
    text = content.get("model_cfg", {}).get("text_cfg", {})
    if (folder / "text_tower").is_dir() and Path(text.get("hf_model_name", "")).is_absolute():
        text["hf_model_name"] = str(final.resolve() / "text_tower")
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def weight_files(folder: Path) -> list[str]:
    """Names of the files of weights in an export.

    Raises:
        InterpolationError: there is none.
    """
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names:
        raise InterpolationError(f"{folder} is no folder with weights in safetensors, such as a job's export")
    return names


def named_folder(name: str) -> Path | None:
    """The folder that `FOLDER` or `local-dir:FOLDER` names, or None if it is none."""
    folder = Path(name.removeprefix("local-dir:"))
    if folder.is_dir():
        return folder
    if name.startswith(("local-dir:", "/", ".")):
        raise InterpolationError(f"there is no folder {folder}")
    return None


@contextmanager
def starting_folder(name: str, *, tuned: Path) -> Iterator[Path]:
    """The folder that `name` names, or one for as long as it is needed with the model that it names, as `tuned` is."""
    if (folder := named_folder(name)) is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="attune-start-") as temporary:
        folder = Path(temporary) / "start"
        export_start(name, tuned=tuned, folder=folder)
        yield folder


def update_description(folder: Path, **fields: Any) -> None:
    """Change fields of an export's attune.json, and its model card with them. Folders of other origin have neither."""
    stored = {**read_export(folder), **fields}
    text = json.dumps(stored, indent=1, ensure_ascii=False) + "\n"
    (folder / _DESCRIPTION).write_text(text, encoding="utf-8")
    if "task" in stored:
        (folder / _CARD).write_text(_card(stored, folder), encoding="utf-8")


def _card(stored: Mapping[str, Any], folder: Path) -> str:
    names = ("metrics", "class_names", "templates", "data_hash", "num_samples", "wise_ft")
    spec = None if stored.get("spec") is None else JobSpec.model_validate(stored["spec"])
    card = ModelCard(spec=spec, **{name: stored[name] for name in names})
    of_classifiers: Layout = "attune" if classifier_layout.is_own(folder) else "timm"
    layout: Layout = "open_clip" if stored["task"] == "clip" else of_classifiers
    described = stored["preprocess"]
    preprocess = Preprocess(**described | {"mean": tuple(described["mean"]), "std": tuple(described["std"])})
    return card.to_markdown(layout=layout, model_name=stored["base_model"], preprocess=preprocess)


def _refuse_other_classes(start: Path, tuned: Path) -> None:
    """Heads can be averaged only where their rows are the same classes in the same order."""
    ours, theirs = (_label_names(folder) for folder in (tuned, start))
    if ours is not None and theirs is not None and ours != theirs:
        raise InterpolationError(
            f"the two classifiers have other classes, or the same in another order: {theirs[:5]} and {ours[:5]}"
        )


def _label_names(folder: Path) -> list[str] | None:
    path = folder / "config.json"
    return json.loads(path.read_text(encoding="utf-8")).get("label_names") if path.is_file() else None


def _fisher_file(folder: Path, file: str) -> Path:
    path = folder / file
    if not path.is_file():
        raise InterpolationError(f"{folder} has no {file}: make it with `attune fisher MODEL --output {folder}`")
    return path
