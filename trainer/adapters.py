"""Adapters inside a tower, by peft (https://github.com/huggingface/peft): small weights train, the tower's own do not.

They sit on linear layers. Attention that keeps its projections in one matrix is taken apart first. For export they are
merged into the weights that they adapt, and attention is joined again, so that what is left is a plain model.
"""

from __future__ import annotations

import copy
import fnmatch
import re
from collections.abc import Collection
from typing import Any

from torch import nn

from trainer.errors import UnusableSpecError
from trainer.spec import Adapter
from trainer.split_attention import SplitAttention, can_split

_NAME = "default"
_FEED_FORWARD_ENDS = ("c_proj", "fc2", "output.dense")  # IA3 scales what goes into an MLP's second layer


def inject(tower: nn.Module, spec: Adapter, *, field: str, names: Collection[str]) -> None:
    """Put adapters on the layers of `tower` that `spec.targets` match; what trained before still trains.

    Args:
        tower: changed in place.
        spec: which adapters.
        field: the spec's field, for messages.
        names: the tower's own parameters; other layers below `tower`, such as those of a second tower, are left alone.

    Raises:
        UnusableSpecError: a pattern matches no layer, or the method does not fit one.
    """
    targets = _targets(tower, spec, field=field, names=names)
    for name in [name for name in targets if can_split(tower.get_submodule(name))]:
        tower.set_submodule(name, SplitAttention(tower.get_submodule(name)))
        targets.remove(name)
        targets += [f"{name}.{part}" for part in ("q_proj", "k_proj", "v_proj", "out_proj")]
    trained = {id(parameter): parameter.requires_grad for parameter in tower.parameters()}
    _tuner(spec, targets=targets)(tower)
    if spec.method == "vera":
        for name in _adapted(tower):
            tower.get_submodule(name).register_forward_pre_hook(_cast_shared_matrices)
    for parameter in tower.parameters():
        parameter.requires_grad_(trained.get(id(parameter), parameter.requires_grad))
    if next(iter(tower.parameters())).is_meta:
        tower.to("meta")


def has_adapters(module: nn.Module) -> bool:
    """Whether there are adapters anywhere in `module`."""
    return bool(_adapted(module))


def merged(module: nn.Module) -> nn.Module:
    """A copy of `module` with all adapters merged into the weights that they adapt."""
    plain = copy.deepcopy(module)
    for name in _adapted(plain):
        layer = plain.get_submodule(name)
        layer.merge()
        plain.set_submodule(name, layer.get_base_layer())
    for name, part in list(plain.named_modules()):
        if isinstance(part, SplitAttention):
            plain.set_submodule(name, part.joined())
    return plain.train(module.training)


def _cast_shared_matrices(layer: Any, _: Any) -> None:
    """VeRA's matrices are buffers, which DeepSpeed does not cast with the weights in every ZeRO stage."""
    dtype = layer.vera_lambda_d[_NAME].dtype
    for matrices in (layer.vera_A, layer.vera_B):
        if matrices[_NAME].dtype != dtype:
            matrices[_NAME] = matrices[_NAME].to(dtype)


def _adapted(module: nn.Module) -> list[str]:
    return [name for name, part in module.named_modules() if isinstance(getattr(part, "base_layer", None), nn.Module)]


def _targets(tower: nn.Module, spec: Adapter, *, field: str, names: Collection[str]) -> list[str]:
    """Names of linear layers and attention modules; a linear layer inside a chosen attention module goes with that."""
    candidates = {
        name: part
        for name, part in tower.named_modules()
        if (isinstance(part, nn.Linear) or can_split(part)) and any(n.startswith(f"{name}.") for n in names)
    }
    for pattern in spec.targets:
        if not fnmatch.filter(candidates, pattern):
            shown = ", ".join(sorted({name.rpartition(".")[2] for name in candidates}))
            raise UnusableSpecError(
                f"{field}.targets: {pattern!r} matches no linear layer and no attention; there are {shown}"
            )
    attention = {name for name, part in candidates.items() if not isinstance(part, nn.Linear)}
    chosen = [n for n in candidates if any(fnmatch.fnmatchcase(n, pattern) for pattern in spec.targets)]
    inside = {n for n in candidates if n.rpartition(".")[0] in attention}
    return sorted({n.rpartition(".")[0] if n in inside else n for n in chosen})


def _tuner(spec: Adapter, *, targets: list[str]) -> Any:
    """A function that adapts a module in place."""
    import peft
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    options: dict[str, Any] = {"target_modules": _exactly(targets)}
    config: Any
    if spec.method in ("lora", "dora"):
        config = peft.LoraConfig(
            r=spec.rank,
            lora_alpha=spec.alpha,
            lora_dropout=spec.dropout,
            use_dora=spec.method == "dora",
            **options,
        )
    elif spec.method == "loha":
        config = peft.LoHaConfig(r=spec.rank, alpha=spec.alpha, module_dropout=spec.dropout, **options)
    elif spec.method == "lokr":
        config = peft.LoKrConfig(r=spec.rank, alpha=spec.alpha, module_dropout=spec.dropout, **options)
    elif spec.method == "vera":
        config = peft.VeraConfig(r=spec.rank, vera_dropout=spec.dropout, **options)
    else:
        feed_forward = [name for name in targets if name.endswith(_FEED_FORWARD_ENDS)]
        config = peft.IA3Config(feedforward_modules=_exactly(feed_forward), **options)
    tuner = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type]
    return lambda module: tuner(module, config, _NAME)  # peft's own entry refuses VeRA, whose matrices layers share


def _exactly(names: list[str]) -> str:
    """A pattern that matches these names as a whole; peft's lists match endings too."""
    return "|".join(re.escape(name) for name in names) or "(?!)"
