"""One thing wrong with a spec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a spec."""

    field: str
    """Dotted path, such as `parallel.offload_optimizer`."""
    value: Any
    message: str
