"""What an interpolation, or the Fisher information that it may use, is asked for. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from trainer.interpolate.points import alpha_name
from trainer.spec import PositiveInt, Section
from trainer.spec.base import Fraction, PositiveFloat
from trainer.spec_checks.metrics import METRICS

Precision = Literal["fp32", "amp_bf16"]


class Interpolate(Section):
    """Write the models between a start and a model tuned from it."""

    command: Literal["interpolate"] = "interpolate"
    start: str
    """A folder as an export leaves it, or a model's name: that model with what the tuned one's job put on it."""
    tuned: str
    """A folder as an export leaves it."""
    alphas: Annotated[tuple[Fraction, ...], Field(min_length=1)]
    """Points, from 0 (start) to 1 (tuned)."""
    output: str
    """Folder for `wise_ft_alpha=0.500/` and its kin, and for the curve."""
    data: tuple[str, ...] = ()
    """`[NAME=]PATH` of what to measure each point on."""
    in_distribution: str | None = None
    """The data set that is not shifted; a single one is by itself."""
    metric: str | None = None
    """What the curve shows and `best` goes by; None: top1, or mean_recall on captions."""
    choose: Fraction | Literal["best"] | None = None
    """The one point to keep; None keeps all."""
    templates: tuple[str, ...] = ()
    """Prompt templates; none: those of the tuned model."""
    fisher: tuple[str, str] | None = None
    """Folders with the Fisher information of the start and of the tuned model."""
    fisher_floor: PositiveFloat = 1e-8
    """Least Fisher information of any weight."""
    batch_size: PositiveInt = 64
    """Images a forward pass."""
    precision: Precision = "fp32"
    """Of the measurements."""

    @model_validator(mode="after")
    def _refuse_impossible(self) -> Interpolate:
        names = [alpha_name(alpha) for alpha in sorted(set(self.points))]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"--alpha has points that three decimals do not tell apart: {', '.join(twice)}")
        measured = {"--in-distribution": self.in_distribution, "--metric": self.metric, "--choose": self.choose}
        if not self.data and (useless := [option for option, value in measured.items() if value is not None]):
            raise ValueError(f"{' and '.join(useless)} needs --data to measure the points on")
        if self.metric is not None and (self.metric not in METRICS or METRICS[self.metric].kind != "fraction"):
            known = ", ".join(name for name, metric in METRICS.items() if metric.kind == "fraction")
            raise ValueError(f"--metric is {self.metric!r}; allowed: {known}")
        if self.choose == "best" and self.in_distribution is None and len(self.data) > 1:
            raise ValueError("--choose best needs --in-distribution NAME to say which data set decides")
        return self

    @property
    def points(self) -> tuple[float, ...]:
        """Every point that is made, the chosen one too."""
        return (*self.alphas, *((self.choose,) if isinstance(self.choose, float) else ()))


class Fisher(Section):
    """Estimate how much each weight of a model matters to what it says of some images."""

    command: Literal["fisher"] = "fisher"
    model: str
    """A folder as an export leaves it."""
    data: str
    """Labelled images."""
    output: str
    """Folder for files named as the model's own."""
    num_samples: PositiveInt | None = None
    """Images, spread over the data; None: all."""
    labels: Literal["sampled", "predicted", "true"] = "sampled"
    """Whose log-likelihood: of a label drawn from the model's prediction (the Fisher information), of the likeliest
    one, or of the true one (the empirical Fisher information)."""
    templates: tuple[str, ...] = ()
    """Prompt templates of an image-text model; none: its own."""
    seed: int = 0
    """Of the labels that are drawn."""
