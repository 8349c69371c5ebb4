"""How points between two models are named. Imports no torch."""

from __future__ import annotations


def alpha_name(alpha: float) -> str:
    """`wise_ft_alpha=0.500`, what WiSE-FT calls the weights at a point."""
    return f"wise_ft_alpha={alpha:.3f}"
