"""Which parameters train: shell-style patterns on their names."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from torch import nn

from trainer.errors import UnusableSpecError


def freeze_matching(module: nn.Module, *, patterns: Sequence[str]) -> None:
    """Freeze the parameters that `patterns` match; `!pattern` trains them again, and the last match wins.

    Raises:
        UnusableSpecError: a pattern matches no parameter, or nothing is left to train.
    """
    names = [name for name, _ in module.named_parameters()]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern.removeprefix("!")):
            raise UnusableSpecError(
                f"model.freeze: {pattern!r} matches no parameter; the model's begin with "
                f"{', '.join(sorted({name.split('.')[0] for name in names}))}"
            )
    for name, parameter in module.named_parameters():
        for pattern in patterns:
            if fnmatch.fnmatchcase(name, pattern.removeprefix("!")):
                parameter.requires_grad_(pattern.startswith("!"))
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise UnusableSpecError(f"model.freeze: {list(patterns)} leaves nothing to train")
