"""Which model to start from, and what is special about its towers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from trainer.catalogue import resolve_alias
from trainer.spec.base import PositiveFloat, PositiveInt, Section, Strings


class ProjectionHead(Section):
    """A head on a tower's features, as ITRA puts on locked towers: Linear, or Linear-GELU-...-Linear with biases and
    without normalisation, its output scaled to unit length."""

    layers: PositiveInt = 1
    """Linear layers: 1 is a linear head, 3 the MLP head of ITRA's tables."""
    hidden_size: PositiveInt = 2048
    """Width between the layers."""
    output_size: PositiveInt | None = None
    """Dimension of the shared space; None keeps the tower's. Both towers must agree."""


class Adapter(Section):
    """Small trainable weights inside a frozen tower, by peft (https://github.com/huggingface/peft)."""

    method: Literal["lora", "dora", "loha", "lokr", "ia3", "vera"] = "lora"
    """LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685) or its kin DoRA, LoHa, LoKr, IA3 and VeRA. AdaLoRA is
    none of them: it moves ranks about by gradients that ZeRO does not keep."""
    rank: PositiveInt = 8
    """Rank of the update; IA3 has none."""
    alpha: PositiveFloat = 16.0
    """The update is scaled by alpha / rank; IA3 and VeRA take none."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before the update."""
    targets: Strings = ("*",)
    """Shell-style patterns on the names of the tower's linear layers and attention modules (`*mlp*`, `*attn`); one that
    matches nothing is an error. An attention module stands for its four projections."""


class LearnedPrompt(Section):
    """CoOp: context vectors learned in place of the words of a template (Zhou et al. 2022,
    https://arxiv.org/abs/2109.01134). For text towers of open_clip."""

    length: PositiveInt = 4
    """Vectors, inserted after the start token; texts are cut to the context length less this many."""
    init_std: PositiveFloat = 0.02
    """Standard deviation of the first values."""


class _TowerSpec(Section):
    lock: bool = False
    """Freeze the whole tower and keep it in evaluation mode, but for what `lock_patterns` opens. Its heads, adapter and
    prompt train."""
    lock_patterns: Strings = ()
    """ITRA's rules: substrings of the tower's own parameter names. `!word` trains, `word` freezes. Among those that
    match, the first `!` wins in a locked tower, the first without `!` in an unlocked one, and otherwise the last.
    `!resblocks.1` therefore also opens resblocks.10 to 19. A pattern that matches nothing is an error."""
    head: ProjectionHead | None = None
    """A projection head on top, or None. A model that has one already, being an export of Attune, keeps it."""
    adapter: Adapter | None = None
    """Adapters inside; all else in the tower is frozen unless `lock_patterns` opens it. They are merged for export."""


class ImageTowerSpec(_TowerSpec):
    """The image tower."""

    tower: str | None = None
    """`timm/NAME.TAG` in place of the model's own tower. A linear projection leads into the shared space; it starts at
    random and trains whatever is locked."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth: the rate of the last block, rising linearly from 0 (https://arxiv.org/abs/1603.09382)."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the input tokens and after each attention and MLP."""


class TextTowerSpec(_TowerSpec):
    """The text tower."""

    tower: str | None = None
    """`hf-hub:ORG/NAME` or `local-dir:FOLDER` of a Hugging Face encoder in place of the model's own tower. A linear
    projection leads into the shared space; it starts at random and trains whatever is locked."""
    pooling: Literal["cls", "mean", "cls_before_pooler"] = "mean"
    """How a Hugging Face encoder's tokens become one vector: `cls`, the first through the encoder's own pooler;
    `cls_before_pooler`, the first as it is; `mean`."""
    context_length: PositiveInt | None = None
    """Tokens a text; None: the model's own. Position embeddings of open_clip towers can only be shortened."""
    prompt: LearnedPrompt | None = None
    """A learned prompt, or None. A model that has one already, being an export of Attune, keeps it."""


class ModelSpec(Section):
    """Which model to start from. A plain string is short for `{name: ...}`."""

    name: str
    """`ViT-L-14/openai` (open_clip name/pretrained tag), `ViT-L-14` (architecture without weights, from scratch),
    `timm/NAME.TAG`, `hf-hub:ORG/NAME`, `local-dir:PATH`, or the name of a model registered with the service. Names of
    mmpretrain's CLIP models and OpenAI's (`ViT-L/14@336px`, `openai/RN50`; a bare `RN50` is the architecture) resolve
    to the same weights."""
    image_size: PositiveInt | None = None
    """Input size in pixels; position embeddings are interpolated to it. None: the size the model was made for."""
    freeze: Strings = ()
    """Shell-style patterns on parameter names (`visual.conv1.*`); a leading `!` trains again what an earlier pattern
    froze, and the last match wins. A pattern that matches no parameter is an error."""
    image: ImageTowerSpec = ImageTowerSpec()
    """What is special about the image tower."""
    text: TextTowerSpec = TextTowerSpec()
    """What is special about the text tower."""
    eval_mode: bool = False
    """Train with the model in evaluation mode: no dropout or drop path, batch statistics frozen."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("name")
    @classmethod
    def _in_own_terms(cls, name: str) -> str:
        return resolve_alias(name)
