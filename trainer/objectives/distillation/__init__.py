"""Distillation: a student learns from the embeddings that a frozen teacher gives the same images or texts."""

from trainer.objectives.distillation.objective import Distillation

__all__ = ["Distillation"]
