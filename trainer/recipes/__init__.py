"""Recipes: named starting points for a job. A recipe is a function that returns a JobSpec without data.

Run one with `attune train --recipe NAME --set data.train=FOLDER`, or `deepspeed trainer/run.py --recipe NAME ...`.
"""

from __future__ import annotations

from trainer.recipes import flyp, ft_clip, itra, lp_ft, wise_ft
from trainer.recipes.recipe import PublishedData, Recipe

__all__ = ["RECIPES", "PublishedData", "Recipe"]

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for recipe in (*ft_clip.RECIPES, *itra.RECIPES, *flyp.RECIPES, *wise_ft.RECIPES, *lp_ft.RECIPES)
}
"""All recipes, by name."""
