"""CoOp: context vectors in front of the text, learned in place of words (https://arxiv.org/abs/2109.01134)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainer.errors import UnusableSpecError
from trainer.towers import ExtendedClip, ExtendedCustomTextClip, text_tower


class LearnedContext(nn.Module):
    """`length` vectors between the start token and the text.

    Texts of the context length less `length` get room for the vectors after their first token, so that the end token,
    at which the tower pools, stands where it is found: at its own index plus `length`. What the tower reads in that
    room is then replaced by the vectors, where the token embedding gives its output.
    """

    def __init__(self, *, length: int, width: int, init_std: float, unshifted_pooling: bool = False) -> None:
        """Draw the vectors from N(0, init_std).

        Args:
            length: vectors.
            width: of the text tower's tokens.
            init_std: standard deviation of the first values.
            unshifted_pooling: pool `length` tokens before the end token, where it was before the vectors moved it, as
                ITRA's code does.
        """
        super().__init__()
        self.vectors = nn.Parameter(torch.empty(length, width))
        nn.init.normal_(self.vectors, std=init_std)
        self.unshifted_pooling = unshifted_pooling

    @property
    def length(self) -> int:
        """Tokens that the vectors take."""
        return int(self.vectors.shape[0])

    def with_room(self, tokens: Tensor) -> Tensor:
        """(B, L) -> (B, L + length), with padding after the first token."""
        room = tokens.new_zeros(tokens.shape[0], self.length)
        return torch.cat([tokens[:, :1], room, tokens[:, 1:]], dim=1)

    def forward(self, embedded: Tensor) -> Tensor:
        """(B, L, D) token embeddings -> the same with the vectors in their room."""
        vectors = self.vectors.to(embedded.dtype).expand(embedded.shape[0], -1, -1)
        return torch.cat([embedded[:, :1], vectors, embedded[:, 1 + self.length :]], dim=1)

    def attach(self, tower: nn.Module) -> None:
        """Hook into a text tower of open_clip. The hooks are bound methods: a deep copy's belong to the copy."""
        tower.token_embedding.register_forward_hook(self._insert)
        if self.unshifted_pooling:
            tower.ln_final.register_forward_hook(self._shift_back)

    def _insert(self, _: nn.Module, __: Any, embedded: Tensor) -> Tensor:
        return self(embedded)

    def _shift_back(self, _: nn.Module, __: Any, states: Tensor) -> Tensor:
        return states.roll(self.length, dims=1)


def add_prompt(module: ExtendedClip | ExtendedCustomTextClip, prompt: LearnedContext) -> None:
    """Put a learned prompt in front of an image-text model's texts.

    Raises:
        UnusableSpecError: the model's text tower is none of open_clip's.
    """
    tower = text_tower(module)
    refuse_other_towers(module)
    module.text_prompt = prompt
    prompt.attach(tower)


def refuse_other_towers(module: nn.Module) -> None:
    """Raise UnusableSpecError if the text tower can take no learned prompt."""
    tower = text_tower(module)
    if not hasattr(tower, "token_embedding") or getattr(tower, "cls_emb", None) is not None:
        raise UnusableSpecError(
            f"model.text.prompt: a learned prompt needs a text tower of open_clip, not {type(tower).__name__}"
        )
