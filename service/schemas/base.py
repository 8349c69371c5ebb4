"""Bases of the REST shapes: answers, request bodies and list pages."""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

Item = TypeVar("Item")


class Answer(BaseModel):
    """Base of what the service sends."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class Body(BaseModel):
    """Base of what callers send: an unknown field is an error, so that no misspelt setting is passed over."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


class Page(Answer, Generic[Item]):
    """Part of a list, in OpenAI's envelope."""

    object: Literal["list"] = "list"
    """Always `list`."""
    data: list[Item]
    """The items."""
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
