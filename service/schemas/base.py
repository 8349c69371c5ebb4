"""Bases of the REST shapes: answers, request bodies and list pages."""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

Item = TypeVar("Item")


class Answer(BaseModel):
    """Base of what the service sends."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class Body(BaseModel):
    """Base of what callers send: an unknown field is an error, so that no misspelt setting is passed over, and so is
    a value of another type than the schema's, such as `true` for a number."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers_are_integers(cls, given: Any) -> Any:
        """To JSON Schema, 2.0 is an integer."""
        if not isinstance(given, dict):
            return given
        whole = {name: int(value) for name, value in given.items() if isinstance(value, float) and value.is_integer()}
        return {**given, **whole}


class Listing(Answer, Generic[Item]):
    """A whole list, in OpenAI's envelope."""

    object: Literal["list"] = "list"
    """Always `list`."""
    data: list[Item]
    """The items."""


class Page(Listing[Item], Generic[Item]):
    """Part of a list."""

    has_more: bool = False
    """Whether more follow; ask for them with `after` set to the last item's id."""


class ErrorDetail(Answer):
    """Why a request was refused."""

    message: str
    """What was wrong, what was received and what is allowed."""
    type: str
    """`invalid_request_error`, `rate_limit_error` or `server_error`."""
    param: str | None
    """Dotted path of the field at fault."""
    code: str | None
    """A word for programs, such as `invalid_spec`."""
    problems: list[Problem] | None = None
    """With `invalid_spec`: everything that is wrong with the spec."""


class Problem(Answer):
    """One thing wrong with a spec."""

    field: str
    """Dotted path, such as `optim.lr`."""
    message: str
    """What is wrong and what is allowed."""
    value: object = None
    """What was given."""


class ErrorAnswer(Answer):
    """OpenAI's error envelope."""

    error: ErrorDetail
    """The error."""


ErrorDetail.model_rebuild()
