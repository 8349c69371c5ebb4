"""How a global batch is split over ranks and accumulation steps, also for a job that goes on with other ranks.

The global batch never changes, and neither do the samples that a loss compares with each other: a micro-batch covers
consecutive positions of the step, so that micro-batches side by side hold what one larger forward pass held. Where a
forward pass becomes smaller, contrastive objectives cache the features of several (`trainer.feature_cache`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from trainer.errors import UnusableSpecError
from trainer.spec_checks.data import check_pairs
from trainer.spec_checks.training import check_divides

if TYPE_CHECKING:
    from trainer.spec import JobSpec

Compares = Literal["nothing", "pairs", "micro_batch", "forward_pass"]

_SINGLE_SAMPLES = ("simreg", "simreg_l1", "simreg_smooth_l1")


@dataclass(frozen=True)
class BatchSplit:
    """A settled split."""

    micro_size: int
    """Samples a device and forward pass."""
    accumulation: int
    """Forward passes of a device in an optimizer step."""
    compared: int
    """Samples of all ranks that the loss compares with each other."""
    cached: int = 1
    """Micro-batches of a device whose features are cached together; 1 caches none."""


@dataclass(frozen=True)
class EarlierSplit:
    """How the attempt that saved a checkpoint split its batch."""

    world_size: int
    micro_size: int
    compared: int


def compares(spec: JobSpec) -> Compares:
    """What a sample's loss depends on beside the sample itself, batch normalisation and mixing apart.

    `pairs`: all samples of a forward pass, whose features can be cached; `micro_batch`: those of its own rank's;
    `forward_pass`: those of all ranks, or what is remembered from them.
    """
    objective = spec.objective
    if objective.name in ("contrastive", "class_prompts"):
        return "nothing" if objective.loss == "cross_entropy" else "pairs"
    if objective.name == "distillation":
        if objective.contrastive_weight > 0 or objective.loss not in (*_SINGLE_SAMPLES, "rkd"):
            return "forward_pass"
        return "micro_batch" if objective.loss == "rkd" else "nothing"
    return "nothing"


def settle_batch(
    spec: JobSpec,
    *,
    world_size: int,
    overrides: Mapping[str, Any] | None = None,
    earlier: EarlierSplit | None = None,
) -> BatchSplit:
    """Split the global batch over `world_size` ranks.

    Args:
        overrides: what the attempt decides beside the spec: `micro_size`, `feature_cache`.
        earlier: of the checkpoint to go on from, if there is one: no device gets more samples at once than then.

    Raises:
        UnusableSpecError: another number of ranks was asked for, the batch does not divide, or a loss would compare
            other samples than before.
    """
    overrides = overrides or {}
    _refuse_other_ranks(spec, world_size)
    share = _share(spec, world_size)
    wanted = _wanted_micro_size(spec, overrides, earlier, share=share)
    _refuse_uneven(spec, overrides, earlier, wanted=wanted, world_size=world_size)
    compared = _compared(spec, overrides, earlier, forward=wanted * world_size)
    kind = compares(spec)
    if kind == "nothing":
        micro_size = _unrelated_samples(spec, wanted=wanted, share=share, world_size=world_size)
        return BatchSplit(micro_size, share // micro_size, compared=micro_size * world_size)
    if kind == "pairs":
        fitting = (s for s in _divisors(share) if s <= wanted and compared % (s * world_size) == 0)
        micro_size = next(fitting, 0)
        if micro_size == 0:
            raise UnusableSpecError(
                f"{compared} samples were contrasted with each other, which do not split over {world_size} devices"
            )
        return BatchSplit(micro_size, share // micro_size, compared, cached=compared // (micro_size * world_size))
    return _keeping_the_comparison(spec, kind, compared, overrides, earlier, share=share, world_size=world_size)


def _refuse_other_ranks(spec: JobSpec, world_size: int) -> None:
    devices, fewest = spec.parallel.devices, spec.scheduling.min_devices
    if devices == "auto":
        return
    asked = devices * spec.parallel.nodes
    if world_size != asked and (fewest is None or not fewest <= world_size <= asked):
        least = "" if fewest is None else f", and are fewer than scheduling.min_devices {fewest} or more than asked for"
        raise UnusableSpecError(
            f"parallel.devices {devices} x parallel.nodes {spec.parallel.nodes} do not match the {world_size} ranks "
            f"that were started{least}"
        )


def _share(spec: JobSpec, world_size: int) -> int:
    if problem := check_divides(spec.batch.global_size, "auto", world_size):
        raise UnusableSpecError(problem.message)
    return spec.batch.global_size // world_size


def _wanted_micro_size(spec: JobSpec, overrides: Mapping[str, Any], earlier: EarlierSplit | None, *, share: int) -> int:
    if overrides.get("micro_size"):
        return min(int(overrides["micro_size"]), share)
    if spec.batch.micro_size != "auto":
        return spec.batch.micro_size
    return min(earlier.micro_size, share) if earlier else share


def _refuse_uneven(
    spec: JobSpec, overrides: Mapping[str, Any], earlier: EarlierSplit | None, *, wanted: int, world_size: int
) -> None:
    """A fixed micro-batch must divide on the ranks that were asked for; on others it may become smaller."""
    if spec.batch.micro_size == "auto" or overrides.get("micro_size"):
        return
    as_asked = spec.parallel.devices == "auto" or spec.parallel.devices * spec.parallel.nodes == world_size
    elsewhere = earlier is not None and earlier.world_size != world_size
    if not as_asked or elsewhere:
        return
    if problem := check_divides(spec.batch.global_size, wanted, world_size) or check_pairs(spec, world_size):
        raise UnusableSpecError(problem.message)


def _compared(spec: JobSpec, overrides: Mapping[str, Any], earlier: EarlierSplit | None, *, forward: int) -> int:
    """Samples of all ranks that one loss looks at, by the spec or else by what was done so far."""
    if getattr(spec.objective, "feature_cache", False) or overrides.get("feature_cache"):
        return spec.batch.global_size
    if earlier is not None:
        return earlier.compared
    if spec.batch.micro_size == "auto":
        return spec.batch.global_size
    if spec.parallel.devices != "auto":
        return spec.batch.micro_size * spec.parallel.devices * spec.parallel.nodes
    return forward


def _keeping_the_comparison(
    spec: JobSpec,
    kind: Compares,
    compared: int,
    overrides: Mapping[str, Any],
    earlier: EarlierSplit | None,
    *,
    share: int,
    world_size: int,
) -> BatchSplit:
    """A loss that caches no features needs forward passes, or micro-batches, as large as they were."""
    micro_size = compared // world_size
    if kind == "micro_batch":
        asked = None if spec.parallel.devices == "auto" else spec.parallel.devices * spec.parallel.nodes
        micro_size = earlier.micro_size if earlier else compared // (asked or world_size)
    possible = micro_size > 0 and share % micro_size == 0
    possible &= kind == "micro_batch" or micro_size * world_size == compared
    override = overrides.get("micro_size", micro_size)
    if not possible or override != micro_size:
        what = "its own micro-batch" if kind == "micro_batch" else "one forward pass of all devices"
        size = micro_size if kind == "micro_batch" else compared
        raise UnusableSpecError(
            f"the loss {getattr(spec.objective, 'loss', spec.objective.name)!r} compares the samples of {what}, "
            f"{size} so far, and its features cannot be cached: "
            f"{override} samples on each of {world_size} devices would train something else"
        )
    return BatchSplit(micro_size, share // micro_size, compared=micro_size * world_size)


def _unrelated_samples(spec: JobSpec, *, wanted: int, share: int, world_size: int) -> int:
    """The largest micro-batch up to `wanted` that divides, even where images are mixed in pairs."""
    augmentation = spec.data.augmentation
    unit = 1 if augmentation.mixup == augmentation.cutmix == 0 else 2
    fitting = (size for size in _divisors(share) if size <= wanted and size % unit == 0)
    if micro_size := next(fitting, 0):
        return micro_size
    problem = check_pairs(spec, world_size)
    detail = problem.message if problem else f"no even micro-batch of at most {wanted} divides the {share} of a device"
    raise UnusableSpecError(detail)


def _divisors(number: int) -> list[int]:
    """Largest first."""
    return [size for size in range(number, 0, -1) if number % size == 0]
