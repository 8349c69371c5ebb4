"""A loaded model that answers questions about images and texts. The one part of the service that imports torch.

It reads an export folder in open_clip's layout (zero-shot questions, features), timm's or Attune's own (its own
classes), with what `attune.json` adds. Pixels take the road that they take in training and evaluation:
`dali_pipelines`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from dali_pipelines.images import DecodeError, ImageDecoder
from dali_pipelines.transforms import Preprocess
from service.inference.protocol import Answer, Head, Problem, Question, Timings
from trainer import classifier_layout
from trainer.evaluation.features import image_features, text_features
from trainer.evaluation.zero_shot import zero_shot_weights
from trainer.models import ModelError, load_clip, read_export
from trainer.outside_configs import check_timm_folder
from trainer.spec import ModelSpec

_MAX_HEAD_BYTES = 256 * 1024 * 1024
_PROMPTS_A_STEP = 1024  # between two looks at the clock while a head is built


class DeadlinePassed(Exception):
    """Nobody waits for the answer any more."""


class Predictor:
    """One model on one device; bfloat16 autocast on a GPU, float32 on the CPU."""

    def __init__(self, folder: Path, *, device: str = "auto", max_batch_size: int = 32) -> None:
        """Load the model.

        Args:
            folder: the export.
            device: `cpu`, `cuda`, `cuda:N`, or `auto`, a GPU if there is one.
            max_batch_size: most images in one batch.

        Raises:
            ModelError: the folder holds no model that can be loaded.
        """
        self._device = _device_named(device)
        described = read_export(folder)
        kind = ClipTowers if (folder / "open_clip_config.json").exists() else ClassifierTower
        self._model: ClipTowers | ClassifierTower = kind(folder, described, self._device)
        self._decoder = ImageDecoder(
            self._model.preprocess, device=self._device.index, max_batch_size=max_batch_size, num_threads=None
        )

    @torch.inference_mode()
    def answer(self, questions: Sequence[Question], heads: dict[str, Head]) -> tuple[list[Answer], Timings]:
        """Answer a batch: all its images in one forward pass, then what each question makes of its own."""
        received = time.monotonic()
        images, faults = self._decode(questions)
        decoded = time.monotonic()
        outputs = [] if images is None else list(torch.split(self._model.forward(images), _sizes(questions, faults)))
        answers = []
        for question, fault in zip(questions, faults, strict=True):
            own = outputs.pop(0) if question.images and fault is None else None
            until = received + question.time_left_s
            answers.append(self._answer_one(question, own, heads, until) if fault is None else Answer(problem=fault))
        return answers, Timings(decoded - received, time.monotonic() - decoded)

    def is_out_of_memory(self, error: Exception) -> bool:
        """Whether a smaller batch could have passed."""
        return isinstance(error, torch.OutOfMemoryError)

    def is_usable(self) -> bool:
        """Whether the device still works: after some CUDA errors a process never gets another answer."""
        if self._device.type != "cuda":
            return True
        try:
            torch.cuda.synchronize(self._device)
        except RuntimeError:
            return False
        return True

    def _decode(self, questions: Sequence[Question]) -> tuple[Tensor | None, list[Problem | None]]:
        """Pixels of all questions whose images can be decoded, and what is wrong with the others."""
        faults: list[Problem | None] = [None] * len(questions)
        while True:
            places = [
                (number, place)
                for number, question in enumerate(questions)
                if faults[number] is None
                for place in range(len(question.images))
            ]
            if not places:
                return None, faults
            try:
                return self._decoder.decode([questions[number].images[place] for number, place in places]), faults
            except DecodeError as error:
                number, place = places[error.index]
                faults[number] = Problem("bad_image", error.reason, questions[number].first_image + place)

    def _answer_one(self, question: Question, output: Tensor | None, heads: dict[str, Head], until: float) -> Answer:
        try:
            return self._model.answer(question, output, heads, until=until)
        except DeadlinePassed as late:
            return Answer(problem=Problem("deadline", str(late)))


class ClipTowers:
    """An image-text model: predictions by class names, and features."""

    def __init__(self, folder: Path, described: dict[str, Any], device: torch.device) -> None:
        loaded = load_clip(ModelSpec(name=f"local-dir:{folder}"))
        self.preprocess = _preprocess_in(described) if described.get("preprocess") else loaded.preprocess
        self._module = loaded.module.to(device).eval()
        self._logit_scale = self._module.get_parameter("logit_scale").detach().float().exp().item()
        self._tokenize = loaded.tokenize
        self._padding = int(loaded.config["text_cfg"].get("pad_id", 0))
        self._device = device
        self._heads = HeadCache(self._module, loaded.tokenize, device=device)

    def forward(self, images: Tensor) -> Tensor:
        """Unit-norm features (B, D) of pixels (B, 3, H, W)."""
        with _autocast(self._device):
            return image_features(self._module, images)

    def answer(self, question: Question, features: Tensor | None, heads: dict[str, Head], *, until: float) -> Answer:
        """The answer to one question, given the features (B, D) of its images.

        Raises:
            DeadlinePassed: at the monotonic time `until` the head was not finished; the next try goes on from there.
        """
        if question.operation == "text_features":
            return self._text_features(question.texts)
        assert features is not None
        if question.operation == "image_features":
            return Answer(rows=_rows_of_bytes(features))
        if question.operation != "zero_shot" or question.head is None:
            raise ValueError(f"an image-text model does not answer {question.operation!r} with head {question.head}")
        head = heads[question.head]
        logits = self._logit_scale * features @ self._heads.weights(head, until=until)
        return Answer(rows=top_predictions(logits, head.class_names, question.top_k))

    def _text_features(self, texts: Sequence[str]) -> Answer:
        tokens = self._tokenize(texts)
        with _autocast(self._device):
            features = text_features(self._module, tokens.to(self._device))
        return Answer(rows=_rows_of_bytes(features), num_tokens=int((tokens != self._padding).sum()))


class ClassifierTower:
    """A classifier in timm's layout or Attune's own."""

    def __init__(self, folder: Path, described: dict[str, Any], device: torch.device) -> None:
        if not described.get("class_names") or not described.get("preprocess"):
            raise ModelError(
                f"{folder} holds no open_clip model, and no attune.json with class names and preprocessing"
            )
        self.preprocess = _preprocess_in(described)
        self._class_names = tuple(described["class_names"])
        self._module = _classifier_in(folder).to(device).eval()
        self._device = device

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of pixels (B, 3, H, W)."""
        with _autocast(self._device):
            logits: Tensor = self._module(images)
        return logits

    def answer(self, question: Question, logits: Tensor | None, heads: dict[str, Head], *, until: float) -> Answer:
        """The answer to one question, given the logits (B, C) of its images."""
        if question.operation != "classify" or logits is None:
            raise ValueError(f"a classifier does not answer {question.operation!r}")
        return Answer(rows=top_predictions(logits, self._class_names, question.top_k))


class HeadCache:
    """Zero-shot class weights by class names and templates, the latest used kept."""

    def __init__(self, module: nn.Module, tokenize: Callable[[Sequence[str]], Tensor], *, device: torch.device) -> None:
        self._module, self._tokenize, self._device = module, tokenize, device
        self._parts: OrderedDict[str, list[Tensor]] = OrderedDict()  # (D, c) each

    def weights(self, head: Head, *, until: float) -> Tensor:
        """(D, C), built on first use, a part of the classes at a time.

        Raises:
            DeadlinePassed: it was not finished by the monotonic time `until`. What was built is kept.
        """
        parts = self._parts.setdefault(head.key, [])
        self._parts.move_to_end(head.key)
        step = max(1, _PROMPTS_A_STEP // len(head.templates))
        while (num_done := sum(part.shape[1] for part in parts)) < len(head.class_names):
            if time.monotonic() > until:
                raise DeadlinePassed(f"{num_done} of {len(head.class_names)} classes were encoded in time; try again")
            parts.append(self._encode(head.class_names[num_done : num_done + step], head.templates))
        if len(parts) > 1:
            parts[:] = [torch.cat(parts, dim=1)]
        self._forget_oldest()
        return parts[0]

    def _encode(self, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
        on_gpu = self._device.type == "cuda"
        return zero_shot_weights(
            self._module, self._tokenize, class_names, templates, device=self._device, autocast=on_gpu
        )

    def _forget_oldest(self) -> None:
        while len(self._parts) > 1 and self._num_bytes() > _MAX_HEAD_BYTES:
            self._parts.popitem(last=False)

    def _num_bytes(self) -> int:
        return sum(part.nbytes for parts in self._parts.values() for part in parts)


def top_predictions(logits: Tensor, class_names: Sequence[str], top_k: int) -> list[list[list[Any]]]:
    """For each row of (B, C) logits the `top_k` classes as [label, index, probability], likeliest first."""
    probabilities = logits.float().softmax(dim=-1)
    best = probabilities.topk(min(top_k, len(class_names)), dim=-1)
    return [
        [[class_names[index], index, probability] for index, probability in zip(indices, values, strict=True)]
        for indices, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _classifier_in(folder: Path) -> nn.Module:
    if classifier_layout.is_own(folder):
        return classifier_layout.read(folder).module
    check_timm_folder(folder)
    module: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return module


def _autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def _preprocess_in(described: dict[str, Any]) -> Preprocess:
    """What the export was trained and evaluated with."""
    fields: dict[str, Any] = dict(described["preprocess"])
    return Preprocess(**fields | {"mean": tuple(fields["mean"]), "std": tuple(fields["std"])})


def _rows_of_bytes(features: Tensor) -> list[bytes]:
    return [row.tobytes() for row in features.float().cpu().numpy().astype("<f4")]


def _sizes(questions: Sequence[Question], faults: Sequence[Problem | None]) -> list[int]:
    return [len(q.images) for q, fault in zip(questions, faults, strict=True) if q.images and fault is None]


def _device_named(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device("cuda", torch.device(name).index or 0) if name.startswith("cuda") else torch.device(name)
