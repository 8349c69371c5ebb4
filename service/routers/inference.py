"""Questions to registered models: zero-shot, their own classes, and embeddings."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.concurrency import run_in_threadpool

from service.dependencies import TheCaller, TheGateway, TheSettings, TheStore, find_model
from service.errors import InvalidRequest, PayloadTooLarge
from service.inference.gateway import Features
from service.inference.gateway import Prediction as Predicted
from service.inference.images import EncodedImage, ImageLimits, check_count, image_from_text
from service.routers.question_reader import Asked, QuestionReader
from service.schemas.base import ErrorAnswer
from service.schemas.inference import (
    ClassifyBody,
    ClassifyQuestion,
    Embedding,
    Embeddings,
    EmbeddingsBody,
    EmbeddingUsage,
    ImagePredictions,
    Prediction,
    Predictions,
    PredictionUsage,
    ZeroShotBody,
    ZeroShotQuestion,
)
from service.settings import Settings

router = APIRouter(prefix="/v1", tags=["inference"])

_FLAW = {
    400: "An image, a class name or a template is faulty.",
    404: "There is no such model.",
    413: "Too many images, bytes or pixels.",
    429: "The queue is full; `Retry-After` says when it will have room.",
    503: "The model cannot be loaded, or its worker failed.",
    504: "No answer in time.",
}
FLAWS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": description} for status, description in _FLAW.items()
}
_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
_MODEL = "ft:ViT-B-32:flowers:1f0c9a3e"

read_zero_shot = QuestionReader(
    ZeroShotQuestion,
    ZeroShotBody,
    example={"model": _MODEL, "images": [_PIXEL], "class_names": ["rose", "tulip"], "templates": ["a photo of a {}."]},
)
read_classify = QuestionReader(ClassifyQuestion, ClassifyBody, example={"model": _MODEL, "images": [_PIXEL]})


@router.post("/zero-shot", responses=FLAWS, openapi_extra=read_zero_shot.openapi())
async def zero_shot(
    asked: Annotated[Asked[ZeroShotQuestion], Depends(read_zero_shot)],
    store: TheStore,
    gateway: TheGateway,
    caller: TheCaller,
) -> Predictions:
    """Which of `class_names` does each image show? Send JSON with base64, or a form with files named `image`."""
    question = asked.question
    model = await run_in_threadpool(find_model, store, question.model, project=caller.project_id)
    rows = await gateway.zero_shot(
        model, asked.images, class_names=question.class_names, templates=question.templates, top_k=question.top_k
    )
    return _predictions(model.id, rows)


@router.post("/classify", responses=FLAWS, openapi_extra=read_classify.openapi())
async def classify(
    asked: Annotated[Asked[ClassifyQuestion], Depends(read_classify)],
    store: TheStore,
    gateway: TheGateway,
    caller: TheCaller,
) -> Predictions:
    """Which of the classes that the model was trained on does each image show? JSON or a form, as `/v1/zero-shot`."""
    model = await run_in_threadpool(find_model, store, asked.question.model, project=caller.project_id)
    rows = await gateway.classify(model, asked.images, top_k=asked.question.top_k)
    return _predictions(model.id, rows)


@router.post("/embeddings", responses=FLAWS)
async def embeddings(
    body: EmbeddingsBody, store: TheStore, gateway: TheGateway, settings: TheSettings, caller: TheCaller
) -> Embeddings:
    """Unit-length features of texts and images in one space, as OpenAI's client asks for them."""
    inputs = await run_in_threadpool(_checked_inputs, body, settings)
    model = await run_in_threadpool(find_model, store, body.model, project=caller.project_id)
    features = await gateway.embed(model, inputs)
    _check_dimensions(features, body.dimensions)
    data = [
        Embedding(index=index, embedding=_encoded(row, body.encoding_format)) for index, row in enumerate(features.rows)
    ]
    usage = EmbeddingUsage(prompt_tokens=features.num_tokens, total_tokens=features.num_tokens)
    return Embeddings(model=model.id, data=data, usage=usage)


def _predictions(model: str, rows: Sequence[Sequence[Predicted]]) -> Predictions:
    data = [
        ImagePredictions(index=index, predictions=[Prediction(**vars(predicted)) for predicted in row])
        for index, row in enumerate(rows)
    ]
    return Predictions(model=model, data=data, usage=PredictionUsage(num_images=len(data)))


def _checked_inputs(body: EmbeddingsBody, settings: Settings) -> list[str | EncodedImage]:
    num_texts = sum(isinstance(value, str) for value in body.input)
    if num_texts > settings.max_texts_per_request:
        message = f"{num_texts} texts in one request; at most {settings.max_texts_per_request} are allowed"
        raise PayloadTooLarge(message, param="input", code="too_many_texts")
    limits = ImageLimits.of(settings)
    if num_texts < len(body.input):
        check_count(len(body.input) - num_texts, limits=limits, param="input")
    return [
        value if isinstance(value, str) else image_from_text(value.image, index, limits=limits, param=f"input.{index}")
        for index, value in enumerate(body.input)
    ]


def _check_dimensions(features: Features, wanted: int | None) -> None:
    actual = len(features.rows[0]) // 4
    if wanted is not None and wanted != actual:
        message = f"dimensions is {wanted}; this model's features have {actual}, and no other number is possible"
        raise InvalidRequest(message, param="dimensions")


def _encoded(row: bytes, encoding_format: str) -> list[float] | str:
    if encoding_format == "base64":
        return base64.b64encode(row).decode()
    return list(struct.unpack(f"<{len(row) // 4}f", row))
