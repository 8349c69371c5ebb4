"""Reads a question with images from a request, as JSON with base64 or as a multipart form, and checks the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from service.dependencies import TheSettings
from service.errors import InvalidRequest
from service.inference.images import (
    EncodedImage,
    ImageLimits,
    check_count,
    check_size,
    images_from_bytes,
    images_from_text,
)
from service.schemas.inference import Question

QuestionType = TypeVar("QuestionType", bound=Question)

_MAX_PARTS = 20_000  # class names may come as a form field each
_IMAGE_FIELDS = ("image", "images")
_LIST_FIELDS = ("class_names", "templates")


@dataclass(frozen=True)
class Asked(Generic[QuestionType]):
    """A question with its checked images."""

    question: QuestionType
    images: list[EncodedImage]


class QuestionReader(Generic[QuestionType]):
    """A FastAPI dependency: the request's question, whichever way it was sent."""

    def __init__(self, question: type[QuestionType], body: type[BaseModel], *, example: dict[str, Any]) -> None:
        """`question` are the fields of a form; `body` is the JSON body, which has `images` besides."""
        self._question, self._body = question, body
        self._example = example

    async def __call__(self, request: Request, settings: TheSettings) -> Asked[QuestionType]:
        """Read and check.

        Raises:
            InvalidRequest: 400, what is sent as an image is none.
            PayloadTooLarge: 413, too many images, bytes or pixels.
            RequestValidationError: 422, a field is missing, unknown or of the wrong kind.
        """
        limits = ImageLimits.of(settings)
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            return await self._from_form(request, limits)
        return await run_in_threadpool(self._from_json, await request.body(), limits)

    def openapi(self) -> dict[str, Any]:
        """What FastAPI cannot know of the request body."""
        form = self._question.model_json_schema()
        form["properties"]["image"] = {"type": "array", "items": {"type": "string", "format": "binary"}}
        form["required"] = [*form["required"], "image"]
        json = {"schema": self._body.model_json_schema(), "example": self._example}
        content = {"application/json": json, "multipart/form-data": {"schema": form}}
        return {"requestBody": {"required": True, "content": content}}

    def _from_json(self, content: bytes, limits: ImageLimits) -> Asked[QuestionType]:
        body = _validated(lambda: self._body.model_validate_json(content))
        fields = body.model_dump(exclude_unset=True)
        images = images_from_text(fields.pop("images"), limits=limits)
        return Asked(self._question.model_validate(fields), images)

    async def _from_form(self, request: Request, limits: ImageLimits) -> Asked[QuestionType]:
        async with request.form(max_files=_MAX_PARTS, max_fields=_MAX_PARTS) as form:
            question = _validated(lambda: self._question.model_validate(_fields_in(form), strict=False))
            files = _files_in(form)
            check_count(len(files), limits=limits, param="image")
            for index, file in enumerate(files):
                check_size(file.size or 0, index, limits=limits, param="image")
            contents = [await file.read() for file in files]
        return Asked(question, await run_in_threadpool(images_from_bytes, contents, limits=limits, param="image"))


def _files_in(form: FormData) -> list[UploadFile]:
    found = [value for name, value in form.multi_items() if name in _IMAGE_FIELDS]
    if any(isinstance(value, str) for value in found):
        message = "the form field image must be a file (with a file name); base64 text goes into a JSON body"
        raise InvalidRequest(message, param="image", code="invalid_image")
    return [value for value in found if isinstance(value, UploadFile)]


def _fields_in(form: FormData) -> dict[str, Any]:
    names = dict.fromkeys(name for name, _ in form.multi_items() if name not in _IMAGE_FIELDS)
    return {name: _field(name, form.getlist(name)) for name in names}


def _field(name: str, values: Sequence[Any]) -> Any:
    """A list field may be repeated; class names may also come in one field, with commas between them."""
    if name == "class_names" and len(values) == 1 and isinstance(values[0], str):
        return [part.strip() for part in values[0].split(",")] if values[0].strip() else []
    return list(values) if name in _LIST_FIELDS else values[-1]


def _validated(validate: Any) -> Any:
    try:
        return validate()
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None
