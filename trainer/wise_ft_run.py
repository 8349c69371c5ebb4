"""WiSE-FT inside a job: the line from the run's starting weights to its tuned ones, measured and cut where asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from trainer.adapters import merged
from trainer.interpolation import blend
from trainer.model_types import ClassifierModel, ClipModel

if TYPE_CHECKING:
    from trainer.setup import Run


@dataclass(frozen=True)
class RunLine:
    """Everything between the start and the end of a run.

    Adapters are merged first: what they add to a weight is a product of theirs, which is not on a line.
    """

    start: Mapping[str, Tensor]
    tuned: Mapping[str, Tensor]
    model: ClipModel | ClassifierModel
    """On the CPU; takes the weights of a point."""

    @classmethod
    def of(cls, run: Run, *, tuned: Mapping[str, Tensor]) -> RunLine:
        """The line to `tuned`, whole weights of the run's model. Its replica is used on the way."""
        assert run.start_weights is not None, "the starting weights are kept only if the spec asks for WiSE-FT"
        start, _ = _without_adapters(run.replica.module, run.start_weights)
        end, module = _without_adapters(run.replica.module, tuned)
        return cls(start, end, replace(run.replica, module=module))

    def at(self, alpha: float) -> ClipModel | ClassifierModel:
        """The model at `alpha`; the same object each time."""
        self.model.module.load_state_dict(blend(self.start, self.tuned, alpha=alpha))
        return self.model


def _without_adapters(module: nn.Module, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], nn.Module]:
    """The weights of `module` once its adapters are merged, and the module that takes them."""
    module.load_state_dict(weights)
    plain = merged(module)
    return {name: tensor.detach().clone() for name, tensor in plain.state_dict().items()}, plain
