"""What a recipe is: a function that makes a JobSpec, with where it comes from and what it is known to reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trainer.spec import JobSpec

NO_RESULT = "no figure of its own: the settings are published, this combination of model and data is not"


@dataclass(frozen=True)
class PublishedData:
    """The data set and the machine behind a published result, so that its run can be planned without either."""

    name: str
    num_train: int
    """Training samples, before `data.shots` or `data.episode_size` choose among them."""
    num_classes: int | None
    """Classes; None for captions."""
    devices: int
    """Ranks in the source."""


@dataclass(frozen=True)
class Recipe:
    """A recipe with where it comes from and what it is known to reach."""

    name: str
    build: Callable[[], JobSpec]
    summary: str
    paper: str
    """The paper that the method comes from."""
    source: str
    """The code that the settings were read from."""
    published: str
    """The published result, with its hardware; or that there is none."""
    command: str
    """How to run it on one's own data."""
    dataset: PublishedData | None = None
    """What the source trained on; None for a recipe that is for anybody's data."""
    notes: tuple[str, ...] = ()
    """Where the recipe departs from its source, and what to change with the data."""


def train_command(name: str, *settings: str) -> str:
    """`attune train --recipe NAME --set ...`."""
    return " ".join([f"attune train --recipe {name}", *(f"--set {setting}" for setting in settings)])
