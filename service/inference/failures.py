"""What a caller is told when a worker could not answer."""

from __future__ import annotations

from service.errors import AttuneError, InvalidRequest, Unavailable
from service.inference.protocol import Problem


class DeadlineExceeded(AttuneError):
    """504: the answer did not come in time."""

    default_status = 504
    default_code = "deadline_exceeded"


class BadImage(InvalidRequest):
    """400: an image has a sound header and cannot be decoded."""

    default_code = "invalid_image"

    def __init__(self, index: int, why: str, *, param: str = "images") -> None:
        super().__init__(f"image {index} cannot be decoded: {why}", param=f"{param}.{index}")
        self.index, self.why = index, why


def error_of(problem: Problem) -> AttuneError:
    """The error for a problem that a worker reported."""
    if problem.code == "bad_image":
        return BadImage(problem.index or 0, problem.message)
    if problem.code == "deadline":
        return DeadlineExceeded(problem.message)
    if problem.code == "out_of_memory":
        return Unavailable(problem.message, code="out_of_memory")
    return AttuneError(problem.message, code="inference_failed")
