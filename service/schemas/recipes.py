"""Recipes: named starting points for a job."""

from __future__ import annotations

from typing import Any, Literal

from service.schemas.base import Answer
from trainer.recipes import Recipe


class RecipeSummary(Answer):
    """A recipe without its settings."""

    id: str
    """Its name, which `recipe` takes."""
    object: Literal["recipe"] = "recipe"
    """Always `recipe`."""
    summary: str
    """What it does."""
    source: str
    """Paper and code."""
    published: str
    """The published result with its hardware, or that there is none."""
    command: str
    """How to run it on one's own data from a shell."""

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


def _about(recipe: Recipe) -> dict[str, str]:
    return {
        "summary": recipe.summary,
        "source": recipe.source,
        "published": recipe.published,
        "command": recipe.command,
    }
