"""Recipes: named starting points for a job."""

from __future__ import annotations

from typing import Any, Literal

from service.schemas.base import Answer
from trainer.recipes import PublishedData, Recipe


class RecipeData(Answer):
    """What a recipe's source trained on."""

    name: str
    """The data set."""
    num_train: int
    """Training samples."""
    num_classes: int | None
    """Classes; null for captions."""
    devices: int
    """Ranks in the source."""

    @classmethod
    def from_published(cls, data: PublishedData) -> RecipeData:
        """The same as an answer."""
        return cls(name=data.name, num_train=data.num_train, num_classes=data.num_classes, devices=data.devices)


class RecipeSummary(Answer):
    """A recipe without its settings."""

    id: str
    """Its name, which `recipe` takes."""
    object: Literal["recipe"] = "recipe"
    """Always `recipe`."""
    summary: str
    """What it does."""
    paper: str
    """The paper that the method comes from."""
    source: str
    """The code that the settings were read from."""
    published: str
    """The published result with its hardware, or that there is none."""
    command: str
    """How to run it on one's own data from a shell."""
    dataset: RecipeData | None
    """What the source trained on; null for a recipe for anybody's data."""
    notes: list[str]
    """Where it departs from its source, and what to change with the data."""

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> RecipeSummary:
        """The recipe as it is listed."""
        return cls(id=recipe.name, **_about(recipe))


class RecipeDetail(RecipeSummary):
    """A recipe with the spec that it makes."""

    spec: dict[str, Any]
    """The whole JobSpec, without data."""

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> RecipeDetail:
        """The recipe as it is shown."""
        return cls(id=recipe.name, spec=recipe.build().model_dump(mode="json"), **_about(recipe))


def _about(recipe: Recipe) -> dict[str, Any]:
    return {
        "summary": recipe.summary,
        "paper": recipe.paper,
        "source": recipe.source,
        "published": recipe.published,
        "command": recipe.command,
        "dataset": RecipeData.from_published(recipe.dataset) if recipe.dataset else None,
        "notes": list(recipe.notes),
    }
