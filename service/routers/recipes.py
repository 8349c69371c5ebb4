"""Recipes: list, retrieve."""

from __future__ import annotations

from fastapi import APIRouter

from service.errors import NotFound
from service.schemas.base import ErrorAnswer, Page
from service.schemas.recipes import RecipeDetail, RecipeSummary
from trainer.recipes import RECIPES
from trainer.resolve import near

router = APIRouter(prefix="/v1/recipes", tags=["recipes"])


@router.get("")
def list_recipes() -> Page[RecipeSummary]:
    """All recipes."""
    return Page[RecipeSummary](data=[RecipeSummary.from_recipe(recipe) for recipe in RECIPES.values()])


@router.get("/{name}", responses={404: {"model": ErrorAnswer, "description": "There is no such recipe."}})
def retrieve_recipe(name: str) -> RecipeDetail:
    """One recipe with the spec that it makes."""
    if name not in RECIPES:
        message = f"there is no recipe {name!r}.{near(name, list(RECIPES))} Recipes: {', '.join(sorted(RECIPES))}"
        raise NotFound(message, param="name")
    return RecipeDetail.from_recipe(RECIPES[name])
