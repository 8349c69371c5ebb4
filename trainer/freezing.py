"""Which parameters train: shell-style patterns on their names, and ITRA's locks on whole towers."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from trainer.errors import UnusableSpecError


class HoldsTowers(nn.Module):
    """A module some of whose submodules stay in evaluation mode while it trains; adapters inside them do not."""

    held_towers: tuple[str, ...]
    """Names of the submodules."""

    def train(self, mode: bool = True) -> HoldsTowers:
        """As torch's, but for the held towers."""
        super().train(mode)
        for name in self.held_towers:
            tower = self.get_submodule(name).eval()
            for part in tower.modules():
                if isinstance(base := getattr(part, "base_layer", None), nn.Module):  # as peft names it
                    part.train(mode)
                    base.eval()
        return self


def freeze_matching(module: nn.Module, *, patterns: Sequence[str]) -> None:
    """Freeze the parameters that `patterns` match; `!pattern` trains them again, and the last match wins.

    Raises:
        UnusableSpecError: a pattern matches no parameter.
    """
    names = [name for name, _ in module.named_parameters()]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern.removeprefix("!")):
            raise UnusableSpecError(
                f"model.freeze: {pattern!r} matches no parameter; the model's begin with {_beginnings(names)}"
            )
    for name, parameter in module.named_parameters():
        for pattern in patterns:
            if fnmatch.fnmatchcase(name, pattern.removeprefix("!")):
                parameter.requires_grad_(pattern.startswith("!"))


def lock_tower(parameters: Mapping[str, nn.Parameter], *, locked: bool, patterns: Sequence[str], field: str) -> None:
    """Freeze and open a tower's parameters by ITRA's rules (https://github.com/ChenDelong1999/ITRA).

    Args:
        parameters: the tower's, by their names within it.
        locked: whether what no pattern matches is frozen.
        patterns: substrings of names; `!word` trains, `word` freezes. Of those that match, the first `!` wins in a
            locked tower, the first without `!` in an unlocked one, and otherwise the last.
        field: the spec's field, for messages.

    Raises:
        UnusableSpecError: a pattern matches no parameter, or holds no word, which would match all.
    """
    for pattern in patterns:
        if not pattern.removeprefix("!"):
            raise UnusableSpecError(f"{field}: {pattern!r} holds no word, and would match every parameter")
        if not any(pattern.removeprefix("!") in name for name in parameters):
            raise UnusableSpecError(
                f"{field}: {pattern!r} matches no parameter; the tower's begin with {_beginnings(parameters)}"
            )
    for name, parameter in parameters.items():
        parameter.requires_grad_(parameter.requires_grad and _trains(name, locked=locked, patterns=patterns))


def _trains(name: str, *, locked: bool, patterns: Sequence[str]) -> bool:
    trains = not locked
    for pattern in patterns:
        if pattern.removeprefix("!") in name:
            trains = pattern.startswith("!")
            if trains == locked:
                break
    return trains


def refuse_nothing_to_train(module: nn.Module) -> None:
    """Raise UnusableSpecError if no parameter of `module` trains."""
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise UnusableSpecError("model.freeze and the locks of model.image and model.text leave nothing to train")


def _beginnings(names: Iterable[str]) -> str:
    return ", ".join(sorted({name.split(".")[0] for name in names}))
