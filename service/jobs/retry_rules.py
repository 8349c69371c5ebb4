"""What follows an attempt that did not get to its end, as data: a rule says which attempts it is for and what to do.

The first rule that fits decides; those from `ATTUNE_RETRY_RULES` go before the defaults. A rule fits if everything fits
that it asks for: the end reason, a pattern in what the attempt said last, the exit code of a worker.

Rules count how often they were needed in a row without the job getting any further, each for itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from service.store.records import EndReason

Action = Literal["fail", "retry", "retry_elsewhere", "halve_micro_batch"]
"""`fail`: the job ends. `retry`: another attempt, on the same devices unless it has to wait. `retry_elsewhere`: the job
is queued again, so that it gets other devices, perhaps fewer. `halve_micro_batch`: another attempt with half as many
samples a device and forward pass; the job fails where that is not possible."""


@dataclass(frozen=True)
class Ending:
    """What is known of an attempt that ended."""

    reason: EndReason
    text: str
    """The worker's message and the end of its log."""
    exit_code: int | None = None
    """Of the worker that failed first, as far as its launcher told; negative for a signal."""


class RetryRule(BaseModel):
    """A kind of end and what to do about it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    """What `retries` counts it by."""
    reasons: tuple[EndReason, ...] = ()
    """End reasons that it is for; empty: any."""
    pattern: str | None = None
    """Regular expression to search for in the worker's message and the end of its log, line by line; None: any."""
    exit_codes: tuple[int, ...] = ()
    """Exit codes of a worker that it is for, negative for signals; empty: any."""
    action: Action
    """What to do."""
    max_in_row: Annotated[int, Field(ge=1)] | None = None
    """The job fails at this many in a row without progress; None: never."""
    backoff_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Seconds to wait before the first retry, without devices; 0: none."""
    backoff_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0
    """Each wait is so many times the one before."""
    max_backoff_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 600.0
    """Longest wait, in seconds."""
    advice: str = ""
    """A sentence that follows the error message when the job fails by this rule."""

    @field_validator("pattern")
    @classmethod
    def _must_compile(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _must_ask_for_something(self) -> Self:
        if not self.reasons and self.pattern is None and not self.exit_codes:
            raise ValueError(f"the rule {self.name!r} fits everything; give it reasons, a pattern or exit_codes")
        return self

    def fits(self, ending: Ending) -> bool:
        """Whether the rule is for such an end."""
        return (
            (not self.reasons or ending.reason in self.reasons)
            and (not self.exit_codes or ending.exit_code in self.exit_codes)
            and (self.pattern is None or re.search(self.pattern, ending.text, re.MULTILINE) is not None)
        )

    def wait_s(self, times: int) -> float:
        """Seconds to wait after the rule was needed `times` times in a row, 1 or more."""
        return min(self.max_backoff_s, self.backoff_s * self.backoff_factor ** min(times - 1, 64))


_DIED = (EndReason.CRASHED, EndReason.ERROR)

NO_MEMORY = (
    r"torch\.OutOfMemoryError|CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED"
    r"|DefaultCPUAllocator: (can't|not enough memory)|^\S*MemoryError\b|Cannot allocate memory|std::bad_alloc"
    r"|oom[-_]kill|OOM Killed|[Oo]ut of memory: Killed process|Memory cgroup out of memory"
    r"|Task was killed due to the node running low on memory|killed a process for lack of memory"
    r"|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|CUDNN_STATUS_ALLOC_FAILED|could not create a memory object"
)
BROKEN_DEVICE = (
    r"uncorrectable (NVLink|ECC) error|GPU has fallen off the bus|all CUDA-capable devices are busy or unavailable"
    r"|CUDA error: (unknown error|initialization error|system not yet initialized)|\bXid\b.*\b(48|63|74|79|94|95)\b"
)
BROKEN_NETWORK = (
    r"Watchdog caught collective operation timeout|ncclSystemError|ncclRemoteError|ncclInternalError"
    r"|NCCL (WARN|error|timeout)|DistStoreError|DistNetworkError|DistBackendError"
    r"|\[.*gloo.*\].*([Tt]imed out|[Tt]imeout|refused)"
    r"|client socket has (timed out|failed to connect)|EADDRINUSE|[Aa]ddress already in use"
)


def default_rules(*, max_crashes: int = 3) -> tuple[RetryRule, ...]:
    """The rules that hold without any settings.

    Args:
        max_crashes: attempts in a row that may die for no known reason.
    """
    return (
        RetryRule(
            name="out_of_memory",
            reasons=(EndReason.OUT_OF_MEMORY,),
            action="halve_micro_batch",
            advice="Set batch.micro_size lower, or use parallel.zero_stage 2 or 3, parallel.offload_optimizer or "
            "parallel.activation_checkpointing.",
        ),
        RetryRule(
            name="killed_for_memory",
            reasons=_DIED,
            pattern=NO_MEMORY,
            action="halve_micro_batch",
            advice="Set batch.micro_size lower, or give the job more memory.",
        ),
        RetryRule(
            name="unusable",
            reasons=(EndReason.BAD_SPEC, EndReason.BAD_DATA, EndReason.NON_FINITE_LOSS, EndReason.LAUNCH_FAILED),
            action="fail",
        ),
        RetryRule(
            name="disk_full",
            reasons=(EndReason.DISK_FULL,),
            action="retry_elsewhere",
            max_in_row=4,
            backoff_s=60.0,
            backoff_factor=4.0,
            max_backoff_s=960.0,
            advice="Make room, or keep fewer checkpoints by checkpoint.keep_latest and checkpoint.keep_best.",
        ),
        RetryRule(
            name="broken_device",
            reasons=_DIED,
            pattern=BROKEN_DEVICE,
            action="retry_elsewhere",
            max_in_row=5,
            backoff_s=10.0,
            max_backoff_s=300.0,
            advice="A device seems to be broken; see the machine's kernel log.",
        ),
        RetryRule(
            name="broken_network",
            reasons=_DIED,
            pattern=BROKEN_NETWORK,
            action="retry_elsewhere",
            max_in_row=5,
            backoff_s=5.0,
            max_backoff_s=300.0,
        ),
        RetryRule(
            name="machine_lost",
            reasons=(EndReason.NODE_LOST, EndReason.ENGINE_LOST),
            action="retry_elsewhere",
            max_in_row=20,
            backoff_s=1.0,
            max_backoff_s=120.0,
        ),
        RetryRule(name="preempted", reasons=(EndReason.PREEMPTED,), action="retry_elsewhere"),
        RetryRule(
            name="stalled",
            reasons=(EndReason.STALLED,),
            action="retry_elsewhere",
            max_in_row=3,
            backoff_s=5.0,
            advice="No step was made for too long: see worker.log, or raise scheduling.stall_timeout_s.",
        ),
        RetryRule(name="interrupted", reasons=(EndReason.INTERRUPTED,), action="retry", max_in_row=10),
        RetryRule(name="crashed", reasons=(EndReason.CRASHED,), action="retry", max_in_row=max_crashes),
    )


def find_rule(rules: Sequence[RetryRule], ending: Ending) -> RetryRule | None:
    """The first rule that fits, or None: then the job fails."""
    return next((rule for rule in rules if rule.fits(ending)), None)


class RetryRulesError(ValueError):
    """A file of retry rules cannot be used; the text names the file, the rule and the field."""


def read_rules(path: Path) -> tuple[RetryRule, ...]:
    """The rules in a YAML or JSON file, which holds a list of them.

    Raises:
        RetryRulesError: there is no such file, or something in it is wrong.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RetryRulesError(f"cannot read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise RetryRulesError(f"{path} is neither YAML nor JSON: {error}") from error
    try:
        rules = TypeAdapter(tuple[RetryRule, ...]).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        reason = first["msg"].removeprefix("Value error, ")
        raise RetryRulesError(f"{path}: {place}: {reason}, got {first['input']!r}") from error
    names = [rule.name for rule in rules]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise RetryRulesError(f"{path}: the name {repeated[0]!r} is given to several rules")
    return rules
